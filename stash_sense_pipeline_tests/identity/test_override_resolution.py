"""Overrides in random mixtures: each impossible line is refused by itself, and all others have their effect."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline.identity.linkage.overrides import Override, Overrides, load_overrides
from stash_sense_pipeline.identity.override_resolution import (
    ResolvedOverrides,
    refused_overrides,
    resolve_pairs,
)
from stash_sense_pipeline.identity.rebuild import rebuild_identities
from stash_sense_pipeline.identity.relatives import IdentityRelatives
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline_tests.identity.population import HOSTS, NOW, evidence, members, store

KEYS = [(source, name) for source in ("stashdb", "fansdb", "pmvstash") for name in "abcd"]
UNKNOWN = [("stashdb", "unknown"), ("nowhere", "x")]
PAIRS = st.lists(
    st.tuples(st.sampled_from([*KEYS, *UNKNOWN]), st.sampled_from([*KEYS, *UNKNOWN])).filter(
        lambda pair: pair[0] != pair[1]
    ),
    max_size=12,
)


@st.composite
def catalogs(draw: st.DrawFn) -> dict[RecordKey, RecordKey | None]:
    """Each record to the live record that it is: itself, another of its source, or none."""
    live: dict[RecordKey, RecordKey | None] = {}
    for key in KEYS:
        fate = draw(st.sampled_from(["live", "live", "live", "gone", "merged"]))
        others = [other for other in KEYS if other[0] == key[0] and live.get(other) == other]
        live[key] = key if fate == "live" or (fate == "merged" and not others) else None
        if fate == "merged" and others:
            live[key] = draw(st.sampled_from(others))
    return live


def overrides_of(
    must: list[tuple[RecordKey, RecordKey]], cannot: list[tuple[RecordKey, RecordKey]]
) -> Overrides:
    lines = [Override(*pair, line) for line, pair in enumerate([*must, *cannot], 2)]
    return Overrides(Path("o"), must_link=tuple(lines[: len(must)]), cannot_link=tuple(lines[len(must) :]))


def without(overrides: Overrides, lines: set[int]) -> Overrides:
    return replace(
        overrides,
        must_link=tuple(pair for pair in overrides.must_link if pair.line not in lines),
        cannot_link=tuple(pair for pair in overrides.cannot_link if pair.line not in lines),
    )


def people_of(found: ResolvedOverrides) -> dict[RecordKey, set[RecordKey]]:
    people: dict[RecordKey, set[RecordKey]] = {}
    for a, b in found.must_link:
        joined = people.get(a, {a}) | people.get(b, {b})
        people.update(dict.fromkeys(joined, joined))
    return people


@pytest.mark.slow
@settings(max_examples=500)
@given(live=catalogs(), must=PAIRS, cannot=PAIRS)
def test_each_impossible_line_is_refused_by_itself(
    live: dict[RecordKey, RecordKey | None],
    must: list[tuple[RecordKey, RecordKey]],
    cannot: list[tuple[RecordKey, RecordKey]],
) -> None:
    given_lines = overrides_of(must, cannot)
    found = resolve_pairs(given_lines, live)
    refused = {row.line for row in found.refused}
    # What has an effect does not contradict the catalog or itself.
    people = people_of(found)
    for person in people.values():
        assert len({source for source, _ in person}) == len(person)
    assert all(b not in people.get(a, {a}) for a, b in found.cannot_link)
    assert all(live[key] == key for pair in (*found.must_link, *found.cannot_link) for key in pair)
    # The refused lines change nothing, and each of them is impossible beside the others.
    kept = without(given_lines, refused)
    assert resolve_pairs(kept, live) == replace(found, refused=())
    for line in refused:
        alone = resolve_pairs(without(given_lines, refused - {line}), live)
        assert {row.line for row in alone.refused} == {line} or _only_later_ones(alone, line)
    # Every line gives its reason once.
    assert len(refused) == len(found.refused)


def _only_later_ones(alone: ResolvedOverrides, line: int) -> bool:
    """A must_link line that was refused only because of an earlier one that is refused too: then later ones are."""
    return all(row.line > line for row in alone.refused)


@pytest.mark.slow
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(must=PAIRS, cannot=PAIRS, verdicts=PAIRS, gone=st.sets(st.sampled_from(KEYS), max_size=3))
def test_a_run_with_any_mixture_equals_a_run_without_the_refused_lines(
    catalog: sa.Engine,
    tmp_path: Path,
    must: list[tuple[RecordKey, RecordKey]],
    cannot: list[tuple[RecordKey, RecordKey]],
    verdicts: list[tuple[RecordKey, RecordKey]],
    gone: set[RecordKey],
) -> None:
    store(catalog, *(Record(*key, f"Sample {key[1]}", live=key not in gone) for key in KEYS))
    path = tmp_path / "identity_overrides.yaml"
    unlike = list({(image[1], record): (image, record) for image, record in verdicts}.values())

    def lines(section: str, pairs: list[tuple[RecordKey, RecordKey]]) -> list[str]:
        return [f"{section}:", *(f"- [{':'.join(a)}, {':'.join(b)}]" for a, b in pairs)]

    written = [*lines("must_link", must), *lines("cannot_link", cannot), *lines("not_this_person", unlike)]
    path.write_text("\n".join(written) + "\n")
    given_lines = load_overrides(path)
    refused = {
        int(text.removeprefix(f"{path}:").partition(":")[0])
        for text in refused_overrides(ShortReads(catalog), given_lines)
    }
    rebuild_identities(catalog, HOSTS, given_lines, NOW)
    assert IdentityRelatives(HOSTS, path).disowned(set(KEYS)) is not None
    found = (groups(catalog), evidence(catalog))
    path.write_text(
        "\n".join("" if number in refused else line for number, line in enumerate(written, 1)) + "\n"
    )
    left = load_overrides(path)
    assert refused_overrides(ShortReads(catalog), left) == ()
    rebuild_identities(catalog, HOSTS, left, NOW)
    assert (groups(catalog), evidence(catalog)) == found


def groups(engine: sa.Engine) -> set[frozenset[str]]:
    return {frozenset(some) for some in members(engine).values()}


@pytest.mark.parametrize("pages", [(), ("twitter:sample_person",)])
def test_a_page_that_proves_nothing_links_no_records(
    catalog: sa.Engine, tmp_path: Path, pages: tuple[str, ...]
) -> None:
    page = "https://x.com/sample_person"
    store(
        catalog,
        Record("stashdb", "a", "Mira One", urls=(page,)),
        Record("fansdb", "b", "Mira One", urls=(page,)),
    )
    path = tmp_path / "identity_overrides.yaml"
    path.write_text("".join(f"proves_nothing:\n- {each}\n" for each in pages) or "must_link: []\n")
    rebuild_identities(catalog, HOSTS, load_overrides(path), NOW)
    together = frozenset({"stashdb:a", "fansdb:b"})
    assert (together in groups(catalog)) == (not pages)
    # A later sync finds the same, by an incremental run.
    store(catalog, Record("fansdb", "b", "Mira One", urls=(page,)))
    assert rebuild_identities(catalog, HOSTS, load_overrides(path), NOW).incremental
    assert (together in groups(catalog)) == (not pages)
