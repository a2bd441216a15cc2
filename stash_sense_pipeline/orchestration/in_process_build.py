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

# The console would repeat every Dagster event; the command line prints its own summary.
_QUIET = {"console": {"config": {"log_level": "CRITICAL"}}}


class Status(StrEnum):
    """How one part of a build ended."""

    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class PartResult:
    """One source, or `publish`: how it ended, why (empty when done), and the metadata of its assets by asset name."""

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
        """True if everything that was asked for was done."""
        return all(part.status is Status.DONE for part in self.parts)


def build(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    settings: Settings,
    environment: Environment,
    overrides: RunOverrides,
    announce: Callable[[PartResult], None],
) -> BuildResult:
    """Refreshes and embeds each enabled source, then publishes, by the jobs of `definitions` recorded in `instance`.

    A source without a key is skipped and one that fails does not stop the others; `announce` is called after each part.
    Nothing is published when no source could be refreshed. While another build publishes, this one waits.

    Raises ConfigurationError when no source is left to ask, and ModelPackError or DeviceError when faces are wanted and
    the pack or the GPU is not there: nothing has been asked or written then.
    """
    chosen = apply_overrides(settings, overrides)
    problems = {source.name: unusable(chosen, environment, source.name) for source in chosen.enabled}
    if all(problems.values()):
        reasons = "; ".join(reason for reason in problems.values() if reason)
        raise ConfigurationError(f"no source can be asked: {reasons or 'none is enabled'}")
    if overrides.faces:
        # Said now, and not after hours of fetching.
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
            add(_refresh(definitions, instance, source, overrides))
    if any(part.status is Status.DONE for part in parts):
        # What the steps of a release make is in one place, for one of them at a time.
        with holding_lock(environment.data_dir / ".publish.lock"):
            published = _publish(definitions, instance, overrides)
        add(published)
    return BuildResult(parts)


def _refresh(
    definitions: dg.Definitions, instance: dg.DagsterInstance, source: str, overrides: RunOverrides
) -> PartResult:
    ops: dict[str, dg.Config] = {names.PERFORMER_TABLE.to_user_string(): _ingest_config(overrides)}
    selection = [names.PERFORMER_TABLE]
    if overrides.faces:
        ops[names.ALIGNED_FACES.to_user_string()] = FacesConfig(
            max_faces=overrides.source_max_faces.get(source),
            completeness_threshold=overrides.completeness_threshold,
        )
        selection.append(names.ALIGNED_FACES)
    tags = {names.SOURCE_TAG: source}
    refreshed = _run(definitions, instance, names.REFRESH_SOURCE_JOB, selection, ops, source, tags)
    if not refreshed.success or not overrides.faces:
        return _part(source, [refreshed])
    embedding = {names.FACE_EMBEDDINGS.to_user_string(): EmbeddingConfig()}
    tags = {names.EMBED_TAG: source}
    embedded = _run(
        definitions, instance, names.EMBED_FACES_JOB, [names.FACE_EMBEDDINGS], embedding, source, tags
    )
    return _part(source, [refreshed, embedded])


def _publish(
    definitions: dg.Definitions, instance: dg.DagsterInstance, overrides: RunOverrides
) -> PartResult:
    if not overrides.faces:
        run = _run(definitions, instance, names.PUBLISH_JOB, [names.IDENTITY_GRAPH], {})
        return _part("identities", [run])
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
    run = _run(definitions, instance, names.PUBLISH_JOB, None, ops)
    return _part(names.PUBLISH_JOB, [run])


def _ingest_config(overrides: RunOverrides) -> IngestConfig:
    mode = (
        ReferenceMode(overrides.reference_mode) if overrides.reference_mode else ReferenceMode.AS_CONFIGURED
    )
    return IngestConfig(sync=SyncMode(overrides.sync), reference_mode=mode)


def _run(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    job: str,
    selection: Sequence[dg.AssetKey] | None,
    ops: Mapping[str, dg.Config],
    partition: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> dg.ExecuteInProcessResult:
    return definitions.resolve_job_def(job).execute_in_process(
        run_config=dg.RunConfig(ops=dict(ops), loggers=_QUIET),
        instance=instance,
        partition_key=partition,
        raise_on_error=False,
        asset_selection=selection,
        tags=tags,
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
