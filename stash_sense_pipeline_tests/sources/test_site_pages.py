"""Pages in site_pages/, each with what a right reader takes from it: one test reads them all.

`SITE-WHAT.html` (or `.json`) is the page, `SITE-WHAT.yaml` beside it the expectation:

    page: profile            # or gallery, search; a wiki also has article and titles
    url: https://...         # the page's address, after redirects
    asked: the-key           # profile and article: the key that was asked for
    of: {key: ..., name: ..} # gallery: the person that it belongs to
    fields: {name: ..}       # every field that the page gives; a field that is not here must be empty
    hits: {Some Name: [..]}  # search: the keys of the hits for a name
    outcome: not_found       # instead of fields: how the page is refused
    missed: h1#babename      # parse_error: the selector that the message must name
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from stash_sense_pipeline.foundation.errors import SourceError
from stash_sense_pipeline.records.profile_urls import parse_profile
from stash_sense_pipeline.sources.reference_sites.page import Page, fold
from stash_sense_pipeline.sources.reference_sites.page_site import PageSite
from stash_sense_pipeline.sources.reference_sites.registry import SITES
from stash_sense_pipeline.sources.reference_sites.site import Profile
from stash_sense_pipeline.sources.reference_sites.site_address import Base

PAGES = Path(__file__).parent / "site_pages"
EXPECTATIONS = sorted(PAGES.glob("*.yaml"))
# The fields of a profile that a page gives. Its key and its further addresses are checked where the expectation names them.
FIELDS = ("name", "aliases", "credited", "gender", "links", "images", "galleries")


def page_of(expectation: Path, url: str) -> Page:
    """The page beside an expectation."""
    site = SITES[expectation.stem.partition("-")[0]]
    path = next(path for path in PAGES.glob(f"{expectation.stem}.*") if path != expectation)
    content_type = "application/json" if path.suffix == ".json" else "text/html; charset=utf-8"
    return Page(site.name, url, path.read_bytes(), Base(site.home, site.home, site.hosts), content_type)


def fields_of(profile: Profile, asked: dict[str, Any]) -> dict[str, Any]:
    """The fields of a profile that are not empty, in the form of an expectation."""
    found = {
        name: getattr(profile, name) for name in (*FIELDS, *(name for name in asked if name not in FIELDS))
    }
    found["images"] = [image.url for image in profile.images]
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in found.items() if value
    }


def read(page: Page, wanted: dict[str, Any]) -> dict[str, Any]:
    """What the site reads from a page, as an expectation says it."""
    site: Any = SITES[page.source]
    kind = wanted["page"]
    if kind == "profile":
        return fields_of(site.read(page, wanted["asked"]), wanted.get("fields", {}))
    if kind == "article":
        answer = {"parse": {"title": wanted["title"], "pageid": 1, "text": page.text}}
        body = json.dumps(answer).encode()
        return fields_of(
            site.parse(Page(page.source, page.url, body, page.base), wanted["asked"]),
            wanted.get("fields", {}),
        )
    if kind == "titles":
        return {
            "people": [
                one.title for one in site.read_titles(page)[0] if one.page_id is not None and one.is_person
            ]
        }
    if kind == "search":
        return {"hits": [candidate.url for candidate in site.candidates(page)]}
    assert kind == "gallery"
    return {"images": [image.url for image in site.pictures(page, Profile(**wanted["of"]))]}


def hits_of(page: Page, name: str) -> list[str]:
    """The keys of the profiles that a search shows under a name."""
    site = SITES[page.source]
    assert isinstance(site, PageSite)
    keys = []
    for candidate in site.candidates(page):
        profile = parse_profile(candidate.url)
        if (
            profile is not None
            and profile.key.site == page.source
            and fold(name) in map(fold, candidate.names)
        ):
            keys.append(profile.key.key)
    return list(dict.fromkeys(keys))


@pytest.mark.parametrize("expectation", EXPECTATIONS, ids=lambda path: path.stem)
def test_a_page_gives_exactly_what_the_expectation_beside_it_says(expectation: Path) -> None:
    wanted = yaml.safe_load(expectation.read_text())
    if "hits" in wanted:
        page = page_of(expectation, wanted["url"])
        assert {name: hits_of(page, name) for name in wanted["hits"]} == wanted["hits"]
    elif "outcome" in wanted:
        with pytest.raises(SourceError) as refused:
            read(page_of(expectation, wanted["url"]), wanted)
        assert refused.value.outcome.value == wanted["outcome"]
        assert wanted.get("missed", "") in str(refused.value)
    else:
        assert read(page_of(expectation, wanted["url"]), wanted) == wanted["fields"]


@pytest.mark.parametrize("name", sorted(SITES))
def test_each_site_has_a_page_that_is_read_and_one_that_is_refused(name: str) -> None:
    wanted = [yaml.safe_load(path.read_text()) for path in EXPECTATIONS if path.stem.startswith(f"{name}-")]
    assert any(one["page"] in ("profile", "article") and "fields" in one for one in wanted)
    assert any("outcome" in one for one in wanted)
