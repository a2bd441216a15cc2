"""Retrieval quality: recall of the indices, self and held-out retrieval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stash_sense_pipeline.release.build.face_order import FaceOrder, lengths
from stash_sense_pipeline.release.build.graph.exact_search import (
    Floats,
    Positions,
    exact_neighbours,
    sample_positions,
)
from stash_sense_pipeline.release.checks.accuracy.answer_fidelity import AnswerFidelity
from stash_sense_pipeline.release.checks.accuracy.fusion import Fusion, nearest
from stash_sense_pipeline.release.checks.accuracy.left_out import LeftOut
from stash_sense_pipeline.release.checks.accuracy.thresholds import FACE_BUCKETS, bucket_name
from stash_sense_pipeline.release.checks.check_result import CheckResult, Severity
from stash_sense_pipeline.release.contract import REQUIRED_MODELS, SIDECAR_K, SIDECAR_MAX_DISTANCE

_ROWS_A_BLOCK = 16_384
# Two similarities this close are a tie: a float32 sum of 512 products varies by as much with the order of addition.
_TIE = 1e-5
# Largest cosine distance between a unit vector and its stored form, by storage type.
_ROUNDING = {"float32": 1e-4, "e4m3": 0.01, "float8": 0.2}

_ADVICE = "; raise m and ef_construction under export.index, or lower the limit under export"

# Share of held-out faces that find their performer. Good models reach more than 0.9.
_HELD_OUT_FLOOR = 0.5


@dataclass(frozen=True)
class RecallReport:
    """Recall of an index against exact search, at the sidecar's k, with sampled stored faces as queries.

    `at_1`: share of queries for which the first other face returned is the nearest one. `at_k`: mean share of the k
    exact neighbours that are returned. `in_reach`: the same for the neighbours within the sidecar's distance, without
    the face itself: the sidecar answers with no others. `itself`: share of queries that return the face itself first.
    Ties count as found.
    """

    model: str
    at_1: float
    at_k: float
    in_reach: float
    itself: float
    k: int
    queries: int


@dataclass(frozen=True)
class Answers:
    """An index's answers to sampled faces: their positions (q,), and neighbours and distances (q, k) of sidecar_query."""

    positions: Positions
    ids: Positions
    distances: Floats


@dataclass(frozen=True)
class HeldOutBucket:
    """Leave-one-photo-out retrieval of performers with `fewest` to `most` faces (None: no upper limit)."""

    fewest: int
    most: int | None
    queries: int
    rank_1: float
    accepted: float

    @property
    def name(self) -> str:
        """`3-4`, or `10+`."""
        return bucket_name(self.fewest, self.most)


def load_index(path: Path) -> Any:
    """A Voyager index, loaded as the sidecar loads it."""
    import voyager

    with path.open("rb") as stream:
        return voyager.Index.load(stream)


def ask_index(
    index: Any, unit: Floats, positions: Positions | None = None, *, sample: int = 1000, threads: int = 1
) -> Answers:
    """Queries a loaded index with stored faces, as the sidecar does. `unit`: (n, dim) in release order.

    The faces are those at `positions`, or `sample` faces.
    """
    positions = sample_positions(len(unit), sample) if positions is None else positions
    return Answers(positions, *sidecar_query(index, unit[positions], min(SIDECAR_K, len(unit)), threads))


def index_recall(
    model: str, answers: Answers, unit: Floats, exact: Floats | None = None, tie: float | None = None
) -> RecallReport:
    """Compares an index's answers with exact search over `unit` (n, dim) in release order.

    `exact`: the similarities (q, k) of the exact neighbours of the same faces, best first, where they are known. `tie`:
    similarities this close are equal; None: those that float32 cannot tell apart.
    """
    tie = _TIE if tie is None else tie
    positions, returned = answers.positions, answers.ids
    queries = np.ascontiguousarray(unit[positions])
    k = returned.shape[1]
    if exact is None:
        _, exact = exact_neighbours(queries, unit, k)
    # Scored with the unrounded vectors: an 8-bit index ranks by rounded ones.
    scores = _scores(queries, unit, returned)
    found = scores >= exact[:, -1:] - tie
    near = np.float32(1 - SIDECAR_MAX_DISTANCE)
    reachable = np.count_nonzero(exact >= near, axis=1) - 1
    reached = np.count_nonzero((scores >= near) & (returned != positions[:, None]), axis=1)
    others = returned != positions[:, None]
    first_other = np.argmax(others, axis=1)
    rows = np.arange(len(queries))
    # The face is its own nearest neighbour, so the second exact neighbour is the nearest other face.
    nearest_other = exact[:, 1] if k > 1 else exact[:, 0]
    return RecallReport(
        model=model,
        at_1=float(np.mean(scores[rows, first_other] >= nearest_other - tie)),
        at_k=float(np.mean(found)),
        in_reach=float(np.minimum(reached, reachable).sum() / max(1, reachable.sum()))
        if reachable.any()
        else 1.0,
        itself=float(np.mean((returned[:, 0] == positions) | (scores[:, 0] >= 1 - tie))),
        k=k,
        queries=len(queries),
    )


