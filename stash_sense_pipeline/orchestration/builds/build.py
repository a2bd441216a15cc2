"""A build: refreshes sources side by side, embeds beside them, then publishes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.faces.embed_waiting import embedding_backlog
from stash_sense_pipeline.faces.models.model_packs import ModelPack, load_pack
from stash_sense_pipeline.faces.models.onnx_sessions import Device, require_device
from stash_sense_pipeline.faces.requeue import load_second_pack
from stash_sense_pipeline.faces.tattoos.embed_waiting import tattoo_backlog
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.files import holding_lock
from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.automation.jobs import embed_keys
from stash_sense_pipeline.orchestration.builds.run_process import (
    CodeLocation,
    ProgressMessage,
    RunProcess,
    RunResult,
    RunStatus,
    RunTask,
    prepare_processes,
)
from stash_sense_pipeline.orchestration.builds.runs import Runs, noting_signals
from stash_sense_pipeline.orchestration.run_config import (
    EmbeddingConfig,
    FacesConfig,
    IndexConfig,
    IngestConfig,
    ReleaseConfig,
    SyncMode,
    TrustConfig,
)
from stash_sense_pipeline.settings.run_overrides import RunOverrides
from stash_sense_pipeline.settings.schema import Settings
from stash_sense_pipeline.sources.connections import unusable

# Embedding during a refresh begins with so many crops, so that the models are not loaded for a few faces.
_CROPS_WORTH_A_RUN = 2000
_BETWEEN_BACKLOG_LOOKS = 30.0
_SUMMED = ("embedded", "seconds")


class Status(StrEnum):
    """How one part of a build ended."""

    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class PartResult:
    """How one source, or `publish`, ended.

    `reason` is empty when it is done. `metadata` holds the metadata of its assets by asset name. `failed_checks` names
    the asset checks that failed.
    """

    name: str
    status: Status
    reason: str
    metadata: Mapping[str, Mapping[str, Any]]
    failed_checks: Sequence[str] = ()


@dataclass(frozen=True)
class BuildResult:
    """All parts of a build: the sources in the order of the settings, then the publication."""

    parts: Sequence[PartResult]

    @property
    def complete(self) -> bool:
        """True when every part is done and no check of a source failed: none was skipped, none failed."""
        return all(part.status is Status.DONE and not part.failed_checks for part in self.parts)


@dataclass(frozen=True)
class Listener:
    """Receives the parts of a build as they end, and the progress of its runs.

    `begin` receives the names of the sources before any of them is asked.
    """

    announce: Callable[[PartResult], None]
    progress: Callable[[ProgressMessage], None]
    begin: Callable[[Sequence[str]], None] = lambda sources: None


def build(location: CodeLocation, overrides: RunOverrides, listener: Listener) -> BuildResult:
    """Refreshes and embeds each enabled source, then publishes, with the jobs that the UI runs too.

    `location.settings` has the overrides already. Sources run side by side, at most `overrides.jobs` at once and never
    two of one host. Reference sites begin when the performers of all stash-boxes are read. A source without a key is
    skipped, and a source that fails does not stop the others. Nothing is published when no source was refreshed. While
    another build publishes, this one waits.

    SIGINT or SIGTERM ends the build after it has stored what is in flight; a second signal ends it at once.

    Raises InterruptedBuildError after a signal. Raises ConfigurationError when every source is skipped. Raises
    ModelPackError or DeviceError when faces are wanted and the pack or the GPU is missing. In these three cases no request
    was made and nothing was written. Raises CatalogError, before any request, when the catalog cannot be opened.
    """
    environment = location.environment
    problems = {
        source.name: unusable(location.settings, environment, source.name)
        for source in location.settings.enabled
    }
    if all(problems.values()):
        reasons = "; ".join(reason for reason in problems.values() if reason)
        raise ConfigurationError(f"no source can be asked: {reasons or 'none is enabled'}")
    packs = None
    if overrides.faces:
        # All would fail after hours of fetching otherwise.
        pack = load_pack(environment.model_pack, environment.models_dir)
        pack = pack.for_tattoos(location.settings.faces.tattoos)
        second = load_second_pack(location.settings.global_.second_pack, environment.models_dir, pack)
        packs = pack, second
        require_device(Device(environment.device))
    open_catalog(environment.catalog_url).dispose()
    with noting_signals() as signals:
        prepare_processes(location)
        skipped = [
            PartResult(source, Status.SKIPPED, problem, {}) for source, problem in problems.items() if problem
        ]
        for part in skipped:
            listener.announce(part)
        usable = [source for source, problem in problems.items() if not problem]
        runs = Runs(location, listener.progress, signals)
        listener.begin(usable)
        runs.check_signals()
        parts = _Refreshes(runs, usable, overrides, packs).run(listener.announce)
        if any(part.status is Status.DONE for part in parts):
            # All publishing runs use the same staging directory.
            with holding_lock(environment.data_dir / ".publish.lock", while_waiting=runs.check_signals):
                published = _publish(runs, overrides)
            listener.announce(published)
            parts = [*parts, published]
    order = {name: place for place, name in enumerate(problems)}
    return BuildResult(sorted([*skipped, *parts], key=lambda part: order.get(part.name, len(order))))


@dataclass
class _Source:
    """The state of one source in a build."""

    name: str
    host: str
    is_site: bool
    refresh: RunProcess | None = None
    table_read: bool = False
    refreshed: RunResult | None = None
    embedding: RunProcess | None = None
    embedded: list[RunResult] = field(default_factory=list)
    embedded_last: bool = False
    announced: PartResult | None = None

    @property
    def waits_to_start(self) -> bool:
        """True until its refresh was started."""
        return self.refresh is None and self.refreshed is None


class _Refreshes:
    """Refreshes sources side by side, and embeds one source at a time beside them."""

    def __init__(
        self,
        runs: Runs,
        usable: Sequence[str],
        overrides: RunOverrides,
        packs: tuple[ModelPack, ModelPack | None] | None,
    ) -> None:
        self._runs = runs
        self._overrides = overrides
        self._packs = packs
        settings = runs.location.settings
        self._sources = [
            _Source(name, _host(settings, name), name in settings.reference_sites) for name in usable
        ]
        self._jobs = overrides.jobs or len(usable)
        self._looked = time.monotonic()

    def run(self, announce: Callable[[PartResult], None]) -> list[PartResult]:
        """Runs until every source has ended, and announces each."""
        engine = open_catalog(self._runs.location.environment.catalog_url)
        try:
            while not all(source.announced for source in self._sources):
                self._start_refreshes()
                self._start_embedding(engine)
                for process, message in self._runs.messages():
                    self._take(process, message)
                self._announce(engine, announce)
        finally:
            engine.dispose()
        return [source.announced for source in self._sources if source.announced]

    def _start_refreshes(self) -> None:
        boxes_read = all(source.table_read for source in self._sources if not source.is_site)
        running = [source for source in self._sources if source.refresh]
        for source in self._sources:
            if len(running) >= self._jobs:
                return
            hosts = {other.host for other in running}
            # A site is asked for the profiles that stash-boxes list.
            if source.waits_to_start and source.host not in hosts and (boxes_read or not source.is_site):
                source.refresh = self._runs.start(self._refresh_task(source.name))
                running.append(source)

    def _refresh_task(self, source: str) -> RunTask:
        ops: dict[str, Any] = {
            names.PERFORMER_TABLE.to_user_string(): IngestConfig(
                sync=SyncMode(self._overrides.sync), max_performers=self._overrides.max_performers
            )
        }
        selection = [names.PERFORMER_TABLE]
        if self._overrides.faces:
            ops[names.ALIGNED_FACES.to_user_string()] = FacesConfig(max_images=self._overrides.max_images)
            selection.append(names.ALIGNED_FACES)
        return RunTask(names.REFRESH_SOURCE_JOB, selection, ops, source, {names.SOURCE_TAG: source})

    def _start_embedding(self, engine: sa.Engine) -> None:
        """Starts one embedding run: of a source that is refreshed, else of one with many crops."""
        if self._packs is None or any(source.embedding for source in self._sources):
            return
        ended = [source for source in self._sources if source.refreshed is not None and not source.announced]
        for source in ended:
            if not source.embedded_last and self._backlog(engine, source.name):
                source.embedded_last = True
                self._embed(source)
                return
        if time.monotonic() - self._looked < _BETWEEN_BACKLOG_LOOKS:
            return
        self._looked = time.monotonic()
        for source in self._sources:
            if source.refresh is not None and self._backlog(engine, source.name) >= _CROPS_WORTH_A_RUN:
                self._embed(source)
                return

    def _embed(self, source: _Source) -> None:
        keys = embed_keys(tattoos=self._packs is not None and self._packs[0].tattoo is not None)
        ops: dict[str, dg.Config] = {key.to_user_string(): EmbeddingConfig() for key in keys}
        tags = {names.EMBED_TAG: source.name}
        source.embedding = self._runs.start(RunTask(names.EMBED_FACES_JOB, keys, ops, source.name, tags))

    def _backlog(self, engine: sa.Engine, source: str) -> int:
        if self._packs is None:
            return 0
        first, second = self._packs
        return embedding_backlog(engine, source, first, second) + tattoo_backlog(engine, source, first)

    def _take(self, process: RunProcess, message: ProgressMessage | RunResult) -> None:
        for source in self._sources:
            if process is source.refresh:
                if isinstance(message, RunResult):
                    source.refresh, source.refreshed, source.table_read = None, message, True
                elif message.asset != names.PERFORMER_TABLE.to_user_string():
                    source.table_read = True
            elif process is source.embedding and isinstance(message, RunResult):
                source.embedding = None
                source.embedded.append(message)

    def _announce(self, engine: sa.Engine, announce: Callable[[PartResult], None]) -> None:
        """Announces sources that are refreshed and have nothing left to embed."""
        for source in self._sources:
            if source.announced or source.refreshed is None or source.embedding is not None:
                continue
            if not source.embedded_last and self._backlog(engine, source.name):
                continue
            source.announced = _part(source.name, [source.refreshed, *source.embedded])
            announce(source.announced)


def _host(settings: Settings, name: str) -> str:
    """Host and port of a source: two sources of one host must share its rate limit, so they never run at once."""
    return urlsplit(settings.source(name).url).netloc.rpartition("@")[2].lower()


def _publish(runs: Runs, overrides: RunOverrides) -> PartResult:
    if not overrides.faces:
        return _only_run(runs, "identities", RunTask(names.PUBLISH_JOB, [names.IDENTITY_GRAPH]))
    ops: dict[str, dg.Config] = {
        names.TRUSTED_FACES.to_user_string(): TrustConfig(),
        names.INDICES_STEP: IndexConfig(fast=overrides.fast_index),
        names.RELEASE.to_user_string(): ReleaseConfig(accept_shrink=overrides.accept_shrink),
    }
    return _only_run(runs, names.PUBLISH_JOB, RunTask(names.PUBLISH_JOB, None, ops))


def _only_run(runs: Runs, name: str, task: RunTask) -> PartResult:
    process = runs.start(task)
    while True:
        for source, message in runs.messages():
            if source is process and isinstance(message, RunResult):
                return _part(name, [message])


def _part(name: str, runs: Sequence[RunResult]) -> PartResult:
    metadata: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        for asset, found in (run.metadata or {}).items():
            earlier = metadata.get(asset, {})
            # A source may be embedded by several runs.
            added = {name: earlier[name] + found[name] for name in _SUMMED if name in earlier}
            metadata[asset] = {**found, **added}
    reasons = [reason for run in runs for reason in run.reasons]
    done = all(run.status is RunStatus.DONE for run in runs)
    checks = [check for run in runs for check in run.failed_checks]
    return PartResult(
        name,
        Status.DONE if done else Status.FAILED,
        "; ".join(reasons),
        metadata,
        list(dict.fromkeys(checks)),
    )
