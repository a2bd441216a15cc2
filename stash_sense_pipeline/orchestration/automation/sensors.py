"""The sensors: source changed, faces waiting, publish needed.

The cursor of each sensor records what it has requested runs for. It moves when a run is requested, so a sensor does not
request a failed run again; the nightly runs repair it. An automation condition would lose updates, or repeat a failing run
without end. While its runs cannot succeed (see `waiting`), a sensor skips with the reason and leaves its cursor, so that
it requests them once they can.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import dagster as dg

from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.automation.waiting import ready_sources, why_all_wait
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings
from stash_sense_pipeline.sources.source_polling import poll_sources

_EMBEDDING_BEGINS_WITHIN = 900.0

# A launcher takes seconds to start or end a run, and run monitoring (dagster.yaml) allows 300 s. A run that stays in
# such a state for longer was left by a crash.
_STATE_CHANGES_WITHIN = timedelta(minutes=15)
_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_BETWEEN_STATES = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.CANCELING,
]


def sensor_status(automation: bool) -> dg.DefaultSensorStatus:
    """Whether a sensor starts switched on. Once an operator switches it in the UI, that choice holds."""
    return dg.DefaultSensorStatus.RUNNING if automation else dg.DefaultSensorStatus.STOPPED


def stash_box_updates(settings: Settings, environment: Environment) -> dg.SensorDefinition:
    """Requests refresh_source for each stash-box with another newest UPDATED_AT than in the cursor."""

    @dg.sensor(
        name="stash_box_updates",
        job_name=names.REFRESH_SOURCE_JOB,
        minimum_interval_seconds=600,
        default_status=sensor_status(environment.automation),
        description="Refresh a stash-box when its newest UPDATED_AT has changed.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        if (waits := why_all_wait(environment)) is not None:
            return dg.SkipReason(waits)
        boxes = [source.name for source in settings.enabled if source.name in settings.stash_boxes]
        ready, reasons = ready_sources(settings, environment, boxes)
        seen = read_cursor(context, str)
        polls = asyncio.run(poll_sources(settings, environment, ready))
        problems = [*reasons, *(poll.problem for poll in polls if poll.problem)]
        for problem in problems:
            context.log.warning(problem)
        news = {
            poll.source: poll.token for poll in polls if poll.token and poll.token != seen.get(poll.source)
        }
        if not news:
            unchanged = ["no stash-box has changes"] if ready else []
            return dg.SkipReason("; ".join([*unchanged, *problems]) or "no stash-box is enabled")
        requests = []
        for source, token in news.items():
            key = f"{source}@{token} after {seen.get(source, 'nothing')}"
            requests.append(dg.RunRequest(run_key=key, partition_key=source, tags={names.SOURCE_TAG: source}))
        return dg.SensorResult(run_requests=requests, cursor=json.dumps({**seen, **news}, sort_keys=True))

    return sensor


def known_sources(context: dg.SensorEvaluationContext) -> Collection[str]:
    """The sources that have a partition now. Old events can name others, and Dagster refuses a run request for those."""
    repository = context.repository_def
    partitions = repository.asset_graph.get(names.ALIGNED_FACES).partitions_def if repository else None
    return frozenset(partitions.get_partition_keys()) if partitions else frozenset()


_V = TypeVar("_V", str, int)


def read_cursor(context: dg.SensorEvaluationContext, kind: type[_V]) -> dict[str, _V]:
    """The cursor of a sensor as a mapping of sources. Entries that cannot be read are left out.

    An older version or a person may have written the cursor. The run keys prevent a second run of an earlier request.
    """
    if not context.cursor:
        return {}
    try:
        found = json.loads(context.cursor)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        context.log.warning("the cursor of this sensor cannot be read; it starts empty")
        return {}
    return {name: value for name, value in found.items() if type(value) is kind}


def _sources_to_embed(instance: dg.DagsterInstance, sources: Collection[str]) -> list[str]:
    """Sources with new aligned faces that embed_when_refreshed has yet to request: publishing now would publish twice.

    After 15 minutes they no longer count: a failing embedding must not hold up the other sources.
    """
    newest = instance.fetch_materializations(names.ALIGNED_FACES, limit=1).records
    if not newest or time.time() - newest[0].timestamp > _EMBEDDING_BEGINS_WITHIN:
        return []
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION
    aligned = instance.get_latest_storage_id_by_partition(names.ALIGNED_FACES, kind)
    embedded = instance.get_latest_storage_id_by_partition(names.FACE_EMBEDDINGS, kind)
    return sorted(
        source
        for source, at in aligned.items()
        if source in sources and at > embedded.get(source, 0) and _has_waiting_faces(instance, source)
    )


def _has_waiting_faces(instance: dg.DagsterInstance, source: str) -> bool:
    """False when the newest aligned faces of a source left nothing to embed, or were embedded since. True when neither
    is recorded.
    """
    wanted = dg.AssetRecordsFilter(asset_key=names.ALIGNED_FACES, asset_partitions=[source])
    for record in instance.fetch_materializations(wanted, limit=1).records:
        materialization = record.asset_materialization
        metadata = materialization.metadata if materialization else {}
        counts = [metadata.get(name) for name in (names.WAITING_FACES, names.WAITING_TATTOOS)]
        nothing_waits = counts[0] is not None and all(count is None or count.value == 0 for count in counts)
        embedded = _succeeded_since(
            instance, names.EMBED_FACES_JOB, record.timestamp, {"dagster/partition": source}
        )
        return not nothing_waits and not embedded
    return True


def runs_in_flight(instance: dg.DagsterInstance, job: str) -> int:
    """The number of runs of a job that run or will run, without those that a crash left behind.

    A STARTED run counts until run monitoring finds that its worker ended. A run between two states counts while its state
    changed within 15 minutes. A QUEUED run counts in that time too, and while any run is active or has just ended: it
    may wait for that run.
    """
    since = datetime.now(UTC) - _STATE_CHANGES_WITHIN

    def count(
        statuses: list[dg.DagsterRunStatus], after: datetime | None = None, of: str | None = job
    ) -> int:
        return instance.get_runs_count(dg.RunsFilter(job_name=of, statuses=statuses, updated_after=after))

    moving = count([dg.DagsterRunStatus.STARTED]) + count(_BETWEEN_STATES, since)
    queue_moves = count([dg.DagsterRunStatus.STARTED], of=None) or count(
        [*_BETWEEN_STATES, *_ENDED], since, of=None
    )
    return moving + count([dg.DagsterRunStatus.QUEUED], None if queue_moves else since)


def _builds_in_flight(instance: dg.DagsterInstance) -> int:
    return sum(runs_in_flight(instance, job) for job in names.BUILD_JOBS)


def _succeeded_since(
    instance: dg.DagsterInstance, job: str, timestamp: float, tags: Mapping[str, str]
) -> bool:
    """True when the newest successful run of a job with these tags began after this time, as in a build."""
    wanted = dg.RunsFilter(job_name=job, tags=dict(tags), statuses=[dg.DagsterRunStatus.SUCCESS])
    return any(
        record.start_time is not None and record.start_time > timestamp
        for record in instance.get_run_records(wanted, limit=1)
    )


def embed_when_refreshed(environment: Environment) -> dg.SensorDefinition:
    """Requests embed_faces for each source with a materialization of aligned_faces since the last evaluation."""

    @dg.sensor(
        name="embed_when_refreshed",
        job_name=names.EMBED_FACES_JOB,
        minimum_interval_seconds=60,
        default_status=sensor_status(environment.automation),
        description="Embed the faces of a source when new aligned faces have been collected from it.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        seen, sources = read_cursor(context, int), known_sources(context)
        newest = context.instance.get_latest_storage_id_by_partition(
            names.ALIGNED_FACES, dg.DagsterEventType.ASSET_MATERIALIZATION
        )
        # Not "greater": in a new run history the ids start at 1 again.
        news = {source: at for source, at in newest.items() if source in sources and at != seen.get(source)}
        if not news:
            return dg.SkipReason("no source has new aligned faces")
        if _builds_in_flight(context.instance):
            return dg.SkipReason("a build is in progress, and embeds by itself")
        requests = [
            dg.RunRequest(
                run_key=f"embed-{source}-{at}", partition_key=source, tags={names.EMBED_TAG: source}
            )
            for source, at in sorted(news.items())
            if _has_waiting_faces(context.instance, source)
        ]
        cursor = json.dumps({**seen, **news}, sort_keys=True)
        if requests and (waits := why_all_wait(environment)) is not None:
            return dg.SkipReason(waits)
        if not requests:
            return dg.SensorResult(skip_reason="no refreshed source has faces to embed", cursor=cursor)
        return dg.SensorResult(run_requests=requests, cursor=cursor)

    return sensor


def publish_when_changed(environment: Environment) -> dg.SensorDefinition:
    """Requests publish once when performers or embeddings changed and no refresh or embedding is in flight."""

    @dg.sensor(
        name="publish_when_changed",
        job_name=names.PUBLISH_JOB,
        minimum_interval_seconds=60,
        default_status=sensor_status(environment.automation),
        description="Publish when performers or embeddings changed and every refresh and embedding has ended.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        records = [
            record
            for key in (names.PERFORMER_TABLE, names.FACE_EMBEDDINGS, names.TATTOO_EMBEDDINGS)
            for record in context.instance.fetch_materializations(key, limit=1).records
        ]
        newest = max((record.storage_id for record in records), default=None)
        if newest is None or str(newest) == context.cursor:
            return dg.SkipReason("nothing new since the last publish")
        changed = max(record.timestamp for record in records)
        if _succeeded_since(context.instance, names.PUBLISH_JOB, changed, {}):
            return dg.SensorResult(skip_reason="a build has published it", cursor=str(newest))
        for job in (*names.BUILD_JOBS, names.REFRESH_SOURCE_JOB, names.EMBED_FACES_JOB):
            in_flight = runs_in_flight(context.instance, job)
            if in_flight:
                return dg.SkipReason(f"{in_flight} run(s) of {job} are still in flight")
        waiting = _sources_to_embed(context.instance, known_sources(context))
        if waiting:
            return dg.SkipReason(f"new faces of {', '.join(waiting)} are about to be embedded")
        if (problem := why_all_wait(environment)) is not None:
            return dg.SkipReason(problem)
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=f"publish-{newest}")], cursor=str(newest))

    return sensor
