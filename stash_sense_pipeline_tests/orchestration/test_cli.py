"""The command line with bad input: one line of error, the right exit code, no partial output."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stash_sense_pipeline.deployment.readiness import doctor
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.faults import Fault, FaultKind
from stash_sense_pipeline.sandbox.servers import SandboxServers, sources_settings
from stash_sense_pipeline_tests.commands import run_here
from stash_sense_pipeline_tests.orchestration.conftest import PROGRAM, without_progress
from stash_sense_pipeline_tests.rendered_pictures import rendered

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def servers() -> Iterator[SandboxServers]:
    """A small world, served."""
    with SandboxServers(make_demo_world(seed=2, people=24), pictures=rendered()) as running:
        yield running


@pytest.fixture(autouse=True)
def without_faults(servers: SandboxServers) -> Iterator[None]:
    """Each test begins and ends with servers that behave."""
    servers.traffic.clear_faults()
    yield
    servers.traffic.clear_faults()


class Operator:
    """Runs commands in an empty directory with its own sources.yaml."""

    def __init__(self, home: Path, servers: SandboxServers) -> None:
        self.home = home
        self.sources: dict[str, Any] = sources_settings(servers)
        self.variables = {
            **{name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")},
            "DATA_DIR": str(home / "data"),
            "STASH_SENSE_SOURCES": str(home / "sources.yaml"),
            "STASH_SENSE_MODEL_PACK": str(DEMO_PACK),
            **servers.environment(),
        }

    def keep(self, *names: str) -> None:
        """Leaves only these sources in the file."""
        boxes = self.sources["stash_boxes"]
        self.sources["stash_boxes"] = {name: boxes[name] for name in names}

    def runs(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs stash-sense in this process."""
        self._write_sources()
        return run_here(self.home, self.variables, *words)

    def runs_program(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs stash-sense as a process."""
        self._write_sources()
        return subprocess.run(
            [PROGRAM, *words],
            env=self.variables,
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )

    def _write_sources(self) -> None:
        (self.home / "sources.yaml").write_text(yaml.safe_dump(self.sources))


@pytest.fixture
def operator(tmp_path: Path, servers: SandboxServers) -> Operator:
    """An operator with all five sources and their keys."""
    return Operator(tmp_path, servers)


def error_line(result: subprocess.CompletedProcess[str]) -> str:
    """The one line on standard error."""
    lines = without_progress(result.stderr)
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_a_source_without_a_key_is_skipped_and_build_exits_with_1(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The look at the source before a first build may take long on a busy machine.
    monkeypatch.setattr(doctor, "_SECONDS_BEFORE_A_BUILD", 240.0)
    operator.keep("pmvstash", "fansdb")
    del operator.variables["FANSDB_API_KEY"]
    result = operator.runs("build", "--no-faces")
    assert result.returncode == 1
    assert error_line(result) == (
        "fansdb: skipped - fansdb: no key; set FANSDB_API_KEY or FANSDB_API_KEY_FILE"
    )
    assert result.stdout.startswith("first build, estimated:\n  pmvstash  ")
    assert "\npmvstash: " in result.stdout


def test_a_build_without_any_source_prints_one_line_and_exits_with_2(operator: Operator) -> None:
    operator.keep("fansdb")
    result = operator.runs("build", "--disable-source", "fansdb")
    assert result.returncode == 2
    assert "no source" in error_line(result)
    assert not (operator.home / "data" / "catalog.db").exists()


def test_a_build_without_any_key_exits_with_2(operator: Operator) -> None:
    operator.keep("fansdb")
    del operator.variables["FANSDB_API_KEY"]
    result = operator.runs("build")
    assert result.returncode == 2
    assert "FANSDB_API_KEY" in result.stderr


def test_an_unknown_source_is_named_with_the_known_ones(operator: Operator) -> None:
    result = operator.runs("build", "--sources", "stashdb,stashbd")
    assert result.returncode == 2
    assert "'stashbd' is not a source" in error_line(result)
    assert "did you mean stashdb" in result.stderr


def test_a_missing_model_pack_is_an_error_before_any_request(
    operator: Operator, servers: SandboxServers
) -> None:
    operator.variables["STASH_SENSE_MODEL_PACK"] = "no-such-pack"
    servers.traffic.clear_requests()
    result = operator.runs("build")
    assert result.returncode == 2
    assert "no-such-pack" in error_line(result)
    assert servers.traffic.requests() == []
    assert not (operator.home / "data" / "catalog.db").exists()


def test_each_source_that_fails_costs_one_line_and_stops_no_other(
    operator: Operator, servers: SandboxServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is down, one that answers with a page, and a key that has expired, beside a source that is well."""
    # Only the runs must ask: the look at the sources before a first build retries as they do.
    monkeypatch.setattr(doctor, "_SECONDS_BEFORE_A_BUILD", 0.01)
    operator.keep("stashdb", "pmvstash", "javstash", "fansdb")
    operator.sources["stash_boxes"]["stashdb"]["url"] = "http://127.0.0.1:9/graphql"
    servers.traffic.inject(Fault(FaultKind.BODY, box="pmvstash", path="/graphql", times=None))
    operator.variables["JAVSTASH_API_KEY"] = "expired"
    result = operator.runs("build", "--no-faces")
    assert result.returncode == 1
    lines = sorted(without_progress(result.stderr))
    assert [line.split(" - ")[0] for line in lines] == [
        "javstash: failed", "pmvstash: failed", "stashdb: failed",
    ]  # fmt: skip
    refused, _, unreachable = lines
    assert "key" in refused
    assert "blocked" in refused
    assert "expired (" not in refused
    assert unreachable.startswith("stashdb: failed - stashdb: ")
    assert "timeout" in unreachable
    assert "\nfansdb: " in f"\n{result.stdout}"


def test_verify_names_the_failed_checks(operator: Operator) -> None:
    result = operator.runs_program("verify", "nowhere")
    assert result.returncode == 1
    assert "FAILED" in result.stdout


def test_contradicting_options_are_refused(operator: Operator) -> None:
    result = operator.runs_program("build", "--full-sweep", "--sync-updates-only")
    assert result.returncode == 2
    assert "contradict" in error_line(result)


def test_models_check_runs_every_network_of_a_pack(operator: Operator) -> None:
    result = operator.runs_program("models", "check", str(DEMO_PACK))
    assert result.returncode == 0
    assert result.stdout.startswith(
        "demo-synth-v1: detector detector.onnx, embedders facenet, arcface, networks for tattoos; all run"
    )


def test_no_pack_is_pulled_before_its_licence_is_accepted(operator: Operator) -> None:
    result = operator.runs("models", "pull", "stash-sense-v1")
    assert result.returncode == 2
    assert "non-commercial" in result.stdout
    assert "--accept-licence" in error_line(result)
    assert not (operator.home / "data" / "models").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("releases", "diff", "2026.01.01", "2026.01.02"), "no release 2026.01.01"),
        (("releases", "install", "latest", "--to", "sidecar"), "no release latest"),
        (("identity", "explain", "stashdb"), "not of the form SOURCE:ID"),
        (("ui", "--data-dir", "nowhere"), "run `make demo` first"),
    ],
)
def test_a_wrong_argument_prints_one_line_and_exits_with_2(
    operator: Operator, arguments: tuple[str, ...], said: str
) -> None:
    result = operator.runs(*arguments)
    assert result.returncode == 2
    assert said in error_line(result)
