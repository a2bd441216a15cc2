from __future__ import annotations

import pytest

from stash_sense_pipeline.identity.linkage.blocking import StashBoxes
from stash_sense_pipeline.identity.linkage.candidates import find_candidates
from stash_sense_pipeline.identity.linkage.clustering import LinkVerdict, cluster
from stash_sense_pipeline.identity.linkage.comparisons import Record, birth_interval
from stash_sense_pipeline.identity.linkage.evidence import WEIGHTS, Kind
from stash_sense_pipeline.identity.linkage.weighing import find_evidence
from stash_sense_pipeline.records.name_folding import fold_name
from stash_sense_pipeline.records.profile_urls import MAX_PAGE_HOLDERS
from stash_sense_pipeline_tests.identity.population import HOSTS, groups_of, population

X = "https://x.com/sample_person"
IAFD = "https://www.iafd.com/person.rme/id=0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0"
STASHDB = "https://stashdb.org/performers/"
U1 = "00000000-0000-4000-8000-000000000001"
U2 = "00000000-0000-4000-8000-000000000002"


def together(*records: Record) -> set[frozenset[str]]:
    """The groups of two records or more."""
    known = population(*records)
    groups = cluster(known, find_evidence(known, HOSTS).evidence).groups
    return {group for group in groups_of(groups) if len(group) > 1}


BOTH = {frozenset({"stashdb:a", "fansdb:b"})}


def pair(**changes: object) -> tuple[Record, Record]:
    """Two records that share a profile page; `a_x` and `b_x` set a field of one."""
    fields = {
        side: {name[2:]: value for name, value in changes.items() if name.startswith(f"{side}_")}
        for side in "ab"
    }
    defaults = {"name": "Sample Person", "urls": (X,)}
    return (
        Record("stashdb", "a", **(defaults | fields["a"])),  # type: ignore[arg-type]
        Record("fansdb", "b", **(defaults | fields["b"])),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"b_name": "Somebody Else"},
        {"b_name": None},
        {"b_name": "Another Name", "b_aliases": ("SAMPLE  person",), "b_urls": (X, IAFD)},
        {"a_birth_date": "1990-05-05", "b_birth_date": "1991-05-05"},
        {"a_birth_date": "1990", "b_birth_date": "1992-12-31"},
        {"a_gender": "FEMALE", "b_gender": "TRANSGENDER_FEMALE"},
        {"a_gender": "MALE", "b_gender": "TRANSGENDER_FEMALE"},
        {"a_country": "US", "b_country": "GB"},
        {"a_country": "US", "b_country": "United States"},
        {"a_urls": (), "b_urls": (), "a_birth_date": "1990-05-05", "b_birth_date": "1990-05-05"},
        {"a_urls": (), "b_urls": (), "a_birth_date": "1990-05-05", "b_birth_date": "1990"},
        {
            "a_urls": (), "b_urls": (), "a_birth_date": "1990-05-06", "b_birth_date": "1990-05-06",
            "b_name": "Smaple Person",
        },
    ],
)  # fmt: skip
def test_records_with_enough_evidence_are_one_person(changes: dict[str, object]) -> None:
    assert together(*pair(**changes)) == BOTH


@pytest.mark.parametrize(
    "changes",
    [
        {"b_urls": ()},
        {"a_birth_date": "1990-05-05", "b_birth_date": "1993-05-05"},
        {"a_birth_date": "1990", "b_birth_date": "1993"},
        {"a_gender": "FEMALE", "b_gender": "MALE"},
        {"b_name": "Somebody Else", "b_urls": (X, IAFD)},
        {"b_name": "Somebody Else", "a_country": "US", "b_country": "GB"},
        {"a_urls": ("https://twitter.com/intent",), "b_urls": ("https://twitter.com/intent",)},
        {"a_urls": ("https://www.pornpics.com/pornstars/s-p/",), "b_urls": ("https://www.pornpics.com/pornstars/s-p/",)},
        {
            "a_urls": (), "b_urls": (), "a_birth_date": "1990-01-01", "b_birth_date": "1990",
            "a_name": "Sample", "b_name": "Sample",
        },
        {"a_urls": (), "b_urls": (), "a_birth_date": "1990-05-05", "b_birth_date": "1990-05-05", "b_name": "Else"},
        {"a_urls": (), "b_urls": (), "a_country": "US", "b_country": "US"},
        {"a_live": False},
    ],
)  # fmt: skip
def test_records_without_enough_evidence_stay_apart(changes: dict[str, object]) -> None:
    assert together(*pair(**changes)) == set()


