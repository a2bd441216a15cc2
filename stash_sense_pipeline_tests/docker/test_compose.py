"""The image and docker-compose.yml on a real Docker engine: up, healthy, a release by the UI, the GPU request, down."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.faults import Fault, FaultKind
from stash_sense_pipeline.sandbox.servers import SandboxServers, sources_settings
from stash_sense_pipeline_tests.docker.deployment import (
    KNOCK,
    RUN_NETWORKS,
    SOURCES,
    UI,
    Deployment,
    assert_confined,
    click_materialize,
    graphql,
    wait_until,
)
from stash_sense_pipeline_tests.docker.engine import (
    BASE,
    BRIDGE,
    IMAGE,
    PROJECT,
    Engine,
)

INSTALL = PROJECT / "docs" / "install.md"
pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def fresh(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, str]]:
    """All services after `docker compose up -d` alone in a checkout with nothing filled in, and what `init` printed."""
    made = Deployment(engine, tmp_path_factory.mktemp("compose"))
    # An engine that was kept from an earlier session has an older one, which `up` would not build again.
    engine.run("docker", "image", "rm", "--no-prune", IMAGE, check=False)
    try:
        said = made.compose("up", "-d", timeout=1200, check=False)
        assert "ERROR" not in said, (
            f"{said[-2000:]}\n{made.compose('logs', '--no-color', check=False)[-4000:]}"
        )
        made.await_healthy("postgres", "engine", "code", "webserver", "daemon")
        yield made, made.compose("logs", "--no-color", "init")
    finally:
        engine.remove_containers()
        made.compose("down", "-v")


@pytest.fixture(scope="module")
def servers(fresh: tuple[Deployment, str]) -> Iterator[SandboxServers]:
    """The sources of a sandbox on the engine's bridge."""
    with SandboxServers(make_demo_world(seed=6, people=30), host=BRIDGE) as running:
        yield running


@pytest.fixture(scope="module")
def deployment(fresh: tuple[Deployment, str], servers: SandboxServers) -> Deployment:
    """The same services with two stash-boxes of the sandbox."""
    made, _ = fresh
    kept = sources_settings(servers)
    kept["stash_boxes"] = {name: kept["stash_boxes"][name] for name in SOURCES}
    made.use_sandbox(kept, servers)
    made.await_healthy("postgres", "engine", "code", "webserver", "daemon")
    return made


def test_compose_up_alone_starts_everything_and_says_what_is_missing(fresh: tuple[Deployment, str]) -> None:
    made, said = fresh
    assert made.state("init")["ExitCode"] == 0
    assert "/data/sources.yaml: written" in said
    assert "catalog postgresql+psycopg2://stash@postgres:5432/catalog: ready" in said
    assert "password of PostgreSQL: made" in made.compose("logs", "--no-color", "password")
    assert graphql("{version}")["version"]
    query = (
        '{instigationStatesOrError: schedulesOrError(repositorySelector: {repositoryName: "__repository__", '
    )
    query += 'repositoryLocationName: "stash_sense"}) {... on Schedules {results {scheduleState {status}}}}}'
    states = graphql(query)["instigationStatesOrError"]["results"]
    assert {state["scheduleState"]["status"] for state in states} == {"RUNNING"}, "automation is on"


@pytest.mark.usefixtures("fresh")
def test_the_image_is_small_runs_without_root_and_installs_nothing(engine: Engine) -> None:
    ours = engine.size_mb(IMAGE) - engine.size_mb(BASE)
    assert ours < 1000, f"{ours:.0f} MB beyond the base image"
    described = json.loads(engine.docker("image", "inspect", IMAGE))[0]["Config"]
    assert described["User"] == "stash"
    assert described["Healthcheck"]["Test"]
    script = "id -u; command -v pip uv gcc; stash-sense --version; touch /data/x; touch /opt/x 2>&1 || true"
    said = engine.docker("run", "--rm", "--read-only", "-v", "/data", IMAGE, "bash", "-c", script)
    assert said.startswith("1000\nstash-sense, version")
    assert "Read-only file system" in said or "Permission denied" in said


def test_init_prepares_the_volume_and_exits(deployment: Deployment) -> None:
    assert deployment.state("init")["ExitCode"] == 0
    said = deployment.compose("logs", "--no-color", "init")
    assert "2 of 2 sources are enabled" in said
    assert "pool gpu: 1 at a time" in said


