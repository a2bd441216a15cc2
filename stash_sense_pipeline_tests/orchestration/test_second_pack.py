"""A second pack is added to a built catalog: doctor says what it needs, a build finds its faces, the release stays."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from stash_sense_pipeline.sandbox.demo import DEMO_SENSE2_PACK
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.servers import SandboxServers
from stash_sense_pipeline_tests.orchestration.test_cli import Operator, error_line
from stash_sense_pipeline_tests.rendered_pictures import rendered

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def servers() -> Iterator[SandboxServers]:
    with SandboxServers(make_demo_world(seed=2, people=24), pictures=rendered()) as running:
        yield running


def counts(home: Path) -> dict[str, int]:
    """Faces of each pack, those without a vector, crops, and images that are due."""
    queries = {
        "first": "SELECT count(*) FROM faces WHERE NOT second",
        "second": "SELECT count(*) FROM faces WHERE second",
        "bare": "SELECT count(*) FROM faces WHERE face_id NOT IN (SELECT face_id FROM embeddings)",
        "crops": "SELECT count(*) FROM aligned_crops",
        "due": "SELECT count(*) FROM source_images WHERE state = 'done' AND next_attempt_at IS NOT NULL",
    }
    with closing(sqlite3.connect(home / "data" / "catalog.db")) as connection:
        return {name: connection.execute(query).fetchone()[0] for name, query in queries.items()}


def test_a_second_pack_is_added_to_a_built_catalog(tmp_path: Path, servers: SandboxServers) -> None:
    operator = Operator(tmp_path, servers)
    operator.keep("pmvstash", "fansdb")
    built = operator.runs("build")
    assert built.returncode == 0, built.stdout + built.stderr
    before, release = counts(tmp_path), (tmp_path / "data" / "releases" / "latest").resolve()
    assert before["first"] > 20
    assert before["second"] == 0

    operator.sources.setdefault("global", {})["second_pack"] = str(DEMO_SENSE2_PACK)
    checks = {each["name"]: each for each in json.loads(operator.runs("doctor", "--json").stdout)["checks"]}
    text = checks["second pack"]["text"]
    assert text.startswith(
        "demo-synth-sense2, 2 networks verified; pictures that will be fetched once more: "
    )
    assert " of pmvstash (about 0.0 h)" in text

    servers.traffic.clear_requests()
    again = operator.runs("build")
    assert again.returncode == 0, again.stdout + again.stderr
    after = counts(tmp_path)
    assert (after["first"], after["bare"], after["crops"], after["due"]) == (before["first"], 0, 0, 0)
    assert after["second"] > 20
    assert (tmp_path / "data" / "releases" / "latest").resolve() == release
    requested = len(servers.traffic.requests())
    servers.traffic.clear_requests()
    third = operator.runs("build")
    assert third.returncode == 0, third.stdout + third.stderr
    assert len(servers.traffic.requests()) < requested / 2
    assert counts(tmp_path) == after


@pytest.mark.parametrize("wanted", ["no-such-pack", "first"])
def test_a_second_pack_that_cannot_be_used_is_an_error_before_any_request(
    tmp_path: Path, servers: SandboxServers, wanted: str
) -> None:
    operator = Operator(tmp_path, servers)
    first = operator.variables["STASH_SENSE_MODEL_PACK"]
    operator.sources.setdefault("global", {})["second_pack"] = first if wanted == "first" else wanted
    servers.traffic.clear_requests()
    result = operator.runs("build")
    assert result.returncode == 2
    assert ("cannot be told apart" if wanted == "first" else "no-such-pack") in error_line(result)
    assert servers.traffic.requests() == []
    doctor = operator.runs("doctor")
    assert "second pack" in doctor.stdout
