"""The sensors that pass work on: faces that wait are embedded, and what changed is published.

Both keep as cursor the storage id of the newest event they have acted on. The cursor moves when a run is requested, so
a run that fails is not requested again by its sensor; the nightly runs repair it. A level-triggered automation condition
would lose updates here or repeat failures without end.
"""

from __future__ import annotations

import json

import dagster as dg

from stash_sense_pipeline.orchestration import names

IN_FLIGHT = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def embed_when_refreshed() -> dg.SensorDefinition:
    """Requests embed_faces for each source whose aligned_faces was materialized since the last look."""

    @dg.sensor(
        name="embed_when_refreshed",
        job_name=names.EMBED_FACES_JOB,
        minimum_interval_seconds=60,
        description="Embed the faces of a source when new aligned faces have been collected from it.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        seen: dict[str, int] = json.loads(context.cursor) if context.cursor else {}
        newest = context.instance.get_latest_storage_id_by_partition(
            names.ALIGNED_FACES, dg.DagsterEventType.ASSET_MATERIALIZATION
        )
        news = {source: at for source, at in newest.items() if at > seen.get(source, 0)}
        if not news:
            return dg.SkipReason("no source has new aligned faces")
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    run_key=f"embed-{source}-{at}", partition_key=source, tags={names.EMBED_TAG: source}
                )
                for source, at in sorted(news.items())
            ],
            cursor=json.dumps({**seen, **news}, sort_keys=True),
        )

    return sensor


def publish_when_changed() -> dg.SensorDefinition:
    """Requests publish once when a source moved and no refresh or embedding is under way any more."""

    @dg.sensor(
        name="publish_when_changed",
        job_name=names.PUBLISH_JOB,
        minimum_interval_seconds=60,
        description="Publish when performers or embeddings changed and every refresh and embedding has ended.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        newest = max(
            (
                record.storage_id
                for key in (names.PERFORMER_TABLE, names.FACE_EMBEDDINGS)
                for record in context.instance.fetch_materializations(key, limit=1).records
            ),
            default=None,
        )
        if newest is None or newest <= int(context.cursor or 0):
            return dg.SkipReason("nothing new since the last publish")
        for job in (names.REFRESH_SOURCE_JOB, names.EMBED_FACES_JOB):
            in_flight = context.instance.get_runs_count(dg.RunsFilter(job_name=job, statuses=IN_FLIGHT))
            if in_flight:
                return dg.SkipReason(f"{in_flight} run(s) of {job} are still in flight")
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=f"publish-{newest}")], cursor=str(newest))

    return sensor
