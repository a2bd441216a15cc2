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
from stash_sense_pipeline.sources.health.next_step import next_step

if TYPE_CHECKING:
    import sqlalchemy as sa

    from stash_sense_pipeline.identity.face_matching.face_agreement import Calibration
    from stash_sense_pipeline.settings.effective import EffectiveSetting


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


def with_settings(asset: dg.AssetsDefinition, settings: Sequence[EffectiveSetting]) -> dg.AssetsDefinition:
    """The asset with the effective settings in its metadata, which the UI shows on its page."""
    table = preview([vars(setting) for setting in settings])
    (found,) = dg.map_asset_specs(lambda spec: spec.merge_attributes(metadata={"settings": table}), [asset])
    return found


def review_preview(counts: Mapping[str, int]) -> dg.MarkdownMetadataValue:
    """The number of cases to review, and the file that lists them. The records themselves are only in that file."""
    lines = ["| to review | |", "|---|---|", *(f"| {name} | {count} |" for name, count in counts.items())]
    return dg.MetadataValue.md(
        "\n".join([*lines, "", "Details: `review/identity.md` in the data directory."])
    )


def thresholds(calibration: Calibration) -> dg.MarkdownMetadataValue:
    """The face thresholds of a run with their calibration, or the reason why faces gave no evidence."""
    if not calibration.thresholds:
        return dg.MetadataValue.md(f"no face links: {calibration.reason}")
    lines = [
        f"calibrated on {calibration.positives} pairs of one person and {calibration.negatives} of two people",
        "",
        "| model | match threshold | precision | recall |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row.model} | {row.match_threshold:.3f} | {row.precision:.5f} | {row.recall:.1%} |"
        for row in calibration.thresholds
    ]
    return dg.MetadataValue.md("\n".join(lines))


def source_failure(source: str, outcome: Outcome, message: str | None) -> dg.Failure:
    """The failure of a step whose source gave no usable answer. Dagster does not retry it: the client has done so.

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
