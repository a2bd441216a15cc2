"""deploy/engine-proxy.cfg in a real HAProxy: what the launcher of runs sends passes, everything else is refused."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import docker
import pytest

from stash_sense_pipeline.deployment.docker_launcher import GPU_REQUEST, PoolDockerRunLauncher
from stash_sense_pipeline_tests.postgres import free_port

CONFIGURATION = Path(__file__).parent.parent.parent / "deploy" / "engine-proxy.cfg"
IMAGE = "registry.example/owner/stash-sense-pipeline:0.1.0"
VARIABLES = {
    "IMAGE": IMAGE,
    "DATA_VOLUME": "/srv/stash-sense",
    "NETWORK": "stash-sense",
    "DATABASE_NETWORK": "stash-sense-database",
    "SOLVER_NETWORK": "stash-sense-solver",
}
CONTAINER, NETWORK = "ab" * 32, "cd" * 32
LABELS = {"dagster/run_id": "1", "dagster/job_name": "refresh_source"}
# `Binds` with the letter that Go's JSON parser takes for an s.
FOLDED = "Bind\u017f"


@dataclass
class Engine:
    """An HTTP server on a Unix socket that records requests and answers as a Docker engine does; the proxy's port."""

    port: int
    requests: list[tuple[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> int:
        """The status of the proxy's answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=240)
        connection.request(method, path, body or None, {"Content-Type": "application/json", **headers})
        return connection.getresponse().status

    def client(self) -> docker.DockerClient:
        return docker.DockerClient(f"tcp://127.0.0.1:{self.port}", version="1.41", timeout=240)


def _handler(engine: Engine) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            engine.requests.append((self.command, self.path))
            engine.bodies.append(body)
            identity = NETWORK if "/networks/" in self.path else CONTAINER
            said = json.dumps({"Id": identity, "State": {"Status": "running"}}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST = do_DELETE = do_PUT = _answer  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the client of a Unix socket has no address to print."""

    return Handler


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A stand-in for the engine behind HAProxy with our configuration."""
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if program is None:
        pytest.skip("no haproxy on this machine (apt-get install haproxy)")
    directory = tmp_path_factory.mktemp("proxy")
    made = Engine(free_port())
    text = CONFIGURATION.read_text()
    text = text.replace("bind :2375", f"bind 127.0.0.1:{made.port}")
    text = text.replace("/var/run/docker.sock", str(directory / "sock"))
    (directory / "haproxy.cfg").write_text(text)
    server = _Server(str(directory / "sock"), _handler(made))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    proxy = subprocess.Popen([program, "-f", directory / "haproxy.cfg"], env=VARIABLES)
    try:
        give_up = time.monotonic() + 240
        while True:
            try:
                assert made.ask("GET", "/_ping") == 200
                break
            except OSError:
                assert time.monotonic() < give_up
                assert proxy.poll() is None
                time.sleep(0.02)
        yield made
    finally:
        proxy.send_signal(signal.SIGTERM)
        proxy.wait(timeout=240)
        server.shutdown()
        server.server_close()


@pytest.fixture
def container() -> dict[str, Any]:
    """The arguments with which the launcher creates the container of a run."""
    launcher = PoolDockerRunLauncher(
        device="cuda", data_volume="/srv/stash-sense", memory_limit="6g", network="stash-sense"
    )
    given = dict(launcher.container_kwargs)
    given.pop("stop_timeout")
    command = ["dagster", "api", "execute_run", json.dumps({"__class__": "ä: \u2028 \x07", "n": [1, "{}"]})]
    return {
        **given,
        "image": IMAGE,
        "command": command,
        "environment": {"STASHDB_API_KEY": 'a"b\\c: {"Privileged": true}', "LONG": "x" * 60_000},
        "network": "stash-sense",
        "labels": LABELS,
    }


@pytest.fixture
def body(engine: Engine, container: dict[str, Any]) -> dict[str, Any]:
    """The body of the launcher's request, as the engine got it."""
    engine.bodies.clear()
    engine.client().containers.create(**container)
    return dict(json.loads(engine.bodies[0]))


def create(engine: Engine, body: dict[str, Any] | str) -> int:
    text = body if isinstance(body, str) else json.dumps(body)
    return engine.ask("POST", "/v1.41/containers/create", text.encode())


@pytest.mark.parametrize("gpu", [False, True])
def test_the_launch_the_stop_and_the_removal_of_a_run_pass(
    engine: Engine, container: dict[str, Any], gpu: bool
) -> None:
    client = engine.client()
    engine.requests.clear()
    more = {"device_requests": [dict(GPU_REQUEST)], "read_only": False} if gpu else {}
    made = client.containers.create(detach=True, **{**container, **more})
    for name in ("stash-sense-database", "stash-sense-solver"):
        client.networks.get(name).connect(made)
    made.start()
    client.containers.get(made.id).stop(timeout=60)
    client.containers.prune({"label": "dagster/run_id", "until": "24h"})
    assert len(engine.requests) == 10
    assert client.version()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1.41/info"),
        ("GET", "/v1.41/containers/json"),
        ("GET", "/v1.41/containers/postgres/json"),
        ("GET", f"/v1.41/containers/{CONTAINER[:12]}/json"),
        ("GET", f"/v1.41/containers/{CONTAINER}/archive?path=/data"),
        ("PUT", f"/v1.41/containers/{CONTAINER}/archive?path=/data"),
        ("GET", f"/v1.41/containers/{CONTAINER}/../../images/json"),
        ("GET", f"/v1.41/containers/{CONTAINER}%2fexport"),
        ("POST", f"/v1.41/containers/{CONTAINER}/exec"),
        ("POST", f"/v1.41/containers/{CONTAINER}/update"),
        ("POST", f"/v1.41/containers/{CONTAINER}/attach"),
        ("POST", f"/v1.41/containers/{CONTAINER}/kill"),
        ("DELETE", f"/v1.41/containers/{CONTAINER}"),
        ("POST", "/v1.41/containers/prune"),
        ("POST", "/v1.41/containers/prune?filters=%7B%22until%22%3A+%5B%221h%22%5D%7D"),
        ("POST", f"/v1.41/exec/{CONTAINER}/start"),
        ("POST", "/v1.41/build"),
        ("POST", "/v1.41/images/create?fromImage=evil"),
        ("GET", "/v1.41/images/json"),
        ("GET", "/v1.41/volumes"),
        ("POST", "/v1.41/volumes/create"),
        ("GET", "/v1.41/networks"),
        ("GET", "/v1.41/networks/bridge"),
        ("POST", "/v1.41/networks/create"),
        ("DELETE", "/v1.41/networks/stash-sense"),
        ("POST", "/v1.41/session"),
        ("POST", "/v1.41/swarm/init"),
        ("GET", "/v1.41/secrets"),
        ("GET", "/v1.41/events"),
        ("POST", "/v1.41/commit"),
        ("PUT", "/v1.41/containers/create"),
    ],
)
def test_no_other_request_reaches_the_engine(engine: Engine, method: str, path: str) -> None:
    engine.requests.clear()
    assert engine.ask(method, path) == 403
    assert engine.requests == []


