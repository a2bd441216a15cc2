"""Failures of a long-running deployment: killed workers and their pool slots, a database server that restarts."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml
from dagster._core.events import EngineEventData
from dagster._core.test_utils import create_run_for_test
from dagster._daemon.monitoring.concurrency import execute_concurrency_slots_iteration
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.schema import embeddings, faces, identities, source_images
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.definitions import build_defs
from stash_sense_pipeline.deployment import process_launcher
from stash_sense_pipeline.deployment.dagster_home import prepare_home
from stash_sense_pipeline.deployment.dagster_instance import open_instance
from stash_sense_pipeline.deployment.shipped_files import shipped_file
from stash_sense_pipeline.foundation.errors import CatalogError
from stash_sense_pipeline.orchestration.names import GPU_POOL
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.invented.pictures import Picture, PictureStore
from stash_sense_pipeline.sandbox.servers import SandboxServers, sources_settings
from stash_sense_pipeline.settings.sources_file import load_settings
from stash_sense_pipeline_tests.orchestration.conftest import environment_at
from stash_sense_pipeline_tests.postgres import end_connections, running_server, server_program
from stash_sense_pipeline_tests.rendered_pictures import rendered

LOG = logging.getLogger(__name__)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A DAGSTER_HOME with the shipped settings, but that a dead run's place is freed at once."""
    settings = yaml.safe_load(shipped_file("dagster.yaml").read_text())
    assert settings["run_monitoring"]["free_slots_after_run_end_seconds"] == 60
    settings["run_monitoring"]["free_slots_after_run_end_seconds"] = 1
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def daemons_look(instance: dg.DagsterInstance) -> None:
    """What the daemon does every poll_interval_seconds."""
    process = cast("Any", SimpleNamespace(instance=instance, create_request_context=lambda: None))
    list(execute_run_monitoring_iteration(process, LOG))
    list(execute_concurrency_slots_iteration(process, LOG))


@pytest.mark.slow
def test_a_killed_run_fails_is_retried_and_frees_its_pool_slot(home: Path) -> None:
    with open_instance(home) as instance:
        instance.event_log_storage.set_concurrency_slots(GPU_POOL, 1)
        run = create_run_for_test(instance, job_name="embed_faces", status=dg.DagsterRunStatus.STARTED)
        worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(10_000)"])
        instance.report_engine_event("Started process for run", run, EngineEventData.in_process(worker.pid))
        claim = instance.event_log_storage.claim_concurrency_slot(GPU_POOL, run.run_id, "face_embeddings")
        assert claim.is_claimed
        daemons_look(instance)
        alive = instance.get_run_by_id(run.run_id)
        assert alive is not None
        assert alive.status is dg.DagsterRunStatus.STARTED
        worker.kill()
        worker.wait()
        daemons_look(instance)
        dead = instance.get_run_by_id(run.run_id)
        assert dead is not None
        assert dead.status is dg.DagsterRunStatus.FAILURE
        assert dead.tags["dagster/will_retry"] == "true"
        give_up = time.monotonic() + 240
        while instance.event_log_storage.get_concurrency_info(GPU_POOL).active_slot_count:
            assert time.monotonic() < give_up, "the place of the dead run is not freed"
            time.sleep(0.1)
            daemons_look(instance)


