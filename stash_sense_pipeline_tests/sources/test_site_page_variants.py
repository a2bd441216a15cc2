"""The pages in site_pages/ written in other ways: a reader takes the same from each, or refuses it with a typed error.

Each change keeps what the page means. It is one that real sites make from one day to the next, such as another order of
classes, other spellings of blanks and letters, pictures that a script loads, or one more element around another.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st

from stash_sense_pipeline.foundation.errors import Outcome, SourceError
from stash_sense_pipeline.sources.reference_sites.page import Page
from stash_sense_pipeline_tests.sources.test_site_pages import EXPECTATIONS, page_of, read

Change = Callable[[str], str]
_TAG = re.compile(r"<(/?)([A-Za-z][\w-]*)((?:\s[^<>]*?)?)(/?)>")
_ATTRIBUTE = re.compile(r"([\w:-]+)\s*=\s*(\"[^\"]*\"|'[^']*')")
_TEXT = re.compile(r">([^<>]+)<")


def _in_tags(change: Callable[[re.Match[str]], str]) -> Change:
    """Changes the tags of a page; scripts and comments stay."""

    def changed(html: str) -> str:
        parts = re.split(r"(<script\b.*?</script>|<!--.*?-->|<!doctype[^>]*>)", html, flags=re.I | re.S)
        return "".join(part if number % 2 else _TAG.sub(change, part) for number, part in enumerate(parts))

    return changed


def _in_attribute(names: str, change: Callable[[str, str], str]) -> Change:
    """Changes the attributes with these names. `change` takes the name and the value, and returns the attribute."""

    def of_tag(tag: re.Match[str]) -> str:
        def of_attribute(found: re.Match[str]) -> str:
            name, quoted = found[1], found[2]
            return change(name, quoted[1:-1]) if re.fullmatch(names, name, re.I) else found[0]

        return f"<{tag[1]}{tag[2]}{_ATTRIBUTE.sub(of_attribute, tag[3])}{tag[4]}>"

    return _in_tags(of_tag)


def _in_texts(change: Callable[[str], str]) -> Change:
    """Changes the texts between the tags of a page; scripts stay."""

    def changed(html: str) -> str:
        parts = re.split(r"(<script\b.*?</script>|<title>.*?</title>)", html, flags=re.I | re.S)
        return "".join(
            part if number % 2 else _TEXT.sub(lambda text: f">{change(text[1])}<", part)
            for number, part in enumerate(parts)
        )

    return changed


def _without_scheme(name: str, value: str) -> str:
    return f'{name}="{re.sub(r"^https?:", "", value)}"'


def _lazily(tag: re.Match[str]) -> str:
    """A picture that a script loads: a placeholder in `src`, the address in another attribute."""
    if tag[2].lower() != "img" or "data-src" in tag[3]:
        return tag[0]
    attributes = re.sub(r"\ssrc\s*=", " data-lazy-src=", tag[3])
    return f'<img src="/blank.gif"{attributes}>' if attributes != tag[3] else tag[0]


def _with_wrapper(inline: bool) -> Change:
    """Each picture and link with one more element around it."""

    def changed(html: str) -> str:
        soup = BeautifulSoup(html, "lxml")
        for tag in soup.select("img" if inline else "a"):
            tag.wrap(soup.new_tag("span" if inline else "em"))
        return str(soup)

    return changed


def _entities(text: str) -> str:
    """The letters outside of ASCII, and the first letters of words, as entities."""
    if "&" in text:
        return text
    return re.sub(r"[^\x00-\x7f]|\b[B-Z](?=[a-z])", lambda letter: f"&#{ord(letter[0])};", text)


CHANGES: Mapping[str, Change] = {
    "more classes, in another order": _in_attribute(
        "class", lambda name, value: f'{name}="zz-new {" ".join(reversed(value.split()))} js-on"'
    ),
    "upper-case tags": _in_tags(lambda tag: f"<{tag[1]}{tag[2].upper()}{tag[3]}{tag[4]}>"),
    "upper-case attributes": _in_attribute(".*", lambda name, value: f'{name.upper()}="{value}"'),
    "blanks around attributes": _in_attribute(".*", lambda name, value: f'{name} = "{value}"'),
    "no-break spaces": _in_texts(lambda text: re.sub(r"(?<=\w) (?=\w)", "&nbsp;", text)),
    "line breaks for blanks": _in_texts(lambda text: re.sub(r"(?<=\w) (?=\w)", "\n\t  ", text)),
    "entities": _in_texts(_entities),
    "addresses without a scheme": _in_attribute("href|src|data-src|data-original", _without_scheme),
    "addresses with blanks around them": _in_attribute(
        "href|src|data-src", lambda name, value: f'{name}="\n {value} "'
    ),
    "pictures loaded by a script": _in_tags(_lazily),
    "a wrapper around each picture": _with_wrapper(inline=True),
    "a wrapper around each link": _with_wrapper(inline=False),
    "Windows line ends": lambda html: html.replace("\n", "\r\n"),
    "comments between elements": _in_tags(lambda tag: f"<!-- {tag[2]} -->{tag[0]}" if not tag[1] else tag[0]),
}
READ = [
    path
    for path in EXPECTATIONS
    if path.with_suffix(".html").exists() and "fields" in yaml.safe_load(path.read_text())
]


def _read(expectation: Path, wanted: Mapping[str, Any], html: str) -> dict[str, Any]:
    page = dataclasses.replace(page_of(expectation, wanted["url"]), body=html.encode())
    return read(page, dict(wanted))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("expectation", READ, ids=lambda path: path.stem)
def test_a_page_that_is_written_in_another_way_gives_the_same(expectation: Path, change: str) -> None:
    wanted = yaml.safe_load(expectation.read_text())
    html = CHANGES[change](expectation.with_suffix(".html").read_text())
    assert _read(expectation, wanted, html) == wanted["fields"]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.sampled_from(READ), st.lists(st.sampled_from(sorted(CHANGES)), min_size=2, max_size=4, unique=True))
def test_several_changes_at_once_give_the_same_or_a_typed_error(
    expectation: Path, changes: list[str]
) -> None:
    wanted = yaml.safe_load(expectation.read_text())
    html = expectation.with_suffix(".html").read_text()
    for change in changes:
        html = CHANGES[change](html)
    assert _read_or_refused(expectation, wanted, html) in (wanted["fields"], Outcome.PARSE_ERROR)


def _read_or_refused(expectation: Path, wanted: Mapping[str, Any], html: str) -> dict[str, Any] | Outcome:
    try:
        return _read(expectation, wanted, html)
    except SourceError as error:
        return error.outcome


@pytest.mark.parametrize("expectation", READ, ids=lambda path: path.stem)
def test_a_page_that_lost_a_class_shows_no_other_pictures_and_accounts_than_before(expectation: Path) -> None:
    """A class tells who is shown. Without it a page may give less or be refused, but nothing of other people."""
    wanted = yaml.safe_load(expectation.read_text())
    html = expectation.with_suffix(".html").read_text()
    values = re.findall(r"class\s*=\s*[\"']([^\"']*)", html, re.I)
    for lost in sorted({name for value in values for name in value.split()}):
        changed = _in_attribute("class", _without_class(lost))(html)
        found = _read_or_refused(expectation, wanted, changed)
        if isinstance(found, dict):
            for field in ("images", "galleries", "links"):
                assert set(found.get(field, ())) <= set(wanted["fields"].get(field, ())), (lost, field)


def _without_class(lost: str) -> Callable[[str, str], str]:
    return lambda name, value: f'{name}="{" ".join(each for each in value.split() if each != lost)}"'


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_changes_pages(change: str) -> None:
    pages = [path.with_suffix(".html").read_text() for path in READ]
    assert sum(CHANGES[change](html) != html for html in pages) > 3


LOCALES = {
    "pornpics": lambda path: f"/de{path}",
    "freeones": lambda path: f"/de{path}",
}


@pytest.mark.parametrize(
    "expectation",
    [path for path in READ if path.stem.partition("-")[0] in LOCALES],
    ids=lambda path: path.stem,
)
def test_a_page_under_a_language_gives_the_same(expectation: Path) -> None:
    wanted = yaml.safe_load(expectation.read_text())
    parts = urlsplit(wanted["url"])
    moved = LOCALES[expectation.stem.partition("-")[0]](parts.path)
    page: Page = page_of(expectation, parts._replace(path=moved).geturl())
    assert read(page, wanted) == wanted["fields"]
