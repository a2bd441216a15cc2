"""A small world of true people with records on several boxes, and the steps of a build in any order."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.identity.linkage.clustering import cluster
from stash_sense_pipeline.identity.linkage.overrides import Overrides, load_overrides
from stash_sense_pipeline.identity.linkage.weighing import find_evidence
from stash_sense_pipeline.identity.rebuild import rebuild_identities
from stash_sense_pipeline.identity.relatives import IdentityRelatives, identity_records
from stash_sense_pipeline.privacy.erasure import ErasureScope, erase_suppressed
from stash_sense_pipeline.privacy.intake.holding import settle
from stash_sense_pipeline.privacy.intake.record_evidence import RecordEvidence
from stash_sense_pipeline.privacy.recheck import matching_records, recheck_people
from stash_sense_pipeline.privacy.suppression.suppression_file import SuppressionEntry
from stash_sense_pipeline.privacy.suppression.suppression_import import add_suppressions
from stash_sense_pipeline.privacy.suppression.suppression_list import load_suppressions
from stash_sense_pipeline.records.performer_record import PerformerRecord
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.sources.catalog_writer import CatalogWriter
from stash_sense_pipeline.sources.ingest_context import IngestContext

KEY = bytes(range(32))
HOSTS = {
    "stashdb": "stashdb.org",
    "fansdb": "fansdb.cc",
    "pmvstash": "pmvstash.org",
    "javstash": "javstash.org",
}
NOW = datetime(2026, 11, 20, 4, 5, 6, tzinfo=UTC)


def page_of(source: str, source_id: str) -> str:
    """The public page of a record."""
    return f"https://{HOSTS[source]}/performers/{source_id}"


@dataclass
class World:
    """What the sources show now, what was `read` of it, and the catalog that was built from it."""

    engine: sa.Engine
    shown: dict[RecordKey, PerformerRecord] = field(default_factory=dict)
    gone: dict[RecordKey, str] = field(default_factory=dict)
    read: dict[RecordKey, PerformerRecord] = field(default_factory=dict)
    version: int = 0
    overrides: Path | None = None

    @property
    def relatives(self) -> IdentityRelatives:
        """The search for records of one person, with the overrides file of this world."""
        return IdentityRelatives(HOSTS, self.overrides)

    def show(self, source: str, source_id: str, name: str, **fields: object) -> RecordKey:
        """Makes a source show a record, or another version of it."""
        self.version += 1
        updated = NOW + timedelta(seconds=self.version)
        values: dict[str, object] = {"birth_date": None, "urls": (), **fields}
        self.shown[source, source_id] = PerformerRecord(source_id, name, updated_at=updated, **values)  # type: ignore[arg-type]
        return source, source_id

    def change(self, record: RecordKey, **fields: object) -> None:
        """Changes a record at its source."""
        self.version += 1
        updated = NOW + timedelta(seconds=self.version)
        self.shown[record] = replace(self.shown[record], updated_at=updated, **fields)  # type: ignore[arg-type]

    def merge(self, loser: RecordKey, survivor: RecordKey) -> None:
        """Merges one record into another at their source."""
        assert loser[0] == survivor[0]
        self.change(survivor, merged_ids=(*self.shown[survivor].merged_ids, loser[1]))
        del self.shown[loser]
        self.gone[loser] = survivor[1]

    def add(self, *targets: str, **flags: bool) -> None:
        """Puts targets on the list as `unseen` entries, which need not be in the catalog."""
        entries = [
            SuppressionEntry(target, "asked", date(2026, 11, 20), unseen=True, **flags) for target in targets
        ]
        with writing(self.engine) as connection:
            add_suppressions(connection, KEY, entries)

    def sync(self, *sources: str) -> CatalogWriter:
        """Syncs these sources, or all that have shown a record when none is named."""
        used = {source for source, _ in (*self.shown, *self.gone, *self.read)}
        for source in sources or sorted(used):
            known = load_suppressions(self.engine, KEY)
            writer = CatalogWriter(IngestContext(self.engine, known, relatives=self.relatives), source)
            asyncio.run(self._sync(writer, source))
            self.read |= {key: record for key, record in self.shown.items() if key[0] == source}
            self.read = {
                key: record for key, record in self.read.items() if key in self.shown or key[0] != source
            }
        return writer

    async def _sync(self, writer: CatalogWriter, source: str) -> None:
        records = [record for key, record in sorted(self.shown.items()) if key[0] == source]
        await writer.store(records)
        await writer.tombstone({key[1]: into for key, into in self.gone.items() if key[0] == source})
        await writer.erase_linked()

    def apply(self) -> None:
        """Runs what `suppress apply` does in the catalog."""
        erase_suppressed(
            self.engine, load_suppressions(self.engine, KEY), NOW, ErasureScope(relatives=self.relatives)
        )

    def identities(self) -> None:
        """Runs what the asset identity_graph does."""
        self.apply()
        overrides = load_overrides(self.overrides) if self.overrides else Overrides()
        rebuild_identities(self.engine, HOSTS, overrides, NOW)
        recheck_people(
            self.engine,
            load_suppressions(self.engine, KEY),
            NOW,
            lambda traces, until_committed: None,
            self.relatives,
        )

    def publish(self) -> set[RecordKey]:
        """Computes identities, and returns the records that a release would hold."""
        self.identities()
        assert matching_records(self.engine, load_suppressions(self.engine, KEY)) == 0
        return self.stored()

    def stored(self) -> set[RecordKey]:
        """The live records of the catalog."""
        table = schema.source_performers
        with reading(self.engine) as connection:
            rows = connection.execute(
                sa.select(table.c.source, table.c.source_id).where(table.c.deleted_at.is_(None))
            )
            return {(source, source_id) for source, source_id in rows}

    def held(self) -> set[RecordKey]:
        """The records that wait for review."""
        table = schema.withheld_records
        with reading(self.engine) as connection:
            rows = connection.execute(
                sa.select(table.c.source, table.c.source_id).where(table.c.reason.like("held%"))
            )
            return {(source, source_id) for source, source_id in rows}

    def settle(self, record: RecordKey, *, same: bool) -> None:
        """Settles a held record."""
        with writing(self.engine) as connection:
            settle(connection, load_suppressions(self.engine, KEY), record, NOW, same=same)

    def person_of(self, record: RecordKey) -> set[RecordKey]:
        """The records that identity would link to a record if it knew everything that was read of the sources."""
        records = identity_records([told_of(*item) for item in self.read.items()])
        groups = cluster(records, find_evidence(records, HOSTS).evidence).groups
        return {key for group in groups if record in group for key in group}


def told_of(key: RecordKey, record: PerformerRecord) -> RecordEvidence:
    """A record as privacy and identity see it."""
    return RecordEvidence(
        *key,
        record.name,
        record.aliases,
        record.birth_date,
        record.gender,
        record.country,
        record.urls,
        record.merged_ids,
    )


@contextmanager
def fresh_world(template: Path, directory: Path) -> Iterator[World]:
    """A world with an empty catalog, copied from `template`."""
    path = directory / "catalog.db"
    shutil.copy(template, path)
    engine = open_catalog(f"sqlite:///{path}")
    try:
        yield World(engine)
    finally:
        engine.dispose()
