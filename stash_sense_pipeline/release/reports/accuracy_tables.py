"""The accuracy of a release as blocks of a report: thresholds and errors by group. No names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stash_sense_pipeline.foundation.tables.table import Table, table_of
from stash_sense_pipeline.release.checks.accuracy.group_errors import SMALLEST_GROUP, GroupErrors
from stash_sense_pipeline.release.checks.accuracy.shares import Share
from stash_sense_pipeline.release.checks.accuracy.thresholds import (
    ALL_PEOPLE,
    DISTANCES,
    FACE_BUCKETS,
    ThresholdRow,
    Thresholds,
    bucket_name,
    describe_recommendation,
)
from stash_sense_pipeline.release.contract import SIDECAR_MAX_DISTANCE
from stash_sense_pipeline.release.reports.document import Block, TableBlock, Text

_HOW = """\
The sidecar answers with faces within a distance. This table says what that distance means in this release, by exact
search and the sidecar's own fusion of both indices. For known people, one photograph is left out: does it get the right
name, or another? For strangers, a person is left out with all faces: does a photograph get a name?"""
_CELLS = """\
A cell is a share of people with its 95 % interval (Wilson). People are the units: one with several photographs counts
once, with the share of them, because photographs of one person are alike."""
_DISTANCE = {"distance": ".2f"}
_Rows = dict[tuple[float, str], ThresholdRow]


def threshold_blocks(thresholds: Thresholds) -> list[Block]:
    """The table of distances, its two parts by number of faces, and the recommended distance."""
    rows = {(row.distance, row.faces): row for row in thresholds.rows}
    aside = thresholds.aside
    return [
        Text(_HOW),
        Text(_CELLS),
        TableBlock("What a threshold means", threshold_table(thresholds)),
        Text(describe_recommendation(thresholds.recommended), strong=True),
        Text(
            f"{thresholds.photographs} photographs were left out. {aside['split']} of them get the name of a suspected"
            f" second entry of the same person, and {aside['label']} that of a face with a suspected wrong label. These are"
            " errors of the data and not of the model: they count as neither right nor wrong."
        ),
        Text("Known people found, by number of faces of the person in the release. One of them is left out:"),
        TableBlock("Known people found, by number of faces", _by_faces(rows, lambda row: row.found)),
        Text("Strangers with a name, by number of faces of the person, all left out:"),
        TableBlock("Strangers with a name, by number of faces", _by_faces(rows, lambda row: row.strangers)),
    ]


def threshold_table(thresholds: Thresholds) -> Table:
    """What each distance means for all people."""
    rows = {(row.distance, row.faces): row for row in thresholds.rows}
    return table_of(
        ("distance", "known people found", "known people with another name", "strangers with a name"),
        [
            (distance, *map(_cell, (row.found, row.misnamed, row.strangers)))
            for distance, row in ((each, rows[each, ALL_PEOPLE]) for each in DISTANCES)
        ],
        _DISTANCE,
    )


def _by_faces(rows: _Rows, share_of: Callable[[ThresholdRow], Share | None]) -> Table:
    names = [bucket_name(fewest, most) for fewest, most in FACE_BUCKETS]
    people = [share_of(rows[DISTANCES[0], name]) for name in names]
    counted = [
        f"{name} ({share.people if share else 0} people)" for name, share in zip(names, people, strict=True)
    ]
    return table_of(
        ("distance", *counted),
        [(distance, *(_cell(share_of(rows[distance, name])) for name in names)) for distance in DISTANCES],
        _DISTANCE,
    )


def group_blocks(groups: Sequence[GroupErrors]) -> list[Block]:
    """The errors by group, and what they mean."""
    return [
        Text(
            f"At the sidecar's distance of {SIDECAR_MAX_DISTANCE}. The first three shares are errors of the model: known"
            " people, with one photograph left out, that get another name or none, and strangers that get a name. A"
            " suspected split is a person who stands in the release twice, by names and faces. A suspected label error is a"
            " face that looks like another person and not like its own. Both are errors of the data: their photographs are"
            " not in the shares, and the last two columns give the people that they affect."
        ),
        Text(
            f"Groups of fewer than {SMALLEST_GROUP} people are small: they have no rate. The fields are those of the"
            " sources."
        ),
        TableBlock("Errors by group", group_table(groups)),
    ]


def group_table(groups: Sequence[GroupErrors]) -> Table:
    """The errors by group. A small group is listed with its size and without a rate."""
    return table_of(
        (
            "group",
            "people",
            "model errors: another name",
            "model errors: not found",
            "model errors: strangers named",
            "suspected splits",
            "suspected label errors",
        ),
        [
            (each.group, each.people, f"small (fewer than {SMALLEST_GROUP}), no rate", *["-"] * 4)
            if each.small
            else (
                each.group,
                each.people,
                *(_cell(share, "too few") for share in (each.misnamed, each.missed, each.strangers)),
                each.splits,
                each.labels,
            )
            for each in groups
        ],
    )


def _cell(share: Share | None, without: str = "-") -> str:
    return str(share) if share is not None else without
