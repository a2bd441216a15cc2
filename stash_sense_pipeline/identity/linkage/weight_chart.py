"""The chart of match weights: each comparison level with m, u and a bar, as a table."""

from __future__ import annotations

from collections.abc import Iterable

from stash_sense_pipeline.foundation.tables.table import Table, table_of
from stash_sense_pipeline.identity.linkage.evidence import WEIGHTS, Weights
from stash_sense_pipeline.identity.linkage.learned_weights import LEVELS, OTHER_NAMES, PAGES, Observed

_BARS_A_UNIT = 5
_FORMATS = {"m": ".4g", "u": ".4g", "weight": "+.2f"}


def default_table(weights: Weights = WEIGHTS) -> tuple[Observed, ...]:
    """The levels as they are before anything is learned."""
    levels = (
        {name: level for rows in LEVELS.values() for name, level in rows.items()}
        | dict(PAGES)
        | dict(OTHER_NAMES)
    )
    return tuple(
        Observed(name, level.m, level.u, float(getattr(weights, name))) for name, level in levels.items()
    )


def weight_chart(rows: Iterable[Observed]) -> Table:
    """A table; `-` bars speak against a pair, `+` bars for it, five characters for a factor of ten."""
    return table_of(("comparison level", "m", "u", "weight", "bar"), map(_row, rows), _FORMATS)


def _row(row: Observed) -> tuple[str, float, float, float, str]:
    bar = ("+" if row.weight > 0 else "-") * round(abs(row.weight) * _BARS_A_UNIT)
    return row.level, row.m, row.u, row.weight, bar or "0"