def test_two_live_records_of_one_source_are_never_joined() -> None:
    """Neither directly nor through a third record."""
    one, other = (
        Record("stashdb", "a", "Sample Person", urls=(X,)),
        Record("stashdb", "b", "Sample P", urls=(X, IAFD)),
    )
    assert together(one, other) == set()
    between = Record("fansdb", "c", "Sample Person", urls=(X, IAFD))
    known = population(one, other, between)
    found = cluster(known, find_evidence(known, HOSTS).evidence)
    assert all(len({source for source, _ in group}) == len(group) for group in found.groups)
    decision = found.decisions[one.key, other.key]
    assert (decision.verdict, decision.reason) == (LinkVerdict.REFUSED, "two live records of stashdb: a, b")


def test_an_equally_good_match_with_two_records_is_refused_as_ambiguous() -> None:
    records = [Record("stashdb", name, "Sample Person", urls=(X,)) for name in ("a", "b")]
    records.append(Record("fansdb", "c", "Sample Person", urls=(X,)))
    known = population(*records)
    found = cluster(known, find_evidence(known, HOSTS).evidence)
    assert all(len(group) == 1 for group in found.groups)
    assert found.decisions[("fansdb", "c"), ("stashdb", "a")].reason == "ambiguous: stashdb:b matches as well"


def test_a_couple_shares_an_account_and_stays_two() -> None:
    assert together(
        Record("stashdb", "a", "Sample Person", "FEMALE", urls=(X,)),
        Record("stashdb", "m", "Other Partner", "MALE", urls=(X,)),
        Record("fansdb", "b", "Sample Person", "FEMALE", urls=(X,)),
        Record("fansdb", "n", "Other Partner", "MALE", urls=(X,)),
    ) == {frozenset({"stashdb:a", "fansdb:b"}), frozenset({"stashdb:m", "fansdb:n"})}


def test_a_hub_proves_nothing() -> None:
    studio = [Record("stashdb", str(n), f"Person {n}", urls=(X,)) for n in range(3)]
    lone = Record("fansdb", "b", "Person 1", urls=(X,))
    known = population(*studio, lone)
    findings = find_evidence(known, HOSTS)
    assert {row.kind for row in findings.evidence} == {Kind.ATTRIBUTES}
    assert together(*known.values()) == set()
    assert [hub.key for hub in findings.hubs] == ["twitter:sample_person"]
    boxes = {f"box{n}": f"box{n}.example" for n in range(MAX_PAGE_HOLDERS + 1)}
    many = population(*(Record(box, "a", "Sample Person", urls=(X,)) for box in boxes))
    assert [len(hub.holders) for hub in find_evidence(many, boxes).hubs] == [len(boxes)]
    # Reference sites repeat the links of the stash-boxes.
    few = dict(list(boxes.items())[:2])
    assert find_evidence(many, few).hubs == ()


def test_a_cross_link_outweighs_a_name() -> None:
    assert together(
        Record("stashdb", U1, "Sample Person"), Record("fansdb", "b", "Else Entirely", urls=(STASHDB + U1,))
    ) == {frozenset({f"stashdb:{U1}", "fansdb:b"})}


def test_a_cross_link_follows_the_sources_own_merges() -> None:
    known = population(
        Record("stashdb", U1, live=False, merged_into=U2),
        Record("stashdb", U2, "Sample Person"),
        Record("fansdb", "b", "Sample Person", urls=(STASHDB + U1,)),
        Record("stashdb", "x", live=False, merged_into="y"),
        Record("stashdb", "y", live=False, merged_into="x"),
        Record("pmvstash", "c", "Sample Person", urls=(STASHDB + "gone",)),
    )
    findings = find_evidence(known, HOSTS)
    assert {(row.kind, row.a, row.b) for row in findings.evidence if row.kind != Kind.ATTRIBUTES} == {
        (Kind.CROSS_LINK, ("fansdb", "b"), ("stashdb", U2)),
        (Kind.MERGE, ("stashdb", U1), ("stashdb", U2)),
    }


def test_links_to_one_unknown_record_join_those_that_have_it() -> None:
    url = STASHDB + U1
    assert together(
        Record("pmvstash", "a", "Sample Person", urls=(url,)),
        Record("fansdb", "b", "Sample Person", urls=(url,)),
    ) == {frozenset({"pmvstash:a", "fansdb:b"})}


