"""Which overrides have an effect on the present catalog, and which are refused, with the reason of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.queries.identity.face_verdicts import read_survivors
from stash_sense_pipeline.identity.linkage.blocking import survivor
from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline.identity.linkage.face_verdicts import resolve_verdicts
from stash_sense_pipeline.identity.linkage.overrides import CANNOT_LINK, MUST_LINK, Override, Overrides
from stash_sense_pipeline.records.record_key import RecordKey


@dataclass(frozen=True)
class RefusedOverride:
    """An override without effect, because it contradicts the catalog or another line: its line and the reason."""

    line: int
    text: str


@dataclass(frozen=True)
class ResolvedOverrides:
    """Pairs of live records, sorted, and the refused overrides by line.

    A pair with a record that its source has removed is in neither: it counts again when the record returns.
    """

    must_link: tuple[tuple[RecordKey, RecordKey], ...] = ()
    cannot_link: tuple[tuple[RecordKey, RecordKey], ...] = ()
    refused: tuple[RefusedOverride, ...] = ()


def resolve_overrides(overrides: Overrides, records: Mapping[RecordKey, Record]) -> ResolvedOverrides:
    """The pairs with effect, with merged records replaced by the live records that their sources merged them into.

    Lines are taken in their order, and a line is refused by itself: with a record that the catalog does not hold, when a
    must_link pair would make two live records of one source one person or repeats what lines before it say, and when a
    cannot_link pair contradicts the must_link pairs or names two records that are merged.
    """
    keys = _records_of(overrides)
    return resolve_pairs(overrides, {key: survivor(records, key) for key in keys if key in records})


def resolve_pairs(overrides: Overrides, live: Mapping[RecordKey, RecordKey | None]) -> ResolvedOverrides:
    """As resolve_overrides. `live`: each record of the catalog to the live record that it is now, None when it is gone."""
    found = _Resolution(live)
    for pair in sorted(overrides.must_link, key=lambda pair: pair.line):
        found.join(pair)
    for pair in sorted(overrides.cannot_link, key=lambda pair: pair.line):
        found.separate(pair)
    refused = sorted(found.refused, key=lambda row: (row.line, row.text))
    return ResolvedOverrides(tuple(sorted(found.must)), tuple(sorted(found.cannot)), tuple(refused))


def refused_overrides(reads: ShortReads, overrides: Overrides) -> tuple[str, ...]:
    """One line for each override without effect on the present catalog: `file:line: what is wrong`."""
    live = reads(read_survivors, _records_of(overrides))
    pairs = [f"{overrides.path}:{row.line}: {row.text}" for row in resolve_pairs(overrides, live).refused]
    verdicts = resolve_verdicts(reads, overrides.path, overrides.face_verdicts)
    return (*pairs, *verdicts.problems)


def _records_of(overrides: Overrides) -> set[RecordKey]:
    return {key for pair in (*overrides.must_link, *overrides.cannot_link) for key in (pair.a, pair.b)}


class _Resolution:
    """Takes pairs one after another. `group`: the records that accepted lines call one person, as the lines name them.

    `held`: for each person, by its first record, the live record of each source.
    """

    def __init__(self, live: Mapping[RecordKey, RecordKey | None]) -> None:
        self.must: set[tuple[RecordKey, RecordKey]] = set()
        self.cannot: set[tuple[RecordKey, RecordKey]] = set()
        self.refused: list[RefusedOverride] = []
        self._live = live
        self._group: dict[RecordKey, set[RecordKey]] = {}
        self._leader: dict[RecordKey, RecordKey] = {}
        self._held: dict[RecordKey, dict[str, RecordKey]] = {}

    def join(self, pair: Override) -> None:
        """Takes a must_link pair, or refuses it."""
        ends = self._ends(MUST_LINK, pair)
        if ends is None:
            return
        ours, theirs = self._group.get(pair.a, {pair.a}), self._group.get(pair.b, {pair.b})
        if pair.b in ours:
            self._refuse(pair, f"must_link {_pair(pair)} closes a cycle: the lines before say so; remove it")
            return
        first, second = self._find(ends[0]), self._find(ends[1])
        if first != second and not self._merge(pair, first, second):
            return
        joined = ours | theirs
        self._group.update(dict.fromkeys(joined, joined))
        if ends[0] != ends[1]:
            self.must.add((min(ends), max(ends)))

    def separate(self, pair: Override) -> None:
        """Takes a cannot_link pair, or refuses it."""
        ends = self._ends(CANNOT_LINK, pair)
        if ends is None:
            return
        if ends[0] == ends[1]:
            self._refuse(pair, f"cannot_link names two records that {ends[0][0]} has merged; remove it")
        elif self._find(ends[0]) == self._find(ends[1]):
            ordered = f"{_text(min(ends))}, {_text(max(ends))}"
            self._refuse(pair, f"cannot_link {ordered} contradicts the must_link pairs; remove one")
        else:
            self.cannot.add((min(ends), max(ends)))

    def _ends(self, section: str, pair: Override) -> tuple[RecordKey, RecordKey] | None:
        unknown = [key for key in (pair.a, pair.b) if key not in self._live]
        if unknown:
            names = " and ".join(map(_text, unknown))
            self._refuse(pair, f"{section} names {names}, which the catalog does not hold")
            return None
        a, b = self._live[pair.a], self._live[pair.b]
        return None if a is None or b is None else (a, b)

    def _merge(self, pair: Override, first: RecordKey, second: RecordKey) -> bool:
        ours = self._held.get(first, {first[0]: first})
        theirs = self._held.get(second, {second[0]: second})
        twice = sorted(ours.keys() & theirs.keys())
        if twice:
            one, other = ours[twice[0]], theirs[twice[0]]
            self._refuse(
                pair,
                f"must_link would make {_text(one)} and {_text(other)} one person, but a source has one live record "
                "for a person; `stash-sense identity suggestions` lists what to tell the source",
            )
            return False
        self._leader[second] = first
        self._held.pop(second, None)
        self._held[first] = {**theirs, **ours}
        return True

    def _find(self, key: RecordKey) -> RecordKey:
        while self._leader.get(key, key) != key:
            key = self._leader[key]
        return key

    def _refuse(self, pair: Override, text: str) -> None:
        self.refused.append(RefusedOverride(pair.line, text))


def _pair(pair: Override) -> str:
    return f"{_text(pair.a)}, {_text(pair.b)}"


def _text(key: RecordKey) -> str:
    return ":".join(key)
