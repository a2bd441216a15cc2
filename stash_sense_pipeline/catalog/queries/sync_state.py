"""Sync state of each source: watermarks, last outcome, details for the next run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.schema import sync_state
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.catalog.upsert import upsert

# Key of SyncState.detail for the numbers of the last run, when it had too many refused images.
MASS_REFUSAL = "mass_refusal"


@dataclass(frozen=True)
class SyncState:
    """The row of one source. The watermarks are times of the source's clock; the other times are of the local clock.

    `detail` holds state for the next run: `unread` records by id, each with its reason and version, `missing` ids with
    the numbers of a refused mass disappearance, and in `mass_refusal` the numbers of refused images.
    """

    source: str
    updated_watermark: datetime | None = None
    edits_watermark: datetime | None = None
    backfilled_at: datetime | None = None
    last_sync_at: datetime | None = None
    last_sweep_at: datetime | None = None
    last_outcome: str | None = None
    last_message: str | None = None
    server_version: str | None = None
    detail: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


def load_state(connection: sa.Connection, source: str) -> SyncState:
    """The state of a source. A source that was never read has an empty state."""
    row = connection.execute(sa.select(sync_state).where(sync_state.c.source == source)).one_or_none()
    return SyncState(source) if row is None else _state(row)


def load_states(connection: sa.Connection) -> dict[str, SyncState]:
    """The states of all sources that were read before."""
    return {row.source: _state(row) for row in connection.execute(sa.select(sync_state))}


def mass_refusals(engine: sa.Engine, sources: Collection[str]) -> dict[str, Mapping[str, int]]:
    """For each of `sources` with too many refused images in its last run, the numbers of that run."""
    with reading(engine) as connection:
        states = load_states(connection)
    return {
        source: state.detail[MASS_REFUSAL]
        for source, state in states.items()
        if source in sources and MASS_REFUSAL in state.detail
    }


def save_state(connection: sa.Connection, state: SyncState) -> None:
    """Stores the row of a source. Call it in the transaction that stores the data, or in a later one."""
    row = {column.name: getattr(state, column.name) for column in sync_state.columns}
    upsert(connection, sync_state, [{**row, "detail": dict(state.detail)}])


def _state(row: Any) -> SyncState:
    fields = dict(row._mapping)
    return SyncState(**{**fields, "detail": MappingProxyType(fields["detail"] or {})})
