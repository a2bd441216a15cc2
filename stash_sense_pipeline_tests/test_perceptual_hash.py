"""Copies of a picture are recognised in any size, format and quality; other photos of a person are not copies."""

from __future__ import annotations

import io
from itertools import combinations

import cv2
import numpy as np
import pytest
from PIL import Image

from stash_sense_pipeline.records.perceptual_hash import picture_hash, same_picture
from stash_sense_pipeline.sandbox.invented.rendered_person import make_person
from stash_sense_pipeline.sandbox.invented.rendering import render_portrait

PHOTOS = [render_portrait(make_person(person), shot).image for person in (900, 901, 902) for shot in range(3)]


def again(photo: np.ndarray, kind: str, quality: int, scale: float) -> np.ndarray:
    """The photo as another site shows it."""
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    buffer = io.BytesIO()
    Image.fromarray(cv2.resize(photo, None, fx=scale, fy=scale, interpolation=way)).save(
        buffer, format=kind, quality=quality
    )
    return np.asarray(Image.open(buffer).convert("RGB"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "quality", "scale"),
    [("JPEG", 60, 1.0), ("JPEG", 85, 0.5), ("WEBP", 70, 0.7), ("JPEG", 40, 0.35), ("WEBP", 80, 1.5)],
)
def test_copies_are_the_same_picture(kind: str, quality: int, scale: float) -> None:
    for photo in PHOTOS:
        assert same_picture(picture_hash(photo), picture_hash(again(photo, kind, quality, scale)))


def test_other_photos_are_not_the_same_picture() -> None:
    hashes = [picture_hash(photo) for photo in PHOTOS]
    assert all(len(one) == 16 for one in hashes)
    assert not any(same_picture(first, second) for first, second in combinations(hashes, 2))


def cropped(photo: np.ndarray, share: float) -> np.ndarray:
    """The photo without this share of its width and height, half of it on each side."""
    rows, columns = (int(side * share / 2) for side in photo.shape[:2])
    return np.ascontiguousarray(photo[rows : photo.shape[0] - rows, columns : photo.shape[1] - columns])


def bordered(photo: np.ndarray, share: float) -> np.ndarray:
    """The photo with a black border of this share of its size on each side."""
    rows, columns = (int(side * share) for side in photo.shape[:2])
    return cv2.copyMakeBorder(photo, rows, rows, columns, columns, cv2.BORDER_CONSTANT, value=(0, 0, 0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "least", "most"),
    [
        (lambda photo: np.ascontiguousarray(photo[:, ::-1]), 0.0, 0.0),
        (lambda photo: cv2.cvtColor(cv2.Canny(photo, 50, 150), cv2.COLOR_GRAY2RGB), 0.0, 0.0),
        (lambda photo: cropped(photo, 0.02), 0.9, 1.0),
        (lambda photo: cropped(photo, 0.05), 0.8, 1.0),
        (lambda photo: cropped(photo, 0.10), 0.1, 0.6),
        (lambda photo: cropped(photo, 0.20), 0.0, 0.05),
        (lambda photo: bordered(photo, 0.02), 0.2, 0.8),
        (lambda photo: bordered(photo, 0.05), 0.0, 0.1),
    ],
    ids=["mirrored", "drawn", "crop 2 %", "crop 5 %", "crop 10 %", "crop 20 %", "border 2 %", "border 5 %"],
)
def test_the_share_of_changed_pictures_that_is_recognised_is_the_one_in_privacy_md(
    change, least, most
) -> None:
    photos = [render_portrait(make_person(seed), seed).image for seed in range(30)]
    known = [same_picture(picture_hash(photo), picture_hash(change(photo))) for photo in photos]
    assert least <= sum(known) / len(known) <= most


def test_an_image_of_any_size_has_a_hash() -> None:
    for shape in ((1, 1, 3), (3, 900, 3), (640, 640, 3)):
        flat = picture_hash(np.full(shape, 7, np.uint8))
        assert same_picture(flat, picture_hash(np.full(shape, 200, np.uint8)))
