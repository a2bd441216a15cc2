"""What all parts of one collecting run share: the source, the settings, the limits, the catalog and the threads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

import sqlalchemy as sa

from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.faces.collection.image_refusals import RefusalRules
from stash_sense_pipeline.faces.extraction.acceptance_criteria import AcceptanceCriteria
from stash_sense_pipeline.faces.extraction.decode import DecodeLimits
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.foundation.clock import BusyTime
from stash_sense_pipeline.settings.schema import GlobalSettings, SourceSettings

T = TypeVar("T")

# Lower than that of the threads that fetch, find faces and write, which need little time: they go first.
_SEARCH_NICENESS = 5


@dataclass(frozen=True)
class CollectLimits:
    """Sizes and limits of a run. Each of the `fetches` workers holds at most one image, which bounds the memory.

    After `max_images` images the run ends; the others wait for the next run. `searches` threads search for tattoos, but
    no more than there are cores. Four search eight pictures a second, which is more than the sources permit. Their
    network takes 0.2 GB of memory, and each of them 0.1 GB.
    """

    decode: DecodeLimits = field(default_factory=DecodeLimits)
    fetches: int = 16
    workers: int = 2
    searches: int = 4
    batch_size: int = 32
    batch_seconds: float = 2.0
    max_attempts: int = 5
    performers_in_memory: int = 500
    refusals: RefusalRules = field(default_factory=RefusalRules)
    max_images: int | None = None


class RunThreads:
    """The threads of a run: one for the catalog, `workers` for decoding and detection, `searches` for tattoos.

    One catalog thread reads pages and writes batches strictly one after the other. The search for tattoos takes much more
    time than all else. It has threads of its own, at a low priority, so that pictures are fetched and faces are found
    meanwhile.
    """

    def __init__(self, workers: int, searches: int) -> None:
        self.writing = BusyTime()
        self.detecting = BusyTime()
        self.searching = BusyTime()
        self._catalog = ThreadPoolExecutor(1, thread_name_prefix="catalog")
        self._compute = ThreadPoolExecutor(workers, thread_name_prefix="faces")
        self._search = ThreadPoolExecutor(
            min(searches, len(os.sched_getaffinity(0))),
            thread_name_prefix="tattoos",
            initializer=_lower_priority,
        )

    def in_catalog(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Queues `work` for the catalog thread at once."""
        return asyncio.get_running_loop().run_in_executor(self._catalog, lambda: _timed(self.writing, work))

    def in_compute(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Queues `work` for the compute threads at once."""
        return asyncio.get_running_loop().run_in_executor(self._compute, lambda: _timed(self.detecting, work))

    def in_search(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Queues `work` for the threads that search for tattoos at once."""
        return asyncio.get_running_loop().run_in_executor(self._search, lambda: _timed(self.searching, work))

    def shutdown(self) -> None:
        """Waits for running work; cancels queued detection, but not queued catalog work."""
        # A running detection is waited for: its result is not needed, but its ONNX session must stay alive.
        self._search.shutdown(wait=False, cancel_futures=True)
        self._compute.shutdown(cancel_futures=True)
        self._search.shutdown()
        self._catalog.shutdown()


def _lower_priority() -> None:
    # On Linux 0 is the calling thread, and the priority is its own.
    niceness = max(os.getpriority(os.PRIO_PROCESS, 0), _SEARCH_NICENESS)
    os.setpriority(os.PRIO_PROCESS, 0, niceness)


def _timed(busy: BusyTime, work: Callable[[], T]) -> T:
    with busy:
        return work()


@dataclass(frozen=True)
class SecondPack:
    """The second pack of a run, and the criteria that follow from its detector."""

    pack: ModelPack
    criteria: AcceptanceCriteria


@dataclass(frozen=True)
class RunContext:
    """The inputs of a run that do not change, and its threads."""

    engine: sa.Engine
    source: SourceSettings
    pack: ModelPack
    settings: GlobalSettings
    limits: CollectLimits
    criteria: AcceptanceCriteria
    clock: Callable[[], datetime]
    threads: RunThreads
    second: SecondPack | None = None

    async def read(self, query: Callable[[sa.Connection], T]) -> T:
        """The result of a query in the catalog thread, in a transaction of its own."""

        def work() -> T:
            with reading(self.engine) as connection:
                return query(connection)

        return await self.threads.in_catalog(work)
