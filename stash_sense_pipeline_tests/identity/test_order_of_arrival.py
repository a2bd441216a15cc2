"""The order in which pictures arrive decides no identity, no template and no trusted face."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.identity.face_matching.trusted_faces import TrustReport, choose_trusted_faces
from stash_sense_pipeline.identity.linkage.overrides import Overrides
from stash_sense_pipeline.identity.rebuild import rebuild_identities
from stash_sense_pipeline_tests.identity.population import NOW
from stash_sense_pipeline_tests.recollected import recollected

MODELS = {"arcface": "digest-a", "facenet": "digest-f"}
HOSTS = {"stashdb": "stashdb.org", "fansdb": "fansdb.cc"}
TRUST = {"site": "low", "fansdb": "medium", "stashdb": "high"}
PEOPLE, PICTURES = 12, 6


def fill(engine: sa.Engine) -> None:
    """People with pictures of one quality. Half of the pictures are in all three sources, with the same bytes."""
    rng, numbers = np.random.default_rng(11), count(1)
    with writing(engine) as connection:
        for person in range(PEOPLE):
            connection.execute(schema.identities.insert().values(performer_id=person + 1, created_at=NOW))
            for source in TRUST:
                record = {"source": source, "source_id": f"p{person}"}
                connection.execute(
                    schema.source_performers.insert().values(
                        **record, name=f"Invented {person}", first_seen_at=NOW, changed_at=NOW
                    )
                )
                connection.execute(schema.identity_members.insert().values(**record, performer_id=person + 1))
            direction = {model: rng.standard_normal(64) for model in MODELS}
            for picture in range(PICTURES):
                vectors = {
                    model: (each + 0.5 * rng.standard_normal(64)).astype("<f4").tobytes()
                    for model, each in direction.items()
                }
                for source in TRUST if picture % 2 else ["stashdb"]:
                    add_face(connection, next(numbers), source, person, picture, vectors)


def add_face(
    connection: sa.Connection, face_id: int, source: str, person: int, picture: int, vectors: dict[str, bytes]
) -> None:
    image = {"source": source, "image_id": f"{person}-{picture}-{source}"}
    connection.execute(
        schema.source_images.insert().values(
            **image, url="u", state="done", sha256=f"{person}/{picture}", processed_at=NOW
        )
    )
    connection.execute(schema.performer_images.insert().values(**image, source_id=f"p{person}"))
    measured = {"detection_confidence": 0.9, "x1": 0, "y1": 0, "x2": 9, "y2": 9, "landmarks": b""}
    measured |= {"yaw": 0, "roll": 0, "blur": 1, "quality": 0.5}
    made = {"pack": "p", "created_at": NOW}
    connection.execute(
        schema.faces.insert().values(
            **image, **measured, **made, face_id=face_id, face_index=0, detector_digest="d"
        )
    )
    for model, vector in vectors.items():
        row = {"face_id": face_id, "model": model, "vector": vector, "model_digest": MODELS[model]}
        connection.execute(schema.embeddings.insert().values(**row, **made))


def choose(engine: sa.Engine) -> TrustReport:
    caps = dict.fromkeys(TRUST, 10)
    return choose_trusted_faces(
        engine, max_faces_per_performer=4, source_caps=caps, trust=TRUST, models=MODELS
    )


def trusted(engine: sa.Engine) -> dict[tuple[str, str], tuple[int, int, str]]:
    """The performer, the rank and the record of each trusted face, by its picture."""
    face, chosen = schema.faces.c, schema.trusted_faces.c
    query = sa.select(
        face.source, face.image_id, chosen.performer_id, chosen.rank, chosen.source_id
    ).join_from(schema.faces, schema.trusted_faces, face.face_id == chosen.face_id)
    with reading(engine) as connection:
        return {(row[0], row[1]): (row[2], row[3], row[4]) for row in connection.execute(query)}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_equal_pictures_are_chosen_alike_in_every_order_of_arrival(
    catalog: sa.Engine, tmp_path: Path, seed: int
) -> None:
    fill(catalog)
    other = recollected(catalog, tmp_path / "other.db", seed)
    assert choose(catalog).faces == choose(other).faces == 4 * PEOPLE
    assert trusted(other) == trusted(catalog)
    # Of copies in several sources the most trusted one represents the person.
    assert {source for source, _ in trusted(catalog)} == {"stashdb"}


def templates(engine: sa.Engine) -> dict[tuple[str, str], tuple[int, bytes]]:
    table = schema.face_templates.c
    query = sa.select(table.source, table.source_id, table.faces, table.vector)
    with reading(engine) as connection:
        return {(row[0], row[1]): (row[2], row[3]) for row in connection.execute(query)}


@pytest.mark.parametrize("seed", range(2))
def test_templates_and_identities_are_equal_in_every_order_of_arrival(
    catalog: sa.Engine, tmp_path: Path, seed: int
) -> None:
    fill(catalog)
    other = recollected(catalog, tmp_path / "other.db", seed)
    members = []
    for engine in (catalog, other):
        rebuild_identities(engine, HOSTS, Overrides(), NOW, models=MODELS, full=True)
        with reading(engine) as connection:
            table = schema.identity_members
            members.append(
                sorted(
                    connection.execute(
                        sa.select(table.c.source, table.c.source_id, table.c.performer_id)
                    ).all()
                )
            )
    assert len(templates(catalog)) == 3 * PEOPLE
    assert templates(other) == templates(catalog)
    assert members[0] == members[1]
