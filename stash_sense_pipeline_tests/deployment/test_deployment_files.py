"""The files of a deployment: Dagster and compose load them, and they match the documentation."""

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

from stash_sense_pipeline.deployment.dagster_instance import open_instance
from stash_sense_pipeline.deployment.docker_launcher import PoolDockerRunLauncher
from stash_sense_pipeline.deployment.process_launcher import WatchedRunLauncher

PROJECT = Path(__file__).parent.parent.parent
COMPOSE = PROJECT / "docker-compose.yml"
OPTIONAL_ENV_FILE = "[{path: .env, required: false}]"
SERVICES = ("password", "postgres", "init", "code", "engine", "webserver", "daemon", "flaresolverr")
OURS = ("password", "init", "code", "webserver", "daemon")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services, with what they share filled in."""
    return dict(yaml.safe_load(COMPOSE.read_text())["services"])


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What compose gives the services."""
    given = yaml.safe_load(COMPOSE.read_text())["x-program"]["environment"]
    for name, value in given.items():
        default = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)
        monkeypatch.setenv(name, default)


@pytest.mark.usefixtures("variables")
def test_dagster_loads_the_dagster_yaml_of_the_containers() -> None:
    config, _ = dagster_instance_config(str(PROJECT / "deploy"), "dagster.yaml")
    assert config["storage"]["postgres"]["postgres_db"]["scheme"] == "postgresql+psycopg2"
    reference = dg.DagsterInstance.from_ref
    assert reference
    from dagster._core.instance.ref import InstanceRef

    ref = InstanceRef.from_dir(str(PROJECT / "deploy"))
    launcher = ref.run_launcher
    assert isinstance(launcher, PoolDockerRunLauncher)
    assert launcher.networks == ["stash-sense", "stash-sense-database", "stash-sense-solver"]
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


def test_both_dagster_yaml_files_have_the_same_limits() -> None:
    ours, containers = (
        yaml.safe_load((PROJECT / path).read_text()) for path in ("dagster.yaml", "deploy/dagster.yaml")
    )
    assert ours["concurrency"] == containers["concurrency"]
    assert ours["run_retries"] == containers["run_retries"]
    assert ours["retention"] == containers["retention"]
    assert ours["run_queue"] == containers["run_queue"]
    assert ours["run_monitoring"].keys() == containers["run_monitoring"].keys()


@pytest.mark.slow
def test_dagster_yaml_uses_the_run_launcher_with_a_health_check(tmp_path: Path) -> None:
    with open_instance(tmp_path / "home") as instance:
        assert isinstance(instance.run_launcher, WatchedRunLauncher)


def test_services_start_in_order_and_have_health_checks(services: dict[str, Any]) -> None:
    assert set(services) == set(SERVICES)
    waits = {name: service.get("depends_on", {}) for name, service in services.items()}
    assert waits["postgres"] == {"password": {"condition": "service_completed_successfully"}}
    assert waits["init"] == {"postgres": {"condition": "service_healthy"}}
    assert waits["code"] == {"init": {"condition": "service_completed_successfully"}}
    launches = {"code": {"condition": "service_healthy"}, "engine": {"condition": "service_started"}}
    assert waits["webserver"] == waits["daemon"] == launches
    for name in ("postgres", "code", "engine", "webserver", "daemon"):
        assert services[name]["healthcheck"]["test"], name
        assert services[name]["restart"] == "unless-stopped"
    for name, service in services.items():
        assert service["mem_limit"], name
        assert service["logging"]["options"]["max-size"], name


def test_one_image_for_all_pinned_and_the_port_is_for_this_machine_only(services: dict[str, Any]) -> None:
    ours = {services[name]["image"] for name in OURS}
    assert len(ours) == 1
    for name in OURS:
        assert services[name]["build"] == {"context": ".", "target": "${STASH_SENSE_DEVICE:-cpu}"}, name
    assert services["engine"]["environment"]["IMAGE"] in ours
    stages = re.findall(r"^FROM \S+ AS (\S+)", (PROJECT / "Dockerfile").read_text(), re.MULTILINE)
    assert {"cpu", "cuda"} <= set(stages), "a stage for each value of STASH_SENSE_DEVICE"
    for name, service in services.items():
        tag = service["image"].rstrip("}").partition("@")[0].rpartition(":")[2]
        assert re.search(r"\d+\.\d+", tag), f"{name}: {service['image']} is not pinned"
        if service["image"] not in ours:
            assert re.search(r"@sha256:[0-9a-f]{64}\}$", service["image"]), (
                f"{name} is not named by its digest"
            )
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:${STASH_SENSE_PORT:-3000}:3000"]


