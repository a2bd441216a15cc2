"""The stash-box connector against the sandbox's servers: old and new versions, and all kinds of wrong answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from stash_sense_pipeline.foundation.errors import Outcome, SourceError
from stash_sense_pipeline.records.performer_record import PerformerRecord, UnreadRecord
from stash_sense_pipeline.sandbox.faults import Fault, FaultKind
from stash_sense_pipeline.sandbox.invented.clock import from_micros
from stash_sense_pipeline.sandbox.invented.pictures import Picture
from stash_sense_pipeline.sandbox.servers import SandboxServers
from stash_sense_pipeline.sandbox.stash_box.database import Box
from stash_sense_pipeline.sandbox.stash_box.rows import BodyModification, BoxOptions, Link, Moment
from stash_sense_pipeline.sources.http.polite_client import PoliteClient
from stash_sense_pipeline.sources.stash_boxes.stash_box_connector import StashBoxConnector
from stash_sense_pipeline.sources.stash_boxes.stash_box_records import RecordPage
from stash_sense_pipeline.sources.unread import ANOTHER_ANSWERED, NOT_ANSWERED
from stash_sense_pipeline_tests.sources.conftest import QUICK
from stash_sense_pipeline_tests.sources.loopback import LoopbackServer, answer

Ask = Callable[..., Any]


@pytest.fixture
def ask(fresh_sandbox: SandboxServers, box: Box) -> Ask:
    """ask(question): the result of `question(connector)`, with a new connector to the sandbox's stashdb."""

    def run(question: Callable[[StashBoxConnector], Any], *, url: str = "", key: str | None = None) -> Any:
        url = url or fresh_sandbox.endpoint("stashdb")

        async def within() -> Any:
            async with PoliteClient("stashdb", url, rate=600_000.0, retry_policy=QUICK) as client:
                connector = StashBoxConnector(url, box.api_key if key is None else key, client, "stashdb")
                connector.records_a_page, connector.listed_a_page = 10, 15
                return await question(connector)

        return asyncio.run(within())

    return run


def fails(ask: Ask, question: Callable[[StashBoxConnector], Any], **options: Any) -> SourceError:
    """The failure of a question. Its message must be one line that names the source."""
    with pytest.raises(SourceError) as caught:
        ask(question, **options)
    assert str(caught.value).startswith("stashdb: ")
    assert "\n" not in str(caught.value)
    return caught.value


async def all_records(connector: StashBoxConnector) -> list[Any]:
    """All records in the order of their names."""
    return [record async for page in connector.records("ASC") for record in page.rows]


async def listing(connector: StashBoxConnector) -> list[Any]:
    """All rows of the listing."""
    return [row async for page in connector.listing("DESC") for row in page.rows]


def fill(box: Box, count: int) -> list[str]:
    """Adds performers with a name only."""
    return [box.create(name=f"Person {number:03}", aliases=[f"P{number}"]) for number in range(count)]


def test_all_fields_of_a_performer_are_read(ask, box):
    site = box.site_for("Somewhere", "https://some.example")
    image = box.upload(Picture(1, size=(40, 50)))
    key = box.create(
        name="  Ann\u00a0 Le\u0301a ",
        disambiguation="the tall one",
        aliases=["Anna", "Lea ", "Anna"],
        gender="TRANSGENDER_FEMALE",
        birth_date="1990-05",
        death_date="2020",
        ethnicity="MIDDLE_EASTERN",
        country="DE",
        eye_color="GREY",
        hair_color="WHITE",
        height=171,
        career_start_year=2010,
        career_end_year=2019,
        tattoos=[BodyModification("Left arm", "a secret"), BodyModification("Back")],
        urls=[Link("https://some.example/ann", site), Link("https://some.example/ann", site)],
        images=[image, image],
    )
    record = ask(all_records)[0]
    assert (record.source_id, record.name, record.disambiguation) == (key, "Ann Léa", "the tall one")
    assert record.aliases == ("Anna", "Lea")
    assert (record.gender, record.birth_date, record.death_date) == ("TRANSGENDER_FEMALE", "1990-05", "2020")
    assert (record.ethnicity, record.country, record.eye_color) == ("MIDDLE_EASTERN", "DE", "GREY")
    assert (record.hair_color, record.height_cm) == ("WHITE", 171)
    assert (record.career_start_year, record.career_end_year) == (2010, 2019)
    assert record.urls == ("https://some.example/ann",)
    assert [(each.image_id, each.width, each.height) for each in record.images] == [(image, 40, 50)]
    assert record.images[0].url.endswith(f"/images/{image}")
    assert record.raw == {"tattoos": ["Back", "Left arm"]}
    assert (record.deleted, record.merged_into, record.merged_ids) == (False, None, ())
    assert record.updated_at == from_micros(box.performers[key].updated)
    assert record.created_at == from_micros(box.performers[key].created)


