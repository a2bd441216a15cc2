"""Markdown tables of the reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table; `None.` when it has no rows. A `|` in a cell becomes `/`."""
    lines = [f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in rows]
    return [f"| {' | '.join(header)} |", "|" + "---|" * len(header), *lines] if lines else ["None."]
