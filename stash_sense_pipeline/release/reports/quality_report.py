"""The quality report: report.md, quality.md without names, checks.json.

The directory is not part of the release. report.md names people, so the directory is removed with its release.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.files import make_directory, write_atomically
from stash_sense_pipeline.foundation.json_file import SMALL, read_json
from stash_sense_pipeline.foundation.visible_text import visible
from stash_sense_pipeline.release.build.staging import disk_errors
from stash_sense_pipeline.release.checks.accuracy.confusable_people import BINS
from stash_sense_pipeline.release.checks.accuracy.measurement import Accuracy
from stash_sense_pipeline.release.checks.check_result import CheckResult, Severity
from stash_sense_pipeline.release.checks.quality_gate import Figures
from stash_sense_pipeline.release.contract import PERFORMERS_DB
from stash_sense_pipeline.release.reports.accuracy_tables import threshold_lines
from stash_sense_pipeline.release.reports.confusable_file import write_confusable
from stash_sense_pipeline.release.reports.markdown import markdown_table
from stash_sense_pipeline.release.reports.plots import FACES_PLOT, SIMILARITY_PLOT, draw_plots
from stash_sense_pipeline.release.reports.release_diff import ReleaseDiff, counted_diff, describe_diff

# The report with names, the report without names for the UI, and the results of the checks.
REPORT, QUALITY, CHECKS = "report.md", "quality.md", "checks.json"


# Rows of suspects in the run history.
_MOST_SUSPECTS = 20


@dataclass(frozen=True)
class ReportContent:
    """The content of a quality report. `figures` is None when they could not be computed, `diff` for a first release."""

    version: str
    checks: Sequence[CheckResult]
    figures: Figures | None
    diff: ReleaseDiff | None


def write_report(directory: Path, release: Path, content: ReportContent) -> None:
    """Writes report.md, its plots, quality.md and checks.json into `directory`. The same content gives the same bytes.

    The names in report.md come from `release`. Raises ReleaseError when it cannot be read or a file cannot be written.
    """
    checks, figures, diff = content.checks, content.figures, content.diff
    with disk_errors(f"write {directory}"):
        make_directory(directory)
        write_atomically(directory / CHECKS, json.dumps([asdict(check) for check in checks], indent=1))
        if figures is not None:
            draw_plots(figures, directory)
            write_confusable(directory, figures.accuracy)
        names = _names(release)
        lines = [f"# Release {content.version}", "", *_check_lines(checks)]
        if figures is not None:
            lines += _figure_lines(figures, names, plots=True)
        lines += ["", "# What changed", "", describe_diff(diff) if diff else "This is the first release.", ""]
        write_atomically(directory / REPORT, visible("\n".join(lines)))
        write_atomically(directory / QUALITY, nameless_report(figures, diff))


def read_checks(directory: Path) -> tuple[CheckResult, ...]:
    """The checks that write_report wrote. Empty when the file is missing, damaged or of another program."""
    try:
        rows = read_json(directory / CHECKS, SMALL)
        return tuple(_check_result(row) for row in rows)
    except (OSError, ValueError, TypeError, KeyError):
        return ()


def _check_result(row: dict[str, Any]) -> CheckResult:
    # Reports of earlier versions have no tables.
    table = tuple(row.get("table", ()))
    return CheckResult(**{**row, "severity": Severity(row["severity"]), "table": table})


def read_quality(directory: Path) -> str | None:
    """The report without names that write_report wrote, or None when there is none."""
    path = directory / QUALITY
    return path.read_text(encoding="utf-8") if path.is_file() else None


def nameless_report(figures: Figures | None, diff: ReleaseDiff | None) -> str:
    """The report as Markdown without names and URLs. It gives people and faces by their ids."""
    lines = _figure_lines(figures, {}, plots=False) if figures is not None else []
    lines += ["", "## What changed", "", counted_diff(diff) if diff else "This is the first release."]
    return "\n".join(lines).strip() + "\n"


def _check_lines(checks: Sequence[CheckResult]) -> list[str]:
    marks = {True: "ok", False: "failed"}
    rows = [(check.name, marks[check.passed], check.detail.replace("|", "/")) for check in checks]
    return ["## Checks", "", *markdown_table(("check", "result", "finding"), rows), ""]


def _figure_lines(figures: Figures, names: Mapping[int, str], *, plots: bool) -> list[str]:
    lines = ["## People by number of faces", ""]
    lines += markdown_table(("faces", "people"), figures.people_by_faces.items())
    lines += [
        "",
        "## Faces by source",
        "",
        *markdown_table(("source", "faces"), figures.faces_by_source.items()),
    ]
    if plots:
        lines += ["", f"![Faces of people and of sources]({FACES_PLOT})"]
    lines += ["", "## Recall of the indices, against exact search", ""]
    lines += markdown_table(
        (
            "index",
            "at 1",
            f"at {figures.recall[0].k}",
            "of these within the sidecar's distance",
            "queries",
        ),
        ((r.model, f"{r.at_1:.4f}", f"{r.at_k:.4f}", f"{r.in_reach:.4f}", r.queries) for r in figures.recall),
    )
    lines += ["", "## Held-out retrieval, by number of faces of the performer", ""]
    lines += markdown_table(
        ("faces", "queries", "rank 1", "and within the sidecar's distance"),
        ((b.name, b.queries, f"{b.rank_1:.3f}", f"{b.accepted:.3f}") for b in figures.held_out),
    )
    lines += ["", "## What a threshold means", "", *threshold_lines(figures.accuracy.thresholds)]
    lines += ["", "## Similarity of two faces (cosine)", ""]
    lines += markdown_table(
        ("model", "pairs", "5 %", "median", "95 %"),
        (
            (model, kind, *(f"{_quantile(counts, q):.2f}" for q in (0.05, 0.5, 0.95)))
            for model, pairs_of in figures.similarities.items()
            for kind, counts in (("of one person", pairs_of.genuine), ("of two people", pairs_of.impostor))
            if sum(counts)
        ),
    )
    if plots:
        lines += ["", f"![Similarities of genuine and impostor pairs]({SIMILARITY_PLOT})"]
    return lines + _confusable_lines(figures.accuracy, names)


def _confusable_lines(accuracy: Accuracy, names: Mapping[int, str]) -> list[str]:
    def person(performer_id: int) -> str:
        return f"{names[performer_id]} ({performer_id})" if performer_id in names else str(performer_id)

    confusable, suspected = accuracy.left_out.confusable, accuracy.wrong
    lines = [
        "",
        "## Most confusable people",
        "",
        "The sidecar's distance from a photograph of one person to the nearest face of the other.",
        "",
    ]
    lines += markdown_table(
        ("one", "other", "distance"),
        ((person(pair.first), person(pair.second), f"{pair.distance:.3f}") for pair in confusable.pairs),
    )
    lines += ["", "## People who may stand in the release twice", ""]
    lines += ["Their names agree, and the sidecar answers to a photograph of one with the other.", ""]
    lines += _shortened(
        ("one", "other"), [(person(one), person(other)) for one, other in suspected.splits], names
    )
    lines += ["", "## Faces that may be another person's", ""]
    lines += ["They are near most faces of the other person, and near no other face of their own.", ""]
    lines += _shortened(
        ("face", "of", "looks like"),
        [(face, person(own), person(other)) for face, own, other in suspected.labels],
        names,
    )
    lines += ["", "## Hubs: faces that are near many people", ""]
    lines += [
        f"The sidecar answers with {confusable.faces_near_others} faces to photographs of other people.",
        "",
    ]
    lines += markdown_table(
        ("face", "of", "near"),
        ((hub.face_id, person(hub.performer_id), f"{hub.people} people") for hub in confusable.hubs),
    )
    return lines


def _shortened(
    header: Sequence[str], rows: Sequence[Sequence[object]], names: Mapping[int, str]
) -> list[str]:
    """A table: whole in the report with names, and its first rows in the one for the run history."""
    shown = rows if names else rows[:_MOST_SUSPECTS]
    more = ["", f"And {len(rows) - len(shown)} more."] if len(shown) < len(rows) else []
    return [*markdown_table(header, shown), *more]


def _quantile(counts: Sequence[int], share: float) -> float:
    """The upper edge of the bin that reaches this share of the pairs."""
    running = np.cumsum(counts)
    return float(BINS[1:][np.searchsorted(running, share * running[-1])])


def _names(release: Path) -> dict[int, str]:
    path = (release / PERFORMERS_DB).resolve()
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            rows = connection.execute("SELECT id, canonical_name FROM performers")
            return {number: " ".join(name.replace("|", "/").split()) for number, name in rows}
    except sqlite3.Error as error:
        raise ReleaseError(f"cannot read {path}: {error}") from error
