"""The Dagster UI on the data of the demo in a real browser, and the screenshots of the documentation."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from playwright.sync_api import FloatRect, Page

from stash_sense_pipeline.orchestration.asset_checks import RELEASE_CHECKS
from stash_sense_pipeline.orchestration.names import Group
from stash_sense_pipeline.sandbox.demo import DEMO_PACK, PEOPLE, SEED, SITES
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline_tests.browser import running_chromium
from stash_sense_pipeline_tests.commands import run_here
from stash_sense_pipeline_tests.orchestration.conftest import PROGRAM, WAIT_SECONDS, wait_until
from stash_sense_pipeline_tests.postgres import free_port

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(2400)]

# `make screenshots` sets it: where the pictures of the documentation go.
SCREENSHOTS = os.environ.get("STASH_SENSE_SCREENSHOTS")
MILLISECONDS = 1000 * WAIT_SECONDS
SOURCES = ("stashdb", "theporndb", "pmvstash", "javstash", "fansdb", *SITES)
# The UI writes the kinds that it knows in its own way.
SHOWN_KINDS = {"python": "Python", "table": "Table", "sqlite": "SQLite", "numpy": "NumPy", "github": "GitHub"}


@pytest.fixture(scope="module")
def ui(demo: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the Dagster UI on the demo's data, as `make ui` starts it, after a night on which nothing changed."""
    log = tmp_path_factory.mktemp("ui") / "log"
    server, address = started_ui(demo[0], log)
    try:
        keys = {
            f"{name.upper()}_API_KEY": source.api_key
            for name, source in make_demo_world(seed=SEED, people=PEOPLE).sources.items()
        }
        night = run_here(demo[0], {**os.environ, **variables_of(demo[0]), **keys}, "build")
        assert night.returncode == 0, night.stdout + night.stderr
        yield address
    finally:
        server.send_signal(signal.SIGINT)
        try:
            assert server.wait(timeout=WAIT_SECONDS) == 0, log.read_text()[-3000:]
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)


