"""Enriching over HTTP from all ten sites of the sandbox: every trap for a reader, and no record of another person."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.faces.collect import collect_faces
from stash_sense_pipeline.faces.embed_waiting import embed_waiting
from stash_sense_pipeline.faces.models.model_packs import load_pack
from stash_sense_pipeline.foundation.errors import Outcome
from stash_sense_pipeline.identity.face_matching.trusted_faces import choose_trusted_faces
from stash_sense_pipeline.identity.linkage.overrides import Overrides
from stash_sense_pipeline.identity.rebuild import rebuild_identities
from stash_sense_pipeline.privacy.suppression.suppression_hashes import record_hash, url_hashes
from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS, Suppressions
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.faults import Fault, FaultKind
from stash_sense_pipeline.sandbox.invented.pictures import Kind
from stash_sense_pipeline.sandbox.servers import SandboxServers
from stash_sense_pipeline.sandbox.sites.model import Behaviour
from stash_sense_pipeline.sandbox.world import World
from stash_sense_pipeline.settings.schema import GlobalSettings, StashBoxSettings
from stash_sense_pipeline.sources.http.polite_client import PoliteClient
from stash_sense_pipeline_tests.sources.conftest import VirtualTime, refresh_from
from stash_sense_pipeline_tests.sources.sites import (
    BY_NAME,
    IMPATIENT,
    NOW,
    boxes_of,
    enrich_from,
    site_settings,
)

pytestmark = pytest.mark.slow

# Numbers of namesakes, which no stash-box has, start here.
NAMESAKES = 50_000
SITES = tuple(World.empty().sites)
LISTED = tuple(name for name in SITES if name not in BY_NAME)


@pytest.fixture(scope="module")
def servers() -> Iterator[SandboxServers]:
    """A world of 80 people with all its servers."""
    with SandboxServers(make_demo_world(seed=5, people=80)) as running:
        yield running


@pytest.fixture(scope="module")
def boxes_read(servers: SandboxServers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog that has read the boxes, to copy."""
    path = tmp_path_factory.mktemp("boxes") / "catalog.db"
    engine = open_catalog(f"sqlite:///{path}")
    for name in servers.world.sources:
        assert refresh_from(servers, engine, name, "auto").outcome is Outcome.FOUND
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()
    return path


@pytest.fixture
def catalog(boxes_read: Path, tmp_path: Path, servers: SandboxServers) -> Iterator[sa.Engine]:
    """A catalog that has read the boxes and no site; the sites behave."""
    servers.traffic.clear_faults()
    servers.traffic.clear_requests()
    for site in servers.world.sites.values():
        site.behaviour = Behaviour()
    engine = open_catalog(f"sqlite:///{shutil.copy2(boxes_read, tmp_path / 'catalog.db')}")
    yield engine
    engine.dispose()


def rows(engine: sa.Engine, query: str, **values: object) -> list[tuple]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(query), values)]


def live(engine: sa.Engine, name: str) -> set[str]:
    found = rows(
        engine, "SELECT source_id FROM source_performers WHERE source=:s AND deleted_at IS NULL", s=name
    )
    return {source_id for (source_id,) in found}


def visits(engine: sa.Engine, name: str) -> list[tuple]:
    return rows(engine, "SELECT * FROM site_visits WHERE source=:s", s=name)


def found_visits(engine: sa.Engine, name: str) -> list[tuple]:
    return rows(
        engine,
        "SELECT mode, item_hash, visited_at, missing_since, etag FROM site_visits"
        " WHERE source=:s AND outcome='found' ORDER BY item_hash",
        s=name,
    )


