"""Syncs of a stash-box over real HTTP: the catalog equals the server, and nothing is lost, invented or revived."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.queries import performers
from stash_sense_pipeline.catalog.queries.sync_state import SyncState, load_state, save_state
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.foundation.errors import Outcome
from stash_sense_pipeline.privacy.suppression.suppression_hashes import record_hash, url_hashes
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.faults import Fault, FaultKind
from stash_sense_pipeline.sandbox.invented.clock import from_micros
from stash_sense_pipeline.sandbox.invented.pictures import Picture
from stash_sense_pipeline.sandbox.servers import SandboxServers
from stash_sense_pipeline.sandbox.stash_box.database import Box
from stash_sense_pipeline.sandbox.stash_box.rows import BoxOptions, Link, Moment, Ties
from stash_sense_pipeline.sources.sync_rules import SyncRules
from stash_sense_pipeline_tests.sources.conftest import refresh_from
from stash_sense_pipeline_tests.sources.truth import buried, differences, images, links, live, rows

KEY = b"k" * 32


def state_of(engine: sa.Engine, source: str = "stashdb") -> SyncState:
    """The row of sync_state."""
    with reading(engine) as connection:
        return load_state(connection, source)


def fill(box: Box, count: int, images_each: int = 1) -> list[str]:
    """Adds performers with an alias, and with images of their own."""
    first = len(box.performers)
    return [
        box.create(
            name=f"Person {number:04}",
            aliases=[f"P{number}"],
            images=[box.upload(Picture(10 * number + each, size=(40, 50))) for each in range(images_each)],
        )
        for number in range(first, first + count)
    ]


def small_pages(connector: Any) -> None:
    """Reduces the page sizes, so that a small stash-box has many pages."""
    connector.records_a_page, connector.listed_a_page, connector.details_a_request = 10, 15, 5


# --- backfill -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_backfill_equals_the_demo_world(any_catalog: sa.Engine) -> None:
    world = make_demo_world(people=60)
    with SandboxServers(world) as servers:
        for name, box in world.boxes.items():
            report = refresh_from(servers, any_catalog, name, "auto", adjust=small_pages)
            assert (report.mode, report.outcome) == ("backfill", Outcome.FOUND)
            assert differences(any_catalog, box) == []
            assert report.added == report.live == report.listed == box.count()
            assert report.images_added == len(images(any_catalog, name))
            assert report.server_version == "v0.10.2"


@pytest.mark.slow
@pytest.mark.parametrize("ties", list(Ties))
@pytest.mark.parametrize("cap", [None, 8])
def test_performers_with_equal_timestamps_are_all_read(refresh, catalog, box, ties, cap):
    box.options = BoxOptions(ties=ties, per_page_cap=cap)
    keys = fill(box, 120)
    box.touch(keys[20:110])
    refresh(adjust=small_pages)
    assert differences(catalog, box) == []
    box.touch(keys[5:100])
    box.edit(keys[50], height=180)
    refresh(adjust=small_pages)
    assert differences(catalog, box) == []


@pytest.mark.slow
def test_performers_added_after_an_empty_backfill_are_read(refresh, catalog, box):
    report = refresh()
    assert (report.outcome, report.live) == (Outcome.FOUND, 0)
    (key,) = fill(box, 1)
    assert refresh().added == 1
    assert live(catalog) == {key}


@pytest.mark.slow
def test_a_second_backfill_lists_all_ids_and_reads_no_unchanged_record(refresh, catalog, box):
    """After a run that was killed after its last page, the next run requests no details."""
    fill(box, 100)
    refresh(adjust=small_pages)
    with writing(catalog) as connection:
        connection.execute(sa.delete(schema.sync_state))
    report = refresh(adjust=small_pages)
    assert (report.mode, report.added, report.updated) == ("backfill", 0, 0)
    assert report.requests < 20
    assert state_of(catalog).backfilled_at is not None


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 3, 8, 12, 19])
def test_a_backfill_that_a_failure_ends_is_continued_by_the_next_run(
    refresh, catalog, box, fresh_sandbox, after
):
    fill(box, 200)
    down = fresh_sandbox.traffic.inject(
        Fault(FaultKind.STATUS, box="stashdb", status=502, skip=after, times=None)
    )
    report = refresh(adjust=small_pages)
    assert report.outcome is Outcome.TIMEOUT
    assert report.message is not None
    state = state_of(catalog)
    assert (state.updated_watermark, state.backfilled_at, state.last_outcome) == (None, None, "timeout")
    assert state.last_message == report.message
    kept = len(live(catalog))
    assert down.done
    fresh_sandbox.traffic.clear_faults()
    report = refresh(adjust=small_pages)
    assert report.added == 200 - kept
    assert differences(catalog, box) == []


@pytest.mark.slow
@pytest.mark.parametrize(("request_number", "stored"), [(3, False), (40, True)])
def test_a_killed_backfill_keeps_its_records_and_is_continued(
    catalog, fresh_sandbox, box, request_number, stored
):
    """A process is killed: the rows that it committed are kept, and the next run continues from them."""
    fill(box, 400)
    url = catalog.url.render_as_string()
    asked, started = [], threading.Event()

    def kill(moment: Moment) -> None:
        assert started.wait(120)
        asked.extend([moment] if moment is Moment.RECEIVED else [])
        if len(asked) < request_number or process.poll() is not None:
            return
        give_up = time.monotonic() + 120
        while stored and not live(catalog) and time.monotonic() < give_up:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    box.observers.append(kill)
    program = f"""
