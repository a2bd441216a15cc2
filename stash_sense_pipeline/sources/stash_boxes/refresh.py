"""Refreshes a source: chooses backfill, increment or sweep, runs it, stores the outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.purge import checkpoint
from stash_sense_pipeline.catalog.queries import performers
from stash_sense_pipeline.catalog.queries.sync_state import SyncState, load_state, save_state
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.foundation.clock import Clock
from stash_sense_pipeline.foundation.errors import Outcome, SourceError
from stash_sense_pipeline.foundation.progress import Progress, silent_progress
from stash_sense_pipeline.foundation.runtime_tuning import rare_collections
from stash_sense_pipeline.privacy.intake.record_evidence import Relatives
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline.settings.run_overrides import SyncMode
from stash_sense_pipeline.settings.schema import SourceSettings
from stash_sense_pipeline.sources.catalog_writer import CatalogWriter
from stash_sense_pipeline.sources.stash_boxes.connectors import Connector
from stash_sense_pipeline.sources.stash_boxes.stash_box_sync import StashBoxSync
from stash_sense_pipeline.sources.stash_boxes.theporndb_connector import ThePornDbConnector
from stash_sense_pipeline.sources.stash_boxes.theporndb_sync import ThePornDbSync
from stash_sense_pipeline.sources.sync_rules import SyncRules


@dataclass(frozen=True)
class SyncReport:
    """What a refresh did. Counts are of records: `listed` in the source's lists, `live` in the
    catalog now, of which `unchanged` are as they were.

    `mode` is backfill, increment or sweep. `held` records wait for the operator's review, see `suppress review`.
    `refused` records are missing at the source, too many to believe it at once; `missing` has the numbers. `unread` ones
    came and could not be read or stored, or the server could not answer for them; `unread_reasons` counts them by reason.
    `left_out` counts by field what was left out of records because it cannot be used. An `outcome` other than found comes
    with a `message` of one line; then the watermark has not moved, except for ambiguous (records were refused).
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
    left_out: Mapping[str, int] = field(default_factory=dict)


async def refresh_source(
    engine: sa.Engine,
    source: SourceSettings,
    connector: Connector,
    suppressions: Suppressions,
    mode: SyncMode = "auto",
    progress: Progress = silent_progress,
    *,
    rules: SyncRules | None = None,
    clock: Clock | None = None,
    data_dir: Path | None = None,
    relatives: Relatives | None = None,
) -> SyncReport:
    """Brings the records of one source up to date.

    A source that was never read in full is read in full, whatever the mode; after that `auto` and
    `updates_only` read what changed, and `full_sweep` compares everything. A failure of the source is the
    report's outcome, not an exception; what was stored before it stays. `data_dir` and `relatives`: see Mirror.
    """
    clock = clock or Clock()
    started, asked_before = clock.monotonic(), connector.client.requests
    with reading(engine) as connection:
        state = load_state(connection, source.name)
    writer = CatalogWriter(engine, source.name, suppressions, clock, data_dir, relatives)
    chosen = "backfill" if state.backfilled_at is None else "sweep" if mode == "full_sweep" else "increment"
    run = _run(connector, writer, state, rules or SyncRules(), clock, progress)
    changes: Mapping[str, Any] = {}
    try:
        with rare_collections():
            outcome, message, changes = await {
                "backfill": run.backfill,
                "sweep": run.sweep,
                "increment": run.increment,
            }[chosen]()
        # What the source took away must not live on in SQLite's log until the next restart.
        if await writer.remove_orphaned_images() or writer.tally.suppressed:
            await asyncio.to_thread(checkpoint, engine)
        changes = {**changes, "last_sync_at": clock.now()}
    except SourceError as error:
        outcome, message = error.outcome, str(error)
    await writer.erase_linked()
    state = replace(
        state,
        **changes,
        last_outcome=outcome.value,
        last_message=message,
    )
    with writing(engine) as connection:
        # Somebody may have been erased while this run held their id.
        known = _without_suppressed(state.detail, source.name, suppressions.refreshed(connection))
        state = replace(state, detail=known)
        save_state(connection, state)
        live = performers.count_records(connection, source.name).live
    tally = writer.tally
    missing = {key: value for key, value in state.detail.get("missing", {}).items() if key != "ids"}
    return SyncReport(
        source=source.name,
        mode=chosen,
        listed=len(run.listed),
        live=live,
        added=tally.added,
        updated=tally.updated,
        removed=tally.removed,
        merged=tally.merged,
        unchanged=live - tally.added - tally.updated,
        images_added=tally.images_added,
        suppressed=len(tally.suppressed),
        not_adult=len(tally.not_adult),
        held=len(tally.held),
        refused=missing.get("count", 0),
        unread=len(run.unread),
        requests=connector.client.requests - asked_before,
        outcome=outcome,
        message=message,
        seconds=clock.monotonic() - started,
        server_version=state.server_version,
        missing=missing,
        unread_reasons=run.unread.reasons,
        left_out=dict(sorted(connector.left_out.items())),
    )


def _without_suppressed(detail: Any, source: str, suppressions: Suppressions) -> Any:
    """The progress of a source without ids of suppressed records: lists in it are of ids, and keys may be."""
    if isinstance(detail, Mapping):
        return {
            key: _without_suppressed(value, source, suppressions)
            for key, value in detail.items()
            if not suppressions.covers_record(source, key)
        }
    if isinstance(detail, list | tuple):
        return [source_id for source_id in detail if not suppressions.covers_record(source, source_id)]
    return detail


def _run(
    connector: Connector,
    writer: CatalogWriter,
    state: SyncState,
    rules: SyncRules,
    clock: Clock,
    progress: Progress,
) -> StashBoxSync | ThePornDbSync:
    if isinstance(connector, ThePornDbConnector):
        return ThePornDbSync(connector, writer, state, rules, clock.now(), progress)
    return StashBoxSync(connector, writer, state, rules, clock.now(), progress)
