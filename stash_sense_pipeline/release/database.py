"""Writing performers.db: the schema that the sidecar's readers accept, filled from one reading of the catalog."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import reading
from stash_sense_pipeline.errors import ReleaseError
from stash_sense_pipeline.files import replacing, sha256_file
from stash_sense_pipeline.release.content import ProfileKey, ReleaseContent, read_content
from stash_sense_pipeline.release.contract import PERFORMERS_DB, SCHEMA_VERSION
from stash_sense_pipeline.release.staging import Staging, disk_errors

# The readers unpack `SELECT *` of the first four tables into fixed fields: one column more or less breaks them.
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
    """What performers.db holds. `order_digest` and `content_digest` tie it to the indices and to the catalog."""

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
    engine: sa.Engine, path: Path, hosts: Mapping[str, str], *, profile_key: ProfileKey | None = None
) -> DatabaseReport:
    """Writes the performers with trusted faces to `path`; `hosts` maps stash-box short names to universal-id hosts.

    The same catalog gives the same bytes: all times come from its rows. Tables of the contract that we do not fill
    (tattoos, body proportions) are there and empty. Raises ReleaseError as read_content does, or when the file
    cannot be written or does not pass SQLite's checks; `path` is then as it was.
    """
    begun = time.monotonic()
    with reading(engine) as connection:
        content = read_content(connection, hosts, profile_key)
    with disk_errors(f"write {path}"), replacing(path) as temporary:
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
    engine: sa.Engine, staging: Staging, hosts: Mapping[str, str], *, profile_key: ProfileKey | None = None
) -> DatabaseReport:
    """build_performers_db into a staging directory, with a note for assemble_release."""
    report = build_performers_db(engine, staging.release / PERFORMERS_DB, hosts, profile_key=profile_key)
    staging.write_part("performers_db", asdict(report))
    return report


def iso_time(moment: datetime) -> str:
    """`2026-01-31T04:05:06Z`, the form of all instants in a release."""
    # Not strftime, which takes ten times as long and is asked a few hundred thousand times.
    return f"{moment.isoformat(timespec='seconds').partition('+')[0]}Z"


def _write(content: ReleaseContent, path: Path) -> None:
    """Fills a scratch database beside `path` and vacuums it into `path`, which so has no free pages and no journal."""
    scratch = path.with_name(f"{path.name}.scratch")
    scratch.unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(scratch, isolation_level=None)) as connection:
            # Nothing of the scratch file has to survive a crash.
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA foreign_keys = OFF")
            connection.executescript(_SCHEMA)
            connection.execute("BEGIN")
            for table, rows in _tables(content):
                _insert(connection, table, rows)
            connection.execute("COMMIT")
            connection.executescript(_INDEXES)
            connection.execute("VACUUM INTO ?", (str(path),))
        _check(path)
    except sqlite3.Error as error:
        raise ReleaseError(f"cannot write {PERFORMERS_DB}: {error}") from error
    finally:
        scratch.unlink(missing_ok=True)


def _insert(connection: sqlite3.Connection, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return
    columns = ", ".join(first)
    values = ", ".join(f":{name}" for name in first)
    statement = f"INSERT INTO {table} ({columns}) VALUES ({values})"
    connection.execute(statement, first)
    connection.executemany(statement, rows)


def _tables(content: ReleaseContent) -> Iterator[tuple[str, Iterable[Mapping[str, Any]]]]:
    yield "schema_version", [{"version": SCHEMA_VERSION}]
    yield (
        "performers",
        (
            {
                "id": performer.performer_id,
                "canonical_name": performer.name,
                **performer.fields,
                "stashdb_updated_at": performer.stashdb_updated_at and iso_time(performer.stashdb_updated_at),
                "face_count": performer.face_count,
                "image_url": performer.image_url,
                "created_at": iso_time(performer.created_at),
                "updated_at": iso_time(performer.updated_at),
            }
            for performer in content.performers
        ),
    )
    yield (
        "stashbox_ids",
        (
            {
                "performer_id": performer.performer_id,
                "endpoint": box.source,
                "stashbox_performer_id": box.source_id,
                "created_at": iso_time(box.created_at),
            }
            for performer in content.performers
            for box in performer.stash_box_ids
        ),
    )
    yield (
        "aliases",
        (
            {
                "performer_id": performer.performer_id,
                "alias": alias,
                "source_endpoint": source,
                "created_at": iso_time(created_at),
            }
            for performer in content.performers
            for alias, source, created_at in performer.aliases
        ),
    )
    yield (
        "faces",
        (
            {
                "id": face.face_id,
                "performer_id": face.performer_id,
                "facenet_index": position,
                "arcface_index": position,
                "image_url": face.image_url,
                "source_endpoint": face.source,
                "quality_score": face.quality,
                "created_at": iso_time(face.created_at),
                "pruned": 0,
                "yaw": face.yaw,
            }
            for position, face in enumerate(content.faces)
        ),
    )
    yield (
        "external_urls",
        (
            {
                "performer_id": performer.performer_id,
                "site": url.site,
                "url": url.url,
                "normalized_id": url.key,
                "source_endpoint": url.source,
                "confidence": 1.0,
                "created_at": iso_time(url.created_at),
            }
            for performer in content.performers
            for url in performer.urls
        ),
    )
    yield (
        "merged_ids",
        (
            {
                "performer_id": performer.performer_id,
                "merged_stashbox_id": merged.source_id,
                "endpoint": merged.source,
                "merged_at": merged.merged_at and iso_time(merged.merged_at),
            }
            for performer in content.performers
            for merged in performer.merged_ids
        ),
    )


def _check(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        verdict = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        mode = connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
        orphan = connection.execute("PRAGMA foreign_key_check").fetchone()
    if verdict != "ok" or mode != "delete" or orphan is not None:
        raise ReleaseError(
            f"{PERFORMERS_DB} came out wrong (integrity {verdict}, journal {mode}, orphan row {orphan}); publish again"
        )
