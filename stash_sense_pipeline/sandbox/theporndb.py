"""The catalogue of ThePornDB: parent performers, site performers, posters, and the orders of lists.

A parent performer is a person. A site performer is the name of a person at one site.
"""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from stash_sense_pipeline.sandbox.invented.clock import Clock
from stash_sense_pipeline.sandbox.invented.naming import slug
from stash_sense_pipeline.sandbox.invented.pictures import Picture
from stash_sense_pipeline.sandbox.stash_box.rows import ControlError

RESULT_CAP = 10_000

EXTRA_FIELDS = (
    *("gender", "birthday", "birthday_timestamp", "deathday", "deathday_timestamp", "birthplace"),
    *("birthplace_code", "astrology", "ethnicity", "nationality", "hair_colour", "eye_colour", "weight"),
    *("height", "measurements", "cupsize", "tattoos", "piercings", "waist", "hips", "career_start_year"),
    *("career_end_year", "fake_boobs", "same_sex_only"),
)


@dataclass(frozen=True, slots=True)
class Poster:
    """A picture of a performer. Its number never changes."""

    number: int
    picture: Picture


@dataclass(frozen=True, slots=True)
class SitePerformer:
    """The name of a performer at one site. `parent` is the id of the person, if it is known."""

    id: str
    number: int
    site: str
    site_number: int
    name: str
    parent: str | None
    picture: Picture | None = None


@dataclass(frozen=True, slots=True)
class ParentPerformer:
    """A performer, or a thing that the catalogue lists as a performer. Times are microseconds since 1970."""

    id: str
    number: int
    name: str
    created: int
    updated: int
    slug: str = ""
    disambiguation: str | None = None
    aliases: tuple[str, ...] | None = None
    posters: tuple[Poster, ...] = ()
    has_art: bool = True  # whether image, thumbnail and face have addresses; posters can exist without them
    extras: Mapping[str, Any] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)


_EDITABLE = frozenset(("name", "disambiguation", "aliases", "posters", "has_art", "extras", "links"))