def test_a_performer_with_only_a_name_has_empty_fields(ask, box):
    box.create(name="Bare")
    record = ask(all_records)[0]
    assert (record.aliases, record.urls, record.images, record.raw) == ((), (), (), {})
    assert (record.gender, record.birth_date, record.height_cm) == (None, None, None)


def test_images_are_asked_for_in_full_and_without_the_key(ask, box, fresh_sandbox):
    image = box.upload(Picture(3, size=(40, 50)))
    box.create(name="A", images=[image])

    async def fetch(connector: StashBoxConnector) -> bytes:
        record = (await all_records(connector))[0]
        url, headers = connector.image_request(record.images[0].url)
        assert url.endswith("?size=full")
        assert not {name.lower() for name in headers} & {"apikey", "authorization"}
        return (await connector.client.get(url, headers=headers)).content

    assert ask(fetch)[:2] == b"\xff\xd8"
    assert fresh_sandbox.traffic.requests("stashdb", "/images")[-1].query == "size=full"


@pytest.mark.parametrize("cap", [None, 7])
@pytest.mark.parametrize("count", [0, 1, 10, 11, 47])
def test_a_walk_yields_each_performer_once(ask, box, count, cap):
    box.options = BoxOptions(per_page_cap=cap)
    keys = fill(box, count)
    assert [record.source_id for record in ask(all_records)] == keys
    assert [row.source_id for row in ask(listing)] == keys[::-1]


def test_bulk_selections_cost_the_server_no_statement_a_performer(ask, box, fresh_sandbox):
    fill(box, 3)
    ask(all_records)
    ask(listing)
    asked = " ".join(entry.payload for entry in fresh_sandbox.traffic.requests("stashdb"))
    assert not [field for field in ("scene_count", "scenes", "studios", "edits {") if field in asked]


def test_a_listing_has_the_fields_that_a_sweep_compares(ask, box):
    first, second = fill(box, 2)
    box.merge([second], first)
    image = box.add_image(first, Picture(1))
    (row,) = ask(listing)
    assert (row.merged_ids, row.image_ids) == ((second,), frozenset({image}))
    assert row.updated == from_micros(box.performers[first].updated)


def test_details_distinguish_live_deleted_merged_and_unknown_performers(ask, box):
    alive, merged, destroyed = fill(box, 3)
    box.merge([merged], alive)
    box.destroy(destroyed)
    unknown = "00000000-0000-4000-8000-000000000000"
    details = ask(lambda connector: connector.details([alive, merged, destroyed, unknown]))
    assert details.records[alive].merged_ids == (merged,)
    assert (details.records[merged].deleted, details.records[merged].merged_into) == (True, alive)
    assert (details.records[destroyed].deleted, details.records[destroyed].merged_into) == (True, None)
    assert (details.absent, details.unread) == ({unknown}, ())


def test_details_request_many_performers_at_once(ask, box, fresh_sandbox):
    keys = fill(box, 60)
    assert ask(lambda connector: connector.details(keys)).records.keys() == set(keys)
    assert len(fresh_sandbox.traffic.requests("stashdb")) == 1 + 3


