"""ThePornDB: its data formats, truncated lists, and syncs without times, against the sandbox's REST server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.queries.sync_state import load_state
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.foundation.errors import Outcome, SourceError
from stash_sense_pipeline.records.performer_record import PerformerRecord, UnreadRecord
from stash_sense_pipeline.sandbox import theporndb as server_module
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.faults import Fault, FaultKind
from stash_sense_pipeline.sandbox.invented.clock import from_micros
from stash_sense_pipeline.sandbox.invented.pictures import Picture
from stash_sense_pipeline.sandbox.servers import SandboxServers
from stash_sense_pipeline.sandbox.theporndb import Poster, ThePornDB
from stash_sense_pipeline.sources.http.polite_client import PoliteClient
from stash_sense_pipeline.sources.stash_boxes import theporndb_connector as connector_module
from stash_sense_pipeline.sources.stash_boxes.refresh import SyncReport
from stash_sense_pipeline.sources.stash_boxes.theporndb_connector import ThePornDbConnector
from stash_sense_pipeline_tests.sources.conftest import QUICK, refresh_from
from stash_sense_pipeline_tests.sources.loopback import LoopbackServer, answer
from stash_sense_pipeline_tests.sources.truth import buried, images, links, live, rows

NAME = "theporndb"
Ask = Callable[..., Any]


@pytest.fixture
def store(fresh_sandbox: SandboxServers) -> Iterator[ThePornDB]:
    """The sandbox's ThePornDB, empty."""
    theporndb = fresh_sandbox.world.theporndb
    theporndb.clear(1)
    yield theporndb
    theporndb.clear(1)


@pytest.fixture
def ask(fresh_sandbox: SandboxServers, store: ThePornDB) -> Ask:
    """ask(question): the result of `question(connector)`."""

    def run(question: Callable[[ThePornDbConnector], Any], *, url: str = "", key: str | None = None) -> Any:
        url = url or fresh_sandbox.endpoint(NAME)

        async def within() -> Any:
            async with PoliteClient(NAME, url, rate=600_000.0, retry_policy=QUICK) as client:
                return await question(
                    ThePornDbConnector(url, store.api_key if key is None else key, client, NAME)
                )

        return asyncio.run(within())

    return run


@pytest.fixture
def refresh(catalog: sa.Engine, fresh_sandbox: SandboxServers, store: ThePornDB) -> Callable[..., SyncReport]:
    """refresh(mode, **options) of ThePornDB."""
    return lambda mode="auto", **options: refresh_from(fresh_sandbox, catalog, NAME, mode, **options)


