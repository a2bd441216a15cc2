"""Whole pages of each site, read without a network: what is taken, and what must not be."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.foundation.errors import LayoutChangedError, Outcome, SourceError
from stash_sense_pipeline.records.profile_urls import parse_profile
from stash_sense_pipeline.sandbox.invented.pictures import Kind, Picture
from stash_sense_pipeline.sandbox.sites.model import CHALLENGE, SandboxSite, SitePage
from stash_sense_pipeline.sandbox.sites.site_pages import SHAPES
from stash_sense_pipeline.settings.known_sources import KNOWN_REFERENCE_SITES
from stash_sense_pipeline.sources.reference_sites.page import Page, fold
from stash_sense_pipeline.sources.reference_sites.registry import SITES
from stash_sense_pipeline.sources.reference_sites.site import Profile
from stash_sense_pipeline.sources.reference_sites.site_address import Base
from stash_sense_pipeline.sources.reference_sites.sites.boobpedia import Boobpedia, images_of

NAMES = tuple(shape.name for shape in SHAPES)
UUID = "0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0"
SLUGS = {"babepedia": "Example_Person", "boobpedia": "Example_Person", "iafd": UUID}
HTML_SITES = tuple(name for name in NAMES if name != "boobpedia")


def picture(seed: int, *people: int) -> Picture:
    kind = Kind.PORTRAIT if len(people) == 1 else Kind.GROUP
    return Picture(seed, kind, people, (True,) * len(people), (400, 500))


def filled(name: str, layout: str = "current") -> tuple[SandboxSite, SitePage]:
    """A site with one person's page, and another's that is related to it."""
    site = next(shape for shape in SHAPES if shape.name == name)()
    site.behaviour.layout = layout
    other = SitePage(
        slug="Sample_Other" if name in ("babepedia", "boobpedia") else "sample-other",
        key="",
        person=2,
        name="Sample Other",
        portrait=picture(20, 2),
        set_pictures=(picture(21, 2), picture(22, 2)),
        number=777,
    )
    site.add(other)
    page = SitePage(
        slug=SLUGS.get(name, "example-person"),
        key="",
        person=1,
        name="Example Person",
        aliases=("Ann-Marie Sample", "Exa"),
        legal_name="Nobody Legalname",
        biography="Has said things about herself.",
        links=("https://www.instagram.com/example_person_x/", "https://onlyfans.com/example_person_x"),
        portrait=picture(10, 1),
        set_pictures=(picture(11, 1), picture(12, 1), picture(13, 1), picture(14, 1)),
        couple=picture(15, 1, 2),
        related=(other.slug,),
        number=0 if name == "indexxx" else 12345,
        japanese="見本 例子",
    )
    site.add(page)
    return site, page


def page_of(site: SandboxSite, text: str | bytes, url: str, **options: object) -> Page:
    real = str(KNOWN_REFERENCE_SITES[site.name]["url"])
    base = Base(real, real, SITES[site.name].hosts)
    body = text if isinstance(text, bytes) else text.encode()
    return Page(source=site.name, url=url, body=body, base=base, **options)


def read(name: str, layout: str = "current") -> tuple[SandboxSite, Profile]:
    """The profile that a whole page and its galleries give."""
    site, page = filled(name, layout)
    reader, url = SITES[name], site.url(page)
    found = parse_profile(url)
    assert found is not None
    profile = reader.read(page_of(site, site.profile(page), url), found.key.key)
    images = list(profile.images)
    for gallery in profile.galleries[: reader.galleries]:
        path = gallery.removeprefix(site.home)
        reply = site.respond(path, {}, {"ageVerified": "true"})
        assert reply is not None, gallery
        images += reader.pictures(page_of(site, reply.body, gallery), profile)
    return site, Profile(**{**vars(profile), "images": tuple(images)})


@pytest.mark.parametrize("layout", ["current", "previous"])
@pytest.mark.parametrize("name", HTML_SITES)
def test_a_profile_page_gives_the_name_and_the_pictures_of_this_person_alone(name, layout):
    site, profile = read(name, layout)
    assert profile.name == "Example Person"

    shown = [site.files.get(unquote(urlsplit(image.url).path)) for image in profile.images]
    assert None not in shown
    assert {each.people for each in shown if each is not None} == {(1,)}
    # The portrait, and on sites with sets the set of one person.
    expected = {
        "babepedia": 5,
        "iafd": 1,
        "freeones": 5,
        "thenude": 5,
        "afdb": 5,
        "pornpics": 5,
        "elitebabes": 5,
    }
    assert len(profile.images) == expected.get(name, 1)
    said = repr(profile)
    assert "Legalname" not in said
    assert "Has said" not in said
    assert "Quib or" not in said


ALIASES = {
    "babepedia": ("Ann-Marie Sample", "Exa"),
    "freeones": ("Ann-Marie Sample", "Exa"),
    "thenude": ("Ann-Marie Sample", "Exa"),
    "afdb": ("Ann-Marie Sample", "Exa"),
    "elitebabes": ("Ann-Marie Sample", "Exa"),
    "javdatabase": ("見本 例子", "Ann-Marie Sample", "Exa"),
    "iafd": ("Exa",),
}
CREDITED = {"iafd": ("Ann-Marie Sample",), "indexxx": ("Ann-Marie Sample", "Exa")}


@pytest.mark.parametrize("layout", ["current", "previous"])
@pytest.mark.parametrize("name", HTML_SITES)
def test_a_profile_page_gives_aliases_credited_names_links_and_gender(name, layout):
    _, profile = read(name, layout)
    assert profile.aliases == ALIASES.get(name, ())
    assert profile.credited == CREDITED.get(name, ())
    hubs = ("babepedia", "iafd", "freeones", "thenude", "indexxx")
    links = {"https://www.instagram.com/example_person_x/", "https://onlyfans.com/example_person_x"}
    if name in hubs:
        assert set(profile.links) == links
    observed = {"iafd": "FEMALE", "freeones": "FEMALE", "thenude": "FEMALE"}
    # A site that lists women only says nothing about a single person.
    assert profile.gender == observed.get(name)


def test_signed_image_addresses_of_freeones_are_kept_unchanged():
    _, profile = read("freeones")
    assert all("sig=" in image.url.replace("%3D", "=") for image in profile.images)
    assert all("?c" not in image.url for image in profile.images)
    assert {(image.width, image.height) for image in profile.images[1:]} == {(400, 500)}


@pytest.mark.parametrize("name", HTML_SITES)
def test_a_page_without_its_selector_is_a_layout_mismatch_and_not_a_missing_profile(name):
    site, page = filled(name, "new")
    found = parse_profile(site.url(page))
    assert found is not None
    with pytest.raises(LayoutChangedError) as caught:
        SITES[name].read(page_of(site, site.profile(page), site.url(page)), found.key.key)
    assert caught.value.outcome is Outcome.PARSE_ERROR
    assert "Example" not in str(caught.value)


@pytest.mark.parametrize("name", HTML_SITES)
def test_a_challenge_that_a_browser_rendered_is_blocked(name):
    site, page = filled(name)
    found = parse_profile(site.url(page))
    assert found is not None
    for rendered, expected in ((True, Outcome.BLOCKED), (False, Outcome.PARSE_ERROR)):
        with pytest.raises(SourceError) as caught:
            SITES[name].read(page_of(site, CHALLENGE, site.url(page), rendered=rendered), found.key.key)
        assert caught.value.outcome is expected


@pytest.mark.parametrize("name", [name for name in HTML_SITES if name != "javdatabase"])
def test_a_page_that_leads_to_another_profile_or_to_none_gives_no_profile(name):
    site, page = filled(name)
    found = parse_profile(site.url(page))
    assert found is not None
    html = site.profile(page)
    for url, expected in ((f"{site.home}/", Outcome.NOT_FOUND), (site.url(page), Outcome.AMBIGUOUS)):
        asked = found.key.key if expected is Outcome.NOT_FOUND else "another-key"
        with pytest.raises(SourceError) as caught:
            SITES[name].read(page_of(site, html, url), asked)
        assert caught.value.outcome is expected


def test_the_words_not_found_in_a_profile_page_do_not_make_it_missing():
    """Every page of the sandbox says "404" and "Not found" somewhere."""
    site, page = filled("babepedia")
    assert "404" in site.profile(page)
    assert not SITES["babepedia"].is_missing(page_of(site, site.profile(page), site.url(page)))
    gone = site.not_there()
    assert SITES["babepedia"].is_missing(page_of(site, gone.body, site.url(page)))


def test_the_wikis_answers_give_pages_redirects_and_images():
    site, page = filled("boobpedia")
    reader = SITES["boobpedia"]
    assert isinstance(reader, Boobpedia)
    wiki = reader.wiki
    site.moved["Exa"] = page.slug

    def answer(url: str) -> Page:

        reply = site.respond("/wiki/api.php", dict(parse_qsl(urlsplit(url).query)), {})
        assert reply is not None
        return page_of(site, reply.body, url, content_type="application/json")

    pages, more = reader.read_titles(answer(wiki.titles(["example Person", "Exa", "Nobody Here"], {})))
    assert more == {}
    known = {each.title: each for each in pages}
    assert known["Nobody Here"].page_id is None
    article = known["Example Person"]
    assert article.page_id == page.number
    profile = reader.parse(answer(wiki.article(page.number)), "example_person")
    assert (profile.name, profile.aliases) == ("Example Person", ("Ann-Marie Sample", "Exa"))
    assert profile.galleries == ("Example Person silicone logotype.jpg",)
    files = wiki.read_files(answer(wiki.files(profile.galleries)))
    assert [image.width for image in images_of(profile, files)] == [400]
    assert "Legalname" not in repr(profile)
    with pytest.raises(SourceError) as caught:
        reader.read_titles(page_of(site, b'{"error": {"code": "maxlag"}}', "https://x.example/"))
    assert caught.value.outcome is Outcome.RATE_LIMITED
    site.behaviour.layout = "new"
    with pytest.raises(LayoutChangedError):
        reader.parse(answer(wiki.article(page.number)), "example_person")


@pytest.mark.parametrize("name", [name for name in HTML_SITES if SITES[name].by_name])
def test_a_search_page_gives_its_hits_with_names_and_addresses(name):

    site, page = filled(name)
    parts = urlsplit(SITES[name].search("Example Person"))
    reply = site.respond(parts.path, dict(parse_qsl(parts.query)), {"ageVerified": "true"})
    assert reply is not None
    candidates = SITES[name].candidates(page_of(site, reply.body, parts.geturl()))
    assert "Example Person" in [shown for candidate in candidates for shown in candidate.names]
    addresses = [
        parse_profile(candidate.url) for candidate in candidates if "Example Person" in candidate.names
    ]
    assert {found.key.site for found in addresses if found is not None} == {name}
    assert page.slug in SITES[name].search("x") or addresses


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        ("Zoë", "text/html; charset=utf-8", "Zoë"),
        ("Zoë".encode("cp1252"), "text/html; charset=iso-8859-1", "Zoë"),
        # Says Latin-1, is UTF-8.
        ("Zoë", "text/html; charset=ISO-8859-1", "Zoë"),
        ("<meta charset='shift_jis'>見本".encode("shift_jis"), "text/html", "<meta charset='shift_jis'>見本"),
        ("Zoë", "text/html; charset=no-such-thing", "Zoë"),
        # Names of codecs that read no page.
        ("Zoë", "text/html; charset=undefined", "Zoë"),
        ("Zoë", "text/html; charset=base64", "Zoë"),
        ("Zoë..", "text/html; charset=idna", "Zoë.."),
        ("Zoë".encode("cp1252"), "text/html; charset=utf-8", None),
    ],
)
def test_a_page_is_decoded_by_its_declared_charset_or_as_utf_8(body, content_type, expected):
    site, page = filled("babepedia")
    read_page = page_of(site, body, site.url(page), content_type=content_type)
    if expected is None:
        with pytest.raises(SourceError):
            _ = read_page.text
    else:
        assert read_page.text == expected


@pytest.mark.slow
@given(st.binary(max_size=400))
def test_bytes_that_are_no_profile_give_a_source_error(body):
    for name in ("babepedia", "afdb", "javdatabase", "pornpics", "thenude"):
        site, page = filled(name)
        found = parse_profile(site.url(page))
        assert found is not None
        with pytest.raises(SourceError):
            SITES[name].read(page_of(site, body, site.url(page)), found.key.key)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Zöe SAMPLE", "zoe sample"), ("O’Test", "o'test"), ("Ann-Marie  X", "ann marie x"), ("ＡＢ", "ab")],
)
def test_folding_ignores_case_accents_apostrophes_and_hyphens(one, other):
    assert fold(one) == fold(other)


def test_a_configured_address_replaces_all_hosts_of_the_site():
    base = Base("https://www.thenude.com", "http://127.0.0.1:9000/nude", ("thenude.com", "thenude.eu"))
    assert (
        base.fetchable("https://static.thenude.com/models/a.jpg?x=1")
        == "http://127.0.0.1:9000/nude/models/a.jpg?x=1"
    )
    assert base.fetchable("https://www.thenude.com/_1.htm") == "http://127.0.0.1:9000/nude/_1.htm"
    assert base.public("http://127.0.0.1:9000/nude/_1.htm") == "https://www.thenude.com/_1.htm"
    assert (
        base.fetchable("https://thenude.com.evil.example/a.jpg") == "https://thenude.com.evil.example/a.jpg"
    )
    assert not base.may_have_images("https://thenude.com.evil.example/a.jpg")
    assert base.may_have_images("http://127.0.0.1:9001/a.jpg")
    own = Base("https://www.thenude.com", "https://www.thenude.com", ("thenude.com",))
    assert own.fetchable("https://static.thenude.com/a.jpg") == "https://static.thenude.com/a.jpg"
