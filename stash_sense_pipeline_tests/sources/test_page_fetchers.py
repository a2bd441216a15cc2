"""Pages through FlareSolverr and through Chrome: stand-ins with the real answers, and once a real Chromium."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stash_sense_pipeline.foundation.errors import Outcome, RobotsRefusalError
from stash_sense_pipeline.sandbox.servers import SandboxServers
from stash_sense_pipeline.sandbox.sites.model import Behaviour, SitePage
from stash_sense_pipeline.sandbox.world import World
from stash_sense_pipeline.sources.http.polite_client import PoliteClient
from stash_sense_pipeline.sources.http.robots import Robots
from stash_sense_pipeline.sources.reference_sites.fetcher_choice import make_fetcher, why_no_fetcher
from stash_sense_pipeline.sources.reference_sites.flaresolverr import FlareSolverrFetcher
from stash_sense_pipeline.sources.reference_sites.site import Target, Visit
from stash_sense_pipeline.sources.reference_sites.site_connector import SiteConnector
from stash_sense_pipeline_tests.sources.page_solvers import AGENT, Chrome, FlareSolverr
from stash_sense_pipeline_tests.sources.sites import IMPATIENT, site_settings

PAGE = SitePage(
    slug="Quib_Zoldrun", key="quib_zoldrun", person=1, name="Quib Zoldrun", aliases=("Quab Zoldrun",)
)
TARGET = Target("quib_zoldrun", "https://www.babepedia.com/babe/Quib_Zoldrun")


@pytest.fixture(scope="module")
def running() -> Iterator[SandboxServers]:
    with SandboxServers(World.empty()) as servers:
        servers.world.sites["babepedia"].add(PAGE)
        yield servers


@pytest.fixture
def servers(running: SandboxServers) -> SandboxServers:
    running.traffic.clear_faults()
    running.traffic.clear_requests()
    running.world.sites["babepedia"].behaviour = Behaviour()
    running.world.sites["babepedia"].gone.clear()
    return running


@pytest.fixture(scope="module")
def solver() -> Iterator[FlareSolverr]:
    with FlareSolverr() as server:
        yield server


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with Chrome() as server:
        yield server


def ask(servers: SandboxServers, action: Any, **addresses: Any) -> Any:
    """`action(connector)` with a connector of babepedia that fetches as the addresses say."""
    settings = site_settings(
        "babepedia",
        servers.url("babepedia"),
        needs_flaresolverr="flaresolverr_url" in addresses,
        needs_chrome_cdp="chrome_cdp_url" in addresses,
    )
    given = {"flaresolverr_url": None, "chrome_cdp_url": None, **addresses}

    async def run() -> Any:
        async with PoliteClient(
            "babepedia",
            settings.url,
            rate=600_000,
            retry_policy=IMPATIENT,
            gate=Robots("babepedia"),
            one_at_a_time=True,
        ) as client:
            fetcher = make_fetcher(settings, client, **given)
            try:
                return await action(SiteConnector(settings, client, fetcher))
            finally:
                await fetcher.close()

    return asyncio.run(run())


def visit(servers: SandboxServers, **addresses: Any) -> Visit:
    async def one(connector: SiteConnector) -> Visit:
        return await anext(connector.visit([TARGET]))

    return ask(servers, one, **addresses)


def outcome(visited: Visit) -> str:
    return "found" if visited.error is None else visited.error.outcome.value


@pytest.mark.slow
def test_a_solver_or_browser_reads_a_page_behind_a_challenge(servers, solver):
    servers.world.sites["babepedia"].behaviour.challenge = True
    assert outcome(visit(servers)) == "blocked"
    solver.commands.clear()
    found = visit(servers, flaresolverr_url=solver.url)
    assert found.profile is not None
    assert found.profile.name == PAGE.name
    # One session for all pages, given back at the end; the limit is in milliseconds.
    assert [each["cmd"] for each in solver.commands] == ["sessions.create", "request.get", "sessions.destroy"]
    assert solver.commands[1]["maxTimeout"] == 60_000
    assert solver.sessions == set()
    # robots.txt was read by the plain client, under its own name.
    first = servers.traffic.requests("babepedia")[-2]
    assert (first.path, first.user_agent[:12]) == ("/robots.txt", "stash-sense-")


@pytest.mark.slow
def test_a_page_solver_is_not_asked_for_a_url_that_robots_txt_disallows(servers, solver, chrome):
    servers.world.sites["babepedia"].behaviour.robots = "User-agent: *\nDisallow: /babe/"
    solver.commands.clear()
    chrome.commands.clear()
    for addresses in ({"flaresolverr_url": solver.url}, {"chrome_cdp_url": chrome.url}):
        error = visit(servers, **addresses).error
        assert isinstance(error, RobotsRefusalError)
    assert solver.commands == chrome.commands == []


@pytest.mark.slow
def test_images_are_requested_with_the_solvers_cookies_and_user_agent(servers, solver):
    async def headers(connector: SiteConnector) -> dict[str, str]:
        assert "Cookie" not in connector.image_request("https://x.example/a.jpg")[1]
        async for _ in connector.visit([TARGET]):
            pass
        return connector.image_request("https://x.example/a.jpg")[1]

    told = ask(servers, headers, flaresolverr_url=f"{solver.url}/v1")
    assert told["User-Agent"] == AGENT
    assert "cf_clearance=" in told["Cookie"]
    assert told["Referer"].startswith(servers.url("babepedia"))


@pytest.mark.slow
def test_without_a_status_the_content_of_the_page_decides_the_outcome(servers, solver):
    servers.world.sites["babepedia"].gone.add(PAGE.slug)
    assert outcome(visit(servers, flaresolverr_url=solver.url)) == "not_found"
    servers.world.sites["babepedia"].gone.clear()
    servers.world.sites["babepedia"].behaviour.age_gate = True
    assert outcome(visit(servers, flaresolverr_url=solver.url)) == "parse_error"


@pytest.mark.slow
def test_json_that_a_browser_wrapped_in_html_is_read(servers, solver):
    async def find(connector: SiteConnector) -> Any:
        return await connector.find("Quab Zoldrun")

    hits = ask(servers, find, flaresolverr_url=solver.url)
    assert [hit.key for hit in hits] == ["quib_zoldrun"]
    assert [hit.key for hit in ask(servers, find)] == ["quib_zoldrun"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Error: Error solving the challenge. Timeout after 60.0 seconds.", "timeout"),
        ("Error: Captcha detected but no automatic solver is configured.", "blocked"),
        ("Error: Request parameter 'url' is mandatory.", "timeout"),
        ("This session does not exist.", "timeout"),
    ],
)
def test_an_error_of_flaresolverr_gives_the_outcome_of_its_message(servers, message, expected):
    with FlareSolverr(fails=message) as failing:
        error = visit(servers, flaresolverr_url=failing.url).error
    assert error is not None
    assert error.outcome.value == expected
    assert "\n" not in str(error)


@pytest.mark.slow
def test_a_site_that_the_browser_cannot_reach_is_a_timeout(servers, solver):
    async def visit_nothing(connector: SiteConnector) -> str:
        await connector.client.get(f"{servers.url('babepedia')}/babe/{PAGE.slug}")
        connector.base = replace(connector.base, configured="http://127.0.0.1:9")
        connector.client._gate = None
        return outcome(await anext(connector.visit([TARGET])))

    assert ask(servers, visit_nothing, flaresolverr_url=solver.url) == "timeout"


@pytest.mark.slow
def test_a_solver_that_exceeds_its_limit_is_a_timeout(servers, monkeypatch):
    monkeypatch.setattr("stash_sense_pipeline.sources.reference_sites.flaresolverr._MARGIN_SECONDS", 0.1)

    async def slow(connector: SiteConnector) -> str:
        connector.fetcher = FlareSolverrFetcher(connector.client, hanging.url, max_timeout_ms=200)
        try:
            return outcome(await anext(connector.visit([TARGET])))
        finally:
            await connector.fetcher.close()

    with FlareSolverr(hangs=True) as hanging:
        assert ask(servers, slow) == "timeout"


@pytest.mark.slow
def test_a_solver_that_does_not_run_gives_an_error_that_names_its_setting(servers):
    error = visit(servers, flaresolverr_url="http://127.0.0.1:9").error
    assert error is not None
    assert "FLARESOLVERR_URL" in str(error)
    error = visit(servers, flaresolverr_url=servers.url("babepedia")).error
    assert error is not None
    assert error.outcome is Outcome.PARSE_ERROR


@pytest.mark.slow
def test_chrome_reports_the_status_of_an_error_page(servers, chrome):
    chrome.commands.clear()
    found = visit(servers, chrome_cdp_url=chrome.url)
    assert found.profile is not None
    assert found.profile.name == PAGE.name
    # A tab of its own in the operator's browser, closed at the end; never a fresh context.
    assert chrome.commands[0] == "Target.createTarget"
    assert chrome.commands[-1] == "Target.closeTarget"
    servers.world.sites["babepedia"].behaviour.refuse = 429
    assert outcome(visit(servers, chrome_cdp_url=chrome.url)) == "rate_limited"
    servers.world.sites["babepedia"].behaviour.refuse = 403
    assert outcome(visit(servers, chrome_cdp_url=chrome.url)) == "blocked"


@pytest.mark.slow
def test_a_chrome_that_does_not_run_is_a_timeout_that_names_its_setting(servers):
    error = visit(servers, chrome_cdp_url="http://127.0.0.1:9").error
    assert error is not None
    assert error.outcome is Outcome.TIMEOUT
    assert "CHROME_CDP_URL" in str(error)


def test_a_site_without_its_solver_or_browser_is_skipped_with_the_reason():
    def why(name: str, solver: str | None = None, chrome: str | None = None, **flags: bool) -> str:
        return why_no_fetcher(site_settings(name, "http://127.0.0.1", **flags), solver, chrome) or ""

    assert why("babepedia") == ""
    assert "FLARESOLVERR_URL" in why("babepedia", needs_flaresolverr=True)
    assert "CHROME_CDP_URL" in why("indexxx", needs_chrome_cdp=True)
    assert "not on this machine" in why("indexxx", chrome="http://192.168.1.4:9222", needs_chrome_cdp=True)
    assert why("indexxx", chrome="ws://localhost:9222/devtools/browser/1", needs_chrome_cdp=True) == ""
    assert "neither" in why("iafd", solver="http://127.0.0.1:8191", needs_flaresolverr=True)


@pytest.mark.slow
@pytest.mark.browser
def test_a_real_chromium_reads_a_page(servers):
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
        ]
        flags += ["--disable-background-networking", "--disable-quic", "--remote-debugging-port=0"]
        browser = subprocess.Popen(
            [program, *flags, f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.DEVNULL
        )
        try:
            address = _debugging_address(Path(profile), browser)
            found = visit(servers, chrome_cdp_url=address)
            assert found.error is None, found.error
            assert found.profile is not None
            assert found.profile.name == PAGE.name
            assert found.profile.aliases == PAGE.aliases
            servers.world.sites["babepedia"].behaviour.refuse = 403
            assert outcome(visit(servers, chrome_cdp_url=address)) == "blocked"
            agents = {each.user_agent for each in servers.traffic.requests("babepedia", "/babe/")}
            assert all(re.match("Mozilla/5.0", agent) for agent in agents)
        finally:
            browser.terminate()
            browser.wait(timeout=120)


def _debugging_address(profile: Path, browser: subprocess.Popen[bytes]) -> str:
    """Chromium writes its port into its profile once it listens."""
    port_file = profile / "DevToolsActivePort"
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up:
        assert browser.poll() is None, "Chromium ended by itself"
        if port_file.exists() and "\n" in port_file.read_text():
            return f"http://127.0.0.1:{port_file.read_text().split()[0]}"
        time.sleep(0.1)
    raise AssertionError("Chromium did not open its port")
