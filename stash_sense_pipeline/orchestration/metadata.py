"""Metadata of materializations: numbers, column schemas, previews, one-line failures.

Run history outlives the catalog and is outside its erasure, so no name, alias or profile URL of a person goes into it.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from stash_sense_pipeline.foundation.errors import LEFT_ALONE, Outcome, SourceError, StashSenseError
from stash_sense_pipeline.foundation.files import read_only_sqlite

if TYPE_CHECKING:
    import sqlalchemy as sa

    from stash_sense_pipeline.identity.face_matching.face_agreement import Calibration


# A night's refresh may come late, but not two of them.
STALE_AFTER = timedelta(hours=36)


def column_schema(table: sa.Table) -> dg.TableSchema:
    """The columns of a catalog table, with their comments, for the UI's Columns card."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=str(column.type),
                description=column.comment,
                constraints=dg.TableColumnConstraints(nullable=bool(column.nullable)),
            )
            for column in table.columns
        ]
    )


def described_columns(columns: Mapping[str, tuple[str, str]]) -> dg.TableSchema:
    """The columns of a file that is no table of the catalog: name → (type, description)."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(name=name, type=kind, description=text) for name, (kind, text) in columns.items()
        ]
    )


def file_columns(database: Path, table: str) -> dg.TableSchema:
    """The columns of a table in a SQLite file."""
    with closing(sqlite3.connect(read_only_sqlite(database), uri=True)) as connection:
        found = connection.execute(
            'SELECT name, type, "notnull" FROM pragma_table_info(?)', (table,)
        ).fetchall()
    return dg.TableSchema(
        columns=[
            dg.TableColumn(name=name, type=kind, constraints=dg.TableColumnConstraints(nullable=not notnull))
            for name, kind, notnull in found
        ]
    )


def preview(rows: Sequence[Mapping[str, Any]]) -> dg.MarkdownMetadataValue:
    """A few rows as a Markdown table; the caller chooses columns that say nothing about a person."""
    if not rows:
        return dg.MetadataValue.md("(empty)")
    header = list(rows[0])
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += [
        "| " + " | ".join("" if row[name] is None else str(row[name]) for name in header) + " |"
        for row in rows
    ]
    return dg.MetadataValue.md("\n".join(lines))


def review_preview(counts: Mapping[str, int]) -> dg.MarkdownMetadataValue:
    """How much there is to look at, and where: run history outlives an erasure, so the records are only in the file."""
    lines = ["| to look at | |", "|---|---|", *(f"| {name} | {count} |" for name, count in counts.items())]
    return dg.MetadataValue.md(
        "\n".join([*lines, "", "Details: `review/identity.md` in the data directory."])
    )


def thresholds(calibration: Calibration) -> dg.MarkdownMetadataValue:
    """The face thresholds of a run and what they rest on, or why faces said nothing."""
    if not calibration.thresholds:
        return dg.MetadataValue.md(f"no face links: {calibration.reason}")
    lines = [
        f"calibrated on {calibration.positives} pairs of one person and {calibration.negatives} of strangers",
        "",
        "| model | alike from | precision | finds |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row.model} | {row.match_threshold:.3f} | {row.precision:.5f} | {row.recall:.1%} |"
        for row in calibration.thresholds
    ]
    return dg.MetadataValue.md("\n".join(lines))


def source_failure(source: str, outcome: Outcome, message: str | None) -> dg.Failure:
    """The failure of a step whose source gave no usable answer. Dagster does not retry it: the client already has."""
    breaker = {"breaker": "open"} if LEFT_ALONE in (message or "") else {}
    return dg.Failure(
        message or f"{source}: no usable answer ({outcome.value})",
        metadata={"source": source, "outcome": outcome.value, **breaker},
        allow_retries=False,
    )


@contextmanager
def one_line_failures() -> Iterator[None]:
    """Turns an error of ours into a failed step with that one line, which Dagster does not retry."""
    try:
        yield
    except SourceError as error:
        raise source_failure(error.source, error.outcome, str(error)) from error
    except StashSenseError as error:
        raise dg.Failure(str(error), allow_retries=False) from error


def numbers(report: Any) -> dict[str, Any]:
    """The numeric fields of a report (a dataclass) as metadata, each with a history plot, fractions to a thousandth.

    A mapping of counts is one table, and its sum under `<field>_total`, because only numbers are plotted.
    """
    metadata: dict[str, Any] = {}
    for field in dataclasses.fields(report):
        value = getattr(report, field.name)
        if isinstance(value, float):
            metadata[field.name] = round(value, 3)
        elif isinstance(value, int):
            metadata[field.name] = value
        elif isinstance(value, Mapping):
            metadata[field.name] = dg.MetadataValue.json({str(key): value[key] for key in sorted(value)})
            if all(isinstance(count, int) for count in value.values()):
                metadata[f"{field.name}_total"] = sum(value.values())
    return metadata


def freshness_check(
    last_sync: Mapping[str, datetime | None], now: datetime, limit: timedelta
) -> dg.AssetCheckResult:
    """Warns when a source was last read longer ago than `limit`, or never. Dagster's own freshness knows no partitions."""
    ages = {source: None if at is None else now - at for source, at in last_sync.items()}
    stale = [source for source, age in ages.items() if age is None or age > limit]
    lines = ["| source | hours since last read | |", "|---|---|---|"]
    for source, age in ages.items():
        hours = "never" if age is None else f"{age.total_seconds() / 3600:.1f}"
        lines.append(f"| {source} | {hours} | {'stale' if source in stale else ''} |")
    return dg.AssetCheckResult(
        check_name="sources_fresh",
        passed=not stale,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "stale": len(stale),
            "limit_hours": limit.total_seconds() / 3600,
            "sources": dg.MetadataValue.md("\n".join(lines)),
        },
    )


def image_refusal_check(refused: Mapping[str, Mapping[str, int]]) -> dg.AssetCheckResult:
    """Fails while the last run of any source had too many images refused; `refused` has the numbers of each such source.

    Of all sources at once: Dagster shows the last result alone, and the next source's would hide it.
    """
    lines = ["| source | refused | asked for | allowed |", "|---|---|---|---|"]
    lines += [
        f"| {source} | {counts['refused']} | {counts['asked']} | {counts['allowed']} |"
        for source, counts in sorted(refused.items())
    ]
    return dg.AssetCheckResult(
        check_name="no_mass_image_loss",
        passed=not refused,
        metadata={
            "sources": ", ".join(sorted(refused)),
            "refused": sum(counts["refused"] for counts in refused.values()),
            "numbers": dg.MetadataValue.md("\n".join(lines)),
        },
    )
