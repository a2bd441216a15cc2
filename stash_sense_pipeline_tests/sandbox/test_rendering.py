"""The renderer is a pure function of its seeds, and its boxes and landmarks are where it drew them."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stash_sense_pipeline.sandbox.invented.rendered_person import (
    DEMO_SEEDS,
    HELD_OUT_SEEDS,
    TRAIN_SEEDS,
    make_person,
)
from stash_sense_pipeline.sandbox.invented.rendering import (
    encode_jpeg,
    render_group,
    render_portrait,
    render_scenery,
)

_DIGESTS = """
import hashlib
from stash_sense_pipeline.sandbox.invented.rendered_person import make_person
from stash_sense_pipeline.sandbox.invented.rendering import render_group, render_portrait, render_scenery
people = [make_person(seed) for seed in (3, 4)]
for photo in (render_portrait(people[0], 7), render_group(people, 7), render_scenery(7)):
    print(hashlib.sha256(photo.image.tobytes()).hexdigest())
"""


def _digests():
    people = [make_person(seed) for seed in (3, 4)]
    photos = (render_portrait(people[0], 7), render_group(people, 7), render_scenery(7))
    return [hashlib.sha256(photo.image.tobytes()).hexdigest() for photo in photos]


@pytest.mark.slow
def test_equal_seeds_give_equal_bytes_in_another_process_too():
    np.random.seed(5)
    state = np.random.get_state()[1].copy()
    here = _digests()
    np.random.seed(6)
    assert _digests() == here
    np.random.seed(5)
    _digests()
    assert (np.random.get_state()[1] == state).all()
    there = subprocess.run([sys.executable, "-c", _DIGESTS], capture_output=True, text=True, check=True)
    assert there.stdout.split() == here


def test_different_seeds_give_different_photos():
    person, other = make_person(3), make_person(4)
    images = [render_portrait(person, 7), render_portrait(person, 8), render_portrait(other, 7)]
    assert len({photo.image.tobytes() for photo in images}) == 3
    assert person != other


def test_seed_ranges_are_disjoint():
    ranges = sorted((DEMO_SEEDS, HELD_OUT_SEEDS, TRAIN_SEEDS), key=lambda seeds: seeds.start)
    assert all(first.stop <= second.start for first, second in itertools.pairwise(ranges))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 2**31), st.floats(0, 45))
def test_a_portrait_has_one_face_inside_the_picture_with_landmarks_in_order(person, seed, max_yaw):
    photo = render_portrait(make_person(person), seed, max_yaw=max_yaw)
    assert photo.image.shape == (500, 400, 3)
    assert photo.image.dtype == np.uint8
    (face,) = photo.faces
    x1, y1, x2, y2 = face.box
    assert 0 <= x1 < x2 <= 400
    assert 0 <= y1 < y2 <= 500
    assert min(x2 - x1, y2 - y1) > 80
    assert face.landmarks.shape == (5, 2)
    assert face.landmarks.dtype == np.float32
    assert ((face.landmarks > (x1, y1)) & (face.landmarks < (x2, y2))).all()
    left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
    assert left_eye[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < max(left_mouth[1], right_mouth[1])


def test_faces_in_a_group_photo_do_not_overlap_and_are_large_enough():
    people = [make_person(seed) for seed in range(5)]
    photo = render_group(people, 1)
    assert len(photo.faces) == 5
    boxes = np.array([face.box for face in photo.faces])
    assert (boxes[1:, 0] > boxes[:-1, 2]).all()
    assert (boxes[:, 2:] - boxes[:, :2] > 80).all()


def test_a_group_photo_without_people_is_refused():
    with pytest.raises(ValueError, match="render_scenery"):
        render_group([], 1)


def test_scenery_has_no_face():
    assert render_scenery(1, (320, 300)).faces == ()
    assert render_scenery(1, (320, 300)).image.shape == (300, 320, 3)


def test_choosing_how_a_person_presents_keeps_the_other_looks():
    people = [make_person(9, feminine=choice) for choice in (True, False)]
    assert [person.feminine for person in people] == [True, False]
    assert people[0].skin == people[1].skin
    assert people[0].jaw_width == people[1].jaw_width
    assert people[0].moles == people[1].moles
    assert people[0].forehead_lines == people[1].forehead_lines
    assert people[0].beard == people[0].moustache == people[0].goatee == 0


def test_jpeg_keeps_the_channels_in_order():
    image = np.zeros((32, 32, 3), np.uint8)
    image[..., 0] = 250
    decoded = cv2.imdecode(np.frombuffer(encode_jpeg(image), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert decoded[16, 16, 2] > 200  # OpenCV's red is last
    assert decoded[16, 16, 0] < 60
