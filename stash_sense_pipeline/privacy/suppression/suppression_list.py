"""The suppression list: load, query, extend."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.key_filters import IN_LIST
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.catalog.upsert import batched, upsert
from stash_sense_pipeline.foundation.errors import CatalogError
from stash_sense_pipeline.privacy.suppression.likeness_search import copies_among, unshuffled
from stash_sense_pipeline.privacy.suppression.suppression_hashes import (
    AWAITED_IMAGE,
    IMAGE,
    KEY_CHECK,
    LIKENESS,
    OTHER,
    PERSONA,
    PICTURE,
    RECORD,
    URL,
    WITHHELD,
    Digest,
    image_hash,
    image_id_hash,
    keyed_hash,
    plain_url_hash,
    profile_hash,
    record_hash,
    url_digests,
)
from stash_sense_pipeline.records import profile_urls
from stash_sense_pipeline.records.perceptual_hash import is_copy

# Degrees of an entry. NAMED: the operator listed it, or it belongs to an erased person. ASSOCIATED: it is of a record that
# was refused because it shares evidence with a named one. Suppression spreads one hop: a record that matches only
# associated entries is refused, and adds none.
NAMED, ASSOCIATED = 0, 1


@dataclass(frozen=True)
class Suppressions:
    """The suppression list in memory, which is asked before anything is stored or fetched.

    The sets hold HMAC-SHA256 hex digests, from which no identifier can be read. `associated` are those of this degree,
    `pending` those that the catalog was not searched for yet, `face_blocks` those of entries that ask to refuse the face.
    `personas`, `others` and `awaited` are the hashes of these kinds. `held` maps the hashes of held records' evidence to
    the hashes of the records. `rows` and `held_state` tell how much was read.
    """

    key: bytes = field(repr=False)
    records: frozenset[str] = field(default=frozenset(), repr=False)
    urls: frozenset[str] = field(default=frozenset(), repr=False)
    images: frozenset[str] = field(default=frozenset(), repr=False)
    pictures: frozenset[str] = field(default=frozenset(), repr=False)
    likenesses: frozenset[str] = field(default=frozenset(), repr=False)
    associated: frozenset[str] = field(default=frozenset(), repr=False)
    pending: frozenset[str] = field(default=frozenset(), repr=False)
    face_blocks: frozenset[str] = field(default=frozenset(), repr=False)
    rows: int = 0
    personas: frozenset[str] = field(default=frozenset(), repr=False)
    others: frozenset[str] = field(default=frozenset(), repr=False)
    held: Mapping[str, frozenset[str]] = field(default_factory=dict, repr=False)
    held_state: tuple[int, int] = (0, 0)
    awaited: frozenset[str] = field(default=frozenset(), repr=False)

    def __len__(self) -> int:
        """How many keys are suppressed."""
        return sum(map(len, (self.records, self.urls, self.images, self.pictures, self.likenesses)))

    @property
    def knows_evidence(self) -> bool:
        """True when a record can match the list or a held record by its ids, pages or names."""
        return bool(self.records or self.urls or self.personas or self.held)

    def is_other(self, record: tuple[str, str]) -> bool:
        """True for a record that the operator has declared another person."""
        return bool(self.others) and record_hash(self.key, *record) in self.others

    def is_held(self, source: str, source_id: str) -> bool:
        """True for a record that waits for review, or was rejected two hops from a named one: its evidence is kept."""
        return bool(self.held) and self.withheld_hash(source, source_id) in self._held_records

    @cached_property
    def _held_records(self) -> frozenset[str]:
        return frozenset().union(*self.held.values())

    def covers_record(self, source: str, source_id: str) -> bool:
        """True when the record of a source must not be stored."""
        return bool(self.records) and record_hash(self.key, source, source_id) in self.records

    def covers_url(self, url: str) -> bool:
        """True when the URL of a profile or an image belongs to a suppressed person."""
        if not self.urls:
            return False
        if plain_url_hash(self.key, url) in self.urls:
            return True
        profile = profile_urls.canonical_profile(url)
        return profile is not None and profile_hash(self.key, profile) in self.urls

    def covers_image(self, sha256: str) -> bool:
        """True when image bytes with this hex digest must not be used."""
        return bool(self.images) and image_hash(self.key, sha256) in self.images

    def covers_picture(self, source: str, image_id: str, url: str) -> bool:
        """True when an image that a source lists must not be stored, by its id there or by its URL."""
        if self.pictures and image_id_hash(self.key, source, image_id) in self.pictures:
            return True
        return bool(self.urls) and plain_url_hash(self.key, url) in self.urls

    def awaits_image(self, url: str) -> bool:
        """True for the URL of a listed image that no source had shown before: which person it means is not decided yet."""
        waiting = self.awaited & self.pending
        return bool(waiting) and plain_url_hash(self.key, url) in waiting

    def forbids_picture(self, url: str) -> bool:
        """True when no face of the image at `url` may be stored before its source has shown the image."""
        return self.covers_url(url) or self.awaits_image(url)

    def covers_likeness(self, picture_hash: str) -> bool:
        """True when an image with this perceptual hash (16 hex digits) is a copy of a suppressed one."""
        if not self.likenesses:
            return False
        return bool(is_copy(self._perceptual_hashes, picture_hash).any())

    def covers_likenesses(self, picture_hashes: Sequence[str | None]) -> NDArray[np.bool_]:
        """covers_likeness of many hashes at once, as a mask of shape (n,); None is never covered."""
        if not self.likenesses:
            return np.zeros(len(picture_hashes), dtype=bool)
        return copies_among(self._perceptual_hashes, picture_hashes)

    @cached_property
    def _perceptual_hashes(self) -> NDArray[np.uint64]:
        return unshuffled(self.key, self.likenesses)

    def degree(self, source: str, source_ids: Iterable[str], urls: Iterable[str]) -> int | None:
        """The degree of a record with these ids (its own, and those merged into it) and profile URLs.

        NAMED or ASSOCIATED is the nearest entry that it matches; None when it matches no entry.
        """
        hits: set[str] = set()
        if self.records:
            hits |= self.records.intersection(record_hash(self.key, source, each) for each in source_ids)
        if self.records or self.urls:
            for url in urls:
                found = {digest for _, digest in url_digests(self.key, url)}
                hits |= self.urls & found | self.records & found
        if not hits:
            return None
        return NAMED if hits - self.associated else ASSOCIATED

    def has(self, kind: str, digest: str) -> bool:
        """True when this hash is on the list."""
        sets = {
            RECORD: self.records,
            URL: self.urls,
            IMAGE: self.images,
            PICTURE: self.pictures,
            PERSONA: self.personas,
            OTHER: self.others,
            AWAITED_IMAGE: self.awaited,
        }
        return digest in sets.get(kind, self.likenesses)

    def withheld_hash(self, source: str, source_id: str) -> str:
        """The hash that identifies a record which was read and not stored."""
        return keyed_hash(self.key, WITHHELD, f"{source}:{source_id}")

    def only_pending(self) -> Self:
        """The part of the list that the catalog was not searched for yet."""
        kept = {
            name: getattr(self, name) & self.pending
            for name in ("records", "urls", "images", "pictures", "likenesses")
        }
        return replace(self, **kept)

    def refreshed(self, connection: sa.Connection) -> Self:
        """The list with entries that other processes added since it was read. Only evidence of held records is removed."""
        rows = connection.scalar(sa.select(sa.func.count()).select_from(schema.suppressions))
        if rows == self.rows and _held_state(connection) == self.held_state:
            return self
        now = load_list(connection, self.key)
        return replace(
            self,
            records=self.records | now.records,
            urls=self.urls | now.urls,
            images=self.images | now.images,
            pictures=self.pictures | now.pictures,
            likenesses=self.likenesses | now.likenesses,
            associated=now.associated,
            pending=now.pending,
            face_blocks=now.face_blocks,
            rows=now.rows,
            personas=self.personas | now.personas,
            others=now.others,
            held=now.held,
            held_state=now.held_state,
            awaited=now.awaited,
        )


NO_SUPPRESSIONS = Suppressions(key=b"")


class HashRow(NamedTuple):
    """One row of the catalog's list. `kind` is a kind of suppression_hashes; `reason` holds no name.

    `applied_at` is when the catalog was searched for it, None when it was not yet.
    """

    kind: str
    key_hash: str
    reason: str
    added_at: datetime
    degree: int = NAMED
    applied_at: datetime | None = None
    block_face: bool = False


class ListedHash(NamedTuple):
    """The parts of a row that can be shown: they identify no person."""

    kind: str
    reason: str
    added_at: datetime
    applied: bool


def load_suppressions(engine: sa.Engine, key: bytes) -> Suppressions:
    """The suppression list of a catalog.

    Raises CatalogError when the list was made with another key: no hash of it would match.
    """
    with reading(engine) as connection:
        return load_list(connection, key)


def store_hashes(connection: sa.Connection, key: bytes, rows: Collection[HashRow]) -> int:
    """Adds the rows that the catalog's list lacks, and returns how many are new or changed.

    An existing row stays unchanged, except that a row of degree ASSOCIATED becomes NAMED.

    Raises CatalogError when the list was made with another key.
    """
    if not rows:
        return 0
    table = schema.suppressions
    _load_check(connection, key)
    present: dict[Digest, int] = {}
    hashes = sorted({row.key_hash for row in rows})
    for start in range(0, len(hashes), 500):
        found = sa.select(table.c.kind, table.c.key_hash, table.c.degree).where(
            table.c.key_hash.in_(hashes[start : start + 500])
        )
        present.update(((kind, key_hash), degree) for kind, key_hash, degree in connection.execute(found))
    new: dict[Digest, HashRow] = {}
    for row in sorted(rows, key=lambda row: row.degree):
        if row.degree < present.get((row.kind, row.key_hash), ASSOCIATED + 1):
            new.setdefault((row.kind, row.key_hash), row)
    if new:
        first = min(row.added_at for row in rows)
        check = HashRow(KEY_CHECK, keyed_hash(key, KEY_CHECK, ""), "check", first, NAMED, first)
        added = [row for place, row in new.items() if place not in present]
        rows_to_add = [row._asdict() for row in (check, *added)]
        upsert(connection, table, rows_to_add, keep=frozenset(HashRow._fields) - {"kind", "key_hash"})
        _name(connection, [row for place, row in new.items() if place in present])
    return len(new)


def _name(connection: sa.Connection, associated: Sequence[HashRow]) -> None:
    """Changes rows of degree ASSOCIATED to these NAMED rows."""
    if associated:
        table = schema.suppressions
        which = (table.c.kind == sa.bindparam("of_kind")) & (table.c.key_hash == sa.bindparam("of_hash"))
        names = [name for name in HashRow._fields if name not in ("kind", "key_hash")]
        statement = (
            sa.update(table).where(which).values({name: sa.bindparam(f"new_{name}") for name in names})
        )
        connection.execute(
            statement,
            [
                {"of_kind": row.kind, "of_hash": row.key_hash}
                | {f"new_{name}": getattr(row, name) for name in names}
                for row in associated
            ],
        )


def mark_applied(connection: sa.Connection, now: datetime) -> None:
    """Notes that the catalog was searched for its whole list. Awaited images stay awaited."""
    table = schema.suppressions
    searched = table.c.applied_at.is_(None) & (table.c.kind != AWAITED_IMAGE)
    connection.execute(sa.update(table).where(searched).values(applied_at=now))


def mark_shown(connection: sa.Connection, awaited: Collection[str], now: datetime) -> None:
    """Notes that a source showed these awaited images, and that it was decided which people they mean."""
    table = schema.suppressions
    for batch in batched(sorted(awaited), IN_LIST):
        shown = (table.c.kind == AWAITED_IMAGE) & table.c.key_hash.in_(batch)
        connection.execute(sa.update(table).where(shown).values(applied_at=now))


def listed_hashes(engine: sa.Engine) -> list[ListedHash]:
    """The parts of the list that can be shown, oldest first."""
    table = schema.suppressions
    query = (
        sa.select(table.c.kind, table.c.reason, table.c.added_at, table.c.applied_at)
        .where(table.c.kind != KEY_CHECK)
        .order_by(table.c.added_at, table.c.kind, table.c.key_hash)
    )
    with reading(engine) as connection:
        return [
            ListedHash(kind, reason, added, applied is not None)
            for kind, reason, added, applied in connection.execute(query)
        ]


def hold_list(connection: sa.Connection) -> None:
    """Locks the list until the end of this write transaction: other processes wait before they add to it."""
    if connection.dialect.name == "postgresql":
        # On SQLite a write transaction locks the whole database.
        connection.exec_driver_sql(f"LOCK TABLE {schema.suppressions.name} IN SHARE MODE")


def load_list(connection: sa.Connection, key: bytes) -> Suppressions:
    """The suppression list, read in a transaction of the caller's. Raises as load_suppressions."""
    table = schema.suppressions
    # Reading only whether there is a time: parsing a hundred thousand times takes longer than everything else.
    is_pending = table.c.applied_at.is_(None)
    columns = (table.c.kind, table.c.key_hash, table.c.degree, is_pending, table.c.block_face)
    hashes: defaultdict[str, set[str]] = defaultdict(set)
    associated: set[str] = set()
    pending: set[str] = set()
    blocks: set[str] = set()
    count = 0
    for kind, key_hash, degree, waits, block_face in connection.execute(sa.select(*columns)):
        count += 1
        hashes[kind].add(key_hash)
        if degree != NAMED:
            associated.add(key_hash)
        if waits:
            pending.add(key_hash)
        if block_face:
            blocks.add(key_hash)
    _check_key(key, hashes[KEY_CHECK], count)
    held: defaultdict[str, set[str]] = defaultdict(set)
    notes = schema.held_evidence
    for key_hash, owner in connection.execute(sa.select(notes.c.key_hash, notes.c.owner_hash)):
        held[key_hash].add(owner)
    return Suppressions(
        key,
        frozenset(hashes[RECORD]),
        frozenset(hashes[URL]),
        frozenset(hashes[IMAGE]),
        frozenset(hashes[PICTURE]),
        frozenset(hashes[LIKENESS]),
        frozenset(associated),
        frozenset(pending),
        frozenset(blocks),
        count,
        frozenset(hashes[PERSONA]),
        frozenset(hashes[OTHER]),
        {key_hash: frozenset(owners) for key_hash, owners in held.items()},
        _held_state(connection),
        frozenset(hashes[AWAITED_IMAGE]),
    )


def _held_state(connection: sa.Connection) -> tuple[int, int]:
    """A value that changes whenever evidence of held records is added or removed."""
    table = schema.held_evidence
    row = connection.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.max(table.c.evidence_id), 0))
    ).one()
    return int(row[0]), int(row[1])


def _load_check(connection: sa.Connection, key: bytes) -> None:
    table = schema.suppressions
    count = connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
    checks = connection.scalars(sa.select(table.c.key_hash).where(table.c.kind == KEY_CHECK))
    _check_key(key, set(checks), count)


def _check_key(key: bytes, checks: Collection[str], rows: int) -> None:
    if rows and keyed_hash(key, KEY_CHECK, "") not in checks:
        raise CatalogError(
            "the catalog's suppression list was made with another suppression.key; restore it from a backup"
        )
