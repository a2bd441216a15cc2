"""Parsing a record once: how often the intake parses each URL, and what it computes from the parsed pages."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.privacy.erasure import erase_suppressed
from stash_sense_pipeline.privacy.intake.parsed_record import ParsedRecord
from stash_sense_pipeline.privacy.intake.record_evidence import RecordEvidence
from stash_sense_pipeline.privacy.suppression.suppression_hashes import URL, url_digests
from stash_sense_pipeline.privacy.suppression.suppression_list import load_suppressions
from stash_sense_pipeline.privacy.url_forms import parse_url
from stash_sense_pipeline.records import profile_urls
from stash_sense_pipeline.records.performer_record import PerformerRecord
from stash_sense_pipeline_tests.privacy.test_withholding import ANNA, KEY, NOW, store, suppress, withholding

SHARED = "https://www.instagram.com/zqanna"
URLS = (
    SHARED,
    "https://www.iafd.com/person.rme/perfid=zqanna/gender=f/zq-anna.htm",
    "https://stashdb.org/performers/11111111-2222-4333-8444-555555555555",
    "https://zqanna.example/home",
    "https://zqanna.example",
    "not a url",
)
ACCEPTED = PerformerRecord("accepted", "Berta Zq", birth_date="1981-01-02", urls=URLS[1:])
REFUSED = replace(ACCEPTED, source_id="refused", name="Clara Zq", urls=URLS)
HELD = replace(ACCEPTED, source_id="held", name=ANNA.name, birth_date=ANNA.birth_date)
CHILD = replace(ACCEPTED, source_id="child", birth_date="2020-01-02")


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each text is parsed as a profile URL from now on."""
    counts: Counter[str] = Counter()

    def counting(parse):
        def counted(url: str):
            counts[url] += 1
            return parse(url)

        return counted

    for name in ("canonical_profile", "parse_profile"):
        monkeypatch.setattr(profile_urls, name, counting(getattr(profile_urls, name)))
    return counts


@pytest.mark.parametrize("record", [ACCEPTED, REFUSED, HELD, CHILD], ids=lambda record: record.source_id)
def test_each_url_of_a_record_is_parsed_once_whatever_is_decided(
    catalog: sa.Engine, parsed: Counter[str], record: PerformerRecord
) -> None:
    store(catalog, "boxa", replace(ANNA, urls=(SHARED,)))
    suppress(catalog, "boxa:anna")
    erase_suppressed(catalog, load_suppressions(catalog, KEY), NOW)
    check, ids = withholding(catalog, "boxb")
    parsed.clear()
    with writing(catalog) as connection:
        admitted = check.admit(connection, [record])
    decided = {
        "accepted": {each.source_id for each in admitted.records},
        "refused": ids.suppressed,
        "held": ids.held,
        "child": ids.not_adult,
    }
    assert {name: found for name, found in decided.items() if found} == {record.source_id: {record.source_id}}
    assert parsed == dict.fromkeys(record.urls, 1)


def test_no_url_is_parsed_when_the_list_is_empty(catalog: sa.Engine, parsed: Counter[str]) -> None:
    check, _ = withholding(catalog)
    with writing(catalog) as connection:
        assert check.admit(connection, [ACCEPTED]).records == [ACCEPTED]
    assert parsed == {}


def test_a_batch_of_records_that_list_the_same_url_is_decided_record_by_record(catalog: sa.Engine) -> None:
    suppress(catalog, "boxb:first")
    first = replace(REFUSED, source_id="first")
    second = replace(REFUSED, source_id="second", name="Dora Zq")
    with reading(catalog) as connection:
        known = load_suppressions(catalog, KEY).refreshed(connection)
    assert known.covers_record("boxb", "first")
    check, ids = withholding(catalog, "boxb")
    with writing(catalog) as connection:
        assert check.admit(connection, [first, second]).records == [second]
    assert ids.suppressed == {"first"}


def test_two_urls_of_one_page_are_one_identifying_page_and_a_repeated_url_is_one_page() -> None:
    urls = (SHARED, "http://instagram.com/ZqAnna/", SHARED, "https://zqanna.example/home")
    record = ParsedRecord(RecordEvidence("boxa", "anna", "Anna Zq", urls=urls), KEY)
    assert [each.page.url for each in record.pages] == list(dict.fromkeys(urls))
    assert [each.page.url for each in record.identifying] == [SHARED]
    assert [each.page.url for each in record.compared_as_written] == ["https://zqanna.example/home"]
    assert all(each.digests == url_digests(KEY, each.page.url) for each in record.pages)


def test_the_evidence_of_a_stash_box_record_holds_its_own_page_and_those_of_merged_records() -> None:
    ids = ("11111111-2222-4333-8444-555555555555", "66666666-7777-4888-8999-aaaaaaaaaaaa")
    record = ParsedRecord(RecordEvidence("stashdb", ids[0], merged_ids=(ids[1],)), KEY)
    own = [f"https://stashdb.org/performers/{each}" for each in ids]
    assert [each.page.url for each in record.own_pages] == own
    expected = {digest for url in own for kind, digest in url_digests(KEY, url) if kind == URL}
    assert expected <= record.evidence_hashes


@pytest.mark.parametrize(
    ("url", "identifies", "is_unknown", "record"),
    [
        (URLS[1], True, False, None),
        (URLS[2], True, False, ("stashdb", "11111111-2222-4333-8444-555555555555")),
        ("https://zqanna.example/home", False, True, None),
        ("https://zqanna.example", False, False, None),
        ("", False, False, None),
    ],
)
def test_a_parsed_url_says_what_its_page_can_prove(
    url: str, identifies: bool, is_unknown: bool, record: tuple[str, str] | None
) -> None:
    page = parse_url(url)
    assert (page.is_identifying, page.is_compared_as_written, page.stash_box_record) == (
        identifies,
        is_unknown,
        record,
    )
