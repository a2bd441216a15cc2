"""`stash-sense doctor`: what it says, its JSON, its exit code, and that it changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.queries.sync_state import SyncState, save_state
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.cli import main
from stash_sense_pipeline.foundation.files import sqlite_url
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.faults import Fault, FaultKind
from stash_sense_pipeline.sandbox.servers import SandboxServers, sources_settings
from stash_sense_pipeline_tests.orchestration.conftest import PROGRAM
from stash_sense_pipeline_tests.rendered_pictures import rendered


@pytest.fixture(scope="module")
def servers() -> Iterator[SandboxServers]:
    """A small world, served."""
    with SandboxServers(make_demo_world(seed=4, people=30), pictures=rendered()) as running:
        yield running


class Operator:
    """Runs stash-sense in this process, in a directory of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.variables: dict[str, str] = {"DATA_DIR": str(home / "data")}

    def with_world(self, servers: SandboxServers, **more: Any) -> Operator:
        """The settings, keys and pack of the sandbox."""
        content = {**sources_settings(servers, sites=("thenude",)), **more}
        (self.home / "sources.yaml").write_text(yaml.safe_dump(content))
        self.variables |= {"STASH_SENSE_MODEL_PACK": str(DEMO_PACK), **servers.environment()}
        return self

    def runs(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, arguments, env=self.variables)

    def doctor(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """The exit code and the JSON."""
        result = self.runs("doctor", "--json", *arguments)
        assert result.stderr == ""
        return result.exit_code, json.loads(result.stdout)

    def files(self) -> dict[str, tuple[str, int]]:
        """Every file and directory with the digest of its content and its mode."""
        return {
            str(path.relative_to(self.home)): (
                hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
                path.stat().st_mode,
            )
            for path in self.home.rglob("*")
        }


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers: SandboxServers) -> Iterator[Operator]:
    """An operator in an empty directory, with none of the variables of the shell."""
    for name in list(os.environ):
        if name.startswith(("STASH_SENSE_", "DAGSTER_")) or "_API_KEY" in name or name == "DATA_DIR":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    servers.traffic.clear_faults()
    servers.traffic.clear_requests()
    umask, handler = os.umask(0o077), signal.getsignal(signal.SIGTERM)
    yield Operator(tmp_path)
    os.umask(umask)
    signal.signal(signal.SIGTERM, handler)
    servers.traffic.clear_faults()


def states(report: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["state"] for check in report["checks"]}


def test_in_an_empty_directory_it_names_what_is_missing_creates_nothing_and_exits_with_1(
    operator: Operator,
) -> None:
    code, report = operator.doctor()
    assert code == 1
    assert report["ready"] is False
    found = states(report)
    for name in ("settings", "contact", "model pack", *("stashdb", "theporndb", "fansdb")):
        assert found[name] == "problem", name
    assert found["data directory"] == found["catalog"] == "warning"
    assert found["versions"] == found["device"] == "ok"
    assert not {"clock", "daemon", "pool gpu"} & found.keys()
    assert operator.files() == {}


def test_each_line_fits_80_columns_and_says_what_to_do(operator: Operator) -> None:
    lines = operator.runs("doctor").stdout.splitlines()
    # A path cannot be broken.
    assert max(len(line) for line in lines if str(operator.home) not in line) <= 80
    text = " ".join(" ".join(lines).split())
    assert "problem contact: no contact address" in text
    assert "set global.user_agent_contact in sources.yaml" in text
    assert "problem stashdb: no key; set STASHDB_API_KEY or STASHDB_API_KEY_FILE" in text
    assert lines[-1] == "8 problems, 2 warnings"


@pytest.mark.slow
def test_a_prepared_installation_is_ready_and_stays_as_it_is(
    operator: Operator, servers: SandboxServers
) -> None:
    operator.with_world(servers)
    prepared = operator.runs("prepare")
    assert prepared.exit_code == 0, prepared.output
    assert prepared.stdout.splitlines()[-1] == "run history: ready; pool gpu: 1 at a time"
    assert servers.traffic.requests() == []
    before = operator.files()
    code, report = operator.doctor()
    assert (code, report["ready"]) == (0, True)
    assert set(states(report).values()) == {"ok"}
    assert {"pool gpu", "daemon", "clock", "stashdb", "thenude"} <= states(report).keys()
    assert operator.files() == before
    # One request each: the beginning of a list, or a robots.txt.
    assert len(servers.traffic.requests()) == 6
    assert operator.runs("doctor").stdout.splitlines()[-1] == "ready"


