"""The records that an incremental run has loaded, and their blocking keys."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.queries.identity import identity_input
from stash_sense_pipeline.catalog.queries.identity import identity_runs as runs
from stash_sense_pipeline.catalog.queries.identity.identity_runs import KeyIndex
from stash_sense_pipeline.identity.linkage.blocking import (
    StashBoxes,
    blocking_keys,
    merged_into,
)
from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline.identity.run_steps import (
    SharedPictures,
    read_population,
)
from stash_sense_pipeline.records.record_key import RecordKey


class LoadedRecords:
    """Records of the catalog. Each is loaded once, at its first use."""

    def __init__(self, reads: ShortReads, boxes: StashBoxes, shared: SharedPictures) -> None:
        self.reads = reads
        self.shared = shared
        self.boxes = boxes
        self.index = KeyIndex.of(reads(runs.read_keys))
        self.records: dict[RecordKey, Record] = {}
        self._asked: set[RecordKey] = set()

    def load(self, keys: Iterable[RecordKey]) -> None:
        """Loads the records, and the records that tombstones among them were merged into, to the end of the chain."""
        missing = set(keys) - self._asked
        while missing:
            self._asked |= missing
            news = self.reads(read_population, self.shared.images, missing)
            self.records.update(news)
            targets = {
                (record.source, record.merged_into)
                for record in news.values()
                if not record.live and record.merged_into is not None
            }
            missing = targets - self._asked

    def load_merged_into(self, keys: Iterable[RecordKey]) -> set[RecordKey]:
        """Loads the records and all that were merged into them, directly or in a chain. Returns all their keys."""
        found = set(keys)
        news = set(found)
        while news:
            news = set(self.reads(identity_input.read_merged_into, news)) - found
            found |= news
        self.load(found)
        return found

    def blocking_keys(self, keys: Collection[RecordKey]) -> dict[RecordKey, tuple[str, ...]]:
        """The blocking keys of the live records among `keys`."""
        merged = merged_into(
            {key: self.records[key] for key in self.load_merged_into(keys) if key in self.records}
        )
        return {
            key: blocking_keys(self.records[key], merged.get(key, ()), self.boxes)
            for key in keys
            if key in self.records and self.records[key].live
        }
