"""Refused faces: many at once give the same result as one by one."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline.identity.relatives import IdentityRelatives
from stash_sense_pipeline.privacy.erasure import ErasureScope, erase_suppressed
from stash_sense_pipeline.privacy.suppression.suppressed_faces import (
    SuppressedFace,
    SuppressedFaces,
    load_templates,
)
from stash_sense_pipeline.privacy.suppression.suppression_file import SuppressionEntry
from stash_sense_pipeline.privacy.suppression.suppression_import import add_suppressions
from stash_sense_pipeline.privacy.suppression.suppression_list import load_suppressions
from stash_sense_pipeline_tests.identity import face_world
from stash_sense_pipeline_tests.identity.population import HOSTS, NOW, store

MODELS = [("facenet", "f"), ("arcface", "a"), ("other", "o")]


@pytest.mark.slow
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


VERDICTS = {
    "not_this_person of the record": "not_this_person:\n- [stashdb:i{}, stashdb:mira]\n",
    "not_this_person of a record that was merged into it": "not_this_person:\n- [stashdb:i{}, stashdb:old]\n",
    "not_a_face": "not_a_face:\n- stashdb:i{}\n",
}


@pytest.mark.parametrize("verdict", [None, "not_this_person of another", *VERDICTS])
def test_a_face_that_a_verdict_disowns_enters_no_template(
    catalog: sa.Engine, tmp_path: Path, verdict: str | None
) -> None:
    key = bytes(range(32))
    make = face_world.FaceMaker(np.random.default_rng(3))
    mira, vera = make.person(), make.person()
    record = Record("stashdb", "mira", "Mira Sample")
    old = Record("stashdb", "old", "Mira Old", live=False, merged_into="mira")
    store(catalog, record, old, Record("stashdb", "vera", "Vera Else"))
    own = [make.photo(mira) for _ in range(4)]
    *_, wrong = face_world.add_photos(catalog, [(record, photo, None) for photo in (*own, make.photo(vera))])
    overrides = tmp_path / "identity_overrides.yaml"
    if verdict is not None:
        line = VERDICTS.get(verdict, "not_this_person:\n- [stashdb:i{}, stashdb:vera]\n")
        overrides.write_text(line.format(wrong))
    with writing(catalog) as connection:
        entry = SuppressionEntry("stashdb:mira", "asked", date(2026, 11, 20), block_face=True)
        add_suppressions(connection, key, [entry])
    scope = ErasureScope(relatives=IdentityRelatives(HOSTS, overrides))
    erase_suppressed(catalog, load_suppressions(catalog, key), NOW, scope)
    with reading(catalog) as connection:
        (person,) = load_templates(connection, key).people.values()
    assert len(person) == 2
    clean = verdict in VERDICTS
    for model, digest in face_world.MODELS.items():
        mean = np.mean([photo[model] / np.linalg.norm(photo[model]) for photo in own], axis=0)
        template = person[model, digest]
        assert (template.vector @ mean / np.linalg.norm(mean) > 0.9999) is np.bool_(clean)
        assert (template.radius < 0.4) is clean