@pytest.mark.slow
def test_before_a_first_build_it_estimates_the_build_of_all_stash_boxes(
    operator: Operator, servers: SandboxServers
) -> None:
    _, report = operator.with_world(servers).doctor()
    live = {
        name: sum(not row.deleted for row in box.performers.values())
        for name, box in servers.world.boxes.items()
    }
    found = {source["source"]: source["performers"] for source in report["estimate"]["sources"]}
    assert {name: found[name] for name in live} == live
    assert report["estimate"]["disk_bytes"] > 0
    said = operator.runs("doctor").stdout
    assert "first build, estimated:" in said
    assert "assumed:" in said


def note_state(operator: Operator, state: SyncState) -> None:
    """Stores the sync state of a source in the operator's catalog."""
    engine = open_catalog(sqlite_url(operator.home / "data" / "catalog.db"))
    with writing(engine) as connection:
        save_state(connection, state)
    engine.dispose()


@pytest.mark.slow
def test_a_source_that_was_read_in_full_is_not_estimated(operator: Operator, servers: SandboxServers) -> None:
    operator.with_world(servers)
    now = datetime.now(UTC)
    for name in ("stashdb", "theporndb", "pmvstash", "javstash"):
        note_state(operator, SyncState(name, backfilled_at=now))
    _, report = operator.doctor()
    assert [source["source"] for source in report["estimate"]["sources"]] == ["fansdb"]
    note_state(operator, SyncState("fansdb", backfilled_at=now))
    assert operator.doctor()[1]["estimate"] is None


@pytest.mark.slow
def test_a_source_that_refused_requests_is_left_alone(operator: Operator, servers: SandboxServers) -> None:
    operator.with_world(servers)
    until = datetime.now(UTC) + timedelta(hours=5)
    rests = SyncState("thenude", detail={"left_alone_until": until.isoformat()})
    note_state(operator, rests)
    _, report = operator.doctor()
    assert states(report)["thenude"] == "warning"
    assert servers.traffic.requests("thenude") == []
    note_state(operator, replace(rests, detail={"left_alone_until": "2020-01-01T00:00:00+00:00"}))
    assert states(operator.doctor()[1])["thenude"] == "ok"


def test_offline_it_sends_no_request(operator: Operator, servers: SandboxServers) -> None:
    code, report = operator.with_world(servers).doctor("--offline")
    assert servers.traffic.requests() == []
    assert code == 0
    assert "clock" not in states(report)
    assert states(report)["stashdb"] == "ok"
    assert report["estimate"] is None


@pytest.mark.slow
def test_a_refused_key_a_broken_source_and_a_forbidden_site_are_problems(
    operator: Operator, servers: SandboxServers
) -> None:
    operator.with_world(servers)
    operator.variables["STASHDB_API_KEY"] = "wrong"
    servers.traffic.inject(Fault(FaultKind.STATUS, box="fansdb", status=500, times=None))
    servers.world.sites["thenude"].behaviour.robots = "User-agent: *\nDisallow: /\n"
    try:
        code, report = operator.doctor()
    finally:
        servers.world.sites["thenude"].behaviour.robots = None
    assert code == 1
    problems = {name for name, state in states(report).items() if state == "problem"}
    assert problems == {"stashdb", "fansdb", "thenude"}
    said = json.dumps(report)
    assert "wrong" not in said.replace("expired or wrong", "")


def test_a_source_of_the_internet_is_not_asked_without_a_contact_address(
    operator: Operator, servers: SandboxServers
) -> None:
    boxes = {"far": {"url": "https://stash-box.example.org/graphql"}}
    operator.with_world(servers, stash_boxes=boxes, reference_sites={})
    operator.variables["FAR_API_KEY"] = "key"
    code, report = operator.doctor()
    assert code == 1
    assert (states(report)["contact"], states(report)["far"]) == ("problem", "ok")
    assert "clock" not in states(report)


