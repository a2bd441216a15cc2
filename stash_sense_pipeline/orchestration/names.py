"""Names that several modules use: asset keys, groups, jobs, tags, pools."""

from __future__ import annotations

from enum import StrEnum

import dagster as dg

PERFORMER_TABLE = dg.AssetKey("performer_table")
ALIGNED_FACES = dg.AssetKey("aligned_faces")
FACE_EMBEDDINGS = dg.AssetKey("face_embeddings")
TATTOO_EMBEDDINGS = dg.AssetKey("tattoo_embeddings")
IDENTITY_GRAPH = dg.AssetKey("identity_graph")
TRUSTED_FACES = dg.AssetKey("trusted_faces")
PERFORMERS_DB = dg.AssetKey("performers_db")
RELEASE = dg.AssetKey("release")
GITHUB_RELEASE = dg.AssetKey("github_release")
SENSE2_RELEASE = dg.AssetKey("sense2_release")
GITHUB_SENSE2_RELEASE = dg.AssetKey("github_sense2_release")

# The name of the code location in every workspace of this project.
CODE_LOCATION = "stash_sense"

# Metadata of aligned_faces: faces of the source that wait for an embedding.
WAITING_FACES = "faces_waiting"

# Metadata of aligned_faces: tattoos of the source that wait for an embedding.
WAITING_TATTOOS = "tattoos_waiting"

# The step that builds all indices; their run configuration is that of this step.
INDICES_STEP = "indices"

REFRESH_SOURCE_JOB = "refresh_source"
EMBED_FACES_JOB = "embed_faces"
PUBLISH_JOB = "publish"
BUILD_JOB = "build_everything"
FULL_SWEEP_JOB = "full_sweep"
PUBLISH_NOW_JOB = "publish_now"
BUILD_JOBS = (BUILD_JOB, FULL_SWEEP_JOB, PUBLISH_NOW_JOB)
# The step of these jobs; their run configuration is that of this step.
BUILD_STEP = "build"
CHECK_FRESHNESS_JOB = "check_freshness"
SOURCES_FRESH_CHECK = "sources_fresh"

# Refreshes of one source never overlap, nor do its embeddings: dagster.yaml limits each tag to one run for each value.
# Two tags, because faces are embedded while their source is still being fetched.
SOURCE_TAG = "source"
EMBED_TAG = "embed"
# The runs of a build from the UI: the id of the run that submitted them.
BUILD_TAG = "build"
# The pool limits concurrent GPU steps; in containers it is also the request for a device.
GPU_POOL = "gpu"
K8S_GPU = {"container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}}
OWNERS = ["team:stash-sense"]


class Group(StrEnum):
    """The boxes of the collapsed lineage page, in the order of the flow."""

    INGEST = "ingest"
    FACES = "faces"
    IDENTITY = "identity"
    INDEX = "index"
    RELEASE = "release"


def index_key(embedder: str) -> dg.AssetKey:
    """Asset key of the Voyager index of an embedder: `facenet` → `facenet_index`."""
    return dg.AssetKey(f"{embedder}_index")