def test_the_refusal_is_told_to_the_docker_client(engine: Engine) -> None:
    with pytest.raises(docker.errors.APIError, match=r"deploy/engine-proxy\.cfg"):
        engine.client().images.pull("evil", tag="latest")


def test_a_start_with_a_body_is_refused(engine: Engine) -> None:
    """Old engines take a HostConfig there."""
    path = f"/v1.23/containers/{CONTAINER}/start"
    assert engine.ask("POST", path) == 200
    assert engine.ask("POST", path, b'{"Privileged": true}') == 403


@pytest.mark.parametrize(
    "changes",
    [
        {"Privileged": True},
        {"privileged": True},
        {"Binds": ["/:/data"]},
        {"Binds": ["/srv/stash-sense:/data", "/:/host"]},
        {"Binds": ["/srv/stash-sense/../..:/data"]},
        {"binds": ["/:/host"]},
        {FOLDED: ["/:/host"]},
        {"Mounts": [{"Type": "bind", "Source": "/", "Target": "/host"}]},
        {"VolumesFrom": ["postgres"]},
        {"CapAdd": ["SYS_ADMIN"]},
        {"CapDrop": []},
        {"CapDrop": None},
        {"SecurityOpt": ["seccomp=unconfined"]},
        {"SecurityOpt": None},
        {"NetworkMode": "host"},
        {"NetworkMode": "container:postgres"},
        {"PidMode": "host"},
        {"IpcMode": "host"},
        {"UTSMode": "host"},
        {"UsernsMode": "host"},
        {"CgroupParent": "/"},
        {"Devices": [{"PathOnHost": "/dev/sda", "PathInContainer": "/dev/sda", "CgroupPermissions": "rwm"}]},
        {"DeviceCgroupRules": ["a *:* rwm"]},
        {"Runtime": "evil"},
        {"Sysctls": {"kernel.core_pattern": "|/x"}},
        {"MaskedPaths": []},
        {"Tmpfs": {"/tmp": "exec"}},
        {"LogConfig": {"Type": "syslog", "Config": {}}},
        {"PortBindings": {"22/tcp": [{"HostPort": "22"}]}},
        {"RestartPolicy": {"Name": "always"}},
        {"Links": ["postgres"]},
        {"OomScoreAdj": -1000},
        {"DeviceRequests": [{"Driver": "evil", "Count": 1, "Capabilities": [["gpu"]]}]},
    ],
    ids=lambda changes: ascii(json.dumps(changes))[:40],
)
def test_a_container_with_more_rights_is_refused(
    engine: Engine, body: dict[str, Any], changes: dict[str, Any]
) -> None:
    assert create(engine, body) == 200
    refused = {**body, "HostConfig": {**body["HostConfig"], **changes}}
    assert create(engine, refused) == 403
    assert create(engine, json.dumps(refused, ensure_ascii=False)) == 403
    assert create(engine, json.dumps(refused, indent=1)) == 403
    # The engine takes the last of two keys.
    twice = json.dumps(body).replace('"HostConfig": {', f'"HostConfig": {{{json.dumps(changes)[1:-1]}, ', 1)
    assert create(engine, twice) == 403
    after = json.dumps(body).removesuffix("}") + f', "HostConfig": {json.dumps(changes)}}}'
    assert create(engine, after) == 403


