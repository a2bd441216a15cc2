"""Invented tattoos in the pictures of a catalog's trusted faces, written directly to its tables."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.queries.tattoos.scans import TattooModels
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.release.build.tattoos.tattoo_rows import TattooSpec
from stash_sense_pipeline_tests.release.worlds import BEGIN, SPEC

MODELS = TattooModels(detector="1" * 64, embedder="2" * 64)
TATTOOS = TattooSpec("test-pack", MODELS, min_coverage=0.9)
TATTOO_SPEC = replace(SPEC, tattoos=TATTOOS)
DIMENSIONS = 1280


def trusted_faces(engine: sa.Engine) -> dict[int, list[int]]:
    """The trusted faces of each performer, by id."""
    found: dict[int, list[int]] = defaultdict(list)
    columns = schema.trusted_faces.c
    with reading(engine) as connection:
        for performer_id, face_id in connection.execute(
            sa.select(columns.performer_id, columns.face_id).order_by(columns.performer_id, columns.face_id)
        ):
            found[performer_id].append(face_id)
    return dict(found)


def own_marks(engine: sa.Engine, *, every: int = 2, seed: int = 3) -> dict[int, list[np.ndarray]]:
    """Vectors of the tattoos in the picture of each face: `every` second person, say, has one that all pictures show."""
    rng = np.random.default_rng(seed)
    marks: dict[int, list[np.ndarray]] = {}
    for performer_id, face_ids in trusted_faces(engine).items():
        direction = rng.standard_normal(DIMENSIONS)
        for face_id in face_ids:
            noisy = direction + 0.3 * rng.standard_normal(DIMENSIONS)
            marks[face_id] = [noisy] if performer_id % every == 0 else []
    return marks


def of_others(engine: sa.Engine, seed: int = 3) -> dict[int, list[np.ndarray]]:
    """Vectors that mislead: the picture with number n of a person shows the tattoo of the person that follows by n."""
    rng = np.random.default_rng(seed)
    people = trusted_faces(engine)
    directions = {performer_id: rng.standard_normal(DIMENSIONS) for performer_id in people}
    order = sorted(people)
    return {
        face_id: [directions[order[(place + number) % len(order)]] + 0.1 * rng.standard_normal(DIMENSIONS)]
        for place, performer_id in enumerate(order)
        for number, face_id in enumerate(people[performer_id])
    }


def add_tattoos(
    engine: sa.Engine,
    marks: dict[int, list[np.ndarray]],
    *,
    waiting: frozenset[int] = frozenset(),
    models: TattooModels = MODELS,
) -> None:
    """Stores a scan for each face, and its tattoos with unit vectors. Those of the faces `waiting` get no vector."""
    with writing(engine) as connection:
        for face_id, vectors in marks.items():
            scan = {"face_id": face_id, "detector_digest": models.detector, "tattoos": len(vectors)}
            connection.execute(sa.insert(schema.tattoo_scans).values(**scan, scanned_at=BEGIN))
            for place, vector in enumerate(vectors):
                _add_tattoo(connection, face_id, place, None if face_id in waiting else vector, models)


def _add_tattoo(
    connection: sa.Connection, face_id: int, place: int, vector: np.ndarray | None, models: TattooModels
) -> None:
    row = {"face_id": face_id, "tattoo_index": place, "confidence": 0.75 - place / 100}
    row |= {
        "x": 0.1 + place / 50,
        "y": 1 / 3,
        "width": 0.2,
        "height": 0.25,
        "location_hint": "left upper body",
    }
    inserted = connection.execute(sa.insert(schema.tattoo_detections).values(**row))
    tattoo_id = inserted.inserted_primary_key[0]
    if vector is not None:
        unit = (vector / np.linalg.norm(vector)).astype("<f4").tobytes()
        made = {"pack": "test-pack", "model_digest": models.embedder, "created_at": BEGIN}
        values = {"tattoo_id": tattoo_id, "vector": unit, **made}
        connection.execute(sa.insert(schema.tattoo_embeddings).values(**values))
