"""SQLite files that others made: opened read-only with limits, and judged by their objects before any of them is read."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from stash_sense_pipeline.foundation.errors import DatabaseFileError
from stash_sense_pipeline.foundation.files import open_regular

MAGIC = b"SQLite format 3\x00"
# SQLITE_LIMIT_LENGTH bounds one value: a crop has 40 KB, the raw record of a source at most some hundred KB.
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 64 * 1024**2,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 200,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 50,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 4,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 100_000,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
# Virtual machine steps between two calls of the progress handler: about a tenth of a millisecond.
_STEPS = 10_000
_SECONDS = 20.0
# A check of a whole file on a slow disk reads this much per second.
_BYTES_PER_SECOND = 4 * 1024**2
_MAX_OBJECTS = 500
# Tables of SQLite itself: the counters of AUTOINCREMENT, and the statistics of ANALYZE.
_INTERNAL = frozenset({"sqlite_sequence", "sqlite_stat1"})
_COLLATIONS = frozenset({"BINARY", "NOCASE", "RTRIM"})
_IS_EXPRESSION = -2
# String literals, quoted names and comments of SQL. Each kind begins with another character, so one pass finds them all.
_QUOTED = re.compile(
    r"'[^']*'?|\"[^\"]*\"?|`[^`]*`?|\[[^\]]*\]?|--[^\n]*|/\*(?:.*?\*/|.*\Z)",
    re.DOTALL,
)
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")
# A table of plain columns needs none of these words. SQLite evaluates the expressions that follow them while it reads.
_FORBIDDEN = frozenset({"CHECK", "GENERATED", "ALWAYS", "AS", "SELECT", "VIRTUAL", "USING"})
_CONDITION_WORDS = frozenset({"IS", "NOT", "NULL", "AND", "OR"})


def time_allowed(size: int) -> float:
    """The time limit in seconds for reading a database of `size` bytes."""
    return _SECONDS + size / _BYTES_PER_SECOND


@contextmanager
def open_read_only(
    path: Path, *, deadline: float | None = None, log: bool = False
) -> Iterator[sqlite3.Connection]:
    """Opens an SQLite file read-only, without leaving a -wal or -shm file behind. With `log`, a write-ahead log that is
    not empty is read too.

    Statements are interrupted at `deadline`, a time of `time.monotonic`; the default is time_allowed from now. Values,
    statements and the number of columns are limited, and the schema cannot call functions with side effects.

    Raises DatabaseFileError, one line without the path, when the file is not an SQLite database, when an error occurs
    while it is read, and when that takes too long. Raises OSError when the file cannot be read.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        # SQLite opens an empty file as an empty database.
        if stream.read(len(MAGIC)) != MAGIC:
            raise DatabaseFileError("it is not an SQLite database")
    wal = Path(f"{path}-wal")
    immutable = "" if log and wal.is_file() and wal.stat().st_size else "&immutable=1"
    end = time.monotonic() + time_allowed(size) if deadline is None else deadline
    try:
        with closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro{immutable}", uri=True)
        ) as connection:
            for category, limit in _LIMITS.items():
                connection.setlimit(category, limit)
            connection.set_progress_handler(lambda: time.monotonic() > end, _STEPS)
            for setting in ("trusted_schema = OFF", "query_only = ON", "cell_size_check = ON"):
                connection.execute(f"PRAGMA {setting}")
            yield connection
    except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
        if time.monotonic() > end:
            raise DatabaseFileError(
                "it takes too long to read; it was made for that, or the disk is slow"
            ) from error
        raise DatabaseFileError(" ".join(str(error).split())[:200]) from error


