"""The chart of match weights: each comparison level with m, u and a bar, as lines of Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from stash_sense_pipeline.identity.linkage.evidence import WEIGHTS, Weights
from stash_sense_pipeline.identity.linkage.learned_weights import LEVELS, OTHER_NAMES, PAGES, Observed

_BARS_A_UNIT = 5


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


def weight_chart(rows: Iterable[Observed]) -> list[str]:
    """A table; `-` bars speak against a pair, `+` bars for it, five characters for a factor of ten."""
    lines = ["| comparison level | m | u | weight | |", "|---|---|---|---|---|"]
    for row in rows:
        bar = ("+" if row.weight > 0 else "-") * round(abs(row.weight) * _BARS_A_UNIT)
        lines.append(f"| {row.level} | {row.m:.4g} | {row.u:.4g} | {row.weight:+.2f} | `{bar or '0'}` |")
    return lines