def test_only_the_filter_has_the_docker_socket_and_only_launchers_reach_it(services: dict[str, Any]) -> None:
    seeing = {
        name
        for name, service in services.items()
        if any("docker.sock" in str(volume) for volume in service.get("volumes", []))
    }
    assert seeing == {"engine"}
    reaching = {name for name, service in services.items() if "engine" in service.get("networks", ())}
    assert reaching == {"engine", "webserver", "daemon"}
    assert services["engine"]["networks"] == ["engine"]
    for name in ("webserver", "daemon"):
        assert services[name]["environment"]["DOCKER_HOST"] == "tcp://engine:2375"
    assert "DOCKER_HOST" not in services["code"]["environment"]


def test_only_server_and_maker_have_the_file_with_the_database_password(services: dict[str, Any]) -> None:
    having = {
        name
        for name, service in services.items()
        if any(str(volume).startswith("password:") for volume in service.get("volumes", []))
    }
    assert having == {"password", "postgres"}
    text = COMPOSE.read_text()
    assert ":?" not in text, "no setting must be filled in before the first start"
    # The server refuses both.
    assert "POSTGRES_PASSWORD" not in services["postgres"]["environment"]


def test_every_service_is_confined(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        assert "cap_add" not in service, name
        # FlareSolverr writes its driver next to its program.
        assert service.get("read_only", False) is (name != "flaresolverr"), name
    assert services["postgres"]["user"] == "postgres"


def test_the_database_and_flaresolverr_are_only_on_the_networks_that_they_need(
    services: dict[str, Any],
) -> None:
    """Containers of two bridges do not reach each other; the test of the real engine proves it."""
    networks = yaml.safe_load(COMPOSE.read_text())["networks"]
    internal = {name for name, given in networks.items() if given.get("internal")}
    on = {name: set(service.get("networks", ())) for name, service in services.items()}
    assert services["password"]["network_mode"] == "none"
    assert on["postgres"] <= internal
    assert on["daemon"] <= internal
    assert on["flaresolverr"] == {"solver"}
    for name in ("postgres", "code", "webserver", "daemon"):
        assert not on["flaresolverr"] & on[name], name
    # The containers of runs are on these networks; no service that accepts commands is.
    of_runs = {"runs", "database", "solver"}
    assert not of_runs & (on["code"] | on["webserver"] | on["daemon"])
    assert on["init"] >= {"runs", "solver"}, "nothing else makes them before the first run"
    fixed = [networks[name]["name"].partition(":-")[2].rstrip("}") for name in ("runs", "database", "solver")]
    assert fixed == ["stash-sense", "stash-sense-database", "stash-sense-solver"]


def test_the_code_server_listens_on_the_internal_network_only(services: dict[str, Any]) -> None:
    command = services["code"]["command"]
    host = command[command.index("-h") + 1]
    (name,) = (
        name for name, given in services["code"]["networks"].items() if host in (given.get("aliases") or ())
    )
    assert yaml.safe_load(COMPOSE.read_text())["networks"][name]["internal"] is True
    (location,) = yaml.safe_load((PROJECT / "deploy" / "workspace.yaml").read_text())["load_from"]
    assert location["grpc_server"]["host"] == host


def test_the_ui_is_served_behind_its_guard_everywhere(services: dict[str, Any]) -> None:
    module = "stash_sense_pipeline.deployment.webserver"
    assert services["webserver"]["command"][:3] == ["python", "-m", module]
    for path in ("docker-compose.yml", "Dockerfile", "deploy/stash-sense.service"):
        assert "dagster-webserver" not in (PROJECT / path).read_text(), path


def test_actions_and_uv_are_named_by_their_hashes() -> None:
    workflow = (PROJECT / ".github/workflows/ci.yml").read_text()
    used = re.findall(r"uses: (\S+)", workflow)
    assert used
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action) for action in used)
    for path in ("Makefile", "Dockerfile"):
        text = (PROJECT / path).read_text()
        assert "uv==" not in text
        assert re.search(r"pip install .*--require-hashes -r \S*(uv.txt|UV_LOCK)", text), path
    lock = (PROJECT / "locks/uv.txt").read_text()
    assert re.match(r"uv==\S+ \\\n    --hash=sha256:[0-9a-f]{64}", lock)
    assert lock in (PROJECT / "locks/cpu.txt").read_text(), "the same uv as the tools'"


