"""The accuracy of a release: one exact search of left-out photographs, and everything that it tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stash_sense_pipeline.release.build.face_order import ReleaseVectors
from stash_sense_pipeline.release.checks.accuracy.causes import WrongAnswers, tell_causes
from stash_sense_pipeline.release.checks.accuracy.group_errors import GroupErrors, measure_groups
from stash_sense_pipeline.release.checks.accuracy.left_out import LeftOut, leave_out
from stash_sense_pipeline.release.checks.accuracy.released_people import ReleasedPerson
from stash_sense_pipeline.release.checks.accuracy.thresholds import Thresholds, measure_thresholds


@dataclass(frozen=True)
class Accuracy:
    """The left-out photographs with their answers, the causes of wrong ones, thresholds, and errors by group."""

    left_out: LeftOut
    wrong: WrongAnswers
    thresholds: Thresholds
    groups: tuple[GroupErrors, ...]


def measure_accuracy(vectors: ReleaseVectors, people: Mapping[int, ReleasedPerson]) -> Accuracy:
    """Measures how the release answers, without its indices: they are compared with exact search by their recall.

    `people`: the performers of the release that has these vectors.
    """
    left_out = leave_out(vectors)
    wrong = tell_causes(vectors, left_out, people)
    return Accuracy(
        left_out,
        wrong,
        measure_thresholds(vectors.order, left_out, wrong),
        measure_groups(vectors.order, left_out, wrong, people),
    )
