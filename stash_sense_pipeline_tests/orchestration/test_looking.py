"""Commands that look: status, settings show, sources reset, and the JSON of every list."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.queries.sync_state import MASS_REFUSAL
from stash_sense_pipeline.catalog.schema import site_visits, source_images, sync_state
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.cli import main
from stash_sense_pipeline.foundation.errors import KEY_REFUSED

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


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with three sources; each was read a moment ago without a failure."""
    directory = tmp_path / "data"
    directory.mkdir()
    with_states(directory, *({"source": name} for name in ("stashdb", "fansdb", "babepedia")))
    return directory


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
    assert all(line.endswith("s ago") for line in lines[1:])
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"last_sync_at": datetime.now(UTC) - timedelta(hours=40)}, "was not read for 40 h"),
        ({"last_outcome": "blocked", "last_message": f"stashdb: {KEY_REFUSED} (blocked)"}, "STASHDB_API_KEY"),
        ({"last_outcome": "rate_limited"}, "lower rate_limit of stashdb in sources.yaml"),
        ({"last_outcome": "ambiguous", "last_message": "30 of 40 performers are missing"}, "--full-sweep"),
        ({"detail": {MASS_REFUSAL: {"refused": 50, "asked": 60, "allowed": 20}}}, "no_mass_image_loss"),
        (
            {"detail": {"left_alone_until": (datetime.now(UTC) + timedelta(hours=5)).isoformat()}},
            "left alone for",
        ),
    ],
)
def test_a_source_that_is_not_well_has_a_line_that_says_what_to_do(
    data: Path, state: dict[str, Any], told: str
) -> None:
    with_states(data, {"source": "stashdb", **state})
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


@pytest.mark.parametrize(
    "words",
    [
        ("status", "--unread"),
        ("releases", "list"),
        ("models", "list"),
        ("suppress", "list"),
        ("suppress", "review"),
        ("settings", "show"),
    ],
)
def test_every_list_can_be_json(data: Path, words: tuple[str, ...]) -> None:
    result = run(data, *words, "--json")
    assert result.exit_code == 0, result.output
    assert isinstance(json.loads(result.output), list)


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("status", "--check"),
        ("suppress", "list"),
        ("suppress", "review"),
        ("identity", "explain", "stashdb:1"),
        ("export", "performers", "--format", "csv"),
        ("backup", "backup.zip"),
        ("sources", "reset", "stashdb", "--yes"),
    ],
)
def test_a_command_that_reads_creates_no_catalog_and_no_directory(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    result = run(tmp_path / "none", *words)
    assert result.exit_code == 2
    assert result.output.splitlines() == [
        f"stash-sense: there is no catalog in {tmp_path / 'none'}; run stash-sense build, or set DATA_DIR"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["sources.yaml"]


def test_lists_without_a_data_directory_create_none(tmp_path: Path) -> None:
    for words in (("releases", "list"), ("models", "list"), ("settings", "show")):
        assert run(tmp_path / "none", *words).exit_code == 0
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
