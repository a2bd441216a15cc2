"""The ThePornDB server over loopback HTTP: its envelope, its cap, its clamped last page, its odd shapes."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

import cv2
import httpx
import numpy as np
import pytest

from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.faults import Fault, FaultKind
from stash_sense_pipeline.sandbox.invented.pictures import BROKEN, Picture
from stash_sense_pipeline.sandbox.servers import SandboxServers
from stash_sense_pipeline.sandbox.theporndb import RESULT_CAP
from stash_sense_pipeline.sandbox.world import THEPORNDB
from stash_sense_pipeline_tests.sandbox.synthetic_world import make_synthetic_world

PATIENCE = 120.0  # seconds
get, post = (partial(ask, timeout=PATIENCE) for ask in (httpx.get, httpx.post))


class Client:
    def __init__(self, servers, **headers):
        self.base = servers.url(THEPORNDB)
        token = f"Bearer {servers.api_key(THEPORNDB)}"
        agent = {"User-Agent": "sandbox-tests/1", "Authorization": token, **headers}
        self.http = httpx.Client(headers=agent, timeout=PATIENCE)

    def get(self, path, **parameters):
        return self.http.get(f"{self.base}{path}", params=parameters)

    def page(self, path="/performers", **parameters):
        answer = self.get(path, **parameters)
        assert answer.status_code == 200, answer.text
        assert set(answer.json()) == {"data", "meta"}
        return answer.json()

    def walk(self, path="/performers", **parameters):
        """All entries, until the server answers with another page than the requested one."""
        found, page = [], 1
        while True:
            got = self.page(path, page=page, **parameters)
            if got["meta"]["current_page"] < page:
                return found
            found += got["data"]
            page += 1


@pytest.fixture(scope="module")
def demo():
    with SandboxServers(make_demo_world()) as servers:
        yield servers


@pytest.fixture
def small():
    with SandboxServers(make_demo_world(people=40)) as servers:
        yield servers


@pytest.fixture
def store(small):
    return small.world.theporndb


@pytest.fixture
def client(small):
    return Client(small)


@pytest.fixture(scope="module")
def rows(demo):
    return Client(demo).walk(per_page=100, orderBy="asc_name")


@pytest.mark.slow
def test_without_the_token_it_is_401_in_json(demo):
    for headers in (
        {"Authorization": ""},
        {"Authorization": "Bearer wrong"},
        {"ApiKey": "x", "Authorization": "x"},
    ):
        for path in ("/performers", "/performers/1", "/performer-sites", "/changes/performers"):
            answer = Client(demo, **headers).get(path)
            assert answer.status_code == 401
            assert answer.json() == {"message": "Unauthenticated."}


def test_the_default_agents_of_python_are_turned_away(demo):
    answer = Client(demo, **{"User-Agent": "python-httpx/0.28"}).get("/performers")
    assert answer.status_code == 403
    assert "error code: 1010" in answer.text


def test_a_page_after_the_last_repeats_the_last(demo, rows):
    client = Client(demo)
    total = len(demo.world.theporndb.performers)
    assert client.page()["meta"] == {
        "total": total,
        "per_page": 20,
        "current_page": 1,
        "last": -(-total // 20),
        "last_page": -(-total // 20),
    }
    last = client.page(per_page=50, page=-(-total // 50))
    assert len(last["data"]) == total % 50
    beyond = client.page(per_page=50, page=99)
    assert beyond == last
    assert client.page(per_page=5000)["meta"]["per_page"] == 100
    assert {row["id"] for row in rows} == set(demo.world.theporndb.performers)
    assert len(rows) == total


def test_an_empty_list_is_one_empty_page(demo):
    got = Client(demo).page(q="nobody is called that", page=4)
    assert got["data"] == []
    assert (got["meta"]["total"], got["meta"]["current_page"], got["meta"]["last"]) == (0, 1, 1)


@pytest.mark.slow
def test_lists_end_at_the_cap_and_partitions_reach_all_performers():
    world = make_synthetic_world({THEPORNDB: 12_000})
    with SandboxServers(world) as servers:
        client = Client(servers)
        assert client.page(per_page=100)["meta"]["total"] == RESULT_CAP
        everything = client.walk(per_page=100, orderBy="asc_name")
        assert len(everything) == RESULT_CAP
        assert client.page(per_page=20, page=501)["meta"]["current_page"] == 500
        parts = [
            row["id"]
            for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
            for row in client.walk(per_page=100, letter=letter, orderBy="asc_name")
        ]
        assert sorted(parts) == sorted(world.theporndb.performers)


def test_lists_can_be_filtered_by_letter_gender_and_text(demo, rows):
    client = Client(demo)
    women = client.walk(per_page=100, gender="Female")
    assert {row["id"] for row in women} == {row["id"] for row in rows if row["extras"]["gender"] == "Female"}
    letter = rows[10]["name"][0]
    found = client.walk(per_page=100, letter=letter.lower())
    assert {row["id"] for row in found} == {row["id"] for row in rows if row["name"].startswith(letter)}
    assert rows[10]["id"] in {row["id"] for row in client.walk(q=rows[10]["name"].upper())}


def test_lists_can_be_sorted_by_each_order(client, store):
    names = [row["name"].casefold() for row in client.walk(orderBy="desc_name")]
    assert names == sorted(names, reverse=True)
    key = list(store.performers)[5]
    store.edit(key, disambiguation="new")
    assert client.page(orderBy="recently_updated")["data"][0]["id"] == key
    newest = store.create(name="Newest Quazz")
    assert client.page(orderBy="recently_created")["data"][0]["id"] == newest
    for wrong in ("ASC_NAME", "nonsense"):
        assert client.get("/performers", orderBy=wrong).status_code == 422


def test_a_performer_is_found_by_uuid_number_and_slug(demo, rows):
    client = Client(demo)
    row = rows[20]
    for identifier in (row["id"], row["_id"], row["slug"]):
        assert client.get(f"/performers/{identifier}").json() == {"data": row}
    gone = client.get("/performers/00000000-0000-4000-8000-000000000000")
    assert gone.status_code == 404
    assert set(gone.json()) == {"message"}


def test_resources_have_the_odd_shapes_of_the_real_ones(rows):
    for row in rows:
        assert isinstance(row["_id"], int)
        assert row["is_parent"] is True
        assert "updated" not in row
        assert "created_at" not in row
        links = row["extras"]["links"]
        assert links == [] or (isinstance(links, dict) and links)
        assert row["aliases"] is None or isinstance(row["aliases"], list)
        assert [poster["order"] for poster in row["posters"]] == list(range(1, len(row["posters"]) + 1))
        assert all(set(poster) == {"id", "url", "size", "order"} for poster in row["posters"])
    assert {type(row["extras"]["links"]) for row in rows} == {list, dict}
    assert {None if row["aliases"] is None else bool(row["aliases"]) for row in rows} == {None, False, True}
    assert any("StashDB" in row["extras"]["links"] for row in rows if row["extras"]["links"])
    assert any(row["extras"]["gender"] is None for row in rows)
    assert any(row["extras"]["height"] and row["extras"]["height"].endswith("cm") for row in rows)
    without_art = [row for row in rows if row["image"] is None]
    assert all(row["thumbnail"] is None and row["face"] is None for row in without_art)
    assert any(row["posters"] for row in without_art), "posters can be there all the same"


def test_junk_has_no_pictures_and_belongs_to_no_person(demo, rows):
    junk = [row for row in rows if demo.world.person_of(THEPORNDB, row["id"]) is None]
    assert len(junk) == 5
    for row in junk:
        assert (row["image"], row["face"], row["posters"], row["aliases"]) == (None, None, [], None)
        assert row["is_parent"] is True


def test_site_performers_have_a_parent_or_none(demo, rows):
    client = Client(demo)
    children = client.walk("/performer-sites", per_page=100)
    assert all(child["is_parent"] is False for child in children)
    of_parents = {child["id"] for row in rows for child in row["site_performers"]}
    assert {child["id"] for child in children if child["parent"]} == of_parents
    assert any(child["parent"] is None for child in children)
    child = next(child for child in children if child["parent"])
    assert child["id"] in {
        found["id"]
        for found in client.get(f"/performers/{child['parent']['id']}").json()["data"]["site_performers"]
    }
    site = child["site_id"]
    assert {found["site_id"] for found in client.walk("/performer-sites", site_id=site)} == {site}


@pytest.mark.slow
def test_pictures_come_from_the_same_server_without_a_token(demo, rows):
    store = demo.world.theporndb
    row = next(
        row for row in rows if row["face"] and store.posters[row["posters"][0]["id"]].kind not in BROKEN
    )
    sizes = {}
    for name in ("image", "thumbnail", "face"):
        answer = get(row[name])
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/jpeg"
        sizes[name] = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR).shape
    assert sizes["image"][1::-1] == store.posters[row["posters"][0]["id"]].size
    assert max(sizes["thumbnail"]) == 300
    assert sizes["face"] < sizes["image"]
    assert get(row["posters"][0]["url"]).content == get(row["image"]).content
    signed = row["face"].split("/")
    signed[-2] = "0" * 20
    assert get("/".join(signed)).status_code == 403
    assert get(f"{demo.url(THEPORNDB)}/cdn/posters/1.jpg").status_code == 404


def test_changes_since_a_day_list_numbers_and_uuids(client, store):
    store.clock.set(datetime(2026, 2, 1, tzinfo=UTC))
    key = list(store.performers)[3]
    store.edit(key, disambiguation="changed")
    got = client.page("/changes/performers", **{"from": "2026-02-01"})
    assert got["data"] == [{"id": store.performers[key].number, "uuid": key}]
    assert client.page("/changes/performers")["meta"]["total"] == len(store.performers)
    assert client.page("/changes/scenes", **{"from": "2026-02-01"})["data"] == []
    assert client.get("/changes/performers", **{"from": "yesterday"}).status_code == 422
    store.offers_changes = False
    assert client.get("/changes/performers").status_code == 404


def test_deleted_and_merged_performers_answer_404(client, store):
    first, second, third = list(store.performers)[:3]
    number = store.add_poster(first, Picture(900_001))
    store.add_site_performer("Zoovel Media", 77, "Zoo", first)
    store.merge(first, second)
    assert client.get(f"/performers/{first}").status_code == 404
    survivor = client.get(f"/performers/{second}").json()["data"]
    assert number in {poster["id"] for poster in survivor["posters"]}
    assert "Zoo" in {child["name"] for child in survivor["site_performers"]}
    store.delete(third)
    assert client.get(f"/performers/{third}").status_code == 404
    assert not {first, third} & {row["id"] for row in client.walk(per_page=100)}
    store.remove_poster(second, number)
    assert number not in {
        poster["id"] for poster in client.get(f"/performers/{second}").json()["data"]["posters"]
    }


def test_faults_and_the_request_log_work_for_theporndb(small, client):
    small.traffic.inject(
        Fault(
            FaultKind.STATUS,
            box=THEPORNDB,
            path="/performers",
            status=429,
            retry_after="1",
            body=b'{"message":"Too Many Attempts."}',
            content_type="application/json",
        )
    )
    refused = client.get("/performers")
    assert (refused.status_code, refused.json()) == (429, {"message": "Too Many Attempts."})
    small.traffic.inject(Fault(FaultKind.HALF_PAGE, box=THEPORNDB))
    assert len(client.page(per_page=20)["data"]) == 10
    small.traffic.inject(Fault(FaultKind.STATUS, box=THEPORNDB, path="/cdn/", status=403))
    row = next(row for row in client.walk() if row["image"])
    assert get(row["image"]).status_code == 403
    assert get(row["image"]).status_code == 200
    assert [entry.status for entry in small.traffic.requests(THEPORNDB, "/cdn/")] == [403, 200]


def test_another_process_can_change_the_catalogue(client):
    def act(operation, **arguments):
        return post(f"{client.base}/_control/{operation}", json=arguments).json()["result"]

    key = act(
        "create", name="From Outside", at="2026-05-01T00:00:00Z", links={"StashDB": "https://stashdb.org/x"}
    )
    number = act("add_poster", performer_id=key, picture={"seed": 9})
    found = client.get(f"/performers/{key}").json()["data"]
    assert (found["name"], found["posters"][0]["id"]) == ("From Outside", number)
    act("delete", performer_id=key)
    assert client.get(f"/performers/{key}").status_code == 404
