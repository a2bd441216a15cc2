"""Changes of the catalog of `worlds.make_catalog`, between two releases."""

from __future__ import annotations

import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.transactions import writing

# Performer 40 has the faces 1 to 4, all of stashdb:st-00000; performer 39 those of stashdb:st-00001.
GONE_FACES = (1, 2, 3, 4)
RENAMED = "st-00001"


def change(engine: sa.Engine) -> None:
    """One person loses all faces, one has another name, one face another vector."""
    with writing(engine) as connection:
        connection.execute(
            sa.delete(schema.trusted_faces).where(schema.trusted_faces.c.face_id.in_(GONE_FACES))
        )
        record = schema.source_performers.c.source_id == RENAMED
        connection.execute(sa.update(schema.source_performers).where(record).values(name="Another name"))
        one = (schema.embeddings.c.face_id == 17, schema.embeddings.c.model == "arcface")
        other = sa.select(schema.embeddings.c.vector).where(
            schema.embeddings.c.face_id == 16, schema.embeddings.c.model == "arcface"
        )
        vector = connection.execute(other).scalar_one()
        connection.execute(sa.update(schema.embeddings).where(*one).values(vector=vector))
