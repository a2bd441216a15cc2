"""Opens the catalog: URL, connection settings, file checks, migrations."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from stash_sense_pipeline.catalog.schema import source_performers
from stash_sense_pipeline.catalog.transactions import (
    check_references,
    first_line,
    shown_url,
    writing,
)
from stash_sense_pipeline.foundation.errors import CatalogError
from stash_sense_pipeline.foundation.files import holding_lock, make_directory, make_private_file, restrict

_WITHOUT_KEYS = "foreign_keys_off"
_BUSY_TIMEOUT_MS = 30_000
_LOOK_SECONDS = 5
# Holds the pages that a batch of a large source touches. With a smaller cache they are written more than once.
_CACHE_KIB = 49_152
# A server that takes a connection and says nothing would be waited for forever. The URL may set another limit.
_CONNECT_SECONDS = 10
# The page size of a new file. Ids are random, so a batch of records touches nearly every page at any page size. Fewer,
# larger pages save a fifth of a backfill's work (`make bench`, sync). A crop or vector fits into one page.
_PAGE_BYTES = 16_384
# 40 MB of write-ahead log. A page that several transactions change is then written to the file once.
_WAL_PAGES = 2_500
# Above this size only the header and the schema are read at opening. A backup or a release checks the whole file.
_QUICK_CHECK_BYTES = 64 * 1024 * 1024


def open_catalog(url: str) -> sa.Engine:
    """Opens the catalog at a SQLAlchemy URL and migrates it to the schema of this program.

    SQLite runs with WAL, foreign keys and a busy timeout of 30 s. A new file is built under another name and renamed
    when it is complete. Raises CatalogError, and changes nothing, when the database is corrupt, is not a catalog,
    cannot be reached, or was migrated by a newer program.
    """
    parsed = _parse(url)
    shown = shown_url(parsed)
    try:
        if parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:"):
            _prepare_sqlite_file(Path(str(parsed.database)), shown)
        return _migrated_engine(parsed, shown)
    except (sa.exc.DBAPIError, sa.exc.ArgumentError, ImportError, OSError) as error:
        raise CatalogError(f"cannot open the catalog {shown}: {first_line(error)}") from error


class CatalogState(StrEnum):
    """Whether a catalog exists, and whether its schema is that of this program."""

    MISSING = "missing"
    OLDER = "older"
    CURRENT = "current"


def catalog_state(url: str) -> CatalogState:
    """The state of the catalog, which is neither created nor migrated nor changed.

    A server is waited for at most 5 s. Raises CatalogError as open_catalog does.
    """
    parsed = _parse(url)
    shown = shown_url(parsed)
    try:
        if parsed.get_backend_name() == "sqlite":
            path = Path(str(parsed.database)).resolve()
            if not path.exists():
                return CatalogState.MISSING
            _check_sqlite_file(path, shown)
        engine = unchanging_engine(url)
        try:
            with engine.connect() as connection:
                noted = _revisions(connection, shown)
        finally:
            engine.dispose()
    except (sa.exc.DBAPIError, sa.exc.ArgumentError, ImportError, OSError) as error:
        raise CatalogError(f"cannot open the catalog {shown}: {first_line(error)}") from error
    if not noted:
        return CatalogState.MISSING
    return CatalogState.CURRENT if noted == _newest_first()[:1] else CatalogState.OLDER


def current_engine(url: str) -> sa.Engine:
    """The engine of a catalog that catalog_state found CURRENT. Nothing is checked again, created or migrated."""
    return _engine(_parse(url))


def unchanging_engine(url: str) -> sa.Engine:
    """An engine for reading a catalog that catalog_state has looked at. It sets nothing in the database."""
    parsed = _parse(url)
    if parsed.get_backend_name() == "postgresql" and "connect_timeout" not in parsed.query:
        parsed = parsed.update_query_dict({"connect_timeout": str(_LOOK_SECONDS)})
    return sa.create_engine(parsed, poolclass=sa.NullPool, hide_parameters=True)


def is_there(url: str) -> bool:
    """False for a SQLite file that does not exist. True for PostgreSQL, without a look at the server."""
    parsed = _parse(url)
    return parsed.get_backend_name() != "sqlite" or Path(str(parsed.database)).exists()


def create_database(url: str) -> None:
    """Creates the database of a PostgreSQL URL if it does not exist. Does nothing for SQLite: open_catalog makes the file.

    Raises CatalogError when the server cannot be reached or refuses.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() != "postgresql":
        return
    server = sa.create_engine(
        _with_time_limit(parsed.set(database="postgres")), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
    )
    name = str(parsed.database)
    try:
        with server.connect() as connection:
            there = sa.text("SELECT 1 FROM pg_database WHERE datname = :name")
            if connection.execute(there, {"name": name}).first() is None:
                quoted = connection.dialect.identifier_preparer.quote(name)
                # Names may be in any script, and the server's default encoding may be ASCII.
                connection.exec_driver_sql(f"CREATE DATABASE {quoted} ENCODING 'UTF8' TEMPLATE template0")
    except sa.exc.DBAPIError as error:
        shown = shown_url(parsed)
        raise CatalogError(f"cannot open the catalog {shown}: {first_line(error)}") from error


