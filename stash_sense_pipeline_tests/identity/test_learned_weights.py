"""Weights learned from a catalog: bounded, independent of order, and what they make of shared aliases and namesakes."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from stash_sense_pipeline.foundation.tables.markdown_writer import markdown_lines
from stash_sense_pipeline.identity.linkage.blocking import StashBoxes
from stash_sense_pipeline.identity.linkage.candidates import Candidates, find_candidates
from stash_sense_pipeline.identity.linkage.clustering import cluster
from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline.identity.linkage.evidence import WEIGHTS
from stash_sense_pipeline.identity.linkage.learned_weights import LearnedWeights, learn
from stash_sense_pipeline.identity.linkage.name_weights import most_of_both, name_weight
from stash_sense_pipeline.identity.linkage.weighing import find_evidence
from stash_sense_pipeline.identity.linkage.weight_chart import default_table, weight_chart
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline_tests.identity.invented_population import (
    VARIATIONS,
    Population,
    make_population,
    score,
)
from stash_sense_pipeline_tests.identity.population import HOSTS, population
from stash_sense_pipeline_tests.identity.test_evidence import together

_DOCS = Path(__file__).parents[2] / "docs"


def candidates_of(records: dict[RecordKey, Record]) -> Candidates:
    return find_candidates(records, StashBoxes.of(HOSTS))


@pytest.fixture(scope="module")
def crowd() -> dict[RecordKey, Record]:
    return dict(make_population(2_000, seed=4).records)


@pytest.mark.slow
def test_weights_do_not_depend_on_the_order_of_records(crowd: dict[RecordKey, Record]) -> None:
    shuffled = dict(random.Random(1).sample(list(crowd.items()), len(crowd)))
    assert learn(candidates_of(shuffled), HOSTS) == learn(candidates_of(crowd), HOSTS)


@pytest.mark.slow
def test_learned_weights_stay_near_their_defaults_and_survive_the_catalog(
    crowd: dict[RecordKey, Record],
) -> None:
    found = learn(candidates_of(crowd), HOSTS)
    assert found.positives > 200
    assert all(abs(row.weight - getattr(WEIGHTS, row.level)) <= 0.6001 for row in found.table)
    assert LearnedWeights.from_detail(json.loads(json.dumps(found.as_detail()))) == found


def test_a_small_catalog_has_the_default_weights() -> None:
    known = population(Record("stashdb", "a", "Sample Person"), Record("fansdb", "b", "Sample Person"))
    assert learn(candidates_of(known), HOSTS).weights == WEIGHTS


@pytest.mark.slow
def test_a_rare_name_proves_more_than_a_common_one(crowd: dict[RecordKey, Record]) -> None:
    names = learn(candidates_of(crowd), HOSTS).weights.names
    assert names is not None
    common = max(names.common.values())
    assert common > names.rare
    words: dict[str, int] = {}
    for record in crowd.values():
        for word in (record.name or "").casefold().split():
            words[word] = words.get(word, 0) + 1
    often = sorted(words, key=lambda word: -words[word])[:2]
    assert name_weight(names, " ".join(sorted(often)), "stashdb", "fansdb") < name_weight(
        names, "xqz yqz", "stashdb", "fansdb"
    )


@pytest.mark.slow
def test_an_equal_name_proves_more_between_sources_that_share_most_people(
    crowd: dict[RecordKey, Record],
) -> None:
    names = learn(candidates_of(crowd), HOSTS).weights.names
    assert names is not None
    assert names.people_of_both["stashdb theporndb"] > names.people_of_both["javstash pmvstash"]
    sizes = dict.fromkeys(names.sizes, 10_000)
    shared = {"fansdb stashdb": 9_000, "fansdb theporndb": 500}
    alike = replace(names, sizes=sizes, people_of_both=shared, common={}, homonyms=2e-7)
    much, little = (most_of_both(alike, box, "fansdb") for box in ("stashdb", "theporndb"))
    assert much > little
    assert name_weight(alike, "xqz yqz", "stashdb", "fansdb") > name_weight(
        alike, "xqz yqz", "fansdb", "theporndb"
    )


def test_a_typing_error_and_an_alias_in_common_are_an_agreement() -> None:
    one = Record("stashdb", "a", "Mara Invented", aliases=("Lena Sample",), birth_date="1995-03-10")
    other = Record("fansdb", "b", "Mara Invnted", aliases=("Lena Sample",), birth_date="1995-03-10")
    assert together(one, other) != set()
    assert together(one, replace(other, name="Vera Invented")) == set()


def test_other_names_that_differ_count_against_an_equal_name() -> None:
    one = Record("stashdb", "a", "Mara Invented", aliases=("Lena Sample",), birth_date="1995")
    other = Record("fansdb", "b", "Mara Invented", aliases=("Vera Example",), birth_date="1995")
    rows = [
        find_evidence(population(one, each), HOSTS).evidence for each in (other, replace(other, aliases=()))
    ]
    scores = [sum(row.weight for row in found) for found in rows]
    assert scores[0] == pytest.approx(scores[1] + WEIGHTS.no_other_name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", VARIATIONS)
def test_other_populations_are_linked_too(kind: str) -> None:
    """One namesake with an equal birth date is several wrong pairs, so that the bounds of so few people are wide.

    The benchmark identity.variations has the bounds of more people.
    """
    right, wrong, missed = _score_of(make_population(2_000, 31, VARIATIONS[kind]))
    assert right / (right + wrong) >= 0.997
    assert right / (right + missed) >= 0.965


@pytest.mark.slow
def test_small_catalogs_keep_the_bounds() -> None:
    found = [_score_of(make_population(2_000, seed)) for seed in range(31, 36)]
    right, wrong, missed = (sum(row) for row in zip(*found, strict=True))
    assert right / (right + wrong) >= 0.9995
    assert right / (right + missed) >= 0.982


def _score_of(crowd: Population) -> tuple[int, int, int]:
    found = score(crowd.truth, cluster(crowd.records, find_evidence(crowd.records, HOSTS).evidence).groups)
    return found.right, found.wrong, found.missed


_BORN = {"birth_date": "1995-03-10"}
_LOOKS = {
    "country": "US",
    "ethnicity": "CAUCASIAN",
    "eye_color": "BLUE",
    "height_cm": 170,
    "gender": "FEMALE",
}


@pytest.mark.parametrize("alias", ["Anna", "Invented Twins", "Other Person", "Sample Studios"])
@pytest.mark.parametrize("looks", [{}, _LOOKS])
def test_a_shared_alias_and_birth_date_are_not_one_person(alias: str, looks: dict[str, object]) -> None:
    """stash#422 and stash PR #4182: twins and duos share all of it."""
    one = Record("stashdb", "a", "Mara Invented", aliases=(alias,), **_BORN, **looks)  # type: ignore[arg-type]
    other = Record("fansdb", "b", "Lena Invented", aliases=(alias,), **_BORN, **looks)  # type: ignore[arg-type]
    assert together(one, other) == set()


