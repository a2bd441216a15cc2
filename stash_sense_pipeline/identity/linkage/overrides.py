"""identity_overrides.yaml: the operator's pairs, verdicts on faces, pages that prove nothing, and other answers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stash_sense_pipeline.foundation.yaml_file import KeyPath, YamlFile, read_yaml
from stash_sense_pipeline.identity.linkage import face_verdicts
from stash_sense_pipeline.identity.linkage.face_verdicts import FaceVerdict, read_key, read_verdicts
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline.records.record_key import RecordKey

MUST_LINK, CANNOT_LINK, DUPLICATES = "must_link", "cannot_link", "duplicates"
PROVES_NOTHING, REVIEWED = "proves_nothing", "reviewed"
_PAIRS = (MUST_LINK, CANNOT_LINK, DUPLICATES)
SECTIONS = (*_PAIRS, *face_verdicts.SECTIONS, PROVES_NOTHING, REVIEWED)
# Answers that change nothing: the decision only leaves the list.
FINE, LATER = "fine", "later"
_ANSWERS = (FINE, LATER)
# The longest decision names the records of a page, and few of these.
_MOST_NAMES = 8
_ALLOWED = f"{', '.join(SECTIONS[:-1])} and {SECTIONS[-1]}"


@dataclass(frozen=True)
class Override:
    """One pair as written in the file, and its line number."""

    a: RecordKey
    b: RecordKey
    line: int


@dataclass(frozen=True)
class PageVerdict:
    """A page, as `site:key`, that proves nothing, and its line number."""

    page: str
    line: int


@dataclass(frozen=True)
class ReviewedDecision:
    """A decision that the operator has seen, and that changes nothing: `fine` or `later`, its kind and its names."""

    answer: str
    kind: str
    about: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class Overrides:
    """What the operator says. `path` is for messages.

    `must_link`: pairs that are one person. `cannot_link`: pairs that are two. `duplicates`: pairs of one source that are
    one person, for the editors of the source. `proves_nothing`: pages that are no evidence. `reviewed`: decisions that
    leave the review list without an effect.
    """

    path: Path | None = None
    must_link: tuple[Override, ...] = ()
    cannot_link: tuple[Override, ...] = ()
    face_verdicts: tuple[FaceVerdict, ...] = ()
    duplicates: tuple[Override, ...] = ()
    proves_nothing: tuple[PageVerdict, ...] = ()
    reviewed: tuple[ReviewedDecision, ...] = ()

    def __bool__(self) -> bool:
        """True when the file says anything."""
        return self != Overrides(self.path)

    @property
    def pages_without_proof(self) -> frozenset[str]:
        """The pages that are no evidence."""
        return frozenset(row.page for row in self.proves_nothing)

    def among(self, records: Collection[RecordKey]) -> Overrides:
        """The pairs of which both records are among `records`."""
        must, cannot, duplicates = (
            tuple(pair for pair in pairs if pair.a in records and pair.b in records)
            for pairs in (self.must_link, self.cannot_link, self.duplicates)
        )
        return replace(self, must_link=must, cannot_link=cannot, duplicates=duplicates)


NO_OVERRIDES = Overrides()


def load_overrides(path: Path) -> Overrides:
    """Reads lists `must_link`, `cannot_link` and `duplicates` of pairs `[source:id, source:id]`, `not_this_person` of
    pairs `[source:image, source:id]`, `not_a_face` of `source:image`, `proves_nothing` of `site:page` and `reviewed` of
    `[answer, kind, name, ...]`. No file means no overrides.

    Raises ConfigurationError with file, line and the permitted values.
    """
    if not path.exists():
        return Overrides()
    file = read_yaml(path)
    found = Overrides(path)
    if isinstance(file.data, dict):
        for name in file.data:
            if name not in SECTIONS:
                file.complain((name,), f"is not known; allowed are {_ALLOWED}")
        found = Overrides(
            path,
            **{name: _pairs(file, name) for name in _PAIRS},
            face_verdicts=read_verdicts(file),
            proves_nothing=_pages(file),
            reviewed=_reviewed(file),
        )
    else:
        file.complain((), f"must be a mapping with {_ALLOWED}")
    file.raise_problems()
    return found


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
        duplicates=kept(overrides.duplicates),
        face_verdicts=verdicts,
    )


def _items(file: YamlFile, section: str, form: str) -> list[Any]:
    items = file.data.get(section)
    if items is None:
        return []
    if not isinstance(items, list):
        file.complain((section,), f"must be a list of {form}")
        return []
    return items


def _pages(file: YamlFile) -> tuple[PageVerdict, ...]:
    found: dict[str, PageVerdict] = {}
    for index, item in enumerate(_items(file, PROVES_NOTHING, "site:page")):
        path: KeyPath = (PROVES_NOTHING, index)
        key = read_key(file, path, item, "site:page")
        if key is None:
            continue
        page = ":".join(key)
        if page in found:
            file.complain(path, f"repeats line {found[page].line}; remove one")
        found[page] = PageVerdict(page, file.line(path))
    return tuple(found.values())


def _reviewed(file: YamlFile) -> tuple[ReviewedDecision, ...]:
    found: list[ReviewedDecision] = []
    for index, item in enumerate(_items(file, REVIEWED, "[answer, kind, name, ...]")):
        path: KeyPath = (REVIEWED, index)
        texts = item if isinstance(item, list) and all(isinstance(each, str) for each in item) else []
        if not 3 <= len(texts) <= _MOST_NAMES or not all(each.strip() for each in texts):
            file.complain(path, "must be a list [answer, kind, name, ...] of words")
        elif texts[0] not in _ANSWERS:
            file.complain(path, f"the answer {texts[0]!r} is not known; allowed are {' and '.join(_ANSWERS)}")
        else:
            found.append(ReviewedDecision(texts[0], texts[1], tuple(texts[2:]), file.line(path)))
    return tuple(found)


def _pairs(file: YamlFile, section: str) -> tuple[Override, ...]:
    items = _items(file, section, "pairs [source:id, source:id]")
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
        if section == DUPLICATES and keys[0][0] != keys[1][0]:
            file.complain(path, "names records of two sources; records of one person are a must_link pair")
            continue
        found.append(Override(keys[0], keys[1], file.line(path)))
    return tuple(found)
