"""Checks of performers.db.

Each public function checks one property of an opened release. It returns its finding, or raises an error that
describes the failure.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from datetime import date

from stash_sense_pipeline.foundation.files import open_regular
from stash_sense_pipeline.foundation.sqlite_file import MAGIC as SQLITE_MAGIC
from stash_sense_pipeline.release.checks.opened_release import (
    DAMAGE,
    MAX_EXAMPLES,
    OpenedRelease,
    refuse_examples,
)
from stash_sense_pipeline.release.contract import (
    DATE_FORM,
    EXACT_COLUMNS,
    FACES_JSON,
    KNOWN_HOSTS,
    LEGACY_TABLES,
    MANIFEST,
    NEEDED_COLUMNS,
    PERFORMERS_DB,
    PERFORMERS_JSON,
    PLACE_TABLES,
    SCHEMA_VERSION,
    endpoint_rank,
)
from stash_sense_pipeline.settings.known_sources import ENDPOINT_PRIORITY
from stash_sense_pipeline.sources.cleaning.text import label

# Of a list of endpoints in a manifest.
_MOST_ENDPOINTS = 100

_TIME_COLUMNS = frozenset({"created_at", "updated_at", "stashdb_updated_at", "merged_at"})


_TIME_GLOB = "[0-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-5][0-9]:[0-5][0-9]*"


def journal_mode(release: OpenedRelease) -> str:
    with open_regular(release.directory / PERFORMERS_DB) as stream:
        header = stream.read(20)
    if header[:16] != SQLITE_MAGIC:
        raise ValueError(f"{PERFORMERS_DB} is not an SQLite database")
    # Bytes 18 and 19 of the file: 1 for a rollback journal, 2 for WAL (https://sqlite.org/fileformat.html).
    if header[18:20] != b"\x01\x01":
        raise ValueError(
            "WAL: a reader would create files beside the database, and recent pages may be missing"
        )
    return "DELETE"


def objects(release: OpenedRelease) -> str:
    with release.database() as connection:
        (count,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return f"{count} tables and indexes, nothing else"


def integrity(release: OpenedRelease) -> str:
    release.check_database()
    return "ok"


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {row[0] for row in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}


def schema(release: OpenedRelease) -> str:
    with release.database() as connection:
        for table, (needed, optional) in EXACT_COLUMNS.items():
            columns = _columns(connection, table)
            refuse_examples(sorted(needed - columns), f"column missing in table {table}")
            refuse_examples(
                sorted(columns - needed - optional),
                f"column that breaks the sidecar's reader in table {table}",
            )
        for table, needed in NEEDED_COLUMNS.items():
            refuse_examples(sorted(needed - _columns(connection, table)), f"column missing in table {table}")
    return f"{len(EXACT_COLUMNS) + len(NEEDED_COLUMNS)} tables"


def schema_version(release: OpenedRelease) -> str:
    with release.database() as connection:
        versions = [row[0] for row in connection.execute("SELECT version FROM schema_version")]
    if versions != [SCHEMA_VERSION]:
        raise ValueError(f"{versions}, the sidecar's readers were written for {SCHEMA_VERSION}")
    return str(SCHEMA_VERSION)


def extra_tables(release: OpenedRelease) -> str:
    with release.database() as connection:
        query = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"
        names = [name for (name,) in connection.execute(query) if name in LEGACY_TABLES]
    refuse_examples(names, "not a table of the contract")
    return "none"


def foreign_keys(release: OpenedRelease) -> str:
    with release.database() as connection:
        orphans = connection.execute("PRAGMA foreign_key_check").fetchmany(MAX_EXAMPLES)
        people = {row[0] for row in connection.execute("SELECT id FROM performers")}
        refuse_examples([f"row {row[1]} of {row[0]}" for row in orphans], "no performer owns")
        for table in (*EXACT_COLUMNS, *NEEDED_COLUMNS):
            # Also for a database of another program that declares no foreign key.
            if "performer_id" in _columns(connection, table):
                rows = connection.execute(f"SELECT DISTINCT performer_id FROM {table}")
                refuse_examples(
                    [row[0] for row in rows if row[0] not in people],
                    f"{table} rows with an unknown performer",
                )
    return f"{len(people)} performers own every row"


def positions(release: OpenedRelease) -> str:
    with release.database() as connection:
        rows = connection.execute("SELECT id, facenet_index, arcface_index FROM faces").fetchall()
    refuse_examples(
        [row[0] for row in rows if row[1] != row[2]], "facenet_index and arcface_index differ for face"
    )
    live = sorted(position for position, uid in enumerate(release.faces) if uid is not None)
    if sorted(row[1] for row in rows) != live:
        raise ValueError(f"the positions of {len(rows)} rows are not those of {FACES_JSON}")
    return f"{len(rows)} faces"


def _records(connection: sqlite3.Connection) -> dict[int, list[tuple[str, str]]]:
    found: dict[int, list[tuple[str, str]]] = defaultdict(list)
    query = "SELECT performer_id, endpoint, stashbox_performer_id FROM stashbox_ids"
    for performer_id, endpoint, record in connection.execute(query):
        found[performer_id].append((endpoint, record))
    return found


def owners(release: OpenedRelease) -> str:
    """The performer of each face row is that of faces.json, and its universal id is from its endpoint of best priority."""
    with release.database() as connection:
        rows = connection.execute(
            "SELECT facenet_index, performer_id FROM faces ORDER BY facenet_index"
        ).fetchall()
        records = _records(connection)
    priority = _priority(release)
    endpoints_here = {endpoint for own in records.values() for endpoint, _ in own}
    rank = {endpoint: endpoint_rank(endpoint, {}, priority) for endpoint in endpoints_here}
    owner: dict[str, int] = {}
    for position, performer_id in rows:
        uid = release.faces[position]
        if owner.setdefault(uid, performer_id) != performer_id:
            raise ValueError(f"{uid} is performer {owner[uid]} and performer {performer_id}")
    if len(set(owner.values())) != len(owner):
        raise ValueError("a performer has more than one universal id")
    hosts: dict[str, str] = {}
    for uid, performer_id in owner.items():
        host, _, record = uid.partition(":")
        own = records[performer_id]
        endpoints = [endpoint for endpoint, own_record in own if own_record == record]
        if not endpoints:
            raise ValueError(
                f"{FACES_JSON} has a face of {uid}, but performer {performer_id} has no such record"
            )
        best = min((rank[endpoint], endpoint) for endpoint, _ in own)[1]
        if best in priority and best not in endpoints:
            raise ValueError(f"{uid} is not the id of the record at {best}, which has priority")
        if len(endpoints) == 1 and hosts.setdefault(endpoints[0], host) != host:
            raise ValueError(f"endpoint {endpoints[0]} has the hosts {hosts[endpoints[0]]} and {host}")
    return f"{len(owner)} performers own their positions of {FACES_JSON}"


def _priority(release: OpenedRelease) -> tuple[str, ...]:
    """The order of endpoints that the manifest states, by default that of the sidecar's own trainer."""
    try:
        stated = release.manifest.get("endpoint_priority", ENDPOINT_PRIORITY)
    except DAMAGE:
        # The check "manifest" reports it.
        return ENDPOINT_PRIORITY
    listed = isinstance(stated, list | tuple) and len(stated) <= _MOST_ENDPOINTS
    if not listed or not all(isinstance(name, str) for name in stated):
        raise ValueError(f"endpoint_priority in {MANIFEST} is not a list of endpoints: {stated!r:.80}")
    return tuple(stated)