@pytest.mark.parametrize(
    "differs",
    [
        {"country": "US", "ethnicity": "BLACK", "height_cm": 152},
        {"country": "US", "ethnicity": "BLACK", "eye_color": "BROWN"},
    ],
)
def test_what_differs_counts_against_an_equal_name(differs: dict[str, object]) -> None:
    same = {"country": "CZ", "ethnicity": "CAUCASIAN", "eye_color": "BLUE", "height_cm": 181}
    one = Record("stashdb", "a", "Sample Person", birth_date="1995", **same)  # type: ignore[arg-type]
    other = Record("fansdb", "b", "Sample Person", birth_date="1995", **(same | differs))  # type: ignore[arg-type]
    alike = Record("fansdb", "b", "Sample Person", birth_date="1995", **same)  # type: ignore[arg-type]
    assert together(one, alike) != set()
    assert together(one, other) == set()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_ten_thousand_strangers_with_shared_aliases_are_not_joined_by_alias(seed: int) -> None:
    rng = random.Random(seed)
    syllables = ["ka", "mi", "lo", "ra", "ten", "vi", "do", "nel", "zu", "be", "ri", "so", "han", "pe"]
    words = sorted({"".join(rng.choices(syllables, k=3)).capitalize() for _ in range(900)})
    duos = [f"{rng.choice(words)} Twins" for _ in range(60)]
    records: dict[RecordKey, Record] = {}
    for box, count in (("stashdb", 8_000), ("fansdb", 2_000)):
        for number in range(count):
            aliases = [rng.choice(words[:200]) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
            if rng.random() < 0.1:
                aliases.append(rng.choice(duos))
            born = f"{rng.randint(1985, 2002)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
            name = f"{rng.choice(words)} {rng.choice(words)}"
            record = Record(box, str(number), name, "FEMALE", born, "US", aliases=tuple(sorted(set(aliases))))
            records[record.key] = record
    evidence = find_evidence(records, HOSTS).evidence
    joined = [group for group in cluster(records, evidence).groups if len(group) > 1]
    by_alias = [row for row in evidence if (row.a, row.b) in joined and "alias" in row.key]
    assert by_alias == []
    # Main names that are equal or nearly so, and one birth date, remain: chance namesakes.
    assert len(joined) <= 2


def test_the_documentation_shows_the_chart_of_the_default_weights() -> None:
    assert "\n".join(markdown_lines(weight_chart(default_table()))) in (_DOCS / "identities.md").read_text()
