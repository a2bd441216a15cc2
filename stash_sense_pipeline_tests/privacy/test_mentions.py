"""A name is found in every form in which a message, a quoted message or a URL writes it."""

from __future__ import annotations

import html
import json
import unicodedata
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.privacy.redaction.mentions import mentions

NAMES = (
    "Lomeir Ploswux",
    "Br\u00e2nyom O'Gweilo\u00f8n",
    "\u041d\u044d\u0437\u0442\u0440\u0443 \u041c\u0443\u0440",
    "\U00020bb7\u91ce \u8449",
    'Ann-Lou "A" Bell',
)

FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in capitals": str.upper,
    "decomposed": lambda name: unicodedata.normalize("NFD", name),
    "JSON": lambda name: json.dumps(name)[1:-1],
    "HTML": html.escape,
    "numbers of HTML": lambda name: "".join(f"&#x{ord(each):x};" for each in name),
    "a path": quote,
    "a query": quote_plus,
    "bytes of Python": lambda name: "".join(f"\\x{byte:02x}" for byte in name.encode()),
    "text of Python": ascii,
    "old JavaScript": lambda name: "".join(
        f"%u{ord(each):04X}" if ord(each) < 0x10000 else each for each in name
    ),
    "the page of an encyclopedia": lambda name: name.replace(" ", "_"),
    "the end of an address": lambda name: name.replace(" ", "-").lower(),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", FORMS)
def test_a_name_in_any_form_is_found(name: str, form: str) -> None:
    assert mentions([name])(f"2026-11-28 10:00:00 - no answer for {FORMS[form](name)}: 404")


@given(
    st.sampled_from(NAMES),
    st.lists(st.sampled_from(["JSON", "HTML", "a path", "text of Python"]), min_size=2, max_size=3),
)
def test_a_name_that_was_escaped_several_times_is_found(name: str, forms: list[str]) -> None:
    text = name
    for form in forms:
        text = FORMS[form](text)
    assert mentions([name])(f"error: ({text})")


@pytest.mark.parametrize(
    "line",
    [
        "Lomeira Ploswux",
        "Lomeir and Ploswux",
        "xLomeir_Ploswux",
        "1 2 of 3",
        "ab%00 \\u0000 \\Uffffffff \\UFFFFFFFF \\x %u %uZZZZ &#x110000; \\",
    ],
)
def test_a_line_about_something_else_is_not_found(line: str) -> None:
    assert not mentions(["Lomeir Ploswux", "1-2", "boxa:ab-cd"])(line)
