"""Records: cleaning, partial dates, times, and a hash that changes with content only."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.privacy.intake.adults import is_adult
from stash_sense_pipeline.records.performer_record import ImageRecord, PerformerRecord, unique_images
from stash_sense_pipeline.sources.cleaning.dates import birth_date, instant, partial_date
from stash_sense_pipeline.sources.cleaning.text import clean_text, clean_texts, enumeration

TEXTS = st.text(max_size=12)
IMAGES = st.builds(ImageRecord, TEXTS, TEXTS, st.none() | st.integers(1, 9))
RAW = st.dictionaries(TEXTS, st.lists(st.integers() | TEXTS, max_size=4), max_size=3)
RECORDS = st.builds(
    PerformerRecord,
    source_id=TEXTS,
    name=TEXTS,
    aliases=st.lists(TEXTS, max_size=5).map(tuple),
    urls=st.lists(TEXTS, max_size=5).map(tuple),
    images=st.lists(IMAGES, max_size=5).map(tuple),
    raw=RAW,
)


@pytest.mark.slow
@given(record=RECORDS, random=st.randoms(use_true_random=False))
def test_the_content_hash_ignores_order_times_and_image_addresses(record, random):
    def shuffled(items):
        return tuple(random.sample(items, len(items)))

    other = replace(
        record,
        aliases=shuffled(record.aliases) + record.aliases[:1],
        urls=shuffled(record.urls),
        images=shuffled([replace(image, url=f"https://elsewhere/{image.url}") for image in record.images]),
        raw={key: list(shuffled(value)) for key, value in shuffled(list(record.raw.items()))},
        updated_at=datetime(2026, 1, 1, tzinfo=UTC),
        created_at=datetime(2020, 1, 1, tzinfo=UTC),
        merged_ids=("another",),
    )
    assert other.content_hash == record.content_hash


@pytest.mark.parametrize(
    "change",
    [
        {"name": "B"},
        {"disambiguation": "the other"},
        {"aliases": ("a", "b")},
        {"gender": "MALE"},
        {"birth_date": "1990"},
        {"height_cm": 170},
        {"career_end_year": 2020},
        {"urls": ("https://a.example",)},
        {"images": (ImageRecord("2", "u"),)},
        {"raw": {"tattoos": ["arm"]}},
    ],
)
def test_the_content_hash_changes_with_each_field(change):
    record = PerformerRecord("1", "A", aliases=("a",), images=(ImageRecord("1", "u"),))
    assert replace(record, **change).content_hash != record.content_hash


def test_the_content_hash_distinguishes_career_start_and_end():
    first = PerformerRecord("1", "A", career_start_year=2001)
    assert first.content_hash != PerformerRecord("1", "A", career_end_year=2001).content_hash


@given(TEXTS)
def test_clean_text_is_idempotent_storable_and_keeps_visible_characters(text):
    cleaned = clean_text(text)
    assert clean_text(cleaned) == cleaned
    assert unicodedata.is_normalized("NFC", cleaned)
    assert "\0" not in cleaned
    assert cleaned == cleaned.strip()
    cleaned.encode()


def test_clean_text_removes_what_postgres_cannot_store():
    assert clean_text("  A\x00nn \t\n Le\u0301a\ud800 ") == "Ann Léa"


def test_clean_texts_drops_empty_ones_and_repetitions():
    assert clean_texts(["B ", " A", "", "B", "  "]) == ("B", "A")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1990", "1990"),
        ("1990-05", "1990-05"),
        ("1990-05-17", "1990-05-17"),
        ("1990-05-17 00:00:00", "1990-05-17"),
        ("1990-05-17T00:00:00.000000Z", "1990-05-17"),
        ("1990-00-00", "1990"),
        ("1990-05-00", "1990-05"),
        ("1990-13-01", "1990"),
        ("1990-02-30", "1990-02"),
        ("1992-02-29", "1992-02-29"),
        ("0000-00-00", None),
        ("unknown", None),
        ("", None),
        (None, None),
    ],
)
def test_a_partial_date_is_reduced_to_its_known_parts(text, expected):
    assert partial_date(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1990-05-17T00:00:00Z", "1990-05-17"),
        ("0000-00-00", None),
        (" ", None),
        (None, None),
        ("2010/05/17", "2010/05/17"),
        ("May 2010", "May 2010"),
        ("20100517", "20100517"),
    ],
)
def test_a_birth_date_that_cannot_be_read_is_not_taken_for_an_unknown_one(text, expected):
    assert birth_date(text) == expected
    assert is_adult(birth_date(text), None, date(2026, 11, 21)) == (expected in (None, "1990-05-17"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-01-02T03:04:05Z", datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2024-01-02T03:04:05.5Z", datetime(2024, 1, 2, 3, 4, 5, 500_000, tzinfo=UTC)),
        ("2024-01-02T03:04:05.123456789Z", datetime(2024, 1, 2, 3, 4, 5, 123_456, tzinfo=UTC)),
        ("2024-01-02T03:04:05+02:00", datetime(2024, 1, 2, 1, 4, 5, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", None),
    ],
)
def test_rfc_3339_times_are_read_as_utc(text, expected):
    assert instant(text) == expected


def test_a_text_that_is_not_a_time_is_refused():
    with pytest.raises(ValueError, match="nine"):
        instant("half past nine")


def test_enumerations_get_the_notation_of_stash_box():
    assert enumeration("Middle Eastern") == "MIDDLE_EASTERN"
    assert enumeration("non-binary") == "NON_BINARY"
    assert enumeration(" ") is None


def test_images_with_the_same_id_are_kept_once():
    first, second = ImageRecord("1", "a"), ImageRecord("2", "b")
    assert unique_images([first, second, ImageRecord("1", "c")]) == (first, second)
