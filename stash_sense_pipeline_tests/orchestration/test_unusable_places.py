"""Every command in a place that cannot be used: one line on standard error, exit code 1 or 2, no traceback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.servers import SandboxServers, sources_settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs to mount"),
]

PROGRAM = Path(sys.executable).with_name("stash-sense")
WRITERS = {
    "build": "build --sources pmvstash",
    "build without faces": "build --sources pmvstash --no-faces",
    "demo": "demo --data-dir $DATA_DIR/demo",
    "models pull": "models pull buffalo_l --accept-licence",
    "backup": "backup $DATA_DIR/backup.zip",
    "restore": "restore $HOME/backup.zip",
    "import-legacy": "import-legacy $HOME/legacy",
    "suppress add": "suppress add pmvstash:1 --reason asked --unseen",
    "suppress apply": "suppress apply",
    "prepare": "prepare",
    "serve": "serve --port $PORT",
}
READERS = {
    "ui": "ui --data-dir $DATA_DIR --port $PORT",
    "suppress list": "suppress list",
    "suppress review": "suppress review",
    "identity explain": "identity explain pmvstash:1",
    "identity suggestions": "identity suggestions",
    "releases list": "releases list",
    "releases diff": "releases diff v1 v2",
    "releases prune": "releases prune --keep 1",
    "releases revoke": "releases revoke",
    "verify": "verify latest",
    "models list": "models list",
    "status": "status",
}
COMMANDS = WRITERS | READERS


@dataclass(frozen=True)
class Fault:
    """A shell script that breaks the place DATA_DIR, and the variables that do.

    `spares` names the commands that do not need what is broken.
    """

    script: str = ":"
    variables: tuple[tuple[str, str], ...] = ()
    spares: frozenset[str] = frozenset()


FAULTS = {
    "a read-only directory": Fault("mount -o remount,ro $DATA_DIR"),
    "a full disk": Fault("cat /dev/zero > $DATA_DIR/ballast 2>/dev/null"),
    "a directory in place of the catalog": Fault("rm $DATA_DIR/catalog.db; mkdir $DATA_DIR/catalog.db"),
    "a server that does not answer": Fault(
        variables=(("STASH_SENSE_CATALOG_URL", "postgresql://me@127.0.0.1:$SILENT/x?connect_timeout=2"),)
    ),
    "a directory in place of sources.yaml": Fault(
        "mkdir $HOME/other.yaml", (("STASH_SENSE_SOURCES", "$HOME/other.yaml"),)
    ),
}


@pytest.fixture(scope="module")
def servers() -> Iterator[SandboxServers]:
    """A small world, served."""
    with SandboxServers(make_demo_world(seed=2, people=8)) as running:
        yield running


def run_in(
    home: Path, servers: SandboxServers, fault: Fault, command: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command where DATA_DIR is a small file system of its own, with a catalog, that `fault` breaks."""
    home.mkdir()
    (home / "data").mkdir()
    (home / "legacy").mkdir()
    (home / "legacy" / "progress.json").write_text('{"version": 2, "sources": {}}')
    (home / "sources.yaml").write_text(yaml.safe_dump(sources_settings(servers)))
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as free:
        variables = {
            **{name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")},
            **servers.environment(),
            "HOME": str(home),
            "DATA_DIR": str(home / "data"),
            "STASH_SENSE_SOURCES": str(home / "sources.yaml"),
            "STASH_SENSE_MODEL_PACK": str(DEMO_PACK),
            "SILENT": str(silent.getsockname()[1]),
            "PORT": str(free.getsockname()[1]),
        }
        free.close()
        assignments = " ".join(f'{name}="{value}"' for name, value in fault.variables)
        script = (
            "mount -t tmpfs -o size=8m tmpfs $DATA_DIR && cp $HOME/../catalog.db $DATA_DIR/ && "
            f"{{ {fault.script}; true; }} && exec env {assignments} timeout 100 {PROGRAM} {command}"
        )
        return subprocess.run(
            # Without a network a command cannot download anything.
            ["unshare", "--mount", *(["--net"] if "models pull" in command else []), "sh", "-c", script],
            env=variables,
            cwd=home,
            capture_output=True,
            text=True,
            check=False,
        )


if __name__ == "__main__":
    import tempfile

    only = sys.argv[1:]
    with SandboxServers(make_demo_world(seed=2, people=8)) as running, tempfile.TemporaryDirectory() as t:
        open_catalog(f"sqlite:///{t}/catalog.db").dispose()
        jobs = [(f, c) for f in FAULTS for c in COMMANDS if not only or c in only or f in only]

        def one(job):
            f, c = job
            home = Path(t) / f"{f}-{c}".replace(" ", "_")
            import time

            a = time.monotonic()
            return job, run_in(home, running, FAULTS[f], COMMANDS[c]), time.monotonic() - a

        with ThreadPoolExecutor(4) as pool:
            for job, r, s in pool.map(one, jobs):
                lines = r.stderr.strip().splitlines()
                good = r.returncode in (1, 2) and len(lines) == 1 and lines[0].startswith("stash-sense:")
                print(
                    "ok " if good else "BAD",
                    job,
                    r.returncode,
                    f"{s:.1f}",
                    len(lines),
                    (lines or [""])[-1][:260],
                    "| OUT",
                    r.stdout[-100:].replace("\n", "/"),
                    flush=True,
                )
                if not good:
                    (Path("/tmp/opt-bad") / f"{job[0]}-{job[1]}".replace(" ", "_")).write_text(r.stderr)
