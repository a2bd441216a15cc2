"""A catalog of any size with trusted faces and vectors, written directly to its tables, for benchmarks of the release."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline_tests.bench.index_corner import PHOTOS_EACH, manifold
from stash_sense_pipeline_tests.release.worlds import DIGESTS, PACK

_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_ROWS_A_BATCH = 5_000


def fill(path: Path, faces: int, people_with_one: bool = False) -> sa.Engine:
    """A catalog at `path` with `faces` trusted faces, each with two vectors. A person has 3.4 on average, or one."""
    engine = open_catalog(f"sqlite:///{path}")
    rng = np.random.default_rng(3)
    owners = np.sort(rng.integers(0, max(1, int(faces / PHOTOS_EACH)), faces))
    if people_with_one:
        owners = np.arange(faces)
    people, owner = np.unique(owners, return_inverse=True)
    _insert(engine, _people(len(people)))
    vectors = {model: manifold(faces, seed) for seed, model in enumerate(DIGESTS, start=1)}
    # Faces have ids in the order of their images, and are released in the order of their performers.
    places = rng.permutation(faces)
    rank = np.arange(faces) - np.searchsorted(owners, owners)
    for start in range(0, faces, _ROWS_A_BATCH):
        batch = range(start, min(start + _ROWS_A_BATCH, faces))
        _insert(engine, _faces(batch, places, owner, rank, vectors))
    return engine


def _insert(engine: sa.Engine, rows: dict[str, list[dict[str, Any]]]) -> None:
    with writing(engine) as connection:
        for table, batch in rows.items():
            connection.execute(sa.insert(schema.metadata.tables[table]), batch)


def _people(count: int) -> dict[str, list[dict[str, Any]]]:
    records, members, aliases, identities = [], [], [], []
    for number in range(count):
        identities.append({"performer_id": number + 1, "created_at": _AT})
        for source in ("stashdb", "fansdb") if number % 2 else ("stashdb",):
            key = {"source": source, "source_id": f"{source}-{number:07d}"}
            records.append(
                {
                    **key,
                    "name": f"Person {number}",
                    "country": "NZ",
                    "gender": "FEMALE",
                    "birth_date": "1990-01-02",
                    "updated_at": _AT,
                    "content_hash": "0" * 64,
                    "first_seen_at": _AT,
                    "changed_at": _AT,
                }
            )
            members.append({**key, "performer_id": number + 1})
            aliases += [{**key, "alias": f"Alias {number} {source} {other}"} for other in range(3)]
    return {
        "identities": identities,
        "source_performers": records,
        "identity_members": members,
        "performer_aliases": aliases,
    }


def _faces(
    batch: range, places: np.ndarray, owner: np.ndarray, rank: np.ndarray, vectors: dict[str, np.ndarray]
) -> dict[str, list[dict[str, Any]]]:
    images, shown, faces, trusted, embeddings = [], [], [], [], []
    for number in batch:
        place = int(places[number])
        performer = int(owner[place])
        image = {"source": "stashdb", "image_id": f"image-{number}"}
        source_id = f"stashdb-{performer:07d}"
        images.append(
            {**image, "url": f"https://stashdb.org/images/{number}", "state": "done", "attempts": 1}
        )
        shown.append({**image, "source_id": source_id})
        faces.append(
            {
                **image,
                "face_id": number + 1,
                "face_index": 0,
                "detection_confidence": 0.9,
                "x1": 0.0,
                "y1": 0.0,
                "x2": 100.0,
                "y2": 100.0,
                "landmarks": bytes(40),
                "yaw": 1.0,
                "roll": 0.0,
                "blur": 100.0,
                "quality": 0.5,
                "pack": PACK.name,
                "detector_digest": PACK.detector.digest,
                "created_at": _AT,
            }
        )
        trusted.append(
            {
                "face_id": number + 1,
                "performer_id": performer + 1,
                "source": "stashdb",
                "source_id": source_id,
                "rank": int(rank[place]),
            }
        )
        embeddings += [
            {
                "face_id": number + 1,
                "model": model,
                "vector": (vectors[model][place] * 10).astype("<f4").tobytes(),
                "pack": PACK.name,
                "model_digest": digest,
                "created_at": _AT,
            }
            for model, digest in DIGESTS.items()
        ]
    return {
        "source_images": images,
        "performer_images": shown,
        "faces": faces,
        "trusted_faces": trusted,
        "embeddings": embeddings,
    }