def test_the_containers_have_no_capability_and_a_root_that_cannot_be_written(deployment: Deployment) -> None:
    for service in ("password", "postgres", "init", "code", "engine", "webserver", "daemon"):
        assert_confined(deployment.described(service), read_only=True)
    for service in ("postgres", "code", "engine", "webserver", "daemon"):
        status = deployment.inside(service, "cat", "/proc/1/status")
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE), service
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE), service


def test_files_that_services_write_in_the_volume_are_private(deployment: Deployment) -> None:
    script = "find /data -xdev ! -type l -perm /077 ! -path '/data/releases*' | head"
    assert deployment.inside("code", "sh", "-c", script).strip() == ""


def knock(deployment: Deployment, networks: list[str], *places: str) -> list[str]:
    """The places that answer to a container in these networks."""
    engine = deployment.engine
    name = engine.docker("create", "--network", networks[0], IMAGE, "python", "-c", KNOCK, *places)
    for network in networks[1:]:
        engine.docker("network", "connect", network, name)
    try:
        engine.docker("start", name)
        engine.docker("wait", name, timeout=400)
        return engine.docker("logs", name).split()
    finally:
        engine.docker("rm", "-f", name)


def test_flaresolverr_reaches_no_service_and_runs_reach_it(deployment: Deployment) -> None:
    """A stand-in in the solver's network shows which services a browser there could reach, and which reach it."""
    ports = {"webserver": 3000, "code": 4266, "postgres": 5432, "daemon": 3000, "engine": 2375}
    places = [f"{address}:{port}" for name, port in ports.items() for address in deployment.addresses(name)]
    names = [f"{name}:{port}" for name, port in ports.items()]
    assert len(places) >= 10
    assert knock(deployment, ["stash-sense-solver"], *places, *names, "code-inside:4266") == []
    reached = set(knock(deployment, sorted(RUN_NETWORKS), *places, *names, "code-inside:4266"))
    assert reached, "runs reach PostgreSQL"
    assert all(place.endswith(":5432") for place in reached), reached
    serve = ["python", "-m", "http.server", "8191", "--directory", "/opt/dagster"]
    stand_in = deployment.engine.docker(
        "run", "-d", "--network", "stash-sense-solver", "--network-alias", "flaresolverr", IMAGE, *serve
    )
    try:
        assert wait_until(
            lambda: knock(deployment, sorted(RUN_NETWORKS), "flaresolverr:8191"), 240, "FlareSolverr"
        ) == ["flaresolverr:8191"]
        (address,) = json.loads(deployment.engine.docker("inspect", stand_in))[0]["NetworkSettings"][
            "Networks"
        ].values()
        for service in ("code", "webserver"):
            place = f"{address['IPAddress']}:8191"
            assert deployment.inside(service, "python", "-c", KNOCK, place, "flaresolverr:8191").strip() == ""
    finally:
        deployment.engine.docker("rm", "-f", stand_in)


def test_the_code_server_answers_on_the_internal_network_only(deployment: Deployment) -> None:
    places = [f"{address}:4266" for address in deployment.addresses("code")]
    assert len(places) == 2
    (internal,) = (
        network["IPAddress"]
        for name, network in deployment.described("code")["NetworkSettings"]["Networks"].items()
        if name.endswith("_inside")
    )
    assert deployment.inside("webserver", "python", "-c", KNOCK, *places).split() == [f"{internal}:4266"]
    assert deployment.inside("code", "python", "-c", KNOCK, "127.0.0.1:4266").strip() == ""


def test_the_ui_refuses_other_origins_and_other_host_names(deployment: Deployment) -> None:
    """The guard is the same as on one machine, where tests with a browser check it."""
    shut_down = 'mutation {shutdownRepositoryLocation(repositoryLocationName: "stash_sense") {__typename}}'
    body = json.dumps({"query": shut_down}).encode()
    json_type = {"Content-Type": "application/json"}
    for address, given, headers in (
        (f"{UI}/graphql?query={urllib.parse.quote(shut_down)}", None, {}),
        (f"{UI}/graphql", body, {**json_type, "Origin": "http://evil.example"}),
        (f"{UI}/graphql", body, {**json_type, "Host": "evil.example"}),
        (f"{UI}/graphql", body, {"Content-Type": "text/plain"}),
    ):
        with pytest.raises(urllib.error.HTTPError, match=r"403|405|415"):
            urllib.request.urlopen(urllib.request.Request(address, given, headers), timeout=240)
    assert deployment.state("code")["Health"]["Status"] == "healthy"