def test_a_server_error_about_one_performer_is_unread_and_not_absent(ask, box, fresh_sandbox):
    keys = fill(box, 3)

    def spoil(document: Any) -> Any:
        document["data"]["p1"] = None
        error = {"message": "Internal system error. Error <7>", "path": ["p1", "images"]}
        return {**document, "errors": [error]}

    fresh_sandbox.traffic.inject(
        Fault(FaultKind.REWRITE, box="stashdb", containing="query Details", rewrite=spoil)
    )
    details = ask(lambda connector: connector.details(keys))
    assert details.records.keys() == {keys[0], keys[2]}
    assert details.absent == frozenset()
    assert details.unread == (UnreadRecord(keys[1], NOT_ANSWERED, keys[1]),)


def test_a_page_with_a_broken_performer_is_read_one_by_one(ask, box, fresh_sandbox):
    keys = fill(box, 4)
    broken = {"message": "cannot scan", "path": ["queryPerformers", "performers", 2, "name"]}
    fresh_sandbox.traffic.inject(
        Fault(
            FaultKind.REWRITE,
            box="stashdb",
            containing="disambiguation",
            rewrite=lambda _: {"data": None, "errors": [broken]},
        )
    )
    assert {record.source_id for record in ask(all_records)} == set(keys)


def test_removals_are_read_from_destroy_and_merge_edits(ask, box):
    one, two, three, four, five = fill(box, 5)
    box.destroy(one)
    cutoff = from_micros(box.clock.now())
    box.clock.advance(60)
    box.merge([two, three], four)
    box.hard_delete(two)
    box.destroy(five)
    newest = from_micros(box.clock.now())
    everything = ask(lambda connector: connector.removals(None))
    assert everything.source_ids >= {one, three, five}
    assert everything.newest == newest
    box.clock.advance(60)
    assert one in ask(lambda connector: connector.removals(cutoff)).source_ids
    box.hard_delete(four)
    assert ask(lambda connector: connector.removals(cutoff)).source_ids >= {three, five}


def test_removals_are_read_down_to_the_time_asked_for(ask, box, fresh_sandbox):
    for key in fill(box, 230):
        box.destroy(key)
    fresh_sandbox.traffic.clear_requests()
    assert len(ask(lambda connector: connector.removals(None)).source_ids) == 230
    assert len(fresh_sandbox.traffic.requests("stashdb")) == 1 + 3
    fresh_sandbox.traffic.clear_requests()
    late = from_micros(box.clock.now())
    assert ask(lambda connector: connector.removals(late)).source_ids
    assert len(fresh_sandbox.traffic.requests("stashdb")) == 1 + 1


def test_an_old_server_is_asked_only_for_fields_that_it_has(ask, box):
    box.options = BoxOptions(legacy_schema=True, version="v0.4.0")
    (key,) = fill(box, 1)
    assert ask(all_records)[0].source_id == key
    description = ask(lambda connector: connector.describe())
    assert description.version == "v0.4.0"
    assert not description.performer_fields & {"death_date", "merged_into_id"}
    assert not description.has_changelog


def test_the_changelog_is_read_page_by_page_to_its_end(ask, box, monkeypatch):
    monkeypatch.setattr("stash_sense_pipeline.sources.stash_boxes.stash_box_connector._CHANGES_A_PAGE", 4)
    box.options = BoxOptions(changelog=True)
    keys = fill(box, 3)
    box.touch(keys)
    more = fill(box, 8)
    box.destroy(more[0])
    changes = ask(lambda connector: connector.changes(datetime(2000, 1, 1, tzinfo=UTC)))
    assert {change.source_id: change.deleted for change in changes} == {
        **dict.fromkeys([*keys, *more], False),
        more[0]: True,
    }


