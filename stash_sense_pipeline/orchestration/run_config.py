"""Typed run configuration: what one run may set differently, in the Launchpad or through `stash-sense build`."""

from __future__ import annotations

from enum import Enum

import dagster as dg
from pydantic import Field


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
        default=None, ge=1, description="Most faces of one performer taken from this source."
    )
    completeness_threshold: int | None = Field(
        default=None, ge=1, description="A performer with this many faces is complete: only new images are looked at."
    )


class EmbeddingConfig(dg.Config):
    """One run of face_embeddings."""

    device: str = Field(default="cpu", description="cpu or cuda. cuda fails where there is none: it never falls back.")
    batch_size: int = Field(default=64, ge=1, description="Faces in one batch, which is also one transaction.")


class TrustConfig(dg.Config):
    """One run of trusted_faces. Unset values come from sources.yaml."""

    max_faces_total: int | None = Field(default=None, ge=1, description="Most faces of one performer, from all sources.")
    source_max_faces: dict[str, int] = Field(default={}, description="Most faces of one performer by source.")