def database_face_counts(release: OpenedRelease) -> str:
    query = (
        "SELECT p.id FROM performers p LEFT JOIN (SELECT performer_id, count(*) AS n FROM faces GROUP BY 1) f "
        "ON f.performer_id = p.id WHERE p.face_count IS NOT coalesce(f.n, 0)"
    )
    with release.database() as connection:
        refuse_examples(
            [row[0] for row in connection.execute(query)],
            "face_count is not the number of faces of performer",
        )
        people = connection.execute("SELECT count(*) FROM performers WHERE face_count > 0").fetchone()[0]
    if people != len(release.performers):
        raise ValueError(
            f"{people} performers with faces, but {PERFORMERS_JSON} has {len(release.performers)}"
        )
    return f"{people} performers with faces"


def endpoints(release: OpenedRelease) -> str:
    with release.database() as connection:
        names = [
            row[0] for row in connection.execute("SELECT DISTINCT endpoint FROM stashbox_ids ORDER BY 1")
        ]
    refuse_examples(
        [name for name in names if not isinstance(name, str) or not name or "." in name], "not a short name"
    )
    return ", ".join(names)


def hosts(release: OpenedRelease) -> str:
    """The host of a universal id is that of its endpoint: the sidecar opens pages and requests images there."""
    with release.database() as connection:
        records = _records(connection)
    endpoints: dict[str, set[str]] = defaultdict(set)
    for own in records.values():
        for endpoint, record in own:
            endpoints[record].add(endpoint)

    def has_wrong_host(uid: str) -> bool:
        host, _, record = uid.partition(":")
        of_record = endpoints[record]
        return bool(of_record) and all(KNOWN_HOSTS.get(endpoint, host) != host for endpoint in of_record)

    refuse_examples(
        [uid for uid in release.performers if has_wrong_host(uid)], "not the host of the stash-box"
    )
    return "every host is that of its stash-box"