def check_objects(
    connection: sqlite3.Connection, tables: Collection[str] | None, *, without_rowid: bool = False
) -> None:
    """Raises DatabaseFileError unless the database holds only plain tables and their indexes. With `tables`, no other
    tables are allowed.

    A plain table has ordinary columns only and no CHECK; `without_rowid` allows tables without rowids. A plain index
    is over columns, and its condition, if it has one, compares columns with NULL or text. Views, triggers, virtual
    tables and generated columns are refused. Only the schema is read.
    """
    rows = connection.execute(
        f"SELECT type, name, sql FROM sqlite_schema LIMIT {_MAX_OBJECTS + 1}"
    ).fetchall()
    if len(rows) > _MAX_OBJECTS:
        raise DatabaseFileError(f"it has more than {_MAX_OBJECTS} tables and indexes")
    for kind, name, sql in rows:
        if kind not in ("table", "index"):
            raise DatabaseFileError(
                f"it has the {kind!s:.20} {name!r:.60}, and only tables and indexes are allowed"
            )
        if kind == "table" and tables is not None and name not in tables and name not in _INTERNAL:
            raise DatabaseFileError(f"it has the table {name!r:.60}, which is not a table of this program")
        if kind == "table":
            _check_words(name, sql, without_rowid)
    found = {name for kind, name, _ in rows if kind == "table"}
    for table in _engine_tables(connection, without_rowid):
        if table not in found:
            raise DatabaseFileError(f"its list of tables does not name the table {table!r:.60}")
        _check_columns(connection, table)
        _check_indexes(connection, table)


def _engine_tables(connection: sqlite3.Connection, without_rowid: bool) -> list[str]:
    """The tables as SQLite lists them, independently of the rows in sqlite_schema."""
    query = "SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main' AND name != 'sqlite_schema'"
    tables = []
    for name, kind, wr in connection.execute(query):
        if kind != "table" or (wr and not without_rowid):
            raise DatabaseFileError(f"{name!r:.60} in it is not a plain table")
        tables.append(name)
    return tables


def _check_words(table: str, sql: object, without_rowid: bool) -> None:
    words = _words(sql)
    forbidden = words & (_FORBIDDEN if without_rowid else _FORBIDDEN | {"WITHOUT"})
    if forbidden:
        raise DatabaseFileError(
            f"its table {table!r:.60} is made with {min(forbidden)}, and only plain columns are allowed"
        )


def _words(sql: object) -> set[str]:
    return {word.upper() for word in _WORD.findall(_QUOTED.sub(" ", sql))} if isinstance(sql, str) else set()


def _check_columns(connection: sqlite3.Connection, table: str) -> None:
    query = "SELECT name FROM pragma_table_xinfo(?) WHERE hidden != 0"
    for (column,) in connection.execute(query, (table,)):
        raise DatabaseFileError(
            f"the column {column!r:.60} of its table {table!r:.60} is computed, not stored"
        )


def _check_indexes(connection: sqlite3.Connection, table: str) -> None:
    columns = {name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}
    for name, partial in connection.execute(
        "SELECT name, partial FROM pragma_index_list(?)", (table,)
    ).fetchall():
        parts = connection.execute("SELECT cid, coll FROM pragma_index_xinfo(?)", (name,)).fetchall()
        if any(cid == _IS_EXPRESSION or collation not in _COLLATIONS for cid, collation in parts):
            raise DatabaseFileError(f"its index {name!r:.60} is not over plain columns")
        if partial:
            _check_condition(connection, name, columns)


def _check_condition(connection: sqlite3.Connection, index: str, columns: set[str]) -> None:
    query = "SELECT sql FROM sqlite_schema WHERE type = 'index' AND name = ?"
    (sql,) = connection.execute(query, (index,)).fetchone() or (None,)
    _, where, condition = (
        re.split(r"(\bWHERE\b)", sql, maxsplit=1, flags=re.IGNORECASE) if sql else ("", "", "")
    )
    allowed = {column.upper() for column in columns} | _CONDITION_WORDS
    if (
        not where
        or not _words(condition) <= allowed
        or '"' in condition
        or "`" in condition
        or "[" in condition
    ):
        raise DatabaseFileError(f"its index {index!r:.60} has a condition that is not allowed")


def run_checks(connection: sqlite3.Connection, tables: Collection[str], max_rows: int) -> None:
    """Raises DatabaseFileError when SQLite finds damage, or when a table has more than `max_rows` rows.

    Call check_objects first: the integrity check evaluates expressions of the schema.
    """
    verdict = " ".join(str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0]).split())
    if verdict != "ok":
        raise DatabaseFileError(verdict[:200])
    present = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    for table in sorted(present & set(tables)):
        # A plain count(*) would read a table of any length to its end.
        query = f'SELECT count(*) FROM (SELECT 1 FROM "{table}" LIMIT {max_rows + 1})'
        if connection.execute(query).fetchone()[0] > max_rows:
            raise DatabaseFileError(f"its table {table} has more than {max_rows} rows")
