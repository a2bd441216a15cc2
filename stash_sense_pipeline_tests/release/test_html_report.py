"""report.html in a real browser: it needs nothing else, sorts, reads without JavaScript, and has no barrier."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from stash_sense_pipeline.foundation.tables.table import one_line, table_of
from stash_sense_pipeline.privacy.redaction.report_redaction import erase_traces
from stash_sense_pipeline.release.promotion import ReleaseReport
from stash_sense_pipeline.release.reports import quality_report
from stash_sense_pipeline.release.reports.document import Heading, TableBlock
from stash_sense_pipeline.release.reports.html_page import html_page
from stash_sense_pipeline.release.reports.plots import draw_plots
from stash_sense_pipeline.release.reports.quality_report import PAGE, ReportContent, write_report
from stash_sense_pipeline.release.reports.release_diff import PerformerChange, ReleaseDiff
from stash_sense_pipeline_tests.browser import PATIENCE, running_chromium
from stash_sense_pipeline_tests.hostile_texts import HOSTILE

World = tuple[Path, ReleaseReport]
VOID = {"meta", "img"}
browser_test = pytest.mark.browser


@pytest.fixture(scope="module")
def page_file(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a release with every section: figures, plots, and changes with hostile names."""
    _, report = world
    changes = tuple(
        PerformerChange(number, f"Mira {text} Quill", ("gender",))
        for number, text in enumerate(HOSTILE.values())
    )
    diff = ReleaseDiff("2026.02.17", report.version, changes, changes[20:], changes, (), (), 5, 2, 1)
    directory = tmp_path_factory.mktemp("page") / f"{report.version}.report"
    write_report(directory, report.path, ReportContent(report.version, report.checks, report.figures, diff))
    return directory / PAGE


