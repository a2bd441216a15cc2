"""Cells of CSV files that people open in a spreadsheet: one line each, and never a formula."""

from __future__ import annotations

from stash_sense_pipeline.foundation.tables.table import one_line

# The characters that begin a formula, and their full-width forms, which some spreadsheets read as the same (OWASP, "CSV
# Injection"). Tabs and line ends begin one too, but no cell keeps them.
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")


def spreadsheet_cell(text: str) -> str:
    """The text as one line without control characters. A leading quote keeps spreadsheets from reading a formula."""
    line = one_line(text)
    return f"'{line}" if line.startswith(_FORMULA) else line
