"""The command bootstrap on the release of the demo: another operator takes it over, proves it, builds and publishes."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from stash_sense_pipeline.sandbox.demo import demo_world
from stash_sense_pipeline_tests.commands import run_here
from stash_sense_pipeline_tests.orchestration.conftest import PROGRAM

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def command(variables: dict[str, str], *words: str | Path) -> str:
    result = subprocess.run(
        [PROGRAM, *words],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def command_here(variables: dict[str, str], *words: str | Path) -> str:
    """The same in this process."""
    result = run_here(Path.cwd(), {**os.environ, **variables}, *map(str, words))
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def count(data: Path, query: str) -> int:
    with closing(sqlite3.connect(data / "catalog.db")) as connection:
        return int(connection.execute(query).fetchone()[0])


def test_another_operator_takes_over_the_demos_release_builds_publishes_and_takes_it_back(
    demo: tuple[Path, str], tmp_path: Path
) -> None:
    served, mine = tmp_path / "served", tmp_path / "mine"
    shutil.copytree(demo[0], served, symlinks=True)
    release = (served / "releases" / "latest").resolve()
    with demo_world(served) as variables:
        # The pictures of the release are at the ports of the demo, which are free again.
        given = {**variables, "DATA_DIR": str(mine)}
        said = command(given, "bootstrap", release, "--sample", "60")
        assert "proven: " in said
        again = command_here(given, "bootstrap", release)
        assert again.splitlines()[-1] == "proven: the next build uses its faces"
        claims = count(mine, "SELECT count(*) FROM claimed_faces")
        assert claims > 500
        command(given, "build", "--sources", "stashdb,fansdb")
        used = count(mine, "SELECT count(*) FROM claimed_faces WHERE face_id IS NOT NULL")
        assert used > 200
        sources = json.loads(command_here(given, "status", "--json"))["sources"]
        assert sum(source["faces_proven"] for source in sources) == used
        published = (mine / "releases" / "latest").resolve()
        command_here(given, "verify", published)
        card = published.parent / f"{published.name}.datacard.md"
        assert "Where the vectors come from" in card.read_text()
        said = command_here(given, "bootstrap", "--undo", release)
        assert "removed" in said
    assert count(mine, "SELECT count(*) FROM claimed_faces") == 0
    assert count(mine, "SELECT count(*) FROM claimed_vectors") == 0
