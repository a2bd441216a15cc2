"""A deployment by docker-compose.yml on a test engine, and the client of its UI."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from stash_sense_pipeline.sandbox.servers import SandboxServers
from stash_sense_pipeline_tests.deployment.test_deployment_files import OPTIONAL_ENV_FILE
from stash_sense_pipeline_tests.docker.engine import (
    BASE,
    HAPROXY,
    IMAGE,
    POSTGRES,
    PROJECT,
    Engine,
)

PORT = 3931
UI = f"http://127.0.0.1:{PORT}"
PACK = "/opt/code/stash_sense_pipeline/sandbox/demo_pack"
SOURCES = ("stashdb", "fansdb")
RUN_NETWORKS = {"stash-sense", "stash-sense-database", "stash-sense-solver"}
# Connects to each address in its arguments, and prints those that answer.
KNOCK = """
import socket, sys
for place in sys.argv[1:]:
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
    except OSError:
        continue
    print(place)
"""


_T = TypeVar("_T")


def copy_checkout(directory: Path) -> None:
    """Copies what `docker compose up` needs of a checkout, for the old client of this tier and its engine."""
    for name in [
        line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    ]:
        for path in sorted(PROJECT.glob(name)):
            copy = shutil.copytree if path.is_dir() else shutil.copyfile
            (directory / path.relative_to(PROJECT)).parent.mkdir(parents=True, exist_ok=True)
            copy(path, directory / path.relative_to(PROJECT))
    for name in ("Dockerfile", ".dockerignore", "deploy/engine-proxy.cfg"):
        shutil.copyfile(PROJECT / name, directory / name)
    text = (PROJECT / "docker-compose.yml").read_text()
    # Without this the first health check of a service comes after a minute.
    text = re.sub(r"interval: [36]0s", "interval: 15s", text)
    # The client of this tier is of version 1, which has no optional env_file.
    (directory / "docker-compose.yml").write_text(text.replace(OPTIONAL_ENV_FILE, "[.env]"))
    # Builds as the other images of this tier: from the base that was made here.
    build = {"build": {"network": "host", "args": {"BASE_IMAGE": BASE}}}
    services = dict.fromkeys(("password", "init", "code", "webserver", "daemon"), build)
    (directory / "docker-compose.override.yml").write_text(json.dumps({"services": services}))


class Deployment:
    """A checkout with a .env file, started by docker-compose."""

    def __init__(self, engine: Engine, directory: Path) -> None:
        self.engine, self.directory = engine, directory
        copy_checkout(directory)
        # Only what this machine needs: nothing that an operator has to fill in.
        self.variables = {
            "POSTGRES_IMAGE": POSTGRES,
            "HAPROXY_IMAGE": HAPROXY,
            "STASH_SENSE_IMAGE": IMAGE,
            "DOCKER_SOCKET": str(engine.socket),
            "STASH_SENSE_PORT": str(PORT),
        }
        self.write_variables()

    def use_sandbox(self, sources: dict[str, Any], servers: SandboxServers) -> None:
        """Gives the running deployment its sources, keys and model pack, as docs/install.md says."""
        text = yaml.safe_dump(sources)
        self.compose("exec", "-T", "code", "sh", "-c", "cat > /data/sources.yaml", given=text)
        self.write_variables(
            STASH_SENSE_MODEL_PACK=PACK,
            STASH_SENSE_RUN_MEMORY="1500m",
            # Sensors run once a minute. A test with a daemon alone checks that they lead to a release.
            STASH_SENSE_AUTOMATION="off",
            **servers.environment(),
        )
        self.compose("up", "-d")

    def write_variables(self, **changes: str) -> None:
        self.variables.update(changes)
        lines = [f"{name}={value}\n" for name, value in self.variables.items()]
        (self.directory / ".env").write_text("".join(lines))

    def compose(
        self, *arguments: str, timeout: float = 600, check: bool = True, given: str | None = None
    ) -> str:
        command = ["docker-compose", "-p", "stashtest", *arguments]
        result = self.engine.run(*command, cwd=self.directory, timeout=timeout, check=check, given=given)
        return result.stdout + result.stderr

    def inside(self, service: str, *command: str, check: bool = True) -> str:
        return self.compose("exec", "-T", service, *command, check=check)

    def described(self, service: str) -> dict[str, Any]:
        """The engine's description of the container of a service."""
        identity = self.compose("ps", "-q", service).strip()
        return dict(json.loads(self.engine.docker("inspect", identity))[0])

    def state(self, service: str) -> dict[str, Any]:
        return dict(self.described(service)["State"])

    def addresses(self, service: str) -> list[str]:
        """The addresses of a service on all its networks."""
        return [
            network["IPAddress"]
            for network in self.described(service)["NetworkSettings"]["Networks"].values()
        ]

    def await_healthy(self, *services: str) -> None:
        for service in services:
            wait_until(lambda name=service: self.state(name)["Health"]["Status"] == "healthy", 500, service)

    def runs(self) -> list[dict[str, Any]]:
        query = "{runsOrError(limit: 50) {... on Runs {results {runId jobName status tags {key value}}}}}"
        return list(graphql(query)["runsOrError"]["results"])

    def status(self, run: str) -> str:
        return next(str(one["status"]) for one in self.runs() if one["runId"] == run)

    def kill(self, container: str) -> None:
        """Kills like a crash: the engine does not restart a container that its own client killed."""
        os.kill(int(self.engine.docker("inspect", "-f", "{{.State.Pid}}", container)), signal.SIGKILL)

    def await_success(self, wanted: list[str]) -> None:
        """Waits until these runs have succeeded. A failure shows the output of its container."""

        def ended() -> bool:
            runs = [run for run in self.runs() if run["runId"] in wanted]
            for run in runs:
                assert run["status"] not in ("FAILURE", "CANCELED"), self.logs_of(run["runId"])
            return all(run["status"] == "SUCCESS" for run in runs)

        wait_until(ended, 500, f"{len(wanted)} runs")

    def logs_of(self, run: str) -> str:
        """The end of the output of a run's container."""
        container = self.engine.docker("ps", "-aq", "--filter", f"label=dagster/run_id={run}")
        logs = self.engine.run("docker", "logs", container, check=False)
        return (logs.stdout + logs.stderr)[-3000:]

    def containers(self, job: str) -> list[dict[str, Any]]:
        found = self.engine.docker("ps", "-aq", "--filter", f"label=dagster/job_name={job}").split()
        return list(json.loads(self.engine.docker("inspect", *found))) if found else []


