"""The elements of pages: what Beautiful Soup is asked for, and pages that are broken or hostile."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.foundation.errors import LayoutChangedError, Outcome, SourceError
from stash_sense_pipeline.sources.reference_sites.page import Page
from stash_sense_pipeline.sources.reference_sites.page_elements import Document, Element, srcset
from stash_sense_pipeline.sources.reference_sites.site_address import Base

BASE = Base("https://a.example", "https://a.example", ("a.example",))


def page(html: str | bytes, **options: object) -> Page:
    body = html if isinstance(html, bytes) else html.encode()
    return Page("a", "https://a.example/people/x/", body, BASE, **options)


def element(html: str, selector: str) -> Element:
    found = page(html).root.first(selector)
    assert found is not None
    return found


def test_texts_leave_out_comments_scripts_and_styles():
    html = "<div>One <!-- no --><b>two</b><script>no</script><style>no</style>&nbsp;three</div>"
    assert element(html, "div").text == "One two three"
    assert element(html, "div").own_text == "One three"


@pytest.mark.parametrize(
    ("html", "lines"),
    [
        ("a<br>b<BR/> c ", ["a", "b", "c"]),
        ("<p>a</p><p>b <i>c</i></p>d", ["a", "b c", "d"]),
        ("<ul><li>a</li><li><br></li></ul>b<br><br>c", ["a", "b", "c"]),
        ("a <b>b</b> c", ["a b c"]),
        (" <br> ", []),
    ],
)
def test_lines_end_at_breaks_and_blocks(html, lines):
    assert element(f"<div>{html}</div>", "div").lines == lines


@pytest.mark.parametrize(
    ("attributes", "image", "widest"),
    [
        ('src="/a.jpg"', "/a.jpg", "/a.jpg"),
        ('src="/1px.gif" data-src="/b.jpg"', "/b.jpg", "/b.jpg"),
        ('src="data:image/gif;base64,AA" data-original="../b.jpg"', "/people/b.jpg", "/people/b.jpg"),
        ('src="/a.jpg" srcset="/s.jpg 200w, /l.jpg 800w,/m.jpg 400w"', "/a.jpg", "/l.jpg"),
        ('src="/a.jpg" data-srcset="/x.jpg 1x, /y,z.jpg 2x"', "/a.jpg", "/y,z.jpg"),
        ('data-src=""', "", ""),
        ("", "", ""),
    ],
)
def test_an_image_is_its_lazy_address_and_the_widest_of_its_srcset(attributes, image, widest):
    found = element(f"<img {attributes}>", "img")
    assert (found.image, found.widest_image) == tuple(
        url and f"https://a.example{url}" for url in (image, widest)
    )


@given(st.text(alphabet="ab,. wx019/", max_size=60))
def test_any_srcset_gives_addresses_without_blanks(text):
    for address, size in srcset(text):
        assert address
        assert " " not in address
        assert size >= 0


def test_links_are_absolute_and_empty_or_foreign_schemes_are_none():
    html = "<p><a href='x'>1</a><a href=' //b.example/y '>2</a><a href=''>3</a><a>4</a><a href='javascript:x'>5</a></p>"
    assert element(html, "p").links("a") == ["https://a.example/people/x/x", "https://b.example/y"]


def test_relative_addresses_are_relative_to_the_base_of_a_page():
    html = "<head><base href='/old/'></head><a href='x'>1</a><a href='/y'>2</a><img src='../z.jpg'>"
    assert page(html).root.links("a") == ["https://a.example/old/x", "https://a.example/y"]
    assert page(html).root.images("img") == ["https://a.example/z.jpg"]


def test_the_value_of_a_label_ends_at_the_next_label():
    html = "<p><b>JP:</b> one <br>two <i>three</i><a href='/l'>l</a> <b>Alt:</b> four</p>"
    value = element(html, "b").after("b")
    assert (value.lines, value.links()) == (["one", "two three l"], ["https://a.example/l"])


@pytest.mark.parametrize(
    "selector",
    [
        "h1",
        ".a",
        "#one",
        "div.a > a.b",
        "a[href*='/x']",
        "[data-x]",
        "li:not(.a)",
        ".b, h1, #one",
        "DIV .a",
        "p *",
    ],
)
def test_a_selector_finds_what_beautiful_soup_finds_in_the_order_of_the_page(selector):
    html = (
        "<h1 class='a'>t</h1><div class='a c' id=one><a class='b a' href='/x1'>1</a><p>"
        "<a href='/y' class=b title='x, y'>2</a></p></div>"
        "<ul><li class=a data-x=1>3</li><li>4</li></ul><div id=one><span class='a'>5</span></div>"
    )
    document = Document(html, str)
    assert document.select(selector) == document.soup.select(selector)
    assert document.select(selector)


def test_names_of_elements_and_attributes_in_capitals_and_classes_among_others_are_found():
    html = "<DIV CLASS='x Box y' ID=One><A HREF='/l'>t</A></DIV>"
    assert element(html, "div.Box#One a[href]").text == "t"


@pytest.mark.slow
@pytest.mark.parametrize(
    "html",
    [
        "<div>" * 100_000,
        "<b>x" * 100_000,
        "<div>" * 900 + "x<b>x</b><!-- -->" * 200_000,
        "<p>x</p>" * 200_000,
    ],
    ids=["nested", "unclosed", "wide and deep", "long"],
)
def test_a_page_that_is_too_complex_is_a_parse_error_within_seconds(html):
    started = time.process_time()
    with pytest.raises(SourceError) as refused:
        _ = page(html).root
    assert refused.value.outcome is Outcome.PARSE_ERROR
    assert not isinstance(refused.value, LayoutChangedError)
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    "html",
    [
        "<h1>n\0ame</h1>",
        f"<h1>name</h1><a href='{'x' * 3_000_000}'>l</a>",
        f"<h1 class='{'a ' * 100_000}'>name</h1>",
        "<h1>name<p><table><tr><div></table></p></span>",
        "<?xml version='1.0'?><h1>name</h1>",
        "<div>" * 300 + "<h1>name</h1>",
        "<h1>name</h1><![CDATA[ x ]]><!-- ",
    ],
    ids=["nul", "huge attribute", "many classes", "broken", "xml", "deep", "open comment"],
)
def test_broken_and_odd_pages_are_read(html):
    assert page(html).root.text_of("h1") == "name"


@pytest.mark.parametrize("text", ["", " ", "https://a.example/x", "name.html", "{}", "\0"])
def test_a_page_without_elements_is_empty(text):
    read = page(text).root
    assert (read.text, read.select("p"), read.links("a")) == ("", [], [])


@pytest.mark.slow
@given(st.text(max_size=300))
def test_any_text_is_a_page(text):
    root = page(f"<p>{text}").root
    assert root.text_of("p").split() == root.text_of("p").split(" ") or not root.text_of("p")
    assert all(root.lines)
    assert root.links("a") == root.images("img") == []


def test_a_missing_selector_is_named_and_the_newest_of_several_layouts_is_taken():
    read = page("<h2 class=old>x</h2><h3 class=older>y</h3>")
    assert [found.text for found in read.need_one("h1.new", "h2.old", "h3.older")] == ["x"]
    with pytest.raises(LayoutChangedError, match=r"no h1\.new or h1\.newer: the layout changed"):
        read.need_one("h1.new", "h1.newer")
