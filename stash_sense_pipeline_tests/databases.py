"""What a hostile SQLite file can hold besides rows: each of these is refused wherever such a file is taken."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

Change = Callable[[Path], None]

_ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"


def statements(*texts: str) -> Change:
    """Runs SQL on a database file."""

    def change(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            for text in texts:
                connection.execute(text)

    return change


def in_place_of(table: str, *, columns: str = "*") -> Change:
    """Puts an endless view in the place of a table."""
    return statements(
        "PRAGMA foreign_keys = OFF",
        "PRAGMA legacy_alter_table = ON",
        f"ALTER TABLE {table} RENAME TO hidden",
        f"CREATE VIEW {table} AS {_ENDLESS} SELECT {columns} FROM hidden, n",
    )


def in_the_schema(table: str, old: str, new: str) -> Change:
    """Rewrites the SQL of a table in the schema itself, which no statement could do."""

    def change(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            changed = connection.execute(
                "UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE name = ? AND instr(sql, ?)",
                (old, new, table, old),
            )
            assert changed.rowcount == 1

    return change


def extras(table: str, column: str) -> dict[str, Change]:
    """Changes by name; `table` and its text `column` are of the database that is to be changed."""
    heavy = f"(SELECT count(*) FROM ({_ENDLESS} SELECT x FROM n))"
    return {
        "an endless view": statements(f"CREATE VIEW v AS {_ENDLESS} SELECT x FROM n"),
        "an endless view in the place of a table": in_place_of(table),
        "a view that is named like a table": statements(
            f'CREATE VIEW "{table} " AS {_ENDLESS} SELECT x FROM n'
        ),
        "a trigger": statements(
            f"CREATE TRIGGER t AFTER INSERT ON {table} BEGIN DELETE FROM {table} WHERE {heavy}; END"
        ),
        "a generated column": statements(
            f"ALTER TABLE {table} ADD COLUMN g TEXT GENERATED ALWAYS AS (hex(zeroblob(30000000))) VIRTUAL"
        ),
        "a short generated column": statements(f"ALTER TABLE {table} ADD COLUMN g AS (length({column}) * 2)"),
        "a virtual table": statements("CREATE VIRTUAL TABLE f USING fts5(x)"),
        "a virtual table of trees": statements("CREATE VIRTUAL TABLE r USING rtree(i, a, b)"),
        "another table": statements("CREATE TABLE evil (x)"),
        "a table with a strange name": statements('CREATE TABLE "a""; DROP TABLE x; --\n" (x)'),
        "an index over an expression": statements(
            f"CREATE INDEX evil ON {table} (hex({column} || {column}))"
        ),
        "a partial index with a function": statements(
            f"CREATE INDEX evil ON {table} ({column}) WHERE length({column}) > 3"
        ),
        "a partial index with a pattern": statements(
            f"CREATE INDEX evil ON {table} ({column}) WHERE {column} GLOB '*a*a*a*a*b'"
        ),
        "a check": in_the_schema(table, f"{column} TEXT", f"{column} TEXT CHECK (length({column}) >= 0)"),
        "a check behind a comment": in_the_schema(
            table, f"{column} TEXT", f"{column} TEXT /* it's */ cHeCk (length({column}) >= 0)"
        ),
        "a schema that cannot be parsed": in_the_schema(table, "CREATE TABLE", "CREATE TABEL"),
    }
