"""Transactions on failing databases: a server error becomes one line, other errors pass through."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import engine as engine_module
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.schema import performer_aliases, sync_state
from stash_sense_pipeline.catalog.source_lock import source_lock
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.foundation.errors import CatalogError
from stash_sense_pipeline_tests.postgres import end_connections

SECRET = "Zq Invented"


def insert(connection: sa.Connection, source: str = SECRET) -> None:
    connection.execute(sa.insert(sync_state).values(source=source, last_message=SECRET))


def fill(connection: sa.Connection) -> None:
    rows = [{"source": f"{SECRET}{number}", "last_message": SECRET * 500} for number in range(500)]
    connection.execute(sa.insert(sync_state), rows)


def rows(engine: sa.Engine) -> list[str]:
    with reading(engine) as connection:
        return sorted(connection.scalars(sa.select(sync_state.c.source)))


def one_line(error: pytest.ExceptionInfo[CatalogError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert SECRET not in text
    return text


# --- SQLite ---


def read_only(connection: sa.Connection) -> None:
    connection.exec_driver_sql("PRAGMA query_only=1")
    insert(connection)


def full(connection: sa.Connection) -> None:
    connection.exec_driver_sql("PRAGMA max_page_count=1")
    fill(connection)


SQLITE: dict[str, tuple[Callable[[sa.Connection], None], str]] = {
    "read-only": (read_only, "readonly database"),
    "full": (full, "disk is full"),
}


@pytest.mark.parametrize("name", SQLITE)
def test_a_failed_write_to_sqlite_is_one_line(catalog: sa.Engine, name: str) -> None:
    happens, said = SQLITE[name]
    with (
        pytest.raises(CatalogError, match="cannot write to the catalog") as error,
        writing(catalog) as connection,
    ):
        happens(connection)
    assert said in one_line(error)


@pytest.mark.parametrize("doing", ["reading", "writing"])
@pytest.mark.parametrize("damage", ["overwritten", "cut off"])
def test_a_file_that_is_damaged_while_it_is_open_is_one_line(
    catalog: sa.Engine, damage: str, doing: str
) -> None:
    with writing(catalog) as connection:
        fill(connection)
    path = Path(str(catalog.url.database))
    catalog.dispose()
    sqlite3.connect(path).execute("PRAGMA wal_checkpoint(TRUNCATE)").connection.close()
    engine = open_catalog(f"sqlite:///{path}")
    data = path.read_bytes()
    path.write_bytes(
        data[: len(data) // 2] if damage == "cut off" else data[:16384] + b"\xaa" * (len(data) - 16384)
    )
    transaction = reading if doing == "reading" else writing
    with pytest.raises(CatalogError, match="catalog") as error, transaction(engine) as connection:
        connection.execute(sa.select(sync_state)).all()
    one_line(error)
    engine.dispose()


@pytest.mark.slow
def test_a_catalog_that_is_locked_for_reading_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_BUSY_TIMEOUT_MS", 50)
    engine = open_catalog(f"sqlite:///{tmp_path / 'catalog.db'}")
    engine.dispose()
    other = sqlite3.connect(tmp_path / "catalog.db", isolation_level=None)
    other.execute("PRAGMA locking_mode=EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    other.execute("CREATE TABLE t (x)")
    with pytest.raises(CatalogError, match="locked") as error, reading(engine) as connection:
        connection.execute(sa.select(sync_state)).all()
    one_line(error)
    other.close()
    engine.dispose()


# --- PostgreSQL ---


@pytest.fixture
def server(postgres_url: str) -> Iterator[sa.Engine]:
    """An engine on the maintenance database of the server, as its superuser."""
    engine = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    yield engine
    engine.dispose()


def set_for_database(server: sa.Engine, url: str, setting: str) -> None:
    with server.connect() as connection:
        connection.exec_driver_sql(f'ALTER DATABASE "{sa.make_url(url).database}" SET {setting}')


# Each limit is set in the transaction that meets it: opening the catalog must not meet it on a slow machine.
SETTINGS = {
    "read-only": ("transaction_read_only = on", insert, "read-only transaction"),
    "idle for too long": (
        "idle_in_transaction_session_timeout = '50ms'",
        lambda c: (insert(c), time.sleep(0.3), insert(c, "b")),
        "",
    ),
    "a statement that lasts too long": (
        "statement_timeout = '50ms'",
        lambda c: c.exec_driver_sql("SELECT pg_sleep(600)"),
        "statement timeout",
    ),
    "no room for a temporary file": (
        "temp_file_limit = '64kB'",
        lambda c: (
            c.exec_driver_sql("SET work_mem = '64kB'"),
            c.exec_driver_sql(
                "SELECT count(*) FROM (SELECT md5(i::text) FROM generate_series(1, 90000) i ORDER BY 1) t"
            ),
        ),
        "temporary file size",
    ),
}


def limited(connection: sa.Connection, setting: str, happens: Callable[[sa.Connection], object]) -> None:
    connection.exec_driver_sql(f"SET LOCAL {setting}")
    happens(connection)


@pytest.mark.postgres
@pytest.mark.parametrize("name", SETTINGS)
def test_a_refused_statement_in_a_transaction_on_postgresql_is_one_line(
    postgres_catalog_url: str, name: str
) -> None:
    setting, happens, said = SETTINGS[name]
    engine = open_catalog(postgres_catalog_url)
    with (
        pytest.raises(CatalogError, match="cannot write to the catalog") as error,
        writing(engine) as connection,
    ):
        limited(connection, setting, happens)
    assert said in one_line(error)
    assert rows(engine) == []
    engine.dispose()


@pytest.mark.postgres
@pytest.mark.parametrize("moment", ["a reading statement", "a writing statement", "the commit"])
def test_a_server_that_ends_our_connection_is_one_line(postgres_catalog_url: str, moment: str) -> None:
    engine = open_catalog(postgres_catalog_url)
    transaction = reading if moment == "a reading statement" else writing

    def interrupted() -> None:
        with transaction(engine) as connection:
            connection.execute(sa.select(sync_state)).all()
            if transaction is writing:
                insert(connection)
            end_connections(postgres_catalog_url)
            if moment != "the commit":
                connection.execute(sa.select(sync_state)).all()

    with pytest.raises(CatalogError, match="the catalog") as error:
        interrupted()
    one_line(error)
    assert rows(engine) == []
    engine.dispose()


@pytest.mark.postgres
def test_a_lock_that_is_not_released_is_one_line(server: sa.Engine, postgres_catalog_url: str) -> None:
    set_for_database(server, postgres_catalog_url, "lock_timeout = '50ms'")
    engine = open_catalog(postgres_catalog_url)
    with writing(engine) as first:
        first.exec_driver_sql("LOCK TABLE sync_state")
        with pytest.raises(CatalogError, match="lock timeout") as error, writing(engine) as second:
            insert(second)
    one_line(error)
    engine.dispose()


@pytest.mark.postgres
def test_missing_rights_raise_a_catalog_error_of_one_line(
    server: sa.Engine, postgres_catalog_url: str
) -> None:
    engine = open_catalog(postgres_catalog_url)
    with server.connect() as connection:
        connection.exec_driver_sql("DROP ROLE IF EXISTS weak")
        connection.exec_driver_sql("CREATE ROLE weak LOGIN")
    weak = sa.create_engine(sa.make_url(postgres_catalog_url).set(username="weak"), poolclass=sa.NullPool)
    with pytest.raises(CatalogError, match="permission denied") as error, writing(weak) as connection:
        insert(connection)
    one_line(error)
    with server.connect() as connection:
        connection.exec_driver_sql("DROP ROLE weak")
    engine.dispose()


@pytest.mark.postgres
def test_a_deadlock_raises_a_catalog_error_of_one_line(postgres_catalog_url: str, server: sa.Engine) -> None:
    set_for_database(server, postgres_catalog_url, "deadlock_timeout = '50ms'")
    engine = open_catalog(postgres_catalog_url)
    both, errors = threading.Barrier(2), []

    def cross(first: str, second: str) -> None:
        try:
            with writing(engine) as connection:
                connection.exec_driver_sql(f"LOCK TABLE {first}")
                both.wait(timeout=240)
                connection.exec_driver_sql(f"LOCK TABLE {second}")
        except CatalogError as error:
            errors.append(str(error))

    threads = [
        threading.Thread(target=cross, args=names)
        for names in (("faces", "embeddings"), ("embeddings", "faces"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 1
    assert "deadlock" in errors[0]
    engine.dispose()


@pytest.mark.postgres
def test_the_lock_of_a_source_is_free_again_when_its_connection_was_ended(
    postgres_catalog_url: str,
) -> None:
    engine = open_catalog(postgres_catalog_url)
    with source_lock(engine, "stashdb", print):
        end_connections(postgres_catalog_url)
    said: list[str] = []
    with source_lock(engine, "stashdb", said.append):
        assert said == []
    engine.dispose()


@pytest.mark.postgres
def test_the_lock_of_a_source_is_kept_on_a_server_that_ends_idle_sessions(
    server: sa.Engine, postgres_catalog_url: str
) -> None:
    open_catalog(postgres_catalog_url).dispose()
    set_for_database(server, postgres_catalog_url, "idle_session_timeout = '10min'")
    engine = sa.create_engine(postgres_catalog_url, poolclass=sa.NullPool)
    opened: list[sa.Connection] = []
    sa.event.listen(engine, "engine_connect", opened.append)
    limit = "SHOW idle_session_timeout"
    with source_lock(engine, "stashdb", print):
        (held,) = [connection for connection in opened if not connection.closed]
        assert held.exec_driver_sql(limit).scalar() == "0"
        assert held.exec_driver_sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").scalar() == 1
        with engine.connect() as other:
            assert other.exec_driver_sql(limit).scalar() == "10min"


# --- errors that are not the server's ---

STATEMENTS: dict[str, tuple[type[Exception], Callable[[sa.Connection], object]]] = {
    "a row that is there": (sa.exc.IntegrityError, lambda c: (insert(c), insert(c))),
    "a row without its record": (
        sa.exc.IntegrityError,
        lambda c: c.execute(sa.insert(performer_aliases).values(source="s", source_id="1", alias="a")),
    ),
    "an error of ours": (ZeroDivisionError, lambda _: 1 / 0),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_data_error_is_raised_unchanged_and_nothing_is_stored(any_catalog: sa.Engine, name: str) -> None:
    kind, happens = STATEMENTS[name]
    with pytest.raises(kind), writing(any_catalog) as connection:
        happens(connection)
    assert rows(any_catalog) == []


POSTGRES_STATEMENTS: dict[str, tuple[type[Exception], str]] = {
    "a number that is too large": (sa.exc.DataError, "SELECT 3000000000::int"),
    "no number": (sa.exc.DataError, "SELECT 'x'::int"),
    "an index row that is too large": (
        sa.exc.OperationalError,
        "INSERT INTO sync_state (source) SELECT string_agg(md5(i::text), '') FROM generate_series(1, 2000) i",
    ),
    "a mistake": (sa.exc.ProgrammingError, "SELECT nothing FROM nowhere"),
}


@pytest.mark.postgres
@pytest.mark.parametrize("name", POSTGRES_STATEMENTS)
def test_an_error_of_the_data_on_postgresql_passes_through(postgres_catalog_url: str, name: str) -> None:
    kind, statement = POSTGRES_STATEMENTS[name]
    engine = open_catalog(postgres_catalog_url)
    with pytest.raises(kind), writing(engine) as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


def test_a_mistake_in_a_statement_on_sqlite_passes_through(catalog: sa.Engine) -> None:
    with pytest.raises(sa.exc.OperationalError), writing(catalog) as connection:
        connection.exec_driver_sql("SELECT nothing FROM nowhere")