def test_runs_launched_in_the_ui_publish_a_release_in_the_volume(deployment: Deployment) -> None:
    """The three jobs, launched as the UI launches them, each in its own container."""
    for job, assets, partitions in (
        ("refresh_source", [], SOURCES),
        ("embed_faces", [], SOURCES),
        ("publish", [], (None,)),
    ):
        deployment.await_success([click_materialize(job, assets, partition) for partition in partitions])
    files = deployment.inside("code", "ls", "/data/releases/latest").split()
    assert {"manifest.json", "performers.db", "face_facenet.voy", "faces.json"} <= set(files)
    said = deployment.inside("code", "stash-sense", "verify", "/data/releases/latest")
    assert "FAILED" not in said.replace("FAILED   enough", "")
    for job in ("refresh_source", "embed_faces", "publish"):
        containers = deployment.containers(job)
        assert containers, job
        for container in containers:
            host = container["HostConfig"]
            assert not host["DeviceRequests"], f"{job}: STASH_SENSE_DEVICE is cpu"
            assert host["Memory"] == 1500 * 1024 * 1024
            assert container["Config"]["User"] == "stash"
            assert host["NetworkMode"] == "stash-sense"
            assert set(container["NetworkSettings"]["Networks"]) == RUN_NETWORKS
            assert_confined(container, read_only=True)
            assert not any("docker.sock" in bind for bind in host["Binds"])


def test_the_release_is_copied_out_by_the_documented_command(deployment: Deployment, tmp_path: Path) -> None:
    """The client of this tier has no `compose cp`, so its parts are used."""
    assert "docker compose cp --follow-link code:/data/releases/latest ./release" in INSTALL.read_text()
    code = deployment.compose("ps", "-q", "code").strip()
    deployment.engine.docker(
        "cp", "--follow-link", f"{code}:/data/releases/latest", str(tmp_path / "release")
    )
    assert (tmp_path / "release" / "manifest.json").stat().st_size


def test_launchers_reach_the_engine_by_its_filter_only(deployment: Deployment) -> None:
    """The rules are tested one by one in test_engine_proxy.py; here they are in front of a real engine."""
    script = "import docker; client = docker.from_env(); print(client.version()['ApiVersion']); "
    refused = ("client.containers.list()", "client.images.list()", "client.volumes.list()")
    refused += (f"client.containers.create({IMAGE!r}, privileged=True)", "client.containers.get('postgres')")
    for service in ("webserver", "daemon"):
        for call in refused:
            said = deployment.inside(service, "python", "-c", script + call, check=False)
            assert re.match(r"1\.\d+", said), said
            assert "the filter of the Docker socket" in said, said
        assert "docker.sock" not in deployment.inside(service, "cat", "/proc/mounts")
    places = [f"{address}:2375" for address in deployment.addresses("engine")]
    for service in ("code", "postgres"):
        reaching = deployment.described(service)["NetworkSettings"]["Networks"]
        assert not any(name.endswith("_engine") for name in reaching)
    assert deployment.inside("code", "python", "-c", KNOCK, *places, "engine:2375").strip() == ""


def test_another_machine_can_embed_beside_the_first(deployment: Deployment) -> None:
    """The other machine has no daemon and no socket, as the second host of docs/install.md."""
    command = ["dagster", "asset", "materialize", "-m", "stash_sense_pipeline.definitions"]
    command += ["--select", "face_embeddings", "--partition", "fansdb"]
    said = deployment.compose("run", "--rm", "--no-deps", "-T", "code", *command)
    assert "RUN_SUCCESS" in said
    (newest, *_) = deployment.runs()
    assert {"key": "dagster/partition", "value": "fansdb"} in newest["tags"]
    assert newest["status"] == "SUCCESS"


def test_the_output_of_a_run_can_be_read_in_the_ui(deployment: Deployment) -> None:
    said = deployment.inside("webserver", "sh", "-c", "ls /data/dagster/storage | head")
    assert said.strip()


