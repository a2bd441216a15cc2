"""A catalog with invented people and random vectors, written directly to its tables, and the pack of these vectors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.faces.models.model_packs import DetectorSpec, EmbedderSpec, ModelPack
from stash_sense_pipeline.faces.models.pack_fields import ChannelOrder, Layout
from stash_sense_pipeline.release.build.voyager_index import IndexParams
from stash_sense_pipeline.release.spec import ReleaseSpec
from stash_sense_pipeline_tests.catalog_copies import new_catalog
from stash_sense_pipeline_tests.factories import Rows, TrustedFace, add_rows, insert_rows, record_rows

HOSTS = {
    "stashdb": "stashdb.org",
    "theporndb": "theporndb.net",
    "fansdb": "fansdb.cc",
    "pmvstash": "pmvstash.org",
    "javstash": "javstash.org",
}
DIGESTS = {"facenet": "f" * 64, "arcface": "a" * 64}
PACK = ModelPack(
    name="test-pack",
    licence="none",
    directory=Path("pack"),
    detector=DetectorSpec(Path("pack/detector.onnx"), "d" * 64, 256, ChannelOrder.RGB, 0.5),
    embedders={
        name: EmbedderSpec(Path(f"pack/{name}.onnx"), digest, 112, Layout.NHWC, 127.5, 127.5, 512)
        for name, digest in DIGESTS.items()
    },
    flip_averaging=True,
    demo=True,
)
SPEC = ReleaseSpec(hosts=HOSTS, pack=PACK, index=IndexParams(m=12, ef_construction=100))
BEGIN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def noisy(identity: np.ndarray, rng: np.random.Generator) -> bytes:
    """A photo's vector: the identity's direction with noise, and a length that is not 1."""
    noise = rng.standard_normal(identity.shape) * 0.5
    return ((identity + noise) * rng.uniform(5, 20)).astype("<f4").tobytes()


def make_catalog(
    path: Path,
    *,
    performers: int = 40,
    faces_each: int = 4,
    seed: int = 7,
    uneven: bool = False,
    likeness: float = 0.0,
) -> sa.Engine:
    """`performers` people with `faces_each` trusted faces. Odd people have a stashdb record, even ones have two records.

    With `uneven` people have 1 to `faces_each` faces in turn. With `likeness` all people look alike: it is the length of
    a direction that they share, where the length of their own is 1. Performer ids decrease while face ids and times
    increase, so that the release order is none of these.
    """
    return new_catalog(
        path,
        _fill,
        performers=performers,
        faces_each=faces_each,
        seed=seed,
        uneven=uneven,
        likeness=likeness,
    )


def _fill(
    engine: sa.Engine, performers: int, faces_each: int, seed: int, uneven: bool, likeness: float
) -> None:
    rng = np.random.default_rng(seed)
    shared = {model: np.zeros(512) for model in DIGESTS}
    if likeness:
        shared = {model: likeness * rng.standard_normal(512) for model in DIGESTS}
    rows: Rows = {}
    for number in range(performers):
        performer_id = performers - number
        add_rows(rows, _person_rows(number, performer_id))
        directions = {model: shared[model] + rng.standard_normal(512) for model in DIGESTS}
        face_ids = range(number * faces_each + 1, (number + 1) * faces_each + 1)
        if uneven:
            face_ids = face_ids[: 1 + number % faces_each]
        add_rows(rows, _face_rows(number, performer_id, face_ids, directions, rng))
    insert_rows(engine, rows)
    merged = {"source": "stashdb", "source_id": "st-merged", "deleted_at": BEGIN, "merged_into": "st-00001"}
    insert_rows(engine, {"source_performers": [{**merged, "first_seen_at": BEGIN, "changed_at": BEGIN}]})


def _sources(number: int) -> tuple[str, ...]:
    if number % 2:
        return ("stashdb",)
    return ("pmvstash", "fansdb") if number % 4 else ("stashdb", "fansdb")


def _source_id(source: str, number: int) -> str:
    return f"{source[:2]}-{number:05d}"


def _changed_at(number: int) -> datetime:
    return BEGIN + timedelta(minutes=number)


def _person_rows(number: int, performer_id: int) -> Rows:
    at = _changed_at(number)
    rows: Rows = {"identities": [{"performer_id": performer_id, "created_at": at}]}
    for source in _sources(number):
        key = {"source": source, "source_id": _source_id(source, number)}
        record = record_rows(
            **key,
            performer_id=performer_id,
            at=at,
            name=f"Person &amp; {number}" if source == "stashdb" else f"Someone {number}",
            country=None if source == "stashdb" else "NZ",
            birth_date="1990-01" if number % 3 else None,
            height_cm=170 if source == "fansdb" else None,
            created_at=at - timedelta(days=1),
            changed_at=at + timedelta(hours=1),
        )
        add_rows(rows, record)
        add_rows(
            rows,
            {
                "performer_aliases": [{**key, "alias": f"Alias {number} of {source}"}],
                "performer_urls": [{**key, "url": f"https://www.instagram.com/person.{number}/"}],
            },
        )
    return rows


def _face_rows(
    number: int,
    performer_id: int,
    face_ids: range,
    directions: dict[str, np.ndarray],
    rng: np.random.Generator,
) -> Rows:
    rows: Rows = {}
    source = _sources(number)[0]
    for place, face_id in enumerate(face_ids):
        face = TrustedFace(
            face_id=face_id,
            performer_id=performer_id,
            source=source,
            source_id=_source_id(source, number),
            # Not in the order of face_id, so that rank decides.
            rank=len(face_ids) - 1 - place,
            image_id=f"image-{face_id}",
            url=f"https://{HOSTS[source]}/images/image-{face_id}",
            vectors={model: noisy(direction, rng) for model, direction in directions.items()},
            yaw=float(place),
        )
        add_rows(rows, face.rows(PACK, _changed_at(number)))
    return rows
