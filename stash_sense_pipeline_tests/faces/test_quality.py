"""The filters accept faces within their limits, and the score orders faces as a person would."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.faces.extraction.acceptance_criteria import AcceptanceCriteria
from stash_sense_pipeline.faces.extraction.align import TEMPLATE
from stash_sense_pipeline.faces.extraction.decode import DecodeLimits
from stash_sense_pipeline.faces.extraction.quality import (
    check_image_size,
    choose_face,
    quality_score,
    rejection_reason,
)
from stash_sense_pipeline.faces.extraction.rejection_reasons import Reason, Rejected
from stash_sense_pipeline.faces.models.detector import DetectedFace
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.settings.schema import QualityFilters

FILTERS = QualityFilters()


def face(
    side: float = 120, confidence: float = 0.9, nose: float = 0.0, height: float | None = None
) -> DetectedFace:
    """A face of a given width; `nose` moves the nose by that many pixels of the 112 pixel template."""
    landmarks = TEMPLATE.copy()
    landmarks[2, 0] += nose
    box = np.array([10, 20, 10 + side, 20 + (height or side)], dtype=np.float32)
    return DetectedFace(box, landmarks, confidence)


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        (face(), None),
        (face(side=80), None),
        (face(side=79.9), Reason.FACE_TOO_SMALL),
        (face(side=300, height=79), Reason.FACE_TOO_SMALL),
        (face(confidence=0.7), None),
        (face(confidence=0.69), Reason.LOW_CONFIDENCE),
        (face(nose=17), None),
        (face(nose=19), Reason.TURNED_AWAY),
        (face(nose=-19), Reason.TURNED_AWAY),
    ],
)
def test_each_filter_has_its_reason(candidate: DetectedFace, expected: Reason | None) -> None:
    assert rejection_reason(candidate, FILTERS) is expected


def reason_of(faces: list[DetectedFace], single: bool = False) -> Reason:
    with pytest.raises(Rejected) as caught:
        choose_face(faces, FILTERS, single)
    return caught.value.reason


def test_the_largest_valid_face_is_taken() -> None:
    faces = [face(100), face(400, confidence=0.6), face(150), face(120)]
    choice = choose_face(faces, FILTERS, single_face=False)
    assert (choice.face, choice.index, choice.valid) == (faces[2], 2, 3)


def test_several_valid_faces_are_rejected_at_high_trust() -> None:
    assert reason_of([face(100), face(150)], single=True) is Reason.SEVERAL_FACES
    assert choose_face([face(150), face(20)], FILTERS, single_face=True).valid == 1


def test_an_image_without_a_valid_face_has_the_reason_of_its_largest_face() -> None:
    assert reason_of([]) is Reason.NO_FACE
    assert reason_of([face(30), face(200, confidence=0.1)]) is Reason.LOW_CONFIDENCE


def test_image_size_is_that_of_the_shorter_side() -> None:
    check_image_size(300, 4000, FILTERS)
    with pytest.raises(Rejected, match="image_too_small"):
        check_image_size(4000, 299, FILTERS)


@given(confidence=st.floats(0, 1), side=st.floats(0, 4000), yaw=st.floats(-90, 90), blur=st.floats(0, 1e5))
def test_the_score_lies_between_0_and_1(confidence: float, side: float, yaw: float, blur: float) -> None:
    assert 0 <= quality_score(confidence, side, yaw, blur) <= 1


def test_the_score_falls_with_confidence_size_yaw_and_blur() -> None:
    best = quality_score(0.95, 200, 0, 500)
    assert best > 0.8
    for worse in ((0.7, 200, 0, 500), (0.95, 90, 0, 500), (0.95, 200, 35, 500), (0.95, 200, 0, 20)):
        assert quality_score(*worse) < best
    assert quality_score(0.95, 900, 0, 500) == best


def rules(
    pack: ModelPack, high_trust: bool = True, limits: DecodeLimits | None = None, **filters: object
) -> AcceptanceCriteria:
    return AcceptanceCriteria.of(
        pack.detector, QualityFilters(**filters), high_trust, limits or DecodeLimits()
    )


FLAWS = {Reason.LOW_CONFIDENCE, Reason.FACE_TOO_SMALL, Reason.TURNED_AWAY}


@pytest.mark.parametrize(
    ("change", "reopened"),
    [
        ({}, set()),
        ({"min_image_size": 200}, {Reason.IMAGE_TOO_SMALL}),
        ({"min_image_size": 400}, set()),
        ({"min_face_size": 60}, FLAWS),
        ({"min_detection_confidence": 0.6}, FLAWS),
        ({"max_face_angle": 60.0}, FLAWS),
        ({"min_face_size": 100}, {Reason.SEVERAL_FACES}),
        ({"max_face_angle": 30.0}, {Reason.SEVERAL_FACES}),
        ({"prefer_single_face": False}, {Reason.SEVERAL_FACES}),
        ({"high_trust": False}, {Reason.SEVERAL_FACES}),
        ({"limits": DecodeLimits(max_pixels=90_000_000)}, {Reason.TOO_MANY_PIXELS}),
        ({"limits": DecodeLimits(max_pixels=9_000_000)}, set()),
        ({"limits": DecodeLimits(max_bytes=90_000_000)}, {Reason.TOO_MANY_BYTES}),
        ({"limits": DecodeLimits(max_memory=900_000_000)}, {Reason.TOO_MANY_PIXELS, Reason.TOO_COSTLY}),
        ({"limits": DecodeLimits(max_scans=200)}, {Reason.TOO_COSTLY}),
        ({"limits": DecodeLimits(max_scan_pixels=9_000_000_000)}, {Reason.TOO_COSTLY}),
        ({"limits": DecodeLimits(max_seconds=60)}, {Reason.TOO_COSTLY}),
        ({"limits": DecodeLimits(max_seconds=5)}, set()),
    ],
)
def test_looser_criteria_requeue_the_reasons_that_they_may_accept(
    pack: ModelPack, change: dict[str, object], reopened: set[Reason]
) -> None:
    assert rules(pack, **change).requeues(rules(pack).text) == reopened


def test_verdicts_from_before_orientation_was_applied_are_requeued(pack: ModelPack) -> None:
    """The text of such a verdict has neither the limits of cost nor the version of decoding."""
    before = rules(pack).text.split(" m")[0]
    reopened = rules(pack).requeues(before)
    assert {Reason.NO_FACE, Reason.LOW_CONFIDENCE, Reason.TRUNCATED} <= reopened
    assert not reopened & {Reason.SEVERAL_FACES, Reason.TOO_MANY_PIXELS, Reason.TOO_COSTLY, Reason.SVG}


def test_criteria_with_other_keys_requeue_every_judged_reason(pack: ModelPack) -> None:
    assert {Reason.NO_FACE, Reason.IMAGE_TOO_SMALL} <= rules(pack).requeues("d640 x1")
