"""Requeues images that a new model pack or looser criteria may judge differently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries import image_requeueing
from stash_sense_pipeline.catalog.queries.tattoos.unsearched import reopen_unsearched, unsearched
from stash_sense_pipeline.faces.collection.run_context import SecondPack
from stash_sense_pipeline.faces.extraction.acceptance_criteria import AcceptanceCriteria
from stash_sense_pipeline.faces.extraction.rejection_reasons import SEEN, SPOILED, Reason
from stash_sense_pipeline.faces.models.model_packs import ModelPack, load_pack
from stash_sense_pipeline.foundation.errors import ModelPackError


@dataclass(frozen=True)
class Requeued:
    """How many images of a source are pending again, by reason; `second_pack`: fetched once more only for that pack."""

    other_detector: int = 0
    crop_dropped: int = 0
    looser_rules: int = 0
    more_attempts: int = 0
    second_pack: int = 0
    tattoos_unsearched: int = 0

    @property
    def images(self) -> int:
        """The sum of all reasons."""
        for_packs = self.other_detector + self.crop_dropped + self.second_pack + self.tattoos_unsearched
        return for_packs + self.looser_rules + self.more_attempts


def requeue_for_pack(connection: sa.Connection, source: str, pack: ModelPack) -> Requeued:
    """Makes images of one source pending again when the pack cannot use their faces.

    Another detector aligns differently, so its images are processed again. A face without a crop cannot get the vector
    of another embedder. Faces with a crop stay, because embedding processes them.
    """
    return Requeued(
        other_detector=image_requeueing.reopen_other_detectors(
            connection, source, pack.detector.finding_digest
        ),
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
    given up after fewer attempts than the policy gives them. Images of faces that were not searched for tattoos, or of
    tattoos that cannot be embedded, are due too; they keep their state and their faces until they are fetched.
    """
    rules = policy.criteria
    for_pack = requeue_for_pack(connection, source, policy.pack)
    looser = 0
    for group in image_requeueing.rejections(connection, source):
        if group.judged_by != rules.text and Reason(group.reason) in rules.requeues(group.judged_by):
            looser += image_requeueing.reopen_rejections(connection, source, group)
    tattoo = policy.pack.tattoo
    for_tattoos = reopen_unsearched(connection, source, tattoo.models, now) if tattoo is not None else 0
    return replace(
        for_pack,
        tattoos_unsearched=for_tattoos,
        looser_rules=looser,
        more_attempts=image_requeueing.reopen_given_up(connection, source, policy.max_attempts, SPOILED, now),
    )


class Packs(NamedTuple):
    """The packs of one run."""

    first: ModelPack
    second: SecondPack | None


def requeue_for_second(connection: sa.Connection, source: str, packs: Packs, now: datetime) -> int:
    """Makes images of one source due that the second pack has not seen, or judges by looser criteria now.

    What the first pack found in them stays. Returns their number. Without a second pack no image stays due for it.
    """
    second, tattoo = packs.second, packs.first.tattoo
    if second is None:
        for_tattoos = None if tattoo is None else unsearched(source, tattoo.models)
        image_requeueing.cancel_second_looks(connection, source, for_tattoos)
        return 0
    digest = second.pack.detector.finding_digest
    for group in image_requeueing.second_rejections(connection, source, digest):
        looser = group.judged_by != second.criteria.text
        if looser and group.reason in second.criteria.requeues(group.judged_by):
            image_requeueing.drop_second_rejections(connection, source, group)
    image_requeueing.drop_second_without_crop(connection, source, second.pack.digests)
    return image_requeueing.queue_second_looks(connection, source, digest, SEEN, now)


def second_backlog(connection: sa.Connection, pack: ModelPack) -> Mapping[str, int]:
    """By source, the number of pictures that must be fetched once more for a second pack."""
    return image_requeueing.count_second_backlog(connection, pack.detector.finding_digest, SEEN)


def load_second_pack(name_or_path: str, models_dir: Path, first: ModelPack) -> ModelPack | None:
    """The pack that global.second_pack names; None when it is empty. Raises ModelPackError as `load_pack` does."""
    if not name_or_path:
        return None
    second = load_pack(name_or_path, models_dir)
    check_second_pack(first, second)
    return second


def check_second_pack(first: ModelPack, second: ModelPack) -> None:
    """Raises ModelPackError unless faces of both packs can be told apart."""
    if first.detector.finding_digest == second.detector.finding_digest:
        raise ModelPackError(
            f"the packs {first.name} and {second.name} find faces with one detector in one way, so that their faces"
            " cannot be told apart; choose another pack for global.second_pack, or leave it empty"
        )
    if first.name == second.name:
        raise ModelPackError(
            f"two packs have the name {first.name}; choose another one for global.second_pack"
        )
