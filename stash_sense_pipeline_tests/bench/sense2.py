"""What a sense2 release costs: the full zip, and the delta of 300 people, at a tenth of the largest catalog and at it.

400,000 faces may take 10 minutes for a full release and 60 seconds for the delta; a tenth of them a tenth of the time.
The delta reads and compares all faces. The index is built by one thread and grows a little faster than the number of
faces.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.foundation.files import make_directory
from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS
from stash_sense_pipeline.release.sense2.content import read_numbered_content
from stash_sense_pipeline.release.sense2.delta import find_changes, write_delta
from stash_sense_pipeline.release.sense2.publish import publish_sense2
from stash_sense_pipeline.release.sense2.vectors import read_model_vectors
from stash_sense_pipeline.release.spec import Sense2Spec
from stash_sense_pipeline_tests.bench.release_catalog import fill
from stash_sense_pipeline_tests.bench.table import Row
from stash_sense_pipeline_tests.release.conftest import DAY
from stash_sense_pipeline_tests.release.worlds import HOSTS, PACK

_SMALL = 40_000
_LARGE = 400_000
_PEOPLE = 300
_FULL_SECONDS, _DELTA_SECONDS = 600.0, 60.0
_SPEC = Sense2Spec(HOSTS, PACK, "arcface")


def rows(number: int) -> Iterator[Row]:
    """A full release of `number` faces, then the delta of people with another name and other vectors."""
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory)
        engine = fill(data / "catalog.db", number)
        begun = time.monotonic()
        report = publish_sense2(engine, data, _SPEC, DAY)
        share = number / _LARGE
        name = f"sense2: full release of {number:,} faces, with all checks"
        yield Row(name, time.monotonic() - begun, "s", _FULL_SECONDS * share)
        size = report.full.stat().st_size / number
        yield Row("sense2: full zip, bytes a face", size, "B")
        _change(engine)
        begun = time.monotonic()
        archive, faces = _delta(engine, data)
        name = f"sense2: delta of {_PEOPLE} people in {number:,} faces"
        yield Row(name, time.monotonic() - begun, "s", _DELTA_SECONDS * share)
        yield Row("sense2: delta, bytes a face", archive.stat().st_size / faces, "B", 1200)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        yield Row(
            f"sense2: memory of both and of the invented catalog of {number:,} faces", peak / 2**20, "GiB"
        )
        engine.dispose()


def _change(engine: sa.Engine) -> None:
    """300 people have another name, and other vectors of all their faces."""
    embeddings, rng = schema.embeddings, np.random.default_rng(5)
    with writing(engine) as connection:
        people = schema.trusted_faces.c.performer_id <= _PEOPLE
        for face in (
            connection.execute(sa.select(schema.trusted_faces.c.face_id).where(people)).scalars().all()
        ):
            vector = rng.standard_normal(512).astype("<f4").tobytes()
            changed = (embeddings.c.model == "arcface", embeddings.c.face_id == face)
            connection.execute(sa.update(embeddings).where(*changed).values(vector=vector))
        records = sa.select(schema.identity_members.c.source_id).where(
            schema.identity_members.c.performer_id <= _PEOPLE
        )
        named = schema.source_performers.c.source_id.in_(records)
        connection.execute(sa.update(schema.source_performers).where(named).values(name="Another name"))


def _delta(engine: sa.Engine, data: Path) -> tuple[Path, int]:
    """The steps of a publish that lead to the delta zip, and its number of faces."""
    content = read_numbered_content(engine, HOSTS)
    vectors = read_model_vectors(engine, content.order, PACK, "arcface", NO_SUPPRESSIONS)
    changes = find_changes(content, vectors.rounded)
    assert len(changes.performers) >= _PEOPLE * 0.9, len(changes.performers)
    directory = data / "delta" / "files"
    make_directory(directory)
    versions = ("2026.02.18", "2026.02.19")
    return write_delta(content, vectors.rounded, changes, versions, directory), len(changes.faces)


PARTS = {"sense2": partial(rows, _SMALL), "sense2_large": partial(rows, _LARGE)}