def test_exactly_the_runs_with_a_pooled_asset_ask_for_a_gpu(deployment: Deployment) -> None:
    """By click, backfill and command line. This engine has no GPU, so the error must name the remedy."""
    deployment.write_variables(STASH_SENSE_DEVICE="cuda")
    # `init` would refuse: this is the CPU image.
    deployment.compose("up", "-d", "--no-deps", "code", "webserver", "daemon", timeout=600)
    deployment.await_healthy("code", "webserver", "daemon")
    before = {run["runId"] for run in deployment.runs()}
    clicked = click_materialize("__ASSET_JOB", ["face_embeddings"], "fansdb")
    cheap = click_materialize("__ASSET_JOB", ["performer_table"], "stashdb")
    workspace = ["-w", "/opt/dagster/workspace.yaml"]
    tags = json.dumps({"dagster/partition": "stashdb"})
    deployment.inside("daemon", "dagster", "job", "launch", *workspace, "-j", "embed_faces", "--tags", tags)
    deployment.inside("daemon", "dagster", "job", "backfill", *workspace, "-j", "embed_faces",
                      "--partitions", "fansdb", "--noprompt")  # fmt: skip

    def ended() -> list[dict[str, Any]]:
        runs = [run for run in deployment.runs() if run["runId"] not in before]
        over = [run for run in runs if run["status"] in ("SUCCESS", "FAILURE")]
        return over if len(over) >= 4 else []

    runs = {run["runId"]: run for run in wait_until(ended, 600, "four runs")}
    requests = {
        container["Config"]["Labels"]["dagster/run_id"]: container["HostConfig"]["DeviceRequests"]
        for job in ("__ASSET_JOB", "embed_faces")
        for container in deployment.containers(job)
    }
    asked = {run for run in runs if requests.get(run)}
    assert clicked in asked
    assert cheap not in asked
    assert runs[cheap]["status"] == "SUCCESS"
    assert {run for run in runs if runs[run]["jobName"] == "embed_faces"} <= asked
    request = requests[clicked][0]
    assert (request["Driver"], request["Count"], request["Capabilities"]) == ("nvidia", 1, [["gpu"]])
    query = """query($id: ID!) {logsForRun(runId: $id) {... on EventConnection {events {
      ... on MessageEvent {message} ... on EngineEvent {error {message}} ... on RunFailureEvent {error {message}}}}}}"""
    said = json.dumps(graphql(query, {"id": clicked}))
    assert "has no NVIDIA driver" in said
    assert "set STASH_SENSE_DEVICE=cpu" in said


def test_a_run_is_found_dead_and_retried_when_its_container_is_killed(
    deployment: Deployment, servers: SandboxServers
) -> None:
    # Its source does not answer, so that the run has not ended when it is killed.
    hang = servers.traffic.inject(Fault(FaultKind.HANG, box="stashdb", times=None, seconds=1200))
    killed = click_materialize("refresh_source", [], "stashdb")
    wait_until(lambda: hang.done, 300, "the first request of the run")
    (container,) = deployment.engine.docker("ps", "-q", "--filter", f"label=dagster/run_id={killed}").split()
    deployment.kill(container)
    servers.traffic.clear_faults()
    wait_until(lambda: deployment.status(killed) == "FAILURE", 300, "run monitoring")

    def retries() -> list[str]:
        parent = {"key": "dagster/parent_run_id", "value": killed}
        return [run["runId"] for run in deployment.runs() if parent in run["tags"]]

    deployment.await_success(wait_until(retries, 300, "the retry"))


def test_killed_services_are_restarted_and_runs_continue(deployment: Deployment) -> None:
    """PostgreSQL is killed without notice: its clients connect again, or end and are restarted."""
    for service in ("code", "engine", "webserver", "daemon", "postgres"):
        before = deployment.state(service)["StartedAt"]
        deployment.kill(deployment.compose("ps", "-q", service).strip())
        wait_until(
            lambda name=service, time=before: deployment.state(name)["StartedAt"] != time, 240, service
        )
    deployment.await_healthy("postgres", "code", "webserver", "daemon")
    deployment.await_success([wait_until(refreshing, 300, "the UI")])


def refreshing() -> str | None:
    """Launches until it succeeds, as a user does while the services restart."""
    try:
        return click_materialize("refresh_source", [], "fansdb")
    except (OSError, AssertionError):
        return None


def test_all_services_stop_within_their_time_and_lose_nothing(deployment: Deployment) -> None:
    deployment.write_variables(STASH_SENSE_DEVICE="cpu")
    deployment.compose("stop", timeout=400)
    for service in ("code", "engine", "webserver", "daemon", "postgres"):
        # The engine kills what does not stop by itself in its time, and the code is 137.
        assert deployment.state(service)["ExitCode"] in (0, 130, 143), service
    deployment.compose("up", "-d", timeout=600)
    deployment.await_healthy("code", "webserver", "daemon")
    said = deployment.inside("code", "stash-sense", "status")
    assert all(source in said for source in SOURCES)
    assert len(deployment.runs()) >= 9