import sys
from stash_sense_pipeline_tests.sources.kill_me import main
main({url!r}, {fresh_sandbox.endpoint("stashdb")!r}, {box.api_key!r})
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    started.set()
    assert process.wait(timeout=280) == -signal.SIGKILL
    box.observers.clear()
    before = len(live(catalog))
    assert (before > 0) is stored
    assert before < 400
    report = refresh_from(fresh_sandbox, catalog, "stashdb", "auto", adjust=small_pages)
    assert report.added == 400 - before
    assert differences(catalog, box) == []


# --- increments -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_unchanged_day_costs_three_requests_and_no_write(refresh, catalog, box):
    fill(box, 300)
    box.touch(list(box.performers))
    refresh()
    before = rows(catalog)
    report = refresh()
    assert report.requests <= 3
    assert (report.mode, report.added, report.updated, report.unchanged) == ("increment", 0, 0, 300)
    assert rows(catalog) == before


@pytest.mark.slow
def test_three_hundred_changes_cost_few_requests(refresh, catalog, box):
    keys = fill(box, 500)
    refresh()
    box.clock.advance(3 * 86_400)
    for number, key in enumerate(keys[:300]):
        box.edit(key, height=150 + number % 30)
    report = refresh()
    assert report.updated == 300
    assert report.requests - 300 // 25 <= 20
    assert differences(catalog, box) == []


@pytest.mark.slow
def test_an_increment_stores_edits_images_deletions_merges_and_new_performers(refresh, catalog, box):
    edited, bare, gone, loser, survivor, pictured = fill(box, 6)
    refresh()
    site = box.site_for("Somewhere", "https://some.example")
    box.edit(edited, name="Another", aliases=[], urls=[Link("https://some.example/1", site)])
    box.add_image(pictured, Picture(999, size=(40, 50)))
    box.destroy(gone)
    box.merge([loser], survivor)
    new = box.create(name="New")
    box.bump(bare)
    report = refresh()
    assert (report.added, report.updated, report.removed, report.merged) == (1, 3, 1, 1)
    assert report.images_added == 1
    assert differences(catalog, box) == []
    assert new in live(catalog)
    assert buried(catalog) == {gone: None, loser: survivor}


@pytest.mark.slow
def test_a_new_time_of_change_without_a_change_keeps_changed_at(refresh, catalog, box):
    (key,) = fill(box, 1)
    refresh()
    before = rows(catalog)[key]
    box.bump(key)
    assert refresh().updated == 0
    after = rows(catalog)[key]
    assert after.changed_at == before.changed_at
    assert after.updated_at > before.updated_at
    box.edit(key, height=180)
    refresh()
    assert rows(catalog)[key].changed_at > before.changed_at


@pytest.mark.slow
def test_a_late_commit_below_the_watermark_is_read(refresh, catalog, box):
    keys = fill(box, 50)
    refresh()
    began = box.clock.now()
    box.edit(keys[0], height=150)
    refresh()
    assert state_of(catalog).updated_watermark > from_micros(began)
    box.edit(keys[1], height=199, at=began - 3_600_000_000)
    refresh()
    assert rows(catalog)[keys[1]].height_cm == 199


@pytest.mark.slow
def test_a_clock_that_steps_back_an_hour_loses_nothing(refresh, catalog, box):
    keys = fill(box, 50)
    refresh()
    box.clock.advance(-3600)
    box.edit(keys[0], height=199)
    added = box.create(name="In the second hour")
    box.destroy(keys[1])
    refresh()
    assert rows(catalog)[keys[0]].height_cm == 199
    assert added in live(catalog)
    assert keys[1] in buried(catalog)


