"""Compares the catalog with the data of the sandbox's stash-box."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.sandbox.invented.clock import from_micros
from stash_sense_pipeline.sandbox.stash_box.database import Box

P = schema.source_performers
_COLUMNS = (
    *("name", "disambiguation", "gender", "birth_date", "death_date", "ethnicity", "country", "eye_color"),
    *("hair_color", "career_start_year", "career_end_year"),
)


def rows(engine: sa.Engine, source: str = "stashdb") -> dict[str, Any]:
    """The catalog's records of a source by id, tombstones too."""
    with engine.connect() as connection:
        return {row.source_id: row for row in connection.execute(sa.select(P).where(P.c.source == source))}


def live(engine: sa.Engine, source: str = "stashdb") -> set[str]:
    """The ids of live records."""
    return {source_id for source_id, row in rows(engine, source).items() if row.deleted_at is None}


def buried(engine: sa.Engine, source: str = "stashdb") -> dict[str, str | None]:
    """The tombstones, each with its survivor."""
    found = rows(engine, source).items()
    return {source_id: row.merged_into for source_id, row in found if row.deleted_at is not None}


def links(engine: sa.Engine, column: sa.Column[Any], source: str = "stashdb") -> dict[str, set[str]]:
    """The values of a link table by record."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    table = column.table
    with engine.connect() as connection:
        query = sa.select(table.c.source_id, column).where(table.c.source == source)
        for source_id, value in connection.execute(query):
            found[source_id].add(value)
    return dict(found)


def images(engine: sa.Engine, source: str = "stashdb") -> dict[str, Any]:
    """The ledger of images by id."""
    table = schema.source_images
    with engine.connect() as connection:
        return {
            row.image_id: row for row in connection.execute(sa.select(table).where(table.c.source == source))
        }


def differences(engine: sa.Engine, box: Box, *, tells_targets: bool = True) -> list[tuple[str, str, Any]]:
    """Differences from the server: (kind, id, detail). `tells_targets` is False for servers without merged_into_id."""
    stored = rows(engine, box.name)
    alive = {key for key, row in stored.items() if row.deleted_at is None}
    truth = {key for key, row in box.performers.items() if not row.deleted}
    wrong: list[tuple[str, str, Any]] = [("missing", key, None) for key in truth - alive]
    wrong += [("undeleted", key, None) for key in alive - truth]
    held = {
        name: links(engine, column, box.name)
        for name, column in (
            ("aliases", schema.performer_aliases.c.alias),
            ("urls", schema.performer_urls.c.url),
            ("images", schema.performer_images.c.image_id),
        )
    }
    for key in truth & alive:
        row, mine, joins = box.performers[key], stored[key], box.joins[key]
        wrong += [
            ("stale", key, column) for column in _COLUMNS if getattr(row, column) != getattr(mine, column)
        ]
        if mine.height_cm != row.height or mine.updated_at != from_micros(row.updated):
            wrong.append(("stale", key, "height or updated"))
        if mine.raw.get("tattoos", []) != sorted({each.location for each in joins.tattoos}):
            wrong.append(("stale", key, "tattoos"))
        listed = {
            "aliases": set(joins.aliases),
            "urls": {link.url for link in joins.urls},
            "images": set(joins.images),
        }
        wrong += [
            ("links", key, (name, values ^ held[name].get(key, set())))
            for name, values in listed.items()
            if values != held[name].get(key, set())
        ]
    for key, target in buried(engine, box.name).items():
        if tells_targets and target != box.redirect_of(key):
            wrong.append(("merged", key, (target, box.redirect_of(key))))
        wrong += [("remains", key, name) for name, found in held.items() if key in found]
    linked = set().union(*held["images"].values()) if held["images"] else set()
    wrong += [("orphan", key, None) for key in images(engine, box.name).keys() ^ linked]
    return wrong
