from __future__ import annotations

import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stash_sense_pipeline.identity.linkage.clustering import LinkVerdict, cluster
from stash_sense_pipeline.identity.linkage.comparisons import Record, birth_interval
from stash_sense_pipeline.identity.linkage.permanent_ids import assign
from stash_sense_pipeline.identity.linkage.weighing import find_evidence
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline_tests.identity.invented_population import make_population, score
from stash_sense_pipeline_tests.identity.population import HOSTS

_URLS = [f"https://x.com/person{n}" for n in range(6)] + [
    f"https://stashdb.org/performers/00000000-0000-4000-8000-00000000000{n}" for n in range(4)
]


@st.composite
def crowds(draw: st.DrawFn) -> dict[RecordKey, Record]:
    """A few records with as many conflicts as possible."""
    records: dict[RecordKey, Record] = {}
    for n in range(draw(st.integers(0, 14))):
        source = draw(st.sampled_from([*HOSTS, "babepedia"]))
        identifier = f"00000000-0000-4000-8000-{n % 4:012d}" if source == "stashdb" else str(n)
        record = Record(
            source,
            identifier,
            name=draw(st.sampled_from([None, "Sample Person", "Sample Persson", "Other Name", "Mono"])),
            gender=draw(st.sampled_from([None, "MALE", "FEMALE", "TRANSGENDER_FEMALE"])),
            birth_date=draw(st.sampled_from([None, "1990", "1990-05-05", "1992-05-05", "1999-01-01"])),
            country=draw(st.sampled_from([None, "US", "CZ"])),
            live=draw(st.sampled_from([True, True, True, False])),
            merged_into=draw(st.sampled_from([None, "0", "1", "00000000-0000-4000-8000-000000000001"])),
            aliases=tuple(draw(st.sets(st.sampled_from(["Sample Person", "Third Name"])))),
            urls=tuple(sorted(draw(st.sets(st.sampled_from(_URLS), max_size=4)))),
        )
        records[record.key] = record
    return records


@pytest.mark.slow
@settings(max_examples=60)
@given(crowds(), st.randoms(use_true_random=False), st.data())
def test_the_result_does_not_depend_on_the_order_of_input(
    crowd: dict[RecordKey, Record], rng: random.Random, data: st.DataObject
) -> None:
    live = sorted(key for key, record in crowd.items() if record.live)
    apart = (
        data.draw(st.lists(st.sampled_from(list(combinations(live, 2))), max_size=3)) if len(live) > 1 else []
    )
    findings = find_evidence(crowd, HOSTS)
    found = cluster(crowd, findings.evidence, apart)
    shuffled = dict(rng.sample(list(crowd.items()), len(crowd)))
    again = find_evidence(shuffled, HOSTS)
    assert again == findings
    rows = rng.sample(list(again.evidence), len(again.evidence))
    assert cluster(shuffled, rows, [*reversed(apart)]) == found


@pytest.mark.slow
@settings(max_examples=100)
@given(crowds(), st.data())
def test_no_component_breaks_a_constraint(crowd: dict[RecordKey, Record], data: st.DataObject) -> None:
    live = sorted(key for key, record in crowd.items() if record.live)
    apart = (
        data.draw(st.lists(st.sampled_from(list(combinations(live, 2))), max_size=3)) if len(live) > 1 else []
    )
    found = cluster(crowd, find_evidence(crowd, HOSTS).evidence, apart)
    assert sorted(key for group in found.groups for key in group) == live
    for group in found.groups:
        sources = [source for source, _ in group]
        assert len(sources) == len(set(sources))
        assert not {"MALE", "FEMALE"} <= {crowd[key].gender for key in group}
        dates = [interval for key in group if (interval := birth_interval(crowd[key].birth_date))]
        assert not dates or max(d[0] for d in dates) - min(d[1] for d in dates) <= 744
        assert not any(a in group and b in group for a, b in apart)
    for decision in found.decisions.values():
        assert (decision.reason is not None) == (decision.verdict == LinkVerdict.REFUSED)


@pytest.mark.slow
@settings(max_examples=60)
@given(crowds())
def test_records_without_evidence_between_them_can_be_clustered_apart(crowd: dict[RecordKey, Record]) -> None:
    """The decision on a group depends only on the records that evidence ties to it."""
    findings = find_evidence(crowd, HOSTS)
    found = cluster(crowd, findings.evidence)
    leader = {key: key for key in crowd}
    for row in findings.evidence:
        old, new = leader[row.a], leader[row.b]
        leader = {key: new if lead == old else lead for key, lead in leader.items()}
    for lead in set(leader.values()):
        part = {key: record for key, record in crowd.items() if leader[key] == lead}
        rows = [row for row in findings.evidence if row.a in part]
        alone = cluster(part, rows)
        assert {g for g in found.groups if g[0] in part} == set(alone.groups)
        assert alone.decisions.items() <= found.decisions.items()


_KEYS = [("stashdb", str(n)) for n in range(8)]
_PARTITIONS = st.lists(st.integers(0, 4), min_size=len(_KEYS), max_size=len(_KEYS))


def _groups(labels: list[int]) -> list[tuple[RecordKey, ...]]:
    """The groups of equal labels. A record with the label 0 is gone."""
    found: dict[int, list[RecordKey]] = {}
    for key, label in zip(_KEYS, labels, strict=True):
        if label:
            found.setdefault(label, []).append(key)
    return [tuple(group) for group in found.values()]


@given(st.lists(_PARTITIONS, min_size=1, max_size=6))
def test_ids_stay_with_their_members_through_any_history(history: list[list[int]]) -> None:
    previous: dict[RecordKey, int] = {}
    last_members: dict[int, tuple[RecordKey, ...]] = {}
    ever: set[int] = set()
    for labels in history:
        groups = _groups(labels)
        found = assign(groups, previous, last_members, {})
        ids = [
            old if old is not None else max(ever, default=0) + 1 + index
            for index, old in enumerate(found.ids)
        ]
        assert len(set(ids)) == len(ids)
        members = {key: ids[index] for index, group in enumerate(groups) for key in group}
        for old in set(previous.values()):
            mine = {key for key in previous if previous[key] == old}
            kept = {key for key in mine if members.get(key) == old}
            assert (old in found.redirects) == (old not in ids)
            if old in ids:
                assert kept
            else:
                last_members[old] = tuple(sorted(mine))
        for index, old in enumerate(found.ids):
            if old is not None:
                assert old in ever
                assert any(
                    previous.get(key) == old or key in last_members.get(old, ()) for key in groups[index]
                )
        assert assign(groups, members, last_members, {}) == type(found)(tuple(ids), {}, frozenset())
        ever |= set(ids)
        previous = members


@pytest.mark.slow
@pytest.mark.parametrize(("poisoned", "precision", "recall"), [(0.0, 0.999, 0.965), (0.05, 0.998, 0.955)])
def test_a_population_with_known_truth_is_clustered_with_the_required_precision(
    poisoned: float, precision: float, recall: float
) -> None:
    people = make_population(6000, seed=5, poisoned=poisoned)
    found = cluster(people.records, find_evidence(people.records, HOSTS).evidence)
    result = score(people.truth, found.groups)
    assert result.precision >= precision
    assert result.recall >= recall
