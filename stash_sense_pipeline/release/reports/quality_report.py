"""The quality report: report.md and report.html, quality.md without names, checks.json.

The directory is not part of the release. Both reports name people, so the directory is removed with its release.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.files import make_directory, write_atomically
from stash_sense_pipeline.foundation.json_file import SMALL, read_json
from stash_sense_pipeline.foundation.tables.table import one_line
from stash_sense_pipeline.foundation.visible_text import visible
from stash_sense_pipeline.release.build.staging import disk_errors
from stash_sense_pipeline.release.checks.check_result import CheckResult, Severity
from stash_sense_pipeline.release.checks.quality_gate import Figures
from stash_sense_pipeline.release.contract import PERFORMERS_DB
from stash_sense_pipeline.release.reports.confusable_file import write_confusable
from stash_sense_pipeline.release.reports.document import Block, Heading, Picture, Text, markdown_document
from stash_sense_pipeline.release.reports.html_page import html_page
from stash_sense_pipeline.release.reports.plots import draw_plots
from stash_sense_pipeline.release.reports.release_diff import ReleaseDiff
from stash_sense_pipeline.release.reports.release_diff_tables import change_blocks, count_blocks
from stash_sense_pipeline.release.reports.report_sections import check_blocks, figure_blocks, tattoo_blocks

# The reports with names, the report without names for the UI, and the results of the checks.
REPORT, PAGE, QUALITY, CHECKS = "report.md", "report.html", "quality.md", "checks.json"
_FIRST = Text("This is the first release.")


@dataclass(frozen=True)
class ReportContent:
    """The content of a quality report. `figures` is None when they could not be computed, `diff` for a first release."""

    version: str
    checks: Sequence[CheckResult]
    figures: Figures | None
    diff: ReleaseDiff | None


def write_report(directory: Path, release: Path, content: ReportContent) -> None:
    """Writes report.md, report.html, their plots, quality.md and checks.json into `directory`.

    The same content gives the same bytes. The names come from `release`. Raises ReleaseError when it cannot be read or a
    file cannot be written.
    """
    checks, figures = content.checks, content.figures
    with disk_errors(f"write {directory}"):
        make_directory(directory)
        write_atomically(directory / CHECKS, json.dumps([asdict(check) for check in checks], indent=1))
        if figures is not None:
            draw_plots(figures, directory)
            write_confusable(directory, figures)
        blocks = _named_blocks(content, _names(release))
        write_atomically(directory / REPORT, visible(markdown_document(blocks)))
        pictures = {
            each.file: (directory / each.file).read_bytes() for each in blocks if isinstance(each, Picture)
        }
        write_atomically(directory / PAGE, html_page(f"Release {content.version}", blocks, pictures))
        write_atomically(directory / QUALITY, nameless_report(content))


def _named_blocks(content: ReportContent, names: dict[int, str]) -> list[Block]:
    figures, diff = content.figures, content.diff
    return [
        Heading(1, f"Release {content.version}"),
        *check_blocks(content.checks),
        *(figure_blocks(figures, names, plots=True) if figures is not None else []),
        *tattoo_blocks(content.checks),
        Heading(2, "What changed"),
        *(change_blocks(diff) if diff else [_FIRST]),
    ]


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


def nameless_report(content: ReportContent) -> str:
    """The report as Markdown without names and URLs. It gives people and faces by their ids."""
    figures, diff = content.figures, content.diff
    blocks = figure_blocks(figures, {}, plots=False) if figures is not None else []
    changes = count_blocks(diff) if diff else [_FIRST]
    return markdown_document([*blocks, *tattoo_blocks(content.checks), Heading(2, "What changed"), *changes])


def _names(release: Path) -> dict[int, str]:
    path = (release / PERFORMERS_DB).resolve()
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            rows = connection.execute("SELECT id, canonical_name FROM performers")
            return {number: one_line(name) for number, name in rows}
    except sqlite3.Error as error:
        raise ReleaseError(f"cannot read {path}: {error}") from error
