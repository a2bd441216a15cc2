"""A queue of crops that wait for an embedding, and how several workers lease its crops."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import sqlalchemy as sa

from stash_sense_pipeline.catalog.key_filters import IN_LIST
from stash_sense_pipeline.catalog.upsert import batched


@dataclass(frozen=True)
class WaitingCrop:
    """A crop that lacks a vector, with the id of its face or tattoo. `outdated`: it has a vector of another network."""

    id: int
    png: bytes
    outdated: bool


W = TypeVar("W", bound=WaitingCrop)


@dataclass(frozen=True)
class CropQueue(ABC, Generic[W]):
    """The crops of one source that wait for vectors of the networks of a pack."""

    source: str

    # What the crops show, as progress names it.
    shown: ClassVar[str]
    # The first half of the key of PostgreSQL's advisory lock on a crop. The second half is the id.
    lock: ClassVar[int]
    # The crops, and the column of the ids.
    crops: ClassVar[sa.Table]
    key: ClassVar[sa.Column[int]]

    @abstractmethod
    def waits(self) -> sa.ColumnElement[bool]:
        """Condition on `crops`: the crop is in the queue."""

    @abstractmethod
    def is_embedded(self) -> sa.ColumnElement[bool]:
        """Condition on `crops`: the crop would be in the queue, but lacks no vector."""

    @abstractmethod
    def of_source(self) -> sa.ColumnElement[bool]:
        """Condition on `crops`: the crop is of the source."""

    @abstractmethod
    def waiting_ids(self, after: int) -> sa.Select[int]:
        """The ids above `after` in the queue, sorted."""

    @abstractmethod
    def waiting(
        self, connection: sa.Connection, after: int, limit: int, among: Sequence[int] | None = None
    ) -> list[W]:
        """The next `limit` crops of the queue with ids above `after`, sorted by id. With `among`, only of these ids."""

    @abstractmethod
    def store(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Stores vectors; each replaces the one of the same crop and network.

        Vectors of a face or tattoo that was removed, or that another transaction is removing, are left out.
        """

    def count(self, connection: sa.Connection) -> int:
        """The number of crops in the queue."""
        waiting = sa.select(sa.func.count()).select_from(self.crops)
        return connection.scalar(waiting.where(self.waits())) or 0

    def count_crops(self, connection: sa.Connection) -> int:
        """The number of stored crops of the source."""
        stored = sa.select(sa.func.count()).select_from(self.crops)
        return connection.scalar(stored.where(self.of_source())) or 0

    def drop_crops(self, connection: sa.Connection, ids: Sequence[int]) -> None:
        """Removes crops."""
        for some in batched(ids, IN_LIST):
            connection.execute(sa.delete(self.crops).where(self.key.in_(some)))

    def drop_embedded_crops(self, connection: sa.Connection) -> None:
        """Removes the crops that lack no vector."""
        connection.execute(sa.delete(self.crops).where(self.is_embedded()))

    def lease(self, session: sa.Connection, after: int, limit: int) -> tuple[list[W], list[int]]:
        """As `waiting`, but leases the crops until `release` and skips those that another worker has leased.

        `session` is one of `leasing`. Returns the crops and the leased ids. Another worker may just have finished some
        of the ids, which then have no crop in the list. There are no ids when other workers have leased all that wait.
        A lease is an advisory lock, so it ends with the connection of its worker. It does not lock a row.
        """
        # OFFSET is an optimisation fence: the locks are taken in the order of the ids, and at most `limit` of them.
        waiting = self.waiting_ids(after).offset(0).subquery()
        (key,) = waiting.c
        free = sa.select(key).where(sa.func.pg_try_advisory_lock(self.lock, key)).limit(limit)
        leased = list(session.scalars(free))
        if not leased:
            return [], []
        # Reads again, to see what other workers have committed since the search began.
        return self.waiting(session, after, limit, among=leased), leased

    def release(self, session: sa.Connection, leased: Sequence[int]) -> None:
        """Ends leases. Call it after the vectors are committed."""
        for key in leased:
            session.execute(sa.select(sa.func.pg_advisory_unlock(self.lock, key)))


def still_present(connection: sa.Connection, key: sa.Column[int], ids: Sequence[int]) -> set[int]:
    """Those of `ids` that the table of `key` has and that no other transaction is removing.

    Another transaction that removes one of them waits until this one ends. SQLite has one writer.
    """
    present: set[int] = set()
    for some in batched(sorted(set(ids)), IN_LIST):
        query = sa.select(key).where(key.in_(some))
        present.update(connection.scalars(query.with_for_update(key_share=True, read=True, skip_locked=True)))
    return present


@contextmanager
def leasing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A PostgreSQL session without an open transaction, for `lease` and `release`. Leases end with it."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        try:
            yield connection
        finally:
            # The connection goes back to the pool and would keep the leases.
            if not connection.invalidated:
                connection.execute(sa.select(sa.func.pg_advisory_unlock_all()))
