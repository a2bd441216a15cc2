"""The blocks that a report is made of, and how they are written as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from stash_sense_pipeline.foundation.tables.markdown_writer import markdown_lines
from stash_sense_pipeline.foundation.tables.table import Table


@dataclass(frozen=True)
class Heading:
    """A heading; the title of a document is of level 1."""

    level: int
    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph of the program's own words and numbers. Nothing that others wrote belongs here: it goes into tables."""

    text: str
    strong: bool = False


@dataclass(frozen=True)
class TableBlock:
    """A table; the caption names it where the heading above cannot be seen, as by a screen reader."""

    caption: str
    table: Table


@dataclass(frozen=True)
class Picture:
    """A picture file beside the report, and what it shows."""

    file: str
    shows: str


Block = Heading | Text | TableBlock | Picture


def markdown_document(blocks: Iterable[Block]) -> str:
    """The blocks as Markdown, with an empty line between two."""
    return "\n\n".join("\n".join(_lines(block)) for block in blocks) + "\n"


def _lines(block: Block) -> Iterator[str]:
    match block:
        case Heading():
            yield f"{'#' * block.level} {block.text}"
        case Text():
            yield f"**{block.text}**" if block.strong else block.text
        case TableBlock():
            yield from markdown_lines(block.table)
        case Picture():
            yield f"![{block.shows}]({block.file})"
