"""Run configuration: which of the run options a step of Dagster takes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import dagster as dg
from pydantic import Field

from stash_sense_pipeline.settings.run_options import RUN_OPTIONS

if TYPE_CHECKING:
    from stash_sense_pipeline.release.index_choice import IndexPlan
    from stash_sense_pipeline.settings.schema import ExportSettings


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


def _option(name: str) -> Any:
    """The field of an option, with the default, the limit and the description that `run_options.py` declares."""
    option = RUN_OPTIONS[name]
    default = dict(option.default) if isinstance(option.default, Mapping) else option.default
    return Field(default=default, ge=option.least, description=option.help)


class IngestConfig(dg.Config):
    """One run of performer_table."""

    sync: SyncMode = Field(default=SyncMode.AUTO, description=RUN_OPTIONS["sync"].help)
    reference_mode: ReferenceMode = Field(
        default=ReferenceMode.AS_CONFIGURED, description=RUN_OPTIONS["reference_mode"].help
    )
    max_performers: int | None = _option("max_performers")


class FacesConfig(dg.Config):
    """One run of aligned_faces. Unset values come from sources.yaml."""

    max_faces: int | None = _option("max_faces")
    max_faces_total: int | None = _option("max_faces_total")
    completeness_threshold: int | None = _option("completeness_threshold")
    max_images: int | None = _option("max_images")


class EmbeddingConfig(dg.Config):
    """One run of face_embeddings."""

    device: str | None = _option("device")
    batch_size: int = _option("batch_size")


class TrustConfig(dg.Config):
    """One run of trusted_faces. Unset values come from sources.yaml."""

    max_faces_total: int | None = _option("max_faces_total")
    source_max_faces: dict[str, int] = _option("source_max_faces")


class IndexShape(dg.Config):
    """What decides the content of Voyager indices; unset values come from sources.yaml.

    The release step must get the same values as the index step.
    """

    m: Annotated[int, Field(le=512)] | None = _option("m")
    ef_construction: int | None = _option("ef_construction")

    def plan(
        self,
        models: Sequence[str],
        export: ExportSettings,
        latest: Path | None,
        faces: int,
        *,
        threads: int = 1,
    ) -> IndexPlan:
        """The plan for these embedders, with the values of sources.yaml, `export`, where none is set.

        Without any value the parameters are those that the newest release found to be enough, or cheap ones for this
        number of faces.
        """
        from stash_sense_pipeline.release.build.voyager_index import IndexParams, Storage
        from stash_sense_pipeline.release.contract import Flavour
        from stash_sense_pipeline.release.index_choice import Corner, IndexPlan, plan_indices

        wanted = IndexParams(storage=Storage(export.index.storage), threads=threads)
        m = self.m or export.index.m
        ef_construction = self.ef_construction or export.index.ef_construction
        pinned = m is not None or ef_construction is not None
        corner = Corner(m or wanted.m, ef_construction or wanted.ef_construction) if pinned else None
        flavours = tuple(Flavour(name) for name in export.flavours)
        plan = IndexPlan(
            tuple(models), flavours, wanted, not pinned, export.min_answer_fidelity, export.min_recall_at_1
        )
        return plan_indices(plan, corner, latest, faces)


class IndexConfig(IndexShape):
    """How Voyager indices are built."""

    fast: bool = _option("fast_index")

    @property
    def threads(self) -> int:
        """The number of threads that build one index."""
        return (os.cpu_count() or 1) if self.fast else 1


class ReleaseConfig(IndexShape):
    """One run of release."""

    accept_shrink: bool = _option("accept_shrink")
