"""A catalog of any size with trusted faces and vectors, written directly to its tables, for benchmarks of the release."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline_tests.bench.index_corner import manifold, owners_of
from stash_sense_pipeline_tests.factories import Rows, TrustedFace, add_rows, insert_rows, record_rows
from stash_sense_pipeline_tests.release.worlds import DIGESTS, PACK

_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_ROWS_A_BATCH = 5_000


def fill(path: Path, faces: int, people_with_one: bool = False) -> sa.Engine:
    """A catalog at `path` with `faces` trusted faces, each with two vectors. A person has 3.4 on average, or one."""
    engine = open_catalog(f"sqlite:///{path}")
    rng = np.random.default_rng(3)
    owners = owners_of(faces)
    if people_with_one:
        owners = np.arange(faces)
    people, owner = np.unique(owners, return_inverse=True)
    insert_rows(engine, _people(len(people)))
    vectors = {model: manifold(owner, seed) for seed, model in enumerate(DIGESTS, start=1)}
    # Faces have ids in the order of their images, and are released in the order of their performers.
    places = rng.permutation(faces)
    rank = np.arange(faces) - np.searchsorted(owners, owners)
    for start in range(0, faces, _ROWS_A_BATCH):
        batch = range(start, min(start + _ROWS_A_BATCH, faces))
        insert_rows(engine, _faces(batch, places, owner, rank, vectors))
    return engine


def _source_id(number: int) -> str:
    """An id in the format of stash-box."""
    return f"00000000-0000-4000-8000-{number:012d}"


def _people(count: int) -> Rows:
    rows: Rows = {"identities": [{"performer_id": number + 1, "created_at": _AT} for number in range(count)]}
    for number in range(count):
        for source in ("stashdb", "fansdb") if number % 2 else ("stashdb",):
            key = {"source": source, "source_id": _source_id(number)}
            fields = {"name": f"Person {number}", "country": "NZ", "birth_date": "1990-01-02"}
            add_rows(rows, record_rows(**key, performer_id=number + 1, at=_AT, **fields))
            aliases = [{**key, "alias": f"Alias {number} {source} {other}"} for other in range(3)]
            add_rows(rows, {"performer_aliases": aliases})
    return rows


def _faces(
    batch: range, places: np.ndarray, owner: np.ndarray, rank: np.ndarray, vectors: dict[str, np.ndarray]
) -> Rows:
    rows: Rows = {}
    for number in batch:
        place = int(places[number])
        performer = int(owner[place])
        face = TrustedFace(
            face_id=number + 1,
            performer_id=performer + 1,
            source="stashdb",
            source_id=_source_id(performer),
            rank=int(rank[place]),
            image_id=f"image-{number}",
            url=f"https://stashdb.org/images/{number}",
            vectors={model: (vectors[model][place] * 10).astype("<f4").tobytes() for model in PACK.embedders},
        )
        add_rows(rows, face.rows(PACK, _AT))
    return rows
