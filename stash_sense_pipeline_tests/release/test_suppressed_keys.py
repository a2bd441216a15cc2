"""Which texts of a release count as records and addresses when it is searched for suppressed people."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS
from stash_sense_pipeline.release.checks.suppression_check import Keys

HOSTS = {"boxa": "boxa.example", "boxb": "2026-01-02.example", "boxc": "2026-01-02t.example:8080"}


@pytest.mark.parametrize(
    ("text", "records", "urls"),
    [
        ("2026-01-02T03:04:05Z", 0, 0),
        ("2026-01-02T03:04:05/Z", 0, 0),
        ("2026-01-02 03:04:05", 0, 0),
        ("Anna: the one", 0, 0),
        ("boxa.example:2026-01-02T", 1, 0),
        ("2026-01-02.example:person", 1, 0),
        ("2026-01-02t.example:8080:person", 1, 0),
        ("https://boxa.example/2026-01-02T03:04:05Z", 0, 1),
        ("HTTP://BOXA.EXAMPLE", 0, 1),
        (None, 0, 0),
    ],
)
def test_ids_and_addresses_count_and_times_do_not(text: str | None, records: int, urls: int) -> None:
    keys = Keys()
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE aliases (alias TEXT, created_at TEXT)")
        database.execute("INSERT INTO aliases VALUES (?, ?)", (text, "2026-01-02T03:04:05Z"))
        keys.add_database(database, ())
    held = keys.held(NO_SUPPRESSIONS, HOSTS)
    assert (held.of_records, held.of_urls) == (records, urls)
