"""Each check of readiness, good and bad."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from dagster._daemon.types import DaemonHeartbeat

from stash_sense_pipeline.catalog.engine import CatalogState, open_catalog
from stash_sense_pipeline.deployment.dagster_home import prepare_home
from stash_sense_pipeline.deployment.dagster_instance import open_instance
from stash_sense_pipeline.deployment.readiness.check import Check, State, check_of_error
from stash_sense_pipeline.deployment.readiness.history_checks import (
    check_daemon,
    check_history,
    check_pool,
    instance_settings,
    launches_elsewhere,
)
from stash_sense_pipeline.deployment.readiness.machine_checks import (
    check_clock,
    check_data_dir,
    check_device,
    check_disk,
    check_versions,
    free_bytes,
    installed_versions,
)
from stash_sense_pipeline.deployment.readiness.setup_checks import (
    check_catalog,
    check_contact,
    check_overrides,
    check_pack,
    check_second,
    check_sources_file,
)
from stash_sense_pipeline.deployment.readiness.source_checks import (
    check_answer,
    check_resting,
    check_unasked,
)
from stash_sense_pipeline.faces.models.onnx_sessions import Device
from stash_sense_pipeline.foundation.errors import DeviceError, Outcome
from stash_sense_pipeline.foundation.files import sqlite_url
from stash_sense_pipeline.sandbox.demo import DEMO_PACK, DEMO_SENSE2_PACK
from stash_sense_pipeline.settings.environment import read_environment
from stash_sense_pipeline.settings.schema import ReferenceSiteSettings, Settings, StashBoxSettings
from stash_sense_pipeline.settings.sources_file import load_settings
from stash_sense_pipeline.sources.probing.probes import Probe
from stash_sense_pipeline.sources.stash_boxes.stash_box_records import ListSample

BOX = StashBoxSettings(
    name="stashdb", url="https://a.example.org/graphql", host="a.example.org", rate_limit=60
)
SITE = ReferenceSiteSettings(name="thenude", url="https://b.example.org", rate_limit=60)


def settings_of(directory: Path, content: dict[str, Any]) -> Settings:
    file = directory / "sources.yaml"
    file.write_text(yaml.safe_dump(content))
    return load_settings(file)


# --- the machine ---


def test_all_programs_are_installed_here_and_a_missing_one_is_a_problem() -> None:
    assert check_versions(installed_versions()).state is State.OK
    bad = check_versions({"dagster": "1.13.27", "onnxruntime": None})
    assert (bad.state, bad.text) == (State.PROBLEM, "onnxruntime is not installed")


def test_the_cpu_is_always_there_and_cuda_needs_its_runtime_and_here_a_gpu() -> None:
    def refuses(_: Device) -> None:
        raise DeviceError(
            "CUDA was asked for and is not there: no driver; install one, or choose the device cpu"
        )

    def accepts(_: Device) -> None:
        return

    assert check_device(Device.CPU, runs_elsewhere=False).state is State.OK
    bad = check_device(Device.CUDA, runs_elsewhere=False, runtime=accepts, machine=refuses)
    assert (bad.state, bad.action) == (State.PROBLEM, "install one, or choose the device cpu")
    good = check_device(Device.CUDA, runs_elsewhere=True, runtime=accepts, machine=refuses)
    assert (good.state, good.text) == (State.OK, "cuda, in the containers of runs")
    assert check_device(Device.CUDA, runs_elsewhere=True, runtime=refuses).state is State.PROBLEM


def test_a_data_directory_that_does_not_exist_is_a_warning_and_is_not_made(tmp_path: Path) -> None:
    assert check_data_dir(tmp_path).state is State.OK
    assert check_data_dir(tmp_path / "none").state is State.WARNING
    assert not (tmp_path / "none").exists()


def test_a_data_directory_that_cannot_be_written_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write everywhere, so the answer of the system is replaced.
    monkeypatch.setattr(os, "access", lambda *_: False)
    bad = check_data_dir(tmp_path)
    assert bad.state is State.PROBLEM
    assert "chown -R" in bad.action


@pytest.mark.parametrize(
    ("free", "needed", "state"),
    [
        (10**12, None, State.OK),
        (10**12, 10**10, State.OK),
        (10**10, 10**12, State.WARNING),
        (10**8, None, State.PROBLEM),
        (10**8, 10**12, State.PROBLEM),
    ],
)
def test_free_space_is_compared_with_a_gigabyte_and_with_the_estimate(
    free: int, needed: int | None, state: State
) -> None:
    assert check_disk(free, needed).state is state


def test_the_free_space_of_a_directory_that_does_not_exist_is_that_of_its_parent(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "a" / "b") > 0


@pytest.mark.parametrize(
    ("ahead", "state"),
    [(0, State.OK), (-90, State.OK), (600, State.WARNING), (-600, State.WARNING), (90_000, State.PROBLEM)],
)
def test_the_clock_may_differ_by_two_minutes(ahead: int, state: State) -> None:
    found = check_clock([timedelta(seconds=ahead)])
    assert found is not None
    assert found.state is state


def test_one_server_with_a_wrong_clock_does_not_accuse_ours_and_no_answer_says_nothing() -> None:
    found = check_clock([timedelta(days=-4000), timedelta(seconds=1)])
    assert found is not None
    assert found.state is State.OK
    assert check_clock([]) is None


# --- what the operator sets up ---


def test_a_missing_file_and_one_that_enables_nothing_are_problems(tmp_path: Path) -> None:
    on = settings_of(tmp_path, {"stash_boxes": {"stashdb": {}}})
    off = settings_of(tmp_path, {"stash_boxes": {"stashdb": {"enabled": False}}})
    file = tmp_path / "sources.yaml"
    assert check_sources_file(file, on, is_there=True).state is State.OK
    assert check_sources_file(file, on, is_there=False).state is State.PROBLEM
    assert check_sources_file(file, off, is_there=True).state is State.PROBLEM


@pytest.mark.parametrize(
    ("contact", "url", "state"),
    [
        ("me@mail.example", "https://stashdb.org/graphql", State.OK),
        ("", "https://stashdb.org/graphql", State.PROBLEM),
        ("  ", "https://stashdb.org/graphql", State.PROBLEM),
        ("", "http://127.0.0.1:9998/graphql", State.OK),
        ("", "http://192.168.1.5:9998/graphql", State.OK),
        ("", "http://stash-box:9998/graphql", State.OK),
        ("", "http://stash.local/graphql", State.OK),
        ("", "http://8.8.8.8/graphql", State.PROBLEM),
    ],
)
def test_only_a_source_of_the_internet_needs_a_contact_address(
    tmp_path: Path, contact: str, url: str, state: State
) -> None:
    content = {"global": {"user_agent_contact": contact}, "stash_boxes": {"stashdb": {"url": url}}}
    assert check_contact(settings_of(tmp_path, content)).state is state


def test_a_pack_is_verified_and_a_missing_or_altered_one_is_a_problem(tmp_path: Path) -> None:
    assert check_pack(str(DEMO_PACK), tmp_path, real_sources=False).state is State.OK
    demo = check_pack(str(DEMO_PACK), tmp_path, real_sources=True)
    assert (demo.state, "no real people" in demo.text) == (State.WARNING, True)
    missing = check_pack("stash-sense-v1", tmp_path, real_sources=True)
    assert missing.state is State.PROBLEM
    assert "stash-sense models pull stash-sense-v1" in missing.action
    copy = shutil.copytree(DEMO_PACK, tmp_path / "altered")
    network = next(copy.glob("*.onnx"))
    network.write_bytes(network.read_bytes()[:-1] + b"x")
    altered = check_pack("altered", tmp_path, real_sources=False)
    assert altered.state is State.PROBLEM
    assert "sha256" in altered.text


def test_a_second_pack_is_verified_and_must_differ_from_the_first(tmp_path: Path) -> None:
    environment = read_environment({"STASH_SENSE_MODEL_PACK": str(DEMO_PACK)}, tmp_path)

    def check(second: str) -> Check | None:
        content = {"global": {"second_pack": second}, "stash_boxes": {"stashdb": {}}}
        return check_second(settings_of(tmp_path, content), environment, has_catalog=False)

    assert check("") is None
    found = check(str(DEMO_SENSE2_PACK))
    assert found == Check("second pack", State.OK, "demo-synth-sense2, 2 networks verified")
    for wanted, said in (("sense2", "models pull sense2"), (str(DEMO_PACK), "cannot be told apart")):
        problem = check(wanted)
        assert problem is not None
        assert problem.state is State.PROBLEM
        assert said in f"{problem.text} {problem.action}"


@pytest.mark.slow
def test_a_catalog_is_missing_current_older_or_unreadable_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    url = sqlite_url(path)
    check, state = check_catalog(url)
    assert (check.state, state) == (State.WARNING, CatalogState.MISSING)
    assert list(tmp_path.iterdir()) == []
    open_catalog(url).dispose()
    check, state = check_catalog(url)
    assert (check.state, state) == (State.OK, CatalogState.CURRENT)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    check, state = check_catalog(url)
    assert (check.state, state) == (State.WARNING, CatalogState.OLDER)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    check, state = check_catalog(url)
    assert (check.state, check.action, state) == (State.PROBLEM, "upgrade stash-sense", None)
    connection.close()
    path.write_bytes(b"")
    assert check_catalog(url)[0].state is State.PROBLEM


def test_a_database_server_that_does_not_answer_is_a_problem_without_its_password() -> None:
    check, state = check_catalog("postgresql://stash:hunter2@127.0.0.1:9/catalog")
    assert (check.state, state) == (State.PROBLEM, None)
    assert "hunter2" not in check.text


# --- the sources ---


def test_a_source_that_is_not_asked_needs_its_key() -> None:
    assert check_unasked(BOX, None) == Check("stashdb", State.OK, "has a key")
    assert check_unasked(BOX, "stashdb: no key; set STASHDB_API_KEY") == Check(
        "stashdb", State.PROBLEM, "no key", "set STASHDB_API_KEY"
    )
    assert check_unasked(SITE, None).state is State.OK
    assert check_unasked(SITE.model_copy(update={"fetch": False}), None).text == "is used without requests"


def test_a_source_that_refused_requests_is_a_warning_with_the_time() -> None:
    check = check_resting(BOX, datetime(2026, 1, 2, 3, 4, tzinfo=UTC))
    assert check.state is State.WARNING
    assert "2026-01-02 03:04 UTC" in check.text


def test_an_answer_tells_the_number_of_performers_or_that_robots_txt_allows_us() -> None:
    good = check_answer(BOX, Probe("stashdb", ListSample(110_000, (5,))))
    assert (good.state, good.text) == (State.OK, "accepts the key; 110,000 performers")
    capped = check_answer(BOX, Probe("stashdb", ListSample(10_000, (5,), is_capped=True)))
    assert "at least 10,000" in capped.text
    assert "robots.txt allows" in check_answer(SITE, Probe("thenude")).text


@pytest.mark.parametrize(
    ("problem", "outcome", "state", "action"),
    [
        ("the server refused the key (expired or wrong)", Outcome.BLOCKED, State.PROBLEM, "STASHDB_API_KEY"),
        ("answered 403", Outcome.BLOCKED, State.PROBLEM, "leave it alone"),
        ("answered 429", Outcome.RATE_LIMITED, State.WARNING, "wait an hour"),
        ("could not be reached", Outcome.TIMEOUT, State.PROBLEM, "network"),
        ("robots.txt does not allow it", Outcome.DISALLOWED, State.PROBLEM, "enabled: false"),
        ("no JSON", Outcome.PARSE_ERROR, State.PROBLEM, "connector"),
        ("no such page", Outcome.NOT_FOUND, State.PROBLEM, "url"),
        ("no key; set STASHDB_API_KEY", None, State.PROBLEM, "set STASHDB_API_KEY"),
    ],
)
def test_a_source_without_a_usable_answer_says_what_to_do(
    problem: str, outcome: Outcome | None, state: State, action: str
) -> None:
    check = check_answer(BOX, Probe("stashdb", problem=f"stashdb: {problem}", outcome=outcome))
    assert check.state is state
    assert action in check.action
    assert not check.text.startswith("stashdb")


def test_the_advice_of_an_error_is_the_action_and_lines_are_joined() -> None:
    assert check_of_error("x", "it broke; mend it", "look") == Check(
        "x", State.PROBLEM, "it broke", "mend it"
    )
    assert check_of_error("x", "it broke", "look") == Check("x", State.PROBLEM, "it broke", "look")
    assert "\n" not in check_of_error("x", "a\nb", "look").text


# --- the run history ---


@pytest.mark.parametrize(
    ("limit", "gpus", "state"),
    [
        (1, 1, State.OK),
        (2, 2, State.OK),
        (1, 2, State.WARNING),
        (None, 1, State.WARNING),
        (0, 1, State.PROBLEM),
    ],
)
def test_the_limit_of_the_pool_is_that_of_the_variable(limit: int | None, gpus: int, state: State) -> None:
    assert check_pool(limit, gpus).state is state


@pytest.mark.parametrize(
    ("minutes", "automation", "state"),
    [
        (1, True, State.OK),
        (1, False, State.OK),
        (60, True, State.PROBLEM),
        (60, False, State.WARNING),
        (None, True, State.PROBLEM),
        (None, False, State.OK),
    ],
)
def test_a_daemon_that_is_not_alive_is_a_problem_where_automation_is_on(
    minutes: int | None, automation: bool, state: State
) -> None:
    age = None if minutes is None else timedelta(minutes=minutes)
    assert check_daemon(age, automation=automation).state is state


@pytest.mark.slow
def test_a_run_history_tells_its_pool_and_the_newest_heartbeat_of_its_daemons(tmp_path: Path) -> None:
    home = prepare_home(tmp_path / "dagster")

    def checks() -> list[tuple[str, State]]:
        found = check_history(home, instance_settings(home), 1, server_ready=False, automation=True)
        return [(check.name, check.state) for check in found]

    assert checks() == []
    with open_instance(home) as instance:
        assert checks() == [("pool gpu", State.WARNING), ("daemon", State.PROBLEM)]
        instance.event_log_storage.set_concurrency_slots("gpu", 1)
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - 7200, "SENSOR", "a"))
        assert checks() == [("pool gpu", State.OK), ("daemon", State.PROBLEM)]
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "SCHEDULER", "a"))
        assert checks() == [("pool gpu", State.OK), ("daemon", State.OK)]


@pytest.mark.slow
def test_a_damaged_run_history_is_a_problem(tmp_path: Path) -> None:
    home = prepare_home(tmp_path / "dagster")
    open_instance(home).dispose()
    (home / "history" / "runs.db").write_bytes(b"no database" * 100)
    (check,) = check_history(home, instance_settings(home), 1, server_ready=False, automation=False)
    assert (check.name, check.state) == ("run history", State.PROBLEM)


@pytest.mark.parametrize(
    ("content", "elsewhere"),
    [
        ({}, False),
        ({"run_launcher": {"module": "m", "class": "WatchedRunLauncher"}}, False),
        ({"run_launcher": {"module": "m", "class": "PoolDockerRunLauncher"}}, True),
        ({"run_launcher": None}, False),
    ],
)
def test_runs_are_elsewhere_when_dagster_yaml_names_a_launcher_of_containers(
    tmp_path: Path, content: dict[str, Any], elsewhere: bool
) -> None:
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(content))
    assert launches_elsewhere(instance_settings(tmp_path)) is elsewhere
    assert launches_elsewhere(instance_settings(tmp_path / "none")) is False


def test_overrides_are_named_when_they_cannot_be_read_or_have_no_effect(
    catalog: sa.Engine, tmp_path: Path
) -> None:
    variables = {"DATA_DIR": str(tmp_path), "STASH_SENSE_CATALOG_URL": str(catalog.url)}
    environment = read_environment(variables, tmp_path)
    assert check_overrides(environment, has_catalog=True) is None
    environment.overrides_file.write_text("must_link:\n- [stashdb:a, fansdb:b\n")
    broken = check_overrides(environment, has_catalog=False)
    assert broken is not None
    assert broken.state is State.PROBLEM
    assert "identity_overrides.yaml:3: not valid YAML" in broken.text
    environment.overrides_file.write_text("must_link:\n- [stashdb:a, fansdb:b]\nreviewed: []\n")
    assert check_overrides(environment, has_catalog=False) is None
    refused = check_overrides(environment, has_catalog=True)
    assert refused is not None
    assert refused.state is State.WARNING
    assert refused.text.startswith("1 line of ")
    assert refused.action == "see `stash-sense review settled`"