@pytest.mark.slow
@pytest.mark.parametrize("ours", [timedelta(hours=-1), timedelta(hours=1), timedelta(days=-3000)])
def test_the_local_clock_never_becomes_the_watermark(refresh, catalog, box, ours):
    def now() -> datetime:
        return from_micros(box.clock.now()) + ours

    keys = fill(box, 30)
    refresh(now=now)
    box.edit(keys[3], height=199)
    refresh(now=now)
    assert differences(catalog, box) == []
    newest = max(row.updated_at for row in rows(catalog).values())
    assert state_of(catalog).updated_watermark in (newest, None)


@pytest.mark.slow
def test_a_time_far_ahead_does_not_hide_later_changes(refresh, catalog, box):
    keys = fill(box, 30)
    ahead = box.clock.now() + 365 * 86_400_000_000
    box.edit(keys[0], height=150, at=ahead)
    refresh()
    assert state_of(catalog).updated_watermark < from_micros(ahead)
    box.clock.advance(10 * 86_400)
    box.edit(keys[1], height=199)
    refresh()
    assert differences(catalog, box) == []


@pytest.mark.slow
def test_a_change_inside_a_request_is_settled_by_the_next_sweep(refresh, catalog, box):
    """After a change inside a request the next sweep equals the server, and no live record is removed before it."""
    keys = fill(box, 60)
    left = keys[:40]

    def disturb(moment: Moment) -> None:
        if not left:
            return
        key = left.pop()
        if moment is Moment.COUNTED:
            box.destroy(key)
        elif moment is Moment.SELECTED:
            box.merge([key], keys[-1])
        elif moment is Moment.ANSWERED:
            box.edit(key, name=f"Aa {key}")

    box.observers.append(disturb)
    refresh(adjust=small_pages)
    box.observers.clear()
    assert not buried(catalog).keys() & {key for key, row in box.performers.items() if not row.deleted}
    refresh("full_sweep", adjust=small_pages)
    assert differences(catalog, box) == []


@pytest.mark.slow
def test_a_performer_being_deleted_does_not_lose_its_pictures_before_it_is_known(refresh, catalog, box):
    """The server reads the rows, then the performer is merged, then it reads empty lists: a second request shows it."""
    loser, survivor, _ = fill(box, 3)
    refresh()
    (image,) = box.joins[loser].images
    mark_done(catalog, image)
    box.bump(loser)
    merged = []

    def merge(moment: Moment) -> None:
        if moment is Moment.SELECTED and not merged and box.options.version == "now":
            merged.append(True)
            box.hold_edits()  # the edit is closed in a later transaction
            box.merge([loser], survivor)

    box.observers.append(merge)
    requests = 0

    def arm(moment: Moment) -> None:
        nonlocal requests
        requests += moment is Moment.RECEIVED
        if requests == 3:  # the description and the head came before
            box.options = BoxOptions(version="now")

    box.observers.insert(0, arm)
    refresh()
    assert merged
    assert buried(catalog) == {loser: survivor}
    assert images(catalog)[image].state == "done"
    assert links(catalog, schema.performer_images.c.image_id)[survivor] >= {image}


def mark_done(engine: sa.Engine, image_id: str) -> None:
    """Gives an image the state that the faces stage leaves."""
    table = schema.source_images
    with writing(engine) as connection:
        connection.execute(
            sa.update(table).where(table.c.image_id == image_id).values(state="done", sha256="ab")
        )


# --- merges and deletions -------------------------------------------------------------------------


@pytest.mark.slow
def test_pictures_of_a_merged_performer_follow_the_survivor(refresh, catalog, box):
    loser, survivor = fill(box, 2, images_each=2)
    refresh()
    kept, dropped = box.joins[loser].images
    for image in (kept, dropped):
        mark_done(catalog, image)
    box.merge([loser], survivor, images=[*box.joins[survivor].images, kept])
    refresh()
    assert images(catalog)[kept].state == "done"
    assert dropped not in images(catalog)
    assert differences(catalog, box) == []


@pytest.mark.slow
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("changelog", [False, True])
def test_a_chain_of_merges_leads_to_the_last_survivor(refresh, catalog, box, legacy, changelog):
    box.options = BoxOptions(legacy_schema=legacy, changelog=changelog)
    first, second, third, _ = fill(box, 4)
    refresh()
    box.merge([first], second)
    refresh()
    assert buried(catalog) == {first: second}
    box.merge([second], third)
    refresh("full_sweep")
    assert buried(catalog) == {first: third, second: third}
    box.destroy(third)
    refresh("full_sweep")
    assert live(catalog).isdisjoint({first, second, third})
    assert differences(catalog, box, tells_targets=not legacy) == []