def test_a_server_without_introspection_gets_the_baseline_description(ask, box, fresh_sandbox):
    (key,) = fill(box, 1)

    def hide(document: Any) -> Any:
        errors = [
            {"message": "introspection disabled", "path": [name]} for name in ("performer", "query", "edits")
        ]
        return {
            "data": {"performer": None, "query": None, "edits": None, **document["data"]},
            "errors": errors,
        }

    fresh_sandbox.traffic.inject(Fault(FaultKind.REWRITE, box="stashdb", containing="__type", rewrite=hide))
    assert ask(all_records)[0].source_id == key


def test_a_refused_api_key_has_the_outcome_blocked(ask, box):
    error = fails(ask, all_records, key="another")
    assert error.outcome is Outcome.BLOCKED
    assert "the server refused the key (expired or wrong)" in str(error)


def test_a_missing_key_that_is_refused_with_status_200_is_blocked(ask, box, fresh_sandbox):
    fill(box, 1)
    error = fails(ask, all_records, key="")
    assert error.outcome is Outcome.BLOCKED
    assert fresh_sandbox.traffic.requests("stashdb")[-1].status == 200


def test_a_key_that_is_refused_between_requests_is_blocked_and_no_absence(ask, box, fresh_sandbox):
    keys = fill(box, 1)
    refusal = {"data": {"p0": None}, "errors": [{"message": "not authorized", "path": ["p0"]}]}
    fresh_sandbox.traffic.inject(
        Fault(FaultKind.REWRITE, box="stashdb", containing="query Details", rewrite=lambda _: refusal)
    )
    assert fails(ask, lambda connector: connector.details(keys)).outcome is Outcome.BLOCKED


@pytest.mark.parametrize(
    "fault",
    [
        Fault(FaultKind.BODY, times=None),
        Fault(FaultKind.SHORT, times=None),
        Fault(FaultKind.REWRITE, times=None, rewrite=lambda _: {"data": None}),
        Fault(FaultKind.REWRITE, times=None, rewrite=lambda _: {}),
        Fault(FaultKind.REWRITE, times=None, rewrite=lambda _: []),
        Fault(FaultKind.REWRITE, times=None, rewrite=lambda _: {"data": {"queryPerformers": None}}),
        Fault(
            FaultKind.REWRITE, times=None, rewrite=lambda _: {"errors": [{"message": "boom"}], "data": None}
        ),
        Fault(FaultKind.STATUS, times=None, status=422),
        Fault(FaultKind.STATUS, times=None, status=404),
    ],
    ids=lambda fault: str(fault.kind),
)
@pytest.mark.parametrize("question", [all_records, listing, lambda connector: connector.head(10)])
def test_an_answer_of_another_shape_has_the_outcome_parse_error(ask, box, fresh_sandbox, fault, question):
    fill(box, 3)
    fault.done = fault.seen = 0
    fault.box = "stashdb"
    fresh_sandbox.traffic.inject(fault)
    assert fails(ask, question).outcome is Outcome.PARSE_ERROR


def test_a_key_that_the_server_repeats_in_its_error_is_not_in_the_message(ask, box, fresh_sandbox):
    fill(box, 3)
    echoed = {"errors": [{"message": f"bad key {box.api_key}\x1b[2J, password=hunter22"}], "data": None}
    fresh_sandbox.traffic.inject(
        Fault(FaultKind.REWRITE, times=None, rewrite=lambda _: echoed, box="stashdb")
    )
    text = str(fails(ask, all_records))
    assert box.api_key not in text
    assert "hunter22" not in text
    assert text.isprintable()


def test_a_key_where_the_message_is_truncated_leaves_no_part_of_itself(ask, box, fresh_sandbox):
    fill(box, 3)
    echoed = {"errors": [{"message": "x" * 170 + f" {box.api_key}"}], "data": None}
    fresh_sandbox.traffic.inject(
        Fault(FaultKind.REWRITE, times=None, rewrite=lambda _: echoed, box="stashdb")
    )
    assert box.api_key[:8] not in str(fails(ask, all_records))


