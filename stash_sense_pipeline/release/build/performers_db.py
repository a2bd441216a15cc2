"""Writes performers.db."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.files import replacing, sha256_file
from stash_sense_pipeline.foundation.runtime_tuning import collector_paused, rare_collections
from stash_sense_pipeline.release.build.content import (
    ProfileKey,
    ReleaseContent,
    ReleasedPerformer,
    read_content,
)
from stash_sense_pipeline.release.build.content_rows import Instant, ReleasedFace
from stash_sense_pipeline.release.build.performers_db_schema import INDEXES, SCHEMA
from stash_sense_pipeline.release.build.staging import Staging, disk_errors
from stash_sense_pipeline.release.build.tattoos.tattoo_rows import TattooDetections, TattooSpec, read_tattoos
from stash_sense_pipeline.release.contract import PERFORMERS_DB, PERSONAL_FIELDS, PLACE_TABLES, SCHEMA_VERSION
from stash_sense_pipeline.settings.known_sources import ENDPOINT_PRIORITY

_TO_THE_SECOND = len("2026-01-31T04:05:06")


@dataclass(frozen=True)
class DatabaseReport:
    """What performers.db holds. `order_digest` must be that of the indices, the other digests those of the catalog."""

    performers: int
    faces: int
    stash_box_ids: int
    aliases: int
    external_urls: int
    merged_ids: int
    tattoos: int
    piercings: int
    tattoo_detections: int
    sources: tuple[str, ...]
    order_digest: str
    content_digest: str
    tattoos_digest: str | None
    sha256: str
    size_bytes: int
    seconds: float


@dataclass(frozen=True)
class DatabaseSpec:
    """What performers.db is made of. `hosts`, `profile_key` and `priority` as in read_content, `tattoos` as read_tattoos."""

    hosts: Mapping[str, str]
    profile_key: ProfileKey | None = None
    priority: Sequence[str] = ENDPOINT_PRIORITY
    tattoos: TattooSpec | None = None


@rare_collections()
def build_performers_db(engine: sa.Engine, path: Path, spec: DatabaseSpec) -> DatabaseReport:
    """Writes the performers with trusted faces to `path`.

    The same content gives the same bytes, in whatever order and when it was collected: faces are numbered by position,
    and all times are those that the sources state. Tables of the contract without data here (body
    proportions) are created empty. Raises ReleaseError as read_content does, or when the file cannot be written; `path`
    is then unchanged. The verification of the release runs SQLite's own checks of the file.
    """
    begun = time.monotonic()
    content = read_content(engine, spec.hosts, spec.profile_key, spec.priority)
    with reading(engine) as connection:
        tattoos = read_tattoos(connection, spec.tattoos)
    detections = tattoos.detections if tattoos.left_out is None else ()
    # SQLite makes its indexes and the final copy without the interpreter lock, which the digest needs.
    with ThreadPoolExecutor(max_workers=1) as beside, collector_paused():
        digest = beside.submit(lambda: content.digest)
        with disk_errors(f"write {path}"), replacing(path) as temporary:
            _write([*_tables(content), _detections(detections)], temporary)
    return DatabaseReport(
        performers=len(content.performers),
        faces=len(content.faces),
        stash_box_ids=sum(len(performer.stash_box_ids) for performer in content.performers),
        aliases=sum(len(performer.aliases) for performer in content.performers),
        external_urls=sum(len(performer.urls) for performer in content.performers),
        merged_ids=sum(len(performer.merged_ids) for performer in content.performers),
        tattoos=sum(len(performer.places.get("tattoos", ())) for performer in content.performers),
        piercings=sum(len(performer.places.get("piercings", ())) for performer in content.performers),
        tattoo_detections=len(detections),
        sources=content.sources,
        order_digest=content.order.digest,
        content_digest=digest.result(),
        tattoos_digest=tattoos.digest,
        sha256=sha256_file(path),
        size_bytes=path.stat().st_size,
        seconds=time.monotonic() - begun,
    )


def stage_performers_db(engine: sa.Engine, staging: Staging, spec: DatabaseSpec) -> DatabaseReport:
    """Runs build_performers_db in a staging directory and writes its report for assemble_release."""
    path = staging.release / PERFORMERS_DB
    report = build_performers_db(engine, path, spec)
    staging.write_part("performers_db", asdict(report))
    return report


def _iso_time(moment: Instant | None) -> str | None:
    """The time as `2026-01-31T04:05:06Z`, the form of all times in a release."""
    return moment and moment[:_TO_THE_SECOND] + "Z"


def _write(tables: Iterable[_Table], path: Path) -> None:
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
            connection.executescript(SCHEMA)
            connection.execute("BEGIN")
            for table in tables:
                _insert(connection, table)
            connection.execute("COMMIT")
            connection.executescript(INDEXES)
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
    yield from (_places(table, content.performers) for table in PLACE_TABLES)


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
                _iso_time(person.stashdb_updated_at),
                person.face_count,
                person.image_url,
                _iso_time(person.created_at),
                _iso_time(person.updated_at),
            )
            for person in people
        ),
    )


def _records_and_aliases(people: Sequence[ReleasedPerformer]) -> Iterator[_Table]:
    yield _Table(
        "stashbox_ids",
        ("performer_id", "endpoint", "stashbox_performer_id", "created_at"),
        (
            (person.performer_id, box.source, box.source_id, _iso_time(box.created_at))
            for person in people
            for box in person.stash_box_ids
        ),
    )
    yield _Table(
        "aliases",
        ("performer_id", "alias", "source_endpoint", "created_at"),
        (
            (person.performer_id, alias, source, _iso_time(created_at))
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
                position + 1,
                face.performer_id,
                position,
                position,
                face.image_url,
                face.source,
                face.quality,
                # When the catalog found the face is no content of the release, and no source knows of it.
                None,
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
            (person.performer_id, url.site, url.url, url.key, url.source, 1.0, _iso_time(url.created_at))
            for person in people
            for url in person.urls
        ),
    )
    yield _Table(
        "merged_ids",
        ("performer_id", "merged_stashbox_id", "endpoint", "merged_at"),
        (
            # No source states when it merged a record.
            (person.performer_id, gone.source_id, gone.source, None)
            for person in people
            for gone in person.merged_ids
        ),
    )


def _places(table: str, people: Sequence[ReleasedPerformer]) -> _Table:
    """The places of tattoos or piercings. The description, a free text, is never asked for and stays NULL."""
    return _Table(
        table,
        ("performer_id", "location", "source_endpoint", "created_at"),
        (
            (person.performer_id, place, source, _iso_time(created_at))
            for person in people
            for place, source, created_at in person.places.get(table, ())
        ),
    )


def _detections(people: Sequence[TattooDetections]) -> _Table:
    return _Table("tattoo_detections", TattooDetections._fields, people)
