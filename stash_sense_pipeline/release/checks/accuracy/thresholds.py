"""What a threshold means: people found and strangers named at each distance, and the recommended distance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from stash_sense_pipeline.release.build.face_order import FaceOrder
from stash_sense_pipeline.release.build.graph.exact_search import Positions
from stash_sense_pipeline.release.checks.accuracy.causes import LARGEST_DISTANCE, Cause, WrongAnswers
from stash_sense_pipeline.release.checks.accuracy.left_out import LeftOut
from stash_sense_pipeline.release.checks.accuracy.shares import (
    Mask,
    Share,
    share_of_people,
    wilson_interval,
)

DISTANCES = (0.30, 0.35, 0.40, 0.45, 0.50, 0.55, LARGEST_DISTANCE)
# Candidates for the recommended distance: 0.60, 0.59, ... 0.20.
_CANDIDATES = tuple(hundredths / 100 for hundredths in range(60, 19, -1))
# The recommended distance names at most one stranger in a hundred.
MOST_STRANGERS = 0.01

FACE_BUCKETS = ((1, 1), (2, 2), (3, 4), (5, 9), (10, None))
ALL_PEOPLE = "all"


@dataclass(frozen=True)
class ThresholdRow:
    """The answers to left-out photographs at one distance, of people with so many faces: `3-4`, or `all`.

    `found`, `misnamed`: known people, of which one photograph is left out, that get their own name, and another name.
    `strangers`: people, of which all faces are left out, that get a name. None where there are no such people.
    """

    distance: float
    faces: str
    found: Share | None
    misnamed: Share | None
    strangers: Share | None


@dataclass(frozen=True)
class Recommendation:
    """The largest distance that names at most 1 % of strangers, with its row of all people; None when there is none.

    `proven`: the upper bound of the interval is at most 1 %. False when the people are too few for that: then no
    stranger was named at this distance.
    """

    row: ThresholdRow | None
    proven: bool
    people: int

    @property
    def distance(self) -> float | None:
        """The recommended distance."""
        return self.row.distance if self.row else None


@dataclass(frozen=True)
class Thresholds:
    """The table, the recommended distance, and the photographs that the shares leave aside, by cause."""

    rows: tuple[ThresholdRow, ...]
    recommended: Recommendation
    photographs: int
    aside: Mapping[str, int]


def measure_thresholds(order: FaceOrder, left_out: LeftOut, wrong: WrongAnswers) -> Thresholds:
    """The shares at each distance, by number of faces of the person.

    Photographs of which the first answer is a suspected split or wrong label count neither as errors nor as right: they
    are left aside at all distances.
    """
    table = _Table(order, left_out, wrong)
    buckets = {ALL_PEOPLE: np.ones(len(left_out.queries), dtype=np.bool_)}
    for fewest, most in FACE_BUCKETS:
        inside = (table.faces >= fewest) & (table.faces <= (most or table.faces))
        buckets[bucket_name(fewest, most)] = inside
    rows = [table.row(distance, name, inside) for distance in DISTANCES for name, inside in buckets.items()]
    aside = {
        cause.name.lower(): int(np.count_nonzero((wrong.known == cause) | (wrong.strangers == cause)))
        for cause in (Cause.SPLIT, Cause.LABEL)
    }
    return Thresholds(tuple(rows), _recommend(table, buckets[ALL_PEOPLE]), len(left_out.queries), aside)


def bucket_name(fewest: int, most: int | None) -> str:
    """`1`, `3-4` or `10+`."""
    return f"{fewest}+" if most is None else str(fewest) if fewest == most else f"{fewest}-{most}"


def people_by_faces(order: FaceOrder) -> dict[str, int]:
    """How many performers have 1, 2, 3-4, 5-9 and 10+ faces."""
    _, counts = np.unique(order.performer_ids, return_counts=True)
    return {
        bucket_name(fewest, most): int(np.count_nonzero((counts >= fewest) & (counts <= (most or counts))))
        for fewest, most in FACE_BUCKETS
    }


def table_rows(thresholds: Thresholds) -> Iterator[dict[str, str | float | int]]:
    """The table as plain values, for checks.json. A share that does not exist has no keys."""
    for row in thresholds.rows:
        values: dict[str, str | float | int] = {"distance": row.distance, "faces": row.faces}
        for name, share in (("found", row.found), ("misnamed", row.misnamed), ("strangers", row.strangers)):
            if share is not None:
                values |= {
                    f"{name}_people": share.people,
                    name: share.share,
                    f"{name}_low": share.low,
                    f"{name}_high": share.high,
                }
        yield values


def describe_recommendation(recommended: Recommendation) -> str:
    """The recommended distance in words, with the rule and how certain it is."""
    row, limit = recommended.row, f"{100 * MOST_STRANGERS:.0f} %"
    if row is None or row.strangers is None:
        return (
            f"Recommended distance: none. At every distance from {_CANDIDATES[-1]:.2f} on, the upper bound of the share of"
            f" strangers with a name is above {limit} ({recommended.people} people)"
        )
    found = f", and finds {row.found} of known people" if row.found else ""
    measured = f"It names {row.strangers} of {recommended.people} strangers{found}"
    if recommended.proven:
        rule = f"The largest distance at which the upper bound for strangers is at most {limit}"
    else:
        rule = (
            f"Uncertain: {recommended.people} people are too few to prove {limit}; this is the largest distance at which no"
            " stranger got a name"
        )
    return f"Recommended distance: {row.distance:.2f}. {measured}. {rule}"


class _Table:
    def __init__(self, order: FaceOrder, left_out: LeftOut, wrong: WrongAnswers) -> None:
        owners = order.performer_ids
        _, person, counts = np.unique(owners, return_inverse=True, return_counts=True)
        queries = left_out.queries
        self.person: Positions = person[queries]
        self.faces: Positions = counts[self.person]
        self._known, self._strangers = left_out.known.distances, left_out.strangers.distances
        self._own = owners[left_out.known.positions] == owners[queries]
        explained = (Cause.SPLIT, Cause.LABEL)
        self._known_counted = (self.faces > 1) & ~np.isin(wrong.known, explained)
        self._strangers_counted = ~np.isin(wrong.strangers, explained)

    def row(self, distance: float, name: str, inside: Mask) -> ThresholdRow:
        answered = self._known <= distance
        known = self._known_counted & inside
        return ThresholdRow(
            distance,
            name,
            share_of_people(self.person, answered & self._own, known),
            share_of_people(self.person, answered & ~self._own, known),
            self.strangers(distance, inside),
        )

    def strangers(self, distance: float, inside: Mask) -> Share | None:
        return share_of_people(self.person, self._strangers <= distance, self._strangers_counted & inside)


def _recommend(table: _Table, everybody: Mask) -> Recommendation:
    """The largest candidate with the upper bound within 1 %, or within the lowest bound that so few people can give."""
    for distance in _CANDIDATES:
        strangers = table.strangers(distance, everybody)
        if strangers is None:
            break
        lowest = wilson_interval(0.0, strangers.people)[1]
        if strangers.high <= max(MOST_STRANGERS, lowest):
            row = table.row(distance, ALL_PEOPLE, everybody)
            return Recommendation(row, strangers.high <= MOST_STRANGERS, strangers.people)
    return Recommendation(None, False, strangers.people if strangers else 0)
