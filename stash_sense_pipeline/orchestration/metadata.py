"""Metadata of materializations: numbers, column schemas, previews, one-line failures.

Erasing a person does not reach the run history. So no name, alias or profile URL of a person goes into metadata.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from stash_sense_pipeline.foundation.errors import CIRCUIT_OPEN, Outcome, SourceError, StashSenseError
from stash_sense_pipeline.foundation.files import read_only_sqlite

if TYPE_CHECKING:
    import sqlalchemy as sa

    from stash_sense_pipeline.identity.face_matching.calibration import Calibration
    from stash_sense_pipeline.identity.linkage.learned_weights import LearnedWeights
    from stash_sense_pipeline.sources.reference_sites.enrichment.field_counts import FieldDrift


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
    """The columns of a file that is not a table of the catalog, from name → (type, description)."""
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
    """A few rows as a Markdown table. The caller chooses columns that identify no person."""
    if not rows:
        return dg.MetadataValue.md("(empty)")
    header = list(rows[0])
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += [
        "| " + " | ".join("" if row[name] is None else str(row[name]) for name in header) + " |"
        for row in rows
    ]
    return dg.MetadataValue.md("\n".join(lines))


def review_preview(
    counts: Mapping[str, int], title: str = "to review", file: str = "review/identity.md"
) -> dg.MarkdownMetadataValue:
    """The number of cases of each kind, and the file that lists them. The records themselves are only in that file."""
    lines = [f"| {title} | |", "|---|---|", *(f"| {name} | {count} |" for name, count in counts.items())]
    return dg.MetadataValue.md("\n".join([*lines, "", f"Details: `{file}` in the data directory."]))


def thresholds(calibration: Calibration) -> dg.MarkdownMetadataValue:
    """The face thresholds of a run with their calibration, or the reason why faces gave no evidence."""
    if not calibration.thresholds:
        return dg.MetadataValue.md(f"no face links: {calibration.reason}")
    grounds = calibration.grounds
    lines = [
        f"calibrated on {calibration.positives} pairs of one person and {calibration.negatives} of two people",
        "",
        "| model | match threshold | recall |",
        "|---|---|---|",
        *(
            f"| {row.model} | {row.match_threshold:.3f} | {row.recall:.1%} |"
            for row in calibration.thresholds
        ),
    ]
    if grounds is not None:
        lines += [
            "",
            f"Chosen as the lowest thresholds with a proven precision: {grounds.reached} certain pairs reach all of them"
            f" (recall {grounds.recall:.1%}), {grounds.false_matches:.3g} false matches are expected"
            f" (at most {grounds.false_matches_at_most:.3g}), precision {grounds.precision:.5f}"
            f" (at least {grounds.precision_at_least:.5f} with 95 % confidence).",
        ]
    return dg.MetadataValue.md("\n".join(lines))


def match_weights(learned: LearnedWeights) -> dg.MarkdownMetadataValue:
    """The chart of the match weights of a run, or how many pairs are missing to learn them."""
    if not learned.table:
        return dg.MetadataValue.md(
            f"the default weights: {learned.positives} pairs share two links or more, too few to learn from"
        )
    from stash_sense_pipeline.identity.linkage.weight_chart import weight_chart

    names = learned.weights.names
    lines = [
        f"learned from {learned.positives} pairs that share two links or more and {learned.negatives} random pairs within"
        " one stash-box",
        "",
        *weight_chart(learned.table),
        "",
        f"name and birth date together prove at most {learned.weights.name_and_birth_date_most:.2f}",
    ]
    if names is not None:
        lines.append(f"; {len(names.common)} words are common in names")
    return dg.MetadataValue.md("\n".join(lines))


def source_failure(source: str, outcome: Outcome, message: str | None) -> dg.Failure:
    """The failure of a step for a source without a usable answer. Dagster does not retry it: the client has done so."""
    breaker = {"breaker": "open"} if CIRCUIT_OPEN in (message or "") else {}
    return dg.Failure(
        message or f"{source}: no usable answer ({outcome.value})",
        metadata={"source": source, "outcome": outcome.value, **breaker},
        allow_retries=False,
    )


@contextmanager
def one_line_failures() -> Iterator[None]:
    """Turns a StashSenseError into a failed step with its one line as message. Dagster does not retry it."""
    try:
        yield
    except SourceError as error:
        raise source_failure(error.source, error.outcome, str(error)) from error
    except StashSenseError as error:
        raise dg.Failure(str(error), allow_retries=False) from error


def numbers(report: Any) -> dict[str, Any]:
    """The numeric fields of a report (a dataclass) as metadata; Dagster plots each. Floats are rounded to 3 digits.

    A mapping of counts becomes one JSON value, and its sum `<field>_total`, because Dagster plots only numbers.
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


def field_drift_check(drifts: Mapping[str, Sequence[FieldDrift]]) -> dg.AssetCheckResult:
    """Fails while a site's pages have a field far less often than usual; `drifts` holds those of each such site.

    One result covers all sites: Dagster shows only the last result of a check, and the next site would hide it.
    """
    lines = ["| site | page | field | found | usually |", "|---|---|---|---|---|"]
    lines += [
        f"| {source} | {drift.page_type} | {drift.field} | {drift.found} of {drift.pages}"
        f" | {drift.was_found} of {drift.was_pages} |"
        for source, found in sorted(drifts.items())
        for drift in found
    ]
    said = [f"{source}: {drift}" for source, found in sorted(drifts.items()) for drift in found]
    return dg.AssetCheckResult(
        check_name="no_field_drift",
        passed=not drifts,
        description="; ".join(said) or None,
        metadata={
            "sources": ", ".join(sorted(drifts)),
            "fields": sum(len(found) for found in drifts.values()),
            "numbers": dg.MetadataValue.md("\n".join(lines)),
        },
    )


def found_shares(counts: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """The share of pages with each field, as metadata that Dagster plots: `found/profile/links` → 0.87."""
    return {
        f"found/{kind}/{name}": round(found / counted["pages"], 3)
        for kind, counted in counts.items()
        for name, found in counted.items()
        if name != "pages" and counted["pages"]
    }


def image_refusal_check(refused: Mapping[str, Mapping[str, int]]) -> dg.AssetCheckResult:
    """Fails while the last run of any source refused too many images; `refused` holds the counts of each such source.

    One result covers all sources: Dagster shows only the last result of a check, and the next source would hide it.
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
