"""Options of one run: declared once, offered everywhere, and each changes what it says."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.cli.building import build
from stash_sense_pipeline.definitions import build_defs
from stash_sense_pipeline.deployment.dagster_instance import open_instance
from stash_sense_pipeline.orchestration import names, run_config
from stash_sense_pipeline.release.checks.check_result import failures
from stash_sense_pipeline.release.checks.verify import verify_release
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.faults import Fault, FaultKind, Traffic
from stash_sense_pipeline.sandbox.servers import SandboxServers, sources_settings
from stash_sense_pipeline.settings.environment import read_environment
from stash_sense_pipeline.settings.run_options import RUN_OPTIONS, command_options
from stash_sense_pipeline.settings.run_overrides import RunOverrides
from stash_sense_pipeline.settings.sources_file import load_settings
from stash_sense_pipeline_tests.commands import run_here
from stash_sense_pipeline_tests.orchestration.conftest import WAIT_SECONDS
from stash_sense_pipeline_tests.rendered_pictures import rendered

SITE = "elitebabes"
BOXES = ("pmvstash", "javstash")
STEPS: dict[str, type] = {
    "performer_table": run_config.IngestConfig,
    "aligned_faces": run_config.FacesConfig,
    "face_embeddings": run_config.EmbeddingConfig,
    "trusted_faces": run_config.TrustConfig,
    "indices": run_config.IndexConfig,
    "release": run_config.ReleaseConfig,
}


def test_the_command_line_has_exactly_the_declared_options():
    declared = set()
    for option in command_options():
        declared |= {option.spelling} - {""} | {flag.spelling for flag in option.flags}
    offered = {spelling for parameter in build.params for spelling in parameter.opts}
    assert offered == declared
    assert set(RunOverrides.model_fields) == {option.name for option in command_options()}


def test_the_run_configuration_has_exactly_the_declared_fields_with_their_texts():
    declared = {place: option for option in RUN_OPTIONS.values() for place in option.launchpad}
    offered: dict[str, Any] = {
        f"{step}.{name}": field
        for step, config in STEPS.items()
        for name, field in config.model_fields.items()  # type: ignore[attr-defined]
    }
    assert set(offered) == set(declared)
    for place, field in offered.items():
        assert field.description == declared[place].help, place


class Operator:
    """Runs builds in a directory of its own on a small world, of which pmvstash alone is enabled."""

    def __init__(self, home: Path, servers: SandboxServers) -> None:
        self.home = home
        self.traffic = servers.traffic
        self.sources: dict[str, Any] = sources_settings(servers, sites=(SITE,))
        boxes = self.sources["stash_boxes"]
        self.sources["stash_boxes"] = {name: boxes[name] for name in BOXES}
        boxes["javstash"]["enabled"] = False
        self.sources["reference_sites"][SITE]["enabled"] = False
        self.variables = {
            **{name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")},
            "DATA_DIR": str(home / "data"),
            "STASH_SENSE_SOURCES": str(home / "sources.yaml"),
            "STASH_SENSE_MODEL_PACK": str(DEMO_PACK),
            **servers.environment(),
        }

    def write_sources(self) -> None:
        (self.home / "sources.yaml").write_text(yaml.safe_dump(self.sources))

    def builds(self, *options: str, code: int = 0) -> str:
        """Runs a build that must exit with `code`. What it said, and for a failure also its errors."""
        self.write_sources()
        result = run_here(self.home, self.variables, "build", *options)
        assert result.returncode == code, result.stdout + result.stderr
        return result.stdout + (result.stderr if code else "")

    def rows(self, query: sa.Select[Any]) -> list[Any]:
        engine = open_catalog(f"sqlite:///{self.home / 'data' / 'catalog.db'}")
        try:
            with engine.connect() as connection:
                return list(connection.execute(query))
        finally:
            engine.dispose()

    def most_faces(self) -> int:
        """The largest number of faces of one record."""
        of_record = (
            sa.select(sa.func.count())
            .select_from(schema.performer_images)
            .join(schema.faces, schema.faces.c.image_id == schema.performer_images.c.image_id)
            .group_by(schema.performer_images.c.source_id)
        )
        return max(row[0] for row in self.rows(of_record))

    def tried(self) -> int:
        """The number of images that have a verdict."""
        images = schema.source_images.c
        return int(self.rows(sa.select(sa.func.count()).where(images.processed_at.is_not(None)))[0][0])

    def state(self) -> Any:
        return self.rows(sa.select(schema.sync_state).where(schema.sync_state.c.source == "pmvstash"))[0]

    def searched(self) -> bool:
        """Whether the reference site was searched by name."""
        return "name" in {row[0] for row in self.rows(sa.select(schema.site_visits.c.mode))}

    def trusted(self) -> tuple[int, int]:
        """The largest number of trusted faces of one performer, and of all."""
        faces = schema.trusted_faces.c
        counts = [
            row[0] for row in self.rows(sa.select(sa.func.count(faces.face_id)).group_by(faces.performer_id))
        ]
        return max(counts), sum(counts)

    def embedded(self) -> int:
        """The number of faces with an embedding."""
        return len(self.rows(sa.select(schema.embeddings.c.face_id).distinct()))

    def manifest(self) -> dict[str, Any]:
        """The manifest of the latest release."""
        path = self.home / "data" / "releases" / "latest" / "manifest.json"
        manifest: dict[str, Any] = json.loads(path.read_text())
        return manifest

    def indices(self) -> list[dict[str, Any]]:
        """What the manifest of the latest release says about each index."""
        return list(self.manifest()["indices"].values())

    def refreshes_in_order(self) -> list[str]:
        """The starts and ends of the runs of refresh_source, in the order in which they were recorded."""
        kinds = {dg.DagsterEventType.RUN_START: "start", dg.DagsterEventType.RUN_SUCCESS: "end"}
        with open_instance(self.home / "data" / "dagster") as instance:
            recorded = [
                (record.storage_id, said)
                for kind, said in kinds.items()
                for record in instance.fetch_run_status_changes(kind, limit=100).records
                if record.event_log_entry.job_name == names.REFRESH_SOURCE_JOB
            ]
        return [said for _, said in sorted(recorded)]


@contextmanager
def held_until_all_are_asked(traffic: Traffic, boxes: tuple[str, ...]) -> Iterator[None]:
    """In the block no server answers before each of these boxes has got a request."""
    traffic.clear_requests()
    traffic.inject(Fault(FaultKind.HOLD, times=None))
    ended, give_up = threading.Event(), time.monotonic() + WAIT_SECONDS

    def watch() -> None:
        while not ended.wait(0.02) and time.monotonic() < give_up:
            if {entry.box for entry in traffic.requests()} >= set(boxes):
                break
        traffic.clear_faults()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def sources(operator: Operator) -> None:
    said = operator.builds("--no-faces", "--sources", "javstash")
    assert "javstash: " in said
    assert "pmvstash" not in said


def disabled_sources(operator: Operator) -> None:
    operator.sources["stash_boxes"]["javstash"]["enabled"] = True
    said = operator.builds("--no-faces", "--disable-source", "pmvstash")
    assert "pmvstash" not in said
    assert "javstash: " in said


def enough_faces(operator: Operator) -> None:
    operator.builds("--source-max-faces", "pmvstash=1")
    assert operator.most_faces() == 1
    before = operator.tried()
    operator.builds("--completeness-threshold", "1")
    with_one = operator.tried()
    assert operator.most_faces() == 1
    operator.builds()
    assert operator.tried() > with_one >= before
    assert operator.most_faces() > 1


def sync(operator: Operator) -> None:
    operator.builds("--no-faces")
    assert not operator.rows(sa.select(schema.faces))
    assert not (operator.home / "data" / "releases" / "latest").exists()
    first = operator.state().last_sweep_at
    operator.builds("--no-faces", "--sync-updates-only")
    assert operator.state().last_sweep_at == first
    operator.builds("--no-faces", "--full-sweep")
    assert operator.state().last_sweep_at > first


def trial(operator: Operator) -> None:
    operator.builds("--max-performers", "3", "--max-images", "4")
    assert len(operator.rows(sa.select(schema.source_performers))) == 3
    assert operator.tried() == 4
    assert operator.state().backfilled_at is None
    assert (operator.home / "data" / "releases" / "latest" / "manifest.json").exists()
    operator.builds()
    assert operator.state().backfilled_at is not None
    assert len(operator.rows(sa.select(schema.source_performers))) > 3
    assert operator.tried() > 4


def reference_mode(operator: Operator) -> None:
    operator.sources["reference_sites"][SITE]["enabled"] = True
    assert operator.sources["reference_sites"][SITE]["reference_mode"] == "name"
    operator.builds("--no-faces", "--reference-mode", "url")
    assert not operator.searched()
    operator.sources["reference_sites"][SITE]["reference_mode"] = "url"
    operator.builds("--no-faces", "--reference-mode", "name")
    assert operator.searched()


def jobs(operator: Operator) -> None:
    operator.sources["stash_boxes"]["javstash"]["enabled"] = True
    operator.builds("--no-faces", "--jobs", "1")
    assert operator.refreshes_in_order() == ["start", "end", "start", "end"], "one after the other"
    with held_until_all_are_asked(operator.traffic, BOXES):
        operator.builds("--no-faces", "--full-sweep")
    assert operator.refreshes_in_order()[4:] == ["start", "start", "end", "end"], "side by side"


def releases(operator: Operator) -> None:
    latest = operator.home / "data" / "releases" / "latest"
    operator.builds("--max-faces-total", "2", "--fast-index")
    assert operator.most_faces() == 2
    assert {index["threads"] for index in operator.indices()} == {os.cpu_count()}
    assert operator.manifest()["reproducible"] is (os.cpu_count() == 1)
    assert failures(verify_release(latest.resolve())) == ()
    operator.builds()
    assert {index["threads"] for index in operator.indices()} == {1}
    before = latest.resolve()
    said = operator.builds("--max-faces-total", "1", code=1)
    assert "accept the loss with build --accept-shrink" in said
    assert latest.resolve() == before
    operator.builds("--max-faces-total", "1", "--accept-shrink")
    assert latest.resolve() != before


PROOFS: dict[str, Callable[[Operator], None]] = {
    "sources": sources,
    "disabled_sources": disabled_sources,
    "source_max_faces": enough_faces,
    "max_faces_total": releases,
    "reference_mode": reference_mode,
    "sync": sync,
    "completeness_threshold": enough_faces,
    "max_performers": trial,
    "max_images": trial,
    "jobs": jobs,
    "faces": sync,
    "fast_index": releases,
    "accept_shrink": releases,
}


class Launchpad(Operator):
    """Runs jobs with the run configuration that the Launchpad of the Dagster UI would send."""

    def __init__(self, home: Path, servers: SandboxServers, instance: dg.DagsterInstance) -> None:
        super().__init__(home, servers)
        self._instance = instance

    def runs(
        self,
        job: str,
        config: Mapping[str, Mapping[str, Any]],
        source: str | None = None,
        only: tuple[dg.AssetKey, ...] = (),
    ) -> dg.ExecuteInProcessResult:
        """Runs a job with the `config` of its steps, of one source or of none, of the assets `only` or of all."""
        self.write_sources()
        environment = read_environment(self.variables, self.home)
        definitions = build_defs(settings=load_settings(environment.sources_file), environment=environment)
        return definitions.resolve_job_def(job).execute_in_process(
            run_config={"ops": {step: {"config": dict(fields)} for step, fields in config.items()}},
            instance=self._instance,
            partition_key=source,
            asset_selection=list(only) or None,
            raise_on_error=False,
        )

    def refreshes(self, source: str = "pmvstash", **config: Mapping[str, Any]) -> None:
        assert self.runs(names.REFRESH_SOURCE_JOB, config, source).success

    def embeds(self, **fields: Any) -> dg.ExecuteInProcessResult:
        return self.runs(names.EMBED_FACES_JOB, {"face_embeddings": fields}, "pmvstash")

    def publishes(self, **config: Mapping[str, Any]) -> dg.ExecuteInProcessResult:
        return self.runs(names.PUBLISH_JOB, config)

    def trusts(self, **fields: Any) -> tuple[int, int]:
        """Chooses the trusted faces, and counts them."""
        only = (names.IDENTITY_GRAPH, names.TRUSTED_FACES)
        assert self.runs(names.PUBLISH_JOB, {"trusted_faces": fields}, None, only).success
        return self.trusted()


def failure(result: dg.ExecuteInProcessResult) -> str:
    """The text of the failed step of a run."""
    (event,) = (event for event in result.all_events if event.is_step_failure)
    failed = event.step_failure_data
    assert failed.user_failure_data is not None
    return str(failed.user_failure_data.description)


def sync_of_a_run(launchpad: Launchpad) -> None:
    only = (names.PERFORMER_TABLE,)
    swept = []
    for mode in ("AUTO", "UPDATES_ONLY", "FULL_SWEEP"):
        config = {"performer_table": {"sync": mode}}
        assert launchpad.runs(names.REFRESH_SOURCE_JOB, config, "pmvstash", only).success
        swept.append(launchpad.state().last_sweep_at)
    assert swept[0] == swept[1] < swept[2]


def reference_mode_of_a_run(launchpad: Launchpad) -> None:
    launchpad.sources["reference_sites"][SITE]["enabled"] = True
    only = (names.PERFORMER_TABLE,)
    assert launchpad.runs(names.REFRESH_SOURCE_JOB, {}, "pmvstash", only).success
    for mode, searched in (("URL", False), ("NAME", True)):
        config = {"performer_table": {"reference_mode": mode}}
        assert launchpad.runs(names.REFRESH_SOURCE_JOB, config, SITE, only).success
        assert launchpad.searched() is searched


def trial_of_a_run(launchpad: Launchpad) -> None:
    launchpad.refreshes(performer_table={"max_performers": 3}, aligned_faces={"max_images": 4})
    assert len(launchpad.rows(sa.select(schema.source_performers))) == 3
    assert launchpad.tried() == 4
    launchpad.refreshes()
    assert len(launchpad.rows(sa.select(schema.source_performers))) > 3
    assert launchpad.tried() > 4


def limits_of_collected_faces(launchpad: Launchpad) -> None:
    launchpad.refreshes(aligned_faces={"max_faces": 1})
    assert launchpad.most_faces() == 1
    launchpad.refreshes(aligned_faces={"completeness_threshold": 1})
    assert launchpad.most_faces() == 1
    launchpad.refreshes(aligned_faces={"max_faces_total": 2})
    assert launchpad.most_faces() == 2
    launchpad.refreshes()
    assert launchpad.most_faces() > 2


@contextmanager
def counted_commits() -> Iterator[list[str]]:
    """The commits of the catalog in the block."""
    commits: list[str] = []

    def note(connection: sa.Connection) -> None:
        if str(connection.engine.url.database).endswith("catalog.db"):
            commits.append("commit")

    sa.event.listen(sa.Engine, "commit", note)
    try:
        yield commits
    finally:
        sa.event.remove(sa.Engine, "commit", note)


def embedding(launchpad: Launchpad) -> None:
    launchpad.refreshes(aligned_faces={"max_images": 12})
    if find_library("cuda") is None:
        assert "CUDA was asked for and is not there" in failure(launchpad.embeds(device="cuda"))
    with counted_commits() as small:
        assert launchpad.embeds(device="cpu", batch_size=1).success
    few = launchpad.embedded()
    launchpad.refreshes()
    with counted_commits() as large:
        assert launchpad.embeds(batch_size=1000).success
    assert launchpad.embedded() - few >= few >= 6
    assert len(large) < len(small)


def limits_of_trusted_faces(launchpad: Launchpad) -> None:
    launchpad.refreshes()
    assert launchpad.embeds().success
    most, total = launchpad.trusts()
    assert most > 2
    assert launchpad.trusts(max_faces_total=2)[0] == 2
    assert launchpad.trusts(source_max_faces={"pmvstash": 1})[0] == 1
    assert launchpad.trusts() == (most, total)


def publication(launchpad: Launchpad) -> None:
    launchpad.refreshes()
    assert launchpad.embeds().success
    given = {"m": 7, "ef_construction": 60, "fast": True}
    shape = {"m": 7, "ef_construction": 60}
    for name in shape:
        other = {key: value for key, value in shape.items() if key != name}
        assert not launchpad.publishes(indices=given, release=other).success, name
    assert launchpad.publishes(indices=given, release=shape).success
    made = launchpad.indices()
    assert {(index["m"], index["ef_construction"]) for index in made} == {(7, 60)}
    assert {index["threads"] for index in made} == {os.cpu_count()}
    assert launchpad.publishes().success
    assert all(index["m"] != 7 and index["threads"] == 1 for index in launchpad.indices())
    few = {"max_faces_total": 1}
    assert not launchpad.publishes(trusted_faces=few).success
    assert launchpad.publishes(trusted_faces=few, release={"accept_shrink": True}).success


LAUNCHPAD_PROOFS: dict[Callable[[Launchpad], None], tuple[str, ...]] = {
    sync_of_a_run: ("performer_table.sync",),
    reference_mode_of_a_run: ("performer_table.reference_mode",),
    trial_of_a_run: ("performer_table.max_performers", "aligned_faces.max_images"),
    limits_of_collected_faces: (
        "aligned_faces.max_faces",
        "aligned_faces.max_faces_total",
        "aligned_faces.completeness_threshold",
    ),
    embedding: ("face_embeddings.device", "face_embeddings.batch_size"),
    limits_of_trusted_faces: ("trusted_faces.max_faces_total", "trusted_faces.source_max_faces"),
    publication: (
        "indices.m",
        "indices.ef_construction",
        "indices.fast",
        "release.m",
        "release.ef_construction",
        "release.accept_shrink",
    ),
}


def test_every_option_has_a_proof() -> None:
    assert set(PROOFS) == {option.name for option in command_options()}
    proven = {place for places in LAUNCHPAD_PROOFS.values() for place in places}
    assert proven == {place for option in RUN_OPTIONS.values() for place in option.launchpad}


@pytest.fixture(scope="module")
def servers() -> Iterator[SandboxServers]:
    """A small world, served."""
    with SandboxServers(make_demo_world(seed=2, people=24), pictures=rendered()) as running:
        yield running


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("proof", list(dict.fromkeys(PROOFS.values())), ids=lambda proof: proof.__name__)
def test_an_option_of_the_command_line_changes_what_it_says(
    tmp_path: Path, servers: SandboxServers, proof: Callable[[Operator], None]
) -> None:
    proof(Operator(tmp_path, servers))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("proof", list(LAUNCHPAD_PROOFS), ids=lambda proof: proof.__name__)
def test_an_option_of_the_launchpad_changes_what_it_says(
    tmp_path: Path, servers: SandboxServers, proof: Callable[[Launchpad], None]
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        proof(Launchpad(tmp_path, servers, instance))
