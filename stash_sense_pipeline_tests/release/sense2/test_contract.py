"""The names, tables and columns of the contract agree with each other and with the client's rules."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from stash_sense_pipeline.release.sense2 import contract

from .client import DOMAINS


@pytest.mark.parametrize(
    ("schema", "tables"),
    [(contract.SCHEMA, contract.TABLES), (contract.DELTA_SCHEMA, contract.DELTA_TABLES)],
    ids=["full", "delta"],
)
def test_the_columns_are_those_of_the_schema(schema: str, tables: dict[str, tuple[str, ...]]) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(schema)
        made = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert made == set(tables)
        for name, columns in tables.items():
            found = [row[1] for row in connection.execute(f"PRAGMA table_info({name})")]
            assert sorted(found) == sorted(columns), name


def test_universal_ids_are_those_that_the_client_writes() -> None:
    for endpoint, domain in DOMAINS.items():
        assert contract.universal_id(endpoint, "x") == f"{domain}:x"
    assert contract.universal_id("private", "x") == "private.org:x"


@pytest.mark.parametrize(
    ("name", "kind", "version"),
    [
        ("stash-sense2-data-2026.02.18.zip", "data", "2026.02.18"),
        ("stash-sense2-links-2026.02.18.zip", "links", "2026.02.18"),
        ("stash-sense2-delta-2026.02.17-to-2026.02.18.zip", "delta", "2026.02.18"),
        ("2026.02.18", None, "2026.02.18"),
        ("stash-sense2-data-2026.2.18.zip", None, None),
        ("stash-sense-data-v2026.02.18.zip", None, None),
    ],
)
def test_a_file_name_says_kind_and_version(name: str, kind: str | None, version: str | None) -> None:
    assert contract.zip_kind(name) == kind
    assert contract.named_version(name) == version
