"""Faces of a second pack beside those of the first, put into a catalog in bulk."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog.schema import (
    embeddings,
    faces,
    metadata,
    second_trusted_faces,
    second_verdicts,
    trusted_faces,
)
from stash_sense_pipeline.catalog.transactions import writing

DETECTOR = "2" * 64
MODELS = {"w600k": "digest-w"}
_VERDICT = ("source", "image_id", "detector_digest", "state", "reason", "judged_by", "processed_at")


def add_second(
    engine: sa.Engine, vector_of: Callable[[int], np.ndarray], *, trusted: bool = False
) -> dict[int, int]:
    """One face of a second pack for each face in the catalog, and its vector by the id of that face.

    With `trusted` it is trusted for the same person. Returns the new ids by the ids of the first pack's faces.
    """
    with writing(engine) as connection:
        first = connection.execute(sa.select(faces).where(~faces.c.second).order_by(faces.c.face_id)).all()
        last = max(row.face_id for row in first)
        new = {row.face_id: last + place for place, row in enumerate(first, start=1)}
        own = {"pack": "second-pack", "detector_digest": DETECTOR, "second": True}
        connection.execute(
            faces.insert(), [{**row._mapping, "face_id": new[row.face_id], **own} for row in first]
        )
        connection.execute(
            embeddings.insert(),
            [
                {
                    "face_id": new[row.face_id],
                    "model": model,
                    "vector": vector_of(row.face_id).astype("<f4").tobytes(),
                    "pack": "second-pack",
                    "model_digest": digest,
                    "created_at": row.created_at,
                }
                for row in first
                for model, digest in MODELS.items()
            ],
        )
        verdicts = [(row.source, row.image_id, DETECTOR, "done", None, "", row.created_at) for row in first]
        connection.execute(
            second_verdicts.insert(), [dict(zip(_VERDICT, row, strict=True)) for row in verdicts]
        )
        if trusted:
            rows = connection.execute(sa.select(trusted_faces)).all()
            connection.execute(
                second_trusted_faces.insert(),
                [{**row._mapping, "face_id": new[row.face_id]} for row in rows],
            )
    return new


_KEY = "uq_faces_source_image_id_detector_digest_face_index"
_OLD_KEY = "uq_faces_source_image_id_face_index"


def make_older(engine: sa.Engine) -> None:
    """Takes a catalog back to revision 0020, before the second pack, with all rows of the first pack."""
    with engine.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            # Those of the revisions 0022 and 0026.
            if table.name.startswith(("sense2_", "tattoo_")):
                table.drop(connection)
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE second_verdicts, second_trusted_faces")
            connection.exec_driver_sql(f"ALTER TABLE faces DROP COLUMN second, DROP CONSTRAINT {_KEY}")
            connection.exec_driver_sql(
                f"ALTER TABLE faces ADD CONSTRAINT {_OLD_KEY} UNIQUE (source, image_id, face_index)"
            )
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0020'")
        return
    raw = engine.raw_connection()
    cursor = raw.cursor()
    cursor.execute("PRAGMA foreign_keys=OFF")
    cursor.execute("DROP TABLE second_verdicts")
    cursor.execute("DROP TABLE second_trusted_faces")
    (last,) = cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = 'faces'").fetchone()
    (sql,) = cursor.execute("SELECT sql FROM sqlite_schema WHERE name = 'faces'").fetchone()
    sql = sql.replace("second BOOLEAN DEFAULT 0 NOT NULL", "").replace('"faces"', "older_faces")
    sql = sql.replace(_KEY, _OLD_KEY).replace("detector_digest, face_index)", "face_index)")
    columns = [row[1] for row in cursor.execute("PRAGMA table_info(faces)") if row[1] != "second"]
    cursor.execute("\n".join(line for line in sql.splitlines() if line.strip(" ,\t")))
    cursor.execute(f"INSERT INTO older_faces SELECT {', '.join(columns)} FROM faces")
    cursor.execute("DROP TABLE faces")
    cursor.execute("ALTER TABLE older_faces RENAME TO faces")
    cursor.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'faces'", (last,))
    cursor.execute("UPDATE alembic_version SET version_num = '0020'")
    cursor.execute("PRAGMA foreign_keys=ON")
    raw.commit()
    raw.close()
