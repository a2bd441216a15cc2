"""Who must not be in the catalog: keyed hashes that recognise a person's records, URLs and images."""

from __future__ import annotations

import hmac
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode

import sqlalchemy as sa

from stash_sense_pipeline import profile_urls
from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import reading, writing
from stash_sense_pipeline.catalog.upsert import upsert
from stash_sense_pipeline.errors import CatalogError
from stash_sense_pipeline.privacy.suppression_file import SuppressionEntry, is_url, read_suppressions_file

RECORD, URL, IMAGE = "record", "url", "image"
# A row of its own that tells with which key the others were made.
_KEY_CHECK = "key"

# Pages of such programs differ in their query; elsewhere it holds tracking, sizes and signatures.
_PROGRAM = re.compile(r"\.(php|cfm|aspx?|cgi|jsp)$", re.IGNORECASE)


@dataclass(frozen=True)
class Suppressions:
    """The suppression list in memory: what every room asks before it stores or fetches anything.

    The three sets hold HMAC-SHA256 hex digests; an identifier cannot be read out of them.
    """

    key: bytes = field(repr=False)
    records: frozenset[str] = field(default=frozenset(), repr=False)
    urls: frozenset[str] = field(default=frozenset(), repr=False)
    images: frozenset[str] = field(default=frozenset(), repr=False)

    def __len__(self) -> int:
        """How many keys are suppressed."""
        return len(self.records) + len(self.urls) + len(self.images)

    def covers_record(self, source: str, source_id: str) -> bool:
        """True when the record of a source must not be stored."""
        return bool(self.records) and record_hash(self.key, source, source_id) in self.records

    def covers_url(self, url: str) -> bool:
        """True when a URL of a profile or an image belongs to somebody suppressed."""
        return bool(self.urls) and not self.urls.isdisjoint(url_hashes(self.key, url))

    def covers_image(self, sha256: str) -> bool:
        """True when image bytes with this hex digest must not be used."""
        return bool(self.images) and image_hash(self.key, sha256) in self.images


NO_SUPPRESSIONS = Suppressions(key=b"")


class HashRow(NamedTuple):
    """One row of the catalog's list. `kind` is record, url or image; no name is in `reason`."""

    kind: str
    key_hash: str
    reason: str
    added_at: datetime


@dataclass(frozen=True)
class ImportReport:
    """What importing a suppression file did: entries in it, and hashes that the catalog did not have yet."""

    entries: int
    added: int


def record_hash(key: bytes, source: str, source_id: str) -> str:
    """Hex digest that stands for a record. Ids are compared without case: some paste a uuid in capitals."""
    return _hash(key, RECORD, f"{source}:{source_id.casefold()}")


def image_hash(key: bytes, sha256: str) -> str:
    """Hex digest that stands for image bytes with this SHA-256."""
    return _hash(key, IMAGE, sha256.lower())


def url_hashes(key: bytes, url: str) -> tuple[str, ...]:
    """Hex digests that stand for a URL: of its plain form, and of the profile it names, if it is one we know.

    Both, so that a list stays good when we learn to read the profiles of another site.
    """
    profile = profile_urls.canonical_profile(url)
    forms = (_plain(url),) if profile is None else (_plain(url), f"{profile.site} {profile.key}")
    return tuple(_hash(key, URL, form) for form in forms)


def load_suppressions(engine: sa.Engine, key: bytes) -> Suppressions:
    """The suppression list of a catalog.

    Raises CatalogError when the list was made with another key: it would recognise nobody.
    """
    with reading(engine) as connection:
        return _load(connection, key)


def add_suppressions(connection: sa.Connection, key: bytes, entries: Iterable[SuppressionEntry]) -> int:
    """Adds entries to the catalog's list; what is there stays as it is. Returns the number of new hashes.

    Raises CatalogError when the list was made with another key.
    """
    rows = [
        HashRow(kind, key_hash, entry.reason, datetime.combine(entry.date, time(), UTC))
        for entry in entries
        for kind, key_hash in _hashes_of(key, entry.target)
    ]
    return store_hashes(connection, key, rows)


def store_hashes(connection: sa.Connection, key: bytes, rows: Collection[HashRow]) -> int:
    """Adds the rows that the catalog's list lacks, and returns their number. Raises as add_suppressions."""
    if not rows:
        return 0
    known = _load(connection, key)
    present = {RECORD: known.records, URL: known.urls, IMAGE: known.images}
    new = {(row.kind, row.key_hash): row for row in rows if row.key_hash not in present[row.kind]}
    if new:
        check = HashRow(_KEY_CHECK, _hash(key, _KEY_CHECK, ""), "check", min(row.added_at for row in rows))
        values = [row._asdict() for row in (check, *new.values())]
        upsert(connection, schema.suppressions, values, keep=frozenset({"reason", "added_at"}))
    return len(new)


def import_suppressions_file(
    engine: sa.Engine, path: Path, key: bytes, sources: Collection[str]
) -> ImportReport:
    """Takes a suppression file over into the catalog, all of it or nothing; doing it again changes nothing.

    An entry that has left the file stays suppressed. `sources` are the names that a target may begin with.
    Raises ConfigurationError naming file and line of all that is wrong with the file.
    """
    entries = read_suppressions_file(path, sources)
    with writing(engine) as connection:
        return ImportReport(entries=len(entries), added=add_suppressions(connection, key, entries))


def _hashes_of(key: bytes, target: str) -> tuple[tuple[str, str], ...]:
    """What a target of the list suppresses, as (kind, hash)."""
    if not is_url(target):
        source, _, source_id = target.partition(":")
        return ((RECORD, record_hash(key, source, source_id)),)
    hashes = [(URL, digest) for digest in url_hashes(key, target)]
    profile = profile_urls.canonical_profile(target)
    site = profile_urls.site(profile.site) if profile else None
    if profile is not None and site is not None and site.stash_box_host is not None:
        hashes.append((RECORD, record_hash(key, profile.site, profile.key)))
    return tuple(hashes)


def _load(connection: sa.Connection, key: bytes) -> Suppressions:
    rows = connection.execute(sa.select(schema.suppressions.c.kind, schema.suppressions.c.key_hash))
    hashes: defaultdict[str, set[str]] = defaultdict(set)
    for kind, key_hash in rows:
        hashes[kind].add(key_hash)
    if hashes and _hash(key, _KEY_CHECK, "") not in hashes[_KEY_CHECK]:
        raise CatalogError(
            "the catalog's suppression list was made with another suppression.key; restore it from a backup"
        )
    return Suppressions(key, frozenset(hashes[RECORD]), frozenset(hashes[URL]), frozenset(hashes[IMAGE]))


def _hash(key: bytes, kind: str, text: str) -> str:
    return hmac.digest(key, f"{kind}\0{text}".encode(errors="surrogatepass"), "sha256").hex()


def _plain(url: str) -> str:
    """A URL without what tells no pages apart: scheme, www, case of the host, outer slashes, query, ..."""
    text = re.sub(r"^([a-z][a-z0-9+.-]*:)?//", "", url.strip(), flags=re.IGNORECASE).split("#", 1)[0]
    before, _, query = text.partition("?")
    netloc, _, path = before.partition("/")
    host = netloc.rpartition("@")[2].lower().removeprefix("www.")
    host = re.sub(r"\.?(:80|:443)?$", "", host)
    path = unicodedata.normalize("NFC", unquote(path)).strip("/")
    if query and (not path or _PROGRAM.search(path)):
        return f"{host}/{path}?{urlencode(sorted(parse_qsl(query, keep_blank_values=True)))}"
    return f"{host}/{path}"
