"""Commands that look: status, settings show, sources reset, the JSON of every list, and what no look may change."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.queries.sync_state import MASS_REFUSAL
from stash_sense_pipeline.catalog.schema import site_visits, source_images, sync_state
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.cli import main
from stash_sense_pipeline.foundation.errors import KEY_REFUSED
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.sources.reference_sites.enrichment.field_counts import (
    FIELDS,
    FieldHistory,
    PageCounts,
)

SOURCES = """
global:
  user_agent_contact: me@example.org
stash_boxes:
  stashdb:
    rate_limit: 30
  fansdb: {}
reference_sites:
  babepedia:
    enabled: true
"""
KEYS = {"STASHDB_API_KEY": "secret-of-stashdb", "FANSDB_API_KEY": "secret-of-fansdb"}


def run(data: Path, *words: str, answer: str | None = None, **variables: str) -> Result:
    """Runs a command in this process on the data directory `data`."""
    data.parent.mkdir(exist_ok=True, parents=True)
    sources = data.parent / "sources.yaml"
    if not sources.exists():
        sources.write_text(SOURCES)
    environment: dict[str, str | None] = {
        "DATA_DIR": str(data), "STASH_SENSE_SOURCES": str(sources), **KEYS, **variables,
    }  # fmt: skip
    return CliRunner().invoke(main, list(words), env=environment, input=answer)


@pytest.fixture(scope="module")
def well(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory to copy, with three sources; each was read a moment ago without a failure."""
    directory = tmp_path_factory.mktemp("well")
    with_states(directory, *({"source": name} for name in ("stashdb", "fansdb", "babepedia")))
    return directory


@pytest.fixture
def data(tmp_path: Path, well: Path) -> Path:
    """Such a data directory of the test's own."""
    (tmp_path / "sources.yaml").write_text(SOURCES)
    return shutil.copytree(well, tmp_path / "data")


def with_states(data: Path, *states: dict[str, Any]) -> None:
    """Stores the states of sources; what is not given is well."""
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    well = {"last_sync_at": datetime.now(UTC), "last_outcome": "found", "last_message": None, "detail": {}}
    with writing(engine) as connection:
        for state in states:
            row = {**well, **state}
            connection.execute(sa.delete(sync_state).where(sync_state.c.source == row["source"]))
            connection.execute(sa.insert(sync_state), [row])
    engine.dispose()


def test_the_status_of_well_sources_fits_80_columns_and_its_check_passes(data: Path) -> None:
    result = run(data, "status", "--check")
    lines = result.output.splitlines()
    assert result.exit_code == 0, result.output
    assert lines[0].split() == ["source", "live", "complete", "waiting", "failed", "last", "read"]
    assert [line.split()[0] for line in lines[1:]] == ["stashdb", "fansdb", "babepedia"]
    assert all(re.search(r" \d+ (s|min) ago$", line) for line in lines[1:])
    assert max(map(len, lines)) <= 80


def _always(**state: Any) -> Callable[[datetime], dict[str, Any]]:
    return lambda now: state


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (lambda now: {"last_sync_at": now - timedelta(hours=40)}, "was not read for 40 h"),
        (
            _always(last_outcome="blocked", last_message=f"stashdb: {KEY_REFUSED} (blocked)"),
            "STASHDB_API_KEY",
        ),
        (_always(last_outcome="rate_limited"), "lower rate_limit of stashdb in sources.yaml"),
        (
            _always(last_outcome="ambiguous", last_message="30 of 40 performers are missing"),
            "--full-sweep",
        ),
        (
            _always(detail={MASS_REFUSAL: {"refused": 50, "asked": 60, "allowed": 20}}),
            "no_mass_image_loss",
        ),
        (
            lambda now: {"detail": {"left_alone_until": (now + timedelta(hours=5)).isoformat()}},
            "left alone for",
        ),
    ],
)
def test_a_source_that_is_not_well_has_a_line_that_says_what_to_do(
    data: Path, state: Callable[[datetime], dict[str, Any]], told: str
) -> None:
    # The time of the test: that of its collection can be an hour earlier.
    with_states(data, {"source": "stashdb", **state(datetime.now(UTC))})
    result = run(data, "status", "--check")
    assert result.exit_code == 1
    (line,) = [line for line in result.output.splitlines() if line.startswith("stashdb:")]
    assert told in line
    assert run(data, "status").exit_code == 0, "without --check it only shows"


def test_a_source_without_its_key_and_one_that_was_never_read_fail_the_check(data: Path) -> None:
    result = run(data, "status", "--check", FANSDB_API_KEY="")
    assert result.exit_code == 1
    assert "fansdb: no key; set FANSDB_API_KEY or FANSDB_API_KEY_FILE" in result.output
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    with writing(engine) as connection:
        connection.execute(sa.delete(sync_state).where(sync_state.c.source == "fansdb"))
    engine.dispose()
    assert "fansdb: was never read; run stash-sense build --sources fansdb" in run(data, "status").output


