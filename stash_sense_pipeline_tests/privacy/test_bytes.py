"""No byte of hundreds of erased people is in any file: the catalog, its log, reports, on SQLite and PostgreSQL."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
import threading
from datetime import UTC, date, datetime
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
import yaml

from stash_sense_pipeline.catalog import purge, schema, transactions
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.purge import is_purge_pending, overwrite_deleted, request_purge, rewrite
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.privacy import erasure
from stash_sense_pipeline.privacy.enforcement import enforce_suppressions
from stash_sense_pipeline.privacy.suppression.suppression_file import SuppressionEntry
from stash_sense_pipeline.privacy.suppression.suppression_import import add_suppressions
from stash_sense_pipeline.privacy.suppression.suppression_key import load_or_create_key
from stash_sense_pipeline.settings.environment import Environment, read_environment
from stash_sense_pipeline_tests.privacy.test_erasure import Writer, files_of_a_server

NOW = datetime(2026, 11, 20, 4, 5, 6, tzinfo=UTC)
PEOPLE = 400
# Row by row over a connection: fewer on a server.
PEOPLE_ON_A_SERVER = 200
SOURCES = ["boxa", "boxb"]
# Ids as sources make them: a uuid, a slug, letters of other scripts, quotes, characters that a URL escapes, capitals.
KINDS = ("{}", "zq-{}", "Zoë-{}-Ünal", "葵-{}", "o'{}\"x", "a b,{}", "x%20{}&y", "ẞ{}İ", "back\\{}")


class Population:
    """People with two records each, and all rows and lines about them in the catalog and in files."""

    def __init__(self, count: int = PEOPLE, seed: int = 11) -> None:
        rng = random.Random(seed)
        self.tokens = [f"{rng.getrandbits(64):016x}" for _ in range(count)]
        self.ids = [KINDS[number % len(KINDS)].format(token) for number, token in enumerate(self.tokens)]
        self.order = rng.sample(range(count), count)

    def store(self, connection: sa.Connection, numbers: list[int]) -> None:
        world = Writer(connection)
        for number in numbers:
            each = self.ids[number]
            for source in SOURCES:
                page = f"https://www.freeones.com/{source}-{quote(each)}"
                world.record(source, each, urls=[page, f"https://shared.example/{number % 3}"])
                world.image(source, f"picture-{each}", each)
            ids = [(source, each) for source in SOURCES]
            performer = world.identity(*ids)
            world.evidence(*ids)
            # The log, the progress and the evidence of others name this person too.
            other = world.insert(schema.identities, created_at=NOW)
            because = [f"profile_url freeones:x (boxa:{each}, boxb:someone)"]
            detail = {"member": ["boxa", each], "because": because, "from": performer}
            world.insert(schema.identity_log, at=NOW, performer_id=other, event="joined", detail=detail)

    def name_in_states(self, connection: sa.Connection) -> None:
        for source in SOURCES:
            detail = {
                "missing": {"ids": self.ids},
                "unread": self.ids[:50],
                "seen": dict.fromkeys(self.ids, 1),
            }
            values = {
                "source": source,
                "detail": detail,
                "last_message": f"cannot read {source}:{self.ids[5]}",
            }
            connection.execute(sa.insert(schema.sync_state).values(**values))

    def write_texts(self, data_dir: Path) -> None:
        """Writes each person into a line of each kind of file, in each way of writing."""
        for name, forms in {
            "review/identity.md": lambda text: f"| boxa:{text} | weak |".replace("|", "\\|", 0),
            "logs/run.log": lambda text: f"GET https://box.example/performers/{quote(text)}",
            "reports/a.jsonl": lambda text: json.dumps({"id": text}),
            "logs/lower.log": lambda text: f"kept name-of-{text}".casefold(),
            "releases/2026.11.19.report/report.md": lambda text: f"- Name-of-{text} (7)",
            "releases/2026.11.19.report/report.html": lambda text: (
                f"<tr><td>{escape(f'Name-of-{text}')}</td><td>7</td></tr>"
            ),
        }.items():
            path = data_dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(forms(each) + "\n" for each in self.ids))
        (data_dir / "review" / ".identity.csv.4711.tmp").write_text("\n".join(self.ids))
        pairs = [[f"boxa:{each}", f"boxb:{each}"] for each in self.ids]
        (data_dir / "identity_overrides.yaml").write_text(
            "# Mine.\n" + yaml.safe_dump({"must_link": pairs}, allow_unicode=True, default_flow_style=None)
        )
        (data_dir / "staging" / "next").mkdir(parents=True)
        (data_dir / "staging" / "next" / "faces.json").write_text(json.dumps(self.ids))


def environment_in(data_dir: Path, url: str) -> Environment:
    return read_environment({"DATA_DIR": str(data_dir), "STASH_SENSE_CATALOG_URL": url}, data_dir)


def suppress(engine: sa.Engine, environment: Environment, people: list[str]) -> None:
    key = load_or_create_key(environment.suppression_key_file)
    entries = [SuppressionEntry(f"boxa:{each}", "asked", date(2026, 11, 20)) for each in people]
    with writing(engine) as connection:
        add_suppressions(connection, key, entries)


# At least as many hexadecimal digits as a token has.
_DIGITS = re.compile(rb"[0-9a-f]{16,}")


def found_in(directory: Path, tokens: list[str]) -> dict[str, int]:
    """How many of the tokens are in each file; a token is of hexadecimal digits, which no way of writing changes."""
    wanted = {token.encode() for token in tokens}
    counts = {}
    for name, content in files_of_a_server(directory):
        data, found = content.lower(), set()
        # Without zeros a text in UTF-16 is the text in ASCII.
        for form in (data, data.replace(b"\0", b"")):
            for run in _DIGITS.findall(form):
                found |= wanted & {run[at : at + 16] for at in range(len(run) - 15)}
        if found:
            counts[name] = len(found)
    return counts


def test_a_token_is_found_in_every_way_of_writing_it(tmp_path: Path) -> None:
    token, other = "0123456789abcdef", "fedcba9876543210"
    ways = {
        "plain": f"x{token}y".encode(),
        "capitals": token.upper().encode(),
        "between digits": f"00{token}99".encode(),
        "two in one": f"{other}{token}".encode(),
        "wide": f"zq-{token}".encode("utf-16-le"),
        "wide and odd": b"\xff" + token.encode("utf-16-le"),
        "other": other.encode(),
        "cut": token[:15].encode() + b" " + token[15:].encode(),
    }
    for name, content in ways.items():
        (tmp_path / name).write_bytes(content)
    assert found_in(tmp_path, [token]) == dict.fromkeys(ways.keys() - {"other", "cut"}, 1)
    assert found_in(tmp_path, [token, other])["two in one"] == 2


@pytest.fixture
def data_dir(tmp_path: Path, catalog_file: Path) -> Path:
    """A data directory with an empty catalog."""
    directory = tmp_path / "data"
    directory.mkdir()
    shutil.copy2(catalog_file, directory / "catalog.db")
    return directory


def filled(url: str, data_dir: Path, count: int) -> tuple[sa.Engine, Population]:
    engine, people = open_catalog(url), Population(count)
    # In many transactions and not in order, so that pages are split, merged and used again.
    for start in range(0, count, 40):
        with writing(engine) as connection:
            people.store(connection, people.order[start : start + 40])
    with writing(engine) as connection:
        people.name_in_states(connection)
    people.write_texts(data_dir)
    return engine, people


@pytest.mark.slow
def test_no_byte_of_hundreds_of_people_is_left_in_the_data_directory(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{data_dir / 'catalog.db'}"
    engine, people = filled(url, data_dir, PEOPLE)
    environment = environment_in(data_dir, url)
    leaving = people.order[::2]
    gone = [people.tokens[number] for number in leaving]
    staying = [people.tokens[number] for number in people.order[1::2]]
    assert len(found_in(data_dir, gone)) >= 8

    # As after a kill right after the commit: deleted rows are overwritten, but their copies in unused parts of pages stay.
    monkeypatch.setattr(erasure, "overwrite_deleted", lambda engine: purge.checkpoint(engine) and None)
    for part in range(0, len(leaving), 60):
        suppress(engine, environment, [people.ids[number] for number in leaving[part : part + 60]])
        enforce_suppressions(engine, environment, SOURCES, NOW)
    assert set(found_in(data_dir, gone)) == {"catalog.db"}
    assert is_purge_pending(engine)
    monkeypatch.undo()

    # This one erases nothing, but rebuilds the file.
    erased = enforce_suppressions(engine, environment, SOURCES, NOW).erased
    assert (erased.is_empty, erased.bytes_left, is_purge_pending(engine)) == (True, None, False)
    assert found_in(data_dir, gone) == {}
    assert found_in(data_dir, staying)["catalog.db"] == len(staying)
    assert found_in(data_dir, staying)["logs/run.log"] == len(staying)
    assert found_in(data_dir, staying)["identity_overrides.yaml"] == len(staying)
    assert (data_dir / "identity_overrides.yaml").read_text().startswith("# Mine.\n")
    engine.dispose()


@pytest.mark.slow
@pytest.mark.postgres
def test_no_byte_of_hundreds_of_people_is_left_in_the_files_of_a_server(
    data_dir: Path, postgres_catalog_url: str
) -> None:
    engine, people = filled(postgres_catalog_url, data_dir, PEOPLE_ON_A_SERVER)
    environment = environment_in(data_dir, postgres_catalog_url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
        server = Path(connection.exec_driver_sql("SHOW data_directory").scalar_one())
    leaving = people.order[::2]
    gone = [people.tokens[number] for number in leaving]
    suppress(engine, environment, [people.ids[number] for number in leaving])
    erased = enforce_suppressions(engine, environment, SOURCES, NOW).erased
    assert erased.records == 2 * len(leaving)
    assert found_in(data_dir, gone) == {}
    assert found_in(server, gone)
    assert is_purge_pending(engine)
    assert rewrite(engine)
    assert not is_purge_pending(engine)
    assert found_in(server, gone) == {}
    engine.dispose()


@pytest.mark.slow
def test_ids_with_any_characters_are_removed_from_the_json_of_others(
    any_catalog: sa.Engine, tmp_path: Path
) -> None:
    """A comparison of the stored text would compare the escapes of JSON."""
    people = Population()
    with writing(any_catalog) as connection:
        people.store(connection, list(range(18)))
        people.name_in_states(connection)
        world = Writer(connection)
        for number in range(18):
            # Raw fields of another person, and evidence between two others on a page of the erased one.
            world.record("boxc", f"other-{number}")
            raw = {"friend": people.ids[number], "friends": [people.ids[number], "stays"]}
            of_other = schema.source_performers.c.source_id == f"other-{number}"
            connection.execute(sa.update(schema.source_performers).where(of_other).values(raw=raw))
            row = {
                "source_a": "boxc",
                "source_id_a": "other-1",
                "source_b": "boxd",
                "source_id_b": str(number),
            }
            row |= {"kind": "profile", "key": f"boxa:{people.ids[number].casefold()}", "weight": 1.0}
            row |= {"verdict": "refused", "reason": None, "first_seen_at": NOW}
            connection.execute(sa.insert(schema.identity_evidence).values(**row))
            row |= {"kind": "image", "key": "k", "reason": f"conflict with boxb:{people.ids[number]}"}
            connection.execute(sa.insert(schema.identity_evidence).values(**row))
            world.insert(
                schema.identity_hubs, digest=number, key=f"boxa:{people.ids[number].casefold()}", holders=9
            )
    environment = environment_in(tmp_path, any_catalog.url.render_as_string(hide_password=False))
    suppress(any_catalog, environment, people.ids[:9])
    enforce_suppressions(any_catalog, environment, SOURCES, NOW)
    with reading(any_catalog) as connection:
        values: list[Any] = [
            tuple(row)
            for table in schema.metadata.sorted_tables
            for row in connection.execute(sa.select(table))
        ]
        raws = connection.scalars(
            sa.select(schema.source_performers.c.raw).where(schema.source_performers.c.source == "boxc")
        ).all()
    everything = repr(values).lower()
    assert [token for token in people.tokens[:9] if token in everything] == []
    assert [token for token in people.tokens[9:18] if token not in everything] == []
    assert {"friends": ["stays"]} in raws
    assert "(erased)" in everything


def test_erasing_an_id_that_is_a_prefix_of_another_leaves_the_other(
    any_catalog: sa.Engine, tmp_path: Path
) -> None:
    with writing(any_catalog) as connection:
        world = Writer(connection)
        for each in ("anna", "anna-maria", "7"):
            world.record("boxa", each)
            world.identity(("boxa", each))
        detail = {"because": ["profile x (boxa:anna-maria, boxa:77)"], "from": 7, "members": [["boxb", "70"]]}
        world.insert(schema.identity_log, at=NOW, performer_id=99, event="joined", detail=detail)
        world.insert(schema.sync_state, source="boxa", detail={"unread": ["anna-maria", "77"], "count": 7})
    environment = environment_in(tmp_path, any_catalog.url.render_as_string(hide_password=False))
    suppress(any_catalog, environment, ["anna", "7"])
    enforce_suppressions(any_catalog, environment, SOURCES, NOW)
    with reading(any_catalog) as connection:
        log = connection.scalars(sa.select(schema.identity_log.c.detail)).all()
        assert detail in log
        assert connection.scalar(sa.select(schema.sync_state.c.detail)) == {
            "unread": ["anna-maria", "77"],
            "count": 7,
        }


@pytest.mark.slow
def test_a_rebuild_that_readers_writers_or_a_full_disk_prevent_is_reported_and_done_later(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "_LOG_TIMEOUT", 0.2)
    engine = open_catalog(f"sqlite:///{data_dir / 'catalog.db'}")
    other = open_catalog(f"sqlite:///{data_dir / 'catalog.db'}")
    with writing(engine) as connection:
        Writer(connection).record("boxa", "anna")
        request_purge(connection, NOW)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=200")
    with reading(other) as connection:
        connection.execute(sa.select(schema.faces)).all()
        assert overwrite_deleted(engine) == "another process is reading the catalog"
        assert is_purge_pending(engine)
    with writing(other):
        assert str(overwrite_deleted(engine)).startswith("the file cannot be rebuilt now: database is locked")
    monkeypatch.setattr(purge, "_COPIES", 1 << 40)
    assert "GiB free in" in str(overwrite_deleted(engine))
    monkeypatch.undo()
    assert overwrite_deleted(engine) is None
    assert not is_purge_pending(engine)
    assert sorted(path.name for path in data_dir.iterdir() if path.name.startswith("etilqs")) == []
    engine.dispose()
    other.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 40, 400])
def test_a_kill_inside_a_rebuild_leaves_the_catalog_as_it_was(data_dir: Path, steps: int) -> None:
    url = f"sqlite:///{data_dir / 'catalog.db'}"
    engine = open_catalog(url)
    with writing(engine) as connection:
        world = Writer(connection)
        for number in range(300):
            world.record("boxa", f"{number}", urls=[f"https://others.example/{number}/{'x' * 200}"])
        request_purge(connection, NOW)
    engine.dispose()
    killed = subprocess.run([sys.executable, "-c", KILLED, url, str(steps)], check=False)
    assert killed.returncode == 9
    engine = open_catalog(url)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
        assert connection.scalar(sa.select(sa.func.count()).select_from(schema.source_performers)) == 300
    assert is_purge_pending(engine)
    assert overwrite_deleted(engine) is None
    assert not is_purge_pending(engine)
    engine.dispose()


KILLED = """
import os, sys
import sqlalchemy as sa
from stash_sense_pipeline.catalog import purge
from stash_sense_pipeline.catalog.engine import open_catalog
engine = open_catalog(sys.argv[1])
def armed(engine, directory):
    with engine.connect() as connection:
        raw = connection.connection.driver_connection
        raw.set_progress_handler(lambda: os._exit(9), int(sys.argv[2]))
        raw.execute("VACUUM")
