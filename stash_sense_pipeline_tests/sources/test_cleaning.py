"""Cleaning of fields: zero dates, addresses, ids, numbers, and values that are not JSON."""

from __future__ import annotations

import json
from collections import Counter
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.privacy.intake.adults import why_no_adult
from stash_sense_pipeline.sources.cleaning.addresses import address, link
from stash_sense_pipeline.sources.cleaning.dates import birth_date, death_date
from stash_sense_pipeline.sources.cleaning.ids import MAX_ID_BYTES, record_id
from stash_sense_pipeline.sources.cleaning.numbers import whole, year
from stash_sense_pipeline.sources.cleaning.raw_values import clean_raw
from stash_sense_pipeline.sources.cleaning.text import MAX_TEXT_BYTES, text
from stash_sense_pipeline.sources.http.response import Response
from stash_sense_pipeline.sources.json_fields import FieldError

TODAY = date(2026, 11, 21)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
)


@pytest.mark.parametrize(
    "stated",
    [
        *(
            "0000-00-00",
            "0000-00-00 00:00:00",
            "0000-00-00T00:00:00.000000Z",
            "0000",
            "0000-05-17",
            "00/00/0000",
        ),
        *(
            "-0001-11-30",
            "-0001-11-30 00:00:00",
            "-000001-11-30T00:00:00.000000Z",
            "-0001-11-29T23:17:32-00:42",
        ),
        *(
            "-1-11-30",
            "-0001",
            "November 30, -0001",
            "Nov 30, -0001",
            "30/11/-0001",
            "30.11.-0001",
            "11/30/-0001",
        ),
        *("0001-01-01", "0001-01-01T00:00:00Z", "0001-01-01 00:00:00", "1/1/0001 12:00:00 AM", "01/01/0001"),
        *("01-01-0001", "January 1, 0001", "1 Jan 0001", "Mon, 01 Jan 0001 00:00:00 GMT"),
        "Sun, 30 Nov -0001 00:00:00 +0000",
        *(
            "1000-01-01",
            "1753-01-01",
            "9999-12-31",
            "9999-12-31 23:59:59",
            "0",
            "-62169984000",
            "-62135596800000",
        ),
        *("unknown", "Unknown", "N/A", "null", "NaN", "Invalid Date", "-", "?", "", "  ", "\u200b"),
        *(None, 0, 0.0, False, True, [], {}, -62169984000),
    ],
)
def test_a_zero_date_is_unknown_and_does_not_mean_under_18(stated):
    assert birth_date(stated) is None
    assert death_date(stated) is None
    assert why_no_adult(birth_date(stated), None, TODAY) is None


@pytest.mark.parametrize(
    "stated",
    [
        *(
            "May 2010",
            "2010/05/17",
            "20100517",
            "17.05.2010",
            "0010-05-17",
            "00-05-17",
            "-2010-05-17",
            "201-05-17",
        ),
        *("0001-05-03", ["2010-05-17"], {"date": "2010-05-17"}, 642902400, float("nan"), "x" * 3000),
    ],
)
def test_an_unreadable_birth_date_withholds_the_record_and_an_unreadable_death_date_is_dropped(stated):
    known = birth_date(stated)
    assert known is not None
    assert why_no_adult(known, None, TODAY) == "unreadable_date"
    assert death_date(stated) is None


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("1970-01-01", "1970-01-01"),
        ("１９９０-０５-０５", "1990-05-05"),
        (" 1990-05-05\n", "1990-05-05"),
        (1990, "1990"),
        (1990.0, "1990"),
        ("2010-05-17", "2010-05-17"),
    ],
)
def test_a_date_in_a_known_notation_becomes_iso_8601(stated, expected):
    assert birth_date(stated) == expected
    assert death_date(stated) == expected


@pytest.mark.parametrize("start", [0, -1, 1, 201, 10**10])
def test_an_invalid_career_start_is_unknown_and_does_not_mean_under_18(start):
    assert year(start) is None
    assert why_no_adult("1990-05-05", start, TODAY) is None
    assert why_no_adult("1990-05-05", 2001, TODAY) == "started_under_18"


