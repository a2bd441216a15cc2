"""Copies of a picture are known in any size, format and quality; other photos of a person are not copies."""

from __future__ import annotations

import io
from itertools import combinations

import cv2
import numpy as np
import pytest
from PIL import Image

from stash_sense_pipeline.faces.pictures import picture_hash, same_picture
from stash_sense_pipeline.sandbox.rendering import make_person, render_portrait

PHOTOS = [render_portrait(make_person(person), shot).image for person in (900, 901, 902) for shot in range(3)]


def again(photo: np.ndarray, kind: str, quality: int, scale: float) -> np.ndarray:
    """The photo as another site shows it."""
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    buffer = io.BytesIO()
    Image.fromarray(cv2.resize(photo, None, fx=scale, fy=scale, interpolation=way)).save(
        buffer, format=kind, quality=quality
    )
    return np.asarray(Image.open(buffer).convert("RGB"))


@pytest.mark.parametrize(
    ("kind", "quality", "scale"),
    [("JPEG", 60, 1.0), ("JPEG", 85, 0.5), ("WEBP", 70, 0.7), ("JPEG", 40, 0.35), ("WEBP", 80, 1.5)],
)
def test_copies_are_the_same_picture(kind: str, quality: int, scale: float) -> None:
    for photo in PHOTOS:
        assert same_picture(picture_hash(photo), picture_hash(again(photo, kind, quality, scale)))


def test_other_photos_are_not() -> None:
    hashes = [picture_hash(photo) for photo in PHOTOS]
    assert all(len(one) == 16 for one in hashes)
    assert not any(same_picture(first, second) for first, second in combinations(hashes, 2))


def test_any_image_has_a_hash() -> None:
    for shape in ((1, 1, 3), (3, 900, 3), (640, 640, 3)):
        flat = picture_hash(np.full(shape, 7, np.uint8))
        assert same_picture(flat, picture_hash(np.full(shape, 200, np.uint8)))
