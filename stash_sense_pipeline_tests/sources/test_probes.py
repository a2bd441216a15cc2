"""One polite look at each source: what it finds, what it reports, and how many requests it sends."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from stash_sense_pipeline.foundation.errors import Outcome
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.faults import Fault, FaultKind
from stash_sense_pipeline.sandbox.servers import SandboxServers, sources_settings
from stash_sense_pipeline.settings.environment import read_environment
from stash_sense_pipeline.settings.sources_file import load_settings
from stash_sense_pipeline.sources.probing.probes import Probe, probe_sources
from stash_sense_pipeline.sources.reference_sites.registry import SITES
from stash_sense_pipeline_tests.sources.loopback import LoopbackServer, Raw, Request, answer

SITE_NAMES = ("babepedia", "boobpedia", "thenude", "elitebabes")


@pytest.fixture(scope="module")
def world() -> Iterator[SandboxServers]:
    """A small world with all stash-boxes and four sites, served."""
    with SandboxServers(make_demo_world(seed=4, people=40)) as servers:
        yield servers


@pytest.fixture
def servers(world: SandboxServers) -> Iterator[SandboxServers]:
    world.traffic.clear_faults()
    world.traffic.clear_requests()
    yield world
    world.traffic.clear_faults()


def probes(
    directory: Path, content: dict[str, Any], keys: dict[str, str], *names: str, seconds: float = 120
) -> list[Probe]:
    """The probes of these sources; without names, of all enabled ones."""
    file = directory / "sources.yaml"
    file.write_text(yaml.safe_dump(content))
    settings = load_settings(file)
    environment = read_environment({"DATA_DIR": str(directory), **keys}, directory)
    asked = names or [source.name for source in settings.enabled]
    return asyncio.run(probe_sources(settings, environment, asked, seconds))


def one_box(url: str, **more: Any) -> dict[str, Any]:
    return {"stash_boxes": {"mine": {"url": url, **more}}}


def performers_answer(*pictures: int, date: str = "Thu, 01 Jan 2026 00:00:00 GMT") -> Raw:
    rows = [{"images": [{"id": str(number)} for number in range(count)]} for count in pictures]
    body = {"data": {"queryPerformers": {"count": 5000, "performers": rows}}}
    return answer(200, json.dumps(body).encode(), Content_Type="application/json", Date=date)


@pytest.mark.slow
def test_each_source_that_answers_costs_one_request(servers: SandboxServers, tmp_path: Path) -> None:
    content = sources_settings(servers, sites=SITE_NAMES)
    found = probes(tmp_path, content, servers.environment())
    assert [probe.problem for probe in found] == [None] * 9
    for probe in found:
        assert len(servers.traffic.requests(probe.source)) == 1
        assert probe.server_ahead is not None
        assert abs(probe.server_ahead) < timedelta(minutes=5)
    assert [request.path for name in SITE_NAMES for request in servers.traffic.requests(name)] == [
        "/robots.txt"
    ] * 4


@pytest.mark.slow
def test_a_sample_has_the_number_of_performers_and_of_their_pictures(
    servers: SandboxServers, tmp_path: Path
) -> None:
    for probe in probes(tmp_path, sources_settings(servers), servers.environment()):
        assert probe.sample is not None
        assert not probe.sample.is_capped
        if probe.source != "theporndb":
            box = servers.world.boxes[probe.source]
            live = [row.id for row in box.performers.values() if not row.deleted]
            assert probe.sample.performers == len(live)
            assert sorted(probe.sample.pictures) == sorted(
                len(each.joins.images) for each in box.related(live)
            )


def test_a_refused_key_is_blocked_and_says_so(servers: SandboxServers, tmp_path: Path) -> None:
    keys = {**servers.environment(), "STASHDB_API_KEY": "wrong", "THEPORNDB_API_KEY": "wrong"}
    for probe in probes(tmp_path, sources_settings(servers), keys, "stashdb", "theporndb"):
        assert probe.outcome is Outcome.BLOCKED
        assert "refused the key" in str(probe.problem)
        assert len(servers.traffic.requests(probe.source)) == 1


def test_a_source_without_a_key_or_a_readable_key_file_gets_no_request(
    servers: SandboxServers, tmp_path: Path
) -> None:
    keys = {"FANSDB_API_KEY_FILE": str(tmp_path / "none")}
    no_key, no_file = probes(tmp_path, sources_settings(servers), keys, "stashdb", "fansdb")
    assert "no key; set STASHDB_API_KEY" in str(no_key.problem)
    assert "FANSDB_API_KEY_FILE" in str(no_file.problem)
    assert no_key.outcome is no_file.outcome is None
    assert servers.traffic.requests() == []


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(500, Outcome.TIMEOUT), (503, Outcome.TIMEOUT), (429, Outcome.RATE_LIMITED), (403, Outcome.BLOCKED)],
)
def test_a_failing_source_is_not_asked_again(
    servers: SandboxServers, tmp_path: Path, status: int, outcome: Outcome
) -> None:
    servers.traffic.inject(Fault(FaultKind.STATUS, box="fansdb", status=status, times=None))
    (probe,) = probes(tmp_path, sources_settings(servers), servers.environment(), "fansdb")
    assert (probe.outcome, probe.sample) == (outcome, None)
    assert len(servers.traffic.requests("fansdb")) == 1


@pytest.mark.slow
def test_a_source_that_hangs_does_not_delay_beyond_its_time(servers: SandboxServers, tmp_path: Path) -> None:
    servers.traffic.inject(Fault(FaultKind.HANG, box="fansdb", times=None, seconds=600))
    (found,) = probes(tmp_path, sources_settings(servers), servers.environment(), "fansdb", seconds=0.3)
    assert found.outcome is Outcome.TIMEOUT


@pytest.mark.slow
def test_a_source_that_hangs_does_not_delay_the_others(servers: SandboxServers, tmp_path: Path) -> None:
    """The first source answers only when the second one has answered."""

    def late(request: Request) -> Raw:
        give_up = time.monotonic() + 120
        while not any(each.finished for each in servers.traffic.requests("stashdb")):
            assert time.monotonic() < give_up
            time.sleep(0.02)
        return performers_answer(1)

    with LoopbackServer(late) as server:
        content = sources_settings(servers)
        content["stash_boxes"] = {"mine": {"url": f"{server.url}/graphql"}, **content["stash_boxes"]}
        keys = {**servers.environment(), "MINE_API_KEY": "k"}
        found = probes(tmp_path, content, keys, "mine", "stashdb")
    assert [probe.problem for probe in found] == [None, None]


def test_a_closed_port_is_a_timeout(tmp_path: Path) -> None:
    (probe,) = probes(tmp_path, one_box("http://127.0.0.1:9/graphql"), {"MINE_API_KEY": "k"})
    assert probe.outcome is Outcome.TIMEOUT
    assert "could not be reached" in str(probe.problem)


@pytest.mark.parametrize(
    "body",
    [b"{}", b"[]", b'{"data": {}}', b'{"data": {"queryPerformers": {"count": "many"}}}', b"<html>", b""],
)
def test_an_answer_that_is_no_list_is_a_parse_error_after_one_request(tmp_path: Path, body: bytes) -> None:
    with LoopbackServer(lambda _: answer(200, body, Content_Type="application/json")) as server:
        (probe,) = probes(tmp_path, one_box(f"{server.url}/graphql"), {"MINE_API_KEY": "k"})
    assert probe.outcome is Outcome.PARSE_ERROR
    assert len(server.requests) == 1


def test_odd_rows_of_a_list_are_left_out_of_the_sample(tmp_path: Path) -> None:
    rows = [None, 7, {}, {"images": None}, {"images": [{"id": "a"}]}]
    body = json.dumps({"data": {"queryPerformers": {"count": 5, "performers": rows}}}).encode()
    with LoopbackServer(lambda _: answer(200, body)) as server:
        (probe,) = probes(tmp_path, one_box(f"{server.url}/graphql"), {"MINE_API_KEY": "k"})
    assert probe.sample is not None
    assert (probe.sample.performers, probe.sample.pictures) == (5, (1,))


def test_the_list_of_theporndb_that_ends_at_10_000_is_a_lower_bound(tmp_path: Path) -> None:
    body = json.dumps({"data": [], "meta": {"total": 10_000, "per_page": 100, "current_page": 1}}).encode()
    with LoopbackServer(lambda _: answer(200, body)) as server:
        content = one_box(server.url, connector="theporndb")
        (probe,) = probes(tmp_path, content, {"MINE_API_KEY": "k"})
    assert probe.sample is not None
    assert probe.sample.is_capped


def test_a_server_of_another_year_is_behind_by_its_date_header(tmp_path: Path) -> None:
    with LoopbackServer(lambda _: performers_answer(1, date="Wed, 01 Jan 2020 00:00:00 GMT")) as server:
        (probe,) = probes(tmp_path, one_box(f"{server.url}/graphql"), {"MINE_API_KEY": "k"})
    assert probe.server_ahead is not None
    assert probe.server_ahead < timedelta(days=-365)


@pytest.mark.parametrize("date", ["", "now", "Thu, 99 Foo 2026 00:00:00 GMT"])
def test_a_date_header_that_is_no_date_gives_no_time(tmp_path: Path, date: str) -> None:
    with LoopbackServer(lambda _: performers_answer(1, date=date)) as server:
        (probe,) = probes(tmp_path, one_box(f"{server.url}/graphql"), {"MINE_API_KEY": "k"})
    assert (probe.problem, probe.server_ahead) == (None, None)


def one_site(url: str, **more: Any) -> dict[str, Any]:
    site = {"enabled": True, "url": url, "rate_limit": 6000, **more}
    return {"stash_boxes": {}, "reference_sites": {"thenude": site}}


@pytest.mark.parametrize(
    ("robots", "mode", "allowed"),
    [
        ("User-agent: *\nDisallow: /search/\n", "url", True),
        ("User-agent: *\nDisallow: /\n", "url", False),
        ("User-agent: stash-sense-pipeline\nDisallow: /_\n", "url", False),
        # The search of the site is /index.php: it is asked for only where performers are found by name.
        ("User-agent: *\nDisallow: /index.php\n", "url", True),
        ("User-agent: *\nDisallow: /index.php\n", "name", False),
    ],
)
def test_a_robots_txt_that_forbids_our_pages_is_a_problem(
    tmp_path: Path, robots: str, mode: str, allowed: bool
) -> None:
    def robots_only(request: Request) -> Raw:
        assert request.target == "/robots.txt"
        return answer(200, robots.encode(), Content_Type="text/plain")

    with LoopbackServer(robots_only) as server:
        (probe,) = probes(tmp_path, one_site(server.url, reference_mode=mode), {})
    assert (probe.problem is None) is allowed
    assert allowed or probe.outcome is Outcome.DISALLOWED
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "said", [answer(500), answer(200, b"<html>login</html>", Content_Type="text/html"), answer(403)]
)
def test_a_robots_txt_that_cannot_be_read_is_a_problem_and_a_missing_one_is_none(
    tmp_path: Path, said: Raw
) -> None:
    with LoopbackServer(lambda _: said) as server:
        (probe,) = probes(tmp_path, one_site(server.url), {})
    assert "robots.txt" in str(probe.problem)
    with LoopbackServer(lambda _: answer(404)) as server:
        (probe,) = probes(tmp_path, one_site(server.url), {})
    assert probe.problem is None


def test_a_site_that_is_not_fetched_gets_no_request(tmp_path: Path) -> None:
    with LoopbackServer(lambda _: answer(500)) as server:
        (probe,) = probes(tmp_path, one_site(server.url, fetch=False), {})
    assert probe.problem is None
    assert server.requests == []


def test_a_source_of_the_internet_is_not_asked_without_a_contact_address(tmp_path: Path) -> None:
    (probe,) = probes(tmp_path, one_box("https://stash-box.example.org/graphql"), {"MINE_API_KEY": "k"})
    assert probe.problem == "mine: no contact address; set global.user_agent_contact in sources.yaml"
    assert probe.outcome is None


def test_every_site_names_an_address_of_its_own_for_the_rules_of_robots_txt() -> None:
    for site in SITES.values():
        assert any(f"{host}/" in site.example for host in site.hosts), site.name
