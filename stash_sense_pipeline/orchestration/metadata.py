"""Metadata of materializations: numbers, column schemas, previews, one-line failures.

Erasing a person does not reach the run history. So no name, alias or profile URL of a person goes into metadata.
"""

from __future__ import annotations

import dataclasses
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from stash_sense_pipeline.foundation.errors import CIRCUIT_OPEN, Outcome, SourceError, StashSenseError
from stash_sense_pipeline.foundation.files import read_only_sqlite
from stash_sense_pipeline.foundation.tables.markdown_writer import markdown_lines
from stash_sense_pipeline.foundation.tables.table import table_of
from stash_sense_pipeline.orchestration.table_metadata import table_metadata
from stash_sense_pipeline.sources.health.next_step import next_step

if TYPE_CHECKING:
    import sqlalchemy as sa

    from stash_sense_pipeline.identity.face_matching.calibration import Calibration
    from stash_sense_pipeline.identity.linkage.learned_weights import LearnedWeights
    from stash_sense_pipeline.sources.reference_sites.enrichment.field_counts import FieldDrift


def column_schema(table: sa.Table) -> dg.TableSchema:
    """The columns of a catalog table, for the UI's Columns card: the comment of each, or why it is stored."""
    from stash_sense_pipeline.privacy.data_inventory import PURPOSES

    purposes = PURPOSES[table.name]
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=str(column.type),
                description=column.comment or purposes[column.name].why,
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


def file_columns(database: Path, table: str, descriptions: Mapping[str, str]) -> dg.TableSchema:
    """The columns of a table in a SQLite file. `descriptions`: of each column."""
    with closing(sqlite3.connect(read_only_sqlite(database), uri=True)) as connection:
        found = connection.execute(
            'SELECT name, type, "notnull" FROM pragma_table_info(?)', (table,)
        ).fetchall()
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=name,
                type=kind,
                description=descriptions[name],
                constraints=dg.TableColumnConstraints(nullable=not notnull),
            )
            for name, kind, notnull in found
        ]
    )


def preview(rows: Sequence[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """A few rows as a table. The caller chooses columns that identify no person."""
    columns = list(rows[0]) if rows else []
    return table_metadata(table_of(columns, (tuple(row.values()) for row in rows)))


def review_preview(
    counts: Mapping[str, int], title: str = "to review", file: str = "review/identity.md"
) -> dg.MarkdownMetadataValue:
    """The number of cases of each kind, and the file that lists them. The records themselves are only in that file."""
    lines = markdown_lines(table_of((title, "number"), counts.items()))
    return dg.MetadataValue.md("\n".join([*lines, "", f"Details: `{file}` in the data directory."]))


def thresholds(calibration: Calibration) -> dg.MarkdownMetadataValue:
    """The face thresholds of a run with their calibration, or the reason why faces gave no evidence."""
    if not calibration.thresholds:
        return dg.MetadataValue.md(f"no face links: {calibration.reason}")
    grounds = calibration.grounds
    lines = [
        f"calibrated on {calibration.positives} pairs of one person and {calibration.negatives} of two people",
        "",
        *markdown_lines(
            table_of(
                ("model", "match threshold", "recall"),
                [(row.model, row.match_threshold, row.recall) for row in calibration.thresholds],
                {"match threshold": ".3f", "recall": ".1%"},
            )
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
        *markdown_lines(weight_chart(learned.table)),
        "",
        f"name and birth date together prove at most {learned.weights.name_and_birth_date_most:.2f}",
    ]
    if names is not None:
        lines.append(f"; {len(names.common)} words are common in names")
    return dg.MetadataValue.md("\n".join(lines))


def source_failure(source: str, outcome: Outcome, message: str | None) -> dg.Failure:
    """The failure of a step for a source without a usable answer. Dagster does not retry it: the client has done so.

    The text says what the operator can do. Raise it at once: it hides the traceback, see `one_line_failures`.
    """
    text = message or f"{source}: no usable answer ({outcome.value})"
    step = next_step(source, outcome, text)
    breaker = {"breaker": "open"} if CIRCUIT_OPEN in text else {}
    return _without_traceback(
        f"{text}; {step}" if step else text, {"source": source, "outcome": outcome.value, **breaker}
    )


@contextmanager
def one_line_failures() -> Iterator[None]:
    """Turns a StashSenseError into a failed step with its one line as message. Dagster does not retry it.

    The UI shows the line alone. Dagster stores the traceback of every failure and of its causes, and would show them
    below the line. So the failure has no cause, and the interpreter extracts no traceback until the next step begins.
    """
    vars(sys).pop("tracebacklimit", None)
    try:
        yield
    except SourceError as error:
        raise source_failure(error.source, error.outcome, str(error)) from None
    except StashSenseError as error:
        raise _without_traceback(str(error), {}) from None


def _without_traceback(text: str, metadata: Mapping[str, str]) -> dg.Failure:
    sys.tracebacklimit = 0
    return dg.Failure(text, metadata=metadata, allow_retries=False)


def numbers(report: Any) -> dict[str, Any]:
    """The numeric fields of a report (a dataclass) as metadata, rounded; Dagster plots each.

    A mapping of counts becomes one JSON value, and its sum `<field>_total`, because Dagster plots only numbers.
    """
    metadata: dict[str, Any] = {}
    for field in dataclasses.fields(report):
        value = getattr(report, field.name)
        if isinstance(value, float):
            metadata[field.name] = rounded(value)
        elif isinstance(value, int):
            metadata[field.name] = value
        elif isinstance(value, Mapping):
            metadata[field.name] = dg.MetadataValue.json({str(key): value[key] for key in sorted(value)})
            if all(isinstance(count, int) for count in value.values()):
                metadata[f"{field.name}_total"] = sum(value.values())
    return metadata


def field_drift_check(source: str, drifts: Sequence[FieldDrift]) -> dg.AssetCheckResult:
    """Fails while the pages of a site have a field far less often than usual; `drifts` holds these fields."""
    rows = [
        (
            drift.page_type,
            drift.field,
            f"{drift.found} of {drift.pages}",
            f"{drift.was_found} of {drift.was_pages}",
        )
        for drift in drifts
    ]
    table = table_metadata(table_of(("page", "field", "found", "usually"), rows))
    return dg.AssetCheckResult(
        check_name="no_field_drift",
        passed=not drifts,
        description="; ".join(f"{source}: {drift}" for drift in drifts) or None,
        metadata={"source": source, "fields": len(drifts), "numbers": table},
    )


def found_shares(counts: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """The share of pages with each field, as metadata that Dagster plots: `found/profile/links` → 0.87."""
    return {
        f"found/{kind}/{name}": round(found / counted["pages"], 3)
        for kind, counted in counts.items()
        for name, found in counted.items()
        if name != "pages" and counted["pages"]
    }


def rounded(value: float) -> float:
    """A number as people read it: four significant digits, and seconds to the tenth; a large one is whole."""
    if abs(value) >= 1000:
        return float(round(value))
    return round(value, 1) if abs(value) >= 10 else float(f"{value:.4g}")


def image_refusal_check(source: str, refused: Mapping[str, int]) -> dg.AssetCheckResult:
    """Fails while the last run of the source refused too many images; `refused` holds its numbers, else nothing."""
    return dg.AssetCheckResult(
        check_name="no_mass_image_loss", passed=not refused, metadata={"source": source, **refused}
    )
