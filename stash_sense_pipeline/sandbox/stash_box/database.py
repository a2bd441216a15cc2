"""The database of a stash-box: tables, sort orders, edits, merges.

It follows the servers where that matters to a mirror: which changes bump `updated`, what a merge leaves
behind, which orders have no tie-breaker. Every public method takes the lock for one statement, so a reader
that needs several statements can be overtaken by a writer, as on the real servers.
"""

from __future__ import annotations

import itertools
import random
import threading
import uuid
import zlib
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from typing import Any

import numpy as np

from stash_sense_pipeline.sandbox.invented.clock import Clock
from stash_sense_pipeline.sandbox.invented.pictures import Picture
from stash_sense_pipeline.sandbox.stash_box.rows import (
    NO_JOINS,
    BoxOptions,
    BoxSite,
    ControlError,
    Edit,
    ImageRow,
    Joins,
    Moment,
    PerformerRow,
    Related,
    Ties,
)

_JOIN_FIELDS = frozenset(("aliases", "urls", "images", "tattoos", "piercings"))
_COLUMNS = frozenset(PerformerRow.__dataclass_fields__) - {"id", "created", "updated", "deleted"}


@dataclass
class _Indices:
    """The orders that queries read often, ascending, live performers only."""

    names: list[tuple[str, str, int, str]] = dataclass_field(default_factory=list)
    updated: list[tuple[int, str]] = dataclass_field(default_factory=list)
    created: list[tuple[int, str]] = dataclass_field(default_factory=list)


