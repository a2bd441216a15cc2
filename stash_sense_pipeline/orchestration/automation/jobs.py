"""The three jobs: refresh a source, embed, publish.

Partitioned and unpartitioned assets never share a job: `build_job` has the job that starts all three. A fourth job runs one
asset check alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from stash_sense_pipeline.orchestration import names

if TYPE_CHECKING:
    from stash_sense_pipeline.orchestration.dagster_private import UnresolvedAssetJobDefinition

REFRESH_SELECTION = dg.AssetSelection.assets(names.PERFORMER_TABLE, names.ALIGNED_FACES)


def embed_keys(*, tattoos: bool) -> list[dg.AssetKey]:
    """The assets of a job that embeds one source."""
    return [names.FACE_EMBEDDINGS, names.TATTOO_EMBEDDINGS] if tattoos else [names.FACE_EMBEDDINGS]


def publish_selection(
    index_keys: Sequence[dg.AssetKey], *, upload: bool, sense2: Sequence[dg.AssetKey]
) -> dg.AssetSelection:
    """All unpartitioned assets: identities, trusted faces, the indices, the database, the release, its upload, `sense2`."""
    uploads = [names.GITHUB_RELEASE] if upload else []
    return dg.AssetSelection.assets(
        names.IDENTITY_GRAPH,
        names.TRUSTED_FACES,
        *index_keys,
        names.PERFORMERS_DB,
        names.RELEASE,
        *uploads,
        *sense2,
    )


def refresh_source_job() -> UnresolvedAssetJobDefinition:
    """Reads the performers of one source and collects the faces of their new images. Network-bound; needs no GPU."""
    return dg.define_asset_job(
        names.REFRESH_SOURCE_JOB,
        selection=REFRESH_SELECTION,
        description="Read what is new at one source and collect aligned faces from its new images.",
    )


def embed_faces_job(*, tattoos: bool) -> UnresolvedAssetJobDefinition:
    """Embeds what waits of one source, with `tattoos` the tattoos too: a short job, on the GPU if the device is cuda."""
    return dg.define_asset_job(
        names.EMBED_FACES_JOB,
        selection=dg.AssetSelection.assets(*embed_keys(tattoos=tattoos)),
        description="Embed the aligned faces of one source that have no embedding.",
    )


def publish_job(
    index_keys: Sequence[dg.AssetKey], *, upload: bool, sense2: Sequence[dg.AssetKey] = ()
) -> UnresolvedAssetJobDefinition:
    """Joins all sources and makes a release, if anything changed since the last one. `sense2`: assets of sense2 releases."""
    return dg.define_asset_job(
        names.PUBLISH_JOB,
        selection=publish_selection(index_keys, upload=upload, sense2=sense2),
        description="Join all sources into identities and publish a release, if anything changed.",
    )


def check_freshness_job() -> UnresolvedAssetJobDefinition:
    """Runs the check sources_fresh and materializes nothing."""
    check = dg.AssetCheckKey(names.IDENTITY_GRAPH, names.SOURCES_FRESH_CHECK)
    return dg.define_asset_job(
        names.CHECK_FRESHNESS_JOB,
        selection=dg.AssetSelection.checks(check),
        description="Check that every enabled source was read lately.",
    )
