"""Building the Voyager file of one embedder from the stored vectors, always anew, with dense explicit ids."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import reading
from stash_sense_pipeline.errors import ReleaseError
from stash_sense_pipeline.files import replacing, sha256_file
from stash_sense_pipeline.progress import Progress
from stash_sense_pipeline.release.contract import INDEX_FILES, MANIFEST
from stash_sense_pipeline.release.order import FaceVectors, read_face_order, read_vectors
from stash_sense_pipeline.release.staging import Staging, disk_errors

_ROWS_A_BATCH = 5_000


class Storage(StrEnum):
    """How an index stores a number: 4 bytes, or one byte as 8-bit float or as fixed point."""

    FLOAT32 = "float32"
    E4M3 = "e4m3"
    FLOAT8 = "float8"


@dataclass(frozen=True)
class IndexParams:
    """Parameters of a build, named as in the HNSW paper. Only `threads=1` gives the same bytes in every run.

    The sidecar searches with a depth of 100 for 100 neighbours, so only more links (m) raise its recall: on 20,000
    synthetic faces 16/200 found 0.909 of the 100, 24/300 0.955, 32/400 0.975, 48/200 0.984, 64/300 0.990, and every
    one of them the nearest. 48 links cost 12 % of size over 16 and build faster than 32/400.
    """

    m: int = 48
    ef_construction: int = 200
    seed: int = 1
    storage: Storage = Storage.FLOAT32
    threads: int = 1

    @property
    def content(self) -> dict[str, Any]:
        """The parameters that decide what the index is, which the number of threads does not."""
        fields = asdict(self)
        del fields["threads"]
        return fields


@dataclass(frozen=True)
class IndexReport:
    """What was built; `input_digest` covers vectors, order and parameters, `order_digest` the order of faces only."""

    model: str
    file: str
    faces: int
    dimensions: int
    m: int
    ef_construction: int
    seed: int
    storage: str
    threads: int
    pack: str
    model_digest: str
    input_digest: str
    order_digest: str
    sha256: str
    size_bytes: int
    seconds: float
    reused: bool


def index_digest(vectors: FaceVectors, params: IndexParams) -> str:
    """SHA-256 over the vectors in order and the parameters: equal digests mean that the index need not be built again."""
    head = json.dumps(params.content, sort_keys=True)
    return hashlib.sha256(f"{head}\n{vectors.digest}".encode()).hexdigest()


def build_index(
    engine: sa.Engine,
    model: str,
    path: Path,
    params: IndexParams,
    *,
    reuse: Path | None = None,
    progress: Progress | None = None,
) -> IndexReport:
    """Writes the Cosine index of `model` over all trusted faces to `path`; position in face_order is the id.

    `reuse` is an earlier release: its file is taken over when it was built from the same vectors with the same
    parameters. `progress` is told after each batch. Raises ReleaseError when the vectors cannot make
    an index (see read_vectors) or the file cannot be written; `path` is then as it was.
    """
    begun = time.monotonic()
    with reading(engine) as connection:
        order = read_face_order(connection)
        vectors = read_vectors(connection, order, model)
    digest = index_digest(vectors, params)
    with disk_errors(f"write {path}"):
        reused = reuse is not None and _take_over(reuse, model, digest, params, path)
        if not reused:
            with replacing(path) as temporary:
                _write_index(vectors, params, temporary, progress)
        size, checksum = path.stat().st_size, sha256_file(path)
    return IndexReport(
        model=model,
        file=path.name,
        faces=len(order),
        dimensions=vectors.vectors.shape[1],
        m=params.m,
        ef_construction=params.ef_construction,
        seed=params.seed,
        storage=params.storage.value,
        threads=params.threads,
        pack=vectors.pack,
        model_digest=vectors.model_digest,
        input_digest=digest,
        order_digest=order.digest,
        sha256=checksum,
        size_bytes=size,
        seconds=time.monotonic() - begun,
        reused=reused,
    )


def stage_index(
    engine: sa.Engine,
    model: str,
    staging: Staging,
    params: IndexParams,
    *,
    reuse: Path | None = None,
    progress: Progress | None = None,
) -> IndexReport:
    """build_index into a staging directory under the contract's file name, with a note for assemble_release."""
    if model not in INDEX_FILES:
        raise ReleaseError(
            f"the contract has no index for embedder {model}; it knows {', '.join(INDEX_FILES)}"
        )
    path = staging.release / INDEX_FILES[model]
    report = build_index(engine, model, path, params, reuse=reuse, progress=progress)
    staging.write_part(f"index-{model}", asdict(report))
    return report


def _write_index(vectors: FaceVectors, params: IndexParams, path: Path, progress: Progress | None) -> None:
    import voyager

    storage = {
        Storage.FLOAT32: voyager.StorageDataType.Float32,
        Storage.E4M3: voyager.StorageDataType.E4M3,
        Storage.FLOAT8: voyager.StorageDataType.Float8,
    }[params.storage]
    count, dimensions = vectors.vectors.shape
    index = voyager.Index(
        voyager.Space.Cosine,
        num_dimensions=dimensions,
        M=params.m,
        ef_construction=params.ef_construction,
        random_seed=params.seed,
        max_elements=count,
        storage_data_type=storage,
    )
    for start in range(0, count, _ROWS_A_BATCH):
        stop = min(start + _ROWS_A_BATCH, count)
        index.add_items(vectors.vectors[start:stop], ids=range(start, stop), num_threads=params.threads)
        if progress is not None:
            progress("vectors", stop, count)
    if index.num_elements != count:
        raise ReleaseError(
            f"Voyager holds {index.num_elements} of {count} vectors after the build; nothing was kept"
        )
    # Given a path, Voyager does not notice when the disk is full; writing through Python raises.
    with path.open("wb") as stream:
        index.save(stream)


def _take_over(release: Path, model: str, digest: str, params: IndexParams, path: Path) -> bool:
    """Puts the earlier release's index at `path` when it is exactly what a build would give."""
    source = release / INDEX_FILES[model]
    try:
        manifest = json.loads((release / MANIFEST).read_text())
        made = manifest["indices"][model]
        same = made["input_digest"] == digest and made["threads"] == params.threads
        if not same or manifest["checksums"][source.name] != f"sha256:{sha256_file(source)}":
            return False
    except (OSError, ValueError, KeyError, TypeError):
        # No earlier release, or one of another make: then it is simply built.
        return False
    with replacing(path) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
    return True