@pytest.mark.parametrize("layout", ["current", "previous"])
@pytest.mark.parametrize("name", SITES)
def test_only_profiles_and_pictures_of_people_of_the_boxes_are_stored(servers, catalog, name, layout):
    site = servers.world.sites[name]
    site.behaviour.layout = layout
    report = enrich_from(servers, catalog, name)
    assert report.outcome is Outcome.FOUND, report.message
    stored = live(catalog, name)
    # Of the pages of twelve people one was removed, and one has a name that no stash-box lists; two of a name
    # are too many to choose from where a name is all there is.
    assert len(stored) >= (5 if name in BY_NAME else 9)
    # Every stored profile is of a person of the boxes, never of a namesake.
    people = {key: site.people[key] for key in stored}
    assert all(0 <= person < 80 for person in people.values())
    removed = {site.pages[slug].key for slug in site.gone}
    assert stored.isdisjoint(removed)
    # Every picture shows that person, alone.
    images = rows(
        catalog,
        "SELECT source_id, url FROM performer_images JOIN source_images USING (source, image_id) WHERE source=:s",
        s=name,
    )
    assert len(images) >= len(stored) - 1
    for source_id, url in images:
        picture = _picture_at(servers, name, url)
        assert picture is None or (
            picture.kind is Kind.PORTRAIT and picture.people == (people[source_id],)
        ), url
    # Nothing that must not be stored is anywhere in the catalog.
    text = repr([rows(catalog, f"SELECT * FROM {table} WHERE source=:s", s=name) for table in TABLES])
    assert "Legalname" not in text
    assert "river" not in text
    assert "shop.example" not in text
    assert "intent" not in text


TABLES = (
    "source_performers",
    "performer_aliases",
    "performer_urls",
    "source_images",
    "site_visits",
    "sync_state",
)


def _picture_at(servers, name, url):
    assert url.startswith(servers.url(name)), url
    return servers.world.sites[name].files.get(unquote(urlsplit(url).path))


@pytest.mark.parametrize("name", SITES)
def test_robots_txt_comes_first_and_profiles_are_not_visited_again_within_30_days(servers, catalog, name):
    enrich_from(servers, catalog, name)
    asked = servers.traffic.requests(name)
    assert asked[0].path == "/robots.txt"
    assert [entry.path for entry in asked].count("/robots.txt") == 1
    assert all(entry.user_agent.startswith("stash-sense-pipeline/") for entry in asked)
    servers.traffic.clear_requests()
    before = live(catalog, name)
    again = enrich_from(servers, catalog, name, now=NOW + timedelta(days=29, hours=23))
    assert servers.traffic.requests(name) == []
    assert (again.outcome, again.requests) == (Outcome.FOUND, 0)
    later = enrich_from(servers, catalog, name, now=NOW + timedelta(days=30))
    assert later.outcome is Outcome.FOUND
    assert live(catalog, name) == before
    if name in LISTED:
        # Conditional GET, or the wiki's revision: nothing is read twice that has not changed.
        assert later.outcomes.get("unchanged", 0) == len(before)


def test_url_mode_visits_only_profiles_that_a_stash_box_lists(servers, catalog):
    """URL mode asks for nothing that no stash-box lists."""
    site = servers.world.sites["babepedia"]
    enrich_from(servers, catalog, "babepedia")
    visited = {entry.path.removeprefix("/babe/") for entry in servers.traffic.requests("babepedia", "/babe/")}
    namesake = next(page.slug for page in site.pages.values() if page.person >= 50_000)
    assert namesake not in visited
    assert not servers.traffic.requests("babepedia", "/ajax-search.php")


def test_an_alias_is_stored_only_when_a_second_source_lists_it(servers, catalog):
    enrich_from(servers, catalog, "freeones")
    listed = {
        alias.casefold()
        for (alias,) in rows(catalog, "SELECT alias FROM performer_aliases WHERE source <> 'freeones'")
    }
    names = {
        name.casefold()
        for (name,) in rows(catalog, "SELECT name FROM source_performers WHERE name IS NOT NULL")
    }
    kept = {
        alias.casefold()
        for (alias,) in rows(catalog, "SELECT alias FROM performer_aliases WHERE source='freeones'")
    }
    assert kept
    assert kept <= listed | names
    on_pages = {
        alias.casefold() for page in servers.world.sites["freeones"].pages.values() for alias in page.aliases
    }
    assert on_pages - kept


def test_a_name_with_two_hits_is_ambiguous_and_neither_profile_is_stored(servers, catalog):
    """Two hits for a name are ambiguous, and stored as such; neither page is visited."""
    report = enrich_from(servers, catalog, "elitebabes")
    site = servers.world.sites["elitebabes"]
    namesake = next(page for page in site.pages.values() if page.person >= 50_000)
    assert report.outcomes["ambiguous"] >= 1
    stored = {
        site.pages[slug].name for slug in site.pages if site.pages[slug].key in live(catalog, "elitebabes")
    }
    assert namesake.name not in stored