@pytest.mark.parametrize(
    "stated",
    [
        *(
            "https://cdn.example/a/b.jpg?x=1#y",
            "http://127.0.0.1:8080/images/1",
            "https://a-.tumblr.com/",
            "http://[::1]/a",
        ),
        *("https://bücher.example/é b.jpg", "HTTPS://A.EXAMPLE/x", "https://xn--bcher-kva.example/1"),
    ],
)
def test_a_valid_address_is_not_changed(stated):
    assert address(stated) == stated


@pytest.mark.parametrize(
    "stated",
    [
        *(
            "https://cdn..example/1",
            "https://.example/1",
            "https:///1",
            "https://",
            "http://[::1",
            "https://xn--a/1",
        ),
        *(
            "https://a.example:99999/",
            "https://a.example/\0",
            "https://a.example/\ud800",
            "https://a\n.example/",
        ),
        *(
            "javascript:alert(1)",
            "ftp://a.example/1",
            "data:image/png;base64,AA",
            "www.example.com/1",
            "/1.jpg",
        ),
        *(
            "https://" + "a" * 64 + ".example/1",
            "https://" + "a." * 200 + "example/",
            "https://u:p@a.example/1",
        ),
        *(
            "https://a.example/" + "x" * MAX_TEXT_BYTES,
            "https://a.example/" + "é" * 1000,
            "",
            None,
            5,
            ["https://a.example"],
        ),
    ],
)
def test_an_invalid_address_is_cleaned_to_none(stated):
    assert address(stated) is None


def test_a_link_without_a_scheme_is_valid_and_other_incomplete_links_are_not():
    assert link("www.example.com/ann") == "www.example.com/ann"
    assert link("//example.com:8080/ann") == "//example.com:8080/ann"
    for stated in (
        "mailto:ann@example.com",
        "@ann",
        "ann",
        "javascript:x.y",
        "a..example/1",
        "www.example.com/\0",
        None,
    ):
        assert link(stated) is None


@pytest.mark.parametrize(
    "stated",
    [
        "",
        " ",
        "a b",
        "a\nb",
        "a/b",
        'a"b',
        "a<b",
        "a>b",
        "a\0",
        "\ud800",
        "..",
        "\u200b",
        "x" * (MAX_ID_BYTES + 1),
        None,
        5,
        True,
        [],
    ],
)
def test_an_id_that_cannot_be_part_of_a_release_is_refused(stated):
    with pytest.raises(FieldError, match=r"^its id (is|holds) "):
        record_id(stated)


@pytest.mark.slow
@given(st.text(st.characters()) | st.integers() | st.floats() | st.booleans() | st.none())
def test_a_text_can_be_stored_in_both_databases(value):
    cleaned = text(value)
    if cleaned is not None:
        assert cleaned == text(cleaned)
        assert cleaned.strip()
        assert len(cleaned.encode()) <= MAX_TEXT_BYTES
        assert "\0" not in cleaned


@pytest.mark.slow
@given(st.dictionaries(st.text(st.characters()), VALUES, max_size=4))
def test_raw_values_can_be_stored_as_json_in_both_databases(value):
    left_out: Counter[str] = Counter()
    written = json.dumps(clean_raw(value, left_out), allow_nan=False, ensure_ascii=False)
    assert "\0" not in written
    assert "\\u0000" not in written
    written.encode()
    assert 0 not in left_out.values()


def test_values_that_are_nested_too_deep_are_left_out_and_counted():
    value: object = "x"
    for _ in range(900):
        value = [value]
    left_out: Counter[str] = Counter()
    assert "x" not in json.dumps(clean_raw({"deep": value, "plain": 1}, left_out))
    assert left_out == {"deep": 1}


@pytest.mark.parametrize(
    ("value", "expected"), [("170", 170), (170.0, 170), (10**400, None), ("1" * 5000, None), (True, None)]
)
def test_a_whole_number_is_read_from_int_text_or_float(value, expected):
    assert whole(value, 1, 300) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"a": "Andr\xe9", "b": 1}', {"a": "Andr\udce9", "b": 1}),
        (b'{"a": "x\x00y", "b": 1}', {"a": "x\0y", "b": 1}),
        (b'{"a": ' + b"1" * 5000 + b', "b": 1}', {"a": float("inf"), "b": 1}),
    ],
)
def test_one_invalid_value_in_json_does_not_cost_the_others(content, expected):
    assert Response("https://a.example", 200, {}, content, "a").json() == expected