@pytest.mark.slow
def test_a_tombstone_keeps_nothing_of_the_person(refresh, catalog, box):
    (key,) = fill(box, 1)
    box.edit(key, height=170, country="DE", birth_date="1980")
    refresh()
    box.destroy(key)
    refresh()
    row = rows(catalog)[key]._mapping
    kept = {name for name, value in row.items() if value not in (None, {})}
    assert kept == {
        *("source", "source_id", "name", "created_at", "updated_at", "deleted_at"),
        *("first_seen_at", "changed_at"),
    }
    assert images(catalog) == {}


def test_a_merge_from_before_the_first_backfill_becomes_a_tombstone(refresh, catalog, box):
    """A link of another source may still name the merged id."""
    loser, survivor = fill(box, 2)
    box.merge([loser], survivor)
    refresh()
    assert buried(catalog) == {loser: survivor}
    assert rows(catalog)[loser].name is None


@pytest.mark.slow
def test_a_hard_deletion_waits_for_the_sweep(refresh, catalog, box):
    keys = fill(box, 30)
    refresh()
    box.hard_delete(keys[3])
    assert refresh().removed == 0
    report = refresh("full_sweep")
    assert (report.mode, report.removed) == ("sweep", 1)
    assert differences(catalog, box) == []


@pytest.mark.slow
def test_a_destroyed_image_waits_for_the_sweep(refresh, catalog, box):
    keys = fill(box, 3, images_each=2)
    refresh()
    box.destroy_image(box.joins[keys[0]].images[0])
    refresh()
    assert len(images(catalog)) == 6
    refresh("full_sweep")
    assert differences(catalog, box) == []
    assert len(images(catalog)) == 5


@pytest.mark.slow
def test_a_sweep_lists_on_while_the_catalog_is_still_being_read(
    refresh, catalog, box, fresh_sandbox, monkeypatch
):
    keys = fill(box, 200, images_each=2)
    refresh()
    box.destroy_image(box.joins[keys[7]].images[0])
    box.hard_delete(keys[150])
    read, asked = performers.held_records, fresh_sandbox.traffic.requests
    before = len(asked("stashdb"))
    listed_meanwhile = []

    def read_late(connection: sa.Connection, source: str, *of: Any) -> Any:
        held = read(connection, source, *of)
        until = time.monotonic() + 120
        while len(asked("stashdb")) < before + 14 and time.monotonic() < until:
            time.sleep(0.01)
        listed_meanwhile.append(len(asked("stashdb")) - before)
        return held

    monkeypatch.setattr(performers, "held_records", read_late)
    refresh("full_sweep", adjust=small_pages)
    assert listed_meanwhile[0] >= 14  # of 200 / 15 pages and the description
    assert differences(catalog, box) == []


@pytest.mark.slow
def test_a_restored_performer_is_live_again(refresh, catalog, box):
    loser, survivor, gone = fill(box, 3)
    refresh()
    box.merge([loser], survivor)
    box.destroy(gone)
    refresh()
    box.restore(loser, aliases=["Back"])
    box.restore(gone)
    refresh()
    assert live(catalog) == {loser, survivor, gone}
    refresh("full_sweep")
    assert differences(catalog, box) == []


@pytest.mark.slow
def test_a_destroy_edit_of_a_live_performer_deletes_nothing(refresh, catalog, box):
    """The DESTROY edit exists, but the performer is live: an administrator reverted it."""
    (key, _) = fill(box, 2)
    refresh()
    box.destroy(key)
    box.restore(key)
    refresh()
    assert key in live(catalog)


@pytest.mark.slow
def test_a_tombstone_with_a_deleted_survivor_names_no_survivor(refresh, catalog, box):
    loser, survivor, _ = fill(box, 3)
    refresh()
    box.merge([loser], survivor)
    refresh()
    box.hard_delete(survivor)
    refresh("full_sweep")
    assert buried(catalog) == {loser: None, survivor: None}


@pytest.mark.slow
def test_a_live_performer_that_another_names_as_merged_is_kept(refresh, catalog, box, fresh_sandbox):
    alive, other, _ = fill(box, 3)
    refresh()
    box.bump(other)

    def claim(document: Any) -> Any:
        for row in document["data"].values():
            if row["id"] == other:
                row["merged_ids"] = [alive]
        return document

    fresh_sandbox.traffic.inject(
        Fault(FaultKind.REWRITE, box="stashdb", containing="query Details", rewrite=claim)
    )
    refresh()
    assert alive in live(catalog)


