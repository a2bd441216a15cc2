"""A suppressed person with tattoos is nowhere: not in the catalog, not in a file of any flavour, not in an old release."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
import voyager

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.privacy.suppression.suppression_key import load_or_create_key
from stash_sense_pipeline.privacy.suppression.suppression_list import load_suppressions
from stash_sense_pipeline.release.checks.suppression_check import check_suppressed, held_keys
from stash_sense_pipeline.release.spec import small_limits
from stash_sense_pipeline_tests.privacy.test_proof import (
    PERSON,
    SECOND,
    STRINGS,
    Operator,
    in_one_byte_a_number,
    where_found,
)
from stash_sense_pipeline_tests.release.sidecar import Sidecar
from stash_sense_pipeline_tests.release.tattoo_world import TATTOO_SPEC, add_tattoos, own_marks
from stash_sense_pipeline_tests.release.worlds import HOSTS, SPEC

THIRD = date(2026, 2, 20)
UID = "stashdb.org:st-00001"
# Performer 39 of the world.
PLACE, HINT = "behind the left ear of one", "a hint of performer 39"


SPEC_OF_BOTH = replace(TATTOO_SPEC, small=small_limits(SPEC.limits))


@pytest.fixture(scope="module")
def two_releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of an operator with two releases, for copies.

    The second has tattoos of all people in both flavours, and places of one person.
    """
    operator = Operator(tmp_path_factory.mktemp("operator") / "data")
    add_tattoos(operator.engine, own_marks(operator.engine, every=1))
    records, scans, found = schema.source_performers, schema.tattoo_scans, schema.tattoo_detections
    with writing(operator.engine) as connection:
        of_person = (records.c.source == "stashdb") & (records.c.source_id == "st-00001")
        connection.execute(sa.update(records).where(of_person).values(raw={"tattoos": [PLACE]}))
        own = sa.select(schema.trusted_faces.c.face_id).where(schema.trusted_faces.c.performer_id == 39)
        connection.execute(sa.update(found).where(found.c.face_id.in_(own)).values(location_hint=HINT))
        assert connection.scalar(sa.select(sa.func.count()).where(scans.c.face_id.in_(own))) == 3
    operator.spec = SPEC_OF_BOTH
    operator.publish(SECOND)
    operator.engine.dispose()
    return operator.data


@pytest.fixture
def operator(tmp_path: Path, two_releases: Path) -> Operator:
    shutil.copytree(two_releases, tmp_path / "data", symlinks=True)
    return Operator(tmp_path / "data", SPEC_OF_BOTH)


def tattoos_of_person(operator: Operator) -> list[bytes]:
    """The first halves of the vectors of the person's tattoos, as the catalog and the indices store them."""
    table, found, faces = schema.tattoo_embeddings, schema.tattoo_detections, schema.trusted_faces
    query = (
        sa.select(table.c.vector)
        .join(found, found.c.tattoo_id == table.c.tattoo_id)
        .join(faces, faces.c.face_id == found.c.face_id)
        .where(faces.c.performer_id == 39)
    )
    with reading(operator.engine) as connection:
        raw = [np.frombuffer(blob, "<f4") for blob in connection.scalars(query)]
    index = voyager.Index.load(str(operator.data / "releases/latest/tattoo_embeddings.voy"))
    stored = np.asarray(index.get_vectors(range(len(index))))
    nearest = [stored[int(np.argmax(stored @ vector))] for vector in raw]
    needles = [vector.astype("<f4").tobytes()[:256] for vector in (*raw, *nearest)]
    return [*needles, *(in_one_byte_a_number(vector) for vector in raw)]


@pytest.mark.slow
def test_no_byte_of_a_suppressed_persons_tattoos_is_in_any_file(operator: Operator) -> None:
    tattoos = tattoos_of_person(operator)
    assert len(tattoos) == 9
    needles = [*tattoos, *(text.encode() for text in (*STRINGS, PLACE, HINT))]
    before = where_found(operator.data, tattoos)
    assert {f"releases/2026.02.19{kind}/tattoo_embeddings.voy" for kind in ("", ".small")} <= before
    assert "stash-sense-data-v2026.02.19.zip/tattoo_embeddings.voy" in before
    assert "releases/2026.02.19/performers.db" in where_found(operator.data, [PLACE.encode()])
    assert "releases/2026.02.19/performers.db" in where_found(operator.data, [HINT.encode()])

    assert operator.runs("suppress", "add", PERSON, "--reason", "asked by mail").exit_code == 0
    assert operator.runs("suppress", "apply").exit_code == 0
    with reading(operator.engine) as connection:
        tables = (schema.tattoo_scans, schema.tattoo_detections, schema.tattoo_embeddings)
        counts = [connection.scalar(sa.select(sa.func.count()).select_from(table)) for table in tables]
    assert counts == [117, 117, 117]

    release = operator.publish(THIRD)
    entries = json.loads((release / "tattoo_embeddings.json").read_text())
    assert len(entries) == 117
    assert {"universal_id": UID} not in entries
    assert 39 not in {row["performer_id"] for row in Sidecar(release).rows("tattoo_detections")}
    assert Sidecar(release).rows("tattoos") == []
    revoked = operator.runs("releases", "revoke", "--delete")
    assert revoked.exit_code == 0, revoked.output
    assert not list((operator.data / "releases").glob("*2026.02.19*"))
    assert where_found(operator.data, needles) == set()
    operator.engine.dispose()


@pytest.mark.slow
def test_a_suppressed_person_in_the_tattoo_file_alone_is_found(operator: Operator) -> None:
    """Also in a release of another program, in which only this file names the person."""
    assert operator.runs("suppress", "add", PERSON, "--reason", "asked by mail").exit_code == 0
    assert operator.runs("suppress", "apply").exit_code == 0
    release = operator.publish(THIRD)
    key = load_or_create_key(operator.data / "suppression.key")
    listed = load_suppressions(operator.engine, key)
    copy = operator.data.parent / "copy"
    shutil.copytree(release, copy)
    assert held_keys(copy, listed, HOSTS).records == 0
    assert check_suppressed(copy, listed, HOSTS).passed
    path = copy / "tattoo_embeddings.json"
    path.write_text(json.dumps([{"universal_id": UID}, *json.loads(path.read_text())[1:]]))
    assert held_keys(copy, listed, HOSTS).records == 1
    assert not check_suppressed(copy, listed, HOSTS).passed
    operator.engine.dispose()
