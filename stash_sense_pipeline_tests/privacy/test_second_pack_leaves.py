"""Who leaves takes the faces of both packs along, and a refused face is refused by either pack."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

import numpy as np
import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.schema import (
    embeddings,
    faces,
    identities,
    metadata,
    performer_images,
    second_trusted_faces,
    second_verdicts,
    source_images,
    trusted_faces,
)
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline.privacy.erasure import erase_suppressed
from stash_sense_pipeline.privacy.suppression.suppressed_faces import faces_near, load_templates
from stash_sense_pipeline.privacy.suppression.suppression_file import SuppressionEntry
from stash_sense_pipeline.privacy.suppression.suppression_import import add_suppressions
from stash_sense_pipeline.privacy.suppression.suppression_list import load_suppressions
from stash_sense_pipeline_tests.identity import face_world
from stash_sense_pipeline_tests.identity.population import NOW, store
from stash_sense_pipeline_tests.second_pack_rows import MODELS, add_second

KEY = bytes(range(32))
W600K = next(iter(MODELS.items()))


@dataclass
class People:
    """Two people with four pictures each. In every picture both packs have found the face."""

    engine: sa.Engine
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))
    own: dict[str, list[int]] = field(default_factory=dict)
    directions: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        make = face_world.FaceMaker(self.rng)
        store(self.engine, *(Record("stashdb", name, f"{name.title()} Sample") for name in ("mira", "vera")))
        for name in ("mira", "vera"):
            person, record = make.person(), Record("stashdb", name, name)
            self.own[name] = face_world.add_photos(
                self.engine, [(record, make.photo(person), None) for _ in range(4)]
            )
            self.directions[name] = self.rng.standard_normal(64)
        owner = {face_id: name for name, ids in self.own.items() for face_id in ids}
        self.second = add_second(self.engine, lambda face_id: self.photo(owner[face_id]))

    def photo(self, name: str) -> np.ndarray:
        """A vector of the second pack."""
        direction = self.directions[name] / np.linalg.norm(self.directions[name])
        return 5 * (direction + 0.05 * self.rng.standard_normal(64))

    def leaves(self, target: str, *, block_face: bool) -> None:
        with writing(self.engine) as connection:
            add_suppressions(
                connection,
                KEY,
                [SuppressionEntry(target, "asked", date(2026, 11, 20), block_face=block_face)],
            )
        self.erase()

    def erase(self) -> None:
        erase_suppressed(self.engine, load_suppressions(self.engine, KEY), NOW)

    def ids(self, table: sa.Table) -> set[int]:
        with reading(self.engine) as connection:
            return set(connection.scalars(sa.select(table.c.face_id)))

    def only_second(self, name: str, image_id: str) -> int:
        """A picture of a new record in which only the second pack has found a face, that of `name`."""
        store(self.engine, Record("stashdb", f"new-{image_id}", f"New {image_id}"))
        image = {"source": "stashdb", "image_id": image_id}
        with writing(self.engine) as connection:
            connection.execute(
                source_images.insert().values(
                    **image, url=f"u/{image_id}", state="rejected", reason="no_face", sha256=image_id
                )
            )
            connection.execute(performer_images.insert().values(**image, source_id=f"new-{image_id}"))
            template = connection.execute(sa.select(faces).where(faces.c.second)).first()
            assert template is not None
            face_id = int(connection.scalar(sa.select(sa.func.max(faces.c.face_id))) or 0) + 1
            connection.execute(faces.insert().values({**template._mapping, **image, "face_id": face_id}))
            connection.execute(
                embeddings.insert().values(
                    face_id=face_id,
                    model=W600K[0],
                    model_digest=W600K[1],
                    vector=self.photo(name).astype("<f4").tobytes(),
                    pack="second-pack",
                    created_at=NOW,
                )
            )
        return face_id


@pytest.fixture
def people(any_catalog: sa.Engine) -> People:
    return People(any_catalog)


def test_nothing_of_either_pack_is_left_of_who_leaves(people: People) -> None:
    people.leaves("stashdb:mira", block_face=False)
    gone = {*people.own["mira"], *(people.second[face_id] for face_id in people.own["mira"])}
    kept = {*people.own["vera"], *(people.second[face_id] for face_id in people.own["vera"])}
    assert people.ids(faces) == people.ids(embeddings) == kept
    assert not gone & kept
    with reading(people.engine) as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(second_verdicts)) == 4


@pytest.mark.slow
def test_a_refused_face_is_refused_by_either_pack(people: People) -> None:
    people.leaves("stashdb:mira", block_face=True)
    with reading(people.engine) as connection:
        (person,) = load_templates(connection, KEY).people.values()
    assert set(person) == {*face_world.MODELS.items(), W600K}
    hers, other = people.only_second("mira", "returns"), people.only_second("vera", "another")
    with reading(people.engine) as connection:
        assert faces_near(connection, load_templates(connection, KEY)) == {hers}
    people.erase()
    assert hers not in people.ids(faces)
    assert other in people.ids(faces)
    with reading(people.engine) as connection:
        images = set(connection.scalars(sa.select(source_images.c.image_id)))
    assert "returns" not in images
    assert "another" in images


@pytest.mark.slow
def test_a_face_of_the_first_pack_is_refused_as_before(people: People) -> None:
    people.leaves("stashdb:mira", block_face=True)
    with reading(people.engine) as connection:
        assert faces_near(connection, load_templates(connection, KEY)) == set()
    make = face_world.FaceMaker(np.random.default_rng(3))
    again = Record("stashdb", "again", "Again")
    store(people.engine, again)
    (face_id,) = face_world.add_photos(people.engine, [(again, make.photo(make.person()), None)])
    with reading(people.engine) as connection:
        assert faces_near(connection, load_templates(connection, KEY)) == {face_id}


@pytest.mark.parametrize("trusted_for", ["mira", "vera", None])
def test_a_shared_picture_stays_when_each_face_is_trusted_for_another_person(
    people: People, trusted_for: str | None
) -> None:
    shared = people.own["vera"][0]
    with writing(people.engine) as connection:
        connection.execute(identities.insert(), [{"performer_id": n, "created_at": NOW} for n in (1, 2)])
        image_id = connection.scalar(sa.select(faces.c.image_id).where(faces.c.face_id == shared))
        connection.execute(
            performer_images.insert().values(source="stashdb", source_id="mira", image_id=image_id)
        )
        for table, face_id, name in (
            (trusted_faces, shared, "vera"),
            (second_trusted_faces, people.second[shared], trusted_for),
        ):
            if name is not None:
                row = {
                    "face_id": face_id,
                    "performer_id": 2,
                    "source": "stashdb",
                    "source_id": name,
                    "rank": 0,
                }
                connection.execute(table.insert().values(row))
    people.leaves("stashdb:mira", block_face=False)
    assert ({shared, people.second[shared]} <= people.ids(faces)) is (trusted_for == "vera")


def test_every_table_of_the_second_pack_is_found_by_its_columns() -> None:
    """An erasure finds what belongs to a person by the names of columns."""
    for name in ("second_verdicts", "second_trusted_faces"):
        columns = set(metadata.tables[name].c.keys())
        assert {"source", "image_id"} <= columns or {"source", "source_id", "face_id"} <= columns
