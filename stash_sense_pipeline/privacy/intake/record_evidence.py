"""Evidence of a record as keyed hashes: ids, pages, and names with birth dates, by which it is recognised later.

The forms follow the weights of identity. The hashes of a suppressed record match each record that identity would link to
it by equal names and dates, by names that differ in one letter, or by two names in common. A name alone is not enough
there and is not matched here; neither is a name and a year, unless it is a main name of two words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from typing import Protocol

import sqlalchemy as sa

from stash_sense_pipeline.catalog.key_filters import record_key, rows_of
from stash_sense_pipeline.catalog.schema import performer_aliases, performer_urls, source_performers
from stash_sense_pipeline.privacy.suppression.suppression_hashes import (
    PERSONA,
    kept_digests,
    keyed_hash,
    plain_url_hash,
    record_hash,
    url_digests,
)
from stash_sense_pipeline.privacy.suppression.suppression_list import (
    MET,
    NAMED,
    HashRow,
    Suppressions,
    store_hashes,
)
from stash_sense_pipeline.privacy.url_forms import identifying_pages, plain_form_names, plain_url, record_page
from stash_sense_pipeline.records import profile_sites, profile_urls
from stash_sense_pipeline.records.name_folding import fold_name, folded_words
from stash_sense_pipeline.records.record_key import OTHER_IDS, RecordKey

_DATE = re.compile(r"(\d{4})(?:-(\d{2}))?(?:-(\d{2}))?", re.ASCII)
# Two names in common count. More names than this would make hundreds of pairs.
_MOST_NAMES_IN_PAIRS = 12
# A shorter name with one letter changed is another name.
_SHORTEST_MISSPELT, _LONGEST_MISSPELT = 4, 60


@dataclass(frozen=True)
class RecordEvidence:
    """The evidence of a record. `other_ids` are further ids of it at its source, such as a slug or a number."""

    source: str
    source_id: str
    name: str = ""
    aliases: tuple[str, ...] = ()
    birth_date: str | None = None
    gender: str | None = None
    country: str | None = None
    urls: tuple[str, ...] = ()
    merged_ids: tuple[str, ...] = ()
    other_ids: tuple[str, ...] = ()

    @property
    def record(self) -> RecordKey:
        """(source, source_id)."""
        return self.source, self.source_id


class Relatives(Protocol):
    """Finds records of the same person by the rules of identity, a package that this one must not import."""

    @property
    def hosts(self) -> Mapping[str, str]:
        """The hosts of the stash-boxes by source name."""
        ...

    def of(
        self,
        connection: sa.Connection,
        stored: Collection[RecordKey],
        unstored: Collection[RecordEvidence],
        is_other: Callable[[RecordKey], bool],
    ) -> set[RecordKey]:
        """The stored live records that link, directly or through others, to stored ones or to records in memory.

        `is_other` is true for a record that the operator has declared another person: it is linked to none.
        """
        ...


@dataclass(frozen=True)
class Findings:
    """How a record matches suppressed people.

    `degree` is that of its ids and pages (NAMED, MET, or None for no match), `by_id` that of its own ids alone.
    `is_like`: its name and birth date, or a page on an unknown site, match a suppressed person. `is_linked`: it shares
    evidence with a held record.
    """

    degree: int | None = None
    by_id: int | None = None
    is_like: bool = False
    is_linked: bool = False

    @property
    def is_held(self) -> bool:
        """True when the record must wait for the operator's review."""
        return self.degree is None and (self.is_like or self.is_linked)


NOTHING = Findings()


def compare(suppressions: Suppressions, told: RecordEvidence) -> Findings:
    """Compares a record with the suppression list.

    A record that the operator has declared another person matches only by its ids, or by evidence of a named record.
    """
    known = suppressions
    if not known.knows_evidence:
        return NOTHING
    key = known.key
    own_hash = record_hash(key, *told.record)
    ids = {own_hash, *(record_hash(key, told.source, each) for each in told.merged_ids)}
    called = {record_hash(key, told.source, each) for each in told.other_ids}
    pages = {digest for url in told.urls for _, digest in url_digests(key, url)}
    # A suppressed record that lists the page of this one may be wrong: this record is held, not refused.
    own = {digest for url in _own_pages(told) for _, digest in url_digests(key, url)} - ids
    by_id = _degree(known, ids & known.records)
    hashes = ids | called | pages
    degree = _degree(known, (hashes & known.records) | (pages & known.urls))
    if own_hash in known.others:
        return Findings(degree if degree == NAMED or by_id is not None else None, by_id)
    if degree is not None:
        return Findings(degree, by_id)
    is_like = (
        not known.urls.isdisjoint(own)
        or not known.personas.isdisjoint(pages | own)
        or (bool(known.personas) and any(True for _ in _persona_hits(key, told, known.personas)))
    )
    return Findings(None, None, is_like, _is_linked(known, told, hashes | own))


