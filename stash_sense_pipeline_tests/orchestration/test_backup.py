"""A backup as an operator takes and uses it: an empty machine publishes the release that the lost one had, byte for byte."""

from __future__ import annotations

import os
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.deployment.shipped_files import shipped_file
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline_tests.orchestration.conftest import PROGRAM
from stash_sense_pipeline_tests.postgres import running_server, server_program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PUBLISH = ("job", "execute", "-m", "stash_sense_pipeline.definitions", "-j", "publish")


def digests(release: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(release.iterdir())}


def command(data: Path, *words: str | Path, program: Path = PROGRAM, **variables: str) -> str:
    environment = {
        **os.environ,
        "DATA_DIR": str(data),
        "STASH_SENSE_SOURCES": str(data / "sources.yaml"),
        "STASH_SENSE_MODEL_PACK": str(DEMO_PACK),
        **variables,
    }
    result = subprocess.run(
        [program, *words], env=environment, cwd=shipped_file("workspace.yaml").parent,
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def published_after_restoring(archive: Path, machine: Path, **variables: str) -> dict[str, str]:
    """Digests of the release that an empty machine publishes from a backup; `variables` say where its catalog is."""
    machine.mkdir()
    said = command(machine, "restore", archive, **variables)
    assert said.startswith("restored ")
    command(machine, "prepare", **variables)
    home = str(machine / "dagster")
    command(machine, *PUBLISH, program=PROGRAM.with_name("dagster"), DAGSTER_HOME=home, **variables)
    return digests((machine / "releases" / "latest").resolve())


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
    assert_same_release(lost_release, published_after_restoring(tmp_path / "backup.zip", tmp_path / "found"))


@pytest.mark.postgres
def test_a_backup_restored_to_postgresql_another_server_and_sqlite_publishes_the_same_bytes(
    demo: tuple[Path, str], lost_release: dict[str, str], tmp_path: Path
) -> None:
    """A laptop's catalog, then a server's that is lost as well, then a laptop's again."""
    program = server_program()
    if program is None:
        pytest.skip("no PostgreSQL server program under /usr/lib/postgresql (apt-get install postgresql)")
    archive = tmp_path / "laptop.zip"
    command(demo[0], "backup", archive)
    for name in ("first", "second"):
        # Each server is gone before the next one is there.
        with running_server(program) as server:
            url = sa.make_url(server.url).set(database="catalog").render_as_string(hide_password=False)
            machine = tmp_path / name
            found = published_after_restoring(archive, machine, STASH_SENSE_CATALOG_URL=url)
            assert_same_release(lost_release, found)
            archive = tmp_path / f"{name}.zip"
            command(machine, "backup", archive, STASH_SENSE_CATALOG_URL=url)
    assert_same_release(lost_release, published_after_restoring(archive, tmp_path / "last"))
