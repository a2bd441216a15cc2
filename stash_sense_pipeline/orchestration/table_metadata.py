"""Writes a table as Dagster metadata, which the UI shows as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from stash_sense_pipeline.foundation.tables.table import Table, shown_cell

if TYPE_CHECKING:
    from stash_sense_pipeline.settings.effective import EffectiveSetting

# The UI stores a table with each event and shows it whole.
_MOST_ROWS = 500


def table_metadata(table: Table) -> dg.TableMetadataValue:
    """The table with its control characters shown; numbers with a format are text. The first 500 rows."""
    formats = [table.formats.get(name, "") for name in table.columns]
    return _metadata(table.columns, formats, table.head(_MOST_ROWS).cells())


def with_settings(asset: dg.AssetsDefinition, settings: Sequence[EffectiveSetting]) -> dg.AssetsDefinition:
    """The asset with the effective settings in its metadata, which the UI shows on its page."""
    rows = [vars(setting) for setting in settings]
    columns = list(rows[0]) if rows else []
    # No DataFrame: the definitions are loaded by every process, and pandas takes half a second to import.
    table = _metadata(columns, [""] * len(columns), (tuple(row.values()) for row in rows))
    (found,) = dg.map_asset_specs(lambda spec: spec.merge_attributes(metadata={"settings": table}), [asset])
    return found


def _metadata(
    columns: Sequence[str], formats: Sequence[str], rows: Iterable[Sequence[object]]
) -> dg.TableMetadataValue:
    records = [
        {name: _cell(value, form) for name, value, form in zip(columns, row, formats, strict=True)}
        for row in rows
    ]
    schema = dg.TableSchema(columns=[dg.TableColumn(name, type=_type(name, records)) for name in columns])
    return dg.TableMetadataValue(records=[dg.TableRecord(record) for record in records], schema=schema)


def _cell(value: object, form: str) -> str | int | float | None:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and not form):
        return value
    return shown_cell(value, form)


def _type(name: str, records: Sequence[Mapping[str, Any]]) -> str:
    kinds = {dg.TableMetadataValue.infer_column_type(row[name]) for row in records if row[name] is not None}
    return kinds.pop() if len(kinds) == 1 else "string"
