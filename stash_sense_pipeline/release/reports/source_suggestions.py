"""The files of suggestions to the sources: suggestions.csv and suggestions.json, beside the review of identities.

They are for the operator alone and in no release: they name people and link to their pages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.foundation.files import make_directory, write_atomically
from stash_sense_pipeline.foundation.tables.csv_writer import csv_text
from stash_sense_pipeline.foundation.tables.table import table_of
from stash_sense_pipeline.foundation.visible_text import visible_line
from stash_sense_pipeline.identity.review import SUGGESTIONS
from stash_sense_pipeline.identity.source_suggestions.finding import still_current
from stash_sense_pipeline.identity.source_suggestions.suggestion import Suggestion, SuggestionList
from stash_sense_pipeline.privacy.redaction.report_redaction import texts_locked

JSON = "suggestions.json"
COLUMNS = (
    *("kind", "confidence", "record", "name", "disambiguation", "page"),
    *("other_record", "other_name", "other_disambiguation", "other_page"),
    *("subject", "evidence"),
)


def write_suggestions(engine: sa.Engine, directory: Path, found: SuggestionList) -> dict[str, int]:
    """Writes both files, and returns the number of suggestions of each kind in them.

    `directory` is in DATA_DIR. Its lock for texts is held while the catalog is asked which records it still holds, and
    while the files are written. An erasure waits, and then blanks the lines about erased people.
    """
    with texts_locked(directory.parent):
        with reading(engine) as connection:
            current = still_current(connection, found)
        rows = suggestion_rows(current)
        make_directory(directory)
        table = table_of(COLUMNS, (tuple(row.values()) for row in rows))
        write_atomically(directory / SUGGESTIONS, csv_text(table))
        write_atomically(directory / JSON, as_json(rows))
    return current.counts()


def suggestion_rows(found: SuggestionList) -> list[dict[str, Any]]:
    """One mapping a suggestion, with COLUMNS as keys, in the order of the list. Unknown values are None."""
    return [_row(found, row) for row in found.suggestions]


def as_json(rows: list[dict[str, Any]]) -> str:
    """The rows as the text of suggestions.json."""
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def _row(found: SuggestionList, row: Suggestion) -> dict[str, Any]:
    record, other = found.records[row.record], found.records[row.other]
    texts: Mapping[str, str | None] = {
        "kind": row.kind,
        "record": ":".join(record.key),
        "name": record.name,
        "disambiguation": record.disambiguation,
        "page": record.page,
        "other_record": ":".join(other.key),
        "other_name": other.name,
        "other_disambiguation": other.disambiguation,
        "other_page": other.page,
        "subject": row.subject,
        "evidence": "; ".join(row.facts),
    }
    shown = {name: visible_line(text) if text else None for name, text in texts.items()}
    return {name: row.confidence if name == "confidence" else shown[name] for name in COLUMNS}
