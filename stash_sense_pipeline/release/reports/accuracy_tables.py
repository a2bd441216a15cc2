"""The accuracy of a release as Markdown: thresholds and errors by group. No names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

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
from stash_sense_pipeline.release.reports.markdown import markdown_table

_HOW = """\
The sidecar answers with faces within a distance. This table says what that distance means in this release, by exact
search and the sidecar's own fusion of both indices. For known people, one photograph is left out: does it get the right
name, or another? For strangers, a person is left out with all faces: does a photograph get a name?

A cell is a share of people with its 95 % interval (Wilson). People are the units: one with several photographs counts
once, with the share of them, because photographs of one person are alike."""


def threshold_lines(thresholds: Thresholds) -> Iterator[str]:
    """The table of distances, its two parts by number of faces, and the recommended distance."""
    yield from _HOW.splitlines()
    yield ""
    rows = {(row.distance, row.faces): row for row in thresholds.rows}
    yield from markdown_table(
        ("distance", "known people found", "known people with another name", "strangers with a name"),
        [
            (f"{distance:.2f}", *map(_cell, (row.found, row.misnamed, row.strangers)))
            for distance, row in ((each, rows[each, ALL_PEOPLE]) for each in DISTANCES)
        ],
    )
    yield from ["", f"**{describe_recommendation(thresholds.recommended)}**", ""]
    aside = thresholds.aside
    yield (
        f"{thresholds.photographs} photographs were left out. {aside['split']} of them get the name of a suspected second"
        f" entry of the same person, and {aside['label']} that of a face with a suspected wrong label. These are errors of"
        " the data and not of the model: they count as neither right nor wrong."
    )
    yield from [
        "",
        "Known people found, by number of faces of the person in the release. One of them is left out:",
        "",
    ]
    yield from _by_faces(rows, lambda row: row.found)
    yield from ["", "Strangers with a name, by number of faces of the person, all left out:", ""]
    yield from _by_faces(rows, lambda row: row.strangers)


def _by_faces(
    rows: dict[tuple[float, str], ThresholdRow], share_of: Callable[[ThresholdRow], Share | None]
) -> list[str]:
    names = [bucket_name(fewest, most) for fewest, most in FACE_BUCKETS]
    people = [share_of(rows[DISTANCES[0], name]) for name in names]
    counted = [
        f"{name} ({share.people if share else 0} people)" for name, share in zip(names, people, strict=True)
    ]
    return markdown_table(
        ("distance", *counted),
        [
            (f"{distance:.2f}", *(_cell(share_of(rows[distance, name])) for name in names))
            for distance in DISTANCES
        ],
    )


def group_lines(groups: Sequence[GroupErrors]) -> Iterator[str]:
    """The errors by group. A small group is listed with its size and without a rate."""
    yield (
        f"At the sidecar's distance of {SIDECAR_MAX_DISTANCE}. The first three shares are errors of the model: known people,"
        " with one photograph left out, that get another name or none, and strangers that get a name. A suspected split"
        " is a person who stands in the release twice, by names and faces. A suspected label error is a face that looks like"
        " another person and not like its own. Both are errors of the data: their photographs are not in the shares, and"
        " the last two columns give the people that they affect."
    )
    yield ""
    yield (
        f"Groups of fewer than {SMALLEST_GROUP} people are small: they have no rate. The fields are those of the sources."
    )
    yield ""
    yield from markdown_table(
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
