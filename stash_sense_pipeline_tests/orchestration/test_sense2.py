"""Releases for stash-sense2 from a build: full zip, delta, links; and the commands for them."""

from __future__ import annotations

import json
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stash_sense_pipeline.definitions import build_defs
from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.release.sense2.history import sense2_versions
from stash_sense_pipeline.release.sense2.verify import verify_sense2
from stash_sense_pipeline.sandbox.demo import DEMO_SENSE2_PACK
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.servers import SandboxServers
from stash_sense_pipeline.settings.environment import read_environment
from stash_sense_pipeline.settings.sources_file import load_settings
from stash_sense_pipeline_tests.orchestration.test_cli import Operator, error_line
from stash_sense_pipeline_tests.rendered_pictures import rendered

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def servers() -> Iterator[SandboxServers]:
    with SandboxServers(make_demo_world(seed=2, people=24), pictures=rendered()) as running:
        yield running


@pytest.mark.slow
def test_a_build_makes_a_sense2_release_and_a_suppression_makes_a_delta(
    tmp_path: Path, servers: SandboxServers
) -> None:
    operator = Operator(tmp_path, servers)
    operator.keep("pmvstash", "fansdb")
    operator.sources.setdefault("global", {})["second_pack"] = str(DEMO_SENSE2_PACK)
    operator.sources.setdefault("export", {})["sense2"] = True
    built = operator.runs("build")
    assert built.returncode == 0, built.stdout + built.stderr
    (first,) = sense2_versions(tmp_path / "data")
    directory = tmp_path / "data" / "sense2" / first
    assert all(check.passed for check in verify_sense2(directory))

    listed = json.loads(operator.runs("releases", "list", "--format", "sense2", "--json").stdout)
    assert [(row["version"], row["delta_bytes"]) for row in listed] == [(first, None)]
    verified = operator.runs("releases", "verify", str(directory), "--format", "sense2")
    assert (verified.returncode, "FAILED" in verified.stdout) == (0, False)

    # The same catalog gives no new version.
    again = operator.runs("releases", "build", "--format", "sense2")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "nothing changed" in again.stdout
    assert sense2_versions(tmp_path / "data") == (first,)

    # A person leaves, by an id that the files name. The next version has a delta, and the first one is revoked.
    with zipfile.ZipFile(directory / f"stash-sense2-data-{first}.zip") as archive:
        people = json.loads(archive.read("performers.json"))
    person = next(uid for uid in sorted(people) if uid.startswith("fansdb.cc:")).partition(":")[2]
    left = operator.runs("suppress", "add", f"fansdb:{person}", "--reason", "asked")
    assert left.returncode == 0, left.stdout + left.stderr
    applied = operator.runs("build")
    assert applied.returncode == 0, applied.stdout + applied.stderr
    versions = sense2_versions(tmp_path / "data")
    assert versions[0] == first
    assert len(versions) == 2
    names = {path.name for path in (tmp_path / "data" / "sense2" / versions[1]).iterdir()}
    assert f"stash-sense2-delta-{first}-to-{versions[1]}.zip" in names
    revoked = json.loads(operator.runs("releases", "revoke", "--json").stdout)
    assert ("sense2", first) in {(row["format"], row["version"]) for row in revoked}
    diff = json.loads(
        operator.runs("releases", "diff", first, "latest", "--format", "sense2", "--json").stdout
    )
    assert any(uid.endswith(person) for uid in diff["removed"])


@pytest.mark.slow
def test_releases_build_needs_a_second_pack(tmp_path: Path, servers: SandboxServers) -> None:
    operator = Operator(tmp_path, servers)
    operator.keep("pmvstash")
    prepared = operator.runs("prepare")
    assert prepared.returncode == 0, prepared.stderr
    result = operator.runs("releases", "build", "--format", "sense2")
    assert result.returncode == 2
    assert "set global.second_pack in sources.yaml" in error_line(result)


def test_the_block_of_the_documentation_uploads_sense2_releases_alone(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "sense2.md").read_text()
    block = textwrap.dedent(page[page.index("    global:\n") : page.index("The job `publish`")])
    (tmp_path / "sources.yaml").write_text(block)
    definitions = build_defs(
        settings=load_settings(tmp_path / "sources.yaml"), environment=read_environment({}, tmp_path)
    )
    job = definitions.resolve_job_def(names.PUBLISH_JOB)
    keys = {key.to_user_string() for key in job.asset_layer.executable_asset_keys}
    assert {"release", "sense2_release", "github_sense2_release"} <= keys
    assert "github_release" not in keys
