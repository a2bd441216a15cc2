"""What the sync of a source works with: the catalog writer, the stored state, the limits and the time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from stash_sense_pipeline.catalog.queries.sync_state import SyncState
from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.sources.catalog_writer import CatalogWriter
from stash_sense_pipeline.sources.sync_rules import SyncRules


@dataclass(frozen=True)
class SyncRun:
    """One run of a sync. `state` is what the last run stored, `now` when this run started."""

    writer: CatalogWriter
    state: SyncState
    rules: SyncRules
    now: datetime
    progress: Progress
