from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.identity.face_matching.shared_pictures import (
    ShownPicture,
    copies_between_people,
    shared_pictures,
)
from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline.identity.linkage.evidence import Kind
from stash_sense_pipeline.identity.linkage.overrides import Overrides
from stash_sense_pipeline.identity.rebuild import rebuild_identities
from stash_sense_pipeline.records.perceptual_hash import same_picture
from stash_sense_pipeline.records.record_key import ImageKey
from stash_sense_pipeline_tests.identity.population import HOSTS, NOW, evidence, show, store

_PICTURES = (0x8F3A5511AA00FF13, 0x0123456789ABCDEF)


@st.composite
def shown(draw: st.DrawFn) -> list[ShownPicture]:
    """Pictures of a few people in two sources, many of them copies that differ in up to eleven bits."""
    found = []
    for number in range(draw(st.integers(1, 12))):
        flipped = draw(st.sets(st.integers(0, 63), max_size=11))
        bits = draw(st.sampled_from(_PICTURES)) ^ sum(1 << bit for bit in flipped)
        found.append(
            ShownPicture(
                draw(st.sampled_from("ab")),
                draw(st.sampled_from([f"i{number}", "shown twice"])),
                draw(st.integers(0, 3)),
                draw(st.sampled_from([None, "00", "01", f"{number:02x}"])),
                draw(st.sampled_from([None, f"{bits:016x}"])),
            )
        )
    return found


def _one_by_one(pictures: Sequence[ShownPicture]) -> set[ImageKey]:
    """The same by comparing each picture with each other one."""

    def equal(one: ShownPicture, other: ShownPicture) -> tuple[bool, bool, bool]:
        looks = one.picture_hash, other.picture_hash
        return (
            one[:2] == other[:2],
            one.sha256 is not None and one.sha256 == other.sha256,
            looks[0] is not None and looks[1] is not None and same_picture(*looks),
        )

    found: set[ImageKey] = set()
    for one in pictures:
        for how in range(3):
            people: dict[str, set[object]] = defaultdict(set)
            for other in pictures:
                if equal(one, other)[how]:
                    people[other.source].add(other.person)
            if any(len(some) > 1 for some in people.values()):
                found.add((one.source, one.image_id))
    return found


@pytest.mark.slow
@given(pictures=shown(), order=st.randoms(use_true_random=False))
def test_shared_are_the_pictures_with_an_equal_of_another_person_of_one_source(
    pictures: list[ShownPicture], order: random.Random
) -> None:
    expected = _one_by_one(pictures)
    assert shared_pictures(pictures) == expected
    order.shuffle(pictures)
    assert shared_pictures(pictures) == expected


def test_a_chain_of_copies_does_not_reach_beyond_its_neighbours() -> None:
    looks = [(1 << (5 * step)) - 1 for step in range(5)]
    chain = [
        ShownPicture("boxed", f"i{step}", "one" if step else "another", None, f"{look:016x}")
        for step, look in enumerate(looks)
    ]
    assert shared_pictures(chain) == {("boxed", "i0"), ("boxed", "i1")}


@pytest.mark.slow
def test_a_default_picture_in_thousands_of_variants_is_found() -> None:
    draw = random.Random(1)
    variants = [_PICTURES[0] ^ sum(1 << draw.randrange(64) for _ in range(3)) for _ in range(2_000)]
    others = [draw.getrandbits(64) for _ in range(2_000)]
    pictures = [
        ShownPicture("boxed", str(number), number, None, f"{look & (1 << 64) - 1:016x}")
        for number, look in enumerate([*variants, *others])
    ]
    assert shared_pictures(pictures) == {("boxed", str(number)) for number in range(len(variants))}


def test_copies_of_a_picture_in_two_sources_are_not_shared() -> None:
    pictures = [ShownPicture(source, "i", "1", "00", "0" * 16) for source in "ab"]
    assert shared_pictures(pictures) == frozenset()


@pytest.mark.slow
def test_a_copy_on_another_record_of_the_source_ends_and_its_removal_restores_the_evidence_of_a_picture(
    any_catalog: sa.Engine,
) -> None:
    one, other = Record("stashdb", "a", "Sample Person"), Record("fansdb", "b", "Sample Person")
    third = Record("stashdb", "c", "Other Name")
    strangers = [Record("stashdb", f"s{number}", f"Stranger N{number}") for number in range(60)]
    store(any_catalog, one, other, third, *strangers)
    for record, image_id in ((one, "i"), (other, "j")):
        show(any_catalog, record, image_id, "same bytes", picture_hash="00000000000000ff")

    def pictures_in_evidence(*, full: bool = False) -> int:
        report = rebuild_identities(any_catalog, HOSTS, Overrides(), NOW, full=full)
        assert report.incremental is not full
        return sum(row.kind == Kind.IMAGE for row in evidence(any_catalog))

    assert pictures_in_evidence(full=True) == 1
    show(any_catalog, third, "k", "other bytes", picture_hash="000000000000001f")
    assert pictures_in_evidence() == 0
    assert pictures_in_evidence(full=True) == 0
    with any_catalog.begin() as connection:
        connection.exec_driver_sql("DELETE FROM source_images WHERE image_id = 'k'")
    assert pictures_in_evidence() == 1
    assert not rebuild_identities(any_catalog, HOSTS, Overrides(), NOW, full=True).changed
    store(any_catalog, replace(third, country="CZ"))
    assert pictures_in_evidence() == 1


@pytest.mark.slow
@given(shown())
def test_copies_of_two_people_are_in_one_group_in_whatever_sources(pictures: list[ShownPicture]) -> None:
    groups = copies_between_people(pictures)
    group_of = {place: number for number, group in enumerate(groups) for place in group}
    assert len(group_of) == sum(map(len, groups))
    for group in groups:
        assert len({pictures[place].person for place in group}) > 1
    for one, first in enumerate(pictures):
        for other, second in enumerate(pictures[:one]):
            looks = (first.picture_hash, second.picture_hash)
            if first.person != second.person and looks[0] and looks[1] and same_picture(*looks):
                assert group_of[one] == group_of[other]