purge._vacuum = armed
purge.overwrite_deleted(engine)
"""


@pytest.mark.slow
def test_a_writer_waits_as_long_as_a_rebuild_lasts(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not give up after its own lock timeout, as it does for other writers."""
    engine = open_catalog(f"sqlite:///{data_dir / 'catalog.db'}")
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=50")
    began, timed_out = threading.Event(), threading.Event()
    is_rebuilt = transactions._rebuilt_since

    def asked(of: sa.Engine, moment: float) -> bool:
        found = is_rebuilt(of, moment)
        timed_out.set()
        return found

    monkeypatch.setattr(transactions, "_rebuilt_since", asked)

    def rebuild() -> None:
        rebuilder = open_catalog(f"sqlite:///{data_dir / 'catalog.db'}")
        lock = purge.rebuild_lock(rebuilder)
        assert lock is not None
        with purge._holding_rebuild_lock(lock), writing(rebuilder):
            began.set()
            # Longer than the writer's own timeout.
            timed_out.wait(200)
        rebuilder.dispose()

    thread = threading.Thread(target=rebuild)
    thread.start()
    assert began.wait(200)
    with writing(engine) as connection:
        Writer(connection).record("boxa", "anna")
    assert timed_out.is_set()
    thread.join(200)
    engine.dispose()
