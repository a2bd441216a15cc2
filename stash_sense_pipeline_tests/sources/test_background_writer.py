"""Storing while pages are fetched: when a batch begins, when `put` waits, and what an error leaves behind."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from stash_sense_pipeline.records.performer_record import PerformerRecord
from stash_sense_pipeline.sources import catalog_writer
from stash_sense_pipeline.sources.catalog_writer import WriteBehindBuffer


def records(count: int) -> list[PerformerRecord]:
    return cast("list[PerformerRecord]", list(range(count)))


async def others_run() -> None:
    """Gives the other tasks many turns of the event loop."""
    for _ in range(50):
        await asyncio.sleep(0)


class Store:
    """Takes batches, each one only when it is let through."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.may_go_on = asyncio.Event()
        self.busy = 0

    async def __call__(self, batch: Any) -> None:
        self.batches.append(len(batch))
        self.busy += 1
        assert self.busy == 1
        await self.may_go_on.wait()
        self.busy -= 1


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_writer, "_LEAST_RECORDS", 10)
    monkeypatch.setattr(catalog_writer, "_MOST_RECORDS", 40)
    monkeypatch.setattr(catalog_writer, "_BATCH_SECONDS", 60.0)


def test_a_batch_takes_what_came_while_the_one_before_was_stored() -> None:
    async def run() -> list[int]:
        store = Store()
        async with WriteBehindBuffer(store) as storing:
            await storing.put(records(9))
            await others_run()
            assert store.batches == []
            await storing.put(records(3))
            await others_run()
            assert store.batches == [12]
            await storing.put(records(25))
            assert store.batches == [12]
            store.may_go_on.set()
            await others_run()
            await storing.put(records(1))
            await storing.put(records(2))
        return store.batches

    assert asyncio.run(run()) == [12, 26, 2]


def test_put_waits_when_a_batch_is_full_and_another_one_is_being_stored() -> None:
    async def run() -> None:
        store = Store()
        async with WriteBehindBuffer(store) as storing:
            await storing.put(records(10))
            await storing.put(records(39))
            waits = asyncio.create_task(storing.put(records(1)))
            await others_run()
            assert not waits.done()
            store.may_go_on.set()
            await waits
        assert store.batches == [10, 40]

    asyncio.run(run())


def test_a_few_records_are_stored_after_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_writer, "_BATCH_SECONDS", 0.0)

    async def run() -> None:
        store = Store()
        store.may_go_on.set()
        async with WriteBehindBuffer(store) as storing:
            await storing.put(records(1))
            await others_run()
            assert store.batches == [1]

    asyncio.run(run())


def test_fetched_records_are_stored_when_the_source_fails() -> None:
    store = Store()

    async def run() -> None:
        store.may_go_on.set()
        async with WriteBehindBuffer(store) as storing:
            await storing.put(records(3))
            raise ConnectionError

    with pytest.raises(ConnectionError):
        asyncio.run(run())
    assert store.batches == [3]


def test_a_batch_that_cannot_be_stored_stops_the_next_one() -> None:
    async def fails(batch: Any) -> None:
        raise OSError("the disk is full")

    async def run() -> None:
        async with WriteBehindBuffer(fails) as storing:
            await storing.put(records(10))
            await others_run()
            await storing.put(records(1))
            raise AssertionError("unreachable")

    with pytest.raises(OSError, match="full"):
        asyncio.run(run())
