"""The review page in a real Chromium: fifty decisions by keys, mouse and screen reader names, axe-core, no traces."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page

from stash_sense_pipeline_tests.browser import running_chromium
from stash_sense_pipeline_tests.review.world import DECISIONS, ReviewWorld

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(600)]

# The names by which a screen reader offers the answers.
BY_NAME = {
    "pair": "Same person s", "page": "Proves nothing p", "face": "Not a face x", "confusable": "Fine: two people f",
    "withheld": "Fine: it stays withheld f", "held": "Later l",
}  # fmt: skip
BY_KEY = {"pair": "d", "page": "f", "face": "n", "confusable": "f", "withheld": "l", "held": "l"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_chromium() as browser:
        yield browser


@dataclass
class Tab:
    """A tab, its complaints, and the addresses that it asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)

    def watch(self) -> None:
        page = self.page
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("request", lambda request: self.asked.add(request.url))

    def go(self, address: str) -> None:
        self.page.goto(address, wait_until="load")

    def follow(self, link: Locator) -> None:
        """Clicks, and waits for the next page."""
        with self.page.expect_navigation(wait_until="load"):
            link.click()

    def press(self, key: str) -> None:
        """Presses a key, and waits for the next page."""
        with self.page.expect_navigation(wait_until="load"):
            self.page.keyboard.press(key)

    @property
    def kind(self) -> str:
        return self.page.locator("p.place code").inner_text().partition("-")[0]


def opened(browser: Browser, **options: Any) -> Tab:
    tab = Tab(browser.new_context(viewport={"width": 1400, "height": 900}, **options).new_page())
    tab.page.set_default_timeout(240_000)
    tab.watch()
    return tab


def settle(tab: Tab, how: str) -> None:
    """Answers the card that is shown, and waits for the next page."""
    kind, page = tab.kind, tab.page
    with page.expect_navigation(wait_until="load"):
        if how == "key":
            page.keyboard.press(BY_KEY[kind])
        elif how == "mouse":
            box = page.locator("form.answers button").first.bounding_box()
            assert box is not None
            page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        else:
            page.get_by_role("button", name=BY_NAME[kind], exact=True).press("Enter")


