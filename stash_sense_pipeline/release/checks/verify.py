"""Checking a release, ours or another's, as a directory or a zip, against every line of the sidecar's contract."""

from __future__ import annotations

import html
import sqlite3
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from stash_sense_pipeline.foundation.errors import (
    ArchiveError,
    DatabaseFileError,
    ReleaseError,
    StashSenseError,
)
from stash_sense_pipeline.foundation.files import open_regular, sha256_file
from stash_sense_pipeline.foundation.sqlite_file import MAGIC as SQLITE_MAGIC
from stash_sense_pipeline.release.build.manifest import NewerReleaseError
from stash_sense_pipeline.release.checks.opened_release import (
    OpenedRelease,
    check_sizes,
    opened_archive,
    room_to_unpack,
    unpack,
)
from stash_sense_pipeline.release.checks.voyager_file import VoyagerFile, read_voyager_file
from stash_sense_pipeline.release.contract import (
    ASSET_LIMIT_BYTES,
    CHECKSUM_FORM,
    DATE_FORM,
    ENDPOINT_PRIORITY,
    EXACT_COLUMNS,
    FACE_DIMENSIONS,
    FACES_JSON,
    INDEX_FILES,
    KNOWN_HOSTS,
    LEFT_TABLES,
    MANIFEST,
    NEEDED_COLUMNS,
    OPTIONAL_FILES,
    PERFORMERS_DB,
    PERFORMERS_JSON,
    REQUIRED_FILES,
    SCHEMA_VERSION,
    SIDECAR_K,
    TATTOO_DIMENSIONS,
    TATTOO_INDEX,
    TATTOO_JSON,
    UNIVERSAL_ID_FORM,
    endpoint_rank,
    zip_name,
)
from stash_sense_pipeline.release.versions import is_version

# What reading damaged bytes can raise. Anything else is an error of this module and is not hidden.
_DAMAGE = (
    ReleaseError,
    ArchiveError,
    DatabaseFileError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    AttributeError,
    EOFError,
    sqlite3.Error,
    struct.error,
)

_TIME_COLUMNS = frozenset({"created_at", "updated_at", "stashdb_updated_at", "merged_at"})
_TIME_GLOB = "[0-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-5][0-9]:[0-5][0-9]*"
# Said while there is time: the next release is larger.
_NEAR_THE_LIMIT = 0.9
_VECTORS_A_BLOCK = 20_000
_MAX_DETAIL = 500
# More are not counted.
_EXAMPLES = 1000
# 8-bit storage rounds every number, so its unit vectors are a little off.
_NORM_TOLERANCE = {"Float32": 1e-3, "E4M3": 0.1, "Float8": 0.2}