def spoilt(
    ask: Ask, box: Box, sandbox: SandboxServers, field: str, value: Any
) -> RecordPage[PerformerRecord]:
    """The first page of performers, with `value` in one field of its only performer."""
    fill(box, 1)

    def spoil(document: Any) -> Any:
        document["data"]["queryPerformers"]["performers"][0][field] = value
        return document

    sandbox.traffic.inject(
        Fault(FaultKind.REWRITE, box="stashdb", containing="query Performers", rewrite=spoil)
    )
    page: RecordPage[PerformerRecord] = ask(lambda connector: connector.records_page("ASC", 100, 1))
    return page


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("name", [], "its name is a list, not a text"),
        ("name", " \u200b", "its name is blank"),
        ("name", "x" * 2001, "its name is longer than 2000 bytes"),
        ("id", None, "its id is nothing, not a text"),
        ("id", 7, "its id is a number, not a text"),
        ("id", "a/b", "its id holds a slash"),
        ("id", "a\ud800", "its id holds invisible characters"),
        ("deleted", None, "deleted of it is nothing, not true or false"),
    ],
)
def test_a_performer_without_a_required_field_is_unread(ask, box, fresh_sandbox, field, value, reason):
    page = spoilt(ask, box, fresh_sandbox, field, value)
    assert page.rows == ()
    (unread,) = page.unread
    assert unread.reason.startswith(reason)
    assert unread.reason.endswith("(performer 1 of a page)")
    assert (unread.source_id is None) == (field == "id")


@pytest.mark.parametrize(
    ("field", "value"),
    [("updated", "yesterday"), ("updated", 5), ("updated", "9999-12-31T23:59:59-10:00"), ("images", None),
     ("images", "none"), ("images", [{"id": 5, "url": "https://a.example/u"}]), ("images", [{"id": "i"}]),
     ("images", ["i"]), ("images", [{"id": "i", "url": "https://cdn..example/i"}]), ("aliases", "A"),
     ("aliases", [None]), ("aliases", ["x" * 2001]), ("urls", [{}]), ("urls", [{"url": "https://a.example/\0"}]),
     ("height", True), ("height", 1.5), ("height", 10**30), ("tattoos", "arm"), ("tattoos", [{}]),
     ("merged_ids", [1]), ("gender", {}), ("country", "x" * 101), ("death_date", "soon"), ("created", "x")],
)  # fmt: skip
def test_an_unusable_field_is_left_out_and_counted(ask, box, fresh_sandbox, field, value):
    page = spoilt(ask, box, fresh_sandbox, field, value)
    assert page.unread == ()
    (record,) = page.rows
    left = {"updated": "updated_at", "created": "created_at", "height": "height_cm"}.get(field, field)
    assert not (record.raw.get(left) if left == "tattoos" else getattr(record, left))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("name", 5, "5"),
        ("aliases", {"0": "Ann", "2": 69}, ("Ann", "69")),
        ("height", "170", 170),
        ("birth_date", 1990, "1990"),
        ("urls", {"1": {"url": "www.example.com/ann"}}, ("www.example.com/ann",)),
    ],
)
def test_an_equivalent_value_of_another_type_is_read(ask, box, fresh_sandbox, field, value, expected):
    (record,) = spoilt(ask, box, fresh_sandbox, field, value).rows
    assert getattr(record, {"height": "height_cm"}.get(field, field)) == expected


def counts(sandbox: SandboxServers, count: Any) -> None:
    """Makes the server report this number of performers."""

    def spoil(document: Any) -> Any:
        document["data"]["queryPerformers"]["count"] = count
        return document

    sandbox.traffic.inject(
        Fault(FaultKind.REWRITE, box="stashdb", containing="query Performers", rewrite=spoil, times=None)
    )


@pytest.mark.parametrize("count", [-1, 10**12, 1.5, None, True, "many"])
def test_an_invalid_count_is_a_parse_error(ask, box, fresh_sandbox, count):
    fill(box, 1)
    counts(fresh_sandbox, count)
    assert fails(ask, all_records).outcome is Outcome.PARSE_ERROR