@pytest.fixture
def tiny_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Truncates lists at 30 entries; pages hold 10."""
    monkeypatch.setattr(server_module, "RESULT_CAP", 30)
    monkeypatch.setattr(connector_module, "_LIST_CAP", 30)
    monkeypatch.setattr(connector_module, "_A_PAGE", 10)


async def all_records(connector: ThePornDbConnector) -> list[PerformerRecord]:
    """All records, many of them repeatedly."""
    return [record async for page in connector.all_records() for record in page.rows]


def fill(store: ThePornDB, count: int, **fields: Any) -> list[str]:
    """Adds performers with a poster each."""
    return [
        store.create(
            name=f"{'abcdefghij'[number % 10]}person {number:04}",
            posters=(Poster(store.new_number(), Picture(number, size=(40, 50))),),
            **fields,
        )
        for number in range(count)
    ]


def resource(**fields: Any) -> dict[str, Any]:
    """A performer of the REST interface without optional fields."""
    return {
        **{"id": "0b1c", "_id": 7, "slug": "ann-lea", "name": "Ann Lea", "full_name": "Ann Lea", "bio": None},
        **{"disambiguation": None, "rating": 4.2, "is_parent": True, "aliases": None, "image": None},
        **{"thumbnail": None, "face": None, "posters": [], "site_performers": [], "extras": {"links": []}},
        **fields,
    }


def read(row: dict[str, Any], ask: Ask) -> PerformerRecord | None:
    """The record that the connector reads from a resource."""
    import json

    body = json.dumps({"data": row}).encode()
    with LoopbackServer(lambda _: answer(body=body, Content_Type="application/json")) as server:
        return ask(lambda connector: connector.performer("x"), url=server.url)


def test_all_fields_of_a_performer_are_read(ask):
    record = read(
        resource(
            aliases=["Anna ", "A. Lea"],
            disambiguation="the tall one",
            posters=[{"id": 12, "url": "https://cdn.example/p/12.jpg", "size": 9, "order": 1}],
            image="https://cdn.example/p/12.jpg",
            face="https://thumb.example/sig/12.jpg",
            extras={
                **{"gender": "Trans Female", "birthday": "1990-05-17 00:00:00", "deathday": None},
                **{"ethnicity": "Middle Eastern", "hair_colour": "Blonde", "eye_colour": "Grey"},
                **{
                    "height": "171cm",
                    "weight": "60kg",
                    "birthplace": "Springfield",
                    "birthplace_code": "US-IL",
                },
                **{"career_start_year": 2010, "career_end_year": "2019", "birthday_timestamp": 642902400},
                "links": {
                    "StashDB": "https://stashdb.org/performers/1",
                    "Twitter": "https://twitter.com/ann",
                },
            },
        ),
        ask,
    )
    assert record is not None
    assert (record.source_id, record.name, record.disambiguation) == ("0b1c", "Ann Lea", "the tall one")
    assert record.aliases == ("Anna", "A. Lea")
    assert (record.gender, record.birth_date, record.ethnicity) == (
        "TRANSGENDER_FEMALE",
        "1990-05-17",
        "MIDDLE_EASTERN",
    )
    assert (record.hair_color, record.eye_color, record.height_cm) == ("BLONDE", "GREY", 171)
    assert (record.country, record.career_start_year, record.career_end_year) == ("US", 2010, 2019)
    assert record.urls == ("https://stashdb.org/performers/1", "https://twitter.com/ann")
    assert [image.image_id for image in record.images] == ["poster-12"]
    assert (record.raw["slug"], record.raw["_id"]) == ("ann-lea", "7")
    assert record.updated_at is None


def test_private_and_volatile_fields_are_not_kept(ask):
    shown = read(resource(bio="Born as …", full_name="Legal Name", extras={"birthplace": "Springfield"}), ask)
    other = read(resource(rating=1.0, thumbnail="https://cdn.example/t?sig=2", bio="other"), ask)
    assert shown is not None
    assert other is not None
    assert "Springfield" not in str(shown.raw)
    assert "Legal" not in str(shown.raw)
    assert shown.content_hash == other.content_hash


def test_free_texts_about_tattoos_and_piercings_are_not_kept(ask):
    texts = {"tattoos": "A star, for her sister", "piercings": "Navel"}
    told = read(resource(**texts, extras=texts), ask)
    assert told is not None
    assert not {"tattoos", "piercings"} & (told.raw.keys() | told.raw.get("extras", {}).keys())
    assert "sister" not in str(told.raw)


def test_fields_without_a_column_are_kept_in_raw(ask):
    record = read(resource(verified=True, extras={"links": [], "shoe_size": 38}), ask)
    assert record is not None
    assert record.raw["verified"] is True
    assert record.raw["extras"] == {"shoe_size": 38}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"aliases": None}, ()),
        ({"aliases": []}, ()),
        ({"aliases": "Anna, Lea A."}, ("Anna", "Lea A.")),
    ],
)
def test_aliases_are_read_from_a_list_or_a_text(ask, fields, expected):
    record = read(resource(**fields), ask)
    assert record is not None
    assert record.aliases == expected


@pytest.mark.parametrize(
    "extras", [[], None, {}, {"links": []}, {"links": None, "height": 171, "career_start_year": "?"}]
)
def test_a_performer_with_empty_extras_has_no_optional_fields(ask, extras):
    record = read(resource(extras=extras), ask)
    assert record is not None
    assert (record.urls, record.birth_date, record.gender) == ((), None, None)


def test_ids_given_as_numbers_become_texts(ask):
    record = read(resource(id=5, _id="7", posters=[{"id": "12", "url": "https://cdn.example/12"}]), ask)
    assert record is not None
    assert (record.source_id, record.raw["_id"], record.images[0].image_id) == ("5", "7", "poster-12")


@pytest.mark.slow
def test_the_image_and_the_face_are_read_where_no_poster_has_them(ask):
    poster = {"id": 12, "url": "https://cdn.example/12.jpg"}

    def kinds(**fields: Any) -> list[str]:
        record = read(resource(**fields), ask)
        assert record is not None
        return [image.image_id for image in record.images]

    main, face = "https://cdn.example/other.jpg", "https://thumb.example/a/face.jpg"
    assert kinds(posters=[poster], image=poster["url"], face=face) == ["poster-12"]
    assert len(kinds(posters=[poster], image=main)) == 2
    (only,) = kinds(face=face)
    assert only.startswith("face-7-")
    assert kinds(face="https://thumb.example/another-signature/face.jpg?s=1") == [only]
    assert kinds(face="https://thumb.example/a/new-face.jpg") != [only]
    assert kinds() == []


def test_site_performers_add_names_and_pictures_to_their_parent(ask):
    child = {"id": "c", "_id": 99, "name": "Annie", "is_parent": False, "image": "https://cdn.example/c.jpg"}
    record = read(
        resource(site_performers=[child, {**child, "_id": 98, "name": "Ann Lea", "image": None}]), ask
    )
    assert record is not None
    assert record.aliases == ("Annie",)
    assert [image.image_id.rpartition("-")[0] for image in record.images] == ["site-image-99"]


@pytest.mark.parametrize("is_parent", [False, 0, "0", "false"])
def test_a_performer_of_a_single_site_gives_no_record(ask, is_parent):
    assert read(resource(is_parent=is_parent), ask) is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"id": None}, "its id is nothing, not a text"),
        ({"id": "a b"}, "its id holds white space"),
        ({"name": None}, "its name is nothing, not a text"),
        ({"name": " "}, "its name is blank"),
        ({"name": ["Ann"]}, "its name is a list, not a text"),
    ],
)
def test_a_performer_without_a_readable_id_or_name_is_unread_with_its_reason(ask, fields, reason):
    record = read(resource(**fields), ask)
    assert isinstance(record, UnreadRecord)
    assert record.reason == reason
    assert (record.source_id is None) == ("id" in fields)


@pytest.mark.parametrize(
    "fields",
    [{"posters": "none"}, {"posters": [5]}, {"posters": [{"url": "u"}]}, {"aliases": [{}]}, {"aliases": [" "]},
     {"site_performers": {"a": 1}}, {"extras": "none"}, {"extras": {"links": ["javascript:alert(1)"]}}],
)  # fmt: skip
def test_an_item_of_a_wrong_type_is_left_out(ask, fields):
    record = read(resource(**fields), ask)
    assert isinstance(record, PerformerRecord)
    assert (record.name, record.aliases, record.images, record.urls) == ("Ann Lea", (), (), ())


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 29])
def test_a_list_below_the_page_limit_is_read_without_filters(ask, store, fresh_sandbox, tiny_lists, count):
    keys = fill(store, count)
    found = [record.source_id for record in ask(all_records)]
    assert sorted(found) == sorted(keys)
    assert all("letter" not in entry.query for entry in fresh_sandbox.traffic.requests(NAME))


@pytest.mark.slow
def test_a_truncated_list_is_split_by_filters_until_all_performers_are_seen(ask, store, tiny_lists):
    keys = set(fill(store, 40, extras={"gender": "Female"}))
    keys |= set(fill(store, 20, extras={"gender": "Male"}))
    keys |= {store.create(name=f"bperson many {number}", extras={"gender": "Female"}) for number in range(40)}
    keys |= {store.create(name=name) for name in ("8 of diamonds", "葵", "Élodie", "~")}
    assert {record.source_id for record in ask(all_records)} == keys


@pytest.mark.slow
def test_a_filter_that_the_server_ignores_ends_the_splitting_of_the_list(
    ask, store, tiny_lists, fresh_sandbox, monkeypatch
):
    monkeypatch.setattr(server_module, "_matches", lambda *_: True)
    fill(store, 50)
    assert len({record.source_id for record in ask(all_records)}) == 50
    assert len(fresh_sandbox.traffic.requests(NAME)) < 60


def test_the_repeated_last_page_ends_a_walk(ask, store, fresh_sandbox, monkeypatch):
    monkeypatch.setattr(connector_module, "_A_PAGE", 10)
    fill(store, 25)

    def promise(document: Any) -> Any:
        return {**document, "meta": {**document["meta"], "total": 70}}

    fresh_sandbox.traffic.inject(Fault(FaultKind.REWRITE, box=NAME, times=None, rewrite=promise))
    assert len(ask(all_records)) == 25


def test_changed_ids_are_read_where_the_server_lists_them(ask, store):
    (key,) = fill(store, 1)
    day = from_micros(store.clock.now()).date()
    assert ask(lambda connector: connector.changed_since(day - timedelta(days=1))) == {key}
    assert ask(lambda connector: connector.changed_since(day + timedelta(days=9))) == frozenset()
    store.offers_changes = False
    assert ask(lambda connector: connector.changed_since(date(2020, 1, 1))) is None


def test_a_refused_token_has_the_outcome_blocked(ask, store):
    with pytest.raises(SourceError, match="refused the key") as caught:
        ask(all_records, key="wrong")
    assert caught.value.outcome is Outcome.BLOCKED


def test_images_are_fetched_without_the_token(ask, store, fresh_sandbox):
    fill(store, 1)

    async def fetch(connector: ThePornDbConnector) -> bytes:
        (record,) = await all_records(connector)
        url, headers = connector.image_request(record.images[0].url)
        assert headers == {}
        return (await connector.client.get(url, headers=headers)).content

    assert ask(fetch)[:2] == b"\xff\xd8"


# --- syncs ----------------------------------------------------------------------------------------


def differences(engine: sa.Engine, store: ThePornDB) -> list[Any]:
    """The differences of the catalog from the server."""
    stored = rows(engine, NAME)
    wrong: list[Any] = sorted(live(engine, NAME) ^ store.performers.keys())
    pictures = links(engine, schema.performer_images.c.image_id, NAME)
    for key in live(engine, NAME) & store.performers.keys():
        row = store.performers[key]
        posters = {f"poster-{poster.number}" for poster in row.posters}
        mine = {image for image in pictures.get(key, set()) if image.startswith("poster-")}
        if stored[key].name != " ".join(row.name.split()) or mine != posters:
            wrong.append((key, row.name, mine ^ posters))
    held = set().union(*pictures.values()) if pictures else set()
    return wrong + sorted(images(engine, NAME).keys() ^ held)


@pytest.mark.slow
def test_a_backfill_equals_the_demo_world(any_catalog):
    world = make_demo_world(people=60)
    with SandboxServers(world) as servers:
        report = refresh_from(servers, any_catalog, NAME, "auto")
        assert (report.mode, report.outcome, report.live) == (
            "backfill",
            Outcome.FOUND,
            len(world.theporndb.performers),
        )
        assert differences(any_catalog, world.theporndb) == []
        again = refresh_from(servers, any_catalog, NAME, "full_sweep")
        assert (again.added, again.updated, again.removed) == (0, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("offers_changes", [True, False])
def test_an_increment_reads_the_changed_performers_and_stops(
    refresh, catalog, store, offers_changes, fresh_sandbox, monkeypatch
):
    monkeypatch.setattr(connector_module, "_A_PAGE", 10)
    store.offers_changes = offers_changes
    keys = fill(store, 200)
    refresh()
    store.clock.advance(30 * 86_400)
    refresh()
    fresh_sandbox.traffic.clear_requests()
    store.edit(keys[7], name="Another Name")
    store.add_poster(keys[9], Picture(999, size=(40, 50)))
    new = store.create(name="New")
    report = refresh()
    assert (report.mode, report.added, report.updated) == ("increment", 1, 2)
    assert report.requests <= 6
    assert new in live(catalog, NAME)
    assert differences(catalog, store) == []


@pytest.mark.slow
def test_deletions_and_merges_are_found_by_the_sweep(refresh, catalog, store):
    keys = fill(store, 40)
    refresh()
    store.delete(keys[0])
    store.merge(keys[1], keys[2])
    assert refresh().removed == 0
    report = refresh("full_sweep")
    assert report.removed + report.merged == 2
    assert buried(catalog, NAME).keys() == {keys[0], keys[1]}
    assert differences(catalog, store) == []


def test_a_performer_that_is_missing_in_one_request_of_two_stays_live(refresh, catalog, store, fresh_sandbox):
    keys = fill(store, 5)
    refresh()

    def hide(document: Any) -> Any:
        return {**document, "data": [row for row in document["data"] if row["id"] != keys[0]]}

    fresh_sandbox.traffic.inject(
        Fault(FaultKind.REWRITE, box=NAME, containing="orderBy", rewrite=hide, times=None)
    )
    fresh_sandbox.traffic.inject(Fault(FaultKind.STATUS, box=NAME, path=f"/performers/{keys[0]}", status=404))
    assert refresh("full_sweep").removed == 0
    assert keys[0] in live(catalog, NAME)


@pytest.mark.slow
def test_a_slug_that_leads_to_another_performer_is_a_merge(refresh, catalog, store, fresh_sandbox):
    keys = fill(store, 3)
    refresh()
    slug, name = store.performers[keys[0]].slug, store.performers[keys[0]].name
    store.delete(keys[0])
    store.edit(keys[1], name=name)
    store._by_name[slug] = keys[1]
    report = refresh("full_sweep")
    assert (report.merged, report.removed) == (1, 0)
    assert buried(catalog, NAME) == {keys[0]: keys[1]}


@pytest.mark.slow
def test_a_mass_disappearance_is_believed_in_the_second_sweep(refresh, catalog, store):
    keys = fill(store, 60)
    refresh()
    for key in keys[:30]:
        store.delete(key)
    report = refresh("full_sweep")
    assert (report.outcome, report.removed, report.refused) == (Outcome.AMBIGUOUS, 0, 30)
    assert refresh().outcome is Outcome.FOUND
    assert refresh("full_sweep").removed == 30
    assert differences(catalog, store) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (Fault(FaultKind.STATUS, status=401, times=None), Outcome.BLOCKED),
        (Fault(FaultKind.STATUS, status=403, times=None), Outcome.BLOCKED),
        (Fault(FaultKind.STATUS, status=429, times=None), Outcome.RATE_LIMITED),
        (Fault(FaultKind.BODY, times=None), Outcome.PARSE_ERROR),
        (Fault(FaultKind.SHORT, times=None), Outcome.PARSE_ERROR),
        (Fault(FaultKind.WRONG_TYPES, times=None), Outcome.PARSE_ERROR),
        (Fault(FaultKind.CUT, times=None), Outcome.TIMEOUT),
        (Fault(FaultKind.STATUS, status=404, times=None), Outcome.PARSE_ERROR),
    ],
    ids=lambda value: str(getattr(value, "kind", value)),
)
def test_a_failure_deletes_no_record_and_is_the_outcome(
    refresh, catalog, store, fresh_sandbox, fault, outcome
):
    keys = fill(store, 30)
    refresh()
    with reading(catalog) as connection:
        before = load_state(connection, NAME)
    fault.box = NAME
    fresh_sandbox.traffic.inject(fault)
    for mode in ("auto", "full_sweep"):
        report = refresh(mode)
        assert report.outcome is outcome
        assert report.message is not None
        assert live(catalog, NAME) == set(keys)
        with reading(catalog) as connection:
            after = load_state(connection, NAME)
        assert (after.last_sync_at, after.last_sweep_at) == (before.last_sync_at, before.last_sweep_at)


@pytest.mark.slow
def test_a_row_that_breaks_every_answer_is_unread_and_the_others_are_stored(
    refresh, catalog, store, fresh_sandbox
):
    """The server fails for each page that contains it, and for the performer alone."""
    keys = fill(store, 25)
    names = sorted(keys, key=lambda key: store.performers[key].name)
    place = names.index(keys[4]) + 1
    for size in (100, 10, 1):
        page = -(-place // size)
        containing = f"page={page}&per_page={size}"
        fresh_sandbox.traffic.inject(
            Fault(
                FaultKind.STATUS, status=500, times=None, box=NAME, path="/performers", containing=containing
            )
        )
    report = refresh()
    assert report.outcome is Outcome.FOUND
    assert report.unread == 1
    assert set(rows(catalog, NAME)) == set(keys) - {keys[4]}
    fresh_sandbox.traffic.clear_faults()
    assert refresh("full_sweep").unread == 0
    assert set(rows(catalog, NAME)) == set(keys)


@pytest.mark.slow
def test_a_performer_that_fails_to_be_looked_up_stays_live_and_the_others_are_settled(
    refresh, catalog, store, fresh_sandbox
):
    keys = fill(store, 12)
    refresh()
    gone = [keys[2], keys[5], keys[9]]
    for key in gone:
        store.delete(key)
    fresh_sandbox.traffic.inject(
        Fault(FaultKind.STATUS, status=503, times=None, box=NAME, path=f"/performers/{keys[5]}")
    )
    report = refresh("full_sweep")
    assert report.outcome is Outcome.FOUND
    assert report.unread == 1
    assert set(buried(catalog, NAME)) == {keys[2], keys[9]}
    fresh_sandbox.traffic.clear_faults()
    refresh("full_sweep")
    assert set(buried(catalog, NAME)) == set(gone)


@pytest.mark.slow
def test_a_server_that_fails_every_look_up_is_a_failed_run(refresh, catalog, store, fresh_sandbox):
    keys = fill(store, 12)
    refresh()
    for key in keys[:5]:
        store.delete(key)
    fresh_sandbox.traffic.inject(
        Fault(FaultKind.STATUS, status=503, times=None, box=NAME, path="/performers/")
    )
    report = refresh("full_sweep")
    assert report.outcome is Outcome.TIMEOUT
    assert buried(catalog, NAME) == {}
