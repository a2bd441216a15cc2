"""Alignment equals insightface's, and pose and sharpness measure what they say."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from insightface.utils import face_align

from stash_sense_pipeline.faces.extraction.align import (
    TEMPLATE,
    blur_measure,
    norm_crop,
    roll_degrees,
    similarity,
    yaw_degrees,
)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def placed(scale: float, angle: float, x: float, y: float) -> np.ndarray:
    """The template turned by `angle` degrees, scaled and moved: what a detector would find."""
    turn = np.array(
        [
            [math.cos(math.radians(angle)), -math.sin(math.radians(angle))],
            [math.sin(math.radians(angle)), math.cos(math.radians(angle))],
        ]
    )
    return (TEMPLATE - 56) @ turn.T * scale + (x, y)


@pytest.mark.slow
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(0.3, 12),
    angle=st.floats(-180, 180),
    noise=st.floats(0, 6),
)
def test_the_similarity_equals_that_of_insightface(
    seed: int, scale: float, angle: float, noise: float
) -> None:
    rng = np.random.default_rng(seed)
    found = placed(scale, angle, *rng.uniform(0, 3000, 2)) + rng.normal(0, noise * scale, (5, 2))
    landmarks = found.astype(np.float32)
    ours, theirs = similarity(landmarks), face_align.estimate_norm(landmarks)
    corners = np.array([[0, 0, 1], [112, 0, 1], [0, 112, 1], [112, 112, 1]], dtype=np.float64)
    # Where the corners of the crop come from, in pixels of the image, must agree.
    back = [np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2] for matrix in (ours, theirs)]
    assert np.abs(corners @ back[0].T - corners @ back[1].T).max() < 1e-2 * max(scale, 1 / scale)
    here = np.hstack([landmarks, np.ones((5, 1))])
    assert np.abs(here @ ours.T - here @ theirs.T).max() < 1e-4


def test_a_crop_has_the_same_pixels_as_that_of_insightface() -> None:
    rng = np.random.default_rng(5)
    image = cv2.GaussianBlur(rng.integers(0, 256, (700, 500, 3), dtype=np.uint8), (0, 0), 3)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        landmarks = (
            placed(rng.uniform(0.5, 5), rng.uniform(-40, 40), 250, 350) + rng.normal(0, 3, (5, 2))
        ).astype("f4")
        assert (norm_crop(image, landmarks) == face_align.norm_crop(image, landmarks)).mean() > 0.999


def test_a_crop_is_black_outside_the_image() -> None:
    crop = norm_crop(np.full((100, 100, 3), 200, np.uint8), placed(1, 0, 0, 0))
    assert crop.shape == (112, 112, 3)
    assert crop.dtype == np.uint8
    assert not crop[:50, :50].any()
    assert (crop[60:, 60:] == 200).all()


@pytest.mark.parametrize(
    "landmarks",
    [np.full((5, 2), 7.0), np.full((5, 2), np.nan), np.full((5, 2), np.inf), np.zeros((4, 2))],
    ids=["one point", "nan", "inf", "four points"],
)
def test_landmarks_on_one_point_or_not_finite_are_refused(landmarks: np.ndarray) -> None:
    with pytest.raises(ValueError, match="landmarks"):
        similarity(landmarks)


def test_yaw_is_the_sidecar_s_formula() -> None:
    landmarks = np.array([[10, 20], [50, 20], [30, 40], [15, 60], [45, 60]], dtype=np.float32)
    assert yaw_degrees(landmarks) == 0
    landmarks[2, 0] = 50  # as far off the middle as an eye
    assert yaw_degrees(landmarks) == pytest.approx(45)
    landmarks[2, 0] = 10
    assert yaw_degrees(landmarks) == pytest.approx(-45)


def test_roll_is_the_angle_of_the_line_through_the_eyes() -> None:
    assert roll_degrees(placed(2, 0, 0, 0)) == pytest.approx(-0.317, abs=0.01)  # the template's own eyes
    assert roll_degrees(placed(2, 30, 0, 0)) == pytest.approx(30 - 0.317, abs=0.01)


def test_blur_falls_when_a_crop_is_blurred() -> None:
    sharp = np.random.default_rng(1).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    measures = [blur_measure(cv2.GaussianBlur(sharp, (0, 0), sigma)) for sigma in (0.5, 1, 2, 4)]
    assert measures == sorted(measures, reverse=True)
    assert blur_measure(np.full((112, 112, 3), 90, np.uint8)) == 0
