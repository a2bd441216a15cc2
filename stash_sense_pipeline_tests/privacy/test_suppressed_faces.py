"""Refused faces: many at once give the same result as one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.privacy.suppression.suppressed_faces import SuppressedFace, SuppressedFaces

MODELS = [("facenet", "f"), ("arcface", "a"), ("other", "o")]


@given(
    st.integers(0, 10_000),
    st.lists(st.sets(st.sampled_from(MODELS)), max_size=8),
    st.sets(st.sampled_from(MODELS)),
)
def test_a_face_is_refused_when_all_common_embedders_find_it_near(
    seed: int, people: list[set[tuple[str, str]]], present: set[tuple[str, str]]
) -> None:
    rng = np.random.default_rng(seed)

    def direction() -> np.ndarray:
        vector = rng.standard_normal(3).astype("f4")
        return vector / np.linalg.norm(vector)

    templates = SuppressedFaces(
        {
            str(number): {
                model: SuppressedFace(direction(), float(rng.uniform(0.2, 1.2))) for model in sorted(models)
            }
            for number, models in enumerate(people)
        }
    )
    vectors = {model: rng.standard_normal((7, 3)).astype("f4") * 5 for model in sorted(present)}

    def refused(face: int) -> bool:
        return any(
            all(
                1 - vectors[model][face] / np.linalg.norm(vectors[model][face]) @ person[model].vector
                <= person[model].radius
                for model in person.keys() & present
            )
            for person in templates.people.values()
            if person.keys() & present
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stash_sense_pipeline.privacy.suppression.suppressed_faces._FACES_A_PRODUCT", 3)
        found = templates.near(vectors)
    assert found.tolist() == ([refused(face) for face in range(7)] if present else [])