def test_a_tag_publishes_both_images_and_files_that_name_them(tmp_path: Path) -> None:
    workflow = yaml.safe_load((PROJECT / ".github/workflows/ci.yml").read_text())
    # YAML reads the key `on` as a boolean.
    assert workflow[True]["push"]["tags"] == ["v*"]
    assert workflow["permissions"] == {"contents": "read"}
    job = workflow["jobs"]["publish"]
    assert job["permissions"] == {"contents": "write", "packages": "write"}
    assert job["if"] == "startsWith(github.ref, 'refs/tags/v')"
    script = "\n".join(step.get("run", "") for step in job["steps"])
    assert "secrets." not in str(job)
    assert set(re.findall(r"--target (\w+) -t (\S+)", script)) == {
        ("cpu", '"$IMAGE"'),
        ("gpu", '"$IMAGE-gpu"'),
    }
    assert re.findall(r"docker push (\S+)", script) == ['"$IMAGE"', '"$IMAGE-gpu"']
    image = "ghcr.io/some-owner/stash-sense-pipeline:1.2.3"
    command = [PROJECT / "deploy" / "name-images.sh", "ghcr.io/Some-Owner", "1.2.3", tmp_path]
    subprocess.run(command, check=True)
    named = yaml.safe_load((tmp_path / "docker-compose.yml").read_text())["services"]
    assert {named[name]["image"] for name in OURS} == {f"${{STASH_SENSE_IMAGE:-{image}}}"}
    assert not any("build" in service for service in named.values()), "there is no checkout beside the file"
    template = (tmp_path / "deploy" / "unraid-template.xml").read_text()
    assert f"<Repository>{image}</Repository>" in template
    assert f"STASH_SENSE_IMAGE={image}-gpu" in (tmp_path / ".env.example").read_text()
    mounted = [volume for volume in named["engine"]["volumes"] if volume.startswith("./")]
    assert mounted
    assert all((tmp_path / volume.partition(":")[0]).is_file() for volume in mounted)


def test_every_variable_of_compose_is_explained() -> None:
    used = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    explained = set(
        re.findall(r"^#? ?([A-Z][A-Z0-9_]+)=", (PROJECT / ".env.example").read_text(), re.MULTILINE)
    )
    of_images = {"POSTGRES_IMAGE", "FLARESOLVERR_IMAGE", "HAPROXY_IMAGE"}
    of_images |= {"STASH_SENSE_POSTGRES_VOLUME", "STASH_SENSE_PASSWORD_VOLUME"}
    of_networks = {f"STASH_SENSE_{name}NETWORK" for name in ("", "DATABASE_", "SOLVER_")}
    assert used <= explained | of_images | of_networks


@pytest.mark.slow
def test_docker_compose_accepts_the_file(tmp_path: Path) -> None:
    program = shutil.which("docker-compose")
    command = [program] if program else ["docker", "compose"]
    if not program and subprocess.run([*command, "version"], capture_output=True, check=False).returncode:
        pytest.skip("neither docker-compose nor docker compose on this machine")
    text = COMPOSE.read_text()
    if program:
        # Version 1 has no optional env_file.
        text = text.replace(OPTIONAL_ENV_FILE, "[.env]")
    (tmp_path / "docker-compose.yml").write_text(text)
    # Nothing filled in; an .env file of 0.1.0; a GPU.
    for variables in ("", "POSTGRES_PASSWORD=x\nDOCKER_GID=1\n", "STASH_SENSE_DEVICE=cuda\n"):
        (tmp_path / ".env").write_text(variables)
        result = subprocess.run(
            [*command, "config"], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        # Version 1 writes warnings for variables without a value, and there is none.
        assert "variable is not set" not in result.stderr
        services = yaml.safe_load(result.stdout)["services"]
        assert services["init"]["build"]["target"] == ("cuda" if "cuda" in variables else "cpu")
        assert services["init"]["environment"]["PGPASSWORD"] == ("x" if "PASSWORD" in variables else "")


def test_the_image_is_pinned_runs_as_a_user_and_has_a_health_check() -> None:
    text = (PROJECT / "Dockerfile").read_text()
    assert re.search(r"^ARG BASE_IMAGE=\S+:\d+\.\d+\.\d+\S*@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert ":latest" not in text
    targets = re.findall(r"^FROM (\S+)(?: AS (\S+))?", text, re.MULTILINE)
    assert {name for _, name in targets} >= {"system", "cpu", "gpu"}
    assert targets[-1][0] == "cpu", "a build without --target makes the image for the CPU"
    assert "\nUSER stash\n" in text
    assert "HEALTHCHECK" in text
    assert "--require-hashes image-cpu.txt" in text
    assert "--require-hashes image-gpu.txt" in text
    assert not re.search(r"^CMD .*(pip|uv)", text, re.MULTILINE)


def test_the_build_context_holds_what_the_dockerfile_copies() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (PROJECT / "Dockerfile").read_text(), re.MULTILINE)
    allowed = (PROJECT / ".dockerignore").read_text().splitlines()
    assert allowed[1] == "*"
    for path in " ".join(copied).split():
        assert (PROJECT / path).exists()
        assert f"!{path}" in allowed or ("!locks/*.txt" in allowed and path.startswith("locks/")), path


def test_the_lock_files_of_the_image_are_subsets_of_the_tested_one() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^\S+==\S+", (PROJECT / "locks" / name).read_text(), re.MULTILINE))

    for kind in ("cpu", "gpu"):
        assert pins(f"image-{kind}.txt") <= pins(f"{kind}.txt")
        assert not {"pytest", "mypy"} & {pin.partition("==")[0] for pin in pins(f"image-{kind}.txt")}
