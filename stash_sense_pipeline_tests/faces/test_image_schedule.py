"""Images are handed out to performers with the fewest faces, once each, and no more than the cap needs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stash_sense_pipeline.catalog.queries.images import ImageState, LedgerImage
from stash_sense_pipeline.faces.image_schedule import Schedule
from stash_sense_pipeline.records.perceptual_hash import same_picture

NO_PICTURES: Mapping[str, str] = {}
# The first is a copy of the second and the second of the third, but the first not of the third.
CHAIN = ("0000000000000000", "000000000000000f", "00000000000000ff")
OTHER = "ffffffff00000000"


def ledger(
    listed: Mapping[str, Sequence[str]],
    done: frozenset[str] = frozenset(),
    pictures: Mapping[str, str] = NO_PICTURES,
) -> dict[str, list[LedgerImage]]:
    owners: dict[str, list[str]] = {}
    for performer, images in listed.items():
        for image in images:
            owners.setdefault(image, []).append(performer)
    known = {
        image: LedgerImage(
            image,
            f"http://127.0.0.1/{image}",
            None,
            None,
            ImageState.DONE if image in done else ImageState.PENDING,
            0,
            image not in done,
            tuple(names),
            pictures.get(image) if image in done else None,
        )
        for image, names in owners.items()
    }
    return {performer: [known[image] for image in images] for performer, images in listed.items()}


def run(
    listed: Mapping[str, Sequence[str]],
    caps: Mapping[str, int],
    with_face: set[str],
    lanes: int,
    page: int,
    seed: int,
    done: frozenset[str] = frozenset(),
    pictures: Mapping[str, str] = NO_PICTURES,
) -> list[str]:
    """The images in the order in which they are taken, with verdicts that come in any order."""

    async def go() -> list[str]:
        rng = random.Random(seed)
        images = ledger(listed, done, pictures)

        async def load(ids: Sequence[str]) -> Mapping[str, Sequence[LedgerImage]]:
            await asyncio.sleep(0)
            return {one: images[one] for one in ids}

        def commit(image: str) -> None:
            """Settled images have their new state in the catalog."""
            found = image in with_face
            state = ImageState.DONE if found else ImageState.REJECTED
            picture = pictures.get(image) if found else None
            for ledgers in images.values():
                ledgers[:] = [
                    replace(one, state=state, due=False, picture_hash=picture)
                    if one.image_id == image
                    else one
                    for one in ledgers
                ]

        schedule = Schedule([(performer, caps[performer]) for performer in listed], load, page)
        taken: list[str] = []

        async def lane() -> None:
            while (image := await schedule.take()) is not None:
                taken.append(image.image_id)
                for _ in range(rng.randrange(4)):
                    await asyncio.sleep(0)
                found = image.image_id in with_face
                schedule.settle(image, found, pictures.get(image.image_id) if found else None)
                commit(image.image_id)

        async with asyncio.timeout(240), asyncio.TaskGroup() as group:
            for _ in range(lanes):
                group.create_task(lane())
        return taken

    return asyncio.run(go())


def needed(
    listed: Mapping[str, Sequence[str]],
    caps: Mapping[str, int],
    with_face: set[str],
    pictures: Mapping[str, str],
) -> set[str]:
    """Of each performer's images the shortest beginning that holds as many pictures with a face as the cap asks for."""
    wanted: set[str] = set()
    for performer, images in listed.items():
        faces, seen = 0, []
        for image in images:
            if faces >= caps[performer]:
                break
            wanted.add(image)
            if image in with_face:
                picture = pictures.get(image)
                faces += picture is None or not any(same_picture(picture, other) for other in seen)
                seen += [picture] if picture is not None else []
    return wanted


worlds = st.dictionaries(
    st.sampled_from([f"p{i}" for i in range(9)]),
    st.lists(st.sampled_from([f"i{i}" for i in range(25)]), max_size=8, unique=True),
    max_size=9,
)


