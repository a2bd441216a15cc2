"""Every command in a place that cannot be used: one line on standard error, exit code 1 or 2, no traceback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.servers import SandboxServers, sources_settings
from stash_sense_pipeline_tests.rendered_pictures import rendered

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs to mount"),
]

PROGRAM = Path(sys.executable).with_name("stash-sense")
WRITERS = {
    "build": "build --sources pmvstash",
    "build without faces": "build --sources pmvstash --no-faces",
    "demo": "demo --data-dir $DATA_DIR/demo",
    "models pull": "models pull stash-sense-v1 --accept-licence",
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
    """A shell script that breaks DATA_DIR, and the variables that do. `spares`: commands that need nothing of it.

    `apart`: all commands run at once, each with a DATA_DIR of its own, because each waits for an answer.
    """

    script: str = ":"
    variables: tuple[tuple[str, str], ...] = ()
    spares: frozenset[str] = frozenset()
    apart: bool = False


# They read the directory of releases or of packs, which is empty.
NO_CATALOG = frozenset({"releases list", "releases prune", "verify", "models list"})
FAULTS = {
    "a read-only directory": Fault("mount -o remount,ro $DATA_DIR", spares=NO_CATALOG),
    "a full disk": Fault("cat /dev/zero > $DATA_DIR/ballast 2>/dev/null", spares=NO_CATALOG),
    "a directory in place of the catalog": Fault(
        "rm $DATA_DIR/catalog.db; mkdir $DATA_DIR/catalog.db", spares=NO_CATALOG | {"demo"}
    ),
    "a server that does not answer": Fault(
        variables=(("STASH_SENSE_CATALOG_URL", "postgresql://me@127.0.0.1:{silent}/x?connect_timeout=2"),),
        spares=NO_CATALOG | {"demo", "ui"},
        apart=True,
    ),
    "a directory in place of sources.yaml": Fault(
        variables=(("STASH_SENSE_SOURCES", "/tmp"),),
        spares=NO_CATALOG
        | {"demo", "ui", "backup", "identity suggestions", "identity explain", "releases revoke"}
        # They read the catalog alone.
        | {"suppress list", "suppress review"},
    ),
}
# Runs each command in a child of its own, after the program was imported once.
_CHILD = """
import json, os, sys, traceback
from stash_sense_pipeline.cli import main
import stash_sense_pipeline.definitions, stash_sense_pipeline.orchestration.builds.build
commands, home, apart = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3] == "apart"

def begin(name):
    child = os.fork()
    if child:
        return child
    if apart:
        os.environ["DATA_DIR"] += "/" + name.replace(" ", "-")
        os.mkdir(os.environ["DATA_DIR"])
    os.dup2(os.open(f"{home}/output of {name}", os.O_CREAT | os.O_WRONLY), 1)
    os.dup2(os.open(f"{home}/errors of {name}", os.O_CREAT | os.O_WRONLY), 2)
    code = 0
    try:
        main(args=[os.path.expandvars(word) for word in commands[name].split()], prog_name="stash-sense")
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 99
    # The libraries of the parent have threads that a fork does not have, and would wait for them.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)

def end(name, child):
    _, status = os.waitpid(child, 0)
    with open(f"{home}/errors of {name}") as errors:
        return os.waitstatus_to_exitcode(status), errors.read()

if apart:
    begun = {name: begin(name) for name in commands}
    found = {name: end(name, child) for name, child in begun.items()}
else:
    found = {name: end(name, begin(name)) for name in commands}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def servers() -> Iterator[SandboxServers]:
    """A small world, served."""
    with SandboxServers(make_demo_world(seed=2, people=8), pictures=rendered()) as running:
        yield running


def outcomes(home: Path, servers: SandboxServers, fault: Fault) -> dict[str, tuple[int, list[str]]]:
    """Exit code and lines on standard error of each command, where DATA_DIR is a small file system that is broken."""
    (home / "data").mkdir()
    (home / "legacy").mkdir()
    (home / "legacy" / "progress.json").write_text('{"version": 2, "performers": {}}')
    (home / "sources.yaml").write_text(yaml.safe_dump(sources_settings(servers)))
    open_catalog(f"sqlite:///{home / 'catalog.db'}").dispose()
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        variables = {
            **{name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")},
            **servers.environment(),
            "HOME": str(home),
            "DATA_DIR": str(home / "data"),
            "STASH_SENSE_SOURCES": str(home / "sources.yaml"),
            "STASH_SENSE_MODEL_PACK": str(DEMO_PACK),
            "PORT": str(port),
            **{name: value.format(silent=silent.getsockname()[1]) for name, value in fault.variables},
        }
        chosen = {name: line for name, line in COMMANDS.items() if name not in fault.spares}
        script = (
            f"mount -t tmpfs -o size={64 if fault.apart else 8}m tmpfs $DATA_DIR && cp $HOME/catalog.db $DATA_DIR/ && "
            f'{{ {fault.script}; true; }} && exec "$@"'
        )
        child = [sys.executable, "-c", _CHILD, json.dumps(chosen), str(home), "apart" if fault.apart else ""]
        result = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, "sh", *child],
            env=variables,
            cwd=home,
            capture_output=True,
            text=True,
            check=True,
        )
    found = json.loads(result.stdout.splitlines()[-1])
    return {name: (code, errors.strip().splitlines()) for name, (code, errors) in found.items()}


@pytest.mark.parametrize("name", list(FAULTS))
def test_every_command_says_in_one_line_what_cannot_be_used(
    tmp_path: Path, servers: SandboxServers, name: str
) -> None:
    found = outcomes(tmp_path, servers, FAULTS[name])
    wrong = {
        command: (code, lines)
        for command, (code, lines) in found.items()
        if code not in (1, 2) or len(lines) != 1 or not lines[0].startswith("stash-sense: ")
    }
    assert wrong == {}
    assert set(found) == set(COMMANDS) - FAULTS[name].spares
