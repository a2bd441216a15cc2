"""A Docker engine for tests, with images that are built on this machine: no image is pulled."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).parent.parent.parent
BASE = "stash-sense-test-base:local"
IMAGE = "stash-sense-pipeline:test"
GPU_IMAGE = "stash-sense-pipeline:test-gpu"
POSTGRES = "stash-sense-test-postgres:local"
HAPROXY = "stash-sense-test-haproxy:local"
# The address of this machine in the containers of all networks.
BRIDGE = "172.30.77.1"
_PACKAGES = "python3,python3-venv,ca-certificates,postgresql,haproxy,wget"


def missing() -> str | None:
    """The reason why no engine can run here, or None when one can."""
    if not os.environ.get("STASH_SENSE_DOCKER_TESTS"):
        return "takes minutes and two cores for itself: set STASH_SENSE_DOCKER_TESTS=1, as .ci/run does"
    if os.geteuid() != 0:
        return "only root can start a Docker engine"
    if Path("/var/run/docker.sock").exists():
        return "a Docker engine runs here already, and a second one would share its bridge"
    for program in ("dockerd", "docker", "docker-compose", "debootstrap", "setpriv"):
        if shutil.which(program) is None:
            return f"no {program} (apt-get install docker.io docker-compose debootstrap)"
    if sys.platform != "linux" or not os.access("/sys/fs/cgroup", os.W_OK):
        return "control groups cannot be written"
    return None


class NoEngineError(Exception):
    """The engine or its first container could not be started. The text gives the reason."""


class Engine:
    """A running engine. `docker` and `compose` run its clients."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "docker.sock"
        self.environment = {**os.environ, "DOCKER_HOST": f"unix://{self.socket}", "DOCKER_BUILDKIT": "0"}

    def run(
        self,
        *command: str,
        timeout: float = 600,
        check: bool = True,
        given: str | None = None,
        cwd: Path = PROJECT,
        more: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a client. A failure shows its output."""
        result = subprocess.run(
            command, env={**self.environment, **(more or {})}, cwd=cwd, input=given,
            capture_output=True, text=True, check=False, timeout=timeout,
        )  # fmt: skip
        said = (result.stdout + result.stderr)[-6000:]
        assert not check or result.returncode == 0, f"{' '.join(command)}\n{said}"
        return result

    def docker(self, *arguments: str, timeout: float = 600) -> str:
        """The output of `docker ...`."""
        return self.run("docker", *arguments, timeout=timeout).stdout.strip()

    def remove_containers(self) -> None:
        """Stops and removes all containers, those of runs too, which would keep networks and volumes in use."""
        for container in self.run("docker", "ps", "-aq", check=False).stdout.split():
            self.run("docker", "rm", "-f", container, check=False)

    def size_mb(self, image: str) -> float:
        """The size of an image with all its layers, in megabytes."""
        return int(self.docker("image", "inspect", "-f", "{{.Size}}", image)) / 1e6


@contextmanager
def running_engine(directory: Path) -> Iterator[Engine]:
    """Starts dockerd with all its files under `directory`, and stops it with all its containers at the end.

    Raises NoEngineError when that, or a first container, does not succeed within four minutes.
    """
    engine = Engine(directory)
    log = (directory / "dockerd.log").open("wb")
    # When the tests are killed, dockerd ends with its containers.
    command: list[str | Path] = ["setpriv", "--pdeathsig", "TERM"]
    command += ["dockerd", "--data-root", directory / "data", "--exec-root", directory / "exec"]
    command += ["-H", f"unix://{engine.socket}", "--pidfile", directory / "dockerd.pid"]
    command += ["--bip", f"{BRIDGE}/24"]
    server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        give_up = time.monotonic() + 240
        while engine.run("docker", "info", check=False).returncode:
            if server.poll() is not None or time.monotonic() > give_up:
                lines = (directory / "dockerd.log").read_text().splitlines() or ["it said nothing"]
                raise NoEngineError(f"dockerd does not start: {lines[-1]}")
            time.sleep(0.5)
        _run_a_container(engine)
        yield engine
    finally:
        engine.remove_containers()
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(timeout=240)
        finally:
            log.close()


def _run_a_container(engine: Engine) -> None:
    """The smallest image: the engine's init, a static program, which prints its version."""
    program = shutil.which("docker-init")
    if program is None:
        raise NoEngineError("no docker-init, which every container here is started with")
    place = Path(program).resolve()
    image = f"tar -C {place.parent} -c {place.name} | docker import - stash-sense-probe:local"
    container = [
        "docker",
        "run",
        "--rm",
        "--network",
        "none",
        "stash-sense-probe:local",
        f"/{place.name}",
        "--version",
    ]
    for command in (["bash", "-c", image], container):
        try:
            result = engine.run(*command, timeout=240, check=False)
        except subprocess.TimeoutExpired as error:
            raise NoEngineError(f"no container starts: {command[1]} hangs") from error
        if result.returncode:
            raise NoEngineError(f"no container starts: {result.stderr.strip()[-500:]}")


def make_base(engine: Engine, directory: Path) -> None:
    """A small Debian with Python and PostgreSQL, from the packages that this machine can reach; NoEngineError if none."""
    if engine.docker("images", "-q", BASE):
        return
    root = directory / "rootfs"
    command = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(root)]
    made = engine.run(*command, check=False)
    if made.returncode:
        raise NoEngineError(f"no base image can be made: debootstrap says {made.stdout.strip()[-300:]}")
    for path in ("/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf"):
        # A build reaches the package index by the same settings as this process.
        if Path(path).exists():
            shutil.copyfile(path, root / path.lstrip("/"))
    shutil.rmtree(root / "var/cache/apt/archives")
    settings = ["ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    settings += ["ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"]
    changes = " ".join(f"--change '{setting}'" for setting in settings)
    engine.run("bash", "-c", f"set -o pipefail; tar -C {root} -c . | docker import {changes} - {BASE}")
    shutil.rmtree(root)


_FROM_BASE = ("--network", "host", "--build-arg", f"BASE_IMAGE={BASE}")


def build_stand_ins(engine: Engine) -> None:
    """Stand-ins for the images of PostgreSQL and HAProxy, with the same programs. Compose builds ours."""
    here = Path(__file__).parent
    for image, name in ((POSTGRES, "postgres"), (HAPROXY, "haproxy")):
        engine.docker("build", *_FROM_BASE, "-t", image, "-f", str(here / f"{name}.Dockerfile"), str(here))


def build_cpu_image(engine: Engine) -> None:
    """The image of the Dockerfile, as docker-compose.yml builds it too."""
    engine.docker("build", *_FROM_BASE, "--target", "cpu", "-t", IMAGE, ".", timeout=1800)


def build_gpu_image(engine: Engine) -> None:
    """The image of the Dockerfile with CUDA. Downloads 2 GB and needs 10 GB of disk during the build."""
    engine.docker("build", *_FROM_BASE, "--target", "gpu", "-t", GPU_IMAGE, ".", timeout=1800)