@pytest.mark.parametrize(
    ("name", "value"), [("STASH_SENSE_DEVICE", "rocm"), ("STASH_SENSE_GPUS", "none"), ("DATA_DIR", "a\nb")]
)
def test_a_wrong_variable_is_one_line_and_exit_code_2(operator: Operator, name: str, value: str) -> None:
    operator.variables[name] = value
    result = operator.runs("doctor")
    assert (result.exit_code, result.stdout) == (2, "")
    assert name in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert operator.files() == {}


def test_a_mistake_in_sources_yaml_is_exit_code_2_with_its_line(operator: Operator) -> None:
    (operator.home / "sources.yaml").write_text("stash_boxes:\n  stashdb: {colour: red}\n")
    result = operator.runs("doctor", "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "sources.yaml:2" in result.stderr


def test_cuda_without_its_runtime_is_a_problem(operator: Operator, servers: SandboxServers) -> None:
    operator.with_world(servers).variables["STASH_SENSE_DEVICE"] = "cuda"
    code, report = operator.doctor("--offline")
    assert code == 1
    assert states(report)["device"] == "problem"


@pytest.mark.slow
def test_prepare_says_what_is_not_ready_and_exits_with_0(operator: Operator) -> None:
    result = operator.runs("prepare")
    assert (result.exit_code, result.stderr) == (0, "")
    said = " ".join(result.stdout.split())
    assert "run history: ready; pool gpu: 1 at a time problem contact: no contact address" in said
    assert "problem stashdb: no key; set STASHDB_API_KEY" in said
    assert "problem model pack:" in said
    assert "ok versions" not in said


def test_a_build_of_real_sources_without_a_contact_address_is_refused_and_changes_nothing(
    operator: Operator, servers: SandboxServers
) -> None:
    boxes = {
        **sources_settings(servers)["stash_boxes"],
        "far": {"url": "https://stash-box.example.org/graphql"},
    }
    operator.with_world(servers, stash_boxes=boxes)
    operator.variables["FAR_API_KEY"] = "key"
    before = operator.files()
    result = operator.runs("build")
    assert (result.exit_code, result.stdout) == (2, "")
    line = " ".join(textwrap.wrap(result.stderr))
    assert "no source is asked without a contact address: set global.user_agent_contact in" in line
    assert len(result.stderr.splitlines()) == 1
    assert servers.traffic.requests() == []
    assert operator.files() == before


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_first_build_begins_with_the_estimate_and_the_second_has_none(
    operator: Operator, servers: SandboxServers
) -> None:
    operator.with_world(servers)
    first = operator.runs("build", "--sources", "fansdb", "--no-faces")
    assert first.exit_code == 0, first.output
    assert first.stdout.splitlines()[0] == "first build, estimated:"
    assert first.stdout.splitlines()[1].startswith("  fansdb  ")
    second = operator.runs("build", "--sources", "fansdb", "--no-faces")
    assert second.exit_code == 0, second.output
    assert "estimated" not in second.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_estimate_ends_the_build_in_one_line(
    operator: Operator, servers: SandboxServers, number: signal.Signals
) -> None:
    operator.with_world(servers)
    servers.traffic.inject(Fault(FaultKind.HANG, box="fansdb", times=None))
    with subprocess.Popen(
        [PROGRAM, "build", "--sources", "fansdb", "--no-faces"],
        env={**os.environ, **operator.variables},
        cwd=operator.home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts the tests in the background ignores SIGINT, and the build would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    ) as process:
        give_up = time.monotonic() + 240
        while not servers.traffic.requests("fansdb"):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < give_up
            time.sleep(0.02)
        process.send_signal(number)
        said, complaint = process.communicate(timeout=240)
    assert (process.returncode, said) == (130, "")
    assert complaint == "stash-sense: stopped; run the command again to go on\n"
    # The estimate alone asked.
    assert len(servers.traffic.requests("fansdb")) == 1