def serious(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {each['nodes'][0]['html']}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def test_fifty_decisions_are_settled_by_keys_mouse_and_screen_reader(
    world: ReviewWorld, browser: Browser
) -> None:
    with world.serving() as (address, pid):
        tab = opened(browser)
        tab.go(address)
        page = tab.page
        seen: set[str] = set()
        for number in range(DECISIONS):
            seen.add(tab.kind)
            assert (
                page.locator("header label").first.inner_text()
                == f"{number} of {DECISIONS} settled in this session"
            )
            # The answers of a held record, one of which the mouse would press, are for another test.
            how = "name" if tab.kind == "held" else ("key", "mouse", "name")[number % 3]
            settle(tab, how)
        assert page.get_by_role("heading", name="Nothing to decide").is_visible()
        assert seen == set(BY_NAME)
        used = psutil.Process(pid).cpu_times()
        # That of the whole session: a clock would count the other programs of this machine too.
        assert used.user + used.system < 20, "seconds of a processor"
        assert tab.complaints == []
        # Nothing is asked of any other address.
        assert all(url.startswith(address) for url in tab.asked)
        page.context.close()
    # The page is closed: another reader finds every answer in the file, with its time and user.
    text = world.overrides.read_text()
    entries = yaml.safe_load(text)
    assert sum(len(some) for some in entries.values()) == DECISIONS
    assert text.count("  # 20") == DECISIONS
    assert len(world.desk().settled()) == DECISIONS
    _no_picture_is_left(world)


def _no_picture_is_left(world: ReviewWorld) -> None:
    """No byte of a fetched picture, and no new crop, is in a file below the data directory or beside it."""
    fetched = {path for path in world.pictures.asked if path in world.pictures.files}
    assert fetched
    middles = [world.pictures.files[path][500:560] for path in fetched]
    kept = world.directory / "catalog.db"
    for path in [*world.directory.rglob("*"), world.directory.with_name("review.log")]:
        if path.is_file():
            content = path.read_bytes()
            assert not any(middle in content for middle in middles), path
            if path.name.partition("-")[0] != kept.name:
                assert b"\x89PNG" not in content, path
                assert b"\xff\xd8\xff" not in content, path


def test_each_kind_of_page_has_no_serious_finding_of_axe(world: ReviewWorld, browser: Browser) -> None:
    with world.served() as address:
        tab = opened(browser)
        for kind in BY_NAME:
            tab.go(f"{address}?kind={kind}")
            tab.page.locator("img").evaluate_all(
                "all => Promise.all(all.map(each => each.decode().catch(() => 0)))"
            )
            assert serious(tab.page) == [], kind
        settle(tab, "name")
        for path in ("", "list", "settled", "?kind=held"):
            tab.go(address + path)
            assert serious(tab.page) == [], path
        tab.go(f"{address}settled")
        tab.page.context.close()


def test_it_works_without_scripts(world: ReviewWorld, browser: Browser) -> None:
    with world.served() as address:
        tab = opened(browser, java_script_enabled=False)
        tab.go(f"{address}?kind=pair")
        first = tab.page.locator("p.place code").inner_text()
        tab.page.get_by_label("Reason, if you have one").fill("two <people>\nsurely")
        tab.follow(tab.page.get_by_role("button", name="Different people d"))
        assert tab.page.locator("p.place code").inner_text() != first
        assert tab.page.get_by_role("status").inner_text().startswith("Different people: written")
        tab.follow(tab.page.get_by_role("button", name="Undo u"))
        assert tab.page.locator("p.place code").inner_text() == first
        tab.follow(tab.page.get_by_role("link", name="Next j"))
        tab.follow(tab.page.get_by_role("link", name="List"))
        assert tab.page.locator("tbody tr").count() == DECISIONS
        tab.page.context.close()


def test_keys_move_undo_and_leave_a_form_alone(world: ReviewWorld, browser: Browser) -> None:
    with world.served() as address:
        tab = opened(browser)
        tab.go(f"{address}?kind=pair")
        page = tab.page
        first = page.locator("p.place code").inner_text()
        page.get_by_label("Reason, if you have one").press_sequentially("sdlu")
        assert not world.overrides.exists()
        page.locator("h1").click()
        page.keyboard.press("Control+s")
        tab.press("j")
        second = page.locator("p.place code").inner_text()
        assert second != first
        tab.press("k")
        assert page.locator("p.place code").inner_text() == first
        tab.press("s")
        assert page.locator("p.place code").inner_text() == second
        tab.press("u")
        assert page.locator("p.place code").inner_text() == first
        assert yaml.safe_load(world.overrides.read_text()) == {"must_link": None}
        page.get_by_label("Keys").uncheck()
        page.locator("h1").click()
        page.keyboard.press("s")
        # The answer of the key would come before that of a link that is followed later.
        tab.follow(page.get_by_role("link", name="Settled"))
        assert yaml.safe_load(world.overrides.read_text()) == {"must_link": None}
        page.context.close()


def test_two_sessions_at_once_do_not_overwrite_each_other(world: ReviewWorld, browser: Browser) -> None:
    with world.served() as first, world.served() as second:
        one, other = opened(browser), opened(browser)
        one.go(f"{first}?kind=pair")
        other.go(f"{second}?kind=pair")
        assert (
            one.page.locator("p.place code").inner_text() == other.page.locator("p.place code").inner_text()
        )
        settle(one, "key")
        before = world.overrides.read_text()
        other.press("s")
        assert other.page.get_by_role("heading", name="Nothing was written").is_visible()
        assert world.overrides.read_text() == before
        other.complaints.clear()
        other.go(f"{second}?kind=pair")
        settle(other, "key")
        assert len(yaml.safe_load(world.overrides.read_text())["cannot_link"]) == 2
        for tab in (one, other):
            tab.page.context.close()


def test_the_card_of_the_documentation(world: ReviewWorld, browser: Browser) -> None:
    """The picture of the documentation is this page."""
    with world.served() as address:
        tab = opened(browser)
        tab.go(f"{address}?kind=pair")
        tab.follow(tab.page.locator("a[data-key=j]"))
        images = tab.page.locator("img")
        images.first.wait_for()
        images.evaluate_all("all => Promise.all(all.map(each => each.decode()))")
        assert images.count() == 2
        if directory := os.environ.get("STASH_SENSE_SCREENSHOTS"):
            tab.page.screenshot(path=Path(directory) / "review.png", animations="disabled")
        tab.page.context.close()