@pytest.mark.slow
def test_late_and_vanished_edits_do_not_hide_a_removal(refresh, catalog, box):
    first, second, *_ = fill(box, 30)
    refresh()
    box.hold_edits()
    box.destroy(first)
    assert refresh().removed == 0
    box.clock.advance(7200)
    box.close_edits()
    assert refresh().removed == 1
    box.destroy(second)
    for edit in list(box.edits):
        box.delete_edit(edit)
    assert refresh().removed == 0
    assert refresh("full_sweep").removed == 1


@pytest.mark.slow
@pytest.mark.parametrize("legacy", [False, True])
def test_deletions_are_read_from_the_changelog_without_edits(refresh, catalog, box, fresh_sandbox, legacy):
    box.options = BoxOptions(changelog=True, legacy_schema=legacy)
    keys = fill(box, 40)
    refresh()
    box.merge([keys[0]], keys[1])
    box.destroy(keys[2])
    box.edit(keys[3], height=181)
    fresh_sandbox.traffic.clear_requests()
    report = refresh()
    assert (report.merged, report.removed, report.updated) == (1, 1, 2)
    assert differences(catalog, box) == []
    assert not [each for each in fresh_sandbox.traffic.requests("stashdb") if "queryEdits(" in each.payload]


# --- mass disappearance ---------------------------------------------------------------------------


def hide(share: float) -> Fault:
    """A bug of the server: lists by name lack performers, and the count is without them."""

    def rewrite(document: Any) -> Any:
        result = document.get("data", {}).get("queryPerformers")
        if result:
            shown = [row for row in result["performers"] if int(row["id"][:4], 16) >= share * 65_536]
            document["data"]["queryPerformers"] = {"count": len(shown), "performers": shown}
        return document

    return Fault(FaultKind.REWRITE, box="stashdb", containing='"sort":"NAME"', times=None, rewrite=rewrite)


@pytest.mark.slow
def test_a_mass_disappearance_is_refused_and_reported_with_its_numbers(refresh, catalog, box, fresh_sandbox):
    fill(box, 200)
    refresh()
    fresh_sandbox.traffic.inject(hide(0.5))
    report = refresh("full_sweep")
    assert report.outcome is Outcome.AMBIGUOUS
    assert report.removed == 0
    assert 60 < report.refused < 140
    assert report.missing == {"count": report.refused, "live": 200, "allowed": 10}
    assert f"{report.refused} of 200" in (report.message or "")
    assert len(live(catalog)) == 200
    assert state_of(catalog).last_outcome == "ambiguous"


@pytest.mark.slow
def test_performers_that_two_sweeps_lack_are_requested_before_they_are_deleted(
    refresh, catalog, box, fresh_sandbox
):
    fill(box, 100)
    refresh()
    fresh_sandbox.traffic.inject(hide(0.5))
    refresh("full_sweep")
    report = refresh("full_sweep")
    assert report.removed == 0
    assert len(live(catalog)) == 100


@pytest.mark.slow
def test_a_mass_disappearance_is_believed_after_a_second_sweep_with_the_same_result(refresh, catalog, box):
    keys = fill(box, 100)
    refresh()
    for key in keys[:40]:
        box.hard_delete(key)
    first = refresh("full_sweep")
    assert (first.outcome, first.removed, first.refused) == (Outcome.AMBIGUOUS, 0, 40)
    assert refresh().outcome is Outcome.FOUND  # an increment between them changes nothing of it
    second = refresh("full_sweep")
    assert (second.outcome, second.removed, second.refused) == (Outcome.FOUND, 40, 0)
    assert differences(catalog, box) == []
    assert "missing" not in state_of(catalog).detail


@pytest.mark.slow
def test_a_second_sweep_believes_only_ids_missing_in_both_sweeps(refresh, catalog, box):
    keys = fill(box, 100)
    refresh()
    for key in keys[:30]:
        box.hard_delete(key)
    refresh("full_sweep")
    for key in keys[30:60]:
        box.hard_delete(key)
    report = refresh("full_sweep")
    assert (report.outcome, report.removed, report.refused) == (Outcome.AMBIGUOUS, 30, 30)
    assert refresh("full_sweep").removed == 30
    assert differences(catalog, box) == []


