"""A table that people read: a DataFrame, and how its numbers and texts are shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import TYPE_CHECKING, Any

from stash_sense_pipeline.foundation.visible_text import visible_line

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Table:
    """A DataFrame with the format of the numbers of some columns, such as `.2f` or `.1%`.

    A column is of numbers, or of objects: text, dates, or None for a cell without a value.
    """

    frame: pd.DataFrame
    formats: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return [str(name) for name in self.frame.columns]

    def head(self, rows: int) -> Table:
        """The first rows."""
        return replace(self, frame=self.frame.head(rows))

    def cells(self) -> Iterator[tuple[Any, ...]]:
        """The values of each row as Python values; None for a missing one."""
        for row in self.frame.itertuples(index=False, name=None):
            yield tuple(None if is_missing(value) else _plain(value) for value in row)

    def shown(self) -> Iterator[tuple[str, ...]]:
        """The cells of each row as text of one line without control characters."""
        formats = [self.formats.get(name, "") for name in self.columns]
        for row in self.cells():
            yield tuple(shown_cell(value, form) for value, form in zip(row, formats, strict=True))


def table_of(
    columns: Sequence[str], rows: Iterable[Sequence[object]], formats: Mapping[str, str] | None = None
) -> Table:
    """The table of these rows. A column of only whole numbers, or only floats, gets that type."""
    # pandas takes half a second to import.
    import pandas as pd

    by_column = [list(values) for values in zip(*rows, strict=True)] or [[] for _ in columns]
    named = zip(columns, by_column, strict=True)
    series = {name: pd.Series(values, dtype=_dtype(values)) for name, values in named}
    return Table(pd.DataFrame(series, columns=list(columns)), formats or {})


def is_missing(value: Any) -> bool:
    """True for None, NaN and the missing values of pandas."""
    # pandas.NA has no truth value, and is equal to nothing.
    return value is None or type(value).__name__ in ("NAType", "NaTType") or value != value


def shown_cell(value: object, form: str = "") -> str:
    """One cell as text of one line: a number in its format, an empty text for a missing value."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return format(value, form)
    if isinstance(value, date):
        return value.isoformat()
    return one_line(str(value))


def one_line(text: str) -> str:
    """The text with single blanks in place of white space, and with its control characters shown.

    An erasure blanks lines, so that a cell must not reach beyond its line.
    """
    return visible_line(" ".join(text.split()))


def _plain(value: Any) -> Any:
    """The Python value of a number of numpy. Columns that may lack values give such numbers."""
    return value.item() if type(value).__module__ == "numpy" else value


def _dtype(values: Sequence[object]) -> str:
    kinds = {type(value) for value in values}
    if kinds == {int}:
        return "int64"
    # Large whole numbers among others would lose digits.
    return "float64" if kinds == {float} else "object"
