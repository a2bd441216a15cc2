"""The parameters of an index: the links and storage that give the required recall at the least size.

Not part of `make bench`, because one build takes minutes: `python -m stash_sense_pipeline_tests.bench.index_corner
FACES M/EF_CONSTRUCTION/STORAGE ...` prints a row for each. docs/release.md has the table that the defaults come from.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from stash_sense_pipeline.release.build.face_order import normalised
from stash_sense_pipeline.release.build.voyager_index import IndexParams, Storage, write_index
from stash_sense_pipeline.release.checks.retrieval import ask_index, index_recall, load_index

PHOTOS_EACH = 3.4


def manifold(faces: int, seed: int = 1) -> np.ndarray:
    """Unit vectors (faces, 512) like those of face embedders: photos of people on a curved surface of few dimensions.

    They are random Fourier features of 16 hidden numbers of a person and 8 of a photo, with noise. Photos of one person
    have a mean cosine of 0.57, photos of two people one of 0.06 ± 0.07. The 20 nearest neighbours of a face have an
    intrinsic dimension of about 18 (by maximum likelihood). For face embeddings 9 to 16 are published (Gong, Boddeti,
    Jain, arXiv 1803.09672).
    """
    rng = np.random.default_rng(seed)
    people = max(1, int(faces / PHOTOS_EACH))
    owners = np.sort(rng.integers(0, people, faces))
    hidden = np.concatenate(
        [
            rng.standard_normal((people, 16), dtype=np.float32)[owners] * 0.4,
            rng.standard_normal((faces, 8), dtype=np.float32) * 0.25,
        ],
        axis=1,
    )
    directions = rng.standard_normal((24, 512), dtype=np.float32)
    phases = rng.uniform(0, 2 * np.pi, 512).astype(np.float32)
    vectors = normalised(np.cos(hidden @ directions + phases))
    vectors += rng.standard_normal(vectors.shape, dtype=np.float32) * np.float32(0.3 / 512**0.5)
    return normalised(vectors)


def row(vectors: np.ndarray, m: int, ef_construction: int, storage: Storage, threads: int) -> str:
    """One build, its size, and its recall at the sidecar's k over 1000 faces."""
    params = IndexParams(m=m, ef_construction=ef_construction, storage=storage, threads=threads)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "a.voy"
        begun = time.monotonic()
        write_index([vectors], vectors.shape, params, path)
        seconds = time.monotonic() - begun
        report = index_recall("a", ask_index(load_index(path), vectors, threads=threads), vectors)
        size = path.stat().st_size / len(vectors)
    return (
        f"{len(vectors):>7} {m:>4} {ef_construction:>4} {storage.value:<8} {seconds:>7.0f} s {size:>6.0f} B "
        f"recall@1 {report.at_1:.4f} recall@100 {report.at_k:.4f} itself {report.itself:.4f}"
    )


def main(faces: int, corners: list[str]) -> None:
    """Prints a row for each `M/EF_CONSTRUCTION/STORAGE`. Two threads build the index, which hardly changes the recall."""
    vectors = manifold(faces)
    for corner in corners:
        m, ef_construction, storage = corner.split("/")
        print(row(vectors, int(m), int(ef_construction), Storage(storage), threads=2), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