@pytest.mark.parametrize(
    "changes",
    [
        {"Image": "evil"},
        {"image": "evil"},
        {"Image": f"{IMAGE}-other"},
        {"User": "0"},
        {"Entrypoint": ["sh"]},
        {"Volumes": {"/host": {}}},
        {"Labels": {"traefik.enable": "true"}},
        {"NetworkingConfig": {"bridge": None}},
    ],
    ids=json.dumps,
)
def test_another_image_or_user_is_refused(
    engine: Engine, body: dict[str, Any], changes: dict[str, Any]
) -> None:
    assert create(engine, {**body, **changes}) == 403
    assert create(engine, json.dumps(body).removesuffix("}") + f", {json.dumps(changes)[1:]}") == 403


def test_other_spellings_of_a_key_are_refused(engine: Engine, body: dict[str, Any]) -> None:
    for key in (r"Privi\u006ceged", r"\u0050rivileged", "PRIVILEGED", r"Binds\u0000", "Bind\\u017f"):
        text = json.dumps(body).replace('"HostConfig": {', f'"HostConfig": {{"{key}": true, ', 1)
        assert create(engine, text) == 403, key


def test_a_body_that_is_not_sent_whole_at_once_is_refused(engine: Engine, body: dict[str, Any]) -> None:
    text = json.dumps(body).encode()
    assert engine.ask("POST", "/v1.41/containers/create", text + b" " * 300_000) == 403
    connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=240)
    connection.request("POST", "/v1.41/containers/create", iter([text]), encode_chunked=True)
    assert connection.getresponse().status == 403


def test_an_empty_or_broken_body_is_refused(engine: Engine) -> None:
    for text in ("", "{}", "[", '{"Image": "evil', "\x00"):
        assert create(engine, text) == 403
