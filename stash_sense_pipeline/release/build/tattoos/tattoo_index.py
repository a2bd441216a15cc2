"""Writes tattoo_embeddings.voy and tattoo_embeddings.json."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.queries.tattoos.released import TattooRow, tattoo_vectors
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.files import (
    replacing,
    sha256_file,
    write_atomically,
)
from stash_sense_pipeline.release.build.face_order import lengths, start_digest
from stash_sense_pipeline.release.build.json_files import stable_json
from stash_sense_pipeline.release.build.manifest import reuse_published
from stash_sense_pipeline.release.build.staging import Staging, disk_errors
from stash_sense_pipeline.release.build.tattoos.tattoo_rows import ReleasedTattoos, TattooSpec, read_tattoos
from stash_sense_pipeline.release.build.voyager_index import (
    IndexParams,
    IndexReport,
    IndexVectors,
    index_digest,
    write_index,
)
from stash_sense_pipeline.release.contract import (
    TATTOO,
    TATTOO_DIMENSIONS,
    TATTOO_INDEX,
    TATTOO_JSON,
)

# 20 MB of vectors.
_ROWS_A_BLOCK = 4_000


@dataclass(frozen=True)
class TattooVectors:
    """The tattoos of a release and their unit vectors (n, 1280) by position in the tattoo index.

    `digest`: SHA-256 of the model's digest, the shape and the vectors.
    """

    tattoos: ReleasedTattoos
    unit: NDArray[np.float32]
    digest: str

    @property
    def owners(self) -> NDArray[np.int64]:
        """The performer of each entry."""
        return np.array([entry.performer_id for entry in self.tattoos.entries], dtype=np.int64)

    @property
    def face_ids(self) -> NDArray[np.int64]:
        """The face of each entry's picture."""
        return np.array([entry.face_id for entry in self.tattoos.entries], dtype=np.int64)


def load_tattoos(engine: sa.Engine, spec: TattooSpec | None) -> TattooVectors:
    """The tattoos of a release with their vectors, 5 KB each. Without vectors when the release has no tattoos.

    Raises ReleaseError when a vector is not finite, is zero, or has another length than the sidecar's.
    """
    with reading(engine) as connection:
        tattoos = read_tattoos(connection, spec)
        if spec is None or tattoos.left_out is not None:
            return TattooVectors(tattoos, np.empty((0, TATTOO_DIMENSIONS), dtype=np.float32), "")
        unit = np.empty((len(tattoos.entries), TATTOO_DIMENSIONS), dtype=np.float32)
        state = start_digest(spec.pack, spec.models.embedder, *unit.shape)
        for start in range(0, len(unit), _ROWS_A_BLOCK):
            block = _block(connection, spec, tattoos.entries[start : start + _ROWS_A_BLOCK])
            state.update(block.astype("<f4", copy=False).data)
            unit[start : start + len(block)] = block / lengths(block)[:, None]
    return TattooVectors(tattoos, unit, state.hexdigest())


def _block(
    connection: sa.Connection, spec: TattooSpec, entries: tuple[TattooRow, ...]
) -> NDArray[np.float32]:
    found = tattoo_vectors(connection, spec.models.embedder, [entry.tattoo_id for entry in entries])
    rows = np.empty((len(entries), TATTOO_DIMENSIONS), dtype=np.float32)
    for place, entry in enumerate(entries):
        vector = found.get(entry.tattoo_id)
        if vector is None:
            raise ReleaseError("the embeddings of tattoos changed while they were read; run publish again")
        if len(vector) != TATTOO_DIMENSIONS:
            raise ReleaseError(
                f"the vector of tattoo {entry.tattoo_id} has {len(vector)} numbers, and the sidecar needs "
                f"{TATTOO_DIMENSIONS}; use another model pack, or set faces.tattoos to false"
            )
        rows[place] = vector
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    wrong = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if len(wrong):
        raise ReleaseError(
            f"the vector of tattoo {entries[wrong[0]].tattoo_id} is not finite or is zero; embed that tattoo again"
        )
    return rows


def stage_tattoos(
    vectors: TattooVectors, params: IndexParams, staging: Staging, spec: TattooSpec, latest: Path | None
) -> IndexReport | None:
    """Writes the tattoo index of one flavour into a staging directory, and its report for assemble_release.

    Nothing is written when the release has no tattoos. `latest`: an earlier release of the flavour, of which an equal
    index is used again.
    """
    path = staging.release / TATTOO_INDEX
    if vectors.tattoos.left_out is not None:
        return None
    begun = time.monotonic()
    # No check measures what a graph along few axes would lose here.
    params = replace(params, graph_dimensions=None)
    digest = index_digest(vectors.digest, params)
    with disk_errors(f"write {path}"):
        reused = latest is not None and reuse_published(latest, TATTOO, digest, params.threads, path)
        if not reused:
            with replacing(path) as temporary:
                write_index(IndexVectors(lambda: [vectors.unit], vectors.unit.shape), params, temporary)
        size, checksum = path.stat().st_size, sha256_file(path)
    report = IndexReport(
        model=TATTOO,
        file=path.name,
        faces=len(vectors.unit),
        dimensions=TATTOO_DIMENSIONS,
        m=params.m,
        ef_construction=params.ef_construction,
        seed=params.seed,
        storage=params.storage.value,
        threads=params.threads,
        pack=spec.pack,
        model_digest=spec.models.embedder,
        input_digest=digest,
        order_digest=vectors.tattoos.digest or "",
        sha256=checksum,
        size_bytes=size,
        seconds=time.monotonic() - begun,
        reused=reused,
    )
    staging.write_part(TATTOO, asdict(report))
    return report


def write_tattoo_json(release: Path, vectors: TattooVectors, named: Mapping[int, str]) -> None:
    """Writes tattoo_embeddings.json: position = id in the index, value = the universal id of the performer.

    `named`: universal ids by performer id.
    """
    entries = [{"universal_id": named[performer_id]} for performer_id in vectors.owners.tolist()]
    with disk_errors(f"write {TATTOO_JSON} in {release}"):
        write_atomically(release / TATTOO_JSON, stable_json(entries))
