"""Imports suppression entries: resolves each in the catalog and stores its hashes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time
from itertools import chain
from pathlib import Path

import sqlalchemy as sa

from stash_sense_pipeline.catalog.key_filters import rows_of
from stash_sense_pipeline.catalog.schema import (
    identity_members,
    source_performers,
    sync_state,
    withheld_records,
)
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.privacy.linked_records import owners_of, with_linked
from stash_sense_pipeline.privacy.record_lookup import images_at, records_called, records_listing
from stash_sense_pipeline.privacy.suppression.suppression_file import (
    SuppressionEntry,
    is_url,
    read_suppressions_file,
    sealed_target,
    unsealed,
)
from stash_sense_pipeline.privacy.suppression.suppression_hashes import (
    AWAITED_IMAGE,
    PICTURE,
    RECORD,
    URL,
    Digest,
    image_id_hash,
    kept_digests,
    key_fingerprint,
    plain_url_hash,
    record_hash,
    target_hashes,
)
from stash_sense_pipeline.privacy.suppression.suppression_list import (
    HashRow,
    Suppressions,
    load_list,
    store_hashes,
)
from stash_sense_pipeline.privacy.url_forms import parse_url
from stash_sense_pipeline.records.profile_urls import MAX_PAGE_HOLDERS
from stash_sense_pipeline.records.record_key import ImageKey, RecordKey


@dataclass(frozen=True)
class ImportReport:
    """The result of an import: entries of the file, and hashes that are new in the catalog.

    `shared_pictures` counts new entries with the URL of an image that several people have: they mean only the image.
    """

    entries: int
    added: int
    shared_pictures: int = 0


@dataclass(frozen=True)
class AddedEntry:
    """An entry that was added, with a sealed target.

    `records` are the records in the catalog that the target names. `picture`: the target is the URL of an image.
    `shared`: several people have that image, so that only the image is suppressed.
    """

    entry: SuppressionEntry
    records: frozenset[RecordKey]
    picture: bool
    shared: bool


@dataclass(frozen=True)
class _Resolved:
    """What one new entry means in the catalog."""

    entry: SuppressionEntry
    hashes: tuple[Digest, ...]
    records: frozenset[RecordKey] = frozenset()
    picture: bool = False
    shared: bool = False


@dataclass(frozen=True)
class _Found:
    """What the catalog has for the targets of new entries."""

    called: dict[RecordKey, set[RecordKey]]
    listers: dict[str, set[RecordKey]]
    pictures: dict[str, set[ImageKey]]
    read_in_full: frozenset[str]


def import_suppressions_file(
    engine: sa.Engine, path: Path, key: bytes, sources: Collection[str]
) -> ImportReport:
    """Imports a suppression file into the catalog, the whole file or nothing; importing it again changes nothing.

    An entry that was removed from the file stays suppressed. `sources` are the names that a target may begin with.
    Raises ConfigurationError with file and line of every problem: entries that cannot be read, ids and URLs that no
    source has (once it was read in full) and that are not marked `unseen`, URLs that several people have, and sealed
    entries of another key.
    """
    entries = read_suppressions_file(path, sources)
    with reading(engine) as connection:
        known = load_list(connection, key)
        if not _new_entries(known, entries):
            return ImportReport(len(entries), 0)
    with writing(engine) as connection:
        resolved, problems = _resolve(connection, load_list(connection, key), entries)
        _refuse([f"{path}:{entry.line}: {problem}" for entry, problem in problems], path)
        shared = sum(each.shared for each in resolved)
        return ImportReport(len(entries), _store(connection, key, resolved), shared)


def add_suppressions(connection: sa.Connection, key: bytes, entries: Sequence[SuppressionEntry]) -> int:
    """Adds entries to the catalog's list; existing entries stay unchanged. Returns the number of new hashes.

    Raises CatalogError when the list was made with another key, ConfigurationError as import_suppressions_file.
    """
    resolved, problems = _resolve(connection, load_list(connection, key), entries)
    _refuse([problem for _, problem in problems], None)
    return _store(connection, key, resolved)


def add_sealed(connection: sa.Connection, key: bytes, entry: SuppressionEntry) -> AddedEntry | None:
    """Adds an entry and returns it with a sealed target; None when the list has it already.

    The sealed target holds the hashes of the target, and those of the records that list a URL now. Raises as
    add_suppressions.
    """
    resolved, problems = _resolve(connection, load_list(connection, key), [entry])
    _refuse([problem for _, problem in problems], None)
    _store(connection, key, resolved)
    if not resolved:
        return None
    [added] = resolved
    target = sealed_target(key_fingerprint(key), added.hashes)
    return AddedEntry(replace(entry, target=target), added.records, added.picture, added.shared)


def has_new_entries(known: Suppressions, entries: Sequence[SuppressionEntry]) -> bool:
    """True when the list lacks one of the entries."""
    return bool(_new_entries(known, entries))


def _new_entries(known: Suppressions, entries: Sequence[SuppressionEntry]) -> list[SuppressionEntry]:
    return [entry for entry in entries if not _is_known(known, entry)]


def _is_known(known: Suppressions, entry: SuppressionEntry) -> bool:
    opened = unsealed(entry.target)
    if opened is not None and opened[0] != key_fingerprint(known.key):
        return False
    own = _own_hashes(known.key, entry.target)
    # An entry of degree ASSOCIATED becomes NAMED, so it counts as new.
    return all(known.has(kind, digest) and digest not in known.associated for kind, digest in own)


def _own_hashes(key: bytes, target: str) -> tuple[Digest, ...]:
    opened = unsealed(target)
    return target_hashes(key, target, is_url=is_url(target)) if opened is None else opened[1]


def _resolve(
    connection: sa.Connection, known: Suppressions, entries: Sequence[SuppressionEntry]
) -> tuple[list[_Resolved], list[tuple[SuppressionEntry, str]]]:
    """What each new entry means, and the entries that are wrong, each with its problem."""
    new = _new_entries(known, entries)
    urls = [entry.target for entry in new if is_url(entry.target)]
    states = connection.execute(sa.select(sync_state.c.source).where(sync_state.c.backfilled_at.is_not(None)))
    names = {target: name for entry in new if (name := _record_named_by(target := entry.target)) is not None}
    found = _Found(
        records_called(connection, set(names.values())),
        records_listing(connection, [parse_url(url) for url in urls]),
        images_at(connection, urls),
        frozenset(source for (source,) in states),
    )
    resolved: list[_Resolved] = []
    problems: list[tuple[SuppressionEntry, str]] = []
    for entry in new:
        try:
            resolved.append(_resolved(connection, known, entry, found))
        except ConfigurationError as error:
            problems.append((entry, str(error)))
    return resolved, problems


def _resolved(
    connection: sa.Connection, known: Suppressions, entry: SuppressionEntry, found: _Found
) -> _Resolved:
    key, target = known.key, entry.target
    own = _own_hashes(key, target)
    opened = unsealed(target)
    if opened is not None:
        if opened[0] != key_fingerprint(key):
            raise ConfigurationError("it was sealed with another suppression.key; restore that key")
        return _Resolved(entry, own)
    name = _record_named_by(target)
    if name is not None:
        named = found.called[name]
        if named or not is_url(target) or _is_known_record(connection, known, *name):
            if not (
                named
                or entry.unseen
                or name[0] not in found.read_in_full
                or _is_known_record(connection, known, *name)
            ):
                raise ConfigurationError(
                    f"{name[0]} was read in full and has no such record; correct the id, or mark the entry unseen"
                )
            return _Resolved(entry, _distinct(own, _record_digests(key, named)), frozenset(named))
    listers, pictures = found.listers[target], found.pictures[target]
    if not (listers or pictures or entry.unseen) and found.read_in_full:
        raise ConfigurationError(
            "no record lists this URL and no image has it; correct it, give SOURCE:ID, or mark the entry unseen"
        )
    _refuse_ambiguity(connection, listers)
    owners = set() if entry.picture_only else owners_of(connection, pictures)
    shared = len(owners) > 1 and not owners <= with_linked(connection, {min(owners)})
    if shared and entry.block_face:
        raise ConfigurationError(
            "several people have this image, so it does not tell which face to refuse; give SOURCE:ID of the person's record"
        )
    records = listers if shared else listers | owners
    images = [(PICTURE, image_id_hash(key, *picture)) for picture in sorted(pictures)]
    page = parse_url(target)
    if not (listers or pictures or entry.picture_only or page.profile):
        images = [(AWAITED_IMAGE, plain_url_hash(key, target))]
    hashes = _distinct(own, kept_digests(key, page), _record_digests(key, records), images)
    return _Resolved(entry, hashes, frozenset(records), picture=bool(pictures), shared=shared)


def _record_digests(key: bytes, records: Collection[RecordKey]) -> list[Digest]:
    return [(RECORD, record_hash(key, *record)) for record in sorted(records)]


def _distinct(*digests: Iterable[Digest]) -> tuple[Digest, ...]:
    return tuple(dict.fromkeys(chain(*digests)))


def _record_named_by(target: str) -> RecordKey | None:
    """The source and id that a target names, also as a stash-box page; None for another URL or a sealed target."""
    if unsealed(target) is not None:
        return None
    if not is_url(target):
        source, _, source_id = target.partition(":")
        return source, source_id
    return parse_url(target).stash_box_record


def _is_known_record(connection: sa.Connection, known: Suppressions, source: str, source_id: str) -> bool:
    if known.covers_record(source, source_id):
        return True
    table, withheld = source_performers, withheld_records
    forms = [source_id, source_id.lower(), source_id.casefold()]
    stored = sa.select(table.c.source).where(table.c.source == source, table.c.source_id.in_(forms))
    hashes = [known.withheld_hash(source, form) for form in forms]
    kept_out = sa.select(withheld.c.source).where(withheld.c.source == source, withheld.c.id_hash.in_(hashes))
    return connection.scalar(stored) is not None or connection.scalar(kept_out) is not None


def _refuse_ambiguity(connection: sa.Connection, listers: set[RecordKey]) -> None:
    """Raises ConfigurationError for a page that several people list, as it does not tell which of them is meant."""
    if len(listers) < 2:
        return
    members = identity_members
    query = sa.select(members.c.performer_id)
    own = sa.tuple_(members.c.source, members.c.source_id)
    people = {performer_id for (performer_id,) in rows_of(connection, query, own, listers)}
    apart = len(people) > 1 and not listers <= with_linked(connection, {min(listers)})
    if apart or len(listers) > MAX_PAGE_HOLDERS:
        raise ConfigurationError(
            f"the URL is ambiguous: {len(listers)} records of {max(len(people), 2)} people list it;"
            " give SOURCE:ID of the person's record instead"
        )


def _store(connection: sa.Connection, key: bytes, resolved: Sequence[_Resolved]) -> int:
    rows = []
    for each in resolved:
        entry = each.entry
        added = datetime.combine(entry.date, time(), UTC)
        # The records that list the URL were searched for just now, and their hashes are added.
        searched = added if is_url(entry.target) else None
        rows += [
            HashRow(
                kind,
                digest,
                entry.reason,
                added,
                applied_at=searched if kind == URL else None,
                block_face=entry.block_face,
            )
            for kind, digest in each.hashes
        ]
    return store_hashes(connection, key, rows)


def _refuse(problems: Sequence[str], path: Path | None) -> None:
    if problems:
        heading = [f"{path}: {len(problems)} errors"] if len(problems) > 1 and path else []
        raise ConfigurationError("\n".join([*heading, *problems]))