def test_name_mode_searches_once_for_each_full_name_of_one_person(servers, catalog):
    enrich_from(servers, catalog, "elitebabes")
    asked = [
        entry.query for entry in servers.traffic.requests("elitebabes", "/") if entry.query.startswith("s=")
    ]
    assert asked
    assert all("+" in query for query in asked)
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("name", LISTED)
def test_a_new_layout_ends_the_run_and_changes_nothing_stored(servers, catalog, name):
    enrich_from(servers, catalog, name)
    if name == "boobpedia":
        # Its revisions tell that nothing changed; here they are forgotten.
        with catalog.begin() as connection:
            connection.execute(sa.text("UPDATE site_visits SET etag=NULL"))
    state = live(catalog, name), found_visits(catalog, name)
    servers.world.sites[name].behaviour.layout = "new"
    servers.traffic.clear_requests()
    report = enrich_from(servers, catalog, name, now=NOW + timedelta(days=31))
    assert report.outcome is Outcome.PARSE_ERROR
    assert "layout changed" in (report.message or "")
    assert "\n" not in (report.message or "")
    assert (live(catalog, name), found_visits(catalog, name)) == state
    # After three in a row two more are asked for from elsewhere; on IAFD unknown ids, which are answered, stand between.
    pages = [entry for entry in servers.traffic.requests(name) if entry.path != "/robots.txt"]
    assert name == "iafd" or len(pages) <= 10


def test_a_site_that_refuses_gets_no_request_for_six_hours(servers, catalog):
    site = servers.world.sites["thenude"]
    site.behaviour.challenge = True
    report = enrich_from(servers, catalog, "thenude")
    assert report.outcome is Outcome.BLOCKED
    # 403 is never tried again, and three of them are enough, with two from elsewhere that agree.
    assert len(servers.traffic.requests("thenude")) == 1 + 3 + 2
    assert found_visits(catalog, "thenude") == []
    assert len(visits(catalog, "thenude")) == 5, "they are due after the others from now on"
    site.behaviour.challenge = False
    servers.traffic.clear_requests()
    soon = enrich_from(servers, catalog, "thenude", now=NOW + timedelta(hours=5))
    assert soon.outcome is Outcome.BLOCKED
    assert "left alone until" in (soon.message or "")
    assert servers.traffic.requests("thenude") == []
    assert enrich_from(servers, catalog, "thenude", now=NOW + timedelta(hours=7)).outcome is Outcome.FOUND


@pytest.mark.parametrize(
    ("robots", "status", "kind"),
    [
        ("User-agent: *\nDisallow: /", 200, "text/plain"),
        ("<html><body>Welcome</body></html>", 200, "text/html"),
        ("<html>no type</html>", 200, "text/plain"),
        ("", 500, "text/plain"),
        ("", 403, "text/plain"),
        ("", 429, "text/plain"),
    ],
)
def test_robots_txt_that_disallows_or_cannot_be_read_prevents_all_visits(
    servers, catalog, robots, status, kind
):
    site = servers.world.sites["babepedia"]
    site.behaviour.robots, site.behaviour.robots_status, site.behaviour.robots_type = robots, status, kind
    report = enrich_from(servers, catalog, "babepedia")
    assert not report.outcome.is_answer
    assert "robots.txt" in (report.message or "") or report.outcomes.keys() == {"disallowed"}
    assert {entry.path for entry in servers.traffic.requests("babepedia")} == {"/robots.txt"}
    assert live(catalog, "babepedia") == set()
    assert visits(catalog, "babepedia") == []


def test_a_missing_robots_txt_allows_all_visits(servers, catalog):
    servers.world.sites["babepedia"].behaviour.robots = None
    assert enrich_from(servers, catalog, "babepedia").outcome is Outcome.FOUND


