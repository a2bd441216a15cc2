"""Errors by group of people, with the errors of the model apart from suspected splits and wrong labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stash_sense_pipeline.release.build.face_order import FaceOrder
from stash_sense_pipeline.release.build.graph.exact_search import Positions
from stash_sense_pipeline.release.checks.accuracy.causes import Cause, Causes, WrongAnswers
from stash_sense_pipeline.release.checks.accuracy.left_out import LeftOut
from stash_sense_pipeline.release.checks.accuracy.released_people import GROUPED_BY, ReleasedPerson
from stash_sense_pipeline.release.checks.accuracy.shares import Mask, Share, share_of_people
from stash_sense_pipeline.release.contract import SIDECAR_MAX_DISTANCE

# The error rate of a smaller group describes single people and not the group.
SMALLEST_GROUP = 20


@dataclass(frozen=True)
class GroupErrors:
    """The errors of the people of one group, at the sidecar's distance.

    `misnamed`, `missed`: known people, of which one photograph is left out, that get another name, or none.
    `strangers`: people, of which all faces are left out, that get a name. These three are errors of the model; None for
    groups of fewer than 20 people. `splits`, `labels`: people with a suspected split or wrong label.
    """

    group: str
    people: int
    misnamed: Share | None
    missed: Share | None
    strangers: Share | None
    splits: int
    labels: int

    @property
    def small(self) -> bool:
        """Fewer people than a rate needs."""
        return self.people < SMALLEST_GROUP


def measure_groups(
    order: FaceOrder, left_out: LeftOut, wrong: WrongAnswers, people: Mapping[int, ReleasedPerson]
) -> tuple[GroupErrors, ...]:
    """The errors of each group by gender, ethnicity and country as the sources give them, in order of their names."""
    ids, person, counts = np.unique(order.performer_ids, return_inverse=True, return_counts=True)
    members: dict[tuple[int, str], list[int]] = defaultdict(list)
    for number, performer_id in enumerate(ids.tolist()):
        for place, field in enumerate(GROUPED_BY):
            members[place, people[performer_id].groups.get(field) or "unknown"].append(number)
    measure = _Measure(person[left_out.queries], counts, left_out, wrong)
    return tuple(
        measure.group(f"{GROUPED_BY[place]}: {value}", np.isin(np.arange(len(ids)), numbers))
        for (place, value), numbers in sorted(members.items())
    )


class _Measure:
    def __init__(self, person: Positions, counts: Positions, left_out: LeftOut, wrong: WrongAnswers) -> None:
        self._person, self._several = person, counts[person] > 1
        self._wrong = wrong
        self._named = left_out.strangers.distances <= SIDECAR_MAX_DISTANCE
        self._answered = left_out.known.distances <= SIDECAR_MAX_DISTANCE

    def group(self, name: str, members: Mask) -> GroupErrors:
        inside = members[self._person]
        known = inside & self._several & ~_explained(self._wrong.known)
        strangers = inside & ~_explained(self._wrong.strangers)
        splits, labels = (self._people_with(cause, inside) for cause in (Cause.SPLIT, Cause.LABEL))
        misnamed = self._answered & (self._wrong.known == Cause.MODEL)
        return GroupErrors(
            name,
            int(np.count_nonzero(members)),
            _of_enough(share_of_people(self._person, misnamed, known)),
            _of_enough(share_of_people(self._person, ~self._answered, known)),
            _of_enough(share_of_people(self._person, self._named, strangers)),
            splits,
            labels,
        )

    def _people_with(self, cause: Cause, inside: Mask) -> int:
        affected = inside & ((self._wrong.known == cause) | (self._wrong.strangers == cause))
        return len(np.unique(self._person[affected]))


def _explained(causes: Causes) -> Mask:
    return np.isin(causes, (Cause.SPLIT, Cause.LABEL))


def _of_enough(share: Share | None) -> Share | None:
    return share if share is not None and share.people >= SMALLEST_GROUP else None
