"""Blocking keys: pages, ids, names, birth dates and images that propose pairs of records."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from stash_sense_pipeline.identity.linkage.comparisons import Record, birth_interval
from stash_sense_pipeline.records.name_folding import fold_name
from stash_sense_pipeline.records.profile_sites import SITES, site
from stash_sense_pipeline.records.profile_urls import MAX_PAGE_HOLDERS, canonical_profile, stash_box_performer
from stash_sense_pipeline.records.record_key import RecordKey


class KeyKind:
    """The first letter of a key, which names its kind."""

    PAGE: Final = "P"
    NAME: Final = "N"
    BIRTH_DATE: Final = "D"
    IMAGE: Final = "I"


# A key on more records is a hub: a studio's account, a link collection, an error. A reference site repeats the links
# of the stash-boxes, so its records count for their own site only.
MAX_HOLDERS_IN_A_SOURCE = 2
_PROOFS = frozenset(row.name for row in SITES if row.identity_grade)


@dataclass(frozen=True)
class StashBoxes:
    """The stash-boxes by source name, with their universal-id hosts; everything else is a reference site.

    `without_proof`: pages, as `site:page`, that are no keys, because the operator says that they prove nothing.
    """

    sources_of_host: Mapping[str, tuple[str, ...]]
    sources: frozenset[str]
    without_proof: frozenset[str] = frozenset()

    @classmethod
    def of(cls, hosts: Mapping[str, str], without_proof: Collection[str] = ()) -> StashBoxes:
        """From a mapping of source name to host."""
        found: dict[str, tuple[str, ...]] = {}
        for source, host in sorted(hosts.items()):
            name = host.lower().removeprefix("www.")
            found[name] = (*found.get(name, ()), source)
        return cls(found, frozenset(hosts), frozenset(without_proof))


def blocking_keys(record: Record, merged: Iterable[str], boxes: StashBoxes) -> tuple[str, ...]:
    """All keys of a live record, sorted. `merged`: identifiers of the records that its source merged into it.

    The keys depend on this record alone, so that the pairs of a changed record can be found by its old and new keys.
    """
    found = {KeyKind.PAGE + page for page in _own_pages(record, merged, boxes)}
    for url in record.urls:
        found.update(KeyKind.PAGE + page for page in _pages_named(url, boxes))
    if boxes.without_proof:
        found -= {KeyKind.PAGE + page for page in boxes.without_proof}
    name = fold_name(record.name or "")
    if " " in name:
        found.add(KeyKind.NAME + name)
    interval = birth_interval(record.birth_date)
    if interval is not None and interval[0] == interval[1]:
        found.add(f"{KeyKind.BIRTH_DATE}{record.birth_date}")
    found.update(KeyKind.IMAGE + image for image in record.images)
    return tuple(sorted(found))


def digest(key: str) -> int:
    """64 bits of BLAKE2b as a signed integer: the form of a key in the catalog."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big", signed=True)


def is_hub(holders: Collection[RecordKey], boxes: StashBoxes) -> bool:
    """True when too many records hold a key for it to prove anything."""
    if len(holders) <= MAX_HOLDERS_IN_A_SOURCE:
        return False
    per_source = Counter(source for source, _ in holders)
    in_boxes = sum(count for source, count in per_source.items() if source in boxes.sources)
    return max(per_source.values()) > MAX_HOLDERS_IN_A_SOURCE or in_boxes > MAX_PAGE_HOLDERS


def owner(page: str, holders: Iterable[RecordKey]) -> RecordKey | None:
    """The stash-box record that the page belongs to: the only holder in the source of the page, or None."""
    source, _, identifier = page.partition(":")
    mine = [key for key in holders if key[0] == source]
    exact = [key for key in mine if key[1].casefold() == identifier]
    candidates = exact or mine
    return candidates[0] if len(candidates) == 1 else None


def merged_into(records: Mapping[RecordKey, Record]) -> dict[RecordKey, list[str]]:
    """Live record to the identifiers of all records that its source merged into it, directly or in a chain."""
    found: dict[RecordKey, list[str]] = defaultdict(list)
    for key, record in records.items():
        if not record.live and (now := survivor(records, key)) is not None:
            found[now].append(key[1])
    return found


def survivor(records: Mapping[RecordKey, Record], key: RecordKey) -> RecordKey | None:
    """The live record at the end of the source's merges of `key`; None when it is gone or unknown."""
    seen: set[RecordKey] = set()
    while key in records and key not in seen:
        record = records[key]
        if record.live:
            return key
        if record.merged_into is None:
            return None
        seen.add(key)
        key = (record.source, record.merged_into)
    return None


def singular_sites(pages: Iterable[str]) -> set[str]:
    """The sites of the pages that allow one page a person; forms of keys that cannot be compared stay separate."""
    found: set[str] = set()
    for page in pages:
        name, _, key = page.partition(":")
        row = site(name)
        if row is not None and row.singular and not key.startswith("legacy:"):
            found.add(f"{name}:{key.partition(':')[0]}" if ":" in key else name)
    return found


def _own_pages(record: Record, merged: Iterable[str], boxes: StashBoxes) -> Iterable[str]:
    if record.source in boxes.sources:
        for identifier in (record.source_id, *record.also_known_by, *merged):
            yield f"{record.source}:{identifier.casefold()}"
    elif site(record.source) is not None:
        yield f"{record.source}:{record.source_id}"


def _pages_named(url: str, boxes: StashBoxes) -> Sequence[str]:
    if "/performers/" in url and (target := stash_box_performer(url)) is not None:
        host, identifier = target
        sources = boxes.sources_of_host.get(host)
        if sources is None:
            known = canonical_profile(f"https://{host}/performers/{identifier}") is not None
            return (f"{host}:{identifier.casefold()}",) if known else ()
        return [f"{source}:{identifier.casefold()}" for source in sources]
    page = canonical_profile(url)
    return (f"{page.site}:{page.key}",) if page is not None and page.site in _PROOFS else ()