@pytest.mark.slow
@settings(max_examples=100)
@given(
    listed=worlds,
    caps=st.lists(st.integers(0, 4), min_size=9, max_size=9),
    with_face=st.sets(st.sampled_from([f"i{i}" for i in range(25)])),
    pictures=st.dictionaries(
        st.sampled_from([f"i{i}" for i in range(25)]), st.sampled_from([*CHAIN, OTHER]), max_size=25
    ),
    lanes=st.integers(1, 6),
    page=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_the_choice_of_images_does_not_depend_on_the_order_of_results(
    listed: dict[str, list[str]],
    caps: list[int],
    with_face: set[str],
    pictures: dict[str, str],
    lanes: int,
    page: int,
    seed: int,
) -> None:
    cap = {f"p{i}": caps[i] for i in range(9)}
    taken = run(listed, cap, with_face, lanes, page, seed, pictures=pictures)
    assert len(taken) == len(set(taken))
    assert set(taken) == needed(listed, cap, with_face, pictures)


@pytest.mark.slow
@given(
    listed=worlds, with_face=st.sets(st.sampled_from([f"i{i}" for i in range(25)])), stop=st.integers(0, 30)
)
def test_a_second_run_goes_on_where_the_first_one_ended(
    listed: dict[str, list[str]], with_face: set[str], stop: int
) -> None:
    cap = dict.fromkeys(listed, 2)
    whole = run(listed, cap, with_face, 3, 2, 1)
    # The first run looked at some images only: the ones with a face are done, the others are no longer due.
    seen = set(whole[:stop])
    rest = {
        performer: [i for i in images if i not in seen or i in with_face]
        for performer, images in listed.items()
    }
    second = run(rest, cap, with_face, 3, 2, 2, done=frozenset(seen & with_face))
    assert seen | set(second) == set(whole)
    assert not seen & set(second)


def test_every_performer_gets_a_first_face_before_any_gets_a_second() -> None:
    listed = {f"p{i}": [f"i{i}-{k}" for k in range(5)] for i in range(10)}
    with_face = {image for images in listed.values() for image in images}
    taken = run(listed, dict.fromkeys(listed, 3), with_face, lanes=1, page=10, seed=1)
    assert [image[-1] for image in taken] == ["0"] * 10 + ["1"] * 10 + ["2"] * 10


def test_close_ends_calls_that_wait_for_an_image() -> None:
    async def go() -> list[object]:
        images = ledger({"p": ["a"]})

        async def load(ids: Sequence[str]) -> Mapping[str, Sequence[LedgerImage]]:
            return {one: images[one] for one in ids}

        schedule = Schedule([("p", 1)], load, 10)
        assert await schedule.take() is not None
        waiting = [asyncio.create_task(schedule.take()) for _ in range(3)]
        await asyncio.sleep(0)
        schedule.close()
        return await asyncio.gather(*waiting)

    assert asyncio.run(go()) == [None, None, None]


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 6), st.randoms(use_true_random=False))
def test_images_out_of_order_are_the_next_of_their_performers_and_come_once(people, page, out_of_turn, rng):
    async def go() -> tuple[list[str], list[str]]:
        images = ledger({f"p{n:02}": [f"p{n:02}-a", f"p{n:02}-b"] for n in range(people)})

        async def load(ids: Sequence[str]) -> Mapping[str, Sequence[LedgerImage]]:
            await asyncio.sleep(0)
            return {one: images[one] for one in ids}

        schedule = Schedule([(one, 1) for one in images], load, page)
        early, taken = [], []
        while (image := await schedule.take()) is not None:
            taken.append(image)
            if len(early) < out_of_turn and rng.random() < 0.5:
                found = await schedule.take_elsewhere(lambda ledger: True)
                if found is not None:
                    early.append(found)
                    if rng.random() < 0.5:
                        schedule.settle(early[-1], False)
                        taken.append(early[-1])
            for one in [image] + [each for each in early if each not in taken]:
                taken += [one] if one is not image else []
                schedule.settle(one, False)
        return [one.image_id for one in early], [one.image_id for one in taken]

    early, taken = asyncio.run(go())
    assert len(set(early)) == len(early)
    assert sorted(taken) == sorted(f"p{n:02}-{kind}" for n in range(people) for kind in "ab")


@pytest.mark.slow
def test_images_out_of_order_come_from_the_whole_queue():
    async def go() -> list[int]:
        images = ledger({f"{n:05}": [f"{n:05}"] for n in range(10_000)})

        async def load(ids: Sequence[str]) -> Mapping[str, Sequence[LedgerImage]]:
            return {one: images[one] for one in ids}

        schedule = Schedule([(one, 1) for one in images], load, 100)
        found = [await schedule.take_elsewhere(lambda ledger: True) for _ in range(8)]
        return sorted(int(image.image_id) for image in found if image is not None)

    places = asyncio.run(go())
    assert len(places) == 8
    assert all(later - earlier < 3000 for earlier, later in pairwise([0, *places, 10_000]))
