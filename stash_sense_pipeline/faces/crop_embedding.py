"""Works off a queue of crops, of faces or of tattoos: leases a batch, embeds it, stores its vectors, releases it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.embedding.crop_queue import CropQueue, WaitingCrop, leasing
from stash_sense_pipeline.catalog.transactions import reading, server_errors_in_one_line, shown_url, writing
from stash_sense_pipeline.faces.models.onnx_sessions import Device
from stash_sense_pipeline.foundation.progress import Progress

_LOOK_AGAIN_SECONDS = 0.5

W = TypeVar("W", bound=WaitingCrop)
# Computes the rows of the vectors that crops lack.
Networks = Callable[[Sequence[W]], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class EmbeddingRules:
    """How crops are embedded. `keep_crops`: they stay after they are embedded. `threads`: None takes all cores that this
    process may use.
    """

    device: Device = Device.CPU
    batch_size: int = 64
    keep_crops: bool = False
    threads: int | None = None

    @property
    def workers(self) -> int:
        """The number of crops that are embedded in parallel on the CPU."""
        return self.threads or len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class EmbeddingControl:
    """`progress` is told after each batch how many are done. The run ends early when `stop` returns True."""

    progress: Progress | None = None
    stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Embedded:
    """The results of one run: crops that got all their vectors, how many of them had one of another network, crops left."""

    crops: int
    outdated: int
    left: int
    interrupted: bool
    seconds: float


def embed_crops(
    engine: sa.Engine,
    queue: CropQueue[W],
    open_networks: Callable[[ExitStack], Networks[W]],
    rules: EmbeddingRules,
    control: EmbeddingControl,
) -> Embedded:
    """Embeds the crops of `queue` until none waits.

    `open_networks` loads the networks until the end of the stack; it is not called when no crop waits. Each batch is one
    transaction, in which its crops are deleted unless they are kept. On PostgreSQL several processes may work on one
    queue: each leases its batches.
    """
    started = time.monotonic()
    with reading(engine) as connection:
        total = queue.count(connection)
    done, outdated, after, interrupted = 0, 0, 0, False
    with ExitStack() as stack:
        if total:
            # On SQLite each source has only one worker.
            leases = engine.dialect.name == "postgresql"
            session = stack.enter_context(leasing(engine)) if leases else None
            batches = _Batches(engine, queue, open_networks(stack), rules, session)
        while total and not (interrupted := control.stop()):
            batch, last = batches.embed_next(after)
            if last is None:
                if not batches.count_waiting():
                    break
                # Other processes lease the remaining crops. This one takes over those that they do not finish.
                after = 0
                time.sleep(_LOOK_AGAIN_SECONDS)
                continue
            done, after = done + len(batch), last
            outdated += sum(crop.outdated for crop in batch)
            if control.progress is not None:
                control.progress(queue.shown, done, max(total, done))
    if not rules.keep_crops:
        with writing(engine) as connection:
            queue.drop_embedded_crops(connection)
    with reading(engine) as connection:
        left = queue.count_crops(connection)
    return Embedded(done, outdated, left, interrupted, time.monotonic() - started)


@dataclass(frozen=True)
class _Batches(Generic[W]):
    engine: sa.Engine
    queue: CropQueue[W]
    embed: Networks[W]
    rules: EmbeddingRules
    session: sa.Connection | None

    def count_waiting(self) -> int:
        with reading(self.engine) as connection:
            return self.queue.count(connection)

    def embed_next(self, after: int) -> tuple[Sequence[W], int | None]:
        """Embeds and stores the crops behind the id `after`: the crops, and the last id, None at the end.

        No transaction is open while vectors are computed. On PostgreSQL the crops are leased in `session` until their
        vectors are stored.
        """
        limit = self.rules.batch_size
        if self.session is None:
            with reading(self.engine) as connection:
                batch = self.queue.waiting(connection, after, limit)
            leased = [crop.id for crop in batch]
        else:
            with server_errors_in_one_line(shown_url(self.engine.url), "write to"):
                batch, leased = self.queue.lease(self.session, after, limit)
        if batch:
            rows = self.embed(batch)
            with writing(self.engine) as connection:
                self.queue.store(connection, rows)
                if not self.rules.keep_crops:
                    self.queue.drop_crops(connection, [crop.id for crop in batch])
        if self.session is not None:
            with server_errors_in_one_line(shown_url(self.engine.url), "write to"):
                self.queue.release(self.session, leased)
        return batch, leased[-1] if leased else None
