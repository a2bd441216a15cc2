"""Writes a table as HTML: cells are plain text, and each row is one line."""

from __future__ import annotations

import html
from collections.abc import Iterator

from stash_sense_pipeline.foundation.tables.table import Table, one_line


def html_lines(table: Table, caption: str) -> list[str]:
    """The lines of a `<table>` with this caption; a paragraph `None.` when it has no rows.

    The cell of a number has its full value in `data-value`, by which a script can sort.
    """
    if not len(table):
        return ["<p>None.</p>"]
    head = "".join(f'<th scope="col">{html_text(name)}</th>' for name in table.columns)
    return [
        f"<table><caption>{html_text(caption)}</caption>",
        f"<thead><tr>{head}</tr></thead>",
        "<tbody>",
        *_rows(table),
        "</tbody></table>",
    ]


def html_text(text: str) -> str:
    """The text as one line of HTML, for an element or a quoted attribute."""
    return html.escape(one_line(text))


def _rows(table: Table) -> Iterator[str]:
    for values, texts in zip(table.cells(), table.shown(), strict=True):
        cells = (
            f'<td data-value="{value}">{text}</td>'
            if isinstance(value, int | float) and not isinstance(value, bool)
            else f"<td>{html_text(text)}</td>"
            for value, text in zip(values, texts, strict=True)
        )
        yield f"<tr>{''.join(cells)}</tr>"