def started_ui(directory: Path, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A process of the UI that answers, and its address. Another program may take a free port first: then another."""
    for _ in range(5):
        server, address = start_ui(directory, log, free_port())
        if server.poll() is None:
            return server, address
    raise AssertionError(log.read_text()[-3000:])


def start_ui(directory: Path, log: Path, port: int) -> tuple[subprocess.Popen[bytes], str]:
    """A process of the UI that answers or has ended."""
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [PROGRAM, "ui", "--data-dir", directory, "--port", str(port)],
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    wait_until(lambda: server.poll() is not None or answers(address), log.read_text)
    return server, address


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/server_info", timeout=30).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def tab(ui: str) -> Iterator[tuple[Page, list[str]]]:
    """A tab of a real Chromium, and the complaints of its console, its scripts and its requests."""
    complaints: list[str] = []
    with running_chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900}, base_url=ui)
        page.set_default_timeout(MILLISECONDS)
        page.on("pageerror", lambda error: complaints.append(f"script: {error}"))
        page.on(
            "console",
            lambda message: (
                complaints.append(f"console: {message.text}") if message.type == "error" else None
            ),
        )
        page.on(
            "response",
            lambda answer: (
                complaints.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else None
            ),
        )
        yield page, complaints


@pytest.fixture
def page(tab: tuple[Page, list[str]]) -> Iterator[Page]:
    """The browser tab. An error in it fails the test that caused it."""
    opened, complaints = tab
    complaints.clear()
    opened.set_viewport_size({"width": 1400, "height": 900})
    yield opened
    assert complaints == []


def go(page: Page, path: str) -> None:
    """Opens a page. It polls for ever, so only its beginning is waited for."""
    page.goto(path, wait_until="domcontentloaded")


def shows(page: Page, *texts: str) -> None:
    """Waits until the page shows each of these, in full."""
    for text in texts:
        page.get_by_text(text, exact=True).first.wait_for()


def picture(page: Page, name: str, height: int = 900) -> None:
    """A screenshot for the documentation, where one is asked for."""
    if SCREENSHOTS:
        page.set_viewport_size({"width": 1400, "height": height})
        page.wait_for_timeout(3000)
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")
        page.set_viewport_size({"width": 1400, "height": 900})


def graph_places(page: Page, groups: list[str], height: int) -> dict[str, float]:
    """How far along the flow the graph shows each group, once it stands still in the window beside the list."""
    boxes = {group: page.get_by_text(group, exact=True).last for group in groups}
    for box in boxes.values():
        box.wait_for()
    earlier: dict[str, FloatRect | None] = {}

    def still() -> bool:
        nonlocal earlier
        page.wait_for_timeout(100)
        before, earlier = earlier, {group: box.bounding_box() for group, box in boxes.items()}
        return before == earlier and all(
            place is not None and 540 < place["x"] < 1400 and 100 < place["y"] < height
            for place in earlier.values()
        )

    wait_until(still, lambda: f"not in the window: {earlier}")
    return {group: place["x"] + place["y"] for group, place in earlier.items() if place is not None}


def test_the_lineage_page_shows_the_groups_in_the_order_of_the_flow(page: Page) -> None:
    # The graph is fitted into the window that it is opened in.
    height = 420
    page.set_viewport_size({"width": 1400, "height": height})
    go(page, "/asset-groups")
    places = graph_places(page, list(Group), height)
    assert sorted(places, key=places.__getitem__) == list(Group)
    picture(page, "lineage", height)


def test_the_pages_of_assets_show_what_they_are(page: Page, definitions: dg.Definitions) -> None:
    """Of as many assets as it takes to see each group and each kind; every asset has a description and owners."""
    specs = [spec for spec in definitions.resolve_all_asset_specs() if spec.key.path != ["github_release"]]
    assert len(specs) >= 8
    seen: set[str] = set()
    for spec in specs:
        assert spec.group_name
        assert spec.description
        if seen >= {spec.group_name, *spec.kinds}:
            continue
        seen |= {spec.group_name, *spec.kinds}
        go(page, f"/assets/{spec.key.to_user_string()}")
        first = re.split(r"(?<=[.:]) |\n", spec.description)[0]
        page.get_by_text(first).first.wait_for()
        shows(page, "Definition", "Owners", "stash-sense", "Columns", "Column name", "Metadata")
        shows(page, *(SHOWN_KINDS.get(kind, kind) for kind in spec.kinds))
        shows(page, spec.group_name)


def test_the_partitions_page_shows_every_source_and_its_state(page: Page) -> None:
    go(page, "/assets/face_embeddings?view=partitions")
    shows(page, *SOURCES)
    shows(page, f"Materialized ({len(SOURCES)})", "Missing (0)", "Failed (0)")
    picture(page, "partitions", height=700)


@pytest.mark.parametrize(
    ("asset", "plotted"),
    [
        ("performer_table", ["added", "live", "requests", "seconds"]),
        ("aligned_faces", ["faces", "performers", "done", "rejected_total", "failed_total", "seconds"]),
        ("identity_graph", ["seconds"]),
        ("release", ["faces", "performers", "checks_failed", "seconds"]),
    ],
)
def test_numbers_are_plotted_over_the_runs(page: Page, asset: str, plotted: list[str]) -> None:
    go(page, f"/assets/{asset}")
    page.get_by_text("Plots", exact=True).first.click()
    page.locator("canvas").first.wait_for()
    shows(page, *plotted)
    if asset == "release":
        page.locator("canvas").first.scroll_into_view_if_needed()
        picture(page, "plots")


def test_the_checks_of_a_release_show_their_numbers(page: Page) -> None:
    go(page, "/assets/release?view=checks&checkDetail=recall_at_1")
    shows(page, *(check.name for check in RELEASE_CHECKS))
    shows(page, f"Checks ({len(RELEASE_CHECKS)})", "Each index finds the true nearest face.", "Passed")
    shows(page, "facenet_recall_at_1", "arcface_recall_at_1", "This is a blocking asset check.")
    page.locator("canvas").first.wait_for()
    picture(page, "checks")


def test_the_freshness_check_shows_the_age_of_each_source(page: Page) -> None:
    go(page, "/assets/identity_graph?view=checks&checkDetail=sources_fresh")
    shows(page, "sources_fresh", "stale", "limit_hours")


def test_the_quality_report_can_be_read(page: Page) -> None:
    go(page, "/assets/release?view=events")
    page.get_by_text("[Show Markdown]").first.click()
    dialog = page.get_by_role("dialog").first
    dialog.get_by_text("People by number of faces").wait_for()
    for title in ("Faces by source", "Recall of the indices, against exact search"):
        dialog.get_by_text(title).wait_for()
    # Tables are drawn, not written with bars.
    dialog.locator("table").nth(3).wait_for()
    dialog.get_by_text("People by number of faces").scroll_into_view_if_needed()
    picture(page, "quality")


def test_the_counts_of_the_review_are_a_table(page: Page) -> None:
    go(page, "/assets/identity_graph?view=events")
    shows(page, "to review", "collision")
    cell = page.get_by_role("cell", name="to review").first
    cell.scroll_into_view_if_needed()
    page.locator("table", has=cell).last.locator("tr").nth(5).wait_for()
    page.get_by_text("review/identity.md").first.wait_for()
    picture(page, "review_cases")


def test_schedules_and_sensors_have_descriptions(page: Page, definitions: dg.Definitions) -> None:
    go(page, "/automation")
    kinds = {"schedules": definitions.schedules or [], "sensors": definitions.sensors or []}
    shows(page, *(each.name for found in kinds.values() for each in found))
    picture(page, "automation", height=620)
    for kind, found in kinds.items():
        assert all(each.description for each in found)
        go(page, f"/locations/stash_sense/{kind}/{found[0].name}")
        shows(page, str(found[0].description))


def test_runs_show_their_source(page: Page) -> None:
    go(page, "/runs")
    shows(page, "publish", "embed_faces", "refresh_source")
    page.get_by_text("stashdb").first.wait_for()


def test_the_daemon_is_alive_and_the_pool_of_the_gpu_has_its_limit(page: Page) -> None:
    go(page, "/deployment/daemons")
    shows(page, "Scheduler", "Sensors", "Run queue")
    page.get_by_text("Running", exact=True).first.wait_for()
    go(page, "/deployment/concurrency")
    shows(page, "gpu")


def test_the_overview_shows_the_runs_of_the_command_line(page: Page) -> None:
    go(page, "/overview/activity/timeline")
    shows(page, "stash_sense", "refresh_source", "embed_faces", "publish")


def asked(page: Page, ui: str, body: dict[str, Any]) -> dict[str, Any]:
    """The answer of the UI's server to a question in GraphQL."""
    answer = page.request.post(f"{ui}/graphql", data=body, headers={"Origin": ui}, timeout=MILLISECONDS)
    found: dict[str, Any] = answer.json()
    return found


def _runs(page: Page, ui: str, run_id: str) -> tuple[str, list[tuple[str, str, str]]]:
    """The status of a build, and of its runs: job, source, status."""
    query = (
        "{ runsOrError(limit: 30) { ... on Runs { results { runId jobName status tags { key value } } } } }"
    )
    answer = asked(page, ui, {"query": query})
    runs = [
        {**run, "tags": {tag["key"]: tag["value"] for tag in run["tags"]}}
        for run in answer["data"]["runsOrError"]["results"]
    ]
    (own,) = [run["status"] for run in runs if run["runId"] == run_id]
    parts = [
        (run["jobName"], run["tags"].get("dagster/partition", ""), run["status"])
        for run in runs
        if run["tags"].get("build") == run_id
    ]
    return own, parts


def test_one_job_refreshes_and_publishes_through_the_queue(page: Page, ui: str) -> None:
    go(page, "/locations/stash_sense/jobs/build_everything")
    page.get_by_text("what `stash-sense build` does").or_(
        page.get_by_text("Refresh every source, embed its faces, publish a release")
    ).first.wait_for()
    selector = {"repositoryLocationName": "stash_sense", "repositoryName": "__repository__"}
    parameters = {
        "selector": {**selector, "jobName": "build_everything"},
        "runConfigData": {"ops": {"build": {"config": {"sources": ["fansdb", "babepedia"]}}}},
    }
    mutation = (
        "mutation($p: ExecutionParams!) "
        "{ launchRun(executionParams: $p) { ... on LaunchRunSuccess { run { runId } } } }"
    )
    body = {"query": mutation, "variables": {"p": parameters}}
    answer = asked(page, ui, body)
    run_id = answer["data"]["launchRun"]["run"]["runId"]
    deadline = time.monotonic() + 600
    while (found := _runs(page, ui, run_id))[0] not in ("SUCCESS", "FAILURE", "CANCELED"):
        assert time.monotonic() < deadline, found
        page.wait_for_timeout(200)
    status, parts = found
    assert status == "SUCCESS"
    assert sorted(parts) == [
        ("publish", "", "SUCCESS"),
        ("refresh_source", "babepedia", "SUCCESS"),
        ("refresh_source", "fansdb", "SUCCESS"),
    ]


def test_a_failed_run_says_what_to_do_in_one_line(page: Page, ui: str, demo: tuple[Path, str]) -> None:
    """The key of a source expires: the run on its page, as an operator finds it in the morning."""
    variables = {**os.environ, **variables_of(demo[0]), "FANSDB_API_KEY": "expired"}
    # Not in this process: the browser has an event loop here.
    command = [PROGRAM, "build", "--sources", "fansdb"]
    result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=900)
    assert result.returncode == 1, result.stdout + result.stderr
    query = "{runsOrError(limit: 1, filter: {statuses: [FAILURE]}) {... on Runs {results {runId}}}}"
    (failed,) = asked(page, ui, {"query": query})["data"]["runsOrError"]["results"]
    go(page, f"/runs/{failed['runId']}")
    shows(page, "Failure")
    page.get_by_text(re.compile(r"fansdb: .*\bkey\b")).first.wait_for()
    page.get_by_text("performer_table").first.wait_for()
    picture(page, "failed_run")


def variables_of(directory: Path) -> dict[str, str]:
    """The variables of a command on the demo's data, while the UI serves its sources."""
    return {
        "DATA_DIR": str(directory),
        "DAGSTER_HOME": str(directory / "dagster"),
        "STASH_SENSE_SOURCES": str(directory / "sources.yaml"),
        "STASH_SENSE_MODEL_PACK": str(DEMO_PACK),
    }