class Nesting(HTMLParser):
    """Checks that each element is closed in its order, and collects attributes that could load or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.active: list[tuple[str, str, str | None]] = []
        self.seen: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        if tag not in VOID:
            self.open.append(tag)
        names = ("src", "href", "action", "style", "srcset", "data")
        self.active += [(tag, name, value) for name, value in attrs if name in names or name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.slow
def test_the_page_is_whole_and_needs_nothing_else(page_file: Path) -> None:
    text = page_file.read_text()
    nesting = Nesting()
    nesting.feed(text)
    assert nesting.open == []
    assert {(tag, name) for tag, name, _ in nesting.active} == {("img", "src"), ("a", "href")}
    pictures = [str(value) for tag, _, value in nesting.active if tag == "img"]
    assert len(pictures) == 2
    assert all(value.startswith("data:image/png;base64,") for value in pictures)
    links = [str(value) for tag, _, value in nesting.active if tag == "a"]
    assert len(links) > 8
    assert all(f'<h2 id="{link.removeprefix("#")}">' in text for link in links)
    assert (nesting.seen["script"], nesting.seen["h1"]) == (1, 1)
    assert "default-src 'none'" in text
    for wanted in ("What a threshold means", "Most confusable people", "What changed", "Checks", "Hubs"):
        assert f"{wanted}" in text
    assert "Person" in text


@pytest.mark.slow
def test_the_same_content_gives_the_same_bytes(
    world: World, page_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality_report, "draw_plots", draw_plots)
    _, report = world
    content = ReportContent(report.version, report.checks, report.figures, None)
    write_report(tmp_path / "one", report.path, content)
    write_report(tmp_path / "two", report.path, content)
    assert (tmp_path / "one" / PAGE).read_bytes() == (tmp_path / "two" / PAGE).read_bytes()
    # promote_release wrote the page of this release.
    assert (report.path.with_name(f"{report.version}.report") / PAGE).read_bytes() == (
        tmp_path / "one" / PAGE
    ).read_bytes()


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_an_erasure_blanks_the_row_of_a_name(tmp_path: Path, text: str) -> None:
    name = f"Mira {text} Quill"
    path = tmp_path / "releases" / "2026.02.18.report" / PAGE
    path.parent.mkdir(parents=True)
    rows = [(name, 1), ("Other Person", 2)]
    path.write_text(
        html_page("x", [Heading(1, "x"), TableBlock("x", table_of(("performer", "id"), rows))], {})
    )
    assert erase_traces(tmp_path, (name,), staged=False).lines == 1
    left = path.read_text()
    assert "Quill" not in left
    assert "<tr><td>Other Person</td>" in left


WORDS_OF_A_PAGE = sorted(
    set(re.findall(r"[A-Za-z]{3,}", html_page("", [TableBlock("", table_of(("a",), [(1,), ("b",)]))], {})))
)


@pytest.mark.parametrize("spelled", [str.title, str.lower, str.upper])
def test_an_erasure_of_a_person_named_like_a_word_of_html_leaves_a_page(
    tmp_path: Path, spelled: Callable[[str], str]
) -> None:
    names = [spelled(word) for word in WORDS_OF_A_PAGE if word != "Sections"]
    path = tmp_path / "releases" / "2026.02.18.report" / PAGE
    path.parent.mkdir(parents=True)
    rows = [(f"{name} {number}", number) for number, name in enumerate(names)]
    path.write_text(
        html_page("x", [TableBlock("x", table_of(("person", "id"), [*rows, ("Mira Quill", -1)]))], {})
    )
    before = path.read_text().splitlines()
    assert erase_traces(tmp_path, names, staged=False).lines == len(names) > 50
    after = path.read_text().splitlines()
    gone = [line for line, left in zip(before, after, strict=True) if line != left]
    assert all(line.startswith("<tr><td>") for line in gone)
    assert [line for line in after if line.startswith("<tr><td>")] == [
        '<tr><td>Mira Quill</td><td data-value="-1">-1</td></tr>'
    ]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, page_file: Path) -> Iterator[Page]:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: troubles.append(dialog.message))
    page.goto(page_file.as_uri())
    yield page
    assert troubles == []
    page.close()


@pytest.mark.slow
@browser_test
def test_a_browser_shows_names_as_text_and_asks_for_no_other_file(page: Page, page_file: Path) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    assert [each for each in asked if not each.startswith("data:")] == [page_file.as_uri()]
    cells = page.locator("table", has=page.locator("caption", has_text="performers added")).locator(
        "tbody td:first-child"
    )
    shown = cells.all_text_contents()
    # The report lists the first 20 of a section.
    assert shown == [one_line(f"Mira {text} Quill") for text in HOSTILE.values()][:20]
    removed = page.locator("table", has=page.locator("caption", has_text="performers removed"))
    shown += removed.locator("tbody td:first-child").all_text_contents()
    assert len(shown) == len(HOSTILE)
    assert page.locator("img").evaluate_all("each => each.every(img => img.naturalWidth > 100)")


@pytest.mark.slow
@browser_test
def test_a_table_sorts_by_numbers_and_by_text_with_mouse_and_keys(page: Page) -> None:
    table = page.locator("table", has=page.locator("caption", has_text="Most confusable people"))
    head = table.get_by_role("columnheader", name="distance")
    values = table.locator("tbody td:nth-child(3)")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    rising = [float(text) for text in values.all_text_contents()]
    assert rising == sorted(rising)
    assert len(rising) > 3
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(text) for text in values.all_text_contents()] == sorted(rising, reverse=True)
    table.get_by_role("columnheader", name="one").get_by_role("button").click()
    assert head.get_attribute("aria-sort") is None


@pytest.mark.slow
@browser_test
def test_the_page_has_no_serious_barrier(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    assert [(each["id"], each["help"]) for each in found if each["impact"] in ("serious", "critical")] == []


@pytest.mark.slow
@browser_test
def test_the_page_reads_without_javascript(browser: Browser, page_file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(page_file.as_uri())
    assert page.get_by_role("button").count() == 0
    heads = page.locator("table", has=page.locator("caption", has_text="What a threshold means")).locator(
        "th"
    )
    assert heads.all_text_contents()[0] == "distance"
    assert re.search(r"\d photographs were left out", page.locator("main").inner_text())
    context.close()
