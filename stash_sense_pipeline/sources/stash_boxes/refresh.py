"""Refreshes a source: chooses backfill, increment or sweep, runs it, stores the outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stash_sense_pipeline.catalog.purge import checkpoint
from stash_sense_pipeline.catalog.queries import performers
from stash_sense_pipeline.catalog.queries.sync_state import SyncState, load_state, save_state
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.foundation.errors import Outcome, SourceError
from stash_sense_pipeline.foundation.runtime_tuning import rare_collections
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline.settings.run_overrides import SyncMode
from stash_sense_pipeline.settings.schema import SourceSettings
from stash_sense_pipeline.sources.catalog_writer import CatalogWriter, Tally
from stash_sense_pipeline.sources.ingest_context import IngestContext
from stash_sense_pipeline.sources.stash_boxes.connectors import Connector
from stash_sense_pipeline.sources.stash_boxes.stash_box_sync import StashBoxSync
from stash_sense_pipeline.sources.stash_boxes.theporndb_connector import ThePornDbConnector
from stash_sense_pipeline.sources.stash_boxes.theporndb_sync import ThePornDbSync

_Sync = StashBoxSync | ThePornDbSync


@dataclass(frozen=True)
class SyncReport:
    """The result of a refresh, in numbers of records.

    `mode` is backfill, increment or sweep. `listed` is the number of records in the source's lists, `live` the number in
    the catalog after the run, `unchanged` the part of it that the run did not change. `held` records wait for the
    operator's review, see `suppress review`. `other_gender` records are left out by the gender_filter of the source.
    `refused` records are missing at the source, and too many to be believed
    missing in one run; `missing` has the numbers. `unread` records could not be read or stored, or the server failed to
    answer for them; `unread_reasons` counts them by reason. `left_out` counts by field the unusable values that were
    left out of records. An `outcome` other than found has a `message` of one line; then the watermark was not moved,
    except for ambiguous (records were refused).
    """

    source: str
    mode: str
    listed: int
    live: int
    added: int
    updated: int
    removed: int
    merged: int
    unchanged: int
    images_added: int
    suppressed: int
    not_adult: int
    held: int
    refused: int
    unread: int
    requests: int
    outcome: Outcome
    message: str | None
    seconds: float
    server_version: str | None = None
    missing: Mapping[str, int] = field(default_factory=dict)
    unread_reasons: Mapping[str, int] = field(default_factory=dict)
    other_gender: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)


async def refresh_source(
    context: IngestContext, source: SourceSettings, connector: Connector, mode: SyncMode = "auto"
) -> SyncReport:
    """Brings the records of one source up to date.

    The first refresh reads the source in full, whatever the mode. After that `auto` and `updates_only` read the changed
    records, and `full_sweep` compares all records. A failure of the source is the report's outcome, not an exception;
    records stored before it are kept.
    """
    started, asked_before = context.clock.monotonic(), connector.client.requests
    with reading(context.engine) as connection:
        state = load_state(connection, source.name)
    writer = CatalogWriter(replace(context, genders=source.gender_filter), source.name)
    await writer.leave_out_genders()
    chosen = "backfill" if state.backfilled_at is None else "sweep" if mode == "full_sweep" else "increment"
    sync = _sync_of(connector, writer, state)
    outcome, message, changes = await _run(sync, chosen, writer)
    await writer.erase_linked()
    state = replace(state, **changes, last_outcome=outcome.value, last_message=message)
    with writing(context.engine) as connection:
        # Records may have been erased while this run held their ids.
        known = _without_suppressed(state.detail, source.name, context.suppressions.refreshed(connection))
        state = replace(state, detail=known)
        save_state(connection, state)
        live = performers.count_records(connection, source.name).live
    missing = {key: value for key, value in state.detail.get("missing", {}).items() if key != "ids"}
    return SyncReport(
        source=source.name,
        mode=chosen,
        listed=len(sync.listed),
        live=live,
        **_counts(writer.tally, live),
        refused=missing.get("count", 0),
        unread=len(sync.unread),
        requests=connector.client.requests - asked_before,
        outcome=outcome,
        message=message,
        seconds=context.clock.monotonic() - started,
        server_version=state.server_version,
        missing=missing,
        unread_reasons=sync.unread.reasons,
        left_out=dict(sorted(connector.left_out.items())),
    )


async def _run(
    sync: _Sync, mode: str, writer: CatalogWriter
) -> tuple[Outcome, str | None, Mapping[str, Any]]:
    """Runs the sync in its mode. Returns the outcome, its message, and the changed fields of the state."""
    changes: Mapping[str, Any] = {}
    try:
        with rare_collections():
            outcome, message, changes = await {
                "backfill": sync.backfill,
                "sweep": sync.sweep,
                "increment": sync.increment,
            }[mode]()
        # Data that the source removed must not stay in SQLite's write-ahead log until the next restart.
        if await writer.remove_orphaned_images() or writer.tally.suppressed:
            await asyncio.to_thread(checkpoint, writer.context.engine)
        return outcome, message, {**changes, "last_sync_at": writer.context.clock.now()}
    except SourceError as error:
        return error.outcome, str(error), changes


def _counts(tally: Tally, live: int) -> dict[str, int]:
    """The fields of the report that count records stored and refused by the writer."""
    return {
        "added": tally.added,
        "updated": tally.updated,
        "removed": tally.removed,
        "merged": tally.merged,
        "unchanged": live - tally.added - tally.updated,
        "images_added": tally.images_added,
        "suppressed": len(tally.suppressed),
        "not_adult": len(tally.not_adult),
        "held": len(tally.held),
        "other_gender": len(tally.other_gender),
    }


def _without_suppressed(detail: Any, source: str, suppressions: Suppressions) -> Any:
    """The `detail` of a source without ids of suppressed records, which are items of lists and keys of objects."""
    if isinstance(detail, Mapping):
        return {
            key: _without_suppressed(value, source, suppressions)
            for key, value in detail.items()
            if not suppressions.covers_record(source, key)
        }
    if isinstance(detail, list | tuple):
        return [source_id for source_id in detail if not suppressions.covers_record(source, source_id)]
    return detail


def _sync_of(connector: Connector, writer: CatalogWriter, state: SyncState) -> _Sync:
    if isinstance(connector, ThePornDbConnector):
        return ThePornDbSync(connector, writer, state)
    return StashBoxSync(connector, writer, state)