def database_image_urls(release: OpenedRelease) -> str:
    with release.database() as connection:
        for table, where in (("performers", "face_count > 0"), ("faces", "1")):
            query = f"SELECT id FROM {table} WHERE {where} AND coalesce(image_url, '') NOT LIKE 'http%'"
            refuse_examples([row[0] for row in connection.execute(query)], f"no image_url in {table} row")
    return "filled"


def dates(release: OpenedRelease) -> str:
    with release.database() as connection:
        rows = connection.execute("SELECT id, birth_date, death_date FROM performers").fetchall()
    for number, *dates in rows:
        for text in dates:
            if text is not None and not (isinstance(text, str) and _is_partial_date(text)):
                raise ValueError(
                    f"performer {number}: {text!r:.40} is not a date YYYY, YYYY-MM or YYYY-MM-DD"
                )
    return "ISO 8601"


def _is_partial_date(text: str) -> bool:
    if DATE_FORM.fullmatch(text) is None:
        return False
    try:
        date.fromisoformat(text + "-01-01"[len(text) - len("2026") :])
    except ValueError:
        return False
    return True


def places(release: OpenedRelease) -> str:
    """Every tattoo and piercing has its place on the body, once a performer: the sidecar shows it."""
    counted = []
    with release.database() as connection:
        for table in PLACE_TABLES:
            rows = connection.execute(f"SELECT performer_id, location FROM {table}").fetchall()
            refuse_examples(
                [owner for owner, place in rows if not isinstance(place, str) or not place.strip()],
                f"no place in {table} of performer",
            )
            repeated = Counter((owner, place.casefold()) for owner, place in rows)
            refuse_examples(
                [owner for (owner, _), times in repeated.items() if times > 1],
                f"a place twice in {table} of performer",
            )
            counted.append(f"{len(rows)} {table}")
    return ", ".join(counted)


def place_texts(release: OpenedRelease) -> str:
    """The places are short texts without control characters, and no row has a description, which is free text."""
    with release.database() as connection:
        for table in PLACE_TABLES:
            query = f"SELECT performer_id, location, description FROM {table}"
            rows = connection.execute(query).fetchall()
            refuse_examples(
                [owner for owner, _, description in rows if description is not None],
                f"free text in {table} of performer",
            )
            refuse_examples(
                [owner for owner, place, _ in rows if label(place) != place],
                f"a long or unclean place in {table} of performer",
            )
    return "short places, no free text"


def times(release: OpenedRelease) -> str:
    """Every time is a date and a time of day, with a `T` between them or, as SQLite writes it, a space."""
    shown = 0
    with release.database() as connection:
        for table in (*EXACT_COLUMNS, *NEEDED_COLUMNS):
            for column in sorted(_TIME_COLUMNS & _columns(connection, table)):
                # datetime() alone would accept a Julian day or the word `now`.
                query = (
                    f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL AND (typeof({column}) != 'text' "
                    f"OR {column} NOT GLOB ? OR datetime({column}) IS NULL)"
                )
                wrong = connection.execute(query, (_TIME_GLOB,)).fetchmany(MAX_EXAMPLES)
                refuse_examples(
                    [f"{row[0]!r:.40}" for row in wrong], f"not an ISO 8601 time in {table}.{column}"
                )
                shown += 1
    return f"ISO 8601 in {shown} columns"
