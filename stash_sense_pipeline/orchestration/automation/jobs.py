"""The three jobs: refresh a source, embed, publish.

Partitioned and unpartitioned assets never share a job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from stash_sense_pipeline.orchestration import names

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

REFRESH_SELECTION = dg.AssetSelection.assets(names.PERFORMER_TABLE, names.ALIGNED_FACES)
EMBED_SELECTION = dg.AssetSelection.assets(names.FACE_EMBEDDINGS)


def publish_selection(index_keys: Sequence[dg.AssetKey], *, upload: bool) -> dg.AssetSelection:
    """Everything after the sources: identities, trusted faces, the indices, the database, the release, its upload."""
    uploads = [names.GITHUB_RELEASE] if upload else []
    return dg.AssetSelection.assets(
        names.IDENTITY_GRAPH, names.TRUSTED_FACES, *index_keys, names.PERFORMERS_DB, names.RELEASE, *uploads
    )


def refresh_source_job() -> UnresolvedAssetJobDefinition:
    """Reads one source's performers and collects the faces of their new images. Network-bound; needs no GPU."""
    return dg.define_asset_job(
        names.REFRESH_SOURCE_JOB,
        selection=REFRESH_SELECTION,
        description="Read what is new at one source and collect aligned faces from its new images.",
    )


def embed_faces_job() -> UnresolvedAssetJobDefinition:
    """Works off the aligned faces of one source that wait for an embedding: a short job, on the GPU where there is one."""
    return dg.define_asset_job(
        names.EMBED_FACES_JOB,
        selection=EMBED_SELECTION,
        description="Embed the aligned faces of one source that wait for it.",
    )


def publish_job(index_keys: Sequence[dg.AssetKey], *, upload: bool) -> UnresolvedAssetJobDefinition:
    """Joins all sources and makes a release, if anything changed since the last one."""
    return dg.define_asset_job(
        names.PUBLISH_JOB,
        selection=publish_selection(index_keys, upload=upload),
        description="Join all sources into identities and publish a release, if anything changed.",
    )