def assert_confined(container: dict[str, Any], *, read_only: bool) -> None:
    """Asserts that a container has no capabilities, cannot gain any, and can write only to its volumes."""
    host = container["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert not host["Privileged"]
    assert host["ReadonlyRootfs"] is read_only


def graphql(query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
    """The answer of the UI's GraphQL API."""
    body = json.dumps({"query": query, "variables": variables or {}}).encode()
    request = urllib.request.Request(f"{UI}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=240) as answer:
        said = json.load(answer)
    assert "errors" not in said, said
    return dict(said["data"])


def wait_until(ready: Callable[[], _T], seconds: float, what: str) -> _T:
    give_up = time.monotonic() + seconds
    while True:
        found = ready()
        if found:
            return found
        assert time.monotonic() < give_up, f"waited {seconds} s for {what}"
        time.sleep(0.5)


LAUNCH = """mutation($p: ExecutionParams!) {launchPipelineExecution(executionParams: $p) {__typename
  ... on LaunchRunSuccess {run {runId}} ... on PythonError {message}
  ... on RunConfigValidationInvalid {errors {message}}}}"""


def click_materialize(job: str, assets: list[str], source: str | None) -> str:
    """Launches a run as a click in the UI does, and returns its id. `__ASSET_JOB` is the job of Materialize on an asset."""
    tags = [{"key": "dagster/partition", "value": source}] if source else []
    params = {
        "selector": {
            "repositoryLocationName": "stash_sense",
            "repositoryName": "__repository__",
            "jobName": job,
            "assetSelection": [{"path": [asset]} for asset in assets],
        },
        "mode": "default",
        "runConfigData": {},
        "executionMetadata": {"tags": tags},
    }
    answer = graphql(LAUNCH, {"p": params})["launchPipelineExecution"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return str(answer["run"]["runId"])
