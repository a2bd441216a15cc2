"""A backup as an operator takes and uses it: an empty machine publishes the release that the lost one had, byte for byte."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.deployment.shipped_files import shipped_file
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline_tests.commands import run_here
from stash_sense_pipeline_tests.orchestration.conftest import PROGRAM
from stash_sense_pipeline_tests.postgres import running_server, server_program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PUBLISH = ("job", "execute", "-m", "stash_sense_pipeline.definitions", "-j", "publish")


def digests(release: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(release.iterdir())}


PLACE = shipped_file("workspace.yaml").parent


def variables_at(data: Path, more: Mapping[str, str]) -> dict[str, str]:
    return {
        **os.environ,
        "DATA_DIR": str(data),
        "STASH_SENSE_SOURCES": str(data / "sources.yaml"),
        "STASH_SENSE_MODEL_PACK": str(DEMO_PACK),
        **more,
    }


def command(data: Path, *words: str | Path, program: Path = PROGRAM, **variables: str) -> str:
    result = subprocess.run(
        [program, *words], env=variables_at(data, variables), cwd=PLACE,
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def command_here(data: Path, *words: str | Path, **variables: str) -> str:
    """The same in this process."""
    result = run_here(PLACE, variables_at(data, variables), *map(str, words))
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def published(machine: Path, **variables: str) -> dict[str, str]:
    """Digests of the release that a machine publishes; `variables` say where its catalog is."""
    home = str(machine / "dagster")
    command(machine, *PUBLISH, program=PROGRAM.with_name("dagster"), DAGSTER_HOME=home, **variables)
    return digests((machine / "releases" / "latest").resolve())


def restored(archive: Path, machine: Path, **variables: str) -> Path:
    """An empty machine after a restore."""
    machine.mkdir()
    assert command_here(machine, "restore", archive, **variables).startswith("restored ")
    command_here(machine, "prepare", **variables)
    return machine


def assert_same_release(lost: dict[str, str], found: dict[str, str]) -> None:
    assert len(lost) >= 6
    assert found.keys() == lost.keys()
    # The manifest says when it was made.
    assert {name for name in lost if lost[name] != found[name]} <= {"manifest.json"}


@pytest.fixture
def lost_release(demo: tuple[Path, str]) -> dict[str, str]:
    return digests((demo[0] / "releases" / "latest").resolve())


def test_a_restored_backup_publishes_the_same_bytes(
    demo: tuple[Path, str], lost_release: dict[str, str], tmp_path: Path
) -> None:
    said = command(demo[0], "backup", tmp_path / "backup.zip")
    assert "catalog.db, sources.yaml, suppression.key" in said
    machine = tmp_path / "found"
    machine.mkdir()
    assert command(machine, "restore", tmp_path / "backup.zip").startswith("restored ")
    command(machine, "prepare")
    assert_same_release(lost_release, published(machine))


@pytest.mark.postgres
def test_a_backup_restored_to_postgresql_another_server_and_sqlite_publishes_the_same_bytes(
    demo: tuple[Path, str], lost_release: dict[str, str], tmp_path: Path
) -> None:
    """A laptop's catalog, then a server's that is lost as well, then a laptop's again.

    A change on the way would reach what the second server and the last laptop publish.
    """
    program = server_program()
    if program is None:
        pytest.skip("no PostgreSQL server program under /usr/lib/postgresql (apt-get install postgresql)")
    archive = tmp_path / "laptop.zip"
    command_here(demo[0], "backup", archive)
    for name in ("first", "second"):
        # Each server is gone before the next one is there.
        with running_server(program) as server:
            url = sa.make_url(server.url).set(database="catalog").render_as_string(hide_password=False)
            machine = restored(archive, tmp_path / name, STASH_SENSE_CATALOG_URL=url)
            if name == "second":
                assert_same_release(lost_release, published(machine, STASH_SENSE_CATALOG_URL=url))
            archive = tmp_path / f"{name}.zip"
            command_here(machine, "backup", archive, STASH_SENSE_CATALOG_URL=url)
    assert_same_release(lost_release, published(restored(archive, tmp_path / "last")))
