"""A source with ids and dates that no release may hold: from its server to an installed release and its suppression."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.servers import SandboxServers, sources_settings
from stash_sense_pipeline_tests.commands import run_here
from stash_sense_pipeline_tests.rendered_pictures import rendered

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ODD_IDS = (
    "%2e", "%2f", "a%2fb", "a:b", "&amp;", "-", "null", "=1+1", "'", "a\\b", "ünï-ß", "${id}", "sealed", "*",
    "x" * 300,
)  # fmt: skip
REFUSED_IDS = ("a/b", "a b", "a\nb", "..", "a\u202eb", "x" * 301, "<b>", '"')


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with settings for StashDB, in which some performers have odd ids."""
    home = tmp_path_factory.mktemp("hostile")
    world = make_demo_world(seed=5, people=80)
    box = world.boxes["stashdb"]
    ordinary = [key for key in box.performers if len(set(box.joins[key].images)) > 2]
    assert len(ordinary) > 2 * len(ODD_IDS + REFUSED_IDS)
    for odd, key in zip(ODD_IDS + REFUSED_IDS, ordinary, strict=False):
        row, joins = box.performers[key], box.joins[key]
        box.hard_delete(key)
        box.load([(replace(row, id=odd, death_date="soon"), joins)])
    with SandboxServers(world, pictures=rendered()) as servers:
        settings = sources_settings(servers, max_faces=3)
        settings["stash_boxes"] = {"stashdb": settings["stash_boxes"]["stashdb"]}
        settings.pop("reference_sites", None)
        (home / "sources.yaml").write_text(yaml.safe_dump(settings))
        (home / "variables.json").write_text(json.dumps(servers.environment()))
        yield home


def variables_at(home: Path) -> dict[str, str]:
    return {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("STASH_SENSE_", "DAGSTER_"))
        },
        "DATA_DIR": str(home / "data"),
        "STASH_SENSE_SOURCES": str(home / "sources.yaml"),
        "STASH_SENSE_MODEL_PACK": str(DEMO_PACK),
        **json.loads((home / "variables.json").read_text()),
    }


def run(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run_here(home, variables_at(home), *words)


def published(home: Path) -> set[str]:
    """The ids of StashDB in the latest release."""
    path = (home / "data" / "releases" / "latest").resolve() / "performers.db"
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT stashbox_performer_id FROM stashbox_ids")
        return {stashbox_id for (stashbox_id,) in rows}


def test_odd_ids_are_published_verified_and_suppressed_and_ids_that_break_a_release_are_left_out(
    home: Path,
) -> None:
    built = run(home, "build")
    assert built.returncode == 0, built.stdout + built.stderr
    first = published(home)
    assert set(ODD_IDS) - first == set()
    assert first.isdisjoint(REFUSED_IDS)
    verified = run(home, "verify", str((home / "data" / "releases" / "latest").resolve()))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    installed = run(home, "releases", "install", "latest", "--to", str(home / "sidecar"))
    assert installed.returncode == 0, installed.stdout + installed.stderr
    status = run(home, "status", "--unread")
    assert status.returncode == 0, status.stdout + status.stderr
    assert "\u202e" not in built.stdout + built.stderr + status.stdout
    for odd in ODD_IDS:
        added = run(home, "suppress", "add", f"stashdb:{odd}", "--reason", "asked")
        assert added.returncode == 0, (odd, added.stdout + added.stderr)
    assert run(home, "suppress", "apply").returncode == 0
    again = run(home, "build")
    assert again.returncode == 0, again.stdout + again.stderr
    second = published(home)
    assert second
    assert second.isdisjoint(ODD_IDS + REFUSED_IDS)
    release = (home / "data" / "releases" / "latest").resolve()
    faces = (release / "faces.json").read_text()
    assert not [odd for odd in ODD_IDS if json.dumps(f"stashdb.org:{odd}") in faces]