@pytest.mark.parametrize("group", ["stash-sense-pipeline", "*"])
def test_robots_txt_that_disallows_later_stops_the_next_run_and_keeps_the_records(servers, catalog, group):
    site = servers.world.sites["afdb"]
    enrich_from(servers, catalog, "afdb")
    site.behaviour.robots = f"\ufeffUser-agent: {group}\nDisallow: /actor/"
    servers.traffic.clear_requests()
    report = enrich_from(servers, catalog, "afdb", now=NOW + timedelta(days=40))
    assert {entry.path for entry in servers.traffic.requests("afdb")} == {"/robots.txt"}
    assert report.outcome is Outcome.DISALLOWED
    assert len(live(catalog, "afdb")) == 11


def test_a_missing_profile_is_removed_when_a_later_run_that_reads_other_pages_confirms_it(servers, catalog):
    name = "iafd"
    site = servers.world.sites[name]
    enrich_from(servers, catalog, name)
    before = live(catalog, name)
    victim = next(page for page in site.pages.values() if page.key in before)
    site.gone.add(victim.slug)
    try:
        enrich_from(servers, catalog, name, now=NOW + timedelta(days=30))
        assert live(catalog, name) == before
        enrich_from(servers, catalog, name, now=NOW + timedelta(days=31))
        assert live(catalog, name) == before
        # Days later, but nothing else of the site was seen on this visit: it may be an outage.
        enrich_from(servers, catalog, name, now=NOW + timedelta(days=34))
        assert live(catalog, name) == before
        enrich_from(servers, catalog, name, now=NOW + timedelta(days=60))
        assert live(catalog, name) == before - {victim.key}
        images = rows(
            catalog,
            "SELECT count(*) FROM source_images WHERE source=:s AND url LIKE :u",
            s=name,
            u=f"%{victim.slug}%",
        )
        assert images == [(0,)]
    finally:
        site.gone.discard(victim.slug)


def test_a_page_that_links_to_a_suppressed_record_is_not_stored(servers, catalog):
    """By the address of the record alone: the pages of who left are known only when that has been applied."""
    site, key = servers.world.sites["babepedia"], b"k" * 32
    slug, page = next((slug, page) for slug, page in site.pages.items() if page.person < 80)
    uuid = "0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0"
    site.pages[slug] = replace(page, links=(*page.links, f"https://stashdb.org/performers/{uuid}"))
    try:
        suppressions = Suppressions(key, records=frozenset({record_hash(key, "stashdb", uuid)}))
        report = enrich_from(servers, catalog, "babepedia", suppressions=suppressions)
    finally:
        site.pages[slug] = page
    assert report.suppressed == 1
    assert page.key not in live(catalog, "babepedia")


def test_the_profile_of_a_suppressed_person_is_not_requested(servers, catalog):
    page = next(page for page in servers.world.sites["babepedia"].pages.values() if page.person < 80)
    url = servers.world.sites["babepedia"].url(page)
    suppressions = Suppressions(b"k" * 32, urls=frozenset(url_hashes(b"k" * 32, url)))
    report = enrich_from(servers, catalog, "babepedia", suppressions=suppressions)
    assert report.suppressed == 1
    assert page.key not in live(catalog, "babepedia")
    assert not servers.traffic.requests("babepedia", f"/babe/{page.slug}")


def test_a_gender_filter_stores_only_that_gender_or_an_unknown_one(servers, catalog):
    with catalog.begin() as connection:
        connection.execute(sa.text("UPDATE source_performers SET gender='MALE' WHERE source<>'babepedia'"))
        connection.execute(sa.text("UPDATE source_performers SET gender=NULL WHERE source='pmvstash'"))
    enrich_from(servers, catalog, "babepedia", gender_filter="female")
    few = live(catalog, "babepedia")
    assert 0 < len(few) < 11


def test_without_fetch_profiles_are_listed_and_no_request_is_sent(servers, catalog):
    report = enrich_from(servers, catalog, "iafd", fetch=False)
    assert report.outcome is Outcome.FOUND
    assert report.listed > 0
    assert report.requests == 0
    assert servers.traffic.requests("iafd") == []


