"""The sections of the quality report as blocks, with or without the names of people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stash_sense_pipeline.foundation.tables.table import Table, table_of
from stash_sense_pipeline.release.checks.accuracy.confusable_people import BINS
from stash_sense_pipeline.release.checks.check_result import CheckResult
from stash_sense_pipeline.release.checks.quality_gate import Figures
from stash_sense_pipeline.release.checks.tattoos.tattoo_checks import WORTH
from stash_sense_pipeline.release.reports.accuracy_tables import threshold_blocks
from stash_sense_pipeline.release.reports.document import Block, Heading, Picture, TableBlock, Text
from stash_sense_pipeline.release.reports.plots import FACES_PLOT, SIMILARITY_PLOT
from stash_sense_pipeline.release.reports.shown_people import shown_people_blocks

_WORTH_OF_TATTOOS = "What the tattoo signal is worth"
# Rows of suspects in the run history.
_MOST_SUSPECTS = 20


def check_blocks(checks: Sequence[CheckResult]) -> list[Block]:
    """The results of the checks."""
    rows = [(check.label, "ok" if check.passed else "failed", check.detail) for check in checks]
    return [Heading(2, "Checks"), TableBlock("Checks", table_of(("check", "result", "finding"), rows))]


def tattoo_blocks(checks: Sequence[CheckResult]) -> list[Block]:
    """What the tattoo signal is worth, from its check; empty for a release without tattoos."""
    check = next((each for each in checks if each.name == WORTH and each.table), None)
    if check is None:
        return []
    columns = tuple(check.table[0])
    table = table_of(columns, [tuple(row[column] for column in columns) for row in check.table])
    return _section(_WORTH_OF_TATTOOS, table, check.detail)


def figure_blocks(figures: Figures, names: Mapping[int, str], *, plots: bool) -> list[Block]:
    """The numbers of a release. `names` are those of its people by id; without names, people are given by id."""
    pictures: tuple[list[Block], list[Block]] = (
        [Picture(FACES_PLOT, "Faces of people and of sources")] if plots else [],
        [Picture(SIMILARITY_PLOT, "Similarities of genuine and impostor pairs")] if plots else [],
    )
    return [
        *_section(
            "People by number of faces", table_of(("faces", "people"), figures.people_by_faces.items())
        ),
        *_section("Faces by source", table_of(("source", "faces"), figures.faces_by_source.items())),
        *pictures[0],
        *_section("Recall of the indices, against exact search", _recall_table(figures)),
        *_section(
            "Answers through the indices, against exact search",
            _fidelity_table(figures),
            f"The sidecar answers as by exact search to {figures.fidelity.share:.2%} of the probes.",
        ),
        *_section("Held-out retrieval, by number of faces of the performer", _held_out_table(figures)),
        Heading(2, "What a threshold means"),
        *threshold_blocks(figures.accuracy.thresholds),
        *_section("Similarity of two faces (cosine)", _similarity_table(figures)),
        *pictures[1],
        *shown_people_blocks(figures.shown),
        *_confusable_blocks(figures, names),
    ]


def _section(title: str, table: Table, *words: str) -> list[Block]:
    return [Heading(2, title), *map(Text, words), TableBlock(title, table)]


def _recall_table(figures: Figures) -> Table:
    columns = (
        "index",
        "at 1",
        f"at {figures.recall[0].k}",
        "of these within the sidecar's distance",
        "queries",
    )
    rows = [(each.model, each.at_1, each.at_k, each.in_reach, each.queries) for each in figures.recall]
    return table_of(columns, rows, dict.fromkeys(columns[1:4], ".4f"))


def _fidelity_table(figures: Figures) -> Table:
    rows = [(str(probe), figures.fidelity.probes, share) for probe, share in figures.fidelity.shares.items()]
    return table_of(("probe", "probes", "equal answers"), rows, {"equal answers": ".4f"})


def _held_out_table(figures: Figures) -> Table:
    columns = ("faces", "queries", "rank 1", "and within the sidecar's distance")
    rows = [(each.name, each.queries, each.rank_1, each.accepted) for each in figures.held_out]
    return table_of(columns, rows, dict.fromkeys(columns[2:], ".3f"))


def _similarity_table(figures: Figures) -> Table:
    columns = ("model", "pairs", "5 %", "median", "95 %")
    rows = [
        (model, kind, *(_quantile(counts, share) for share in (0.05, 0.5, 0.95)))
        for model, pairs_of in figures.similarities.items()
        for kind, counts in (("of one person", pairs_of.genuine), ("of two people", pairs_of.impostor))
        if sum(counts)
    ]
    return table_of(columns, rows, dict.fromkeys(columns[2:], ".2f"))


def _confusable_blocks(figures: Figures, names: Mapping[int, str]) -> list[Block]:
    def person(performer_id: int) -> str | int:
        return f"{names[performer_id]} ({performer_id})" if performer_id in names else performer_id

    confusable, suspected = figures.confusable, figures.accuracy.wrong
    pairs = [(person(pair.first), person(pair.second), pair.distance) for pair in confusable.pairs]
    splits = [(person(one), person(other)) for one, other in suspected.splits]
    labels = [(face, person(own), person(other)) for face, own, other in suspected.labels]
    hubs = [(hub.face_id, person(hub.performer_id), f"{hub.people} people") for hub in confusable.hubs]
    return [
        *_section(
            "Most confusable people",
            table_of(("one", "other", "distance"), pairs, {"distance": ".3f"}),
            "The sidecar's distance from a photograph of one person to the nearest face of the other.",
        ),
        *_suspects(
            "People who may stand in the release twice",
            "Their names agree, and the sidecar answers to a photograph of one with the other.",
            table_of(("one", "other"), splits),
            whole=bool(names),
        ),
        *_suspects(
            "Faces that may be another person's",
            "They are near most faces of the other person, and near no other face of their own.",
            table_of(("face", "of", "looks like"), labels),
            whole=bool(names),
        ),
        *_section(
            "Hubs: faces that are near many people",
            table_of(("face", "of", "near"), hubs),
            f"The sidecar answers with {confusable.faces_near_others} faces to photographs of other people.",
        ),
    ]


def _suspects(title: str, words: str, table: Table, *, whole: bool) -> list[Block]:
    """A section: with its whole table in the report with names, with the first rows in the one for the run history."""
    shown = table if whole else table.head(_MOST_SUSPECTS)
    left = len(table) - len(shown)
    return [*_section(title, shown, words), *([Text(f"And {left} more.")] if left else [])]


def _quantile(counts: Sequence[int], share: float) -> float:
    """The upper edge of the bin that reaches this share of the pairs."""
    running = np.cumsum(counts)
    return float(BINS[1:][np.searchsorted(running, share * running[-1])])
