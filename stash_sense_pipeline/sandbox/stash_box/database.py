"""The database of a stash-box: tables, sort orders, edits, merges.

It behaves like the real servers in what a sync depends on: which changes bump `updated`, what a merge leaves behind, and
which orders have no tie-breaker. Every public method holds the lock for one statement. A reader that needs several
statements can therefore see a change between them, as on the real servers.
"""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from stash_sense_pipeline.sandbox.invented.clock import Clock
from stash_sense_pipeline.sandbox.invented.pictures import Picture
from stash_sense_pipeline.sandbox.stash_box.edit_log import EditLog
from stash_sense_pipeline.sandbox.stash_box.orders import PageQuery, PerformerOrders
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
    split_fields,
)


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
        """Resets everything but name, host, key, clock and observers."""
        with self.lock:
            self.options = options or BoxOptions()
            self._orders = PerformerOrders()
            self.joins: dict[str, Joins] = {}
            self.images: dict[str, ImageRow] = {}
            self.sites: dict[str, BoxSite] = {}
            self.people: dict[str, int] = {}
            self._redirects: dict[str, str] = {}
            self._merged: dict[str, list[str]] = {}
            self._on_performers: dict[str, list[str]] = {}
            self._image_of: dict[Picture, str] = {}
            self._seed = seed
            self._random = random.Random(f"{seed} {self.name}")
            self._edit_log = EditLog(self.clock, self._random, self.new_id)
            self._changes = 0
            self._requests = 0

    # Reading

    @property
    def performers(self) -> dict[str, PerformerRow]:
        """Performers by id, deleted ones too."""
        return self._orders.rows

    @property
    def edits(self) -> dict[str, Edit]:
        """Closed edits by id."""
        return self._edit_log.edits

    @property
    def changes(self) -> int:
        """How many changes were made. Equal numbers mean equal content."""
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
        """The ids of the performers that have an image."""
        with self.lock:
            return sorted(set(self._on_performers.get(image_id, ())))

    def count(self, matches: Callable[[PerformerRow], bool] | None = None) -> int:
        """How many live performers match."""
        with self.lock:
            if matches is None:
                return self._orders.live
            return sum(1 for row in self.performers.values() if not row.deleted and matches(row))

    def page(self, query: PageQuery, request: int) -> list[PerformerRow]:
        """Live performers of one page. Ties as in `BoxOptions.ties`."""
        with self.lock:
            end = query.offset + query.limit
            salt = f"{self._seed} {self.name} {query.sort} {query.descending} {end} {self._changes}"
            return self._orders.page(query, self.options.ties, salt, request)

    def changed_since(self, since: int, after: str | None, limit: int) -> list[PerformerRow]:
        """Performers, deleted ones too, with (updated, id) above a keyset position, oldest first.

        Without `after`, performers with `updated` equal to `since` are left out.
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
            return self._edit_log.page(descending=descending, limit=limit, offset=offset, matches=matches)

    # Changing

    def create(self, *, at: int | None = None, performer_id: str | None = None, **fields: Any) -> str:
        """Adds a performer by an applied edit and returns its id.

        `fields` are columns of `PerformerRow` and lists of `Joins`; `person` (an int) is the ground truth. `at` is the
        moment when the transaction began; a late commit has one in the past.
        """
        with self.lock:
            stamp = self._stamp(at)
            person = fields.pop("person", None)
            key = performer_id or self.new_id()
            if key in self.performers:
                raise ControlError(f"{self.name}: performer {key} exists already")
            columns, joins = self._split(fields)
            if not columns.get("name"):
                raise ControlError(f"{self.name}: a performer needs a name")
            self._put(PerformerRow(id=key, created=stamp, updated=stamp, **columns), Joins(**joins))
            if person is not None:
                self.people[key] = person
            self._edit_log.record("CREATE", key, (), columns, stamp)
            return key

    def edit(self, performer_id: str, *, at: int | None = None, **fields: Any) -> None:
        """Applies a MODIFY edit. Without `fields` it only bumps `updated`."""
        with self.lock:
            stamp = self._stamp(at)
            row = self._live(performer_id)
            columns, joins = self._split(fields)
            self._put(
                replace(row, **columns, updated=stamp),
                replace(self.joins.get(performer_id, NO_JOINS), **joins),
            )
            self._edit_log.record("MODIFY", performer_id, (), columns, stamp)

    def bump(self, performer_id: str, *, at: int | None = None) -> None:
        """Applies an edit that changes nothing but `updated`."""
        self.edit(performer_id, at=at)

    def touch(self, performer_ids: Iterable[str], *, at: int | None = None) -> None:
        """Runs a bulk UPDATE by an administrator: all performers get one timestamp, without an edit."""
        with self.lock:
            stamp = self._stamp(at)
            for performer_id in performer_ids:
                row = self._known(performer_id)
                self._put(replace(row, updated=stamp), self.joins.get(performer_id, NO_JOINS))

    def merge(
        self,
        sources: Sequence[str],
        target: str,
        *,
        at: int | None = None,
        keep_images: bool = True,
        **fields: Any,
    ) -> None:
        """Applies a MERGE edit: the sources become tombstones that redirect to the target.

        Names of the sources become aliases of the target. `keep_images`: the target also gets their images.
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
            self._put(replace(row, **columns, updated=stamp), replace(joins, **merged))
            self._edit_log.record("MERGE", target, tuple(sources), columns, stamp)

    def destroy(self, performer_id: str, *, at: int | None = None) -> None:
        """Applies a DESTROY edit: the performer becomes a tombstone without a redirect."""
        with self.lock:
            stamp = self._stamp(at)
            self._soft_delete(self._live(performer_id), stamp)
            self._edit_log.record("DESTROY", performer_id, (), {}, stamp)

    def hard_delete(self, performer_id: str) -> None:
        """Runs the performerDestroy mutation: the row and its redirects are deleted, without an edit."""
        with self.lock:
            row = self._known(performer_id)
            self._set_joins(performer_id, NO_JOINS)
            self._orders.remove(row)
            self.joins.pop(performer_id, None)
            target = self._redirects.pop(performer_id, None)
            if target is not None:
                self._merged[target].remove(performer_id)
            for source in self._merged.pop(performer_id, ()):
                del self._redirects[source]
            self._changes += 1

    def restore(self, performer_id: str, *, at: int | None = None, **fields: Any) -> None:
        """Runs an administrator's SQL: a deleted performer is live again, without a redirect and without an edit."""
        with self.lock:
            stamp = self._stamp(at)
            row = self._known(performer_id)
            if not row.deleted:
                raise ControlError(f"{self.name}: performer {performer_id} is not deleted")
            target = self._redirects.pop(performer_id, None)
            if target is not None:
                self._merged[target].remove(performer_id)
            columns, joins = self._split(fields)
            self._put(replace(row, **columns, deleted=False, updated=stamp), Joins(**joins))

    def upload(self, picture: Picture, image_id: str | None = None) -> str:
        """Stores an image and returns its id; equal bytes that are stored already keep their id."""
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
        """Runs the imageDestroy mutation: the image is removed from its performers. Their `updated` stays."""
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
        """Keeps new edits open until `close_edits`, although their changes are applied."""
        with self.lock:
            self._edit_log.hold()

    def close_edits(self) -> None:
        """Closes the edits that `hold_edits` kept open, at the present moment of the clock."""
        with self.lock:
            self._edit_log.close_held()

    def delete_edit(self, edit_id: str) -> None:
        """Removes a closed edit, as a moderator can; its change stays."""
        with self.lock:
            if not self._edit_log.delete(edit_id):
                raise ControlError(f"{self.name}: there is no edit {edit_id}")
            self._changes += 1

    def load(self, rows: Iterable[tuple[PerformerRow, Joins]]) -> None:
        """Adds or replaces many performers, as an import does: without edits, and with the timestamps of the rows."""
        with self.lock:
            pairs = list(rows)
            self._orders.load([row for row, _ in pairs])
            for row, joins in pairs:
                if joins is not NO_JOINS:
                    self._set_joins(row.id, joins)
            self._changes += 1

    def site_for(self, name: str, url: str) -> str:
        """The id of the site with that name, which is added if it is missing."""
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
        """A new UUID from the box's random stream."""
        with self.lock:
            return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

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
        columns, joins = split_fields(self.name, fields)
        for image_id in joins.get("images", ()):
            if image_id not in self.images:
                raise ControlError(f"{self.name}: there is no image {image_id}")
        return columns, joins

    def _put(self, row: PerformerRow, joins: Joins) -> None:
        self._orders.put(row)
        self._set_joins(row.id, joins)
        self._changes += 1

    def _soft_delete(self, row: PerformerRow, stamp: int) -> None:
        self._put(replace(row, deleted=True, updated=stamp), NO_JOINS)

    def _redirect(self, source: str, target: str) -> None:
        self._redirects[source] = target
        self._merged.setdefault(target, []).append(source)

    def _set_joins(self, performer_id: str, joins: Joins) -> None:
        for image_id in self.joins.get(performer_id, NO_JOINS).images:
            self._on_performers[image_id].remove(performer_id)
        for image_id in joins.images:
            self._on_performers.setdefault(image_id, []).append(performer_id)
        self.joins[performer_id] = joins
