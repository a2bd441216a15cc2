"""The search by name at a wiki: namesakes, redirects, lists of names, and pages about other things."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from stash_sense_pipeline.foundation.errors import Outcome, SourceError
from stash_sense_pipeline.sources.reference_sites.page import Page
from stash_sense_pipeline.sources.reference_sites.registry import SITES
from stash_sense_pipeline.sources.reference_sites.site_address import Base
from stash_sense_pipeline.sources.reference_sites.sites.boobpedia import Boobpedia
from stash_sense_pipeline.sources.reference_sites.wiki.media_wiki import MediaWiki

WIKI = SITES["boobpedia"]


class Answers:
    """Pages of a wiki: the titles that its search shows, and its pages by title."""

    def __init__(self, hits: list[str], pages: list[Mapping[str, Any]], **query: Any) -> None:
        self.hits, self.pages, self.query = hits, pages, query
        self.asked: list[str] = []

    async def page(self, url: str, headers: Mapping[str, str] | None = None) -> Page:
        parameters = parse_qs(urlsplit(url).query)
        answer: dict[str, Any] = {"query": {"search": [{"title": title} for title in self.hits]}}
        if "titles" in parameters:
            self.asked = parameters["titles"][0].split("|")
            answer = {"query": {"pages": [dict(row) for row in self.pages], **self.query}}
        base = Base(WIKI.home, WIKI.home, WIKI.hosts)
        return Page(WIKI.name, url, json.dumps(answer).encode(), base, "application/json")

    def note_fields(self, page_type: str, fields: Mapping[str, bool]) -> None:
        pass

    def parsing(self) -> AbstractContextManager[None]:
        return nullcontext()


def person(number: int, title: str, *categories: str, **more: Any) -> dict[str, Any]:
    """A page, as the API describes it."""
    shown = [{"title": f"Category:{name}"} for name in categories or ("Models",)]
    return {"pageid": number, "ns": 0, "title": title, "categories": shown, **more}


def found(name: str, answers: Answers) -> list[str]:
    return [hit.key for hit in asyncio.run(WIKI.find(name, answers))]


def test_namesakes_with_a_note_after_the_name_are_several_hits():
    pages = [person(1, "Orla Quenby"), person(2, "Orla Quenby (dancer)"), {"title": "X", "missing": True}]
    answers = Answers(["Orla Quenby (dancer)", "Orla Quenby Jones", "ORLA QUENBY"], pages)
    assert found("Orla Quenby", answers) == ["orla_quenby", "orla_quenby_(dancer)"]
    assert answers.asked == ["Orla Quenby", "Orla Quenby (dancer)", "ORLA QUENBY"]


def test_an_alias_that_redirects_leads_to_the_article():
    answers = Answers(
        [], [person(1, "Orla Quenby")], redirects=[{"from": "Miss Q Sample", "to": "Orla Quenby"}]
    )
    assert found("Miss Q Sample", answers) == ["orla_quenby"]


def test_a_company_of_the_same_name_is_no_hit():
    pages = [person(1, "Orla Quenby", "Companies by country"), person(2, "Orla Quenby (model)")]
    assert found("Orla Quenby", Answers(["Orla Quenby (model)"], pages)) == ["orla_quenby_(model)"]


@pytest.mark.parametrize(
    "mark", [{"pageprops": {"disambiguation": ""}}, {"categories": [{"title": "Category:Disambiguation"}]}]
)
def test_a_list_of_namesakes_keeps_the_one_that_was_found_from_looking_unique(mark):
    pages = [{**person(1, "Orla Quenby"), **mark}, person(2, "Orla Quenby (model)")]
    assert len(found("Orla Quenby", Answers(["Orla Quenby (model)"], pages))) == 2


def test_a_name_that_no_title_can_have_is_not_asked_for():
    answers = Answers([], [person(1, "Orla")])
    assert found("Orla | Quenby", answers) == []
    assert answers.asked == []


def test_an_answer_without_end_is_refused():
    assert isinstance(WIKI, Boobpedia)

    class Endless(Answers):
        async def page(self, url: str, headers: Mapping[str, str] | None = None) -> Page:
            page = await super().page(url, headers)
            return Page(page.source, url, b'{"continue": {"x": "y"}}', page.base, "application/json")

    with pytest.raises(SourceError) as refused:
        asyncio.run(WIKI.wiki.ask_titles(["Orla Quenby"], Endless([], [])))
    assert refused.value.outcome is Outcome.PARSE_ERROR


def test_parts_of_a_continued_answer_are_joined():
    parts = [
        {"query": {"pages": [person(1, "Orla Quenby", "Brown eyes")]}, "continue": {"clcontinue": "1"}},
        {"query": {"pages": [{**person(1, "Orla Quenby", "Companies"), "revisions": [{"revid": 9}]}]}},
    ]

    class Parts(Answers):
        async def page(self, url: str, headers: Mapping[str, str] | None = None) -> Page:
            page = await super().page(url, headers)
            body = json.dumps(parts[int(parse_qs(urlsplit(url).query).get("clcontinue", ["0"])[0])])
            return Page(page.source, url, body.encode(), page.base, "application/json")

    wiki = MediaWiki("boobpedia", "https://www.boobpedia.com/wiki/api.php")
    (page,) = asyncio.run(wiki.ask_titles(["Orla Quenby"], Parts([], [])))
    assert (page.page_id, page.revision, page.is_person) == (1, "9", False)
