"""Losses of people and faces since the last release, explained and unexplained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.privacy.suppression.suppression_hashes import record_hash
from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS, Suppressions
from stash_sense_pipeline.release.checks.shrinkage import Losses, deleted_check, find_losses, shrink_check
from stash_sense_pipeline.release.promotion import ReleaseReport
from stash_sense_pipeline.release.publish import publish_release
from stash_sense_pipeline.release.spec import Limits

from .worlds import BEGIN, SPEC

World = tuple[Path, ReleaseReport]
KEY = b"k" * 32
PERFORMERS = schema.source_performers
# Performers 39 and 37 have one record each, on stashdb.
ONE, OTHER = ("stashdb", "st-00001"), ("stashdb", "st-00003")


def without_faces_of(connection: sa.Connection, performer_id: int) -> None:
    faces = schema.trusted_faces
    connection.execute(sa.delete(faces).where(faces.c.performer_id == performer_id))


def delete_record(connection: sa.Connection, merged_into: str | None) -> None:
    gone = PERFORMERS.c.source_id == ONE[1]
    connection.execute(sa.update(PERFORMERS).where(gone).values(deleted_at=BEGIN, merged_into=merged_into))


def move_record(connection: sa.Connection) -> None:
    members = schema.identity_members
    moved = members.c.source_id == ONE[1]
    connection.execute(sa.update(members).where(moved).values(performer_id=37))


def erase_record(connection: sa.Connection) -> None:
    members = schema.identity_members
    connection.execute(sa.delete(members).where(members.c.source_id == ONE[1]))
    connection.execute(sa.delete(PERFORMERS).where(PERFORMERS.c.source_id == ONE[1]))


SUPPRESSED = Suppressions(key=KEY, records=frozenset({record_hash(KEY, *ONE)}))
REASONS: dict[str, tuple[Callable[[sa.Connection], None], Suppressions, int, int]] = {
    "deleted upstream": (lambda connection: delete_record(connection, None), NO_SUPPRESSIONS, 1, 4),
    "merged upstream": (lambda connection: delete_record(connection, "st-00003"), NO_SUPPRESSIONS, 1, 4),
    "joined with another": (move_record, NO_SUPPRESSIONS, 1, 4),
    "suppressed": (erase_record, SUPPRESSED, 1, 4),
    "erased without a reason": (erase_record, NO_SUPPRESSIONS, 0, 0),
    "without faces": (lambda connection: None, NO_SUPPRESSIONS, 0, 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("reason", REASONS)
def test_a_loss_is_explained_by_deletion_merge_or_suppression_only(data: Path, reason: str) -> None:
    change, suppressions, people, faces = REASONS[reason]
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    with writing(engine) as connection:
        without_faces_of(connection, 39)
        change(connection)
    old = (data / "releases" / "latest").resolve()
    spec = replace(SPEC, limits=Limits(accept_shrink=True), suppressions=suppressions)
    report = publish_release(engine, data, "again", spec, date(2026, 2, 19))
    assert report.changed
    losses = find_losses(engine, old, report.path, suppressions)
    assert losses == Losses(40, 39, 1, 160, 156, people, faces)
    assert shrink_check(losses, allowed=0.02).passed is (people == 1)


def test_an_unexplained_shrink_above_the_limit_is_refused_unless_accepted() -> None:
    def check(people: int, faces: int, explained: tuple[int, int] = (0, 0), **options: bool) -> bool:
        losses = Losses(1000, people, 1000 - people, 4000, faces, *explained)
        return shrink_check(losses, allowed=0.02, **options).passed

    assert check(985, 3950)
    assert not check(970, 4000)
    assert not check(1000, 3900)
    assert check(900, 3600, (90, 350))
    assert check(500, 100, accepted=True)
    failed = shrink_check(Losses(1000, 970, 30, 4000, 4000, 5, 0), allowed=0.02)
    assert "--accept-shrink" in failed.detail
    assert failed.numbers["performers_explained"] == 5


def test_new_people_do_not_offset_lost_people() -> None:
    failed = shrink_check(Losses(1000, 1500, 30, 4000, 6000, 5, 0), allowed=0.02)
    assert not failed.passed
    assert "30 of 1000 performers are gone (1500 now), of which 5 are explained" in failed.detail
    assert shrink_check(Losses(1000, 1500, 25, 4000, 6000, 5, 0), allowed=0.02).passed


@pytest.mark.slow
@pytest.mark.parametrize("photos_elsewhere", [1, 0])
def test_a_deleted_record_explains_its_faces_though_another_record_lives(
    data: Path, photos_elsewhere: int
) -> None:
    """Performer 40 has records on stashdb, which deletes its record and photos, and on fansdb."""
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    old = (data / "releases" / "latest").resolve()
    faces = schema.trusted_faces
    of_person = sa.select(faces.c.face_id).where(faces.c.performer_id == 40).limit(photos_elsewhere)
    with writing(engine) as connection:
        moved = {"source": "fansdb", "source_id": "fa-00000"}
        connection.execute(
            sa.update(faces).where(faces.c.face_id.in_(of_person.scalar_subquery())).values(moved)
        )
        connection.execute(
            sa.delete(faces).where(faces.c.performer_id == 40, faces.c.source_id == "st-00000")
        )
        connection.execute(
            sa.update(PERFORMERS).where(PERFORMERS.c.source_id == "st-00000").values(deleted_at=BEGIN)
        )
    report = publish_release(
        engine, data, "again", replace(SPEC, limits=Limits(accept_shrink=True)), date(2026, 2, 19)
    )
    losses = find_losses(engine, old, report.path, NO_SUPPRESSIONS)
    gone = 1 - photos_elsewhere
    lost = 4 - photos_elsewhere
    assert losses == Losses(40, 40 - gone, gone, 160, 160 - lost, gone, lost)


def test_a_deleted_record_in_a_release_is_found(world: World, data: Path) -> None:
    engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
    release = (data / "releases" / "latest").resolve()
    assert deleted_check(engine, release).passed
    with writing(engine) as connection:
        delete_record(connection, None)
    failed = deleted_check(engine, release)
    assert not failed.passed
    assert "performer 39" in failed.detail