def persona_hashes(key: bytes, told: RecordEvidence) -> set[str]:
    """The hashes of a record's names and birth date, by which `compare` matches the same person."""
    return {keyed_hash(key, PERSONA, text) for text in _kept_texts(told)}


def remember_personas(
    connection: sa.Connection, suppressions: Suppressions, refused: Collection[RecordEvidence], now: datetime
) -> None:
    """Stores hashes of the names of refused records, and of their pages on unknown sites that no stored record lists."""
    key = suppressions.key
    unknown = {url for told in refused for url in unknown_pages(told.urls)}
    table = performer_urls
    listed = {url for (url,) in rows_of(connection, sa.select(table.c.url).distinct(), table.c.url, unknown)}
    hashes = {plain_url_hash(key, url) for url in unknown - listed}.union(
        *(persona_hashes(key, told) for told in refused)
    )
    reason = "what a suppressed person is called"
    rows = [HashRow(PERSONA, digest, reason, now, applied_at=now) for digest in hashes]
    store_hashes(connection, key, rows)


def unknown_pages(urls: Iterable[str]) -> list[str]:
    """The URLs that are compared as they are written; a URL without a path is left out.

    They are on sites that the table of profile sites does not list, or on those of its sites that prove no identity,
    such as a page that a fan may run. Pages that namesakes share are left out.
    """
    return [url for url in urls if _is_unknown(url) and plain_url(url).partition("/")[2]]


def _is_unknown(url: str) -> bool:
    profile = profile_urls.canonical_profile(url)
    if profile is None:
        return True
    site = profile_sites.site(profile.site)
    proves = site is not None and (site.identity_grade or site.shared)
    return not proves and plain_form_names(url, profile)


def evidence_hashes(key: bytes, told: RecordEvidence) -> set[str]:
    """All hashes by which another record can link to this one: ids, identifying pages, names with dates."""
    ids = {
        record_hash(key, told.source, each) for each in (told.source_id, *told.merged_ids, *told.other_ids)
    }
    pages = {
        digest
        for url in (*identifying_pages(told.urls).values(), *_own_pages(told))
        for _, digest in kept_digests(key, url)
    }
    unknown = {plain_url_hash(key, url) for url in unknown_pages(told.urls)}
    return ids | pages | unknown | persona_hashes(key, told)


def read_told(
    connection: sa.Connection, records: Collection[RecordKey] | None = None
) -> dict[RecordKey, RecordEvidence]:
    """The evidence of these stored records, or of all. Ids that were merged away are those of the survivor."""
    table, others, links = source_performers, performer_aliases, performer_urls
    aliases = _texts(connection, others, others.c.alias, records)
    urls = _texts(connection, links, links.c.url, records)
    merged: dict[RecordKey, list[str]] = {}
    into = sa.select(table.c.source, table.c.merged_into, table.c.source_id).where(
        table.c.merged_into.is_not(None)
    )
    for source, survivor, source_id in connection.execute(into):
        merged.setdefault((source, survivor), []).append(source_id)
    columns = sa.select(
        table.c.source,
        table.c.source_id,
        table.c.name,
        table.c.birth_date,
        table.c.gender,
        table.c.country,
        *(table.c.raw[name].as_string() for name in OTHER_IDS),
    )
    rows = (
        connection.execute(columns)
        if records is None
        else rows_of(connection, columns, record_key(table), records)
    )
    found: dict[RecordKey, RecordEvidence] = {}
    for source, source_id, name, birth_date, gender, country, *called in rows:
        record = (source, source_id)
        found[record] = RecordEvidence(
            source,
            source_id,
            name or "",
            tuple(sorted(aliases.get(record, ()))),
            birth_date,
            gender,
            country,
            tuple(sorted(urls.get(record, ()))),
            tuple(sorted(merged.get(record, ()))),
            tuple(each for each in called if each),
        )
    return found


def _texts(
    connection: sa.Connection, table: sa.Table, column: sa.Column[str], records: Collection[RecordKey] | None
) -> Mapping[RecordKey, list[str]]:
    query = sa.select(table.c.source, table.c.source_id, column)
    rows = (
        connection.execute(query)
        if records is None
        else rows_of(connection, query, record_key(table), records)
    )
    found: dict[RecordKey, list[str]] = {}
    for source, source_id, text in rows:
        found.setdefault((source, source_id), []).append(text)
    return found


def _own_pages(told: RecordEvidence) -> tuple[str, ...]:
    """The pages of a record, and of those merged into it, on a public stash-box."""
    pages = (record_page((told.source, each), {}) for each in (told.source_id, *told.merged_ids))
    return tuple(page for page in pages if page is not None)


def _degree(known: Suppressions, hits: set[str]) -> int | None:
    return None if not hits else NAMED if hits - known.met else MET


def _is_linked(known: Suppressions, told: RecordEvidence, hashes: set[str]) -> bool:
    """True when another held record shares one of these hashes, or a name and birth date."""
    if not known.held:
        return False
    own = known.withheld_hash(*told.record)
    hits = (hashes & known.held.keys()) | set(_persona_hits(known.key, told, known.held.keys()))
    return any(known.held[each] - {own} for each in hits)