class ThePornDB:
    """The catalogue. Reads and changes are safe from several threads."""

    def __init__(self, *, seed: int, clock: Clock, api_key: str) -> None:
        self.name = "theporndb"
        self.host = "theporndb.net"
        self.clock = clock
        self.api_key = api_key
        self.lock = threading.RLock()
        self.clear(seed)

    def clear(self, seed: int) -> None:
        """Resets everything but key and clock."""
        with self.lock:
            self.blocks_python = True
            self.offers_changes = True
            self.performers: dict[str, ParentPerformer] = {}
            self.site_performers: dict[str, SitePerformer] = {}
            self.posters: dict[int, Picture] = {}
            self.people: dict[str, int] = {}
            self._children: dict[str, list[str]] = {}
            self._by_name: dict[str, str] = {}
            self._random = random.Random(f"{seed} {self.name}")
            self._number = 100_000
            self._changes = 0
            self._lists: dict[tuple[Any, ...], list[ParentPerformer]] = {}

    # Reading

    def find(self, identifier: str) -> ParentPerformer | None:
        """The performer with that uuid, number or slug."""
        with self.lock:
            return self.performers.get(self._by_name.get(identifier, identifier))

    def children(self, performer_id: str) -> list[SitePerformer]:
        """The site performers of a parent."""
        with self.lock:
            return [self.site_performers[key] for key in self._children.get(performer_id, ())]

    def listing(
        self, order: str, *, query: str = "", letter: str = "", extras: Mapping[str, str] | None = None
    ) -> list[ParentPerformer]:
        """All performers that match, without a limit. Raises ValueError for an unknown order."""
        if order not in _ORDERS:
            raise ValueError(f"The selected order by is invalid: {order}")
        wanted = tuple(sorted((extras or {}).items()))
        with self.lock:
            key = (order, query, letter, wanted)
            if key not in self._lists:
                sort_key, backwards = _ORDERS[order]
                found = [row for row in self.performers.values() if _matches(row, query, letter, wanted)]
                self._lists[key] = sorted(found, key=sort_key, reverse=backwards)
            return self._lists[key]

    # Changing

    def create(self, *, at: int | None = None, performer_id: str | None = None, **fields: Any) -> str:
        """Adds a parent performer and returns its UUID. `person` is the ground truth."""
        with self.lock:
            person = fields.pop("person", None)
            stamp = self.clock.stamp() if at is None else at
            key = performer_id or self.new_id()
            self._check(fields)
            if not fields.get("name"):
                raise ControlError(f"{self.name}: a performer needs a name")
            number = self.new_number()
            name = slug(fields["name"]) or str(number)
            if name in self._by_name:
                name = f"{name}-{number}"
            self._store(
                ParentPerformer(id=key, number=number, created=stamp, updated=stamp, slug=name, **fields)
            )
            self._by_name.update({str(number): key, name: key})
            if person is not None:
                self.people[key] = person
            return key

    def edit(self, performer_id: str, *, at: int | None = None, **fields: Any) -> None:
        """Changes fields and the time of the update. Without fields only the latter."""
        with self.lock:
            self._check(fields)
            stamp = self.clock.stamp() if at is None else at
            self._store(replace(self._known(performer_id), **fields, updated=stamp))

    def delete(self, performer_id: str) -> None:
        """Deletes a performer: it answers 404 from now on, and its site performers lose their parent."""
        with self.lock:
            row = self._known(performer_id)
            for key in self._children.pop(performer_id, ()):
                self.site_performers[key] = replace(self.site_performers[key], parent=None)
            del self.performers[performer_id]
            for name in {str(row.number), row.slug}:
                del self._by_name[name]
            self._changed()

    def merge(self, source: str, target: str, *, at: int | None = None) -> None:
        """Merges `source` into `target`, which gets its posters and site performers. The source then answers 404."""
        with self.lock:
            loser, survivor = self._known(source), self._known(target)
            self.edit(target, at=at, posters=(*survivor.posters, *loser.posters))
            moved = self._children.pop(source, [])
            for key in moved:
                self.site_performers[key] = replace(self.site_performers[key], parent=target)
            self._children.setdefault(target, []).extend(moved)
            self.delete(source)

    def add_poster(self, performer_id: str, picture: Picture, *, at: int | None = None) -> int:
        """Adds a poster at the end and returns its number."""
        with self.lock:
            poster = Poster(self.new_number(), picture)
            self.edit(performer_id, at=at, posters=(*self._known(performer_id).posters, poster))
            return poster.number

    def remove_poster(self, performer_id: str, number: int) -> None:
        """Removes a poster."""
        with self.lock:
            kept = tuple(poster for poster in self._known(performer_id).posters if poster.number != number)
            self.edit(performer_id, posters=kept)
            self.posters.pop(number, None)

    def add_site_performer(
        self, site: str, site_number: int, name: str, parent: str | None, picture: Picture | None = None
    ) -> str:
        """Adds a site performer, with or without a parent, and returns its UUID."""
        with self.lock:
            child = SitePerformer(self.new_id(), self.new_number(), site, site_number, name, parent, picture)
            self.site_performers[child.id] = child
            if picture is not None:
                self.posters[child.number] = picture
            if parent is not None:
                self._known(parent)
                self._children.setdefault(parent, []).append(child.id)
            self._changed()
            return child.id

    def new_id(self) -> str:
        """A new UUID from the catalogue's random stream."""
        with self.lock:
            return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def new_number(self) -> int:
        """A new number of a performer or poster."""
        with self.lock:
            self._number += 1
            return self._number

    def _known(self, performer_id: str) -> ParentPerformer:
        row = self.performers.get(performer_id)
        if row is None:
            raise ControlError(f"{self.name}: there is no performer {performer_id}")
        return row

    def _check(self, fields: Mapping[str, Any]) -> None:
        unknown = (fields.keys() - _EDITABLE) | (dict(fields.get("extras", {})).keys() - set(EXTRA_FIELDS))
        if unknown:
            raise ControlError(f"{self.name}: a performer has no {', '.join(sorted(unknown))}")

    def _store(self, row: ParentPerformer) -> None:
        self.performers[row.id] = row
        self.posters.update({poster.number: poster.picture for poster in row.posters})
        self._changed()

    def _changed(self) -> None:
        self._changes += 1
        self._lists.clear()


def _matches(row: ParentPerformer, query: str, letter: str, extras: Sequence[tuple[str, str]]) -> bool:
    if letter and not row.name.casefold().startswith(letter.casefold()):
        return False
    if query and not any(query.casefold() in name.casefold() for name in (row.name, *(row.aliases or ()))):
        return False
    return all(str(row.extras.get(key) or "").casefold() == value.casefold() for key, value in extras)


def _birthday(row: ParentPerformer) -> str:
    return row.extras.get("birthday") or ""


# By the value of orderBy: the sort key, and whether the order is descending.
_ORDERS: Mapping[str, tuple[Callable[[ParentPerformer], Any], bool]] = {
    "asc_name": (lambda row: (row.name.casefold(), row.number), False),
    "desc_name": (lambda row: (row.name.casefold(), row.number), True),
    "most_relevant": (lambda row: row.number, False),
    "recently_created": (lambda row: (row.created, row.number), True),
    "reverse_created": (lambda row: (row.created, row.number), False),
    "recently_updated": (lambda row: (row.updated, row.number), True),
    "reverse_updated": (lambda row: (row.updated, row.number), False),
    "recently_birthed": (lambda row: (_birthday(row), row.number), True),
    "reverse_birthed": (lambda row: (_birthday(row), row.number), False),
}