def test_the_json_of_status_has_the_counts_and_what_to_do(data: Path) -> None:
    with_states(data, {"source": "stashdb", "last_outcome": "timeout"})
    said = json.loads(run(data, "status", "--json").output)
    assert [row["source"] for row in said["sources"]] == ["stashdb", "fansdb", "babepedia"]
    assert datetime.fromisoformat(said["sources"][0]["last_sync"])
    assert [(row["source"], row["failed"]) for row in said["to_do"]] == [("stashdb", True)]


def test_a_field_that_a_site_lacks_now_is_told_by_the_status_and_its_check(data: Path) -> None:
    usual, found = PageCounts(40, {"aliases": 38}), PageCounts(40, {"aliases": 0})
    history = FieldHistory({"profile": usual}).after({"profile": found}, datetime.now(UTC))
    with_states(data, {"source": "babepedia", "detail": {FIELDS: history.detail()}})
    result = run(data, "status", "--check")
    assert result.exit_code == 1
    (line,) = [line for line in result.output.splitlines() if line.startswith("babepedia:")]
    assert "no_field_drift" in line
    assert "aliases of profile pages: on 0 of 40, usually on 38 of 40" in line
    again = history.after({"profile": usual}, datetime.now(UTC))
    with_states(data, {"source": "babepedia", "detail": {FIELDS: again.detail()}})
    assert run(data, "status", "--check").exit_code == 0


LISTS = (
    ("status", "--unread"),
    ("releases", "list"),
    ("releases", "revoke"),
    ("models", "list"),
    ("suppress", "list"),
    ("suppress", "review"),
    ("settings", "show"),
    ("identity", "suggestions"),
    ("review", "list"),
    ("review", "settled"),
)
# They print what they did, or one fact.
WITHOUT_JSON = {
    "alerts test",
    "backup",
    "bootstrap",
    "build",
    "demo",
    "import-legacy",
    "models check",
    "export",
    "models pull",
    "prepare",
    "releases build",
    "releases fetch",
    "releases install",
    "releases prune",
    "releases upload",
    "restore",
    "review",
    "review settle",
    "serve",
    "sources reset",
    "suppress review settle",
    "ui",
}
LOOKS = (
    ("status",),
    ("status", "--check"),
    ("status", "--unread"),
    ("suppress", "list"),
    ("suppress", "review"),
    ("identity", "explain", "stashdb:1"),
    ("identity", "suggestions"),
    ("review", "list"),
    ("review", "settled"),
    ("releases", "revoke"),
)
# Each reads the catalog, and must neither create nor migrate one.
READS_THE_CATALOG = (
    *LOOKS,
    ("export", "performers", "--format", "csv"),
    ("backup", "backup.zip"),
    ("sources", "reset", "stashdb", "--yes"),
)
READS_FILES = (
    ("releases", "list"),
    ("releases", "diff", "latest", "latest"),
    ("verify", "latest"),
    ("models", "list"),
    ("models", "check", "demo-synth-v1"),
    ("settings", "show"),
    ("doctor", "--offline"),
)


