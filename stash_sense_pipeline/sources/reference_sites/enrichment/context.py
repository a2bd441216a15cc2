"""What all parts of an enrichment run share: the catalog, the site, the stash-boxes and the clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.enrichment import KnownRecord
from stash_sense_pipeline.foundation.clock import Clock
from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.settings.schema import ReferenceSiteSettings
from stash_sense_pipeline.sources.reference_sites.enrichment.profile_matching import any_order, passes_filter
from stash_sense_pipeline.sources.reference_sites.site_connector import SiteConnector

# How a profile is found: a stash-box lists its URL, or the site's search finds it by name. Stored with visits and records.
URL, NAME = "url", "name"


@dataclass(frozen=True)
class EnrichContext:
    """One run for one site. `boxes`: the universal-id host of each stash-box by name, the most trusted first."""

    engine: sa.Engine
    settings: ReferenceSiteSettings
    boxes: Mapping[str, str]
    connector: SiteConnector
    suppressions: Suppressions
    progress: Progress
    clock: Clock

    @property
    def source(self) -> str:
        """The name of the site."""
        return self.settings.name

    def by_rank(self, record: RecordKey) -> tuple[int, RecordKey]:
        """Sorts records: those of the most trusted stash-box first."""
        return self._ranks.get(record[0], len(self._ranks)), record

    @cached_property
    def _ranks(self) -> dict[str, int]:
        return {name: rank for rank, name in enumerate(self.boxes)}

    def performer_url(self, record: KnownRecord) -> str:
        """The address of a record's page at its stash-box."""
        return f"https://{self.boxes[record.source]}/performers/{record.source_id}"

    def wants_gender(self, gender: str | None) -> bool:
        """True when the site's gender filter lets this gender through, or the gender is unknown."""
        return passes_filter(gender, self.settings.gender_filter)

    def item_hash(self, item: str) -> str:
        """The form in which the catalog stores an item. It takes the secret key, so that names cannot be tested on it."""
        return self.suppressions.withheld_hash(self.source, item)

    def alias_hash(self, name: str) -> str:
        """The hash of an alias, regardless of the order of its words."""
        return self.suppressions.withheld_hash("alias", any_order(name))[:32]