def test_a_link_to_the_configured_address_counts_as_a_link_to_the_site(servers, catalog):
    """A private mirror, or a test: stash-boxes may list either address."""
    real, here = servers.world.sites["babepedia"].home, servers.url("babepedia")
    with catalog.begin() as connection:
        changed = sa.text("UPDATE performer_urls SET url = replace(url, :real, :here)")
        connection.execute(changed, {"real": real, "here": here})
    report = enrich_from(servers, catalog, "babepedia")
    assert (report.outcome, report.live) == (Outcome.FOUND, 11)
    # Identity linkage cannot read such a link, so the record links to its person.
    urls = rows(
        catalog,
        "SELECT count(DISTINCT source_id) FROM performer_urls WHERE source='babepedia' AND url LIKE '%/performers/%'",
    )
    assert urls == [(11,)]


BAD: dict[str, tuple[Fault, str]] = {
    "broken": (
        Fault(FaultKind.BODY, body=b"<html><div id='profbox2'><a class=img <<<h1 id=ba", times=None),
        "parse_error",
    ),
    "empty": (Fault(FaultKind.BODY, body=b"", times=None), "parse_error"),
    "zeros": (Fault(FaultKind.BODY, body=bytes(5000), times=None), "parse_error"),
    "wrong charset": (
        Fault(
            FaultKind.BODY,
            body=b"<h1 id=babename>\xff\xfe\xfa</h1>",
            content_type="text/html; charset=utf-8",
            times=None,
        ),
        "parse_error",
    ),
    "ten megabytes": (Fault(FaultKind.BODY, body=b"<p>x</p>" * 1_300_000, times=None), "disallowed"),
    "json in html": (
        Fault(FaultKind.BODY, body=b"<html><pre>{&quot;a&quot;: 1}</pre></html>", times=None),
        "parse_error",
    ),
    "json": (
        Fault(FaultKind.BODY, body=b'{"a": 1}', content_type="application/json", times=None),
        "parse_error",
    ),
    "cut": (Fault(FaultKind.CUT, times=None), "timeout"),
    "server error": (Fault(FaultKind.STATUS, status=500, times=None), "timeout"),
    "refused": (Fault(FaultKind.STATUS, status=403, times=None), "blocked"),
    "too many": (Fault(FaultKind.STATUS, status=429, times=None), "rate_limited"),
    "endless redirects": (
        Fault(FaultKind.STATUS, status=302, location="/babe/Round_And_Round", times=None),
        "disallowed",
    ),
    "redirect off the host": (
        Fault(FaultKind.STATUS, status=301, location="https://elsewhere.example/babe/Quib", times=None),
        "disallowed",
    ),
    "redirect into the private network": (
        Fault(FaultKind.STATUS, status=302, location="http://10.0.0.1/babe/Quib", times=None),
        "disallowed",
    ),
    "redirect to nowhere": (
        Fault(FaultKind.STATUS, status=302, location="mailto:nobody", times=None),
        "disallowed",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_answers_are_counted_by_outcome_and_change_nothing_stored(servers, catalog, what):
    fault, outcome = BAD[what]
    fault.box, fault.path = "babepedia", "/babe/"
    servers.traffic.inject(fault)
    report = enrich_from(servers, catalog, "babepedia")
    assert report.outcome.value == outcome
    assert report.outcomes[outcome] >= 3
    assert set(report.outcomes) == {outcome}
    assert "\n" not in (report.message or "")
    assert "/babe/" not in (report.message or "")
    assert live(catalog, "babepedia") == set()
    assert found_visits(catalog, "babepedia") == []
    servers.traffic.clear_faults()
    with catalog.begin() as connection:
        connection.execute(sa.text("UPDATE sync_state SET detail='{}'"))
    assert enrich_from(servers, catalog, "babepedia").live == 11


@pytest.mark.parametrize("what", ["refused", "json in html", "server error", "cut"])
def test_three_failed_profiles_in_a_row_do_not_end_a_run_when_others_are_answered(servers, catalog, what):
    fault, outcome = BAD[what]
    thrice = Fault(
        fault.kind,
        box="babepedia",
        path="/babe/",
        status=fault.status,
        body=fault.body,
        content_type=fault.content_type,
        # A connection that is cut is tried a second time.
        times=6 if what == "cut" else 3,
    )
    servers.traffic.inject(thrice)
    report = enrich_from(servers, catalog, "babepedia")
    assert report.outcome is Outcome.FOUND, report.message
    assert report.outcomes[outcome] == 3
    assert report.live == 8
    servers.traffic.clear_faults()
    assert enrich_from(servers, catalog, "babepedia").live == 11


def test_three_refused_name_searches_in_a_row_do_not_end_a_run_when_others_are_answered(servers, catalog):
    servers.traffic.inject(
        Fault(FaultKind.STATUS, box="elitebabes", path="/", containing="s=", status=403, times=3)
    )
    report = enrich_from(servers, catalog, "elitebabes")
    assert report.outcome is Outcome.FOUND, report.message
    assert report.outcomes["blocked"] == 3
    assert report.live > 0
    assert enrich_from(servers, catalog, "elitebabes", now=NOW + timedelta(days=1)).live > report.live


@pytest.mark.parametrize("what", ["wrong charset", "ten megabytes", "cut", "broken"])
def test_one_bad_page_does_not_keep_other_profiles_from_being_stored(servers, catalog, what):
    fault = BAD[what][0]
    once = Fault(
        fault.kind,
        box="babepedia",
        path="/babe/",
        body=fault.body,
        content_type=fault.content_type,
        times=2,
        every=4,
    )
    servers.traffic.inject(once)
    report = enrich_from(servers, catalog, "babepedia")
    assert report.outcome is Outcome.FOUND
    assert report.outcomes["found"] >= 9
    servers.traffic.clear_faults()
    # What failed is asked for again by the next run, and nothing else.
    servers.traffic.clear_requests()
    enrich_from(servers, catalog, "babepedia")
    assert len(live(catalog, "babepedia")) == 11
    assert len(servers.traffic.requests("babepedia", "/babe/")) <= 2


def test_a_redirect_to_the_search_counts_as_a_missing_profile(servers, catalog):
    """Nothing of the page that it leads to is stored, and a stored record does not go at the first sight of it."""
    enrich_from(servers, catalog, "babepedia")
    before = live(catalog, "babepedia")
    servers.traffic.inject(
        Fault(
            FaultKind.STATUS,
            box="babepedia",
            path="/babe/",
            status=302,
            location="/found?term=quib",
            times=None,
        )
    )
    page = b"<html><h1>Found</h1><a class=img href=/pics/Quib.jpg>Quib</a></html>"
    servers.traffic.inject(Fault(FaultKind.BODY, box="babepedia", path="/found", body=page, times=None))
    report = enrich_from(servers, catalog, "babepedia", now=NOW + timedelta(days=31))
    assert set(report.outcomes) == {"not_found"}
    assert live(catalog, "babepedia") == before
    images = rows(catalog, "SELECT count(*) FROM source_images WHERE url LIKE '%/pics/Quib.jpg'")
    assert images == [(0,)]


def test_a_namesakes_profile_is_rejected_by_its_faces_and_not_stored_again(servers, catalog):
    """A stash-box links to a namesake's page. Only face embeddings tell the two people apart."""
    site = servers.world.sites["thenude"]
    namesake = next(page for page in site.pages.values() if page.person >= NAMESAKES)
    owner = next(page for page in site.pages.values() if page.person == namesake.person - NAMESAKES)
    with catalog.begin() as connection:
        wrong = sa.text("UPDATE performer_urls SET url=:wrong WHERE url=:right")
        changed = connection.execute(wrong, {"wrong": site.url(namesake), "right": site.url(owner)})
        assert changed.rowcount > 0
    enrich_from(servers, catalog, "thenude")
    assert namesake.key in live(catalog, "thenude"), "by name and link alone she is the same person"
    pack = load_pack(str(DEMO_PACK), DEMO_PACK)
    trust = {"stashdb": "high", "thenude": "medium"}
    for name in trust:
        asyncio.run(collect(servers, catalog, name, pack))
        embed_waiting(catalog, name, pack)
    rebuild_identities(catalog, boxes_of(servers), Overrides(), NOW, models=pack.digests)

    def choose():
        return choose_trusted_faces(
            catalog,
            max_faces_per_performer=10,
            source_caps=dict.fromkeys(trust, 5),
            trust=trust,
            models=pack.digests,
            sites=["thenude"],
        )

    report = choose()
    assert report.rejected == {"thenude": 1}
    [(source_id, faces, references, distance, agreement)] = rows(
        catalog, "SELECT source_id, faces, reference_faces, distance, agreement FROM site_rejections"
    )
    assert (source_id, faces) == (namesake.key, 2)
    assert references >= 1
    assert distance > agreement
    assert namesake.key not in live(catalog, "thenude")
    assert len(live(catalog, "thenude")) >= 9, "the faces of all others agree"
    # The next visits do not bring her back.
    enrich_from(servers, catalog, "thenude", now=NOW + timedelta(days=40))
    assert namesake.key not in live(catalog, "thenude")
    assert choose().rejected == {}


async def collect(servers, engine, name, pack):
    url = servers.url(name) if name in SITES else servers.endpoint(name)
    settings = site_settings(name, url, max_faces=4, trust_level="medium")
    if name not in SITES:
        settings = StashBoxSettings(
            name=name, url=url, host=f"{name}.test", rate_limit=600_000.0, max_faces=4
        )
    async with PoliteClient(name, url, rate=600_000.0, retry_policy=IMPATIENT) as client:
        report = await collect_faces(
            engine, settings, pack, client, lambda image: (image, {}), GlobalSettings(), NO_SUPPRESSIONS
        )
    assert report.outcome is None, report.message
    assert report.faces > 0


def test_ten_sites_at_once_each_keep_their_rate_limit(servers, catalog):
    """Each at a rate of its own, one request under way at a time, none faster than allowed and none much slower.

    The time in which each site waits is virtual.
    """
    rates = {name: 600.0 + 60 * place for place, name in enumerate(LISTED)}
    # A robots.txt that asks for more time than sources.yaml gives.
    servers.world.sites["afdb"].behaviour.robots = "User-agent: *\nCrawl-delay: 0.2\n"
    rates["afdb"] = 300.0
    times = {name: VirtualTime() for name in LISTED}

    def enrich(name: str) -> Outcome:
        rate = 6000.0 if name == "afdb" else rates[name]
        return enrich_from(servers, catalog, name, rate_limit=rate, pace=times[name].clock).outcome

    with ThreadPoolExecutor(len(LISTED)) as pool:
        assert set(pool.map(enrich, LISTED)) == {Outcome.FOUND}
    for name in LISTED:
        asked = servers.traffic.requests(name)
        waited = times[name].seconds - VirtualTime().seconds
        assert waited == pytest.approx((len(asked) - 1) * 60 / rates[name]), name
        ends = [entry.finished for entry in asked]
        assert all(
            end is not None and end <= next_.arrived for end, next_ in zip(ends, asked[1:], strict=False)
        )


def test_robots_txt_that_changes_during_a_run_is_obeyed(servers, catalog):
    """They are read again each hour: from then on nothing more is asked for that they do not allow."""
    site = servers.world.sites["thenude"]
    seconds = [0.0]

    def during(stage: str, done: int) -> None:
        if done == 4:
            site.behaviour.robots = "User-agent: *\nDisallow: /"
            seconds[0] += 3601

    report = enrich_from(
        servers, catalog, "thenude", during=during, monotonic=lambda: seconds[0] + time.monotonic()
    )
    asked = [entry.path for entry in servers.traffic.requests("thenude")]
    assert asked.count("/robots.txt") == 2
    assert asked[-1] == "/robots.txt"
    assert report.outcome is Outcome.FOUND
    assert report.outcomes["disallowed"] == 12 - 4
    assert len(live(catalog, "thenude")) <= 4


def test_a_killed_run_keeps_what_it_committed_and_the_next_run_counts_nothing_twice(servers, catalog):
    """Item states, not a page cursor: the next run asks for what is left."""

    class Killed(BaseException):
        pass

    def during(stage: str, done: int) -> None:
        if done == 5:
            raise Killed

    with pytest.raises(Killed):
        enrich_from(servers, catalog, "iafd", during=during)
    before = len(visits(catalog, "iafd"))
    servers.traffic.clear_requests()
    report = enrich_from(servers, catalog, "iafd")
    asked = [entry.path for entry in servers.traffic.requests("iafd") if entry.path != "/robots.txt"]
    assert len(asked) == len(set(asked)) == report.listed - before
    assert report.live == 11
