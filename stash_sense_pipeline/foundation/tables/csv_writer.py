"""Writes a table as CSV: quoted text, plain numbers, no formula that a spreadsheet would run."""

from __future__ import annotations

import csv
import io

from stash_sense_pipeline.foundation.tables.spreadsheet_cells import spreadsheet_cell
from stash_sense_pipeline.foundation.tables.table import Table, shown_cell


def csv_text(table: Table, *, header: bool = True) -> str:
    """The table as CSV with full numbers; with `header`, the names of the columns are its first line."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    if header:
        writer.writerow([spreadsheet_cell(name) for name in table.columns])
    writer.writerows([[_cell(value) for value in row] for row in table.cells()])
    return text.getvalue()


def _cell(value: object) -> str | int | float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return spreadsheet_cell(shown_cell(value))
