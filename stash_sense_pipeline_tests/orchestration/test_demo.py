"""The demo as a user runs it, its release, and the Dagster UI on its data in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from itertools import combinations
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from stash_sense_pipeline.release.verify import failures, verify_release
from stash_sense_pipeline.sandbox.demo import PEOPLE, SEED, SITES
from stash_sense_pipeline.sandbox.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PROGRAM = Path(sys.executable).with_name("stash-sense")
# `make screenshots` sets it: where the README's pictures go.
SCREENSHOTS = os.environ.get("STASH_SENSE_SCREENSHOTS")


def _run_demo(directory: Path) -> str:
    result = subprocess.run(
        [PROGRAM, "demo", "--data-dir", directory],
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
        cwd=directory.parent,
        # Somebody's own set-up in the same shell must stay untouched.
        env={
            **os.environ,
            "STASH_SENSE_CATALOG_URL": "sqlite:////nowhere/catalog.db",
            "DAGSTER_HOME": "/nowhere",
        },
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    return result.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory of a demo that ran once, and what it printed."""
    directory = tmp_path_factory.mktemp("demo") / "data"
    return directory, _run_demo(directory)


def test_the_run_history_names_nobody(demo: tuple[Path, str]) -> None:
    """Event log, run storage and the logs of steps: no name, alias, id, link or picture of a person, and no key."""
    directory, printed = demo
    with closing(sqlite3.connect(directory / "catalog.db")) as catalog:
        needles = {
            text.encode()
            for query in (
                "SELECT name FROM source_performers",
                "SELECT alias FROM performer_aliases",
                "SELECT source_id FROM source_performers",
                "SELECT url FROM performer_urls",
                "SELECT url FROM source_images",
                "SELECT sha256 FROM source_images",
            )
            for (text,) in catalog.execute(query)
            if text is not None and len(text) > 5 and not text.isdigit()
        }
    assert len(needles) > 500
    pattern = re.compile(b"|".join(re.escape(needle) for needle in sorted(needles)))
    history = [path for path in (directory / "dagster").rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in history)
    for path in history:
        found = pattern.search(path.read_bytes())
        assert found is None, (path, found)
    assert pattern.search(printed.encode()) is None


@pytest.fixture(scope="module")
def world() -> World:
    """The world that the demo serves, for its truth."""
    return World.demo(seed=SEED, people=PEOPLE)


def test_the_demo_ends_with_a_verified_release(demo: tuple[Path, str]) -> None:
    directory, said = demo
    latest = (directory / "releases" / "latest").resolve()
    assert str(latest) in said
    for source in ("stashdb", "theporndb", "pmvstash", "javstash", "fansdb", *SITES):
        assert re.search(rf"^{source}: \d+ performers \(\d+ added", said, re.MULTILINE), said
    assert re.search(r"^checks: (\d+) of \1 passed$", said, re.MULTILINE), said
    assert "make ui" in said
    assert failures(verify_release(latest)) == ()
    archive = latest.parent / f"stash-sense-data-v{latest.name}.zip"
    assert failures(verify_release(archive)) == ()
    manifest = json.loads((latest / "manifest.json").read_text())
    assert manifest["models"]["demo"] is True
    assert "no real person" in manifest["models"]["statement"]


def test_every_live_record_of_the_world_is_in_the_catalog(demo: tuple[Path, str], world: World) -> None:
    with closing(sqlite3.connect(demo[0] / "catalog.db")) as connection:
        query = "SELECT source, source_id FROM source_performers WHERE deleted_at IS NULL"
        stored = set(connection.execute(query))
    live = {
        (name, key)
        for name, box in world.boxes.items()
        for key, row in box.performers.items()
        if not row.deleted
    }
    on_sites = {record for record in stored if record[0] in SITES}
    assert {record for record in stored if record[0] != "theporndb"} - on_sites == live
    # Nobody of a site is stored whom no box knows.
    assert {world.person_of(*record) in range(len(world.people)) for record in on_sites} == {True}
    on_theporndb = {
        record
        for person in range(len(world.people))
        for record in world.records_of(person)
        if record[0] == "theporndb"
    }
    # What is stored beyond these are ThePornDB's entries that are nobody: toys, titles, descriptions.
    assert on_theporndb <= stored


