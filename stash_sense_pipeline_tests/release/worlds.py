"""A catalog with invented people and random vectors, filled straight into the tables, and a pack that made them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.faces.models.model_packs import (
    ChannelOrder,
    DetectorSpec,
    EmbedderSpec,
    Layout,
    ModelPack,
)
from stash_sense_pipeline.release.build.voyager_index import IndexParams
from stash_sense_pipeline.release.spec import ReleaseSpec

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


def spread(identity: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A photo's vector: the identity's direction with noise, and a length that is not 1."""
    noise = rng.standard_normal(identity.shape) * 0.5
    return ((identity + noise) * rng.uniform(5, 20)).astype("<f4")


def make_catalog(path: Path, *, performers: int = 40, faces_each: int = 4, seed: int = 7) -> sa.Engine:
    """`performers` people with `faces_each` trusted faces; each has a stashdb record, every second one also another."""
    engine = open_catalog(f"sqlite:///{path}")
    fill_catalog(engine, performers=performers, faces_each=faces_each, seed=seed)
    return engine


def fill_catalog(engine: sa.Engine, *, performers: int, faces_each: int, seed: int = 7) -> None:
    rng = np.random.default_rng(seed)
    rows: dict[str, list[dict]] = {
        name: []
        for name in (
            "source_performers",
            "performer_aliases",
            "performer_urls",
            "source_images",
            "performer_images",
            "faces",
            "identities",
            "identity_members",
            "trusted_faces",
            "embeddings",
        )
    }
    face_id = 0
    # Catalog numbers go down while face numbers go up: release order must not be either by chance.
    for number in range(performers):
        performer_id = performers - number
        sources = (
            ["stashdb"] if number % 2 else ["pmvstash", "fansdb"] if number % 4 else ["stashdb", "fansdb"]
        )
        at = BEGIN + timedelta(minutes=number)
        rows["identities"].append({"performer_id": performer_id, "created_at": at})
        for source in sources:
            source_id = f"{source[:2]}-{number:05d}"
            rows["source_performers"].append(
                {
                    "source": source,
                    "source_id": source_id,
                    "name": f"Person &amp; {number}" if source == "stashdb" else f"Someone {number}",
                    "country": None if source == "stashdb" else "NZ",
                    "gender": "FEMALE",
                    "birth_date": "1990-01" if number % 3 else None,
                    "height_cm": 170 if source == "fansdb" else None,
                    "updated_at": at,
                    "content_hash": "0" * 64,
                    "first_seen_at": at,
                    "changed_at": at + timedelta(hours=1),
                }
            )
            rows["performer_aliases"].append(
                {"source": source, "source_id": source_id, "alias": f"Alias {number} of {source}"}
            )
            rows["performer_urls"].append(
                {
                    "source": source,
                    "source_id": source_id,
                    "url": f"https://www.instagram.com/person.{number}/",
                }
            )
            rows["identity_members"].append(
                {"source": source, "source_id": source_id, "performer_id": performer_id}
            )
        owner = sources[0]
        directions = {model: rng.standard_normal(512) for model in DIGESTS}
        for rank in range(faces_each):
            face_id += 1
            image_id = f"image-{face_id}"
            url = f"https://{HOSTS[owner]}/images/{image_id}"
            row = {"source": owner, "image_id": image_id}
            rows["source_images"].append({**row, "url": url, "state": "done", "attempts": 1})
            rows["performer_images"].append({**row, "source_id": f"{owner[:2]}-{number:05d}"})
            rows["faces"].append(
                {
                    **row,
                    "face_id": face_id,
                    "face_index": 0,
                    "detection_confidence": 0.9,
                    "x1": 0.0,
                    "y1": 0.0,
                    "x2": 100.0,
                    "y2": 100.0,
                    "landmarks": np.zeros((5, 2), "<f4").tobytes(),
                    "yaw": float(rank),
                    "roll": 0.0,
                    "blur": 100.0,
                    "quality": 0.5,
                    "pack": PACK.name,
                    "detector_digest": PACK.detector.digest,
                    "created_at": at,
                }
            )
            rows["trusted_faces"].append(
                {
                    "face_id": face_id,
                    "performer_id": performer_id,
                    "source": owner,
                    "source_id": f"{owner[:2]}-{number:05d}",
                    # Not in the order of face_id, so that rank decides.
                    "rank": faces_each - 1 - rank,
                }
            )
            rows["embeddings"] += [
                {
                    "face_id": face_id,
                    "model": model,
                    "vector": spread(directions[model], rng).tobytes(),
                    "pack": PACK.name,
                    "model_digest": digest,
                    "created_at": at,
                }
                for model, digest in DIGESTS.items()
            ]
    with writing(engine) as connection:
        for table, batch in rows.items():
            connection.execute(sa.insert(schema.metadata.tables[table]), batch)
        connection.execute(
            sa.insert(schema.source_performers),
            [
                {
                    "source": "stashdb",
                    "source_id": "st-merged",
                    "name": None,
                    "deleted_at": BEGIN,
                    "merged_into": "st-00001",
                    "first_seen_at": BEGIN,
                    "changed_at": BEGIN,
                }
            ],
        )
