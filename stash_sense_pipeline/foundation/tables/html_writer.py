"""Writes a table as HTML: cells are plain text, and each row is one line. Finds the texts of such lines."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator

from stash_sense_pipeline.foundation.tables.table import Table, one_line

# The words of HTML itself: names of elements and of attributes, and values that a browser or a style gives a meaning.
_MARKUP = re.compile(
    r"""<!DOCTYPE html>|<meta [^<>]*>|</?[a-z][a-z0-9]*"""
    r"""|\s(?:class|role|scope|lang|tabindex)="[^"<>]*"|\s[a-z][a-z-]*=(?=")"""
)
_CODE = ("<style>", "<script>")
_CODE_ENDS = ("</style>", "</script>")


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


def texts_of_lines(lines: Iterable[str]) -> Iterator[str]:
    """What each line of a page of this program says to its readers: without the words of HTML, styles and scripts."""
    code = False
    for line in lines:
        if line in _CODE:
            code = True
        yield "" if code else _MARKUP.sub(" ", line)
        if code and line.endswith(_CODE_ENDS):
            code = False