@pytest.mark.slow
def test_a_run_that_was_killed_before_it_reported_its_process_fails_after_300_s(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a process number there is nothing to look at: it would stay STARTED, and hold every publish, for days."""
    with open_instance(home) as instance:
        run = create_run_for_test(instance, job_name="refresh_source")
        instance.report_dagster_event(
            dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, "refresh_source"), run.run_id
        )
        for reports_within, status in ((300, dg.DagsterRunStatus.STARTED), (0, dg.DagsterRunStatus.FAILURE)):
            monkeypatch.setattr(process_launcher, "REPORTS_WITHIN_SECONDS", reports_within)
            daemons_look(instance)
            found = instance.get_run_by_id(run.run_id)
            assert found is not None
            assert found.status is status


@pytest.mark.slow
def test_a_run_that_fails_by_itself_is_not_retried(home: Path) -> None:
    @dg.op
    def fails() -> None:
        raise dg.Failure("a source says no", allow_retries=False)

    @dg.job(executor_def=dg.in_process_executor)
    def refresh() -> None:
        fails()

    with open_instance(home) as instance:
        result = refresh.execute_in_process(instance=instance, raise_on_error=False)
        run = instance.get_run_by_id(result.run_id)
        assert run is not None
        assert run.status is dg.DagsterRunStatus.FAILURE
        assert run.tags.get("dagster/will_retry") != "true"


@pytest.mark.postgres
def test_the_catalog_answers_after_a_restart_of_the_database_server(postgres_catalog_url: str) -> None:
    """A restart ends all connections: the open transaction is lost, and the next query succeeds."""
    engine = open_catalog(postgres_catalog_url)

    def count() -> int:
        with reading(engine) as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(identities)) or 0

    with writing(engine) as connection:
        connection.exec_driver_sql("INSERT INTO identities (created_at) VALUES (now())")
    end_connections(postgres_catalog_url)
    assert count() == 1

    def interrupted() -> None:
        with writing(engine) as connection:
            connection.exec_driver_sql("INSERT INTO identities (created_at) VALUES (now())")
            end_connections(postgres_catalog_url)
            connection.exec_driver_sql("SELECT 1")

    with pytest.raises(CatalogError, match="cannot write to the catalog") as lost:
        interrupted()
    assert "\n" not in str(lost.value)
    assert count() == 1
    engine.dispose()


# --- a build while its ground shakes -------------------------------------------------------------------------------


def building(home: Path, servers: SandboxServers, **variables: str) -> subprocess.Popen[str]:
    """`stash-sense build` of one source, in a process of its own."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("STASH_SENSE_")}
    settings |= {
        "DATA_DIR": str(home / "data"),
        "STASH_SENSE_SOURCES": str(home / "sources.yaml"),
        "STASH_SENSE_MODEL_PACK": str(DEMO_PACK),
        "DAGSTER_HOME": str(prepare_home(home / "dagster")),
        **servers.environment(),
        **variables,
    }
    command = [Path(sys.executable).with_name("stash-sense"), "build", "--sources", "stashdb"]
    return subprocess.Popen(
        command, env=settings, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, list[str]]:
    """Exit code, what it printed, and the lines of its complaint."""
    said, complaint = process.communicate(timeout=500)
    return process.returncode, said, complaint.splitlines()


class HeldPictures(PictureStore):
    """Gives some pictures, and the others after `opened` is set: a build that reads them cannot end before."""

    def __init__(self, given: int) -> None:
        super().__init__()
        self.opened = threading.Event()
        self._given, self._asked, self._guard = given, 0, threading.Lock()

    def original(self, picture: Picture) -> bytes:
        with self._guard:
            self._asked += 1
            is_held = self._asked > self._given
        if is_held:
            self.opened.wait(400)
        return rendered().original(picture)

    def await_held(self, process: subprocess.Popen[str]) -> None:
        """Waits until the build waits for a picture."""
        give_up = time.monotonic() + 400
        while self._asked <= self._given:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < give_up
            time.sleep(0.05)


def await_connection(port: int, process: subprocess.Popen[str]) -> None:
    """Waits until the build asks the server that was stopped for a connection, or has ended."""
    give_up = time.monotonic() + 400
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(0.1)
        while process.poll() is None:
            assert time.monotonic() < give_up
            with suppress(TimeoutError):
                listener.accept()[0].close()
                return


def assert_whole(url: str) -> None:
    """Each image that is done has its one face, and each face all its vectors."""
    engine = open_catalog(url)
    with reading(engine) as connection:
        states = Counter(connection.scalars(sa.select(source_images.c.state)))
        found = connection.scalar(sa.select(sa.func.count()).select_from(faces))
        vectors = connection.scalar(sa.select(sa.func.count()).select_from(embeddings))
    engine.dispose()
    assert found
    assert states["done"] == found
    assert vectors == 2 * found


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.timeout(1200)
def test_a_restart_of_the_database_server_during_a_build_loses_at_most_one_batch(tmp_path: Path) -> None:
    program = server_program()
    if program is None:
        pytest.skip("no PostgreSQL server program under /usr/lib/postgresql (apt-get install postgresql)")
    pictures = HeldPictures(20)
    with (
        running_server(program) as server,
        server.database() as url,
        SandboxServers(make_demo_world(seed=6, people=40), pictures=pictures) as servers,
    ):
        (tmp_path / "sources.yaml").write_text(yaml.safe_dump(sources_settings(servers)))
        first = building(tmp_path, servers, STASH_SENSE_CATALOG_URL=url)
        pictures.await_held(first)
        server.stop()
        pictures.opened.set()
        await_connection(server.port, first)
        server.start()
        code, said, complaint = ended(first)
        assert code == 1, said
        assert len(complaint) == 1, complaint
        # The run of the source meets the lost connection first, or the build that waits for it.
        assert complaint[0].startswith(("stashdb", "stash-sense: cannot read the catalog"))
        code, said, complaint = ended(building(tmp_path, servers, STASH_SENSE_CATALOG_URL=url))
        assert (code, complaint) == (0, []), said
        assert_whole(url)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="only root can mount")
def test_a_full_volume_loses_at_most_one_batch(tmp_path: Path) -> None:
    """A small file system that really fills up while a source is read; then it gets larger."""
    volume = tmp_path / "data"
    volume.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(volume)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with SandboxServers(make_demo_world(seed=6, people=60), pictures=rendered()) as servers:
            (tmp_path / "sources.yaml").write_text(yaml.safe_dump(sources_settings(servers)))
            code, said, complaint = ended(building(tmp_path, servers))
            assert code == 1, said
            assert len(complaint) == 1, complaint
            assert "full" in complaint[0]
            more = ["mount", "-o", "remount,size=200m", str(volume)]
            subprocess.run(more, check=True, capture_output=True)
            code, said, complaint = ended(building(tmp_path, servers))
            assert (code, complaint) == (0, []), said
        with closing(sqlite3.connect(volume / "catalog.db")) as catalog:
            assert catalog.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert_whole(f"sqlite:///{volume / 'catalog.db'}")
    finally:
        subprocess.run(["umount", "--lazy", str(volume)], check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize("job", ["refresh_source", "embed_faces"])
def test_a_disabled_source_adds_nothing(tmp_path, job):
    """Its crops that wait stay as they are; what it brought before stays in the catalog and in releases."""
    sources = yaml.safe_load(shipped_file("sources.yaml").read_text())
    sources["stash_boxes"]["pmvstash"]["enabled"] = False
    path = tmp_path / "sources.yaml"
    path.write_text(yaml.safe_dump(sources))
    definitions = build_defs(settings=load_settings(path), environment=environment_at(tmp_path))
    with dg.DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_job_def(job).execute_in_process(
            instance=instance, partition_key="pmvstash", raise_on_error=False
        )
        failures = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    assert not result.success
    assert "pmvstash is not enabled in sources.yaml" in str(failures[0].step_failure_data.error)
