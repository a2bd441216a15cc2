"""The difference of two releases as blocks of a report, with or without names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stash_sense_pipeline.foundation.tables.table import table_of
from stash_sense_pipeline.release.reports.document import (
    Block,
    Heading,
    TableBlock,
    Text,
    markdown_document,
)
from stash_sense_pipeline.release.reports.release_diff import PerformerChange, ReleaseDiff

# Performers of a section in a report.
_SHOWN = 20


def describe_diff(diff: ReleaseDiff) -> str:
    """The diff as Markdown, with all performers."""
    return markdown_document([Heading(2, f"{diff.old} → {diff.new}"), *change_blocks(diff, shown=None)])


def change_blocks(diff: ReleaseDiff, shown: int | None = _SHOWN) -> list[Block]:
    """What changed, with up to `shown` performers a section, or all of them."""
    if diff.empty:
        return [Text(f"Nothing changed since {diff.old}.")]
    blocks: list[Block] = [
        Text(
            f"Since {diff.old}: {diff.faces_added} faces added, {diff.faces_removed} removed, {diff.faces_moved} moved to"
            " another performer."
        )
    ]
    for title, changes in _sections(diff).items():
        if changes:
            blocks += _change_section(f"{len(changes)} performers {title}", changes, shown)
    return blocks


def count_blocks(diff: ReleaseDiff) -> list[Block]:
    """The numbers of changes, without names."""
    counts = {
        **{f"performers {title}": len(changes) for title, changes in _sections(diff).items()},
        "faces added": diff.faces_added,
        "faces removed": diff.faces_removed,
        "faces moved to another performer": diff.faces_moved,
    }
    table = table_of(("change", "number"), counts.items())
    return [Text(f"Since {diff.old}:"), TableBlock("What changed", table)]


def _sections(diff: ReleaseDiff) -> Mapping[str, Sequence[PerformerChange]]:
    return {
        "added": diff.added,
        "removed": diff.removed,
        "merged": diff.merged,
        "split": diff.split,
        "changed": diff.changed,
    }


def _change_section(title: str, changes: Sequence[PerformerChange], shown: int | None) -> list[Block]:
    details = any(change.detail for change in changes)
    columns = ("performer", "id", *(["what"] if details else []))
    rows = [
        (change.name, change.performer_id, *([", ".join(change.detail)] if details else []))
        for change in changes[:shown]
    ]
    left = len(changes) - len(rows)
    more = [Text(f"And {left} more.")] if left else []
    return [Heading(3, title), TableBlock(title, table_of(columns, rows)), *more]
