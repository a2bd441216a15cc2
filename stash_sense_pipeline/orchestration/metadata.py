"""Metadata of materializations: numbers to plot, column schemas, previews, and errors as one line.

Run history outlives the catalog and is outside its erasure, so no name, alias or profile URL of a person goes into it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dagster as dg

from stash_sense_pipeline.errors import SourceError, StashSenseError

if TYPE_CHECKING:
    import sqlalchemy as sa


def column_schema(table: sa.Table) -> dg.TableSchema:
    """The columns of a catalog table, with their comments, for the UI's Columns card."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=str(column.type),
                description=column.comment,
                constraints=dg.TableColumnConstraints(nullable=bool(column.nullable)),
            )
            for column in table.columns
        ]
    )


def preview(rows: Sequence[Mapping[str, Any]]) -> dg.MarkdownMetadataValue:
    """A few rows as a Markdown table; the caller chooses columns that say nothing about a person."""
    if not rows:
        return dg.MetadataValue.md("(empty)")
    header = list(rows[0])
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join("" if row[name] is None else str(row[name]) for name in header) + " |" for row in rows]
    return dg.MetadataValue.md("\n".join(lines))


@contextmanager
def one_line_failures() -> Iterator[None]:
    """Turns an error of ours into a failed step with that one line, which Dagster does not retry."""
    try:
        yield
    except SourceError as error:
        raise dg.Failure(
            str(error), metadata={"source": error.source, "outcome": error.outcome.value}, allow_retries=False
        ) from error
    except StashSenseError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
