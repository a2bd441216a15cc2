import multiprocessing
import os
import sqlite3
import stat
import threading
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command

from stash_sense_pipeline.catalog import engine as engine_module
from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.purge import checkpoint
from stash_sense_pipeline.catalog.transactions import reading, shown_url, writing
from stash_sense_pipeline.foundation.errors import CatalogError
from stash_sense_pipeline.settings.environment import read_environment
from stash_sense_pipeline_tests.catalog_copies import new_catalog

NOW = datetime(2026, 11, 20, tzinfo=UTC)


def add(engine, *sources):
    with writing(engine) as connection:
        connection.execute(sa.insert(schema.sync_state), [{"source": source} for source in sources])


def sources(connection):
    return set(connection.scalars(sa.select(schema.sync_state.c.source)))


def stored(engine):
    with reading(engine) as connection:
        return sources(connection)


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


# --- opening ---


@pytest.mark.slow
def test_a_catalog_that_is_opened_again_holds_what_was_stored(any_catalog_url):
    first = open_catalog(any_catalog_url)
    add(first, "a")
    first.dispose()
    second = open_catalog(any_catalog_url)
    assert stored(second) == {"a"}
    second.dispose()


def test_a_new_file_is_for_its_owner_only_and_leaves_nothing_beside_it(tmp_path):
    old = os.umask(0)
    try:
        engine = open_catalog(f"sqlite:///{tmp_path}/new/folder/catalog.db")
        add(engine, "a")
    finally:
        os.umask(old)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new/folder").iterdir()}
    assert modes == dict.fromkeys(["catalog.db", "catalog.db-wal", "catalog.db-shm"], 0o600)
    engine.dispose()
    assert list(content(tmp_path / "new/folder")) == ["catalog.db"]


@pytest.mark.parametrize("name", ["with space.db", "50%.db", "50%25.db", "a#b.db", "what?.db", "naïve 人.db"])
def test_a_catalog_file_may_have_any_name(tmp_path, name):
    for _ in range(2):
        engine = open_catalog(read_environment({"DATA_DIR": str(tmp_path / name)}, tmp_path).catalog_url)
        stored(engine)
        engine.dispose()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert list(content(tmp_path / name)) == ["catalog.db"]


@pytest.mark.slow
def test_a_catalog_is_opened_at_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        open_catalog("sqlite:///data/catalog.db").dispose()
    assert (tmp_path / "data" / "catalog.db").exists()


def test_sqlite_runs_with_wal_foreign_keys_and_a_busy_timeout(catalog):
    wanted = {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 30_000, "secure_delete": 1}
    with catalog.connect() as one, catalog.connect() as two:
        for connection in (one, two):
            found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in wanted}
            assert found == wanted


def test_a_row_that_violates_a_foreign_key_is_refused(any_catalog):
    alias = sa.insert(schema.performer_aliases).values(source="s", source_id="1", alias="a")
    with pytest.raises(sa.exc.IntegrityError), writing(any_catalog) as connection:
        connection.execute(alias)


def test_deleting_a_record_deletes_its_aliases_urls_and_images(any_catalog):
    with writing(any_catalog) as connection:
        record = {"source": "s", "source_id": "1", "first_seen_at": NOW, "changed_at": NOW}
        connection.execute(sa.insert(schema.source_performers).values(record))
        connection.execute(sa.insert(schema.performer_aliases).values(source="s", source_id="1", alias="a"))
    with writing(any_catalog) as connection:
        connection.execute(sa.delete(schema.source_performers))
    with reading(any_catalog) as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(schema.performer_aliases)) == 0


# --- refusing ---


def filled_catalog(path):
    new_catalog(path, add_3000_rows).dispose()
    return path


def add_3000_rows(engine):
    add(engine, *(f"source-{number:05d}" for number in range(3000)))


def overwrite_middle(data):
    page = int.from_bytes(data[16:18], "big")
    middle = len(data) // 2 // page * page
    return data[:middle] + b"\xaa" * 2 * page + data[middle + 2 * page :]