@pytest.mark.slow
def test_the_limits_of_a_disappearance_can_be_set(refresh, catalog, box):
    keys = fill(box, 100)
    refresh()
    for key in keys[:3]:
        box.hard_delete(key)
    assert refresh("full_sweep", rules=SyncRules(missing_count=2)).refused == 3
    # More than 1 % or more than 20 are too many, up to 10 are always allowed.
    assert [SyncRules().allowed_missing(live) for live in (5, 100, 1000, 1500, 2000, 100_000)] == [
        *(10, 10, 10, 15, 20, 20)
    ]


@pytest.mark.slow
def test_a_deleted_performer_and_a_destroyed_image_leave_no_data_after_the_run(refresh, catalog, box):
    """Faces, crops and vectors of a deleted performer and of a destroyed image, down to the bytes of the file."""
    gone, kept = fill(box, 2)
    refresh()
    with writing(catalog) as connection:
        for key in (gone, kept):
            for image in image_ids_of(connection, key):
                give_face(connection, image, key)
    assert len(marks(catalog)) == 2
    box.destroy(gone)
    refresh()
    assert marks(catalog) == {f"vector of {kept}".encode()}
    box.destroy_image(box.joins[kept].images[0])
    refresh("full_sweep")
    assert marks(catalog) == set()
    path = Path(str(catalog.url.database))
    files = b"".join(each.read_bytes() for each in path.parent.glob(f"{path.name}*"))
    assert b"vector of" not in files
    assert b"crop of" not in files


def image_ids_of(connection, key):
    table = schema.performer_images
    return connection.scalars(sa.select(table.c.image_id).where(table.c.source_id == key)).all()[:1]


def give_face(connection, image_id, key):
    numbers = dict.fromkeys(
        ["detection_confidence", "x1", "y1", "x2", "y2", "yaw", "roll", "blur", "quality"], 1.0
    )
    made = {"pack": "p", "created_at": datetime(2026, 1, 1, tzinfo=UTC)}
    source = connection.scalar(sa.select(schema.source_images.c.source).limit(1))
    (face_id,) = connection.execute(
        sa.insert(schema.faces).values(
            source=source,
            image_id=image_id,
            face_index=0,
            landmarks=b"",
            detector_digest="d",
            **numbers,
            **made,
        )
    ).inserted_primary_key
    vector = {"model": "m", "model_digest": "d", "vector": f"vector of {key}".encode()}
    connection.execute(sa.insert(schema.embeddings).values(face_id=face_id, **vector, **made))
    connection.execute(sa.insert(schema.aligned_crops).values(face_id=face_id, png=f"crop of {key}".encode()))


def marks(catalog):
    with reading(catalog) as connection:
        crops = connection.scalars(sa.select(schema.aligned_crops.c.png)).all()
        vectors = set(connection.scalars(sa.select(schema.embeddings.c.vector)))
    assert len(crops) == len(vectors)
    return vectors


# --- performers that are not stored ----------------------------------------------------------------------------


@pytest.mark.slow
def test_suppressed_people_are_not_stored_and_not_asked_for(refresh, catalog, box):
    hidden, linked, shown = fill(box, 3)
    site = box.site_for("Somewhere", "https://some.example")
    box.edit(linked, urls=[Link("https://some.example/her", site)])
    suppressions = Suppressions(
        KEY,
        records=frozenset({record_hash(KEY, "stashdb", hidden)}),
        urls=frozenset(url_hashes(KEY, "https://some.example/her")),
    )
    report = refresh(suppressions=suppressions)
    assert report.suppressed == 2
    assert rows(catalog).keys() == {shown}
    assert refresh(suppressions=suppressions).requests <= 3
    # A performer merged with her at the source is the same person.
    box.merge([hidden], shown)
    refresh("full_sweep", suppressions=suppressions)
    assert rows(catalog).keys() == set()


@pytest.mark.slow
def test_ids_of_records_suppressed_during_a_run_are_not_in_its_state(refresh, catalog, box):
    """The run holds the ids from its start, and writes them at its end."""
    left, other = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"
    fill(box, 5)
    refresh()
    with writing(catalog) as connection:
        state = load_state(connection, "stashdb")
        missing = {"ids": [left, other], "count": 2, "live": 5, "allowed": 1}
        save_state(connection, replace(state, detail={**state.detail, "missing": missing}))
    refresh(suppressions=Suppressions(KEY, records=frozenset({record_hash(KEY, "stashdb", left)})))
    assert state_of(catalog).detail["missing"]["ids"] == [other]


