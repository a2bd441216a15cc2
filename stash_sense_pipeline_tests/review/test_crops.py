"""Crops: from the catalog, else fetched once under the rules of the source, and never for suppressed people."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import cv2
import numpy as np
import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.schema import aligned_crops, source_images
from stash_sense_pipeline.catalog.source_lock import source_lock
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.review.crops import Crops, NoCropError
from stash_sense_pipeline.settings.sources_file import load_settings
from stash_sense_pipeline.sources.cooldown import start_cooldown
from stash_sense_pipeline_tests.review.world import ReviewWorld

# Faces with an even number have no kept crop.
KEPT, FETCHED, OTHER = 1, 2, 4


def with_crops(world: ReviewWorld, work: Callable[[Crops], Awaitable[object]]) -> None:
    async def run() -> None:
        crops = Crops(world.engine, load_settings(world.environment.sources_file), world.environment)
        try:
            await work(crops)
        finally:
            await crops.aclose()

    world.pictures.asked.clear()
    asyncio.run(run())


def refusal(world: ReviewWorld, face_id: int) -> str:
    """Why there is no crop of a face."""
    said: list[str] = []

    async def ask(crops: Crops) -> None:
        with pytest.raises(NoCropError) as raised:
            await crops.crop(face_id, world.desk().suppressions())
        said.append(str(raised.value))

    with_crops(world, ask)
    return said[0]


@pytest.mark.slow
def test_a_kept_crop_is_shown_without_a_request(world: ReviewWorld) -> None:
    async def ask(crops: Crops) -> None:
        png = await crops.crop(KEPT, world.desk().suppressions())
        with reading(world.engine) as connection:
            assert png == connection.scalar(
                sa.select(aligned_crops.c.png).where(aligned_crops.c.face_id == KEPT)
            )

    with_crops(world, ask)
    assert world.pictures.asked == []


@pytest.mark.slow
def test_a_picture_is_fetched_once_also_for_requests_at_once_and_its_crop_is_aligned(
    world: ReviewWorld,
) -> None:
    async def ask(crops: Crops) -> None:
        listed = world.desk().suppressions()
        found = await asyncio.gather(*(crops.crop(FETCHED, listed) for _ in range(5)))
        assert len(set(found)) == 1
        image = cv2.imdecode(np.frombuffer(found[0], np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        assert image.shape == (112, 112, 3)
        # After it is dropped it is fetched again: it was nowhere else.
        crops.forget({FETCHED})
        await crops.crop(FETCHED, listed)

    with_crops(world, ask)
    assert world.pictures.asked == [f"/pictures/{FETCHED}.jpg"] * 2
    with reading(world.engine) as connection:
        assert (
            connection.scalar(sa.select(aligned_crops.c.face_id).where(aligned_crops.c.face_id == FETCHED))
            is None
        )


@pytest.mark.slow
def test_a_changed_or_missing_picture_is_not_shown(world: ReviewWorld) -> None:
    for values, said in (
        ({"sha256": "0" * 64}, "the picture has changed at its source"),
        (
            {"url": f"{world.pictures.address}/pictures/gone.jpg"},
            "fansdb did not send the picture (not_found)",
        ),
    ):
        with writing(world.engine) as connection:
            image = (source_images.c.source == "fansdb") & (source_images.c.image_id == f"i{FETCHED}")
            connection.execute(source_images.update().where(image).values(**values))
        assert refusal(world, FETCHED) == said


@pytest.mark.slow
def test_the_reason_names_no_address(world: ReviewWorld) -> None:
    with writing(world.engine) as connection:
        table = source_images
        image = (table.c.source == "fansdb") & (table.c.image_id == f"i{FETCHED}")
        secret = "http://10.9.8.7/mira_sample.jpg"
        connection.execute(table.update().where(image).values(url=secret))
    said = refusal(world, FETCHED)
    assert "mira" not in said
    assert "10.9.8.7" not in said


@pytest.mark.slow
def test_nothing_is_asked_while_a_run_reads_the_source_or_in_its_cooldown(world: ReviewWorld) -> None:
    with source_lock(world.engine, "fansdb", lambda _: None):
        assert refusal(world, FETCHED) == "a run reads fansdb now; open the card again later"
    start_cooldown(world.engine, "fansdb", datetime.now(UTC))
    assert refusal(world, FETCHED) == "fansdb did not send the picture (blocked)"
    assert world.pictures.asked == []


@pytest.mark.slow
def test_a_source_that_is_not_enabled_is_not_asked(world: ReviewWorld) -> None:
    path = world.environment.sources_file
    path.write_text(path.read_text().replace("fansdb:\n", "fansdb:\n    enabled: false\n"))
    assert refusal(world, FETCHED) == "fansdb is not enabled in sources.yaml"
    assert world.pictures.asked == []


@pytest.mark.slow
@pytest.mark.parametrize("face_id", [KEPT, FETCHED])
def test_a_suppressed_person_s_face_is_not_shown_kept_or_not(world: ReviewWorld, face_id: int) -> None:
    record = next(key for key, faces in world.faces.items() if face_id in faces)
    world.command_here("suppress", "add", ":".join(record), "--reason", "asked us")
    assert refusal(world, face_id) == "the suppression list covers this picture"
    assert world.pictures.asked == []


@pytest.mark.slow
def test_the_pace_of_a_source_holds_from_one_process_to_the_next_and_an_ended_one_is_replaced(
    world: ReviewWorld,
) -> None:
    path = world.environment.sources_file
    # One request in two minutes.
    path.write_text(path.read_text().replace("rate_limit: 6000", "rate_limit: 0.5"))

    async def ask(crops: Crops) -> None:
        listed = world.desk().suppressions()
        begun = time.monotonic()
        await crops.crop(FETCHED, listed)
        assert crops._next_request["fansdb"] >= begun + 119
        crops.forget({FETCHED})
        # This one waits for its turn, and its card is settled meanwhile.
        waiting = asyncio.create_task(crops.crop(FETCHED, listed))
        while not crops._channels:
            await asyncio.sleep(0.01)
        crops.forget({FETCHED})
        with pytest.raises(NoCropError, match="has ended; open the card again"):
            await waiting
        # The next one waits as well, here for a shorter time.
        turn = crops._next_request["fansdb"] = time.monotonic() + 2
        await crops.crop(FETCHED, listed)
        assert time.monotonic() >= turn

    with_crops(world, ask)
    assert world.pictures.asked == [f"/pictures/{FETCHED}.jpg"] * 2