DAMAGES = {
    "overwritten middle": overwrite_middle,
    "overwritten head": lambda data: b"\xaa" * 4096 + data[4096:],
    "truncated": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "zeros": lambda data: bytes(len(data)),
    "nothing": lambda data: b"",
    "text": lambda data: b"This is not a database.\n" * 100,
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_corrupt_file_is_refused_and_left_as_it_was(tmp_path, damage):
    path = filled_catalog(tmp_path / "catalog.db")
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    before = content(tmp_path)
    with pytest.raises(CatalogError, match=r"catalog\.db.*restore a backup") as error:
        open_catalog(f"sqlite:///{path}")
    assert "\n" not in str(error.value)
    assert content(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["overwritten head", "zeros", "nothing", "text"])
def test_a_corrupt_file_that_is_too_large_to_be_read_whole_is_refused(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(engine_module, "_QUICK_CHECK_BYTES", 10)
    path = filled_catalog(tmp_path / "catalog.db")
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    before = content(tmp_path)
    with pytest.raises(CatalogError, match="restore a backup"):
        open_catalog(f"sqlite:///{path}")
    assert content(tmp_path) == before


@pytest.mark.slow
def test_a_write_ahead_log_that_a_crash_left_is_replayed(tmp_path):
    engine = open_catalog(f"sqlite:///{tmp_path / 'catalog.db'}")
    add(engine, "a")
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for name, data in content(tmp_path).items():
        if not name.endswith("-shm"):
            (crashed / name).write_bytes(data)
    engine.dispose()
    again = open_catalog(f"sqlite:///{crashed / 'catalog.db'}")
    assert stored(again) == {"a"}
    again.dispose()


def make_newer(engine):
    with writing(engine) as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'f00d'")


@pytest.mark.slow
def test_the_catalog_of_a_newer_program_is_refused(any_catalog_url):
    engine = open_catalog(any_catalog_url)
    make_newer(engine)
    engine.dispose()
    with pytest.raises(CatalogError, match=r"made by a newer program \(revision f00d\); upgrade stash-sense"):
        open_catalog(any_catalog_url)


def test_the_file_of_a_newer_program_is_left_as_it_was(tmp_path):
    engine = open_catalog(f"sqlite:///{tmp_path / 'catalog.db'}")
    make_newer(engine)
    engine.dispose()
    before = content(tmp_path)
    with pytest.raises(CatalogError):
        open_catalog(f"sqlite:///{tmp_path / 'catalog.db'}")
    assert content(tmp_path) == before


FOREIGN = {
    "tables": ["CREATE TABLE notes (text TEXT)", "INSERT INTO notes VALUES ('mine')"],
    "alembic": [
        "CREATE TABLE notes (text TEXT)",
        "CREATE TABLE alembic_version (version_num TEXT)",
        "INSERT INTO alembic_version VALUES ('0001')",
    ],
    "alembic of another": [
        "CREATE TABLE runs (id INTEGER)",
        "CREATE TABLE alembic_version (version_num TEXT)",
        "INSERT INTO alembic_version VALUES ('9fe9e746268c')",
    ],
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_the_file_of_another_program_is_refused_and_left_as_it_was(tmp_path, kind):
    with sqlite3.connect(tmp_path / "notes.db") as connection:
        for statement in FOREIGN[kind]:
            connection.execute(statement)
    connection.close()
    before = content(tmp_path)
    with pytest.raises(CatalogError, match=r"notes\.db is not a catalog but another database"):
        open_catalog(f"sqlite:///{tmp_path / 'notes.db'}")
    assert content(tmp_path) == before


@pytest.mark.postgres
@pytest.mark.parametrize("kind", FOREIGN)
def test_the_postgresql_database_of_another_program_is_refused(postgres_database, kind):
    server = sa.create_engine(postgres_database)
    with server.begin() as connection:
        for statement in FOREIGN[kind]:
            connection.exec_driver_sql(statement)
    with pytest.raises(CatalogError, match="is not a catalog but another database"):
        open_catalog(postgres_database)
    assert "source_performers" not in sa.inspect(server).get_table_names()
    server.dispose()


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("catalog.db", "the catalog URL is not a database URL"),
        ("", "the catalog URL is not a database URL"),
        ("mysql://u:hunter2@127.0.0.1/x", "sqlite and postgresql"),
        ("nonsense://u:hunter2@127.0.0.1/x", "sqlite and postgresql"),
        ("postgresql+nonsense://u:hunter2@127.0.0.1/x", "cannot open the catalog"),
        ("postgresql+psycopg2://u:hunter2@127.0.0.1:1/x", "cannot open the catalog .*refused"),
        ("sqlite:////proc/nowhere/catalog.db", "cannot open the catalog .*nowhere"),
    ],
)
def test_a_bad_url_is_one_line_without_its_password(url, complaint):
    with pytest.raises(CatalogError, match=complaint) as error:
        open_catalog(url)
    assert "hunter2" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_directory_is_refused_but_not_called_corrupt(tmp_path):
    with pytest.raises(CatalogError, match=r"cannot open the catalog .*unable to open"):
        open_catalog(f"sqlite:///{tmp_path}")


@pytest.mark.postgres
def test_a_postgresql_url_needs_no_driver_name(postgres_database):
    open_catalog(postgres_database.replace("postgresql+psycopg2://", "postgresql://")).dispose()


# --- several revisions noted ---


def make_at(url, revision):
    """A catalog with the schema of an earlier program."""
    parsed = engine_module._parse(url)
    config = engine_module._config()
    engine = engine_module._engine(parsed)
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    return engine


def note(engine, *revisions):
    """Puts these rows into alembic_version, as concurrent migrations without a lock would; one may be there twice."""
    with writing(engine) as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        version = sa.table("alembic_version", sa.column("version_num"))
        connection.execute(sa.insert(version), [{"version_num": revision} for revision in revisions])
    engine.dispose()


def noted(engine):
    with reading(engine) as connection:
        return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars().all()


HEADS = list(engine_module._newest_first()[:1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("real", "rows"),
    [
        (HEADS[0], [HEADS[0], "0005"]),
        (HEADS[0], ["0001", HEADS[0]]),
        (HEADS[0], [HEADS[0], HEADS[0]]),
        (HEADS[0], ["0003", "0004", HEADS[0]]),
        # The newer row is wrong: its migration never ran.
        ("0004", ["0004", HEADS[0]]),
        ("0004", ["0004", "0004"]),
    ],
)
def test_a_catalog_that_notes_several_revisions_is_usable_again(any_catalog_url, caplog, real, rows):
    note(make_at(any_catalog_url, real), *rows)
    engine = open_catalog(any_catalog_url)
    add(engine, "a")
    assert noted(engine) == HEADS
    with reading(engine) as connection:
        assert engine_module._columns(connection) == engine_module._columns_at(HEADS[0])
    engine.dispose()
    (line,) = [
        record.getMessage() for record in caplog.records if "noted its revision" in record.getMessage()
    ]
    assert real in line
    caplog.clear()
    open_catalog(any_catalog_url).dispose()
    assert not [record for record in caplog.records if "noted its revision" in record.getMessage()]


@pytest.mark.slow
def test_a_catalog_with_tables_that_match_no_noted_revision_is_refused(any_catalog_url):
    engine = make_at(any_catalog_url, "0004")
    note(engine, "0001", HEADS[0])
    with pytest.raises(CatalogError, match=r"records the revisions .*restore a backup"):
        open_catalog(any_catalog_url)
    assert sorted(noted(engine)) == ["0001", *HEADS]
    engine.dispose()


def test_a_link_to_a_missing_file_stays_a_link(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "catalog.db").symlink_to(tmp_path / "elsewhere" / "mine.db")
    engine = open_catalog(f"sqlite:///{tmp_path / 'data' / 'catalog.db'}")
    add(engine, "a")
    engine.dispose()
    assert (tmp_path / "data" / "catalog.db").is_symlink()
    assert list(content(tmp_path / "elsewhere")) == ["mine.db"]


# --- transactions ---


def test_a_transaction_is_stored_completely_or_not_at_all(any_catalog):
    def fail():
        with writing(any_catalog) as connection:
            connection.execute(sa.insert(schema.sync_state).values(source="a"))
            assert sources(connection) == {"a"}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert stored(any_catalog) == set()
    add(any_catalog, "b")
    assert stored(any_catalog) == {"b"}


def test_a_reader_keeps_its_snapshot_and_does_not_block_writers(any_catalog):
    add(any_catalog, "a")
    with reading(any_catalog) as reader:
        assert sources(reader) == {"a"}
        # A writer that the reader blocked would end with an error on SQLite, and never on PostgreSQL.
        add(any_catalog, "b")
        assert sources(reader) == {"a"}
    assert stored(any_catalog) == {"a", "b"}


def test_a_writer_holds_the_lock_before_its_first_statement(catalog, tmp_path):
    """The data that a writer reads first cannot change before it writes."""
    other = sqlite3.connect(tmp_path / "catalog.db", timeout=0, isolation_level=None)
    with writing(catalog), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    other.execute("BEGIN IMMEDIATE")
    other.rollback()
    with reading(catalog) as connection:
        sources(connection)
        other.execute("BEGIN IMMEDIATE")
    other.close()


def test_no_update_is_lost_when_four_threads_write_at_once(any_catalog):
    """No update is lost when four threads read, change and write at the same time."""
    add(any_catalog, "a")
    with writing(any_catalog) as connection:
        connection.execute(sa.update(schema.sync_state).values(last_message="0"))

    def count_up():
        for _ in range(10):
            with writing(any_catalog) as connection:
                row = sa.select(schema.sync_state.c.last_message).with_for_update()
                number = int(connection.scalar(row))
                connection.execute(sa.update(schema.sync_state).values(last_message=str(number + 1)))

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with reading(any_catalog) as connection:
        assert connection.scalar(sa.select(schema.sync_state.c.last_message)) == "40"


@pytest.mark.slow
def test_a_catalog_that_stays_locked_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_module, "_BUSY_TIMEOUT_MS", 50)
    engine = open_catalog(f"sqlite:///{tmp_path / 'catalog.db'}")
    other = sqlite3.connect(tmp_path / "catalog.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(CatalogError, match=r"catalog\.db.*database is locked"), writing(engine):
        pass
    other.rollback()
    other.close()
    add(engine, "a")
    engine.dispose()


def test_an_error_of_the_database_holds_no_name(catalog):
    """The run history keeps the text of the error of a failed step."""
    row = {"source": "s", "name": "Zq Person", "raw": {"about": "zq" * 100_000}}
    rows = [{**row, "source_id": f"zqid{n}", "first_seen_at": NOW, "changed_at": NOW} for n in range(9)]
    with catalog.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1")
        with pytest.raises(sa.exc.OperationalError) as failed:
            connection.execute(sa.insert(schema.source_performers), rows)
    assert "disk is full" in str(failed.value)
    assert "zq" not in str(failed.value).casefold()


def test_a_checkpoint_empties_the_log_unless_a_reader_is_active(catalog, tmp_path):
    add(catalog, "a")
    log = tmp_path / "catalog.db-wal"
    assert log.stat().st_size > 0
    assert checkpoint(catalog)
    assert log.stat().st_size == 0
    add(catalog, "b")
    assert stored(catalog) == {"a", "b"}


@pytest.mark.slow
def test_a_checkpoint_returns_false_when_a_reader_is_active(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_module, "_BUSY_TIMEOUT_MS", 50)
    engine = open_catalog(f"sqlite:///{tmp_path / 'catalog.db'}")
    add(engine, "a")
    with reading(engine) as connection:
        sources(connection)
        add(engine, "b")
        assert not checkpoint(engine)
    assert checkpoint(engine)
    engine.dispose()


@pytest.mark.postgres
def test_a_checkpoint_returns_true_on_postgresql(postgres_database):
    engine = open_catalog(postgres_database)
    assert checkpoint(engine)
    engine.dispose()


# --- several processes at once ---

RACERS = 4
ROUNDS = 5


@pytest.fixture(scope="module")
def racers():
    """Processes that open catalogs at the same time. Each task waits until all processes have one."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(RACERS, context, initializer=meet, initargs=(context.Barrier(RACERS),)) as pool:
        yield pool


@cache
def meeting_point():
    """Holds the barrier of a process of the pool."""
    return []


def meet(barrier):
    meeting_point().append(barrier)


def race(urls, name):
    (barrier,) = meeting_point()
    for url in urls:
        barrier.wait(timeout=280)
        engine = open_catalog(url)
        add(engine, name)
        engine.dispose()


def run_race(racers, urls):
    names = [f"process-{number}" for number in range(RACERS)]
    tasks = [racers.submit(race, urls, name) for name in names]
    assert [task.exception() for task in tasks] == [None] * RACERS
    for url in urls:
        engine = open_catalog(url)
        assert stored(engine) == set(names)
        engine.dispose()


@pytest.mark.slow
def test_four_processes_at_once_make_one_good_file(racers, tmp_path: Path):
    run_race(racers, [f"sqlite:///{tmp_path / str(number) / 'catalog.db'}" for number in range(ROUNDS)])
    for number in range(ROUNDS):
        assert list(content(tmp_path / str(number))) == ["catalog.db"]


@pytest.mark.slow
@pytest.mark.postgres
def test_four_processes_at_once_make_one_good_database(racers, postgres_database):
    run_race(racers, [postgres_database])


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret-word@db/catalog",
        "postgresql://db/catalog?user=me&password=s3cret-word",
        "postgresql://db/catalog?sslpassword=s3cret-word&passfile=s3cret-word",
        "postgresql://db/catalog?sslkey=s3cret-word",
    ],
)
def test_a_shown_url_holds_no_password_in_any_part(url):
    shown = shown_url(sa.make_url(url))
    assert "s3cret-word" not in shown
    assert "/catalog" in shown


def test_a_catalog_that_cannot_be_reached_does_not_show_its_password():
    with pytest.raises(CatalogError) as caught:
        open_catalog("postgresql://127.0.0.1:9/catalog?password=s3cret-word")
    assert "s3cret-word" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [[], ["0004", HEADS[0]]])
def test_four_processes_at_once_migrate_an_older_catalog_once(racers, any_catalog_url, rows):
    engine = make_at(any_catalog_url, "0004")
    if rows:
        note(engine, *rows)
    engine.dispose()
    run_race(racers, [any_catalog_url])
    engine = open_catalog(any_catalog_url)
    assert noted(engine) == HEADS
    engine.dispose()
