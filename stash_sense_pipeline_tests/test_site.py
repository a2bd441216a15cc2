"""The documentation as a site: every page can be reached, and a browser shows every table whole."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Page

from stash_sense_pipeline_tests.browser import PATIENCE, running_chromium
from stash_sense_pipeline_tests.tools.generated_docs import DOCS

PROJECT = DOCS.parent
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
# Tables, code and pictures that reach beyond the text that holds them, or beyond their own frame.
CUT_OFF = """() => {
  const text = document.querySelector('.rst-content').getBoundingClientRect();
  return [...document.querySelectorAll('.rst-content table, .rst-content img')]
    .filter(each => each.getBoundingClientRect().right > text.right + 1 || each.scrollWidth > each.clientWidth + 1)
    .map(each => (each.innerText || each.src).slice(0, 60));
}"""


def links(text: str) -> set[str]:
    return set(re.findall(r"\]\(([\w./-]+\.md)", text))


def test_every_page_is_in_the_navigation_and_linked_from_the_first_page() -> None:
    nav = yaml.safe_load((PROJECT / "mkdocs.yml").read_text())["nav"]
    assert sorted(path for entry in nav for path in entry.values()) == PAGES
    assert links((DOCS / "index.md").read_text()) == set(PAGES) - {"index.md"}


def test_every_page_at_the_top_of_the_repository_is_linked_from_the_readme() -> None:
    at_top = {path.name for path in PROJECT.glob("*.md")} - {"README.md"}
    assert at_top <= links((PROJECT / "README.md").read_text())


def test_every_drawing_has_its_source_beside_it_with_the_same_words() -> None:
    drawings = sorted(DOCS.glob("*.mmd"))
    assert len(drawings) >= 2
    pages = "".join(path.read_text() for path in DOCS.glob("*.md"))
    for drawing in drawings:
        assert drawing.with_suffix(".png").stat().st_size > 5000
        assert f"({drawing.stem}.png)" in pages
        assert drawing.read_text().startswith("flowchart ")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A tab of a real Chromium on the built site."""
    site = tmp_path_factory.mktemp("docs") / "site"
    command = [Path(sys.executable).with_name("mkdocs"), "build", "-q", "-d", site]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with running_chromium() as browser:
            tab = browser.new_page(base_url=f"http://127.0.0.1:{server.server_address[1]}")
            tab.set_default_timeout(PATIENCE)
            yield tab
    finally:
        server.shutdown()
        server.server_close()


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: requests are not of interest."""


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.timeout(600)
def test_no_table_or_picture_is_cut_off(page: Page) -> None:
    tables = 0
    for name in PAGES:
        page.goto("/" if name == "index.md" else f"/{Path(name).stem}/")
        tables += page.locator(".rst-content table").count()
        for width in (1400, 1000):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate(CUT_OFF) == [], (name, width)
            assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0, (
                name,
                width,
            )
    assert tables > 30


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.timeout(600)
def test_on_a_telephone_a_wide_table_scrolls_in_its_frame(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    for name in ("install.md", "settings.md", "robustness.md"):
        page.goto(f"/{Path(name).stem}/")
        frame = page.locator(".wy-table-responsive").first
        assert frame.evaluate("each => getComputedStyle(each).overflowX") == "auto"
        assert frame.evaluate("each => each.scrollWidth > each.clientWidth")
        assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0, name
