"""The files of a deployment: that Dagster and compose take them, and that they say what the documentation promises."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.instance.config import dagster_instance_config

from stash_sense_pipeline.orchestration.execution import PoolDockerRunLauncher, WatchedRunLauncher
from stash_sense_pipeline.orchestration.instance import open_instance

PROJECT = Path(__file__).parent.parent.parent
COMPOSE = PROJECT / "docker-compose.yml"
SERVICES = ("postgres", "init", "code", "webserver", "daemon", "flaresolverr")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services, with what they share filled in."""
    return dict(yaml.safe_load(COMPOSE.read_text())["services"])


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What compose gives the services."""
    given = yaml.safe_load(COMPOSE.read_text())["x-program"]["environment"]
    for name, value in given.items():
        default = re.sub(r"\$\{\w+(?::-([^}]*)|:\?[^}]*)\}", lambda match: match.group(1) or "x", value)
        monkeypatch.setenv(name, default)


@pytest.mark.usefixtures("variables")
def test_the_settings_of_the_containers_are_taken() -> None:
    config, _ = dagster_instance_config(str(PROJECT / "deploy"), "dagster.yaml")
    assert config["storage"]["postgres"]["postgres_db"]["scheme"] == "postgresql+psycopg2"
    reference = dg.DagsterInstance.from_ref
    assert reference
    from dagster._core.instance.ref import InstanceRef

    ref = InstanceRef.from_dir(str(PROJECT / "deploy"))
    launcher = ref.run_launcher
    assert isinstance(launcher, PoolDockerRunLauncher)
    assert launcher.networks == ["stash-sense"]
    assert launcher.container_kwargs["volumes"] == ["stash-sense-data:/data"]
    settings = ref.settings
    assert settings["run_monitoring"]["free_slots_after_run_end_seconds"] == 60
    assert settings["run_retries"] == {
        "enabled": True,
        "max_retries": 1,
        "retry_on_asset_or_op_failure": False,
    }
    assert settings["retention"]["sensor"]["purge_after_days"]["skipped"] == 3
    assert settings["telemetry"] == {"enabled": False}
    assert settings["nux"] == {"enabled": False}


def test_both_settings_have_the_same_limits() -> None:
    ours, containers = (
        yaml.safe_load((PROJECT / path).read_text()) for path in ("dagster.yaml", "deploy/dagster.yaml")
    )
    assert ours["concurrency"] == containers["concurrency"]
    assert ours["run_retries"] == containers["run_retries"]
    assert ours["retention"] == containers["retention"]
    assert ours["run_queue"] == containers["run_queue"]
    assert ours["run_monitoring"].keys() == containers["run_monitoring"].keys()


def test_on_one_machine_runs_are_watched_processes(tmp_path: Path) -> None:
    with open_instance(tmp_path / "home") as instance:
        assert isinstance(instance.run_launcher, WatchedRunLauncher)


def test_services_start_in_order_and_are_watched(services: dict[str, Any]) -> None:
    assert set(services) == set(SERVICES)
    waits = {name: service.get("depends_on", {}) for name, service in services.items()}
    assert waits["init"] == {"postgres": {"condition": "service_healthy"}}
    assert waits["code"] == {"init": {"condition": "service_completed_successfully"}}
    assert waits["webserver"] == waits["daemon"] == {"code": {"condition": "service_healthy"}}
    for name in ("postgres", "code", "webserver", "daemon"):
        assert services[name]["healthcheck"]["test"], name
        assert services[name]["restart"] == "unless-stopped"
    for name, service in services.items():
        assert service["mem_limit"], name
        assert service["logging"]["options"]["max-size"], name


def test_one_image_for_all_pinned_and_the_port_is_for_this_machine_only(services: dict[str, Any]) -> None:
    ours = {services[name]["image"] for name in ("init", "code", "webserver", "daemon")}
    assert len(ours) == 1
    for name, service in services.items():
        tag = service["image"].rstrip("}").rpartition(":")[2]
        assert re.search(r"\d+\.\d+", tag), f"{name}: {service['image']} is not pinned"
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:${STASH_SENSE_PORT:-3000}:3000"]


def test_only_who_launches_runs_sees_the_engine(services: dict[str, Any]) -> None:
    seeing = {
        name
        for name, service in services.items()
        if any("docker.sock" in str(volume) for volume in service.get("volumes", []))
    }
    assert seeing == {"webserver", "daemon"}


def test_every_variable_of_compose_is_explained() -> None:
    used = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    explained = set(
        re.findall(r"^#? ?([A-Z][A-Z0-9_]+)=", (PROJECT / ".env.example").read_text(), re.MULTILINE)
    )
    of_images = {"POSTGRES_IMAGE", "FLARESOLVERR_IMAGE", "STASH_SENSE_NETWORK", "STASH_SENSE_POSTGRES_VOLUME"}
    assert used <= explained | of_images


def test_compose_takes_the_file(tmp_path: Path) -> None:
    program = shutil.which("docker-compose")
    command = [program] if program else ["docker", "compose"]
    if not program and subprocess.run([*command, "version"], capture_output=True, check=False).returncode:
        pytest.skip("neither docker-compose nor docker compose on this machine")
    shutil.copyfile(COMPOSE, tmp_path / "docker-compose.yml")
    (tmp_path / ".env").write_text("POSTGRES_PASSWORD=x\nDOCKER_GID=1\n")
    subprocess.run([*command, "config", "-q"], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / ".env").write_text("POSTGRES_PASSWORD=\n")
    result = subprocess.run(
        [*command, "config", "-q"], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert result.returncode
    assert "set POSTGRES_PASSWORD in .env" in result.stderr


def test_the_image_is_pinned_runs_as_a_user_and_asks_whether_it_is_well() -> None:
    text = (PROJECT / "Dockerfile").read_text()
    assert re.search(r"^ARG BASE_IMAGE=\S+:\d+\.\d+\.\d+", text, re.MULTILINE)
    assert ":latest" not in text
    targets = re.findall(r"^FROM (\S+)(?: AS (\S+))?", text, re.MULTILINE)
    assert {name for _, name in targets} >= {"system", "cpu", "gpu"}
    assert targets[-1][0] == "cpu", "a build without --target makes the image for the CPU"
    assert "\nUSER stash\n" in text
    assert "HEALTHCHECK" in text
    assert "--require-hashes image-cpu.txt" in text
    assert "--require-hashes image-gpu.txt" in text
    assert not re.search(r"^CMD .*(pip|uv)", text, re.MULTILINE)


def test_the_image_gets_what_the_dockerfile_copies_and_nothing_else() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (PROJECT / "Dockerfile").read_text(), re.MULTILINE)
    allowed = (PROJECT / ".dockerignore").read_text().splitlines()
    assert allowed[1] == "*"
    for path in " ".join(copied).split():
        assert (PROJECT / path).exists()
        assert f"!{path}" in allowed or ("!locks/*.txt" in allowed and path.startswith("locks/")), path


def test_the_locks_of_the_image_are_part_of_the_tested_ones() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^\S+==\S+", (PROJECT / "locks" / name).read_text(), re.MULTILINE))

    for kind in ("cpu", "gpu"):
        assert pins(f"image-{kind}.txt") <= pins(f"{kind}.txt")
        assert not {"pytest", "mypy"} & {pin.partition("==")[0] for pin in pins(f"image-{kind}.txt")}