class Severity(StrEnum):
    """An error means that the release must not be used; a warning, that somebody should know."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class CheckResult:
    """One line of the verification: what was checked, how it went, and what was found, in words and numbers."""

    name: str
    passed: bool
    detail: str
    severity: Severity = Severity.ERROR
    numbers: Mapping[str, float] = field(default_factory=dict)


def verify_release(path: Path, name: str | None = None) -> tuple[CheckResult, ...]:
    """Runs every check on a release directory or zip and returns one result a check, failed ones included.

    `name` is what the release is called, by default the last part of `path`: a version in it must be the manifest's.
    Damage never raises: whatever cannot be read fails the checks that need it. A zip is unpacked to a temporary
    directory, which needs room for it; it and a directory are refused before that when they are too large.
    """
    checks = _Checks()
    try:
        _verify(checks, path, path.name if name is None else name)
    except OSError as error:
        checks.add("archive", False, f"cannot read {path}: {error.strerror or error}")
    return tuple(checks.results)


def _verify(checks: _Checks, path: Path, name: str) -> None:
    if not path.exists():
        checks.add("archive", False, f"there is no {path}")
        return
    with ExitStack() as stack:
        directories = [path] if path.is_dir() else []
        size = 0
        if not directories:
            if not checks.run("archive", _archive, path, stack, directories):
                return
            size = path.stat().st_size
        (directory,) = directories
        release = OpenedRelease(directory)
        if checks.run("file_sizes", _file_sizes, release):
            _check_release(checks, release, name)
            size = size or sum(member.stat().st_size for member in _files(directory))
            checks.run("size", _size, size, severity=Severity.WARNING)


def failures(results: Sequence[CheckResult]) -> tuple[CheckResult, ...]:
    """The failed checks that forbid the use of the release."""
    return tuple(result for result in results if not result.passed and result.severity is Severity.ERROR)


class _Checks:
    def __init__(self) -> None:
        self.results: list[CheckResult] = []

    def add(self, name: str, passed: bool, detail: str, severity: Severity = Severity.ERROR) -> None:
        # A release can bring a text of any length.
        detail = detail if len(detail) <= _MAX_DETAIL else f"{detail[:_MAX_DETAIL]}…"
        self.results.append(CheckResult(name, passed, detail, severity))

    def run(
        self, name: str, check: Callable[..., str], *arguments: Any, severity: Severity = Severity.ERROR
    ) -> bool:
        """Runs a check, which returns what it found or raises what is wrong."""
        try:
            detail = check(*arguments)
        except _DAMAGE as error:
            self.add(name, False, _one_line(error), severity)
            return False
        self.add(name, True, detail, severity)
        return True


def _one_line(error: BaseException) -> str:
    # A KeyError's text is only the key, so the kind of error goes along where the text says too little.
    text = " ".join(str(error).split())
    return (
        text
        if isinstance(error, (ValueError, StashSenseError)) and text
        else f"{type(error).__name__}: {text}"
    )


def _wrong(examples: Sequence[object], what: str) -> None:
    """Raises ValueError with the number of examples and the first of them, when there are any."""
    if examples:
        more = f" and {len(examples) - 1} more" if len(examples) > 1 else ""
        raise ValueError(f"{what}: {examples[0]}{more}")


# --- the container --------------------------------------------------------------------------------------------------


def _archive(path: Path, stack: ExitStack, unpacked: list[Path]) -> str:
    """Judges the zip by its directory, then unpacks it, which checks every CRC; `unpacked` gets the directory."""
    archive = stack.enter_context(opened_archive(path))
    directory = stack.enter_context(room_to_unpack(archive, path))
    unpack(archive, directory)
    unpacked.append(directory)
    return f"{len(archive.sizes)} files at the root, every CRC right"


def _size(size: int) -> str:
    if size >= _NEAR_THE_LIMIT * ASSET_LIMIT_BYTES:
        raise ValueError(
            f"{size / 2**30:.2f} GiB, and GitHub takes release files below 2 GiB only; fewer faces a performer "
            "or e4m3 storage of the indices make it smaller"
        )
    return f"{size} bytes, GitHub takes up to {ASSET_LIMIT_BYTES}"


def _file_sizes(release: OpenedRelease) -> str:
    sizes = {member.name: member.stat().st_size for member in _files(release.directory)}
    check_sizes(sizes)
    release.check_index_sizes()
    return f"{sum(sizes.values())} bytes in {len(sizes)} files"


def _files(directory: Path) -> list[Path]:
    return [member for member in directory.iterdir() if member.is_file()]


# --- what is inside -------------------------------------------------------------------------------------------------


def _check_release(checks: _Checks, release: OpenedRelease, name: str) -> None:
    try:
        _ = release.manifest
    except NewerReleaseError as error:
        checks.add("manifest", False, _one_line(error))
        return
    except _DAMAGE:
        # The checks below say what is wrong with it.
        pass
    checks.run("required_files", _required_files, release)
    checks.run("no_other_files", _no_other_files, release)
    checks.run("manifest", _manifest, release)
    checks.run("version", _version, release, name)
    # Loading indices is Voyager's work and the rest mostly Python's, so that they share two cores.
    of_indices, of_the_rest = _Checks(), _Checks()
    with ThreadPoolExecutor(max_workers=1) as beside:
        counted = beside.submit(
            lambda: {model: _check_index(of_indices, release, model) for model in release.models}
        )
        checks.run("checksums", _checksums, release)
        _check_people(of_the_rest, release)
        _check_database(of_the_rest, release)
        counts = counted.result()
    checks.results += of_indices.results
    checks.run("faces_json", _faces_json, release, counts)
    checks.results += of_the_rest.results
    checks.run("tattoo_files", _tattoo_files, release)


def _check_people(checks: _Checks, release: OpenedRelease) -> None:
    """Checks the JSON files, but for what they share with the indices."""
    checks.run("faces_json_gaps", _faces_json_gaps, release, severity=Severity.WARNING)
    checks.run("universal_ids", _universal_ids, release)
    checks.run("performers_json", _performers_json, release)
    checks.run("image_urls", _image_urls, release)
    checks.run("names", _names, release, severity=Severity.WARNING)
    checks.run("json_order", _json_order, release, severity=Severity.WARNING)
    checks.run("closure", _closure, release)
    checks.run("face_counts", _face_counts, release)


def _required_files(release: OpenedRelease) -> str:
    missing = [name for name in REQUIRED_FILES if not (release.directory / name).is_file()]
    if missing:
        raise ValueError(f"missing: {', '.join(missing)}")
    return ", ".join(REQUIRED_FILES)


def _no_other_files(release: OpenedRelease) -> str:
    known = {*REQUIRED_FILES, *OPTIONAL_FILES}
    members = sorted(release.directory.iterdir())
    _wrong([member.name for member in members if member.name not in known], "not a file of the contract")
    _wrong(
        [member.name for member in members if member.is_symlink() or not member.is_file()], "not a plain file"
    )
    return f"{len(members)} files"


def _manifest(release: OpenedRelease) -> str:
    manifest = release.manifest
    wanted: Mapping[str, type] = {
        "version": str,
        "performer_count": int,
        "face_count": int,
        "sources": list,
        "created_at": str,
        "checksums": dict,
    }
    for key, kind in wanted.items():
        value = manifest.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{key} must be {kind.__name__}, it is {value!r:.80}")
    _wrong(
        [name for name in manifest["sources"] if not isinstance(name, str) or not name], "sources: not a name"
    )
    datetime.fromisoformat(manifest["created_at"])
    if manifest["sources"] != sorted(manifest["sources"]):
        raise ValueError("sources are not sorted")
    faces, performers = manifest["face_count"], manifest["performer_count"]
    if faces != sum(uid is not None for uid in release.faces):
        raise ValueError(
            f"face_count is {faces}, but {FACES_JSON} holds {sum(u is not None for u in release.faces)}"
        )
    if performers != len(release.performers):
        raise ValueError(
            f"performer_count is {performers}, but {PERFORMERS_JSON} holds {len(release.performers)}"
        )
    return f"{performers} performers, {faces} faces"


def _version(release: OpenedRelease, name: str) -> str:
    version = release.manifest.get("version")
    if not isinstance(version, str) or not is_version(version):
        raise ValueError(f"{version!r:.80} is not YYYY.MM.DD or YYYY.MM.DD.N")
    shown = name.removeprefix("stash-sense-data-v").removesuffix(".zip")
    if is_version(shown) and name in (shown, zip_name(shown)) and shown != version:
        raise ValueError(f"the manifest says {version}, the name {name}")
    return version


def _checksums(release: OpenedRelease) -> str:
    checksums = release.manifest["checksums"]
    known = {*REQUIRED_FILES, *OPTIONAL_FILES} - {MANIFEST}
    present = {path.name for path in _files(release.directory)} & known
    _wrong(sorted(present - set(checksums)), "no checksum for")
    _wrong(sorted(set(checksums) - present), "checksum of a file that is not there")
    for name, stated in sorted(checksums.items()):
        if not isinstance(stated, str) or CHECKSUM_FORM.fullmatch(stated) is None:
            raise ValueError(f"{name}: {stated!r:.80} is not sha256:<64 lower-case hex digits>")
        if stated.removeprefix("sha256:") != sha256_file(release.directory / name):
            raise ValueError(f"{name} does not have the checksum of the manifest")
    return f"{len(checksums)} files"


# --- indices --------------------------------------------------------------------------------------------------------


def _check_index(checks: _Checks, release: OpenedRelease, model: str) -> int | None:
    """Checks one face index and returns its number of elements, or None when it cannot be read."""
    path = release.directory / INDEX_FILES[model]
    found: list[tuple[VoyagerFile, Any]] = []
    if not checks.run(f"{model}_loads", _loads, path, found):
        return None
    ((file, index),) = found
    checks.run(f"{model}_space", _space, file)
    checks.run(f"{model}_dimensions", _dimensions, file, FACE_DIMENSIONS)
    checks.run(f"{model}_tombstones", _tombstones, file)
    checks.run(f"{model}_ids", _ids, file)
    if index is not None:
        checks.run(f"{model}_vectors", _vectors, index, file)
    else:
        checks.add(f"{model}_vectors", False, "not checked, because the ids are wrong")
    checks.run(f"{model}_enough_faces", _enough_faces, file, severity=Severity.WARNING)
    return file.count


def _loads(path: Path, found: list[tuple[VoyagerFile, Any]]) -> str:
    """Reads a Voyager file; `found` gets what it says, and the index, or None for one that is not worth loading."""
    if not path.is_file():
        raise ValueError(f"there is no {path.name}")
    file = read_voyager_file(path)
    # The file can be made large at no cost, but not with the right ids.
    index = _load(path, file) if _has_right_ids(file) and file.deleted == 0 else None
    found.append((file, index))
    return f"{file.count} vectors, {file.storage}, M {file.m}, ef_construction {file.ef_construction}"


def _load(path: Path, file: VoyagerFile) -> Any:
    import voyager

    with path.open("rb") as stream:
        index = voyager.Index.load(stream)
    if index.num_elements != file.count or index.num_dimensions != file.dimensions:
        raise ValueError(f"Voyager loads {index.num_elements} elements of {file.count}")
    return index


def _space(file: VoyagerFile) -> str:
    if file.space != "Cosine":
        raise ValueError(f"{file.space}, but the sidecar reads distances as Cosine")
    return file.space


def _dimensions(file: VoyagerFile, wanted: int) -> str:
    if file.dimensions != wanted:
        raise ValueError(f"{file.dimensions}, but the sidecar's vectors have {wanted}")
    return str(file.dimensions)


def _tombstones(file: VoyagerFile) -> str:
    if file.deleted:
        raise ValueError(f"{file.deleted} deleted elements are still in the file")
    return "none"


def _has_right_ids(file: VoyagerFile) -> bool:
    return np.array_equal(np.sort(file.ids), np.arange(file.count, dtype=np.uint64))


def _ids(file: VoyagerFile) -> str:
    if not _has_right_ids(file):
        raise ValueError(f"the ids are not 0 to {file.count - 1} without gaps")
    return f"0 to {file.count - 1}"


def _vectors(index: Any, file: VoyagerFile) -> str:
    tolerance = _NORM_TOLERANCE[file.storage]
    for start in range(0, file.count, _VECTORS_A_BLOCK):
        block = index.get_vectors(range(start, min(start + _VECTORS_A_BLOCK, file.count)))
        with np.errstate(over="ignore", invalid="ignore"):
            norms = np.sqrt(np.einsum("ij,ij->i", block, block))
        wrong = np.flatnonzero(~(np.abs(norms - 1) <= tolerance))
        if len(wrong):
            raise ValueError(
                f"vector {start + wrong[0]} is not a finite unit vector (length {norms[wrong[0]]:g})"
            )
    return f"{file.count} finite unit vectors"


def _enough_faces(file: VoyagerFile) -> str:
    alive = file.count - file.deleted
    if alive < SIDECAR_K:
        raise ValueError(
            f"{alive} faces: the sidecar asks for {SIDECAR_K} neighbours and gets a RecallError on every query; add faces"
        )
    return f"{alive} faces, the sidecar needs {SIDECAR_K}"


# --- JSON files -----------------------------------------------------------------------------------------------------


def _faces_json(release: OpenedRelease, counts: Mapping[str, int | None]) -> str:
    entries = len(release.faces)
    for model, count in counts.items():
        if count != entries:
            held = "cannot be read" if count is None else f"holds {count}"
            raise ValueError(f"{entries} entries, but the {model} index {held}")
    return f"{entries} entries, as many as each index holds"


def _faces_json_gaps(release: OpenedRelease) -> str:
    gaps = [position for position, uid in enumerate(release.faces) if uid is None]
    _wrong(gaps, "positions without a performer")
    return "no gaps"


def _universal_ids(release: OpenedRelease) -> str:
    def well_formed(uid: object) -> bool:
        return isinstance(uid, str) and UNIVERSAL_ID_FORM.fullmatch(uid) is not None

    _wrong([uid for uid in release.faces if uid is not None and not well_formed(uid)], "not host:id")
    _wrong([uid for uid in release.performers if not well_formed(uid)], "not host:id")
    hosts = sorted({uid.partition(":")[0] for uid in release.performers})
    return f"hosts {', '.join(hosts)}"


def _performers_json(release: OpenedRelease) -> str:
    for uid, entry in release.performers.items():
        if not isinstance(entry, dict):
            raise ValueError(f"{uid} is not an object")
        if not isinstance(entry.get("name"), str) or not entry["name"].strip():
            raise ValueError(f"{uid} has no name")
        country = entry.get("country")
        if "country" not in entry or not (country is None or isinstance(country, str)):
            raise ValueError(f"{uid}: country must be text or null")
        count = entry.get("face_count")
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{uid}: face_count must be a number above 0, it is {count!r:.80}")
    return f"{len(release.performers)} performers"


def _image_urls(release: OpenedRelease) -> str:
    def filled(entry: Any) -> bool:
        url = entry.get("image_url")
        return isinstance(url, str) and url.startswith(("http://", "https://"))

    _wrong([uid for uid, entry in release.performers.items() if not filled(entry)], "no image_url")
    return "filled for every performer"


def _names(release: OpenedRelease) -> str:
    odd = [uid for uid, entry in release.performers.items() if html.unescape(entry["name"]) != entry["name"]]
    _wrong(odd, "HTML entities in the name of")
    return "no HTML entities"


def _json_order(release: OpenedRelease) -> str:
    objects: Mapping[str, Mapping[str, Any]] = {
        MANIFEST: release.manifest,
        PERFORMERS_JSON: release.performers,
        **release.performers,
    }
    unsorted = [name for name, content in objects.items() if list(content) != sorted(content)]
    _wrong(unsorted, "keys are not sorted in")
    return "keys are sorted"


def _closure(release: OpenedRelease) -> str:
    shown = {uid for uid in release.faces if uid is not None}
    known = set(release.performers)
    _wrong(sorted(shown - known), f"in {FACES_JSON} but not in {PERFORMERS_JSON}")
    _wrong(sorted(known - shown), f"in {PERFORMERS_JSON} but without a face")
    return f"{len(known)} universal ids in both files"


def _face_counts(release: OpenedRelease) -> str:
    shown = Counter(uid for uid in release.faces if uid is not None)
    _wrong(
        [uid for uid, entry in release.performers.items() if entry["face_count"] != shown[uid]],
        f"face_count differs from {FACES_JSON}",
    )
    return f"{shown.total()} faces"


# --- performers.db --------------------------------------------------------------------------------------------------


def _check_database(checks: _Checks, release: OpenedRelease) -> None:
    checks.run("database_journal_mode", _journal_mode, release)
    # First of all: SQLite's own check evaluates what the schema says.
    if not checks.run("database_objects", _objects, release):
        return
    if not checks.run("database_integrity", _integrity, release):
        return
    checks.run("database_schema", _schema, release)
    checks.run("database_schema_version", _schema_version, release, severity=Severity.WARNING)
    checks.run("database_extra_tables", _extra_tables, release, severity=Severity.WARNING)
    checks.run("database_foreign_keys", _foreign_keys, release)
    checks.run("database_positions", _positions, release)
    checks.run("database_owners", _owners, release)
    checks.run("database_face_counts", _database_face_counts, release)
    checks.run("database_endpoints", _endpoints, release)
    checks.run("database_hosts", _hosts, release, severity=Severity.WARNING)
    checks.run("database_image_urls", _database_image_urls, release)
    checks.run("database_dates", _dates, release)
    checks.run("database_times", _times, release)


def _journal_mode(release: OpenedRelease) -> str:
    with open_regular(release.directory / PERFORMERS_DB) as stream:
        header = stream.read(20)
    if header[:16] != SQLITE_MAGIC:
        raise ValueError(f"{PERFORMERS_DB} is no SQLite database")
    # Bytes 18 and 19 of the file: 1 for a rollback journal, 2 for WAL (https://sqlite.org/fileformat.html).
    if header[18:20] != b"\x01\x01":
        raise ValueError("WAL; a reader would leave files beside it, and late pages may be missing")
    return "DELETE"


def _objects(release: OpenedRelease) -> str:
    with release.database() as connection:
        (count,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return f"{count} tables and indexes, nothing else"


def _integrity(release: OpenedRelease) -> str:
    release.check_database()
    return "ok"


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {row[0] for row in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}


def _schema(release: OpenedRelease) -> str:
    with release.database() as connection:
        for table, (needed, optional) in EXACT_COLUMNS.items():
            columns = _columns(connection, table)
            _wrong(sorted(needed - columns), f"column missing in table {table}")
            _wrong(
                sorted(columns - needed - optional),
                f"column that breaks the sidecar's reader in table {table}",
            )
        for table, needed in NEEDED_COLUMNS.items():
            _wrong(sorted(needed - _columns(connection, table)), f"column missing in table {table}")
    return f"{len(EXACT_COLUMNS) + len(NEEDED_COLUMNS)} tables"


def _schema_version(release: OpenedRelease) -> str:
    with release.database() as connection:
        versions = [row[0] for row in connection.execute("SELECT version FROM schema_version")]
    if versions != [SCHEMA_VERSION]:
        raise ValueError(f"{versions}, the sidecar's readers were written for {SCHEMA_VERSION}")
    return str(SCHEMA_VERSION)


def _extra_tables(release: OpenedRelease) -> str:
    with release.database() as connection:
        query = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"
        names = [name for (name,) in connection.execute(query) if name in LEFT_TABLES]
    _wrong(names, "not a table of the contract")
    return "none"


def _foreign_keys(release: OpenedRelease) -> str:
    with release.database() as connection:
        orphans = connection.execute("PRAGMA foreign_key_check").fetchmany(_EXAMPLES)
        people = {row[0] for row in connection.execute("SELECT id FROM performers")}
        _wrong([f"row {row[1]} of {row[0]}" for row in orphans], "belongs to no performer")
        for table in (*EXACT_COLUMNS, *NEEDED_COLUMNS):
            # Also where a release of another make declares no foreign key.
            if "performer_id" in _columns(connection, table):
                rows = connection.execute(f"SELECT DISTINCT performer_id FROM {table}")
                _wrong([row[0] for row in rows if row[0] not in people], f"{table} rows of no performer")
    return f"{len(people)} performers own every row"


def _positions(release: OpenedRelease) -> str:
    with release.database() as connection:
        rows = connection.execute("SELECT id, facenet_index, arcface_index FROM faces").fetchall()
    _wrong([row[0] for row in rows if row[1] != row[2]], "facenet_index and arcface_index differ for face")
    live = sorted(position for position, uid in enumerate(release.faces) if uid is not None)
    if sorted(row[1] for row in rows) != live:
        raise ValueError(f"{len(rows)} rows, whose positions are not those of {FACES_JSON}")
    return f"{len(rows)} faces"


def _records(connection: sqlite3.Connection) -> dict[int, list[tuple[str, str]]]:
    found: dict[int, list[tuple[str, str]]] = defaultdict(list)
    query = "SELECT performer_id, endpoint, stashbox_performer_id FROM stashbox_ids"
    for performer_id, endpoint, record in connection.execute(query):
        found[performer_id].append((endpoint, record))
    return found


def _owners(release: OpenedRelease) -> str:
    """The performer of each face row is the one of faces.json, named after their best endpoint."""
    with release.database() as connection:
        rows = connection.execute(
            "SELECT facenet_index, performer_id FROM faces ORDER BY facenet_index"
        ).fetchall()
        records = _records(connection)
    rank = {endpoint: endpoint_rank(endpoint, {}) for own in records.values() for endpoint, _ in own}
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
        endpoints = [endpoint for endpoint, its in own if its == record]
        if not endpoints:
            raise ValueError(f"face of {uid}, but performer {performer_id} has no such record")
        best = min((rank[endpoint], endpoint) for endpoint, _ in own)[1]
        if best in ENDPOINT_PRIORITY and best not in endpoints:
            raise ValueError(f"{uid} is not named after the record of {best}, which has priority")
        if len(endpoints) == 1 and hosts.setdefault(endpoints[0], host) != host:
            raise ValueError(f"endpoint {endpoints[0]} has the hosts {hosts[endpoints[0]]} and {host}")
    return f"{len(owner)} performers own their positions of {FACES_JSON}"


def _database_face_counts(release: OpenedRelease) -> str:
    query = (
        "SELECT p.id FROM performers p LEFT JOIN (SELECT performer_id, count(*) AS n FROM faces GROUP BY 1) f "
        "ON f.performer_id = p.id WHERE p.face_count IS NOT coalesce(f.n, 0)"
    )
    with release.database() as connection:
        _wrong(
            [row[0] for row in connection.execute(query)],
            "face_count is not the number of faces of performer",
        )
        people = connection.execute("SELECT count(*) FROM performers WHERE face_count > 0").fetchone()[0]
    if people != len(release.performers):
        raise ValueError(
            f"{people} performers with faces, but {PERFORMERS_JSON} has {len(release.performers)}"
        )
    return f"{people} performers with faces"


def _endpoints(release: OpenedRelease) -> str:
    with release.database() as connection:
        names = [
            row[0] for row in connection.execute("SELECT DISTINCT endpoint FROM stashbox_ids ORDER BY 1")
        ]
    _wrong(
        [name for name in names if not isinstance(name, str) or not name or "." in name], "not a short name"
    )
    return ", ".join(names)


def _hosts(release: OpenedRelease) -> str:
    """The sidecar opens pages and asks for pictures at the host of a universal id, so it must be the endpoint's own."""
    with release.database() as connection:
        records = _records(connection)
    endpoints: dict[str, set[str]] = defaultdict(set)
    for own in records.values():
        for endpoint, record in own:
            endpoints[record].add(endpoint)

    def astray(uid: str) -> bool:
        host, _, record = uid.partition(":")
        of_record = endpoints[record]
        return bool(of_record) and all(KNOWN_HOSTS.get(endpoint, host) != host for endpoint in of_record)

    _wrong([uid for uid in release.performers if astray(uid)], "not the host of the stash-box")
    return "each that of its stash-box"


