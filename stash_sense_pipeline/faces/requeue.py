"""Requeues images that a new model pack or looser criteria may judge differently."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries import image_requeueing
from stash_sense_pipeline.faces.extraction.acceptance_criteria import AcceptanceCriteria
from stash_sense_pipeline.faces.extraction.rejection_reasons import SPOILED, Reason
from stash_sense_pipeline.faces.models.model_packs import ModelPack


@dataclass(frozen=True)
class Requeued:
    """How many images of a source are pending again, by reason."""

    other_detector: int = 0
    crop_dropped: int = 0
    looser_rules: int = 0
    more_attempts: int = 0

    @property
    def images(self) -> int:
        """The sum of all reasons."""
        return self.other_detector + self.crop_dropped + self.looser_rules + self.more_attempts


def requeue_for_pack(connection: sa.Connection, source: str, pack: ModelPack) -> Requeued:
    """Makes images of one source pending again when the pack cannot use their faces.

    Another detector aligns differently, so its images are processed again. A face without a crop cannot get the vector
    of another embedder. Faces with a crop stay, because embedding processes them.
    """
    return Requeued(
        other_detector=image_requeueing.reopen_other_detectors(connection, source, pack.detector.digest),
        crop_dropped=image_requeueing.reopen_without_crop(connection, source, pack.digests),
    )


@dataclass(frozen=True)
class RequeuePolicy:
    """What images are judged by now: the pack, the acceptance criteria, and the attempts that an image gets."""

    pack: ModelPack
    criteria: AcceptanceCriteria
    max_attempts: int


def requeue_images(connection: sa.Connection, source: str, policy: RequeuePolicy, now: datetime) -> Requeued:
    """Makes images of one source pending again.

    These are images that the pack cannot use, rejected images that looser criteria may accept, and images that were
    given up after fewer attempts than the policy gives them.
    """
    rules = policy.criteria
    for_pack = requeue_for_pack(connection, source, policy.pack)
    looser = 0
    for group in image_requeueing.rejections(connection, source):
        if group.judged_by != rules.text and Reason(group.reason) in rules.requeues(group.judged_by):
            looser += image_requeueing.reopen_rejections(connection, source, group)
    return replace(
        for_pack,
        looser_rules=looser,
        more_attempts=image_requeueing.reopen_given_up(connection, source, policy.max_attempts, SPOILED, now),
    )
