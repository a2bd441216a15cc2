"""What a run shares with every source that it reads: catalog, suppression list, limits, clock, progress."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from stash_sense_pipeline.foundation.clock import Clock
from stash_sense_pipeline.foundation.progress import Progress, silent_progress
from stash_sense_pipeline.privacy.intake.record_evidence import Relatives
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline.sources.sync_rules import SyncRules


@dataclass(frozen=True)
class IngestContext:
    """The surroundings of a run that stores records.

    `data_dir` is the folder of reports and logs, which are redacted before an erasure is committed; None without such
    files. `relatives` as in Withholding. `max_records`: a stash-box is read until so many records are stored; None: to
    its end. `genders` as in Withholding.
    """

    engine: sa.Engine
    suppressions: Suppressions
    rules: SyncRules = field(default_factory=SyncRules)
    progress: Progress = silent_progress
    clock: Clock = field(default_factory=Clock)
    data_dir: Path | None = None
    relatives: Relatives | None = None
    max_records: int | None = None
    genders: Collection[str] | None = None
