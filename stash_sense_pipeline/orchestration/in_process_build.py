"""Runs the jobs one after the other in this process, for `build` and `demo`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import dagster as dg

from stash_sense_pipeline.faces.models.model_packs import load_pack
from stash_sense_pipeline.faces.models.onnx_sessions import Device, require_device
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.files import holding_lock
from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.run_config import (
    EmbeddingConfig,
    FacesConfig,
    IndexConfig,
    IngestConfig,
    ReferenceMode,
    ReleaseConfig,
    SyncMode,
    TrustConfig,
)
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.run_overrides import RunOverrides, apply_overrides
from stash_sense_pipeline.settings.schema import Settings
from stash_sense_pipeline.sources.connections import unusable

# Without this the console repeats every Dagster event; the command prints its own summary.
_QUIET = {"console": {"config": {"log_level": "CRITICAL"}}}


class Status(StrEnum):
    """How one part of a build ended."""

    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class PartResult:
    """How one source, or `publish`, ended.

    `reason` is empty when it is done. `metadata` holds the metadata of its assets by asset name.
    """

    name: str
    status: Status
    reason: str
    metadata: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class BuildResult:
    """All parts of a build in the order in which they ran."""

    parts: Sequence[PartResult]

    @property
    def complete(self) -> bool:
        """True when every part is done: none was skipped, none failed."""
        return all(part.status is Status.DONE for part in self.parts)


@dataclass(frozen=True)
class Pipeline:
    """The code location `definitions`, the settings it was made for, and the `instance` that records its runs."""

    definitions: dg.Definitions
    instance: dg.DagsterInstance
    settings: Settings
    environment: Environment


@dataclass(frozen=True)
class _Run:
    """One run of a job: of `selection` only (None: all of the job), of one partition."""

    job: str
    selection: Sequence[dg.AssetKey] | None
    ops: Mapping[str, dg.Config]
    partition: str | None = None
    tags: Mapping[str, str] | None = None


def build(pipeline: Pipeline, overrides: RunOverrides, announce: Callable[[PartResult], None]) -> BuildResult:
    """Refreshes and embeds each enabled source, then publishes, with the jobs that the UI runs too.

    A source without a key is skipped. A source that fails does not stop the others. `announce` is called after each part.
    Nothing is published when no source was refreshed. While another build publishes, this one waits.

    Raises ConfigurationError when every source is skipped. Raises ModelPackError or DeviceError when faces are wanted and
    the pack or the GPU is missing. In these cases no request was made and nothing was written.
    """
    environment = pipeline.environment
    chosen = apply_overrides(pipeline.settings, overrides)
    problems = {source.name: unusable(chosen, environment, source.name) for source in chosen.enabled}
    if all(problems.values()):
        reasons = "; ".join(reason for reason in problems.values() if reason)
        raise ConfigurationError(f"no source can be asked: {reasons or 'none is enabled'}")
    if overrides.faces:
        # Both would fail after hours of fetching otherwise.
        load_pack(environment.model_pack, environment.models_dir)
        require_device(Device(environment.device))
    parts: list[PartResult] = []

    def add(part: PartResult) -> None:
        parts.append(part)
        announce(part)

    for source, problem in problems.items():
        if problem:
            add(PartResult(source, Status.SKIPPED, problem, {}))
        else:
            add(_refresh(pipeline, source, overrides))
    if any(part.status is Status.DONE for part in parts):
        # All publishing runs use the same staging directory.
        with holding_lock(environment.data_dir / ".publish.lock"):
            published = _publish(pipeline, overrides)
        add(published)
    return BuildResult(parts)


def _refresh(pipeline: Pipeline, source: str, overrides: RunOverrides) -> PartResult:
    ops: dict[str, dg.Config] = {names.PERFORMER_TABLE.to_user_string(): _ingest_config(overrides)}
    selection = [names.PERFORMER_TABLE]
    if overrides.faces:
        ops[names.ALIGNED_FACES.to_user_string()] = FacesConfig(
            max_faces=overrides.source_max_faces.get(source),
            completeness_threshold=overrides.completeness_threshold,
        )
        selection.append(names.ALIGNED_FACES)
    tags = {names.SOURCE_TAG: source}
    refreshed = _execute(pipeline, _Run(names.REFRESH_SOURCE_JOB, selection, ops, source, tags))
    if not refreshed.success or not overrides.faces:
        return _part(source, [refreshed])
    embedding = {names.FACE_EMBEDDINGS.to_user_string(): EmbeddingConfig()}
    tags = {names.EMBED_TAG: source}
    embedded = _execute(
        pipeline, _Run(names.EMBED_FACES_JOB, [names.FACE_EMBEDDINGS], embedding, source, tags)
    )
    return _part(source, [refreshed, embedded])


def _publish(pipeline: Pipeline, overrides: RunOverrides) -> PartResult:
    if not overrides.faces:
        result = _execute(pipeline, _Run(names.PUBLISH_JOB, [names.IDENTITY_GRAPH], {}))
        return _part("identities", [result])
    trust = TrustConfig(
        max_faces_total=overrides.max_faces_total, source_max_faces=dict(overrides.source_max_faces)
    )
    index = IndexConfig(fast=overrides.fast_index)
    ops: dict[str, dg.Config] = {
        names.TRUSTED_FACES.to_user_string(): trust,
        names.INDICES_STEP: index,
        names.RELEASE.to_user_string(): ReleaseConfig(
            fast=overrides.fast_index, accept_shrink=overrides.accept_shrink
        ),
    }
    return _part(names.PUBLISH_JOB, [_execute(pipeline, _Run(names.PUBLISH_JOB, None, ops))])


def _ingest_config(overrides: RunOverrides) -> IngestConfig:
    mode = (
        ReferenceMode(overrides.reference_mode) if overrides.reference_mode else ReferenceMode.AS_CONFIGURED
    )
    return IngestConfig(sync=SyncMode(overrides.sync), reference_mode=mode)


def _execute(pipeline: Pipeline, run: _Run) -> dg.ExecuteInProcessResult:
    return pipeline.definitions.resolve_job_def(run.job).execute_in_process(
        run_config=dg.RunConfig(ops=dict(run.ops), loggers=_QUIET),
        instance=pipeline.instance,
        partition_key=run.partition,
        raise_on_error=False,
        asset_selection=run.selection,
        tags=run.tags,
    )


def _part(name: str, runs: Sequence[dg.ExecuteInProcessResult]) -> PartResult:
    metadata = {
        event.asset_key.to_user_string(): {
            key: value.value for key, value in event.materialization.metadata.items()
        }
        for run in runs
        for event in run.all_events
        if event.is_step_materialization and event.asset_key is not None
    }
    reasons = [reason for run in runs for reason in _failures(run)]
    failed = not all(run.success for run in runs)
    return PartResult(name, Status.FAILED if failed else Status.DONE, "; ".join(reasons), metadata)


def _failures(run: dg.ExecuteInProcessResult) -> Iterator[str]:
    for event in run.all_events:
        if not event.is_step_failure:
            continue
        failure = event.step_failure_data
        if failure.user_failure_data is not None and failure.user_failure_data.description:
            yield failure.user_failure_data.description
        elif failure.error is not None:
            yield failure.error.message.strip().split("\n")[0]
