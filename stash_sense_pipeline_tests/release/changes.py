"""Changes of a released catalog, and the state of the published releases."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.foundation.files import sha256_file

FIRST = "2026.02.18"
NEXT = "2026.02.18.1"


def opened(data: Path) -> sa.Engine:
    return open_catalog(f"sqlite:///{data / 'catalog.db'}")


def rename_a_performer(engine: sa.Engine) -> None:
    one = schema.source_performers.c.source_id == "st-00001"
    with writing(engine) as connection:
        connection.execute(sa.update(schema.source_performers).where(one).values(name="Renamed"))


def forget_a_face(engine: sa.Engine, face_id: int) -> None:
    with writing(engine) as connection:
        connection.execute(sa.delete(schema.trusted_faces).where(schema.trusted_faces.c.face_id == face_id))


def fingerprint(releases: Path) -> dict[str, str]:
    found = {"latest": str((releases / "latest").readlink())}
    for path in sorted((releases / FIRST).iterdir()):
        found[path.name] = sha256_file(path)
    found["zip"] = sha256_file(releases / f"stash-sense-data-v{FIRST}.zip")
    return found