def _persona_hits(key: bytes, told: RecordEvidence, known: Collection[str]) -> Iterator[str]:
    """The hashes of names and dates that are among `known`.

    Most names are not, which one hash tells: only for the others are the further hashes made.
    """
    names = _names(told)
    dates = _date_parts(told.birth_date)
    listed = [name for name in names if keyed_hash(key, PERSONA, f"name {name}") in known]
    texts = list(_asked_texts(told, listed, dates))
    if len(dates) == 3 and any(
        keyed_hash(key, PERSONA, text) in known for text in _end_letters(told.name, dates[-1])
    ):
        texts += _one_letter_forms(told.name, dates[-1])
    for text in texts:
        digest = keyed_hash(key, PERSONA, text)
        if digest in known:
            yield digest


def _names(told: RecordEvidence) -> list[str]:
    """The folded main name first, then the aliases, each once."""
    return [name for name in dict.fromkeys(map(fold_name, (told.name, *told.aliases))) if name]


def _date_parts(birth_date: str | None) -> list[str]:
    """The year, month and day of a date, as far as they are known. 1 January means an unknown day, as in identity."""
    match = _DATE.fullmatch(birth_date or "")
    if match is None:
        return []
    year, month, day = match[1], match[2], match[3]
    if month is None or not 1 <= int(month) <= 12 or (month, day) == ("01", "01"):
        return [year]
    if day is None or not 1 <= int(day) <= 31:
        return [year, f"{year}-{month}"]
    return [year, f"{year}-{month}", f"{year}-{month}-{day}"]


def _kept_texts(told: RecordEvidence) -> Iterator[str]:
    names, dates = _names(told), _date_parts(told.birth_date)
    main = fold_name(told.name)
    for name in names:
        yield f"name {name}"
        for number, date in enumerate(dates):
            if _is_enough(name, name == main, number):
                yield f"{'at' if date == dates[-1] else 'in'} {date} {name}"
    if main and len(dates) == 3:
        yield from _near_dates(main, dates[-1])
    for form in _pairs(names, main):
        yield f"{form} {'dated' if dates else 'undated'}"
    if len(dates) == 3:
        for name in (told.name, *told.aliases):
            yield from _end_letters(name, dates[-1])
            yield from _one_letter_forms(name, dates[-1])


def _asked_texts(told: RecordEvidence, names: list[str], dates: list[str]) -> Iterator[str]:
    main = fold_name(told.name)
    for name in names:
        for number, date in enumerate(dates):
            if _is_enough(name, name == main, number):
                yield f"at {date} {name}"
                if date == dates[-1]:
                    yield f"in {date} {name}"
    if main in names and len(dates) == 3:
        yield from _near_dates(main, dates[-1])
    for form in _pairs(names, main):
        # One of the two names must be the main name of one of the records: two aliases are too weak.
        side, _, pair = form.partition(" ")
        asked = f"{'any' if side == 'main' else 'main'} {pair}"
        yield f"{asked} undated"
        if not dates:
            yield f"{asked} dated"


def _is_enough(name: str, is_main: bool, precision: int) -> bool:
    """True when identity links records with an equal name and an equal year (0), month (1) or day (2)."""
    several = " " in name
    return precision == 2 or (precision == 1 and (is_main or several)) or (is_main and several)


def _near_dates(name: str, date: str) -> Iterator[str]:
    """Dates with one part different, or with day and month exchanged: enough with a main name of two words."""
    if " " in name:
        year, month, day = date.split("-")
        yield f"near {year}-{month}-* {name}"
        yield f"near {year}-*-{day} {name}"
        yield f"near *-{month}-{day} {name}"
        yield f"near {year} {min(month, day)} {max(month, day)} {name}"


def _pairs(names: list[str], main: str) -> Iterator[str]:
    several = [name for name in names if " " in name][:_MOST_NAMES_IN_PAIRS]
    for pair in combinations(several, 2):
        text = " + ".join(sorted(pair))
        yield f"any {text}"
        if main in pair:
            yield f"main {text}"


def _end_letters(name: str, date: str) -> Iterator[str]:
    """The first and the last letter of a name, each with the date: one changed letter changes at most one of them."""
    letters = "".join(folded_words(name))
    if letters:
        yield f"first {date} {letters[0]}"
        yield f"last {date} {letters[-1]}"


def _one_letter_forms(name: str, date: str) -> Iterator[str]:
    """The letters of a name, and all forms with one letter left out: names that differ in one letter share a form."""
    letters = "".join(folded_words(name))
    if _SHORTEST_MISSPELT <= len(letters) <= _LONGEST_MISSPELT:
        yield f"slip {date} {letters}"
        for place in range(len(letters)):
            yield f"slip {date} {letters[:place]}{letters[place + 1 :]}"
