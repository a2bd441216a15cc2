"""identity_overrides.yaml: the operator's must_link and cannot_link pairs, and verdicts on faces."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.yaml_file import KeyPath, YamlFile, read_yaml
from stash_sense_pipeline.identity.linkage import face_verdicts
from stash_sense_pipeline.identity.linkage.blocking import survivor
from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline.identity.linkage.face_verdicts import FaceVerdict, read_key, read_verdicts
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline.records.record_key import RecordKey

_PAIRS = ("must_link", "cannot_link")
_SECTIONS = (*_PAIRS, *face_verdicts.SECTIONS)
_ALLOWED = f"{', '.join(_SECTIONS[:-1])} and {_SECTIONS[-1]}"


@dataclass(frozen=True)
class Override:
    """One pair as written in the file, and its line number."""

    a: RecordKey
    b: RecordKey
    line: int


@dataclass(frozen=True)
class Overrides:
    """The pairs that are one person, the pairs that are two, and verdicts on faces. `path` is for messages."""

    path: Path | None = None
    must_link: tuple[Override, ...] = ()
    cannot_link: tuple[Override, ...] = ()
    face_verdicts: tuple[FaceVerdict, ...] = ()

    def __bool__(self) -> bool:
        """True when the file says anything."""
        return bool(self.must_link or self.cannot_link or self.face_verdicts)

    def among(self, records: Collection[RecordKey]) -> Overrides:
        """The pairs of which both records are among `records`."""
        must, cannot = (
            tuple(pair for pair in pairs if pair.a in records and pair.b in records)
            for pairs in (self.must_link, self.cannot_link)
        )
        return replace(self, must_link=must, cannot_link=cannot)


NO_OVERRIDES = Overrides()


@dataclass(frozen=True)
class ResolvedOverrides:
    """Pairs of live records, sorted. A pair with a record that its source has removed is left out."""

    must_link: tuple[tuple[RecordKey, RecordKey], ...]
    cannot_link: tuple[tuple[RecordKey, RecordKey], ...]


def load_overrides(path: Path) -> Overrides:
    """Reads lists `must_link` and `cannot_link` of pairs `[source:id, source:id]`, `not_this_person` of pairs
    `[source:image, source:id]` and `not_a_face` of `source:image`; no file means no overrides.

    Raises ConfigurationError with file, line and the permitted values.
    """
    if not path.exists():
        return Overrides()
    file = read_yaml(path)
    pairs: dict[str, tuple[Override, ...]] = {}
    verdicts: tuple[FaceVerdict, ...] = ()
    if isinstance(file.data, dict):
        for name in file.data:
            if name not in _SECTIONS:
                file.complain((name,), f"is not known; allowed are {_ALLOWED}")
        pairs = {name: _pairs(file, name) for name in _PAIRS}
        verdicts = read_verdicts(file)
    else:
        file.complain((), f"must be a mapping with {_ALLOWED}")
    file.raise_problems()
    return Overrides(path, **pairs, face_verdicts=verdicts)


def without_suppressed(overrides: Overrides, suppressions: Suppressions) -> Overrides:
    """The overrides without suppressed records and images: the catalog does not hold these, which is not an error."""

    def kept(pairs: tuple[Override, ...]) -> tuple[Override, ...]:
        return tuple(
            pair
            for pair in pairs
            if not (suppressions.covers_record(*pair.a) or suppressions.covers_record(*pair.b))
        )

    verdicts = tuple(
        verdict
        for verdict in overrides.face_verdicts
        if not suppressions.covers_picture(*verdict.image, url="")
        and not (verdict.record is not None and suppressions.covers_record(*verdict.record))
    )
    return replace(
        overrides,
        must_link=kept(overrides.must_link),
        cannot_link=kept(overrides.cannot_link),
        face_verdicts=verdicts,
    )


def resolve_overrides(overrides: Overrides, records: Mapping[RecordKey, Record]) -> ResolvedOverrides:
    """Replaces merged records in the pairs by the live records that their sources merged them into.

    Raises ConfigurationError with file and line for a record that the catalog does not hold, for a must_link chain with
    two live records of one source or with a cycle, and for a cannot_link pair that contradicts a must_link chain.
    """
    problems = _cycles(overrides.must_link)
    must = _resolve("must_link", overrides.must_link, records, problems)
    cannot = _resolve("cannot_link", overrides.cannot_link, records, problems)
    leader: dict[RecordKey, RecordKey] = {}

    def find(key: RecordKey) -> RecordKey:
        while leader.setdefault(key, key) != key:
            key = leader[key]
        return key

    held: dict[RecordKey, dict[str, RecordKey]] = {}
    for a, b, line in must:
        first, second = find(a), find(b)
        if first == second:
            continue
        ours = held.pop(first, {first[0]: first})
        theirs = held.pop(second, {second[0]: second})
        for source in sorted(ours.keys() & theirs.keys()):
            problems.append(
                (line, f"must_link would make {_text(ours[source])} and {_text(theirs[source])} one person, but a "
                 "source has one live record for a person; `stash-sense identity suggestions` lists what to tell the source")
            )  # fmt: skip
        leader[second] = first
        held[first] = {**theirs, **ours}
    for a, b, line in cannot:
        if find(a) == find(b):
            problems.append(
                (line, f"cannot_link {_text(a)}, {_text(b)} contradicts the must_link pairs; remove one")
            )
    if problems:
        raise ConfigurationError(
            "\n".join(f"{overrides.path}:{line}: {text}" for line, text in sorted(problems))
        )
    return ResolvedOverrides(
        tuple(sorted({(a, b) for a, b, _ in must})), tuple(sorted({(a, b) for a, b, _ in cannot}))
    )


def _cycles(pairs: tuple[Override, ...]) -> list[tuple[int, str]]:
    """Problems for must_link lines that repeat what earlier lines imply. Merges of the sources are not considered."""
    group: dict[RecordKey, set[RecordKey]] = {}
    problems: list[tuple[int, str]] = []
    for pair in pairs:
        ours, theirs = group.get(pair.a, {pair.a}), group.get(pair.b, {pair.b})
        if pair.b in ours:
            text = f"must_link {_text(pair.a)}, {_text(pair.b)} closes a cycle: the lines before say so; remove it"
            problems.append((pair.line, text))
            continue
        joined = ours | theirs
        group.update(dict.fromkeys(joined, joined))
    return problems


def _resolve(
    section: str,
    pairs: tuple[Override, ...],
    records: Mapping[RecordKey, Record],
    problems: list[tuple[int, str]],
) -> list[tuple[RecordKey, RecordKey, int]]:
    found: list[tuple[RecordKey, RecordKey, int]] = []
    for pair in pairs:
        unknown = [key for key in (pair.a, pair.b) if key not in records]
        for key in unknown:
            problems.append((pair.line, f"{section} names {_text(key)}, which the catalog does not hold"))
        a, b = survivor(records, pair.a), survivor(records, pair.b)
        if unknown or a is None or b is None:
            continue
        if a == b:
            if section == "cannot_link":
                problems.append(
                    (pair.line, f"cannot_link names two records that {a[0]} has merged; remove it")
                )
            continue
        found.append((min(a, b), max(a, b), pair.line))
    return found


def _pairs(file: YamlFile, section: str) -> tuple[Override, ...]:
    items = file.data.get(section)
    if items is None:
        return ()
    if not isinstance(items, list):
        file.complain((section,), "must be a list of pairs [source:id, source:id]")
        return ()
    found: list[Override] = []
    for index, item in enumerate(items):
        path: KeyPath = (section, index)
        if not isinstance(item, list) or len(item) != 2:
            file.complain(path, "must be a pair [source:id, source:id]")
            continue
        keys = [read_key(file, (*path, place), text, "source:id") for place, text in enumerate(item)]
        if keys[0] is None or keys[1] is None:
            continue
        if keys[0] == keys[1]:
            file.complain(path, f"names {item[0]} twice")
            continue
        found.append(Override(keys[0], keys[1], file.line(path)))
    return tuple(found)


def _text(key: RecordKey) -> str:
    return f"{key[0]}:{key[1]}"
