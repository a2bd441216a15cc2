"""Writes performers.db."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.files import replacing, sha256_file
from stash_sense_pipeline.foundation.runtime_tuning import collector_paused
from stash_sense_pipeline.release.build.content import (
    ProfileKey,
    ReleaseContent,
    ReleasedPerformer,
    read_content,
)
from stash_sense_pipeline.release.build.content_rows import Instant, ReleasedFace
from stash_sense_pipeline.release.build.staging import Staging, disk_errors
from stash_sense_pipeline.release.contract import PERFORMERS_DB, PERSONAL_FIELDS, SCHEMA_VERSION
from stash_sense_pipeline.settings.known_sources import ENDPOINT_PRIORITY

_TO_THE_SECOND = len("2026-01-31T04:05:06")
# The sidecar unpacks `SELECT *` of performers, stashbox_ids, aliases and faces into fixed fields: one column more or less
# breaks it.
_SCHEMA = """
CREATE TABLE schema_version (version INTEGER PRIMARY KEY);
CREATE TABLE performers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    canonical_name TEXT NOT NULL,
    disambiguation TEXT,
    gender TEXT,
    country TEXT,
    ethnicity TEXT,
    birth_date TEXT,
    death_date TEXT,
    height_cm INTEGER,
    eye_color TEXT,
    hair_color TEXT,
    career_start_year INTEGER,
    career_end_year INTEGER,
    scene_count INTEGER,
    stashdb_updated_at TEXT,
    face_count INTEGER DEFAULT 0,
    image_url TEXT,
    created_at TEXT DEFAULT (datetime('now')),
    updated_at TEXT DEFAULT (datetime('now'))
);
CREATE TABLE stashbox_ids (
    performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
    endpoint TEXT NOT NULL,
    stashbox_performer_id TEXT NOT NULL,
    created_at TEXT DEFAULT (datetime('now')),
    PRIMARY KEY (endpoint, stashbox_performer_id)
);
CREATE TABLE aliases (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
    alias TEXT NOT NULL,
    source_endpoint TEXT,
    created_at TEXT DEFAULT (datetime('now')),
    UNIQUE (performer_id, alias)
);
CREATE TABLE faces (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
    facenet_index INTEGER NOT NULL UNIQUE,
    arcface_index INTEGER NOT NULL UNIQUE,
    image_url TEXT,
    source_endpoint TEXT NOT NULL,
    quality_score REAL,
    created_at TEXT DEFAULT (datetime('now')),
    pruned INTEGER DEFAULT 0,
    yaw REAL
);
CREATE TABLE external_urls (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
    site TEXT NOT NULL,
    url TEXT NOT NULL,
    normalized_id TEXT NOT NULL,
    source_endpoint TEXT NOT NULL,
    confidence REAL DEFAULT 1.0,
    created_at TEXT DEFAULT (datetime('now')),
    UNIQUE (site, normalized_id)
);
CREATE TABLE merged_ids (
    performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
    merged_stashbox_id TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    merged_at TEXT DEFAULT (datetime('now')),
    PRIMARY KEY (endpoint, merged_stashbox_id)
);
CREATE TABLE tattoos (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
    location TEXT,
    description TEXT,
    source_endpoint TEXT,
    created_at TEXT DEFAULT (datetime('now')),
    UNIQUE (performer_id, location, description)
);
CREATE TABLE piercings (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
    location TEXT,
    description TEXT,
    source_endpoint TEXT,
    created_at TEXT DEFAULT (datetime('now')),
    UNIQUE (performer_id, location, description)
);
CREATE TABLE body_proportions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
    shoulder_hip_ratio REAL,
    leg_torso_ratio REAL,
    arm_span_height_ratio REAL,
    confidence REAL
);
CREATE TABLE tattoo_detections (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    performer_id INTEGER NOT NULL REFERENCES performers(id) ON DELETE CASCADE,
    has_tattoos INTEGER,
    confidence REAL,
    detections_json TEXT
);
"""

_INDEXES = """
CREATE INDEX idx_performers_name ON performers(canonical_name);
CREATE INDEX idx_performers_country ON performers(country);
CREATE INDEX idx_performers_ethnicity ON performers(ethnicity);
CREATE INDEX idx_performers_height ON performers(height_cm);
CREATE INDEX idx_performers_scene_count ON performers(scene_count);
CREATE INDEX idx_performers_stashdb_updated ON performers(stashdb_updated_at);
CREATE INDEX idx_stashbox_performer ON stashbox_ids(performer_id);
CREATE INDEX idx_stashbox_id ON stashbox_ids(stashbox_performer_id);
CREATE INDEX idx_aliases_performer ON aliases(performer_id);
CREATE INDEX idx_aliases_alias ON aliases(alias COLLATE NOCASE);
CREATE INDEX idx_faces_performer ON faces(performer_id);
CREATE INDEX idx_urls_performer ON external_urls(performer_id);
CREATE INDEX idx_urls_site ON external_urls(site, normalized_id);
CREATE INDEX idx_urls_normalized ON external_urls(normalized_id);
CREATE INDEX idx_merged_performer ON merged_ids(performer_id);
"""


@dataclass(frozen=True)
class DatabaseReport:
    """What performers.db holds. `order_digest` must be that of the indices, `content_digest` that of the catalog."""

    performers: int
    faces: int
    stash_box_ids: int
    aliases: int
    external_urls: int
    merged_ids: int
    sources: tuple[str, ...]
    newest_change: str
    order_digest: str
    content_digest: str
    sha256: str
    size_bytes: int
    seconds: float


def build_performers_db(
    engine: sa.Engine,
    path: Path,
    hosts: Mapping[str, str],
    *,
    profile_key: ProfileKey | None = None,
    priority: Sequence[str] = ENDPOINT_PRIORITY,
) -> DatabaseReport:
    """Writes the performers with trusted faces to `path`. `hosts`, `profile_key` and `priority` as in read_content.

    The same catalog gives the same bytes: all times come from its rows. Tables of the contract without data here
    (tattoos, body proportions) are created empty. Raises ReleaseError as read_content does, or when the file cannot be
    written; `path` is then unchanged. The verification of the release runs SQLite's own checks of the file.
    """
    begun = time.monotonic()
    content = read_content(engine, hosts, profile_key, priority)
    with disk_errors(f"write {path}"), replacing(path) as temporary, collector_paused():
        _write(content, temporary)
    return DatabaseReport(
        performers=len(content.performers),
        faces=len(content.faces),
        stash_box_ids=sum(len(performer.stash_box_ids) for performer in content.performers),
        aliases=sum(len(performer.aliases) for performer in content.performers),
        external_urls=sum(len(performer.urls) for performer in content.performers),
        merged_ids=sum(len(performer.merged_ids) for performer in content.performers),
        sources=content.sources,
        newest_change=iso_time(content.newest_change),
        order_digest=content.order.digest,
        content_digest=content.digest,
        sha256=sha256_file(path),
        size_bytes=path.stat().st_size,
        seconds=time.monotonic() - begun,
    )


def stage_performers_db(
    engine: sa.Engine,
    staging: Staging,
    hosts: Mapping[str, str],
    *,
    profile_key: ProfileKey | None = None,
    priority: Sequence[str] = ENDPOINT_PRIORITY,
) -> DatabaseReport:
    """Runs build_performers_db in a staging directory and writes its report for assemble_release."""
    path = staging.release / PERFORMERS_DB
    report = build_performers_db(engine, path, hosts, profile_key=profile_key, priority=priority)
    staging.write_part("performers_db", asdict(report))
    return report


def iso_time(moment: Instant) -> str:
    """The time as `2026-01-31T04:05:06Z`, the form of all times in a release."""
    return moment[:_TO_THE_SECOND] + "Z"


def _write(content: ReleaseContent, path: Path) -> None:
    """Fills a scratch database and vacuums it into `path`, which then has no free pages and no journal."""
    scratch = path.with_name(f"{path.name}.scratch")
    scratch.unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(scratch, isolation_level=None)) as connection:
            # The scratch file need not survive a crash.
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA foreign_keys = OFF")
            connection.execute("PRAGMA cache_size = -65536")
            connection.executescript(_SCHEMA)
            connection.execute("BEGIN")
            for table in _tables(content):
                _insert(connection, table)
            connection.execute("COMMIT")
            connection.executescript(_INDEXES)
            connection.execute("VACUUM INTO ?", (str(path),))
    except sqlite3.Error as error:
        raise ReleaseError(f"cannot write {PERFORMERS_DB}: {error}") from error
    finally:
        scratch.unlink(missing_ok=True)


def _insert(connection: sqlite3.Connection, table: _Table) -> None:
    # Parameters by position take half the time of parameters by name.
    columns, values = ", ".join(table.columns), ", ".join("?" * len(table.columns))
    connection.executemany(f"INSERT INTO {table.name} ({columns}) VALUES ({values})", table.rows)


class _Table(NamedTuple):
    """A table of performers.db: its name, the columns that are filled, and the rows in the order of these."""

    name: str
    columns: Sequence[str]
    rows: Iterable[tuple[Any, ...]]


def _tables(content: ReleaseContent) -> Iterator[_Table]:
    """All tables that are filled, in the order of insertion."""
    yield _Table("schema_version", ("version",), [(SCHEMA_VERSION,)])
    yield _performers(content.performers)
    yield from _records_and_aliases(content.performers)
    yield _faces(content.faces)
    yield from _urls_and_merged_ids(content.performers)


def _performers(people: Sequence[ReleasedPerformer]) -> _Table:
    return _Table(
        "performers",
        (
            "id",
            "canonical_name",
            *PERSONAL_FIELDS,
            "stashdb_updated_at",
            "face_count",
            "image_url",
            "created_at",
            "updated_at",
        ),
        (
            (
                person.performer_id,
                person.name,
                *(person.fields[field] for field in PERSONAL_FIELDS),
                person.stashdb_updated_at and iso_time(person.stashdb_updated_at),
                person.face_count,
                person.image_url,
                iso_time(person.created_at),
                iso_time(person.updated_at),
            )
            for person in people
        ),
    )


def _records_and_aliases(people: Sequence[ReleasedPerformer]) -> Iterator[_Table]:
    yield _Table(
        "stashbox_ids",
        ("performer_id", "endpoint", "stashbox_performer_id", "created_at"),
        (
            (person.performer_id, box.source, box.source_id, iso_time(box.created_at))
            for person in people
            for box in person.stash_box_ids
        ),
    )
    yield _Table(
        "aliases",
        ("performer_id", "alias", "source_endpoint", "created_at"),
        (
            (person.performer_id, alias, source, iso_time(created_at))
            for person in people
            for alias, source, created_at in person.aliases
        ),
    )


def _faces(faces: Sequence[ReleasedFace]) -> _Table:
    return _Table(
        "faces",
        (
            "id",
            "performer_id",
            "facenet_index",
            "arcface_index",
            "image_url",
            "source_endpoint",
            "quality_score",
            "created_at",
            "pruned",
            "yaw",
        ),
        (
            (
                face.face_id,
                face.performer_id,
                position,
                position,
                face.image_url,
                face.source,
                face.quality,
                iso_time(face.created_at),
                0,
                face.yaw,
            )
            for position, face in enumerate(faces)
        ),
    )


def _urls_and_merged_ids(people: Sequence[ReleasedPerformer]) -> Iterator[_Table]:
    yield _Table(
        "external_urls",
        (
            "performer_id",
            "site",
            "url",
            "normalized_id",
            "source_endpoint",
            "confidence",
            "created_at",
        ),
        (
            (person.performer_id, url.site, url.url, url.key, url.source, 1.0, iso_time(url.created_at))
            for person in people
            for url in person.urls
        ),
    )
    yield _Table(
        "merged_ids",
        ("performer_id", "merged_stashbox_id", "endpoint", "merged_at"),
        (
            (person.performer_id, gone.source_id, gone.source, gone.merged_at and iso_time(gone.merged_at))
            for person in people
            for gone in person.merged_ids
        ),
    )
