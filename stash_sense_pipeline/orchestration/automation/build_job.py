"""The job `build_everything` and its presets: one run that refreshes, embeds and publishes through the run queue."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import dagster as dg
from pydantic import Field

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.automation.queued_runs import (
    ENDED,
    QueuedTask,
    cancel,
    statuses,
    step_ended,
    submit,
)
from stash_sense_pipeline.orchestration.metadata import one_line_failures
from stash_sense_pipeline.orchestration.resources import Catalog
from stash_sense_pipeline.orchestration.run_config import IndexConfig, IngestConfig, ReleaseConfig, SyncMode
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.run_options import RUN_OPTIONS
from stash_sense_pipeline.settings.run_overrides import RunOverrides, apply_overrides
from stash_sense_pipeline.settings.schema import Settings
from stash_sense_pipeline.sources.connections import unusable

_LOOK_SECONDS = 1.0


class BuildConfig(dg.Config):
    """What one build does."""

    sources: list[str] = Field(
        default=[],
        description="Names of the sources to refresh; empty: every enabled source of sources.yaml.",
    )
    refresh: bool = Field(
        default=True,
        description="Ask the sources for what is new. false: only embed what waits, and publish.",
    )
    sync: SyncMode = Field(
        default=SyncMode.AUTO,
        description=RUN_OPTIONS["sync"].help,
    )
    faces: bool = Field(default=True, description=RUN_OPTIONS["faces"].help)
    publish: bool = Field(
        default=True, description="Publish a release at the end, if anything changed since the last one."
    )
    fast_index: bool = Field(
        default=False,
        description=RUN_OPTIONS["fast_index"].help,
    )
    accept_shrink: bool = Field(default=False, description=RUN_OPTIONS["accept_shrink"].help)


@dg.op(
    name=names.BUILD_STEP,
    description="Submits runs of refresh_source, embed_faces and publish, and waits for them.",
)
def build(
    context: dg.OpExecutionContext,
    config: BuildConfig,
    settings: dg.ResourceParam[Settings],
    environment: dg.ResourceParam[Environment],
    catalog: dg.ResourceParam[Catalog],
) -> None:
    """Refreshes and embeds each source, then publishes. Fails when a part failed or was skipped."""
    with one_line_failures():
        _check_alone(context)
        chosen = apply_overrides(settings, RunOverrides(sources=tuple(config.sources)))
        problems = _QueuedBuild(context, config, chosen, environment, catalog).run()
        if problems:
            raise ConfigurationError("; ".join(problems))


def build_jobs() -> list[dg.JobDefinition]:
    """`build_everything`, and the presets `full_sweep` and `publish_now` with other defaults."""
    return [
        _job(
            names.BUILD_JOB,
            BuildConfig(),
            "Refresh every source, embed its faces, publish a release: what `stash-sense build` does. "
            "The Launchpad has its options.",
        ),
        _job(
            names.FULL_SWEEP_JOB,
            BuildConfig(sync=SyncMode.FULL_SWEEP),
            "build_everything, and compare every record with its source. Only this finds removals that leave no trace.",
        ),
        _job(
            names.PUBLISH_NOW_JOB,
            BuildConfig(refresh=False),
            "Embed the faces that wait and publish a release, without asking any source.",
        ),
    ]


def _job(name: str, config: BuildConfig, description: str) -> dg.JobDefinition:
    @dg.graph(name=name)
    def graph() -> None:
        build()

    # All options are written out, so that the Launchpad shows each with its default.
    return graph.to_job(
        name=name,
        description=description,
        config=dg.RunConfig(ops={names.BUILD_STEP: config}),
    )


def _check_alone(context: dg.OpExecutionContext) -> None:
    """Raises ConfigurationError while an earlier build runs: builds that wait for each other's slots never end."""
    own = context.instance.get_run_record_by_id(context.run_id)
    for job in names.BUILD_JOBS:
        wanted = dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.STARTED])
        for record in context.instance.get_run_records(wanted):
            if own is not None and record.storage_id < own.storage_id:
                raise ConfigurationError(
                    f"another build is in progress: run {record.dagster_run.run_id}; cancel it or wait for its end"
                )


@dataclass
class _Source:
    """The state of one source in a build."""

    name: str
    is_site: bool
    refresh: str = ""
    table_read: bool = False
    refreshed: bool = False
    embedding: str = ""
    ended: bool = False
    problems: list[str] = field(default_factory=list)