def commands(
    group: click.Group = main, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with its words. A group that works without a subcommand counts as one."""
    for name, command in group.commands.items():
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield (*words, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))


def test_every_command_that_lists_has_json() -> None:
    without = {
        " ".join(words)
        for words, command in commands()
        if not any("--json" in parameter.opts for parameter in command.params)
    }
    assert without == WITHOUT_JSON


@pytest.mark.parametrize("words", LISTS, ids=" ".join)
def test_every_list_can_be_json(data: Path, words: tuple[str, ...]) -> None:
    result = run(data, *words, "--json", STASH_SENSE_MODEL_PACK=str(DEMO_PACK))
    assert result.exit_code == 0, result.output
    assert isinstance(json.loads(result.output), list)


def test_the_checks_of_a_release_can_be_json(data: Path, tmp_path: Path) -> None:
    result = run(data, "verify", str(tmp_path / "none"), "--json")
    assert result.exit_code == 1
    assert [check["passed"] for check in json.loads(result.output)] == [False]


def files_of(directory: Path) -> dict[str, bytes]:
    """The content of every file under a directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("words", [*READS_THE_CATALOG, *READS_FILES], ids=" ".join)
def test_a_look_at_the_catalog_of_an_older_program_leaves_it_as_it_is(
    data: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    with closing(sqlite3.connect(data / "catalog.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    before = files_of(data.parent)
    result = run(data, *words)
    assert files_of(data.parent) == before
    if words in READS_THE_CATALOG:
        assert result.exit_code == 2
        assert result.output.splitlines() == [
            f"stash-sense: the catalog in {data} has the schema of an older program; stash-sense prepare migrates it"
        ]


@pytest.mark.parametrize("words", LOOKS, ids=" ".join)
def test_a_look_at_a_catalog_changes_no_file(data: Path, words: tuple[str, ...]) -> None:
    before = files_of(data)
    result = run(data, *words, STASH_SENSE_MODEL_PACK=str(DEMO_PACK))
    assert "older program" not in result.output
    after = files_of(data)
    # The key of the suppression list is made where the list is first asked.
    after.pop("suppression.key", None)
    assert after == before


@pytest.mark.parametrize("words", READS_THE_CATALOG, ids=" ".join)
def test_a_command_that_reads_creates_no_catalog_and_no_directory(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    result = run(tmp_path / "none", *words)
    assert result.exit_code == 2
    assert result.output.splitlines() == [
        f"stash-sense: there is no catalog in {tmp_path / 'none'}; run stash-sense build, or set DATA_DIR"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["sources.yaml"]


def test_a_catalog_in_another_place_is_named_with_its_variable(data: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'none.db'}"
    result = run(data, "status", STASH_SENSE_CATALOG_URL=url)
    assert result.exit_code == 2
    assert f"no catalog in {url}; run stash-sense build, or set STASH_SENSE_CATALOG_URL" in result.output
    assert not (tmp_path / "none.db").exists()


def test_lists_without_a_data_directory_create_none(tmp_path: Path) -> None:
    for words in READS_FILES:
        assert run(tmp_path / "none", *words).exit_code in (0, 1, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["sources.yaml"]


def test_the_settings_are_shown_with_their_origin_and_without_secrets(data: Path) -> None:
    result = run(data, "settings", "show", "--json", STASH_SENSE_ALERT_URL="https://ntfy.sh/topic-secret")
    rows = {row["setting"]: row for row in json.loads(result.output)}
    assert not any(secret in result.output for secret in (*KEYS.values(), "topic-secret"))
    assert (rows["STASHDB_API_KEY"]["value"], rows["STASHDB_API_KEY"]["origin"]) == ("(set)", "environment")
    assert rows["STASH_SENSE_DEVICE"]["origin"] == "default"
    line = SOURCES.splitlines().index("    rate_limit: 30") + 1
    limit = rows["stash_boxes.stashdb.rate_limit"]
    assert (limit["value"], limit["origin"]) == ("30.0", f"sources.yaml:{line}")
    assert rows["stash_boxes.fansdb.url"]["origin"] == "known source"
    assert rows["global.completeness_threshold"]["origin"] == "default"
    assert all(row["meaning"] for row in rows.values())


def _state_of(data: Path) -> tuple[list[str], list[tuple[Any, ...]]]:
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    with reading(engine) as connection:
        states = list(connection.scalars(sa.select(sync_state.c.source).order_by(sync_state.c.source)))
        image = source_images.c
        images = [
            tuple(row)
            for row in connection.execute(
                sa.select(image.image_id, image.state, image.attempts).order_by(image.image_id)
            )
        ]
        assert not connection.scalar(
            sa.select(sa.func.count()).select_from(site_visits).where(site_visits.c.source == "stashdb")
        )
    engine.dispose()
    return states, images


def test_a_reset_clears_the_progress_of_one_source_and_keeps_its_images(data: Path) -> None:
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    with writing(engine) as connection:
        common = {"source": "stashdb", "url": "http://127.0.0.1/x"}
        images = [
            {"image_id": "done", "state": "done", "attempts": 2, **common},
            {"image_id": "failed", "state": "failed", "attempts": 5, **common},
            {"image_id": "waits", "state": "pending", "attempts": 1, **common},
        ]
        connection.execute(sa.insert(source_images), images)
    engine.dispose()
    refused = run(data, "sources", "reset", "stashdb", answer="n\n")
    assert refused.exit_code == 1
    assert _state_of(data)[0] == ["babepedia", "fansdb", "stashdb"]
    result = run(data, "sources", "reset", "stashdb", "--yes")
    assert result.exit_code == 0, result.output
    assert "2 images to try again" in result.output
    states, images_left = _state_of(data)
    assert states == ["babepedia", "fansdb"]
    assert images_left == [("done", "done", 2), ("failed", "pending", 0), ("waits", "pending", 0)]


def test_the_reset_of_an_unknown_source_is_one_line(data: Path) -> None:
    result = run(data, "sources", "reset", "stashbd", "--yes")
    assert result.exit_code == 2
    assert "did you mean stashdb?" in result.output


def test_a_test_alert_without_an_address_is_one_line(data: Path) -> None:
    result = run(data, "alerts", "test")
    assert result.exit_code == 2
    assert "STASH_SENSE_ALERT_URL is not set" in result.output