@pytest.mark.slow
def test_a_record_that_becomes_suppressed_is_deleted_when_it_is_read(refresh, catalog, box):
    key, shown = fill(box, 2)
    refresh()
    site = box.site_for("Somewhere", "https://some.example")
    box.edit(key, urls=[Link("https://some.example/her", site)])
    refresh(suppressions=Suppressions(KEY, urls=frozenset(url_hashes(KEY, "https://some.example/her"))))
    assert rows(catalog).keys() == {shown}
    assert len(images(catalog)) == 1


@pytest.mark.slow
def test_a_performer_under_18_is_not_stored_and_not_read_in_every_run(refresh, catalog, box):
    young, corrected, grown = fill(box, 3)
    box.edit(young, birth_date="2015-01")
    box.edit(grown, birth_date="1980")
    report = refresh()
    assert report.not_adult == 1
    assert rows(catalog).keys() == {corrected, grown}
    again = refresh()
    assert (again.requests, again.not_adult) == (3, 0)
    sweep = refresh("full_sweep")
    assert sweep.requests <= 4
    box.edit(corrected, birth_date="2014")
    refresh()
    assert rows(catalog).keys() == {grown}
    box.edit(young, birth_date="1985-01")
    refresh()
    assert rows(catalog).keys() == {young, grown}


@pytest.mark.slow
def test_a_performer_who_became_18_is_read_again(refresh, catalog, box):
    (key,) = fill(box, 1)
    born = from_micros(box.clock.now()).year - 17
    box.edit(key, birth_date=f"{born}-01-01")
    refresh()
    assert rows(catalog) == {}
    box.clock.advance(400 * 86_400)
    refresh("full_sweep")
    assert rows(catalog).keys() == {key}


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (Fault(FaultKind.STATUS, status=401), Outcome.BLOCKED),
        (Fault(FaultKind.STATUS, status=403), Outcome.BLOCKED),
        (Fault(FaultKind.STATUS, status=429, times=None), Outcome.RATE_LIMITED),
        (Fault(FaultKind.STATUS, status=429, retry_after="86400", times=None), Outcome.RATE_LIMITED),
        (Fault(FaultKind.STATUS, status=503, times=None), Outcome.TIMEOUT),
        (Fault(FaultKind.STATUS, status=422, times=None), Outcome.PARSE_ERROR),
        (Fault(FaultKind.BODY, times=None), Outcome.PARSE_ERROR),
        (Fault(FaultKind.SHORT, times=None), Outcome.PARSE_ERROR),
        (Fault(FaultKind.WRONG_TYPES, times=None), Outcome.PARSE_ERROR),
        (Fault(FaultKind.CUT, times=None), Outcome.TIMEOUT),
        (
            Fault(
                FaultKind.REWRITE,
                rewrite=lambda _: {"data": None, "errors": [{"message": "not authorized", "path": ["x"]}]},
            ),
            Outcome.BLOCKED,
        ),
    ],
    ids=lambda value: str(getattr(value, "kind", value)),
)
def test_a_failure_at_any_request_keeps_the_watermark_and_deletes_no_record(
    refresh, catalog, box, fresh_sandbox, fault, outcome
):
    keys = fill(box, 40)
    refresh(adjust=small_pages)
    people = live(catalog)
    for mode in ("auto", "full_sweep"):
        for skip in (0, 1, 3):
            before = state_of(catalog)
            box.clock.advance(600)
            for key in keys[:30]:
                box.edit(key, height=150 + skip)
            spoiled = {name: getattr(fault, name) for name in FIELDS}
            fresh_sandbox.traffic.inject(Fault(**spoiled, box="stashdb", skip=skip))
            report = refresh(mode, adjust=small_pages)
            assert report.outcome is outcome
            assert report.message is not None
            assert "\n" not in report.message
            after = state_of(catalog)
            assert (after.last_outcome, after.last_message) == (outcome.value, report.message)
            unmoved = {"last_outcome": before.last_outcome, "last_message": before.last_message}
            assert replace(after, **unmoved) == before
            assert live(catalog) == people
            fresh_sandbox.traffic.clear_faults()
            refresh()
            assert differences(catalog, box) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        Fault(FaultKind.STATUS, status=422),
        Fault(FaultKind.STATUS, status=500),
        Fault(FaultKind.BODY),
        Fault(FaultKind.SHORT),
    ],
    ids=lambda fault: f"{fault.kind} {fault.status}",
)
def test_records_of_a_broken_answer_are_requested_in_parts(refresh, catalog, box, fresh_sandbox, fault):
    fill(box, 40)
    fresh_sandbox.traffic.inject(replace(fault, box="stashdb", containing='"NAME"'))
    report = refresh(adjust=small_pages)
    assert report.outcome is Outcome.FOUND
    assert differences(catalog, box) == []


