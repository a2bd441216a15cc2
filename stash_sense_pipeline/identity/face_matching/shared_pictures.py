"""Pictures that several people show, by bytes or by perceptual hash, in one source or in several."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.records.perceptual_hash import MOST_BITS_OF_A_COPY
from stash_sense_pipeline.records.record_key import ImageKey

Indices = NDArray[np.int64]
Bits = NDArray[np.uint64]

# Two hashes that differ in at most 6 of 64 bits are equal in at least two of their eight bytes.
_BYTES = 8
assert MOST_BITS_OF_A_COPY <= _BYTES - 2

# Up to this distance all values are compared with the one behind them, without a selection.
_SIDE_BY_SIDE = 24

_NOT_SEEN, _SEVERAL = -1, -2


class ShownPicture(NamedTuple):
    """A picture of a person. `person`: a record of the source, or an identity."""

    source: str
    image_id: str
    person: Hashable
    sha256: str | None
    picture_hash: str | None


def shared_pictures(shown: Iterable[ShownPicture]) -> frozenset[ImageKey]:
    """The pictures that two people or more of one source show.

    A picture is shared when, in some source, the pictures equal to it belong to two people or more. Pictures are equal
    when they have one image id, the same bytes, or perceptual hashes of copies
    (records.perceptual_hash.same_picture). Equality is not transitive: each picture is compared with this one. Copies
    of one person's picture in other sources are normal, so each source is considered separately.
    """
    places: dict[ImageKey, int] = {}
    people: dict[tuple[int, Hashable], int] = {}
    sources: dict[str, int] = {}
    digests: dict[str, int] = {}
    image_of: list[int] = []
    owner_of: list[int] = []
    source_of: list[int] = []
    digest_of: list[int | None] = []
    look_of: list[int | None] = []
    for row in shown:
        source = sources.setdefault(row.source, len(sources))
        image_of.append(places.setdefault((row.source, row.image_id), len(places)))
        owner_of.append(people.setdefault((source, row.person), len(people)))
        source_of.append(source)
        digest_of.append(None if row.sha256 is None else digests.setdefault(row.sha256, len(digests)))
        look_of.append(None if row.picture_hash is None else int(row.picture_hash, 16))
    images = np.array(image_of, dtype=np.int64)
    owners, of_source = np.array(owner_of, dtype=np.int32), np.array(source_of, dtype=np.int64)
    found = np.zeros(len(places), dtype=bool)
    for values, near in ((image_of, False), (digest_of, False), (look_of, True)):
        known = np.array([place for place, value in enumerate(values) if value is not None], dtype=np.int64)
        if len(known):
            bits = np.array([value for value in values if value is not None], dtype=np.uint64)
            shared = _shared(bits, owners[known], of_source[known], len(sources), near=near)
            found[images[known[shared]]] = True
    keys = list(places)
    return frozenset(keys[place] for place in np.flatnonzero(found).tolist())


def copies_between_people(shown: Sequence[ShownPicture]) -> list[list[int]]:
    """Groups of places in `shown` with copies of one picture that two people or more show, in whatever sources.

    Copies are found by perceptual hash, and each place is in one group at most. The groups are sorted.
    """
    found = shared_pictures(
        ShownPicture("", str(place), row.person, None, row.picture_hash) for place, row in enumerate(shown)
    )
    places = sorted(int(image_id) for _, image_id in found)
    values = np.array([int(shown[place].picture_hash or "0", 16) for place in places], dtype=np.uint64)
    leader = list(range(len(places)))

    def find(place: int) -> int:
        while leader[place] != place:
            leader[place] = leader[leader[place]]
            place = leader[place]
        return place

    for row, value in enumerate(values):
        for other in np.flatnonzero(np.bitwise_count(values[:row] ^ value) <= MOST_BITS_OF_A_COPY).tolist():
            first, second = sorted((find(other), find(row)))
            leader[second] = first
    groups: dict[int, list[int]] = defaultdict(list)
    for row, place in enumerate(places):
        groups[find(row)].append(place)
    return sorted(groups.values())


def _shared(
    values: Bits, owners: NDArray[np.int32], sources: Indices, count_of_sources: int, *, near: bool
) -> NDArray[np.bool_]:
    """For each row (value, owner, source): True when two owners in one source have its value, or with `near` a copy."""
    distinct, place = np.unique(values, return_inverse=True)
    seen = np.full((len(distinct), count_of_sources), _NOT_SEEN, dtype=np.int32)
    # Of several owners the last one is written; a row with another owner then shows that there are several.
    seen[place, sources] = owners
    other = seen[place, sources] != owners
    seen[place[other], sources[other]] = _SEVERAL
    found = _Owners(seen)
    if near:
        for a, b in _near_pairs(distinct, found):
            found.add(a, b)
    return np.asarray(found.several[place])


class _Owners:
    """The only owner in each source, (values, sources), of a value together with the values added to it."""

    def __init__(self, own: NDArray[np.int32]) -> None:
        self._own = own
        self._all = own.copy()
        self.several = (own == _SEVERAL).any(axis=1)

    def add(self, a: Indices, b: Indices) -> None:
        """Notes that the values `a[i]` and `b[i]` are near. No value occurs twice in `a`, or twice in `b`."""
        for one, other in ((a, b), (b, a)):
            mine, theirs = self._all[one], self._own[other]
            differ = (mine != theirs) & (mine != _NOT_SEEN) & (theirs != _NOT_SEEN)
            self._all[one] = np.where(differ, _SEVERAL, np.where(mine == _NOT_SEEN, theirs, mine))
            self.several[one] |= (differ | (theirs == _SEVERAL)).any(axis=1)


def _near_pairs(values: Bits, found: _Owners) -> Iterator[tuple[Indices, Indices]]:
    """Places of distinct values that differ in at most the bits of a copy. Each pair occurs at least once, unless both
    values are known to have several owners.

    For each two of the eight bytes the values are sorted by these bytes, and each value is compared with the ones
    behind it in its group. Values of other groups are compared too where that is faster than to exclude them.
    """
    octets = values.astype(">u8").view(np.uint8).reshape(-1, _BYTES).astype(np.uint32)
    for first, second in combinations(range(_BYTES), 2):
        # In each group the values with several owners come last, because they need no comparison with each other.
        key = (octets[:, first] << 8 | octets[:, second]) << 1 | found.several
        order = np.argsort(key, kind="stable")
        bits, group = values[order], key[order] >> 1
        starts = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
        sizes = np.diff(np.append(starts, len(order)))
        most = int(sizes.max())
        for distance in range(1, min(most, _SIDE_BY_SIDE)):
            near = np.flatnonzero(np.bitwise_count(bits[distance:] ^ bits[:-distance]) <= MOST_BITS_OF_A_COPY)
            if len(near):
                yield order[near], order[near + distance]
        large = np.repeat(sizes > _SIDE_BY_SIDE, sizes)
        left = np.flatnonzero(large & (key[order] & 1 == 0))
        ends = np.repeat(starts + sizes, sizes)
        for distance in range(_SIDE_BY_SIDE, most):
            left = left[left + distance < ends[left]]
            near = left[np.bitwise_count(bits[left] ^ bits[left + distance]) <= MOST_BITS_OF_A_COPY]
            if len(near):
                yield order[near], order[near + distance]