def _database_image_urls(release: OpenedRelease) -> str:
    with release.database() as connection:
        for table, where in (("performers", "face_count > 0"), ("faces", "1")):
            query = f"SELECT id FROM {table} WHERE {where} AND coalesce(image_url, '') NOT LIKE 'http%'"
            _wrong([row[0] for row in connection.execute(query)], f"no image_url in {table} row")
    return "filled"


def _dates(release: OpenedRelease) -> str:
    with release.database() as connection:
        rows = connection.execute("SELECT id, birth_date, death_date FROM performers").fetchall()
    for number, *dates in rows:
        for text in dates:
            if text is not None and not (isinstance(text, str) and _is_partial_date(text)):
                raise ValueError(f"performer {number}: {text!r:.40} is no date YYYY, YYYY-MM or YYYY-MM-DD")
    return "ISO 8601"


def _is_partial_date(text: str) -> bool:
    if DATE_FORM.fullmatch(text) is None:
        return False
    try:
        date.fromisoformat(text + "-01-01"[len(text) - len("2026") :])
    except ValueError:
        return False
    return True


def _times(release: OpenedRelease) -> str:
    """Every instant is a date and a time of day, with a `T` as ours have or a space as SQLite writes them."""
    shown = 0
    with release.database() as connection:
        for table in (*EXACT_COLUMNS, *NEEDED_COLUMNS):
            for column in sorted(_TIME_COLUMNS & _columns(connection, table)):
                # datetime() alone would take a Julian day or the word `now`.
                query = (
                    f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL AND (typeof({column}) != 'text' "
                    f"OR {column} NOT GLOB ? OR datetime({column}) IS NULL)"
                )
                wrong = connection.execute(query, (_TIME_GLOB,)).fetchmany(_EXAMPLES)
                _wrong([f"{row[0]!r:.40}" for row in wrong], f"not an ISO 8601 time in {table}.{column}")
                shown += 1
    return f"ISO 8601 in {shown} columns"


# --- optional files -------------------------------------------------------------------------------------------------


def _tattoo_files(release: OpenedRelease) -> str:
    index, entries = release.directory / TATTOO_INDEX, release.directory / TATTOO_JSON
    if not index.exists() and not entries.exists():
        return "not in this release"
    if not (index.exists() and entries.exists()):
        raise ValueError(f"{TATTOO_INDEX} and {TATTOO_JSON} only work together, and one is missing")
    found: list[tuple[VoyagerFile, Any]] = []
    _loads(index, found)
    ((file, loaded),) = found
    _space(file)
    _dimensions(file, TATTOO_DIMENSIONS)
    _tombstones(file)
    _ids(file)
    _vectors(loaded, file)
    listed = release.json(TATTOO_JSON)
    if not isinstance(listed, list) or len(listed) != file.count:
        raise ValueError(f"{TATTOO_JSON} is not a list of {file.count} entries")
    for position, entry in enumerate(listed):
        if entry is not None and (
            not isinstance(entry, dict) or entry.get("universal_id") not in release.performers
        ):
            raise ValueError(f"entry {position} of {TATTOO_JSON} names no performer of the release")
    return f"{file.count} tattoos"
