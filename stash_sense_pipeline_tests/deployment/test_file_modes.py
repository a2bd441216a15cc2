"""The program under the widest and the narrowest umask: its files are private, and releases are readable."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
import yaml

from stash_sense_pipeline.catalog import engine as engine_module
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.deployment.dagster_home import prepare_home, restrict_data
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.servers import SandboxServers, sources_settings
from stash_sense_pipeline_tests.deployment.test_serve import Served
from stash_sense_pipeline_tests.orchestration.conftest import PROGRAM
from stash_sense_pipeline_tests.rendered_pictures import rendered


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@dataclass
class Watch:
    """Looks at a directory again and again while a program works in it, and keeps what others could read or write."""

    root: Path
    seen: dict[str, str] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.03):
            self.seen.update(open_to_others(self.root))


def open_to_others(root: Path) -> dict[str, str]:
    """What other users could read or write if they could enter `root`: path and mode. Releases may be read."""
    found = {}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(directory, name)
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue
            if stat.S_ISLNK(status.st_mode):
                continue
            inside = path.relative_to(root)
            # A release gets its modes in the staging directory, which others cannot enter, directly before it moves.
            public = inside.parts[:2] == ("data", "releases") or inside.parts[:3] == (
                "data",
                "staging",
                "next",
            )
            public = public and not any(part.endswith(".report") for part in inside.parts)
            if status.st_mode & (0o022 if public else 0o077):
                found[str(inside)] = oct(status.st_mode)
    return found


@dataclass(frozen=True)
class Operator:
    """A directory with settings, and a way to run the program in it under a umask."""

    home: Path
    variables: Mapping[str, str]
    umask: int

    def command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("STASH_SENSE_", "DAGSTER_"))
        }
        return [str(PROGRAM), *arguments], {**clean, **self.variables}

    def run(self, *arguments: str) -> str:
        command, environment = self.command(*arguments)
        result = subprocess.run(
            command, env=environment, cwd=self.home, capture_output=True, text=True, check=False, timeout=800,
            umask=self.umask,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout


WIDE, NARROW = 0o000, 0o077


@pytest.fixture(scope="module", params=[WIDE, NARROW], ids=lambda value: f"umask {value:03o}")
def operator(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Operator, Watch]]:
    """After a build and an installation; under the wide umask also after a suppression, a second build, a served UI with a
    run, and a backup: under the narrow one no file can be open to other users but those of releases.
    """
    home = tmp_path_factory.mktemp("operator")
    home.chmod(0o700)
    with (
        SandboxServers(make_demo_world(seed=4, people=24), pictures=rendered()) as servers,
        Watch(home) as watch,
    ):
        settings = sources_settings(servers)
        settings["stash_boxes"] = {name: settings["stash_boxes"][name] for name in ("stashdb", "fansdb")}
        (home / "sources.yaml").write_text(yaml.safe_dump(settings))
        (home / "sources.yaml").chmod(0o600)
        variables = {
            "DATA_DIR": str(home / "data"),
            "STASH_SENSE_SOURCES": str(home / "sources.yaml"),
            "STASH_SENSE_MODEL_PACK": str(DEMO_PACK),
            **servers.environment(),
        }
        made = Operator(home, variables, request.param)
        made.run("build")
        if request.param == WIDE:
            made.run("suppress", "add", f"stashdb:{some_record(home)}", "--reason", "asked")
            made.run("suppress", "apply")
            made.run("build")
            serve(made)
            made.run("backup", str(home / "backup.zip"))
        made.run("releases", "install", "latest", "--to", str(home / "data" / "releases" / "sidecar"))
        yield made, watch


def some_record(home: Path) -> str:
    with closing(sqlite3.connect(home / "data" / "catalog.db")) as connection:
        query = "SELECT min(source_id) FROM source_performers WHERE source = 'stashdb'"
        return str(connection.execute(query).fetchone()[0])


def serve(operator: Operator) -> None:
    """Serves the UI, launches a run by it, and ends it when the run has ended."""
    launch = """mutation {launchPipelineExecution(executionParams: {mode: "default",
      executionMetadata: {tags: [{key: "dagster/partition", value: "fansdb"}, {key: "source", value: "fansdb"}]},
      selector: {repositoryLocationName: "stash_sense", repositoryName: "__repository__",
        pipelineName: "refresh_source"}}) {... on LaunchRunSuccess {run {runId}}}}"""
    served = Served(operator.home, operator.variables, umask=operator.umask)

    def ended() -> bool:
        return "SUCCESS" in str(served.ask("{runsOrError(limit: 1) {... on Runs {results {status}}}}"))

    try:
        served.said("Dagster UI: http://127.0.0.1:")
        wait_until(lambda: "runId" in str(served.ask(launch)), served)
        wait_until(ended, served)
        sockets, ports = listening(served.process.pid)
        assert ports == {("127.0.0.1", served.port)}
        assert sockets, "the code server listens on a socket"
        assert {path: mode for path, mode in sockets.items() if mode & 0o077} == {}
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(timeout=240) == 0, served.log.read_text()
    finally:
        served.kill()


def listening(pid: int) -> tuple[dict[Path, int], set[tuple[str, int]]]:
    """The Unix sockets and their modes, and the addresses and ports, that a process and its children listen on."""
    sockets, ports = {}, set()
    root = psutil.Process(pid)
    for process in (root, *root.children(recursive=True)):
        # A child may end after it was listed, and a socket goes with its process.
        with suppress(psutil.NoSuchProcess):
            for connection in process.net_connections("all"):
                if connection.family == socket.AF_UNIX:
                    with suppress(FileNotFoundError):
                        if connection.laddr:
                            sockets[Path(connection.laddr)] = mode(Path(connection.laddr))
                elif connection.status == psutil.CONN_LISTEN:
                    ports.add((connection.laddr.ip, connection.laddr.port))
    return sockets, ports


def wait_until(ready: Callable[[], bool], served: Served) -> None:
    give_up = time.monotonic() + 400
    while not ready():
        assert served.process.poll() is None, served.log.read_text()
        assert time.monotonic() < give_up, served.log.read_text()
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
class TestTheRealProgram:
    def test_no_file_is_open_to_other_users_during_or_after_a_build(
        self, operator: tuple[Operator, Watch]
    ) -> None:
        made, watch = operator
        assert open_to_others(made.home) == {}
        assert watch.seen == {}
        if made.umask == NARROW:
            return
        data = made.home / "data"
        assert mode(data) == mode(data / "staging") == 0o700
        for name in ("catalog.db", "suppression.key", "suppressions.yaml", "review/identity.md"):
            assert mode(data / name) == 0o600, name
        history = [path for path in (data / "dagster").rglob("*") if path.is_file()]
        assert {path.suffix for path in history} >= {".db", ".err", ".out", ".lock", ".yaml"}
        assert mode(made.home / "backup.zip") == 0o600

    def test_other_users_can_read_a_release(self, operator: tuple[Operator, Watch]) -> None:
        made, _ = operator
        releases = made.home / "data" / "releases"
        assert mode(releases) == 0o755
        assert mode(releases / "sidecar") == 0o755
        directory = (releases / "latest").resolve()
        assert mode(directory) == 0o755
        for place in (directory, releases / "sidecar"):
            files = [path for path in place.iterdir() if path.is_file()]
            assert len(files) >= 6
            assert {mode(path) for path in files} == {0o644}
        archives = list(releases.glob("*.zip"))
        assert len(archives) == (2 if made.umask == WIDE else 1)
        assert {mode(archive) for archive in archives} == {0o644}
        assert mode(releases / f"{directory.name}.datacard.md") == 0o644
        assert mode(releases / f"{directory.name}.report") == 0o700, "it names people"


@pytest.fixture
def wide_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("wide_umask")
def test_the_catalog_and_its_log_are_private_from_their_creation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, int] = {}
    migrate = engine_module._migrate

    def watched(engine: sa.Engine, shown: str) -> None:
        migrate(engine, shown)
        with writing(engine):
            seen.update({path.name: mode(path) for path in (tmp_path / "data").iterdir()})

    monkeypatch.setattr(engine_module, "_migrate", watched)
    engine = open_catalog(f"sqlite:///{tmp_path}/data/catalog.db")
    with writing(engine) as connection:
        connection.exec_driver_sql("CREATE TABLE x (y)")
        seen.update({path.name: mode(path) for path in (tmp_path / "data").iterdir()})
    engine.dispose()
    endings = {name.rpartition(".")[2] for name in seen}
    assert {"new", "new-wal", "db", "db-wal", "db-shm"} <= endings
    assert set(seen.values()) == {0o600}
    assert mode(tmp_path / "data") == 0o700


@pytest.mark.usefixtures("wide_umask")
def test_rights_of_other_users_are_removed_at_the_start_and_foreign_files_are_kept(tmp_path: Path) -> None:
    data = tmp_path / "data"
    private = ["catalog.db", "catalog.db-wal", ".catalog.db.stashdb.lock", "suppression.key", "review/identity.md",
               "dagster/history/runs.db", "dagster/storage/a/compute_logs/x.err", "releases/1.report/report.md"]  # fmt: skip
    readable = ["releases/1/faces.json", "releases/1.zip", "models/pack/pack.yaml"]
    strange = ["notes.txt", "staging/run/release/face_arcface.voy"]
    for name in (*private, *readable, *strange):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).touch()
    restrict_data(data, prepare_home(data / "dagster"))
    assert {mode(data / name) for name in private} == {0o600}
    assert {mode(data / name) for name in readable} == {0o644}
    assert {mode(data / name) for name in strange} == {0o666}
    for name in (".", "dagster", "dagster/storage/a", "review", "staging", "releases/1.report"):
        assert mode(data / name) == 0o700, name
    for name in ("releases", "releases/1", "models"):
        assert mode(data / name) == 0o755, name


def test_rights_that_cannot_be_removed_print_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    (tmp_path / "catalog.db").touch(mode=0o644)
    monkeypatch.setattr(Path, "chmod", refused)
    with pytest.raises(ConfigurationError, match=r"DATA_DIR: .*Operation not permitted: .*catalog\.db"):
        restrict_data(tmp_path, tmp_path / "dagster")