def test_no_two_people_became_one(demo: tuple[Path, str], world: World) -> None:
    with closing(sqlite3.connect(demo[0] / "catalog.db")) as connection:
        members = connection.execute(
            "SELECT performer_id, source, source_id FROM identity_members"
        ).fetchall()
    people: dict[int, set[int]] = {}
    for performer_id, source, source_id in members:
        person = world.person_of(source, source_id)
        if person is not None:
            people.setdefault(performer_id, set()).add(person)
    assert [found for found in people.values() if len(found) > 1] == []
    # Of the pairs of records that are one person, nearly all are found.
    owner = {(source, source_id): performer_id for performer_id, source, source_id in members}
    found = missed = 0
    for person in range(len(world.people)):
        ids = [owner[record] for record in world.records_of(person) if record in owner]
        for one, other in combinations(ids, 2):
            found, missed = found + (one == other), missed + (one != other)
    assert found / (found + missed) > 0.85


def test_a_second_demo_says_that_nothing_changed(demo: tuple[Path, str]) -> None:
    directory = demo[0]
    before = {path: path.stat().st_mtime_ns for path in (directory / "releases").rglob("*")}
    said = _run_demo(directory)
    assert "nothing changed since it was made" in said
    assert {path: path.stat().st_mtime_ns for path in (directory / "releases").rglob("*")} == before


# --- the UI ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ui(demo: tuple[Path, str]) -> Iterator[str]:
    """Address of the Dagster UI on the demo's data, as `make ui` starts it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [PROGRAM, "ui", "--data-dir", demo[0], "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _await(f"{address}/server_info", server)
        yield address
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(timeout=60)
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)


def _await(address: str, server: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + 180
    while time.monotonic() < give_up:
        assert server.poll() is None, "the UI ended by itself"
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
        else:
            return
    raise AssertionError("the UI did not come up")


@pytest.fixture(scope="module")
def page(ui: str) -> Iterator[Page]:
    """A tab of a real Chromium on the UI; errors of the page fail the test that finds them."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*flags, "--disable-quic"])
        tab = browser.new_page(viewport={"width": 1400, "height": 800})
        tab.set_default_timeout(60_000)
        yield tab
        browser.close()


@pytest.mark.browser
def test_the_lineage_page_shows_the_groups_in_the_order_of_the_flow(page: Page, ui: str) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{ui}/asset-groups", wait_until="domcontentloaded")
    left = []
    for group in ("ingest", "faces", "identity", "index", "release"):
        box = page.get_by_text(group, exact=True).last
        box.wait_for()
        place = box.bounding_box()
        assert place is not None
        left.append((place["x"] + place["y"], group))
    if SCREENSHOTS:
        page.set_viewport_size({"width": 1400, "height": 420})
        page.reload(wait_until="domcontentloaded")
        page.wait_for_timeout(5000)
        page.screenshot(path=Path(SCREENSHOTS) / "lineage.png")
    assert [group for _, group in sorted(left)] == ["ingest", "faces", "identity", "index", "release"]
    assert errors == []


@pytest.mark.browser
def test_the_partitions_page_shows_every_source(page: Page, ui: str) -> None:
    page.goto(f"{ui}/assets/face_embeddings?view=partitions", wait_until="domcontentloaded")
    for source in ("stashdb", "theporndb", "pmvstash", "javstash", "fansdb"):
        page.get_by_text(source, exact=True).first.wait_for()
    page.get_by_text(f"Materialized ({5 + len(SITES)})").first.wait_for()


@pytest.mark.browser
def test_the_release_shows_its_checks(page: Page, ui: str) -> None:
    page.goto(f"{ui}/assets/release?view=checks", wait_until="domcontentloaded")
    page.get_by_text("contract", exact=True).first.wait_for()
    page.get_by_text("enough_faces", exact=True).first.wait_for()