def sidecar_query(index: Any, queries: Floats, k: int, threads: int = 1) -> tuple[Positions, Floats]:
    """Neighbours and distances (q, k) as the sidecar requests them. A query that Voyager refuses gives -1 and inf.

    Voyager raises RecallError when the graph leads to fewer than k elements; the sidecar then has no answer.
    """
    import voyager

    try:
        ids, distances = index.query(queries, k=k, num_threads=threads)
    except voyager.RecallError:
        if len(queries) == 1:
            return np.full((1, k), -1, dtype=np.int64), np.full((1, k), np.inf, dtype=np.float32)
        answers = [sidecar_query(index, queries[row : row + 1], k) for row in range(len(queries))]
        return np.concatenate([answer[0] for answer in answers]), np.concatenate(
            [answer[1] for answer in answers]
        )
    return ids.astype(np.int64), distances


def _scores(queries: Floats, unit: Floats, returned: Positions) -> Floats:
    """Exact similarities of the returned faces, -inf for queries without an answer."""
    scores = np.stack([unit[row] @ query for query, row in zip(queries, returned, strict=True)])
    scores[returned < 0] = -np.inf
    return scores


def fidelity_check(fidelity: AnswerFidelity, limit: float) -> CheckResult:
    """The share of probes that get the answer of exact search through the indices. It forbids publishing below `limit`."""
    parts = ", ".join(
        f"{share:.4f} of {fidelity.probes} as {probe}" for probe, share in fidelity.shares.items()
    )
    passed = fidelity.share >= limit
    return CheckResult(
        "answer_fidelity",
        passed,
        f"{fidelity.share:.4f} of the sidecar's answers are those of exact search: {parts} (limit {limit})"
        f"{'' if passed else _ADVICE}",
        numbers={"share": fidelity.share}
        | {probe.name.lower(): share for probe, share in fidelity.shares.items()},
    )


def recall_checks(
    report: RecallReport, at_1: float, at_k: float, *, far_blocks: bool = False
) -> tuple[CheckResult, ...]:
    """Three checks: recall at 1, recall at k within the sidecar's distance, and recall at k.

    The first two forbid publishing below the limit `at_1`. The last does so with `far_blocks`, else it is a warning: the
    sidecar does not answer with neighbours beyond its distance.
    """
    queried = f"over {report.queries} faces"
    advice = _ADVICE

    def line(name: str, share: float, limit: float, text: str, severity: Severity) -> CheckResult:
        detail = f"{share:.4f} {text} {queried} (limit {limit}){'' if share >= limit else advice}"
        return CheckResult(
            f"{report.model}_{name}", share >= limit, detail, severity, {f"{report.model}_{name}": share}
        )

    return (
        line("recall_at_1", report.at_1, at_1, f"(itself first {report.itself:.4f})", Severity.ERROR),
        line(
            "recall_in_reach",
            report.in_reach,
            at_1,
            f"of the {report.k} nearest within the sidecar's distance",
            Severity.ERROR,
        ),
        line(
            f"recall_at_{SIDECAR_K}",
            report.at_k,
            at_k,
            f"of the {report.k} nearest",
            Severity.ERROR if far_blocks else Severity.WARNING,
        ),
    )