class Box:
    """One stash-box. Reads and changes are safe from several threads."""

    def __init__(
        self,
        name: str,
        host: str,
        *,
        seed: int,
        clock: Clock,
        api_key: str,
        options: BoxOptions | None = None,
    ) -> None:
        self.name = name
        self.host = host
        self.clock = clock
        self.api_key = api_key
        self.lock = threading.RLock()
        self.observers: list[Callable[[Moment], None]] = []
        self.clear(seed, options)

    def clear(self, seed: int, options: BoxOptions | None = None) -> None:
        """Forgets everything but name, key, clock and observers, as if the box were new."""
        with self.lock:
            self.options = options or BoxOptions()
            self.performers: dict[str, PerformerRow] = {}
            self.joins: dict[str, Joins] = {}
            self.images: dict[str, ImageRow] = {}
            self.sites: dict[str, BoxSite] = {}
            self.edits: dict[str, Edit] = {}
            self.people: dict[str, int] = {}
            self._held_edits: list[Edit] = []
            self._holding = False
            self._redirects: dict[str, str] = {}
            self._merged: dict[str, list[str]] = {}
            self._on_performers: dict[str, list[str]] = {}
            self._tuple_ids: dict[str, int] = {}
            self._tuple_counter = itertools.count()
            self._image_of: dict[Picture, str] = {}
            self._indices = _Indices()
            self._edit_order: list[tuple[int, str]] = []
            self._seed = seed
            self._random = random.Random(f"{seed} {self.name}")
            self._changes = 0
            self._requests = 0

    # Reading

    @property
    def changes(self) -> int:
        """How many changes were made; equal numbers mean equal content."""
        return self._changes

    def next_request(self) -> int:
        """The number of a request, counted from 1."""
        with self.lock:
            self._requests += 1
            return self._requests

    def observe(self, moment: Moment) -> None:
        """Runs the observers. Callers must not hold the lock."""
        for observer in list(self.observers):
            observer(moment)

    def find(self, performer_id: str) -> PerformerRow | None:
        """The performer with that id, deleted ones too."""
        return self.performers.get(performer_id)

    def related(self, ids: Sequence[str]) -> list[Related]:
        """Aliases, links, images and merges of each performer, in the order of `ids`."""
        with self.lock:
            joins, merged, redirects = self.joins, self._merged, self._redirects
            return [
                Related(joins.get(key, NO_JOINS), tuple(merged.get(key, ())), redirects.get(key))
                for key in ids
            ]

    def performers_with(self, image_id: str) -> list[str]:
        """The ids of the performers that an image hangs on."""
        with self.lock:
            return sorted(set(self._on_performers.get(image_id, ())))

    def count(self, matches: Callable[[PerformerRow], bool] | None = None) -> int:
        """How many live performers match."""
        with self.lock:
            if matches is None:
                return len(self._indices.names)
            return sum(1 for row in self.performers.values() if not row.deleted and matches(row))

    def page(
        self,
        *,
        sort: str,
        descending: bool,
        limit: int,
        offset: int,
        matches: Callable[[PerformerRow], bool] | None = None,
        request: int = 0,
    ) -> list[PerformerRow]:
        """Live performers of one page; `sort` is a PerformerSortEnum value. Ties as in `BoxOptions.ties`."""
        with self.lock:
            ordered, tie_width = self._ordered(sort, matches)
            total = len(ordered)
            start, stop = min(offset, total), min(offset + limit, total)
            if tie_width is None or self.options.ties is Ties.STABLE:
                keys = ordered[total - stop : total - start][::-1] if descending else ordered[start:stop]
            else:
                salt = f"{self._seed} {self.name} {sort} {descending} {offset + limit} {self._changes}"
                if self.options.ties is Ties.REQUEST:
                    salt = f"{salt} {request}"
                keys = _shuffled_slice(ordered, start, stop, descending, zlib.crc32(salt.encode()))
            return [self.performers[key[-1]] for key in keys]

    def _ordered(
        self, sort: str, matches: Callable[[PerformerRow], bool] | None
    ) -> tuple[Sequence[tuple[Any, ...]], int | None]:
        """Sort keys ending in an id, ascending, and how many leading values rows may tie on (None: total)."""
        indexed: Mapping[str, tuple[Sequence[tuple[Any, ...]], int | None]] = {
            "NAME": (self._indices.names, None),
            "UPDATED_AT": (self._indices.updated, 1),
            "CREATED_AT": (self._indices.created, 1),
        }
        if sort in indexed:
            keys, ties = indexed[sort]
            if matches is not None:
                keys = [key for key in keys if matches(self.performers[key[-1]])]
            return keys, ties
        key_of, ties = _SORTS[sort]
        rows = (row for row in self.performers.values() if not row.deleted and (not matches or matches(row)))
        return sorted((*key_of(row), row.id) for row in rows), ties

    def changed_since(self, since: int, after: str | None, limit: int) -> list[PerformerRow]:
        """Performers, deleted ones too, with (updated, id) above a keyset position, oldest first.

        Without `after`, those of the very moment `since` are left out.
        """
        with self.lock:
            rows = self.performers.values()
            if after is None:
                found = [row for row in rows if row.updated > since]
            else:
                found = [row for row in rows if (row.updated, row.id) > (since, after)]
            return sorted(found, key=lambda row: (row.updated, row.id))[:limit]

    def redirect_of(self, performer_id: str) -> str | None:
        """The performer that a merged one was merged into."""
        return self._redirects.get(performer_id)

    def edit_page(
        self, *, descending: bool, limit: int, offset: int, matches: Callable[[Edit], bool]
    ) -> tuple[int, list[Edit]]:
        """How many closed edits match, and those of one page in the order (closed, id)."""
        with self.lock:
            keys = reversed(self._edit_order) if descending else iter(self._edit_order)
            found = [edit for key in keys if matches(edit := self.edits[key[1]])]
            return len(found), found[offset : offset + limit]

    # Changing

    def create(self, *, at: int | None = None, performer_id: str | None = None, **fields: Any) -> str:
        """Adds a performer by an applied edit and returns its id.

        `fields` are columns of `PerformerRow` and lists of `Joins`; `person` (an int) is the truth about who
        it is. `at` is the moment that the transaction began: a late commit gives one that is past.
        """
        with self.lock:
            stamp = self._stamp(at)
            person = fields.pop("person", None)
            key = performer_id or self.new_id()
            if key in self.performers:
                raise ControlError(f"{self.name}: there is a performer {key} already")
            columns, joins = self._split(fields)
            if not columns.get("name"):
                raise ControlError(f"{self.name}: a performer needs a name")
            self._insert(PerformerRow(id=key, created=stamp, updated=stamp, **columns), Joins(**joins))
            if person is not None:
                self.people[key] = person
            self._record("CREATE", key, (), columns, stamp)
            return key

    def edit(self, performer_id: str, *, at: int | None = None, **fields: Any) -> None:
        """An applied MODIFY edit. Without `fields` it changes nothing, and bumps `updated` all the same."""
        with self.lock:
            stamp = self._stamp(at)
            row = self._live(performer_id)
            columns, joins = self._split(fields)
            self._update(
                replace(row, **columns, updated=stamp),
                replace(self.joins.get(performer_id, NO_JOINS), **joins),
            )
            self._record("MODIFY", performer_id, (), columns, stamp)

    def bump(self, performer_id: str, *, at: int | None = None) -> None:
        """An applied edit that changes nothing but `updated`."""
        self.edit(performer_id, at=at)

    def touch(self, performer_ids: Iterable[str], *, at: int | None = None) -> None:
        """One bulk UPDATE by an administrator: all get one timestamp, and there is no edit."""
        with self.lock:
            stamp = self._stamp(at)
            for performer_id in performer_ids:
                row = self._known(performer_id)
                self._update(replace(row, updated=stamp), self.joins.get(performer_id, NO_JOINS))

    def merge(
        self,
        sources: Sequence[str],
        target: str,
        *,
        at: int | None = None,
        keep_images: bool = True,
        **fields: Any,
    ) -> None:
        """An applied MERGE edit: the sources become tombstones that lead to the target.

        `keep_images`: the target also gets the sources' images. Their names become its aliases.
        """
        with self.lock:
            stamp = self._stamp(at)
            if target in sources:
                raise ControlError(f"{self.name}: {target} cannot be merged into itself")
            losers = [self._live(key) for key in sources]
            row = self._live(target)
            columns, given = self._split(fields)
            joins = self.joins.get(target, NO_JOINS)
            aliases, images = list(joins.aliases), list(joins.images)
            for loser in losers:
                old = self.joins.get(loser.id, NO_JOINS)
                aliases += [name for name in (loser.name, *old.aliases) if name != row.name]
                images += old.images if keep_images else ()
            merged: dict[str, Any] = {
                "aliases": tuple(sorted(set(aliases), key=str.encode)),
                "images": tuple(dict.fromkeys(images)),
                **given,
            }
            for loser in losers:
                self._soft_delete(loser, stamp)
                for earlier in self._merged.pop(loser.id, ()):
                    self._redirect(earlier, target)
                self._redirect(loser.id, target)
            self._update(replace(row, **columns, updated=stamp), replace(joins, **merged))
            self._record("MERGE", target, tuple(sources), columns, stamp)

    def destroy(self, performer_id: str, *, at: int | None = None) -> None:
        """An applied DESTROY edit: a tombstone that leads nowhere."""
        with self.lock:
            stamp = self._stamp(at)
            self._soft_delete(self._live(performer_id), stamp)
            self._record("DESTROY", performer_id, (), {}, stamp)

    def hard_delete(self, performer_id: str) -> None:
        """The performerDestroy mutation: the row is gone, its redirects too, and no edit tells of it."""
        with self.lock:
            row = self._known(performer_id)
            self._set_joins(performer_id, NO_JOINS)
            self._unindex(row)
            del self.performers[performer_id], self._tuple_ids[performer_id]
            self.joins.pop(performer_id, None)
            target = self._redirects.pop(performer_id, None)
            if target is not None:
                self._merged[target].remove(performer_id)
            for source in self._merged.pop(performer_id, ()):
                del self._redirects[source]
            self._changes += 1

    def restore(self, performer_id: str, *, at: int | None = None, **fields: Any) -> None:
        """An administrator's SQL: a deleted performer lives again, without a redirect and without an edit."""
        with self.lock:
            stamp = self._stamp(at)
            row = self._known(performer_id)
            if not row.deleted:
                raise ControlError(f"{self.name}: performer {performer_id} is not deleted")
            target = self._redirects.pop(performer_id, None)
            if target is not None:
                self._merged[target].remove(performer_id)
            columns, joins = self._split(fields)
            self._update(replace(row, **columns, deleted=False, updated=stamp), Joins(**joins))

    def upload(self, picture: Picture, image_id: str | None = None) -> str:
        """Stores an image and returns its id: that of the same bytes if they are there already."""
        with self.lock:
            if image_id is None:
                image_id = self._image_of.get(picture) or self.new_id()
            self._image_of[picture] = image_id
            self.images[image_id] = ImageRow(image_id, *picture.size, picture)
            return image_id

    def add_image(self, performer_id: str, picture: Picture, *, at: int | None = None) -> str:
        """Uploads an image and adds it by an image-only edit; returns the image's id."""
        with self.lock:
            image_id = self.upload(picture)
            have = self.joins.get(performer_id, NO_JOINS).images
            self.edit(performer_id, at=at, images=(*have, image_id))
            return image_id

    def destroy_image(self, image_id: str) -> None:
        """The imageDestroy mutation: the image leaves its performers, whose `updated` stays."""
        with self.lock:
            if image_id not in self.images:
                raise ControlError(f"{self.name}: there is no image {image_id}")
            for performer_id in self.performers_with(image_id):
                joins = self.joins[performer_id]
                kept = tuple(key for key in joins.images if key != image_id)
                self._set_joins(performer_id, replace(joins, images=kept))
            self._image_of.pop(self.images.pop(image_id).picture, None)
            self._changes += 1

    def hold_edits(self) -> None:
        """From now on edits stay open although their change is done, until `close_edits`."""
        with self.lock:
            self._holding = True

    def close_edits(self) -> None:
        """Closes the edits that `hold_edits` kept back, with the clock's present moment."""
        with self.lock:
            self._holding = False
            held, self._held_edits = self._held_edits, []
            for edit in held:
                closed = self.clock.stamp()
                self._close(replace(edit, closed=closed, updated=closed))

    def delete_edit(self, edit_id: str) -> None:
        """A moderator removes a closed edit; what it did stays done."""
        with self.lock:
            edit = self.edits.pop(edit_id, None)
            if edit is None:
                raise ControlError(f"{self.name}: there is no edit {edit_id}")
            self._edit_order.remove(edit.order)
            self._changes += 1

    def load(self, rows: Iterable[tuple[PerformerRow, Joins]]) -> None:
        """Adds many performers at once, as an import does: no edits, timestamps as they are."""
        with self.lock:
            for row, joins in rows:
                self.performers[row.id] = row
                self._tuple_ids[row.id] = next(self._tuple_counter)
                if joins is not NO_JOINS:
                    self._set_joins(row.id, joins)
            live = [row for row in self.performers.values() if not row.deleted]
            self._indices = _Indices(
                names=sorted(self._name_key(row) for row in live),
                updated=sorted((row.updated, row.id) for row in live),
                created=sorted((row.created, row.id) for row in live),
            )
            self._changes += 1

    def site_for(self, name: str, url: str) -> str:
        """The id of a site by name; it is made when it is not there."""
        with self.lock:
            for site in self.sites.values():
                if site.name == name:
                    return site.id
            site = BoxSite(self.new_id(), name, url, self.clock.now())
            self.sites[site.id] = site
            return site.id

    def rename_site(self, site_id: str, name: str) -> None:
        """Renames a site; no performer is bumped."""
        with self.lock:
            self.sites[site_id] = replace(self.sites[site_id], name=name)
            self._changes += 1

    def new_id(self) -> str:
        """A new UUID, the same ones in every run."""
        with self.lock:
            return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    # How rows are kept

    def _stamp(self, at: int | None) -> int:
        return self.clock.stamp() if at is None else at

    def _known(self, performer_id: str) -> PerformerRow:
        row = self.performers.get(performer_id)
        if row is None:
            raise ControlError(f"{self.name}: there is no performer {performer_id}")
        return row

    def _live(self, performer_id: str) -> PerformerRow:
        row = self._known(performer_id)
        if row.deleted:
            raise ControlError(f"{self.name}: performer {performer_id} is deleted and cannot be edited")
        return row

    def _split(self, fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        columns = {key: value for key, value in fields.items() if key in _COLUMNS}
        joins = {key: tuple(value) for key, value in fields.items() if key in _JOIN_FIELDS}
        unknown = fields.keys() - columns.keys() - joins.keys()
        if unknown:
            raise ControlError(f"{self.name}: a performer has no {', '.join(sorted(unknown))}")
        if "aliases" in joins:
            joins["aliases"] = tuple(sorted(joins["aliases"], key=str.encode))
        for image_id in joins.get("images", ()):
            if image_id not in self.images:
                raise ControlError(f"{self.name}: there is no image {image_id}")
        return columns, joins

    def _insert(self, row: PerformerRow, joins: Joins) -> None:
        self.performers[row.id] = row
        self._tuple_ids[row.id] = next(self._tuple_counter)
        self._set_joins(row.id, joins)
        self._index(row)
        self._changes += 1

    def _update(self, row: PerformerRow, joins: Joins) -> None:
        self._unindex(self.performers[row.id])
        self.performers[row.id] = row
        self._tuple_ids[row.id] = next(self._tuple_counter)
        self._set_joins(row.id, joins)
        self._index(row)
        self._changes += 1

    def _soft_delete(self, row: PerformerRow, stamp: int) -> None:
        self._update(replace(row, deleted=True, updated=stamp), NO_JOINS)

    def _redirect(self, source: str, target: str) -> None:
        self._redirects[source] = target
        self._merged.setdefault(target, []).append(source)

    def _set_joins(self, performer_id: str, joins: Joins) -> None:
        for image_id in self.joins.get(performer_id, NO_JOINS).images:
            self._on_performers[image_id].remove(performer_id)
        for image_id in joins.images:
            self._on_performers.setdefault(image_id, []).append(performer_id)
        self.joins[performer_id] = joins

    def _name_key(self, row: PerformerRow) -> tuple[str, str, int, str]:
        # A missing disambiguation sorts last, as NULL does; rows that tie on both come as they were written.
        blank = "\U0010ffff" if row.disambiguation is None else row.disambiguation
        return (row.name, blank, self._tuple_ids[row.id], row.id)

    def _index(self, row: PerformerRow) -> None:
        if not row.deleted:
            insort(self._indices.names, self._name_key(row))
            insort(self._indices.updated, (row.updated, row.id))
            insort(self._indices.created, (row.created, row.id))

    def _unindex(self, row: PerformerRow) -> None:
        if not row.deleted:
            _discard(self._indices.names, self._name_key(row))
            _discard(self._indices.updated, (row.updated, row.id))
            _discard(self._indices.created, (row.created, row.id))

    def _record(
        self, operation: str, target: str, sources: tuple[str, ...], details: Mapping[str, Any], stamp: int
    ) -> None:
        status = "ACCEPTED" if self._random.random() < 0.5 else "IMMEDIATE_ACCEPTED"
        shown = {key: details.get(key) for key in ("name", "disambiguation", "gender", "country")}
        # The application closes the edit by its own clock, after the transaction that the stamp is of.
        closed = self.clock.now()
        edit = Edit(
            id=self.new_id(),
            operation=operation,
            status=status,
            target=target,
            merge_sources=sources,
            details=shown,
            created=min(stamp, closed) - 3_600_000_000,
            updated=closed,
            closed=closed,
            bot=self._random.random() < 0.2,
        )
        if self._holding:
            self._held_edits.append(edit)
        else:
            self._close(edit)

    def _close(self, edit: Edit) -> None:
        self.edits[edit.id] = edit
        insort(self._edit_order, edit.order)


def _discard(ordered: list[Any], key: tuple[Any, ...]) -> None:
    position = bisect_left(ordered, key)
    if position == len(ordered) or ordered[position] != key:
        raise AssertionError(f"index out of step at {key}")
    del ordered[position]


def _shuffled_slice(
    ordered: Sequence[tuple[Any, ...]], start: int, stop: int, descending: bool, salt: int
) -> list[tuple[Any, ...]]:
    """Positions start..stop of an order on the first value alone; `salt` decides the order of equal ones."""
    total = len(ordered)
    answer: list[tuple[Any, ...]] = []
    position = start
    while position < stop:
        key = ordered[total - 1 - position] if descending else ordered[position]
        value = key[0]
        low = bisect_left(ordered, value, key=_first)
        high = bisect_right(ordered, value, key=_first)
        if high - low == 1:
            answer.append(key)
            position += 1
            continue
        begin, end = (total - high, total - low) if descending else (low, high)
        mixed = np.random.default_rng([salt, begin]).permutation(high - low)
        last = min(end, stop)
        answer.extend(ordered[low + int(k)] for k in mixed[position - begin : last - begin])
        position = last
    return answer


def _first(key: tuple[Any, ...]) -> Any:
    return key[0]


def _nullable(value: Any) -> tuple[bool, Any]:
    """Sorts None after everything else, as NULL does ascending."""
    return (value is None, value if value is not None else 0)


_SORTS: Mapping[str, tuple[Callable[[PerformerRow], tuple[Any, ...]], int | None]] = {
    "BIRTHDATE": (lambda row: (_nullable(row.birth_date),), 1),
    "DEATHDATE": (lambda row: (_nullable(row.death_date),), 1),
    "CAREER_START_YEAR": (lambda row: (_nullable(row.career_start_year),), 1),
    "SCENE_COUNT": (lambda row: (row.scene_count, row.name), None),
    "POPULARITY": (lambda row: (row.scene_count, row.name), None),
    "DEBUT": (lambda row: (_nullable(row.career_start_year), row.name), None),
    "LAST_SCENE": (lambda row: (_nullable(row.career_end_year), row.name), None),
}