@pytest.mark.slow
def test_a_record_that_breaks_every_answer_is_unread_and_the_others_are_stored(
    refresh, catalog, box, fresh_sandbox
):
    """As a record with a very long body does: a proxy truncates the answer to any request for it."""
    keys = fill(box, 40)
    refresh(adjust=small_pages)
    bad = keys[17]
    for key in keys:
        box.edit(key, height=171)
    fresh_sandbox.traffic.inject(
        Fault(FaultKind.STATUS, status=502, times=None, box="stashdb", containing=f'"{bad}"')
    )
    report = refresh()
    assert report.outcome is Outcome.FOUND
    assert report.unread == 1
    assert report.unread_reasons == {"the server failed to answer for it": 1}
    assert {key for key, row in rows(catalog).items() if row.height_cm != 171} == {bad}
    fresh_sandbox.traffic.clear_faults()
    assert refresh().unread == 0
    assert differences(catalog, box) == []


FIELDS = ("kind", "times", "status", "retry_after", "rewrite", "share")


@pytest.mark.slow
def test_a_list_that_lacks_half_a_page_once_is_read_again(refresh, catalog, box, fresh_sandbox):
    fill(box, 100)
    for skip in (2, 5):
        fresh_sandbox.traffic.inject(
            Fault(FaultKind.HALF_PAGE, box="stashdb", containing='"NAME"', skip=skip)
        )
    refresh(adjust=small_pages)
    assert len(live(catalog)) == 100


@pytest.mark.slow
def test_a_list_that_always_lacks_half_is_a_parse_error(refresh, catalog, box, fresh_sandbox):
    fill(box, 100)

    def halve(document: Any) -> Any:
        result = document.get("data", {}).get("queryPerformers")
        if result:
            result["performers"] = [row for row in result["performers"] if int(row["id"][:1], 16) >= 8]
        return document

    fresh_sandbox.traffic.inject(
        Fault(FaultKind.REWRITE, box="stashdb", containing='"NAME"', times=None, rewrite=halve)
    )
    report = refresh(adjust=small_pages)
    assert report.outcome is Outcome.PARSE_ERROR
    assert "counts 100 performers but lists only" in (report.message or "")
    assert state_of(catalog).backfilled_at is None


@pytest.mark.slow
def test_a_performer_that_the_server_cannot_answer_for_is_unread_and_the_others_are_stored(
    refresh, catalog, box, fresh_sandbox
):
    keys = fill(box, 20)
    refresh()
    box.edit(keys[0], height=150)
    box.edit(keys[1], height=151)

    def spoil(document: Any) -> Any:
        for alias, row in document["data"].items():
            if row and row["id"] == keys[0]:
                document["data"][alias] = None
                document["errors"] = [{"message": "cannot scan", "path": [alias, "images"]}]
        return document

    fresh_sandbox.traffic.inject(
        Fault(FaultKind.REWRITE, box="stashdb", containing="query Details", times=None, rewrite=spoil)
    )
    report = refresh()
    assert (report.outcome, report.unread, report.updated) == (Outcome.FOUND, 1, 1)
    assert keys[0] in live(catalog)
    box.clock.advance(5 * 86_400)
    assert refresh().unread == 1
    fresh_sandbox.traffic.clear_faults()
    report = refresh()
    assert (report.unread, report.updated) == (0, 1)
    assert differences(catalog, box) == []


@pytest.mark.slow
def test_updates_only_reads_a_new_source_in_full(refresh, catalog, box):
    fill(box, 3)
    assert refresh("updates_only").mode == "backfill"
    assert refresh("updates_only").mode == "increment"


def test_the_reported_progress_rises_to_the_number_of_performers(refresh, box):
    fill(box, 45)
    told: list[tuple[str, int, int | None]] = []
    refresh(adjust=small_pages, progress=lambda *step: told.append(step))
    assert told[-1] == ("records", 45, 45)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_the_time_of_change_is_stored_as_the_server_states_it(refresh, catalog, box):
    (key,) = fill(box, 1)
    at = datetime(2024, 2, 3, 4, 5, 6, 700_000, tzinfo=UTC)
    box.edit(key, at=int(at.timestamp() * 1_000_000))
    refresh()
    assert rows(catalog)[key].updated_at == at