def index_content_check(model: str, index: Any, unit: Floats, storage: str) -> CheckResult:
    """Position i of the index holds the vector of face i of the catalog, so that every person has their own faces."""
    name = f"{model}_content"
    if index.num_elements != len(unit):
        return CheckResult(
            name, False, f"{index.num_elements} vectors in the file, {len(unit)} faces in the catalog"
        )
    furthest = 0.0
    for start in range(0, len(unit), _ROWS_A_BLOCK):
        stop = min(start + _ROWS_A_BLOCK, len(unit))
        stored = index.get_vectors(range(start, stop))
        distance = 1 - np.einsum("ij,ij->i", stored, unit[start:stop]) / lengths(stored)
        wrong = np.flatnonzero(~(distance <= _ROUNDING[storage]))
        if len(wrong):
            return CheckResult(
                name, False, f"vector {start + wrong[0]} is not the vector of its face; build the index again"
            )
        furthest = max(furthest, float(distance.max()))
    return CheckResult(
        name,
        True,
        f"{len(unit)} vectors are those of their faces, to within a distance of {furthest:.1e}",
        numbers={f"{model}_vectors": len(unit), f"{model}_rounding": furthest},
    )


def self_retrieval_check(
    owners: Sequence[object], answers: Mapping[str, Answers], gate: float
) -> CheckResult:
    """The fused answer of both indices to a stored face has its own performer first.

    `owners`: faces.json. `answers`: those of the two required models, to the same sampled faces. `gate`: the share of
    faces that is required.
    """
    found = [answers[model] for model in REQUIRED_MODELS]
    probes = found[0].positions
    fusion = Fusion([each.ids for each in found], [each.distances for each in found])
    best, distance = nearest(*fusion.without([each.ids < 0 for each in found]))
    # Where one index refuses the query, the sidecar has no answer.
    right = np.all([each.ids[:, 0] >= 0 for each in found], axis=0) & (distance <= SIDECAR_MAX_DISTANCE)
    pairs = zip(best[right].tolist(), probes[right].tolist(), strict=True)
    share = sum(owners[answer] == owners[probe] for answer, probe in pairs) / len(probes)
    return CheckResult(
        "self_retrieval",
        share >= gate,
        f"{share:.4f} of {len(probes)} faces find their own performer (limit {gate})",
        numbers={"found": share, "faces": len(probes)},
    )


def held_out_retrieval(order: FaceOrder, left_out: LeftOut) -> tuple[HeldOutBucket, ...]:
    """Leave-one-photo-out retrieval, by the performer's number of faces. Performers with one face are left out.

    `rank_1`: share of photographs with the nearest other face of the same performer. `accepted`: share of photographs for
    which that face is also within the sidecar's distance.
    """
    owners = order.performer_ids
    _, person, counts = np.unique(owners, return_inverse=True, return_counts=True)
    faces = counts[person[left_out.queries]]
    right = owners[left_out.known.positions] == owners[left_out.queries]
    accepted = right & (left_out.known.distances <= SIDECAR_MAX_DISTANCE)
    found = []
    for fewest, most in FACE_BUCKETS[1:]:
        inside = (faces >= fewest) & (faces <= (most or faces))
        if inside.any():
            shares = float(np.mean(right[inside])), float(np.mean(accepted[inside]))
            found.append(HeldOutBucket(fewest, most, int(np.count_nonzero(inside)), *shares))
    return tuple(found)


def held_out_check(buckets: Sequence[HeldOutBucket]) -> CheckResult:
    """The share of left-out photos that find their performer. A warning below one half."""
    queries = sum(bucket.queries for bucket in buckets)
    if not queries:
        return CheckResult(
            "held_out_retrieval",
            True,
            "no performer has two faces, so no photo can be left out",
            Severity.WARNING,
        )
    rank_1 = sum(bucket.rank_1 * bucket.queries for bucket in buckets) / queries
    by_faces = {bucket.name: bucket.rank_1 for bucket in buckets}
    shown = ", ".join(f"{share:.3f} with {name} faces" for name, share in by_faces.items())
    return CheckResult(
        "held_out_retrieval",
        rank_1 >= _HELD_OUT_FLOOR,
        f"rank 1 {rank_1:.3f} over {queries} faces left out: {shown}",
        Severity.WARNING,
        numbers={"rank_1": rank_1, "faces": queries, **{f"rank_1_{name}": v for name, v in by_faces.items()}},
    )
