"""Counts of each source: faces and embeddings of the whole table, records of complete performers."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.status import completeness, face_counts, source_status
from stash_sense_pipeline.catalog.schema import embeddings, faces, identity_members
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline_tests.release.worlds import make_catalog


def test_the_counts_of_faces_are_those_of_the_table_of_a_source(tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "catalog.db")
    with writing(engine) as connection:
        (bare,) = connection.scalars(sa.select(sa.func.min(faces.c.face_id)))
        connection.execute(sa.delete(embeddings).where(embeddings.c.face_id == bare))
    with reading(engine) as connection:
        by_source = dict(
            connection.execute(sa.select(faces.c.source, sa.func.count()).group_by(faces.c.source)).all()
        )
        of_bare = connection.scalar(sa.select(faces.c.source).where(faces.c.face_id == bare))
    assert by_source
    for source, count in by_source.items():
        assert face_counts(engine, source) == (count, count - (source == of_bare))
    assert face_counts(engine, "nosuch") == (0, 0)
    engine.dispose()


def test_the_complete_records_of_a_source_are_those_of_performers_with_enough_faces(tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "catalog.db")
    with reading(engine) as connection:
        member = identity_members.c
        records = dict(
            connection.execute(sa.select(member.source, sa.func.count()).group_by(member.source)).all()
        )
    for status in source_status(engine, sorted(records), 1):
        assert status.complete <= records[status.source]
    complete, incomplete = completeness(engine, 1)
    assert complete + incomplete > 0
    everyone = source_status(engine, sorted(records), 0)
    assert {status.source: status.complete for status in everyone} == records
    assert all(status.complete == 0 for status in source_status(engine, sorted(records), 10**6))
    engine.dispose()