def _parse(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        # The text of the error is left out, as it may hold the URL with the password.
        raise CatalogError(
            "the catalog URL is not a database URL, as in sqlite:///data/catalog.db"
        ) from error
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise CatalogError(
            f"a catalog cannot be in {parsed.get_backend_name()}: only in sqlite and postgresql"
        )
    # The default driver of SQLAlchemy differs between its versions.
    return parsed.set(drivername="postgresql+psycopg2") if parsed.drivername == "postgresql" else parsed


def _migrated_engine(url: sa.URL, shown: str) -> sa.Engine:
    engine = _engine(url)
    try:
        _migrate(engine, shown)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _engine(url: sa.URL) -> sa.Engine:
    # Without hide_parameters, database errors would put the values of statements, names and URLs, into logs and run
    # history.
    engine = sa.create_engine(
        _with_time_limit(url), pool_pre_ping=url.get_backend_name() != "sqlite", hide_parameters=True
    )
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _with_time_limit(url: sa.URL) -> sa.URL:
    if url.get_backend_name() != "postgresql" or "connect_timeout" in url.query:
        return url
    return url.update_query_dict({"connect_timeout": str(_CONNECT_SECONDS)})


def _configure_sqlite(connection: Any, record: Any) -> None:
    # The driver must not start transactions: _begin_sqlite chooses their kind.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={_BUSY_TIMEOUT_MS}",
        # The page size must come before the journal mode, which writes the first page.
        f"page_size={_PAGE_BYTES}",
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
        "secure_delete=ON",
        f"wal_autocheckpoint={_WAL_PAGES}",
        f"cache_size=-{_CACHE_KIB}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    # Dropping a table, as a migration does to replace it, would delete the rows that refer to it. The pragma has no
    # effect inside a transaction.
    if options.get("replaces_tables", False):
        connection.info[_WITHOUT_KEYS] = True
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
    elif connection.info.pop(_WITHOUT_KEYS, False):
        connection.exec_driver_sql("PRAGMA foreign_keys=ON")
    immediate = options.get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _prepare_sqlite_file(path: Path, shown: str) -> None:
    """Checks an existing file, or makes a complete new one with the current schema."""
    path = path.resolve()
    if path.exists():
        _check_sqlite_file(path, shown)
        _keep_private(path)
        return
    make_directory(path.parent)
    with holding_lock(_lock_file(path)):
        if path.exists():
            # Another process has made the catalog meanwhile.
            _check_sqlite_file(path, shown)
        else:
            _make_sqlite_file(path, shown)


def _make_sqlite_file(path: Path, shown: str) -> None:
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        # SQLite gives its log and its journal the mode of the file.
        make_private_file(fresh)
        _migrated_engine(sa.URL.create("sqlite", database=str(fresh)), shown).dispose()
        fresh.replace(path)
    finally:
        for leftover in (fresh, Path(f"{fresh}-wal"), Path(f"{fresh}-shm")):
            leftover.unlink(missing_ok=True)


def _keep_private(path: Path) -> None:
    """Restricts the file to its owner: a copy from elsewhere may have other permissions."""
    for part in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        restrict(part)


def _check_sqlite_file(path: Path, shown: str) -> None:
    """Raises CatalogError for a file that is damaged or not a catalog.

    The file is opened without the settings of _configure_sqlite, which would change it.
    """
    size = path.stat().st_size
    if size == 0:
        raise CatalogError(
            f"cannot open the catalog {shown}: the file is empty; restore a backup, or remove it to start empty"
        )
    plain = sa.create_engine(sa.URL.create("sqlite", database=str(path)), poolclass=sa.NullPool)
    try:
        with plain.connect() as connection:
            verdict = _sqlite_verdict(connection, path, size)
            if verdict != "ok":
                raise CatalogError(f"the catalog {shown} is corrupt ({verdict}); restore a backup")
            _revisions(connection, shown)
    except sa.exc.OperationalError:
        raise
    except sa.exc.DatabaseError as error:
        raise CatalogError(
            f"the catalog {shown} is corrupt ({first_line(error)}); restore a backup"
        ) from error


def _sqlite_verdict(connection: sa.Connection, path: Path, size: int) -> str:
    connection.exec_driver_sql(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
    page_size = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
    log = Path(f"{path}-wal")
    # With a write-ahead log, the last page may not be in the file yet.
    if size % page_size and not (log.exists() and log.stat().st_size):
        return "the file is cut off"
    if size > _QUICK_CHECK_BYTES:
        return "ok"
    # SQLite may report a finding in several lines: they are joined.
    return " ".join(str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()).split())


def _config(connection: sa.Connection | None = None) -> Config:
    config = Config(attributes={"connection": connection})
    # In an Alembic option, % begins a variable.
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    return config


@cache
def _newest_first() -> tuple[str, ...]:
    """All revisions of the schema, the current one first. A process reads the files of the migrations once."""
    return tuple(revision.revision for revision in ScriptDirectory.from_config(_config()).walk_revisions())


def _revisions(connection: sa.Connection, shown: str) -> tuple[str, ...]:
    """The rows of alembic_version, none for an empty database.

    Raises CatalogError when the database is not a catalog, or was migrated by a newer program.
    """
    tables = set(sa.inspect(connection).get_table_names())
    if tables and not {source_performers.name, "alembic_version"} <= tables:
        raise CatalogError(
            f"{shown} is not a catalog but another database: it has tables, but not those of a catalog"
        )
    noted = MigrationContext.configure(connection).get_current_heads()
    unknown = set(noted).difference(_newest_first())
    if unknown:
        raise CatalogError(
            f"the catalog {shown} was made by a newer program (revision {min(unknown)}); upgrade stash-sense"
        )
    return noted


def _migrate(engine: sa.Engine, shown: str) -> None:
    with engine.connect() as connection:
        if _revisions(connection, shown) == _newest_first()[:1]:
            return
    # Several processes may start at once. The first one migrates; the others wait and find the catalog migrated.
    with _migrating(engine), writing(engine.execution_options(replaces_tables=True)) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(7305215331)"))
        noted = _revisions(connection, shown)
        if len(noted) > 1:
            _repair_revisions(connection, noted, shown)
        command.upgrade(_config(connection), "head")
        check_references(connection, shown)


@contextmanager
def _migrating(engine: sa.Engine) -> Iterator[None]:
    """Holds the lock of a SQLite file. The migration of a large file takes longer than the busy timeout."""
    database = engine.url.database
    on_file = engine.dialect.name == "sqlite" and database not in (None, "", ":memory:")
    with holding_lock(_lock_file(Path(str(database)))) if on_file else nullcontext():
        yield


def _lock_file(path: Path) -> Path:
    path = path.resolve()
    return path.with_name(f".{path.name}.lock")


def _repair_revisions(connection: sa.Connection, noted: Collection[str], shown: str) -> None:
    """Replaces several rows in alembic_version by one: the newest of these revisions that matches the tables.

    Alembic refuses a database with several rows. Raises CatalogError, and changes nothing, when the tables match none
    of the revisions.
    """
    newest_first = [revision for revision in _newest_first() if revision in noted]
    found = _columns(connection)
    for revision in newest_first:
        if found == _columns_at(revision):
            break
    else:
        raise CatalogError(
            f"the catalog {shown} records the revisions {', '.join(newest_first)}, and its tables match none of them; "
            "restore a backup"
        )
    connection.exec_driver_sql("DELETE FROM alembic_version")
    version = sa.table("alembic_version", sa.column("version_num"))
    connection.execute(sa.insert(version).values(version_num=revision))
    logging.getLogger(__name__).warning(
        "the catalog %s noted its revision %d times (%s); its tables match %s, which is noted now",
        shown,
        len(noted),
        ", ".join(noted),
        revision,
    )


def _columns(connection: sa.Connection) -> set[tuple[str, str]]:
    """Table and name of every column and of every index of the catalog."""
    inspector = sa.inspect(connection)
    names = [name for name in inspector.get_table_names() if name != "alembic_version"]
    columns = {(table, column["name"]) for table in names for column in inspector.get_columns(table)}
    indexes = {
        (table, str(index["name"]))
        for table in names
        for index in inspector.get_indexes(table)
        # PostgreSQL lists the index of a constraint, SQLite does not.
        if not index.get("duplicates_constraint")
    }
    return columns | indexes


def _columns_at(revision: str) -> set[tuple[str, str]]:
    """The result of `_columns` for a catalog of this revision."""
    engine = _engine(sa.URL.create("sqlite"))
    try:
        with engine.begin() as connection:
            command.upgrade(_config(connection), revision)
            return _columns(connection)
    finally:
        engine.dispose()
