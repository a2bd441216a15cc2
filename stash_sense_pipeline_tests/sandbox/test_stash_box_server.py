"""The stash-box server over loopback HTTP: its answers and traps, and the changes and faults tests order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.faults import Fault, FaultKind
from stash_sense_pipeline.sandbox.invented.clock import parse_rfc3339, rfc3339, to_micros
from stash_sense_pipeline.sandbox.invented.pictures import Picture
from stash_sense_pipeline.sandbox.servers import SandboxServers, sources_settings
from stash_sense_pipeline.sandbox.stash_box.field_getters import Context
from stash_sense_pipeline.sandbox.stash_box.rows import BoxOptions, ControlError, Link, Moment, Ties
from stash_sense_pipeline.sandbox.stash_box.server import answer_query
from stash_sense_pipeline.sandbox.world import HOSTS, SOURCES, World
from stash_sense_pipeline_tests.sandbox.synthetic_world import make_synthetic_world

BOX = "stashdb"
FULL = """
query Page($input: PerformerQueryInput!) {
  queryPerformers(input: $input) { count performers { ...all } }
}
fragment all on Performer {
  __typename id name disambiguation aliases gender birth_date death_date birthdate { date accuracy }
  age ethnicity country eye_color hair_color height cup_size band_size waist_size hip_size breast_type
  measurements { cup_size band_size waist hip }
  career_start_year career_end_year deleted merged_ids merged_into_id is_favorite scene_count created updated
  tattoos { location description } piercings { location }
  urls { url type site { id name url icon valid_types highlighted category { id } created } }
  ... on Performer { images { id url width height } }
}
"""
IDS = "query($i: PerformerQueryInput!) { queryPerformers(input: $i) { count performers { id updated } } }"
FIND = """query($id: ID!) { findPerformer(id: $id) {
  id name deleted merged_into_id merged_ids updated aliases tattoos { location } urls { url } images { id }
} }"""
EDITS = """query($i: EditQueryInput!) { queryEdits(input: $i) { count edits {
  id operation status applied closed created target_type target { ... on Performer { id deleted } }
  merge_sources { ... on Performer { id } } details { ... on PerformerEdit { name } }
} } }"""

EDIT_COUNT = "query($i: EditQueryInput!) { queryEdits(input: $i) { count } }"


PATIENCE = 120.0  # seconds
get, post = (partial(ask, timeout=PATIENCE) for ask in (httpx.get, httpx.post))


class Client:
    """A caller of one box."""

    def __init__(self, servers, source=BOX, key=True):
        headers = {"User-Agent": "sandbox-tests/1"}
        if key:
            headers["ApiKey"] = servers.api_key(source) if key is True else key
        self.http = httpx.Client(headers=headers, timeout=PATIENCE)
        self.endpoint = servers.endpoint(source)
        self.base = servers.url(source)

    def post(self, query, **variables):
        return self.http.post(self.endpoint, json={"query": query, "variables": variables})

    def data(self, query, **variables):
        answer = self.post(query, **variables)
        assert answer.status_code == 200, answer.text
        assert "errors" not in answer.json(), answer.text
        return answer.json()["data"]

    def page(self, query=IDS, **wanted):
        return self.data(query, i=wanted)["queryPerformers"]

    def find(self, performer_id):
        return self.data(FIND, id=performer_id)["findPerformer"]

    def edits(self, **wanted):
        return self.data(EDITS, i=wanted)["queryEdits"]

    def walk(self, sort, direction, per_page):
        seen, page = [], 1
        while True:
            got = self.page(sort=sort, direction=direction, per_page=per_page, page=page)
            seen += [row["id"] for row in got["performers"]]
            if len(seen) >= got["count"]:
                return seen
            page += 1


@pytest.fixture(scope="module")
def demo():
    with SandboxServers(make_demo_world()) as servers:
        yield servers


@pytest.fixture
def small():
    """A world that the test may change."""
    with SandboxServers(make_demo_world(people=60)) as servers:
        yield servers


@pytest.fixture
def box(small):
    return small.world.boxes[BOX]


@pytest.fixture
def client(small):
    return Client(small)


def live_ids(box):
    return [row.id for row in box.performers.values() if not row.deleted]


# Errors


def test_without_a_key_the_answer_is_200_with_not_authorized(demo):
    anonymous = Client(demo, key=False)
    answer = anonymous.post(IDS, i={})
    assert answer.status_code == 200
    assert answer.json() == {
        "errors": [{"message": "not authorized", "path": ["queryPerformers"]}],
        "data": None,
    }
    answer = anonymous.post(FIND, id="759d1830-c5b0-4e8a-98ee-f971ba7b42c5")
    assert answer.status_code == 200
    assert answer.json() == {
        "errors": [{"message": "not authorized", "path": ["findPerformer"]}],
        "data": {"findPerformer": None},
    }
    assert anonymous.post("{ version { version } }").json()["data"] is None
    assert anonymous.post("{ me { id } }").json() == {"data": {"me": None}}


def test_a_wrong_key_is_401_with_an_empty_body_for_images_too(demo):
    unauthorized = Client(demo, key="wrong")
    image = next(iter(demo.world.boxes[BOX].images))
    for answer in (
        unauthorized.post(IDS, i={}),
        unauthorized.http.get(f"{unauthorized.base}/images/{image}"),
    ):
        assert (answer.status_code, answer.content) == (401, b"")


def test_a_body_that_is_not_json_is_400(demo):
    client = Client(demo)
    answer = client.http.post(client.endpoint, content="{", headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["errors"]
    assert (
        client.http.post(
            client.endpoint, content="[1]", headers={"Content-Type": "application/json"}
        ).status_code
        == 400
    )
    assert (
        client.http.post(client.endpoint, content="{}", headers={"Content-Type": "text/plain"}).status_code
        == 400
    )


@pytest.mark.parametrize(
    ("query", "variables", "code"),
    [
        ("query {", {}, "GRAPHQL_PARSE_FAILED"),
        ("{ queryPerformers(input: {}) { count nothing } }", {}, "GRAPHQL_VALIDATION_FAILED"),
        ("{ queryPerformers { count } }", {}, "GRAPHQL_VALIDATION_FAILED"),
        ("mutation { performerDestroy(id: 1) }", {}, "GRAPHQL_VALIDATION_FAILED"),
        (IDS, {"i": {"sort": "NOTHING"}}, "GRAPHQL_VALIDATION_FAILED"),
        (IDS, {"i": {"updated_at": "2026-01-01"}}, "GRAPHQL_VALIDATION_FAILED"),
        (IDS, {}, "GRAPHQL_VALIDATION_FAILED"),
        ("query A { version { version } } query B { me { id } }", {}, "GRAPHQL_VALIDATION_FAILED"),
    ],
)
def test_a_query_that_does_not_parse_or_fit_the_schema_is_422_with_a_code(demo, query, variables, code):
    answer = Client(demo).post(query, **variables)
    assert answer.status_code == 422
    assert answer.json()["data"] is None
    assert answer.json()["errors"][0]["extensions"] == {"code": code}


def test_a_malformed_id_gives_null_and_an_error_and_an_unknown_id_only_null(demo):
    client = Client(demo)
    answer = client.post(FIND, id="nonsense").json()
    assert answer["data"] == {"findPerformer": None}
    assert answer["errors"][0]["path"] == ["findPerformer"]
    assert client.find("00000000-0000-4000-8000-000000000000") is None


@pytest.mark.slow
def test_introspection_needs_no_key_and_shows_the_features_of_the_server(small):
    names = '{ __schema { queryType { fields { name } } } __type(name: "Performer") { fields { name } } }'
    anonymous = Client(small, key=False)
    data = anonymous.data(names)
    fields = {field["name"] for field in data["__type"]["fields"]}
    assert {"death_date", "merged_into_id"} <= fields
    assert "performerChangelog" not in {field["name"] for field in data["__schema"]["queryType"]["fields"]}
    small.world.boxes[BOX].options = BoxOptions(changelog=True, legacy_schema=True)
    data = anonymous.data(names)
    fields = {field["name"] for field in data["__type"]["fields"]}
    assert not {"death_date", "merged_into_id"} & fields
    assert "performerChangelog" in {field["name"] for field in data["__schema"]["queryType"]["fields"]}
    assert Client(small).post('{ findPerformer(id: "x") { merged_into_id } }').status_code == 422


def test_get_requests_and_gzip_work(demo):
    client = Client(demo)
    answer = client.http.get(
        client.endpoint, params={"query": IDS, "variables": json.dumps({"i": {"per_page": 100}})}
    )
    assert len(answer.json()["data"]["queryPerformers"]["performers"]) == 100
    assert answer.headers["content-encoding"] == "gzip"
    plain = client.http.get(
        client.endpoint, params={"query": "{me{id}}"}, headers={"Accept-Encoding": "identity"}
    )
    assert "content-encoding" not in plain.headers


def test_me_version_and_sites_are_answered_like_the_real_servers(demo):
    data = Client(demo).data(
        "{ me { name roles } version { version build_type } querySites { count sites { id name } } }"
    )
    assert data["me"]["roles"] == ["READ"]
    assert data["version"]["version"] == "v0.10.2"
    assert data["querySites"]["count"] == len(data["querySites"]["sites"]) > 3


# Rows


@pytest.mark.slow
def test_a_row_has_the_types_of_the_servers(demo):
    box = demo.world.boxes[BOX]
    rows = Client(demo).data(FULL, input={"per_page": 1000, "sort": "NAME"})["queryPerformers"]["performers"]
    assert len(rows) == box.count()
    assert all(row["deleted"] is False and row["merged_into_id"] is None for row in rows)
    assert all(row["aliases"] == sorted(row["aliases"], key=str.encode) for row in rows)
    assert {row["tattoos"] is None for row in rows} == {True, False}
    assert all(row["tattoos"] is None or row["tattoos"] for row in rows)
    assert any(row["merged_ids"] for row in rows)
    assert all(
        image["url"] == f"{demo.url(BOX)}/images/{image['id']}" and image["width"] > 0
        for row in rows
        for image in row["images"]
    )
    assert all(link["type"] == link["site"]["name"].upper() for row in rows for link in row["urls"])
    times = [row["updated"] for row in rows]
    assert all((time.endswith("Z") and not time.endswith("0Z")) or "." not in time for time in times)
    assert len({len(time) for time in times}) > 2, "trailing zeros are dropped"
    assert {parse_rfc3339(time) for time in times} <= {row.updated for row in box.performers.values()}


def test_times_are_written_as_go_does():
    moment = to_micros(datetime(2025, 3, 1, 12, tzinfo=UTC))
    assert rfc3339(moment) == "2025-03-01T12:00:00Z"
    assert rfc3339(moment + 500_000) == "2025-03-01T12:00:00.5Z"
    assert rfc3339(moment + 123_450) == "2025-03-01T12:00:00.12345Z"
    assert rfc3339(moment + 1) == "2025-03-01T12:00:00.000001Z"


@pytest.mark.slow
@given(st.integers(min_value=0, max_value=4_000_000_000_000_000))
def test_a_time_that_is_written_and_parsed_is_unchanged(micros):
    assert parse_rfc3339(rfc3339(micros)) == micros


def test_find_shows_tombstones_that_queries_hide(demo):
    box, client = demo.world.boxes[BOX], Client(demo)
    shown = {row["id"] for row in client.page(per_page=1000)["performers"]}
    deleted = [row for row in box.performers.values() if row.deleted]
    assert deleted
    for row in deleted:
        assert row.id not in shown
        found = client.find(row.id)
        assert found["deleted"] is True
        assert found["name"] == row.name
        assert found["merged_into_id"] == box.redirect_of(row.id)
        assert (found["aliases"], found["urls"], found["images"], found["tattoos"]) == ([], [], [], None)


def test_searching_finds_names_aliases_and_ids_deleted_ones_too(demo):
    box, client = demo.world.boxes[BOX], Client(demo)
    query = """query($t: String!) {
      searchPerformers(term: $t, per_page: 5) { count performers { id } } searchPerformer(term: $t) { id } }"""
    row = next(row for row in box.performers.values() if not row.deleted and box.joins[row.id].aliases)
    for term in (row.name, box.joins[row.id].aliases[0].upper(), row.id):
        found = client.data(query, t=term)
        assert row.id in {hit["id"] for hit in found["searchPerformers"]["performers"]}
        assert row.id in {hit["id"] for hit in found["searchPerformer"]}
    tombstone = next(row for row in box.performers.values() if row.deleted)
    assert client.data(query, t=tombstone.id)["searchPerformers"]["performers"] == [{"id": tombstone.id}]


def test_filters_of_the_servers_are_applied_and_the_others_are_ignored(demo):
    box, client = demo.world.boxes[BOX], Client(demo)
    live = [row for row in box.performers.values() if not row.deleted]

    def ids(**wanted):
        return {row["id"] for row in client.page(per_page=1000, **wanted)["performers"]}

    assert ids(gender="UNKNOWN") == {row.id for row in live if row.gender is None}
    assert ids(gender="MALE") == {row.id for row in live if row.gender == "MALE"}
    assert ids(birth_year={"value": 1980, "modifier": "LESS_THAN"}) == {
        row.id for row in live if row.birth_date and int(row.birth_date[:4]) < 1980
    }
    assert ids(country={"value": "JP", "modifier": "EQUALS"}) == {
        row.id for row in live if row.country == "JP"
    }
    link = next(link for row in live for link in box.joins[row.id].urls)
    assert ids(url=link.url) == {
        row.id for row in live if link.url in {found.url for found in box.joins[row.id].urls}
    }
    assert ids(name=live[0].name.upper()) >= {live[0].id}
    assert ids(is_favorite=True) == set()
    assert ids(height={"value": 1, "modifier": "EQUALS"}, alias="nobody at all") == {row.id for row in live}


# Fast execution

FIELDS = st.lists(
    st.sampled_from(
        [
            *("id", "name", "updated", "other: name", "aliases", "tattoos { location }", "__typename", "age"),
            *("urls { url site { name } }", "urls { type }", "images { id }", "images { url w: width }"),
            *("merged_ids", "merged_into_id", "measurements { waist }", "birthdate { accuracy }", "gender"),
            "... on Performer { country id }",
            "... { height }",
            "...part",
        ]
    ),
    min_size=1,
    max_size=6,
    unique=True,
).map(" ".join)


@pytest.mark.slow
@given(
    fields=FIELDS,
    sort=st.sampled_from(["NAME", "UPDATED_AT", "CREATED_AT", "BIRTHDATE", "SCENE_COUNT", "DEBUT"]),
    direction=st.sampled_from(["ASC", "DESC"]),
    page=st.integers(-1, 4),
    per_page=st.integers(-1, 60),
    authorized=st.sampled_from([True, True, True, False]),
    number=st.integers(0, 3),
    literal=st.booleans(),
)
@settings(deadline=None, max_examples=150)
def test_fast_execution_gives_the_answers_of_graphql_core(
    demo, fields, sort, direction, page, per_page, authorized, number, literal
):
    box = demo.world.boxes[BOX]
    some = [*list(box.performers)[:3], "bad id", "00000000-0000-4000-8000-000000000000"]
    finds = " ".join(f'f{place}: findPerformer(id: "{key}") {{ {fields} }}' for place, key in enumerate(some))
    given_input = (
        f"{{sort: {sort}, direction: {direction}, page: {page}, per_page: {per_page}}}" if literal else "$i"
    )
    query = f"""query Q($i: PerformerQueryInput = {{}}) {{
      {finds}
      q: queryPerformers(input: {given_input}) {{ count performers {{ {fields} }} ...more }}
      version {{ version }} me {{ id }} __typename: me {{ roles }}
    }}
    fragment more on QueryPerformersResultType {{ performers {{ death_date }} }}
    fragment part on Performer {{ piercings {{ location description }} }}"""
    if "...part" not in fields:
        query = query.replace("fragment part on Performer { piercings { location description } }", "")
    query = query.replace("__typename: me", "again: me")
    if literal:
        query = query.replace("query Q($i: PerformerQueryInput = {})", "query Q")
        query_input = {}
    else:
        query = query.replace("PerformerQueryInput = {}", "PerformerQueryInput!")
        query_input = {"i": {"sort": sort, "direction": direction, "page": page, "per_page": per_page}}
    context = Context(box, authorized, "http://127.0.0.1:1", number)
    quick = answer_query(context, query, query_input)
    slow = answer_query(context, query, query_input, fast=False)
    assert quick == slow
    assert json.dumps(quick.body) == json.dumps(slow.body)
    assert quick.status == 200


# Paging


@pytest.mark.slow
def test_paging_by_time_loses_rows_and_paging_by_name_does_not():
    world = make_synthetic_world(3000)
    with SandboxServers(world) as servers:
        client = Client(servers)
        everything = set(world.boxes[BOX].performers)
        for sort in ("UPDATED_AT", "CREATED_AT"):
            for direction in ("ASC", "DESC"):
                rows = client.walk(sort, direction, 250)
                assert len(rows) == len(everything), "the number of rows looks right"
                missing = len(everything - set(rows))
                assert missing > 0.05 * len(everything)
                assert len(everything - set(client.walk(sort, direction, 250))) == missing, (
                    "again the same ones"
                )
        for direction in ("ASC", "DESC"):
            for per_page in (100, 250, 1000):
                rows = client.walk("NAME", direction, per_page)
                assert set(rows) == everything
                assert len(rows) == len(everything)
        assert set(client.walk("UPDATED_AT", "DESC", 3000)) == everything, "one page is one statement"


def test_ties_change_with_each_request_or_are_stable_as_the_options_say(box, client):
    box.options = BoxOptions(ties=Ties.REQUEST)
    assert client.page(sort="UPDATED_AT", per_page=20, direction="ASC") != client.page(
        sort="UPDATED_AT", per_page=20, direction="ASC"
    )
    box.options = BoxOptions(ties=Ties.STABLE)
    assert set(client.walk("UPDATED_AT", "DESC", 7)) == set(live_ids(box))


def test_paging_by_name_loses_no_equal_names_in_either_direction(box, client):
    for _ in range(25):
        box.create(name="Quae Samename")
    assert set(client.walk("NAME", "ASC", 4)) == set(client.walk("NAME", "DESC", 4)) == set(live_ids(box))
    assert client.walk("NAME", "ASC", 1000) == client.walk("NAME", "DESC", 1000)[::-1]


def test_per_page_is_unlimited_unless_the_box_caps_it_silently(box, client):
    total = box.count()
    assert len(client.page(per_page=100_000)["performers"]) == total
    for odd in (0, -3):
        assert len(client.page(per_page=odd)["performers"]) == 25
    assert len(client.page()["performers"]) == 25
    box.options = BoxOptions(per_page_cap=10)
    assert len(client.page(per_page=1000)["performers"]) == 10
    second = client.page(per_page=1000, page=2, sort="NAME", direction="ASC")
    assert [row["id"] for row in second["performers"]] == client.walk("NAME", "ASC", 10)[10:20]
    assert second["count"] == total


# Changes


def test_create_edit_and_bump_change_the_record_and_its_updated(box, client):
    image = box.upload(Picture(900_001))
    site = box.site_for("Example", "https://www.example.org")
    key = box.create(
        name="Vaen Oxul",
        aliases=["b", "a"],
        images=[image],
        urls=[Link("https://www.example.org/v", site)],
        person=7,
    )
    first = client.find(key)
    assert (first["name"], first["aliases"]) == ("Vaen Oxul", ["a", "b"])
    assert client.page(sort="UPDATED_AT", per_page=1)["performers"][0]["id"] == key
    assert small_person(box, key) == 7
    box.edit(key, name="Vaen Oxula")
    second = client.find(key)
    assert (second["name"], second["images"], second["urls"]) == (
        "Vaen Oxula",
        first["images"],
        first["urls"],
    )
    box.bump(key)
    third = client.find(key)
    assert {**third, "updated": None} == {**second, "updated": None}
    assert (
        parse_rfc3339(first["updated"]) < parse_rfc3339(second["updated"]) < parse_rfc3339(third["updated"])
    )


def small_person(box, key):
    return box.people[key]


def test_an_image_only_edit_bumps_and_destroying_an_image_does_not(box, client):
    key = live_ids(box)[0]
    before = client.find(key)
    image = box.add_image(key, Picture(900_002))
    added = client.find(key)
    assert image in {row["id"] for row in added["images"]}
    assert added["updated"] != before["updated"]
    other = live_ids(box)[1]
    assert box.add_image(other, Picture(900_002)) == image, "equal bytes are one image"
    stamps = [client.find(id)["updated"] for id in (key, other)]
    box.destroy_image(image)
    assert [client.find(id)["updated"] for id in (key, other)] == stamps
    assert all(image not in {row["id"] for row in client.find(id)["images"]} for id in (key, other))
    assert client.http.get(f"{client.base}/images/{image}").status_code == 404


def test_a_chain_of_merges_redirects_in_one_step_and_both_records_show_it(box, client):
    a, b, c, d = live_ids(box)[:4]
    images = {row["id"] for key in (a, b) for row in client.find(key)["images"]}
    name = client.find(a)["name"]
    box.merge([a], b)
    source, target = client.find(a), client.find(b)
    assert (source["deleted"], source["merged_into_id"], source["name"]) == (True, b, name)
    assert source["updated"] == target["updated"], "one transaction, one timestamp"
    assert a in target["merged_ids"]
    assert name in target["aliases"]
    assert images <= {row["id"] for row in target["images"]}
    box.merge([b, d], c)
    assert (
        client.find(a)["merged_into_id"]
        == client.find(b)["merged_into_id"]
        == client.find(d)["merged_into_id"]
        == c
    )
    assert {a, b, d} <= set(client.find(c)["merged_ids"])
    assert client.find(b)["merged_ids"] == []
    box.destroy(c)
    end = client.find(a)
    assert end["merged_into_id"] == c
    assert client.find(c)["deleted"] is True
    assert client.find(c)["merged_into_id"] is None
    assert not {a, b, c, d} & {row["id"] for row in client.page(per_page=1000)["performers"]}
    with pytest.raises(ControlError):
        box.edit(a, name="Nobody")


def test_a_merge_without_images_drops_the_images_of_the_source(box, client):
    a, b = live_ids(box)[:2]
    box.add_image(a, Picture(900_003))
    before = client.find(b)["images"]
    box.merge([a], b, keep_images=False)
    assert {row["id"] for row in client.find(b)["images"]} == {row["id"] for row in before}


def test_a_hard_delete_leaves_no_trace_and_takes_redirects_with_it(box, client):
    a, b, c = live_ids(box)[:3]
    box.merge([a], b)
    edits = client.data(EDIT_COUNT, i={"applied": True})
    box.hard_delete(b)
    assert client.data(EDIT_COUNT, i={"applied": True}) == edits
    assert client.find(b) is None
    assert client.find(a)["deleted"] is True
    assert client.find(a)["merged_into_id"] is None
    box.hard_delete(c)
    assert client.page()["count"] == box.count() == len(live_ids(box))


def test_a_restored_performer_is_live_again_without_a_redirect(box, client):
    a, b = live_ids(box)[:2]
    box.merge([a], b)
    box.restore(a, aliases=["Back"])
    back = client.find(a)
    assert (back["deleted"], back["merged_into_id"], back["aliases"]) == (False, None, ["Back"])
    assert client.find(b)["merged_ids"] == []


def test_edits_are_listed_in_a_total_order_and_can_be_filtered(box, client):
    a, b, c, d = live_ids(box)[:4]
    box.clock.freeze()
    box.merge([a], b)
    box.destroy(c)
    for _ in range(12):
        box.bump(d)
    box.clock.freeze(False)
    merged = client.edits(operation="MERGE", applied=True, sort="CLOSED_AT", target_type="PERFORMER")
    newest = merged["edits"][0]
    assert newest["target"]["id"] == b
    assert [row["id"] for row in newest["merge_sources"]] == [a]
    assert newest["applied"] is True
    assert newest["status"] in ("ACCEPTED", "IMMEDIATE_ACCEPTED")
    destroyed = client.edits(operation="DESTROY", sort="CLOSED_AT")["edits"][0]
    assert destroyed["target"] == {"id": c, "deleted": True}
    pages = [client.edits(sort="CLOSED_AT", per_page=3, page=page) for page in range(1, 40)]
    seen = [edit["id"] for page in pages for edit in page["edits"]]
    assert len(seen) == len(set(seen)) == pages[0]["count"]
    assert client.edits(applied=False)["count"] == 0
    assert client.edits(target_type="SCENE")["count"] == 0
    assert client.edits(target_id=c)["count"] >= 1


def test_the_edit_of_a_hard_deleted_target_has_null_and_an_error(box, client):
    a, b, c = live_ids(box)[:3]
    box.merge([a, c], b)
    box.hard_delete(a)
    edit = client.edits(operation="MERGE", sort="CLOSED_AT")["edits"][0]
    assert [row["id"] for row in edit["merge_sources"]] == [c]
    box.hard_delete(b)
    answer = client.post(EDITS, i={"operation": "MERGE", "sort": "CLOSED_AT", "per_page": 1})
    assert answer.status_code == 200
    body = answer.json()
    assert body["data"]["queryEdits"]["edits"][0]["target"] is None
    assert body["errors"][0]["path"] == ["queryEdits", "edits", 0, "target"]
    one = client.post(
        "query($id: ID!) { findEdit(id: $id) { id target { ... on Performer { id } } } }", id=edit["id"]
    )
    assert one.json()["data"]["findEdit"] == {"id": edit["id"], "target": None}


def test_edits_can_close_late_and_be_removed(box, client):
    key = live_ids(box)[0]
    count = client.edits()["count"]
    box.hold_edits()
    box.destroy(key)
    assert client.find(key)["deleted"] is True
    assert client.edits()["count"] == count
    box.close_edits()
    newest = client.edits(sort="CLOSED_AT", per_page=1)["edits"][0]
    assert newest["operation"] == "DESTROY"
    assert parse_rfc3339(newest["closed"]) > parse_rfc3339(client.find(key)["updated"])
    box.delete_edit(newest["id"])
    assert client.edits()["count"] == count
    assert client.find(key)["deleted"] is True


def test_a_late_commit_appears_below_a_watermark_taken_before(box, client):
    slow, quick = live_ids(box)[:2]
    began = box.clock.stamp()
    box.bump(quick)
    watermark = client.page(sort="UPDATED_AT", per_page=1)["performers"][0]
    assert watermark["id"] == quick
    box.edit(slow, name="Late Committed", at=began)
    assert client.page(sort="UPDATED_AT", per_page=1)["performers"][0] == watermark
    assert parse_rfc3339(client.find(slow)["updated"]) == began < parse_rfc3339(watermark["updated"])


def test_a_frozen_clock_gives_equal_timestamps_and_a_clock_can_be_set(box, client):
    keys = live_ids(box)[:5]
    box.touch(keys)
    assert len({client.find(key)["updated"] for key in keys}) == 1
    box.clock.set(datetime(2025, 10, 26, 1, tzinfo=UTC))
    box.clock.freeze()
    for key in keys:
        box.bump(key)
    assert {client.find(key)["updated"] for key in keys} == {"2025-10-26T01:00:00Z"}


def test_the_changelog_pages_by_keyset_and_lists_tombstones(box, client):
    box.options = BoxOptions(changelog=True)
    query = """query($since: Time!, $after: ID, $limit: Int) {
      performerChangelog(since: $since, after_id: $after, limit: $limit) { id updated_at deleted redirect_to } }"""
    a, b, c = live_ids(box)[:3]
    start = rfc3339(box.clock.now())
    box.merge([a], b)
    box.destroy(c)
    changes = client.data(query, since=start)["performerChangelog"]
    assert {(row["id"], row["deleted"], row["redirect_to"]) for row in changes} == {
        (a, True, b),
        (b, False, None),
        (c, True, None),
    }
    stepwise, since, after = [], "2000-01-01T00:00:00Z", None
    while page := client.data(query, since=since, after=after, limit=7)["performerChangelog"]:
        stepwise += [row["id"] for row in page]
        since, after = page[-1]["updated_at"], page[-1]["id"]
    assert sorted(stepwise) == sorted(box.performers)
    box.options = BoxOptions()
    assert client.post(query, since=start).status_code == 422


def test_changes_can_come_between_the_statements_of_one_request(box, client):
    victim = next(key for key in live_ids(box) if box.joins[key].aliases and box.joins[key].images)
    moments = []

    def destroy_between(moment):
        moments.append(moment)
        if moment is Moment.SELECTED and not box.performers[victim].deleted:
            box.destroy(victim)

    box.observers.append(destroy_between)
    page = client.data(FULL, input={"per_page": 1000, "sort": "NAME"})["queryPerformers"]
    box.observers.clear()
    assert moments == [Moment.RECEIVED, Moment.COUNTED, Moment.SELECTED, Moment.ANSWERED]
    torn = next(row for row in page["performers"] if row["id"] == victim)
    assert (torn["deleted"], torn["aliases"], torn["images"]) == (False, [], [])
    box.observers.append(lambda moment: box.create(name="Extra Row") if moment is Moment.COUNTED else None)
    page = client.page(per_page=1000)
    assert len(page["performers"]) == page["count"] + 1


def test_changes_from_many_threads_keep_the_orders_consistent(box, client):
    keys = live_ids(box)

    def work(offset):
        for round_ in range(30):
            key = keys[(offset * 7 + round_) % len(keys)]
            box.edit(key, name=f"Name {offset} {round_}")
            box.create(name=f"New {offset} {round_}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        client.page(sort="UPDATED_AT", per_page=50)
    for thread in threads:
        thread.join()
    assert set(client.walk("NAME", "ASC", 20)) == set(live_ids(box))
    assert client.page()["count"] == len(keys) + 120


def test_a_cleared_box_equals_a_new_one(box, client):
    box.options = BoxOptions(per_page_cap=3)
    box.clear(seed=5)
    assert client.page() == {"count": 0, "performers": []}
    assert client.edits()["count"] == 0
    first = box.create(name="Once Again")
    assert client.page()["performers"][0]["id"] == first
    box.clear(seed=5)
    assert box.create(name="Once Again") == first


# Images


@pytest.mark.slow
def test_images_need_no_key_and_come_as_they_were_uploaded(demo):
    box = demo.world.boxes[BOX]
    row = next(row for row in box.images.values() if row.picture.kind == "portrait" and row.width == 400)
    url = f"{demo.url(BOX)}/images/{row.id}"
    whole = get(url, params={"size": "full"})
    assert whole.status_code == 200
    assert whole.headers["content-type"] == "image/jpeg"
    assert whole.headers["cache-control"] == "max-age=604800000"
    assert whole.content == demo.pictures.original(row.picture)
    assert get(url).content == get(url, params={"size": "77"}).content == whole.content
    wrong = get(url, params={"size": "large"})
    assert wrong.status_code == 400
    assert wrong.content.endswith(whole.content)
    assert get(f"{demo.url(BOX)}/images/00000000-0000-4000-8000-000000000000").status_code == 404


@pytest.mark.slow
def test_a_box_that_resizes_does_so_unless_the_full_size_is_asked_for(small):
    box = small.world.boxes[BOX]
    box.options = BoxOptions(resizing=True, image_max_size=300)
    row = next(row for row in box.images.values() if row.picture.kind == "portrait" and row.width == 400)
    url = f"{small.url(BOX)}/images/{row.id}"
    original = get(url, params={"size": "full"}).content
    assert original == small.pictures.original(row.picture)
    assert len(get(url).content) < len(original)
    assert get(url).content == get(url, params={"size": "300"}).content
    assert get(url, params={"size": "1280"}).content == original


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [
        ("html", "text/html; charset=utf-8"),
        ("empty", "text/plain; charset=utf-8"),
        ("not_an_image", "application/octet-stream"),
        ("truncated", "image/jpeg"),
    ],
)
def test_broken_files_come_with_status_200_and_the_type_of_their_bytes(demo, kind, content_type):
    row = next(row for row in demo.world.boxes[BOX].images.values() if row.picture.kind == kind)
    answer = get(f"{demo.url(BOX)}/images/{row.id}?size=full")
    assert (answer.status_code, answer.headers["content-type"]) == (200, content_type)


# Faults


def test_a_fault_can_answer_429_with_retry_after(small, client):
    fault = small.traffic.inject(
        Fault(FaultKind.STATUS, box=BOX, path="/graphql", status=429, retry_after="3", skip=1, times=2)
    )
    statuses = [client.post(IDS, i={}).status_code for _ in range(4)]
    assert statuses == [200, 429, 429, 200]
    assert fault.done == 2
    log = small.traffic.requests(BOX, "/graphql")
    assert [entry.status for entry in log] == statuses
    assert [entry.fault for entry in log] == [None, FaultKind.STATUS, FaultKind.STATUS, None]
    small.traffic.inject(Fault(FaultKind.STATUS, status=429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT"))
    assert client.post(IDS, i={}).headers["retry-after"].endswith("GMT")


def test_a_fault_can_answer_5xx_with_html(small, client):
    small.traffic.inject(Fault(FaultKind.STATUS, status=502, every=2, times=None))
    answers = [client.post(IDS, i={}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [502, 200, 502, 200]
    assert answers[0].text.startswith("<html>")
    assert answers[0].headers["content-type"].startswith("text/html")
    small.traffic.clear_faults()
    assert client.post(IDS, i={}).status_code == 200


def test_a_rule_applies_to_requests_of_its_box_path_and_text_only(small, client):
    fault = small.traffic.inject(
        Fault(FaultKind.STATUS, box=BOX, path="/graphql", containing="findPerformer")
    )
    other = Client(small, "pmvstash")
    assert other.post(FIND, id="00000000-0000-4000-8000-000000000000").status_code == 200
    assert client.post(IDS, i={}).status_code == 200
    assert fault.done == 0
    assert client.post(FIND, id="00000000-0000-4000-8000-000000000000").status_code == 503


@pytest.mark.slow
def test_a_hanging_request_times_out_at_the_client(small, client):
    small.traffic.inject(Fault(FaultKind.HANG, seconds=600))
    briefly = httpx.Timeout(PATIENCE, read=0.2)
    with pytest.raises(httpx.ReadTimeout):
        client.http.post(client.endpoint, json={"query": "{ me { id } }"}, timeout=briefly)
    small.traffic.inject(Fault(FaultKind.HANG, seconds=0.1))
    assert client.post(IDS, i={}).status_code == 504
    small.traffic.inject(Fault(FaultKind.SLOW, seconds=0.2))
    started = time.monotonic()
    assert client.post(IDS, i={}).status_code == 200
    assert time.monotonic() - started >= 0.2


def test_a_connection_is_cut_in_the_middle_of_a_body(small, client):
    image = next(iter(small.world.boxes[BOX].images))
    for share in (0.0, 0.5):
        small.traffic.inject(Fault(FaultKind.CUT, share=share, times=2))
        with pytest.raises(httpx.RemoteProtocolError):
            client.post(FULL, input={"per_page": 50})
        with pytest.raises(httpx.RemoteProtocolError):
            client.http.get(f"{client.base}/images/{image}")
    assert client.post(IDS, i={}).status_code == 200


def test_a_fault_can_replace_corrupt_or_shorten_a_body(small, client):
    url = f"{client.base}/images/{next(iter(small.world.boxes[BOX].images))}"
    true = client.http.get(url).content
    small.traffic.inject(
        Fault(FaultKind.BODY, path="/images", body=b"\x00\x01no image", content_type="image/jpeg")
    )
    spoiled = client.http.get(url)
    assert (spoiled.status_code, spoiled.content) == (200, b"\x00\x01no image")
    small.traffic.inject(Fault(FaultKind.CORRUPT, path="/images"))
    spoiled = client.http.get(url).content
    assert len(spoiled) == len(true)
    assert spoiled != true
    small.traffic.inject(Fault(FaultKind.BODY, path="/graphql"))
    assert client.post(IDS, i={}).text.startswith("<!DOCTYPE html>")
    small.traffic.inject(Fault(FaultKind.SHORT, path="/graphql"))
    short = client.post(FULL, input={"per_page": 50})
    assert short.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        short.json()
    assert client.http.get(url).content == true


def test_faults_with_half_pages_and_wrong_types_send_valid_json(small, client):
    small.traffic.inject(Fault(FaultKind.HALF_PAGE))
    half = client.page(per_page=20)
    assert len(half["performers"]) == 10
    assert half["count"] > 10
    small.traffic.inject(Fault(FaultKind.WRONG_TYPES))
    row = client.data(FULL, input={"per_page": 2})["queryPerformers"]["performers"][0]
    assert isinstance(row["id"], int)
    assert isinstance(row["images"], str)
    small.traffic.inject(Fault(FaultKind.REWRITE, rewrite=lambda body: {"data": {"queryPerformers": None}}))
    assert client.page() is None


@pytest.mark.slow
def test_the_log_has_the_time_of_each_request(small, client):
    moments = [time.monotonic()]
    for _ in range(3):
        client.post(IDS, i={})
        moments.append(time.monotonic())
    entries = small.traffic.requests(BOX)
    for entry, (sent, answered) in zip(entries, pairwise(moments), strict=True):
        assert sent <= entry.arrived <= answered
    assert entries[0].user_agent == "sandbox-tests/1"
    assert "queryPerformers" in entries[0].payload
    assert entries[0].sent > 100


# Serving


def listening_ports() -> set[int]:
    """The ports at which this process listens."""
    found = psutil.Process().net_connections("tcp")
    return {each.laddr.port for each in found if each.status == psutil.CONN_LISTEN}


@pytest.mark.slow
def test_two_worlds_at_once_start_within_seconds_and_close_all_their_ports():
    world = make_demo_world(people=20)
    before = set(threading.enumerate())
    started = time.process_time()
    with SandboxServers(world) as first:
        assert time.process_time() - started < 5
        with SandboxServers(make_demo_world(people=20)) as second:
            assert Client(first).page()["count"] == Client(second).page()["count"]
            assert first.url(BOX) != second.url(BOX)
    # Another process may listen at one of these ports by now.
    assert listening_ports().isdisjoint(
        {urlsplit(each.url(name)).port for each in (first, second) for name in SOURCES}
    )
    with first:
        assert Client(first).page()["count"] == world.boxes[BOX].count()
    first.stop()
    assert not [each for each in set(threading.enumerate()) - before if each.name == "sandbox servers"]


@pytest.mark.slow
def test_stopping_does_not_wait_for_hanging_requests(small):
    small.traffic.inject(Fault(FaultKind.HANG, seconds=600))

    def ask():
        assert httpx.post(small.endpoint(BOX), json={"query": "{me{id}}"}, timeout=600).status_code == 500

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    while not small.traffic._faults[0].done:
        time.sleep(0.02)
    small.stop()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "the request ended with the server, minutes before its time"


def test_a_taken_port_is_an_error(small):
    port = int(small.url(BOX).rsplit(":", 1)[1])
    with pytest.raises(OSError, match="in use"):
        SandboxServers(World.empty(), ports={"fansdb": port}).start()


@pytest.mark.slow
def test_the_settings_have_all_five_sources(demo):
    boxes = sources_settings(demo)["stash_boxes"]
    assert tuple(boxes) == SOURCES
    assert boxes["theporndb"]["connector"] == "theporndb"
    for name, host in HOSTS.items():
        assert boxes[name]["url"] == f"{demo.url(name)}/graphql"
        assert (boxes[name]["host"], boxes[name]["connector"]) == (host, "stash_box")
        assert Client(demo, name, key=demo.environment()[f"{name.upper()}_API_KEY"]).page()["count"] > 20


@pytest.mark.slow
def test_another_process_changes_the_world_over_http(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "stash_sense_pipeline_tests.tools.serve_sandbox", "--people", "30"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        lines = [process.stdout.readline().split() for _ in SOURCES]
        endpoint, key = {name: (url, key) for name, url, key in lines}[BOX]
        control = endpoint.replace("/graphql", "/_control")

        def act(operation, **arguments):
            answer = post(f"{control}/{operation}", json=arguments)
            assert answer.status_code == 200, answer.text
            return answer.json()["result"]

        def find(performer_id):
            answer = post(
                endpoint, json={"query": FIND, "variables": {"id": performer_id}}, headers={"ApiKey": key}
            )
            return answer.json()["data"]["findPerformer"]

        created = act(
            "create", name="Over Http", urls=[{"url": "https://www.example.org/a", "site": "Example"}]
        )
        assert find(created)["urls"] == [{"url": "https://www.example.org/a"}]
        image = act("add_image", performer_id=created, picture={"seed": 5})
        assert find(created)["images"] == [{"id": image}]
        act("edit", performer_id=created, name="Late", at="2025-12-01T00:00:00.5Z")
        assert find(created)["updated"] == "2025-12-01T00:00:00.5Z"
        target = next(row["id"] for row in act("performers") if not row["deleted"] and row["id"] != created)
        act("merge", sources=[created], target=target)
        assert find(created)["merged_into_id"] == target
        act("destroy", performer_id=target)
        act("hard_delete", performer_id=target)
        assert find(target) is None
        assert act("clock", set="2026-03-01T00:00:00Z", freeze=True) == "2026-03-01T00:00:00Z"
        act("options", per_page_cap=5, ties="stable")
        act("inject", kind="status", status=500, path="/graphql")
        assert post(endpoint, json={"query": "{me{id}}"}).status_code == 500
        assert [entry["status"] for entry in act("requests", path="/graphql")][-1] == 500
        assert post(f"{control}/edit", json={"performer_id": "unknown"}).status_code == 400
        assert post(f"{control}/nothing", json={}).status_code == 404
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


@pytest.mark.slow
def test_large_pages_of_a_large_box_are_quick():
    world = make_synthetic_world(50_000)
    box = world.boxes[BOX]
    context = Context(box, True, "http://127.0.0.1:1")
    for sort in ("NAME", "UPDATED_AT"):
        timings = []
        for page in (1, 15, 30, 45):
            wanted = {"input": {"sort": sort, "direction": "ASC", "page": page, "per_page": 1000}}
            started = time.thread_time()  # CPU time, so that other work on the machine does not fail the test
            answer = answer_query(context, FULL, wanted)
            timings.append(time.thread_time() - started)
            assert len(answer.body["data"]["queryPerformers"]["performers"]) == 1000
        assert min(timings) < 0.1, timings