@pytest.mark.parametrize("count", [900_000_000, "47", 47.0])
def test_a_walk_ends_at_the_end_of_the_list_for_any_count(ask, box, fresh_sandbox, count):
    keys = fill(box, 47)
    counts(fresh_sandbox, count)
    assert [record.source_id for record in ask(all_records)] == keys


def test_a_walk_ends_at_a_page_that_the_server_repeats(ask, box, fresh_sandbox):
    keys = fill(box, 47)
    last: dict[str, Any] = {}

    def spoil(document: Any) -> Any:
        result = document["data"]["queryPerformers"]
        result["count"] = 1_000_000
        if result["performers"]:
            last["rows"] = result["performers"]
        result["performers"] = last["rows"]
        return document

    fresh_sandbox.traffic.inject(
        Fault(FaultKind.REWRITE, box="stashdb", containing="query Performers", rewrite=spoil, times=None)
    )
    assert [record.source_id for record in ask(all_records)] == keys


def test_a_page_of_which_nothing_can_be_read_is_asked_for_again(ask, box, fresh_sandbox):
    keys = fill(box, 3)
    fresh_sandbox.traffic.inject(
        Fault(FaultKind.WRONG_TYPES, box="stashdb", containing="query Performers", times=1)
    )
    assert [record.source_id for record in ask(all_records)] == keys


def test_an_answer_for_another_performer_is_unread(ask, box, fresh_sandbox):
    first, second = fill(box, 2)

    def swap(document: Any) -> Any:
        document["data"]["p0"]["id"] = second
        return document

    fresh_sandbox.traffic.inject(
        Fault(FaultKind.REWRITE, box="stashdb", containing="query Details", rewrite=swap)
    )
    details = ask(lambda connector: connector.details([first]))
    assert (details.records, details.absent) == ({}, frozenset())
    assert details.unread == (UnreadRecord(first, ANOTHER_ANSWERED, first),)


def test_a_temporary_error_of_the_server_is_retried(ask, box, fresh_sandbox):
    keys = fill(box, 1)
    stumble = {
        "errors": [{"message": "Internal system error. Error <1>", "path": ["queryPerformers"]}],
        "data": None,
    }
    fresh_sandbox.traffic.inject(
        Fault(FaultKind.REWRITE, box="stashdb", containing="query Performers", rewrite=lambda _: stumble)
    )
    assert [record.source_id for record in ask(all_records)] == keys


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<html>Welcome</html>", "text/html"),
        (b'{"hello": "world"}', "application/json"),
        (b"[]", "application/json"),
    ],
)
def test_an_answer_that_is_not_graphql_is_a_parse_error(ask, box, body, content_type):
    with LoopbackServer(lambda _: answer(body=body, Content_Type=content_type)) as server:
        error = fails(ask, all_records, url=f"{server.url}/graphql")
    assert error.outcome is Outcome.PARSE_ERROR


def test_a_graphql_server_that_is_not_a_stash_box_is_a_parse_error(ask, box, fresh_sandbox):
    other = {
        "data": {"performer": None, "query": {"fields": [{"name": "films"}]}, "edits": None, "version": {}}
    }
    fresh_sandbox.traffic.inject(Fault(FaultKind.REWRITE, box="stashdb", rewrite=lambda _: other))
    error = fails(ask, all_records)
    assert error.outcome is Outcome.PARSE_ERROR
    assert "is not a stash-box" in str(error)


def test_a_wrong_path_on_a_stash_box_is_a_parse_error(ask, box, fresh_sandbox):
    error = fails(ask, all_records, url=f"{fresh_sandbox.url('stashdb')}/nothing")
    assert error.outcome is Outcome.PARSE_ERROR
    assert "is it a stash-box?" in str(error)


def test_rows_added_while_walking_do_not_end_the_walk_early(ask, box):
    keys = set(fill(box, 35))

    def grow(moment: Moment) -> None:
        if moment is Moment.COUNTED and len(box.performers) < 60:
            box.create(name="Zz late")

    box.observers.append(grow)
    assert keys <= {record.source_id for record in ask(all_records)}
