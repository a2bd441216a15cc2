"""Writes a table as Markdown: cells are plain text, whatever their characters mean in Markdown or HTML."""

from __future__ import annotations

import re

from stash_sense_pipeline.foundation.tables.table import Table, one_line

# An underscore inside a word means nothing in Markdown. References are understood by every reader of Markdown, and by the
# search of an erasure.
_SPECIAL = re.compile(r"[\\`*\[<&|~]|(?<![^\W_])_|_(?![^\W_])")


def markdown_lines(table: Table) -> list[str]:
    """The lines of the table; `None.` when it has no rows."""
    if not len(table):
        return ["None."]
    rows = (table.columns, *table.shown())
    head, *lines = (f"| {' | '.join(map(markdown_text, row))} |" for row in rows)
    return [head, "|" + "---|" * len(table.columns), *lines]


def markdown_text(text: str) -> str:
    """The text as one line of Markdown in which no character has a meaning of Markdown or HTML."""
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", one_line(text))
