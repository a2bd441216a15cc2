"""The parameters of an index: the links and storage that give the required recall at the least size.

Not part of `make bench`, because one build takes minutes: `python -m stash_sense_pipeline_tests.bench.index_corner
usual 100000 32/60/128 96/600` builds the indices of two embedders with each M/EF_CONSTRUCTION, the first along 128 main
axes, and prints a row of the table in docs/release.md for each. `128/60/128/exact` completes the links by an exact search.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stash_sense_pipeline.release.build.face_order import normalised
from stash_sense_pipeline.release.build.graph.axes import SampledRows, main_axes
from stash_sense_pipeline.release.build.graph.exact_search import exact_neighbours, sample_positions
from stash_sense_pipeline.release.build.voyager_index import IndexParams, IndexVectors, write_index
from stash_sense_pipeline.release.checks.accuracy.answer_fidelity import Neighbours, answer_fidelity
from stash_sense_pipeline.release.checks.accuracy.left_out import PROBES
from stash_sense_pipeline.release.checks.retrieval import RecallReport, ask_index, index_recall, load_index
from stash_sense_pipeline.release.contract import REQUIRED_MODELS, SIDECAR_K

PHOTOS_EACH = 3.4


@dataclass(frozen=True)
class Spread:
    """The hidden numbers of a person and of a photo. More of them spread the neighbours of a face over more directions."""

    person: int
    photo: int


SPREADS = {"easy": Spread(8, 4), "usual": Spread(16, 8), "hard": Spread(32, 16)}


def owners_of(faces: int) -> np.ndarray:
    """The people (faces,) of photos in release order, by number from 0: PHOTOS_EACH on average."""
    return np.sort(np.random.default_rng(3).integers(0, max(1, int(faces / PHOTOS_EACH)), faces))


def manifold(owners: np.ndarray, seed: int = 1, spread: str = "usual") -> np.ndarray:
    """Unit vectors (faces, 512) like those of face embedders: photos of people on a curved surface of few dimensions.

    `owners` (faces,): the people of the photos, by number. `seed`: of the embedder. Two embedders find other people alike.
    The vectors are random Fourier features of hidden numbers of a person and of a photo, with noise. Usual photos of one
    person have a mean cosine of 0.57, photos of two people one of 0.06 ± 0.07. The 20 nearest neighbours of a face have an
    intrinsic dimension of about 18 (by maximum likelihood). For face embeddings 9 to 16 are published (Gong, Boddeti,
    Jain, arXiv 1803.09672).
    """
    rng = np.random.default_rng(seed)
    people, faces, hidden_of = int(owners.max()) + 1, len(owners), SPREADS[spread]
    hidden = np.concatenate(
        [
            rng.standard_normal((people, hidden_of.person), dtype=np.float32)[owners] * 0.4,
            rng.standard_normal((faces, hidden_of.photo), dtype=np.float32) * 0.25,
        ],
        axis=1,
    )
    directions = rng.standard_normal((hidden.shape[1], 512), dtype=np.float32)
    phases = rng.uniform(0, 2 * np.pi, 512).astype(np.float32)
    vectors = normalised(np.cos(hidden @ directions + phases))
    vectors += rng.standard_normal(vectors.shape, dtype=np.float32) * np.float32(0.3 / 512**0.5)
    return normalised(vectors)


@dataclass(frozen=True)
class _Asked:
    """The answers of exact search and of an index to the probes, its recall, and its bytes a face."""

    exact: Neighbours
    indexed: Neighbours
    recall: RecallReport
    size: float


def _build(vectors: np.ndarray, owners: np.ndarray, params: IndexParams, path: Path) -> None:
    axes = None
    if params.graph_dimensions is not None:
        sample = SampledRows(len(vectors))
        sample.add(0, vectors)
        axes = main_axes(sample.rows(), params.graph_dimensions)
    blocks = [vectors[start : start + 5_000] for start in range(0, len(vectors), 5_000)]
    write_index(IndexVectors(lambda: blocks, vectors.shape, axes, owners), params, path)


def _ask(vectors: np.ndarray, path: Path) -> _Asked:
    probes = sample_positions(len(vectors), PROBES)
    ids, similar = exact_neighbours(vectors[probes], vectors, SIDECAR_K)
    answers = ask_index(load_index(path), vectors, probes)
    recall = index_recall(path.stem, answers, vectors, similar)
    return _Asked(
        Neighbours(ids, 1 - similar),
        Neighbours(answers.ids, answers.distances),
        recall,
        path.stat().st_size / len(vectors),
    )


def row(tables: Sequence[np.ndarray], owners: np.ndarray, params: IndexParams) -> str:
    """Both indices of a release, built side by side: processor time, size, recall and answer fidelity."""
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory) / f"{model}.voy" for model in REQUIRED_MODELS]
        begun, used = time.monotonic(), time.process_time()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda table, path: _build(table, owners, params, path), tables, paths))
        seconds, used = time.monotonic() - begun, time.process_time() - used
        asked = dict(zip(REQUIRED_MODELS, map(_ask, tables, paths), strict=True))
    fidelity = answer_fidelity(
        owners,
        sample_positions(len(owners), PROBES),
        {model: each.exact for model, each in asked.items()},
        {model: each.indexed for model, each in asked.items()},
    )
    recalls = [each.recall for each in asked.values()]
    return (
        f"| {params.m} | {params.ef_construction} | {params.graph_dimensions or 'all'}{', exact' * params.exact_links} "
        f"| {max(each.size for each in asked.values()):,.0f} | {used:,.0f} s | {seconds:,.0f} s "
        f"| {min(each.at_1 for each in recalls):.4f} | {min(each.at_k for each in recalls):.3f} "
        f"| {min(each.in_reach for each in recalls):.4f} | {fidelity.share:.4f} |"
    )


def main(spread: str, faces: int, corners: list[str]) -> None:
    """Prints a row for each `M/EF_CONSTRUCTION`, `M/EF_CONSTRUCTION/AXES` or `M/EF_CONSTRUCTION/AXES/exact`."""
    owners = owners_of(faces)
    tables = [manifold(owners, seed, spread) for seed in (1, 2)]
    for corner in corners:
        numbers = list(map(int, corner.removesuffix("/exact").split("/")))
        params = IndexParams(
            m=numbers[0],
            ef_construction=numbers[1],
            graph_dimensions=numbers[2] if len(numbers) > 2 else None,
            exact_links=corner.endswith("/exact"),
        )
        print(f"| {spread} | {faces:,} {row(tables, owners, params)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
