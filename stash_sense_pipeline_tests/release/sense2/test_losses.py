"""What a publish may lose, what an erasure during a publish leaves, and when an erased record comes back."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.queries.sense2.ledger import lock_ledger, read_ledger
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.privacy.erasure import erase_alone, erase_suppressed
from stash_sense_pipeline.privacy.suppression.suppression_file import SuppressionEntry
from stash_sense_pipeline.privacy.suppression.suppression_import import add_suppressions
from stash_sense_pipeline.privacy.suppression.suppression_list import hold_list, load_suppressions
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.release.checks.check_result import ReleaseRefusedError
from stash_sense_pipeline.release.sense2.history import sense2_versions
from stash_sense_pipeline.release.sense2.publish import Sense2Report, publish_sense2
from stash_sense_pipeline_tests.privacy.waiting_threads import wait_until_locked_out
from stash_sense_pipeline_tests.release.conftest import DAY
from stash_sense_pipeline_tests.release.worlds import BEGIN, PACK

from .client import install, state, update
from .conftest import SPEC
from .world import KEY, NOW, World

NEXT = DAY + timedelta(days=7)
# Of 39 performers with 156 faces. Odd people have one record, on stashdb.
SOME = tuple(f"st-{number:05d}" for number in (3, 5, 7, 9))
TRUSTED, PERFORMERS, MEMBERS = schema.trusted_faces, schema.source_performers, schema.identity_members


def without_faces(connection: sa.Connection) -> None:
    connection.execute(sa.delete(TRUSTED).where(TRUSTED.c.source_id.in_(SOME)))


def without_half_of_the_faces(connection: sa.Connection) -> None:
    """Each performer keeps a face."""
    connection.execute(sa.delete(TRUSTED).where(TRUSTED.c.face_id % 2 == 1))


def with_few_looked_at_so_far(connection: sa.Connection) -> None:
    """Another second pack: its trusted faces are those of the images that it has seen."""
    connection.execute(sa.delete(TRUSTED).where(TRUSTED.c.source_id.not_in(SOME)))


def deleted(connection: sa.Connection) -> None:
    without_faces(connection)
    connection.execute(sa.update(PERFORMERS).where(PERFORMERS.c.source_id.in_(SOME)).values(deleted_at=BEGIN))


def merged(connection: sa.Connection) -> None:
    """Into the first of them: the faces stay."""
    first, *others = SOME
    gone = sa.update(PERFORMERS).where(PERFORMERS.c.source_id.in_(others))
    connection.execute(gone.values(deleted_at=BEGIN, merged_into=first))
    survivor = sa.select(MEMBERS.c.performer_id).where(MEMBERS.c.source_id == first).scalar_subquery()
    for table in (MEMBERS, TRUSTED):
        connection.execute(
            sa.update(table).where(table.c.source_id.in_(others)).values(performer_id=survivor)
        )


def erased(connection: sa.Connection) -> None:
    erase_alone(connection, [("stashdb", record) for record in SOME], NOW)


def shrinkage(report: Sense2Report) -> dict[str, float]:
    (check,) = (check for check in report.checks if check.name == "shrinkage")
    assert check.passed
    return dict(check.numbers)


@pytest.mark.slow
@pytest.mark.parametrize("other_model", [False, True])
@pytest.mark.parametrize("loss", [without_faces, without_half_of_the_faces, with_few_looked_at_so_far])
def test_an_unexplained_loss_is_not_published_until_it_is_accepted(
    data: Path, engine: sa.Engine, loss: Callable[[sa.Connection], None], other_model: bool
) -> None:
    spec = SPEC
    with writing(engine) as connection:
        loss(connection)
        if other_model:
            connection.execute(sa.update(schema.embeddings).values(model_digest="e" * 64))
    if other_model:
        embedders = {"arcface": replace(PACK.embedders["arcface"], digest="e" * 64)}
        spec = replace(SPEC, pack=replace(PACK, embedders=embedders))
    with pytest.raises(
        ReleaseRefusedError, match=r"shrinkage: .* are gone .*--format sense2 --accept-shrink"
    ):
        publish_sense2(engine, data, spec, NEXT)
    assert sense2_versions(data) == ("2026.02.18", "2026.02.19")
    report = publish_sense2(engine, data, replace(spec, accept_shrink=True), NEXT)
    assert (report.delta is None) == other_model
    numbers = shrinkage(report)
    assert (numbers["faces_before"], numbers["faces"]) == (156, report.faces)
    assert numbers["performers_explained"] == numbers["faces_explained"] == 0
    (written,) = (
        check
        for check in json.loads((report.path / "report.json").read_text())["checks"]
        if check["name"] == "shrinkage"
    )
    assert written["numbers"] == numbers
    assert written["severity"] == "error"


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "gone", "faces"), [(deleted, 4, 16), (merged, 3, 0), (erased, 4, 16)])
def test_an_explained_loss_is_published(
    data: Path, engine: sa.Engine, loss: Callable[[sa.Connection], None], gone: int, faces: int
) -> None:
    with writing(engine) as connection:
        loss(connection)
    report = publish_sense2(engine, data, SPEC, NEXT)
    numbers = shrinkage(report)
    assert (numbers["performers_gone"], numbers["performers_explained"]) == (gone, gone)
    assert (156 - report.faces, numbers["faces_explained"]) == (faces, faces)
    assert report.delta is not None


def test_an_explained_loss_hides_no_other(data: Path, engine: sa.Engine) -> None:
    with writing(engine) as connection:
        erased(connection)
        connection.execute(sa.delete(TRUSTED).where(TRUSTED.c.source_id.in_(["st-00011", "st-00013"])))
    with pytest.raises(ReleaseRefusedError, match=r"6 of 39 performers are gone .* 4 are explained"):
        publish_sense2(engine, data, SPEC, NEXT)


# --- an erasure during a publish --------------------------------------------------------------------------------------


def made_world(engine: sa.Engine, data: Path) -> World:
    world = World(engine, data, random.Random(11))
    for _ in range(8):
        world.person()
    for record in [key for key in world.records if key[0] == "stashdb"]:
        world.picture(record)
    world.write()
    return world


@contextmanager
def before_the_first_write(engine: sa.Engine, happens: Callable[[], None]) -> Iterator[None]:
    """Calls `happens` before the first write transaction begins."""
    waiting = [happens]

    def options_are_set(connection: sa.Connection, options: dict[str, object]) -> None:
        if waiting and options.get("write"):
            waiting.pop()()

    sa.event.listen(engine, "set_connection_execution_options", options_are_set)
    yield
    sa.event.remove(engine, "set_connection_execution_options", options_are_set)
    assert not waiting


def some_record(world: World) -> RecordKey:
    return min(picture.record for picture in world.pictures.values() if picture.record[0] == "stashdb")


@pytest.mark.slow
@pytest.mark.parametrize("published", [False, True])
def test_a_person_who_is_erased_between_reading_and_numbering_is_not_in_the_ledger(
    any_catalog: sa.Engine, tmp_path: Path, published: bool
) -> None:
    world = made_world(any_catalog, tmp_path)
    record = some_record(world)
    if published:
        publish_sense2(any_catalog, tmp_path, world.spec, DAY)

    def erase() -> None:
        with writing(any_catalog) as connection:
            erase_alone(connection, [record], NOW)

    with (
        before_the_first_write(any_catalog, erase),
        pytest.raises(ReleaseError, match="the catalog changed meanwhile"),
    ):
        publish_sense2(any_catalog, tmp_path, world.spec, NEXT)
    with reading(any_catalog) as connection:
        ledger = read_ledger(connection)
    assert record not in ledger.numbers
    images = {image for image, picture in world.pictures.items() if picture.record == record}
    assert not images & {key[:2] for key in ledger.indices}
    assert publish_sense2(any_catalog, tmp_path, world.spec, NEXT).changed


@pytest.mark.slow
def test_an_erasure_locks_the_ledger_before_the_list(any_catalog: sa.Engine, tmp_path: Path) -> None:
    """As a publish does: in another order both would wait for each other."""
    world = made_world(any_catalog, tmp_path)
    source, source_id = some_record(world)
    entry = SuppressionEntry(f"{source}:{source_id}", "asked", DAY, unseen=True)
    with writing(any_catalog) as connection:
        add_suppressions(connection, KEY, [entry])
    listed = load_suppressions(any_catalog, KEY)
    erasing = threading.Thread(target=erase_suppressed, args=(any_catalog, listed, NOW))
    with writing(any_catalog) as connection:
        lock_ledger(connection)
        erasing.start()
        # SQLite has one lock, which this transaction holds.
        if any_catalog.dialect.name == "postgresql":
            assert wait_until_locked_out(any_catalog, erasing)
            # In another order the server finds that both wait for each other, and refuses this.
            connection.exec_driver_sql("SET LOCAL lock_timeout = '120s'")
        hold_list(connection)
    erasing.join(timeout=200)
    assert not erasing.is_alive()
    with reading(any_catalog) as connection:
        table = schema.source_performers.c
        left = set(connection.execute(sa.select(table.source, table.source_id)).all())
    assert (source, source_id) not in left


# --- a record that comes back -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("between", [False, True])
def test_a_record_that_is_erased_and_read_again_gets_a_new_number_on_every_client(
    any_catalog: sa.Engine, tmp_path: Path, between: bool
) -> None:
    """Its old number is removed and its new one is added: in one release not by a delta."""
    world = made_world(any_catalog, tmp_path)
    record = some_record(world)
    first = publish_sense2(any_catalog, tmp_path, world.spec, DAY)
    client = install(first.full, tmp_path / "client")
    number = ledger_number(any_catalog, record)
    with writing(any_catalog) as connection:
        erase_alone(connection, [record], NOW)
    steps = []
    if between:
        steps.append(publish_sense2(any_catalog, tmp_path, world.spec, NEXT))
    world.write()
    steps.append(publish_sense2(any_catalog, tmp_path, world.spec, NEXT))
    assert ledger_number(any_catalog, record) > number
    assert [report.delta is not None for report in steps] == ([True, True] if between else [False])
    for report in steps:
        if report.delta is None:
            assert "erased performers" in str(report.why_full)
            assert "download all of it" in (report.path / "notes.md").read_text()
        else:
            update(client, report.delta, report.version, tmp_path / f"work-{report.version}")
            assert state(client) == state(install(report.full, tmp_path / report.version))
    # Later releases have deltas again.
    world.person()
    world.picture(next(reversed(world.records)))
    world.write()
    assert publish_sense2(any_catalog, tmp_path, world.spec, NEXT).delta is not None


def ledger_number(engine: sa.Engine, record: RecordKey) -> int:
    with reading(engine) as connection:
        return read_ledger(connection).numbers[record]