class _QueuedBuild:
    """Submits the runs of a build in their order, and waits for their end."""

    def __init__(
        self,
        context: dg.OpExecutionContext,
        config: BuildConfig,
        settings: Settings,
        environment: Environment,
        catalog: Catalog,
    ) -> None:
        self._context = context
        self._config = config
        self._settings = settings
        self._environment = environment
        self._catalog = catalog

    def run(self) -> list[str]:
        """The problems of the build, one line each; empty when every part is done.

        Raises ConfigurationError when no source can be asked.
        """
        try:
            skipped, sources = self._usable()
            while not all(source.ended for source in sources):
                self._advance(sources)
                time.sleep(_LOOK_SECONDS)
            problems = [*skipped, *(problem for source in sources for problem in source.problems)]
            if self._config.publish and any(not source.problems for source in sources):
                problems += self._publish()
            return problems
        except (dg.DagsterExecutionInterruptedError, KeyboardInterrupt):
            self._context.log.warning("canceled; the runs of this build are canceled too")
            cancel(self._context, names.BUILD_TAG)
            raise

    def _usable(self) -> tuple[list[str], list[_Source]]:
        """The reasons of the sources that cannot be asked, and the other sources in the order of the settings."""
        reasons = {
            source.name: unusable(self._settings, self._environment, source.name)
            if self._config.refresh
            else None
            for source in self._settings.enabled
        }
        skipped = [reason for reason in reasons.values() if reason]
        if len(skipped) == len(reasons):
            raise ConfigurationError(f"no source can be asked: {'; '.join(skipped) or 'none is enabled'}")
        for reason in skipped:
            self._context.log.warning(reason)
        sites = self._settings.reference_sites
        return skipped, [_Source(name, name in sites) for name, reason in reasons.items() if not reason]

    def _advance(self, sources: Sequence[_Source]) -> None:
        self._submit_refreshes(sources)
        runs = [run_id for source in sources for run_id in (source.refresh, source.embedding) if run_id]
        found = statuses(self._context.instance, runs)
        for source in sources:
            if source.ended:
                continue
            if not source.refreshed:
                self._look_at_refresh(source, found)
            elif found[source.embedding] in ENDED:
                self._note_end(source, "embed_faces", source.embedding, found)
                source.ended = True

    def _submit_refreshes(self, sources: Sequence[_Source]) -> None:
        """Submits the stash-boxes at once, and the sites when all stash-boxes are read: these list their profiles."""
        boxes_read = all(source.table_read or source.ended for source in sources if not source.is_site)
        for place, source in enumerate(sources):
            if source.refresh or source.ended or (source.is_site and not boxes_read):
                continue
            if not self._config.refresh:
                source.refreshed = source.table_read = True
                self._embed(source)
                continue
            selection = [names.PERFORMER_TABLE] if not self._config.faces else None
            ops: dict[str, dg.Config] = {
                names.PERFORMER_TABLE.to_user_string(): IngestConfig(sync=self._config.sync)
            }
            tags = {names.SOURCE_TAG: source.name, "dagster/priority": str(-place)}
            source.refresh = self._submit(
                QueuedTask(names.REFRESH_SOURCE_JOB, tags, source.name, ops, selection)
            )

    def _look_at_refresh(self, source: _Source, found: dict[str, dg.DagsterRunStatus]) -> None:
        if not source.refresh:
            return
        status = found.get(source.refresh)
        if status not in ENDED:
            started = status is dg.DagsterRunStatus.STARTED and not source.table_read and not source.is_site
            if started and step_ended(
                self._context.instance, source.refresh, names.PERFORMER_TABLE.to_user_string()
            ):
                source.table_read = True
            return
        source.refreshed = source.table_read = True
        self._note_end(source, "refresh_source", source.refresh, found)
        self._embed(source)

    def _embed(self, source: _Source) -> None:
        """Submits the embedding of a source, also after a failed refresh: what it collected waits. None waits: ended."""
        if not self._config.faces or not self._waiting(source.name):
            source.ended = True
            return
        source.embedding = self._submit(
            QueuedTask(names.EMBED_FACES_JOB, {names.EMBED_TAG: source.name}, source.name)
        )

    def _waiting(self, source: str) -> int:
        from stash_sense_pipeline.faces.embed_waiting import embedding_backlog
        from stash_sense_pipeline.faces.models.model_packs import load_pack
        from stash_sense_pipeline.faces.requeue import load_second_pack
        from stash_sense_pipeline.faces.tattoos.embed_waiting import tattoo_backlog

        models = self._environment.models_dir
        pack = load_pack(self._environment.model_pack, models).for_tattoos(self._settings.faces.tattoos)
        second = load_second_pack(self._settings.global_.second_pack, models, pack)
        engine = self._catalog.engine
        return embedding_backlog(engine, source, pack, second) + tattoo_backlog(engine, source, pack)

    def _note_end(
        self, source: _Source, job: str, run_id: str, found: dict[str, dg.DagsterRunStatus]
    ) -> None:
        if found[run_id] is dg.DagsterRunStatus.SUCCESS:
            self._context.log.info(f"{source.name}: {job} done")
        else:
            source.problems.append(f"{source.name}: {job} {found[run_id].value.lower()}, see run {run_id}")
            self._context.log.error(source.problems[-1])

    def _publish(self) -> Iterator[str]:
        config = self._config
        ops: dict[str, dg.Config] = {
            names.INDICES_STEP: IndexConfig(fast=config.fast_index),
            names.RELEASE.to_user_string(): ReleaseConfig(accept_shrink=config.accept_shrink),
        }
        selection = None if config.faces else [names.IDENTITY_GRAPH]
        run_id = self._submit(
            QueuedTask(names.PUBLISH_JOB, {}, ops=ops if config.faces else {}, selection=selection)
        )
        while (status := statuses(self._context.instance, [run_id])[run_id]) not in ENDED:
            time.sleep(_LOOK_SECONDS)
        if status is not dg.DagsterRunStatus.SUCCESS:
            yield f"publish {status.value.lower()}, see run {run_id}"

    def _submit(self, task: QueuedTask) -> str:
        # The daemon must not repeat a failed run: this build counts it as failed.
        tags = {**task.tags, names.BUILD_TAG: self._context.run_id, "dagster/max_retries": "0"}
        run_id = submit(self._context, QueuedTask(task.job, tags, task.partition, task.ops, task.selection))
        self._context.log.info(f"submitted {task.job} {task.partition or ''}".rstrip() + f": run {run_id}")
        return run_id