def test_an_equal_picture_supports_a_link_but_does_not_suffice() -> None:
    one = {"a_urls": (), "b_urls": (), "a_images": ("s1", "s2", "s3"), "b_images": ("s1", "s2", "s3")}
    assert together(*pair(**one)) == BOTH
    assert together(*pair(**one, b_name="Somebody Else")) == set()
    assert together(*pair(**one, b_name="Somebody Else", b_aliases=("Sample Person",))) == BOTH
    known = population(*pair(**one), Record("stashdb", "z", "Other Person", images=("s1",)))
    rows = [row for row in find_evidence(known, HOSTS).evidence if row.kind == Kind.IMAGE]
    assert [row.key for row in rows] == ["s2", "s3"]


def test_iafd_forms_are_joined_through_a_record_that_lists_both() -> None:
    perfid = "https://www.iafd.com/person.rme/perfid=sample/gender=f"
    groups = together(
        Record("stashdb", "a", "Sample Person", urls=(perfid,)),
        Record("fansdb", "b", "Sample Person", urls=(IAFD, perfid)),
        Record("pmvstash", "c", "Sample Person", urls=(IAFD,)),
    )
    assert groups == {frozenset({"stashdb:a", "fansdb:b", "pmvstash:c"})}


def test_rows_of_a_pair_add_up() -> None:
    known = population(
        *pair(a_birth_date="1990-05-05", b_birth_date="1990-05-05", a_country="US", b_country="us")
    )
    rows = {row.kind: row for row in find_evidence(known, HOSTS).evidence}
    assert rows[Kind.PROFILE].key == "twitter:sample_person"
    assert rows[Kind.PROFILE].weight == WEIGHTS.profile
    assert rows[Kind.NAME_AND_BIRTH_DATE].weight == WEIGHTS.name_equal + WEIGHTS.birth_date_equal
    assert rows[Kind.ATTRIBUTES].weight == WEIGHTS.country_equal


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("Zöe SAMPLE-O'Test", "otest sample zoe"),
        ("Dr. Example  Person", "dr example person"),
        ("Person Example", "example person"),
        ("がら はな", "がら はな"),
        ("-", ""),
    ],
)
def test_a_name_is_folded_to_sorted_words_without_marks(name: str, folded: str) -> None:
    assert fold_name(name) == folded


def test_kana_with_a_mark_is_another_letter() -> None:
    assert fold_name("がら") != fold_name("から")


@pytest.mark.parametrize("date", [None, "", "soon", "1990-1-1", "19900101", "1990-05-05T00:00:00"])
def test_a_text_that_is_no_birth_date_has_no_interval(date: str | None) -> None:
    assert birth_interval(date) is None


def test_a_birth_date_gives_the_interval_of_its_possible_days() -> None:
    year, month, day = (birth_interval(date) for date in ("1990", "1990-05", "1990-05-07"))
    assert year[0] < month[0] < day[0] == day[1] < month[1] < year[1]
    assert birth_interval("1990-01-01") == year


def test_two_shared_full_names_are_evidence() -> None:
    ours = Record("stashdb", "a", "Sample Person", aliases=("Other Test",))
    assert together(ours, Record("fansdb", "b", "Other Test", aliases=("Sample Person",))) == set()
    assert together(ours, Record("fansdb", "b", "Sample Person", aliases=("Other Test",))) == BOTH
    assert together(ours, Record("fansdb", "b", "Sample Person", aliases=("Other",))) == set()


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("Sample Person", "ample Person", True),
        ("Sample Person", "Zample Person", True),
        ("Sample Person", "SamplePerson", True),
        ("Sample Person", "Smaple Person", True),
        ("Marten", "Maren", True),
        ("Ann", "Anna", False),
        ("Sample Person", "Simple Reason", False),
    ],
)
def test_a_typing_error_is_not_another_name(one: str, other: str, alike: bool) -> None:
    assert (together(*pair(a_name=one, b_name=other, b_urls=(X, IAFD))) == BOTH) == alike


def test_records_with_compatible_birth_dates_are_not_distinct() -> None:
    """Otherwise twins with a partial date in one record would raise the thresholds of faces for all records."""
    known = population(
        Record("stashdb", "a", "One Twin", birth_date="1990-05-06"),
        Record("stashdb", "b", "Other Twin", birth_date="1990"),
        Record("stashdb", "c", "Third Person", birth_date="1971-02-03"),
    )
    candidates = find_candidates(known, StashBoxes.of(HOSTS))
    assert not candidates.are_distinct(("stashdb", "a"), ("stashdb", "b"))
    assert candidates.are_distinct(("stashdb", "a"), ("stashdb", "c"))
