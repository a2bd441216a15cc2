"""Run configuration: what one run may set differently."""

from __future__ import annotations

import os
from enum import Enum
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

if TYPE_CHECKING:
    from stash_sense_pipeline.release.build.voyager_index import IndexParams
    from stash_sense_pipeline.settings.schema import IndexSettings


class SyncMode(Enum):
    """How performer_table reads its source."""

    AUTO = "auto"
    UPDATES_ONLY = "updates_only"
    FULL_SWEEP = "full_sweep"


class ReferenceMode(Enum):
    """How a reference site's profile of a performer is found."""

    AS_CONFIGURED = "as_configured"
    URL = "url"
    NAME = "name"


class IngestConfig(dg.Config):
    """One run of performer_table."""

    sync: SyncMode = Field(
        default=SyncMode.AUTO,
        description="auto: a first full read, later only changes, and a sweep when one is due; "
        "updates_only: only changes; full_sweep: compare every record with the source.",
    )
    reference_mode: ReferenceMode = Field(
        default=ReferenceMode.AS_CONFIGURED,
        description="Reference sites only: find profiles by the link a stash-box lists, or by name.",
    )


class FacesConfig(dg.Config):
    """One run of aligned_faces. Unset values come from sources.yaml."""

    max_faces: int | None = Field(
        default=None, ge=1, description="Limit of faces of one performer from this source."
    )
    completeness_threshold: int | None = Field(
        default=None,
        ge=1,
        description="A performer with this many faces is complete: only new images are processed.",
    )


class EmbeddingConfig(dg.Config):
    """One run of face_embeddings."""

    device: str | None = Field(
        default=None,
        description="cpu or cuda; unset: STASH_SENSE_DEVICE, else cpu. cuda without a GPU fails, without fallback.",
    )
    batch_size: int = Field(default=64, ge=1, description="Faces in one batch. A batch is one transaction.")


class TrustConfig(dg.Config):
    """One run of trusted_faces. Unset values come from sources.yaml."""

    max_faces_total: int | None = Field(
        default=None, ge=1, description="Limit of faces of one performer, from all sources."
    )
    source_max_faces: dict[str, int] = Field(
        default={}, description="Limit of faces of one performer, by source."
    )


class IndexConfig(dg.Config):
    """How Voyager indices are built; unset values come from sources.yaml.

    The release step must get the same values as the index step.
    """

    m: int | None = Field(default=None, ge=4, le=512, description="HNSW M: links of a node.")
    ef_construction: int | None = Field(
        default=None, ge=10, description="HNSW ef_construction: size of the candidate list while building."
    )
    fast: bool = Field(
        default=False,
        description="Use all cores for each index: faster, but two builds do not give the same bytes; the manifest says so.",
    )

    def params(self, defaults: IndexSettings) -> IndexParams:
        """The parameters with the values of sources.yaml, `defaults`, where none is set."""
        from stash_sense_pipeline.release.build.voyager_index import IndexParams, Storage

        return IndexParams(
            m=self.m or defaults.m,
            ef_construction=self.ef_construction or defaults.ef_construction,
            storage=Storage(defaults.storage),
            threads=(os.cpu_count() or 1) if self.fast else 1,
        )


class ReleaseConfig(IndexConfig):
    """One run of release."""

    accept_shrink: bool = Field(
        default=False,
        description="Publish although more performers or faces are missing without an explanation than sources.yaml allows.",
    )
