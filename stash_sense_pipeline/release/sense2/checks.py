"""Checks of single files of a sense2 release: each returns its finding, or raises an error that says what is wrong."""

from __future__ import annotations

import math
import sqlite3
from typing import Any

import numpy as np

from stash_sense_pipeline.foundation.files import sha256_file
from stash_sense_pipeline.foundation.json_file import SMALL, parse_json
from stash_sense_pipeline.release.checks.opened_release import MAX_EXAMPLES, refuse_examples
from stash_sense_pipeline.release.checks.verify import check_manifest_keys
from stash_sense_pipeline.release.contract import CHECKSUM_FORM, PERSONAL_FIELDS, UNIVERSAL_ID_FORM
from stash_sense_pipeline.release.sense2.contract import (
    ALIASES_JSON,
    DELTA_DB,
    DELTA_MANIFEST,
    DELTA_TABLES,
    FACES_JSON,
    LINKS_JSON,
    MANIFEST,
    PERFORMERS_DB,
    PERFORMERS_JSON,
    REMOVED_NUMBERS,
    TABLES,
    VECTOR_BYTES,
    VERSION_FORM,
    YAW_JSON,
)
from stash_sense_pipeline.release.sense2.database import exported
from stash_sense_pipeline.release.sense2.index_file import check_lengths
from stash_sense_pipeline.release.sense2.opened import OpenedFiles
from stash_sense_pipeline.release.sense2.vectors import widened

_LENGTH_TOLERANCE = 0.01


def files(opened: OpenedFiles, wanted: tuple[str, ...]) -> str:
    """Exactly the wanted files are there, each a plain file."""
    members = sorted(opened.directory.iterdir())
    missing = sorted(set(wanted) - {member.name for member in members})
    if missing:
        raise ValueError(f"missing: {', '.join(missing)}")
    refuse_examples(
        [member.name for member in members if member.name not in wanted], "not a file of the contract"
    )
    refuse_examples(
        [member.name for member in members if member.is_symlink() or not member.is_file()], "not a plain file"
    )
    return ", ".join(sorted(wanted))


# --- full -------------------------------------------------------------------------------------------------------------


def manifest(opened: OpenedFiles) -> str:
    """The manifest has the keys that the client reads, and the counts of the files."""
    stated = opened.json_object(MANIFEST)
    check_manifest_keys(stated)
    if VERSION_FORM.fullmatch(stated["version"]) is None:
        raise ValueError(f"the version {stated['version']!r:.80} is not YYYY.MM.DD")
    living = sum(uid is not None for uid in opened.json_list(FACES_JSON))
    if stated["face_count"] != living:
        raise ValueError(f"face_count is {stated['face_count']}, but {FACES_JSON} has {living} faces")
    people = len(opened.json_object(PERFORMERS_JSON))
    if stated["performer_count"] != people:
        raise ValueError(
            f"performer_count is {stated['performer_count']}, but {PERFORMERS_JSON} has {people}"
        )
    return f"{people} performers, {living} faces"


def checksums(opened: OpenedFiles, name: str, wanted: tuple[str, ...]) -> str:
    """The manifest `name` has `sha256:` and the lower-case digest of each file of `wanted`, and of no other."""
    stated = opened.json_object(name).get("checksums")
    if not isinstance(stated, dict) or set(stated) != set(wanted):
        raise ValueError(f"checksums of {name} are not those of {', '.join(wanted)}")
    for file, text in sorted(stated.items()):
        # The client splits the text at the colon.
        if not isinstance(text, str) or not text.startswith("sha256:") or not CHECKSUM_FORM.fullmatch(text):
            raise ValueError(f"{file}: {text!r:.80} is not sha256:<64 lower-case hex digits>")
        if text.removeprefix("sha256:") != sha256_file(opened.directory / file):
            raise ValueError(f"{file} does not have the checksum of {name}")
    return f"{len(stated)} files"


def schema(opened: OpenedFiles) -> str:
    """The database has the tables and columns of the contract."""
    wanted = DELTA_TABLES if (opened.directory / DELTA_DB).exists() else TABLES
    optional = {REMOVED_NUMBERS}
    with opened.database() as connection:
        for table, columns in wanted.items():
            found = [
                name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))
            ]
            if found and set(found) != set(columns):
                wrong = sorted(set(found) ^ set(columns))[0]
                raise ValueError(f"the columns of {table} are not those of the contract: {wrong}")
            if not found and table not in optional:
                raise ValueError(f"there is no table {table}")
    return f"{len(wanted)} tables"


def foreign_keys(opened: OpenedFiles) -> str:
    """Each row has its performer, and goes with it: the client removes the performer first."""
    with opened.database() as connection:
        for child in ("stashbox_ids", "aliases", "performer_urls", "faces"):
            keys = connection.execute(
                'SELECT "table", "from", on_delete FROM pragma_foreign_key_list(?)', (child,)
            ).fetchall()
            refuse_examples(
                [f"{child}.{column}" for _, column, on_delete in keys if on_delete != "CASCADE"],
                "a foreign key without ON DELETE CASCADE",
            )
            query = f"""SELECT performer_id FROM {child} WHERE performer_id IS NULL
                OR performer_id NOT IN (SELECT id FROM performers) LIMIT {MAX_EXAMPLES}"""
            refuse_examples([row[0] for row in connection.execute(query)], f"{child} of no performer")
    return "every row has a performer"


def export(opened: OpenedFiles) -> str:
    """The three JSON files are what the client makes of the database after a delta."""
    with opened.database() as connection:
        # The list of faces is as long as the largest index: a false one must not fill the memory.
        (largest,) = connection.execute("SELECT max(embedding_index) FROM faces").fetchone()
        if (largest if isinstance(largest, int) else -1) + 1 != len(opened.json_list(FACES_JSON)):
            raise ValueError(f"{FACES_JSON} is not as long as the largest embedding_index")
        made = exported(connection)
    for name, value in ((FACES_JSON, made.faces), (PERFORMERS_JSON, made.performers), (YAW_JSON, made.yaw)):
        if opened.json(name) != value:
            raise ValueError(f"{name} is not what the client makes of {PERFORMERS_DB}")
    return f"{FACES_JSON}, {PERFORMERS_JSON} and {YAW_JSON} equal the client's export"


def keys(opened: OpenedFiles) -> str:
    """The index holds exactly the faces of the database."""
    with opened.database() as connection:
        rows = connection.execute("SELECT embedding_index FROM faces ORDER BY 1").fetchall()
    stated = np.array([index for (index,) in rows], dtype=np.int64)
    held = np.sort(opened.index.keys).astype(np.int64)
    if not np.array_equal(stated, held):
        other = np.setxor1d(stated, held)
        raise ValueError(
            f"{len(other)} faces are in one of index and database only, the first is {other[:1]}"
        )
    return f"{len(held)} faces in both"


def lengths(opened: OpenedFiles) -> str:
    """Every vector is finite and has length 1."""
    return check_lengths(opened.index)


def face_counts(opened: OpenedFiles) -> str:
    """Each performer has as many faces as it states, and at least one; yaws are angles."""
    with opened.database() as connection:
        query = f"""SELECT id FROM performers WHERE face_count IS NULL OR face_count < 1 OR face_count !=
            (SELECT count(*) FROM faces WHERE performer_id = performers.id) LIMIT {MAX_EXAMPLES}"""
        refuse_examples([row[0] for row in connection.execute(query)], "wrong face_count of performer")
        angles = [angle for (angle,) in connection.execute("SELECT yaw FROM faces WHERE yaw IS NOT NULL")]
    refuse_examples([angle for angle in angles if not _is_angle(angle)][:MAX_EXAMPLES], "no angle")
    return f"{len(angles)} faces with a yaw"


def _is_angle(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) <= 180


def universal_ids(opened: OpenedFiles) -> str:
    """Each performer has one universal id, each id has a face, and each face has a performer."""
    performers, shown = opened.json_object(PERFORMERS_JSON), opened.json_list(FACES_JSON)
    refuse_examples(
        [uid for uid in performers if UNIVERSAL_ID_FORM.fullmatch(uid) is None or uid.startswith("local:")],
        "no universal id",
    )
    uids = {uid for uid in shown if uid is not None}
    refuse_examples(
        sorted(map(str, uids ^ set(performers))), f"in one of {FACES_JSON} and {PERFORMERS_JSON} only"
    )
    with opened.database() as connection:
        (people,) = connection.execute("SELECT count(*) FROM performers").fetchone()
    if people != len(performers):
        raise ValueError(f"{PERFORMERS_DB} has {people} performers, {PERFORMERS_JSON} {len(performers)}")
    return f"{len(performers)} performers"


def image_urls(opened: OpenedFiles) -> str:
    """Each performer has the address of an image, and each entry has the seven keys of the contract."""
    entries = opened.json_object(PERFORMERS_JSON)
    for uid, entry in entries.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
            raise ValueError(f"{uid} has no name")
        if not str(entry.get("image_url")).startswith(("http://", "https://")):
            raise ValueError(f"{uid} has no address of an image")
    return f"{len(entries)} images"


# --- links ------------------------------------------------------------------------------------------------------------


def links(opened: OpenedFiles) -> str:
    """Groups of at least two ids, and no id in two of them: a client would keep the last one."""
    groups = opened.json_list(LINKS_JSON)
    seen: set[str] = set()
    for group in groups:
        if not isinstance(group, list) or not all(isinstance(uid, str) for uid in group) or len(group) < 2:
            raise ValueError(f"{group!r:.80} is not a group of at least two ids")
        again = [uid for uid in group if uid in seen]
        refuse_examples(again, "in two groups")
        if len(set(group)) != len(group):
            raise ValueError(f"{group!r:.80} names one id twice")
        seen.update(group)
    return f"{len(groups)} people with {len(seen)} records"


def linked_people(opened: OpenedFiles) -> str:
    """Each group has a performer of the release, and only performers of the release have aliases."""
    performers = opened.json_object(PERFORMERS_JSON)
    linked = [group for group in opened.json_list(LINKS_JSON) if performers.keys().isdisjoint(group)]
    refuse_examples(linked[:MAX_EXAMPLES], "linked, and none is in the release")
    named = [uid for uid in opened.json_object(ALIASES_JSON) if uid not in performers]
    refuse_examples(named[:MAX_EXAMPLES], "has aliases, and is not in the release")
    return "only people of the release"


def equal_files(one: OpenedFiles, other: OpenedFiles, names: tuple[str, ...]) -> str:
    """The files of these names have equal bytes in both."""
    hashed = {name: [sha256_file(opened.directory / name) for opened in (one, other)] for name in names}
    refuse_examples([name for name, (a, b) in hashed.items() if a != b], "not the file of the full release")
    return f"{', '.join(names)} are those of the full release"


def aliases(opened: OpenedFiles) -> str:
    """A list of texts for each id."""
    entries = opened.json_object(ALIASES_JSON)
    for uid, names in entries.items():
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{uid!r:.80}: {names!r:.80} is not a list of names")
    return f"{sum(map(len, entries.values()))} aliases of {len(entries)} performers"


# --- delta ------------------------------------------------------------------------------------------------------------


def delta_performers(opened: OpenedFiles) -> str:
    """Each row names a record once, and has what the client reads."""
    seen: set[tuple[Any, Any]] = set()
    numbers: set[Any] = set()
    removed = 0
    with opened.database() as connection:
        connection.row_factory = sqlite3.Row
        for row in connection.execute("SELECT * FROM performers"):
            key = (row["endpoint"], row["stashbox_id"])
            if not all(isinstance(part, str) and part for part in key) or key in seen:
                raise ValueError(f"{key!r:.80} is named twice, or is no record")
            seen.add(key)
            if row["action"] == "removed":
                removed += 1
                continue
            if not isinstance(row["id"], int) or row["id"] in numbers or not row["name"]:
                raise ValueError(f"{key!r:.80} has no number of its own, or no name")
            numbers.add(row["id"])
            names, images = _json(row["aliases_json"]), _json(row["images_json"])
            if not all(isinstance(name, str) for name in names):
                raise ValueError(f"{key!r:.80} has aliases that are no texts")
            if not all(isinstance(image, dict) and isinstance(image.get("url"), str) for image in images):
                raise ValueError(f"{key!r:.80} has images without an address")
    return f"{len(numbers)} new or changed, {removed} removed"


def _json(text: object) -> list[Any]:
    value = parse_json(text if isinstance(text, str) else "", SMALL)
    if not isinstance(value, list):
        raise ValueError(f"{text!r:.80} is not a list in JSON")
    return value


def delta_faces(opened: OpenedFiles) -> str:
    """Each vector has 512 float32 numbers that bfloat16 can hold, and length 1; no face is sent twice or also removed."""
    count, seen = 0, set()
    with opened.database() as connection:
        removed = {index for (index,) in connection.execute("SELECT embedding_index FROM removed_faces")}
        query = "SELECT embedding_index, endpoint, stashbox_id, embedding FROM faces"
        for index, endpoint, record, blob in connection.execute(query):
            if not isinstance(index, int) or index < 0 or index in seen or index in removed:
                raise ValueError(f"the face {index!r:.40} is sent twice, or sent and removed")
            seen.add(index)
            if not endpoint or not record:
                raise ValueError(f"the face {index} has no owner")
            _check_vector(index, blob)
            count += 1
    return f"{count} new or changed, {len(removed)} removed"


def _check_vector(index: int, blob: object) -> None:
    if not isinstance(blob, bytes) or len(blob) != VECTOR_BYTES:
        raise ValueError(f"the vector of face {index} has not {VECTOR_BYTES} bytes")
    vector = np.frombuffer(blob, dtype="<f4")
    with np.errstate(over="ignore", invalid="ignore"):
        length = math.sqrt(float(vector @ vector))
    if not abs(length - 1) <= _LENGTH_TOLERANCE:
        raise ValueError(f"the vector of face {index} is not finite or has not length 1")
    if (vector.view("<u4") & 0xFFFF).any():
        raise ValueError(f"the vector of face {index} is not rounded to bfloat16, which doubles its size")


def delta_versions(opened: OpenedFiles, name: str) -> str:
    """The versions of the manifest are those of the name, and the second is later."""
    stated = opened.json_object(DELTA_MANIFEST)
    before, after = stated.get("from_version"), stated.get("to_version")
    for version in (before, after):
        if not isinstance(version, str) or VERSION_FORM.fullmatch(version) is None:
            raise ValueError(f"the version {version!r:.80} is not YYYY.MM.DD")
    if str(before) >= str(after):
        raise ValueError(f"{before} is not before {after}")
    if name and name != f"{before}-to-{after}":
        raise ValueError(f"the name says {name}, the manifest {before}-to-{after}")
    return f"from {before} to {after}"


def delta_leads_to(delta: OpenedFiles, full: OpenedFiles) -> str:
    """What the delta sends is in the full release of its version, and what it removes is not."""
    with full.database() as release, delta.database() as news:
        _check_sent_performers(news, release)
        _check_sent_faces(news, release, full)
        known = set(release.execute("SELECT endpoint, stashbox_performer_id FROM stashbox_ids"))
        query = "SELECT endpoint, stashbox_id FROM performers WHERE action = 'removed'"
        refuse_examples([row for row in news.execute(query) if row in known], "removed, and in the release")
        indices = {index for (index,) in release.execute("SELECT embedding_index FROM faces")}
        gone = [index for (index,) in news.execute("SELECT embedding_index FROM removed_faces")]
        refuse_examples([index for index in gone if index in indices], "a face removed, and in the release")
        if news.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (REMOVED_NUMBERS,)).fetchone():
            numbers = {number for (number,) in release.execute("SELECT id FROM performers")}
            erased = [number for (number,) in news.execute(f"SELECT id FROM {REMOVED_NUMBERS}")]
            refuse_examples([number for number in erased if number in numbers], "erased, and in the release")
    return "the full release has what the delta sends"


def _check_sent_performers(news: sqlite3.Connection, release: sqlite3.Connection) -> None:
    sent = ", ".join("height" if name == "height_cm" else name for name in PERSONAL_FIELDS)
    query = f"""SELECT id, endpoint, stashbox_id, name, {sent}, aliases_json, images_json FROM performers
        WHERE action != 'removed'"""
    held = f"""SELECT endpoint, stashbox_performer_id, canonical_name, {", ".join(PERSONAL_FIELDS)}, image_url
        FROM performers JOIN stashbox_ids ON performer_id = id WHERE id = ?"""
    for number, *row, aliases, images in news.execute(query):
        listed = _json(images)
        shown = (*row, listed[0]["url"] if listed else None)
        names = release.execute("SELECT alias FROM aliases WHERE performer_id = ? ORDER BY id", (number,))
        if shown not in release.execute(held, (number,)).fetchall() or _json(aliases) != [
            n for (n,) in names
        ]:
            raise ValueError(f"the performer {number} is another in the full release")


def _check_sent_faces(news: sqlite3.Connection, release: sqlite3.Connection, full: OpenedFiles) -> None:
    places = {int(key): place for place, key in enumerate(full.index.keys)}
    query = (
        "SELECT embedding_index, endpoint, stashbox_id, image_url, quality_score, yaw, embedding FROM faces"
    )
    held = """SELECT endpoint, stashbox_performer_id, image_url, quality_score, yaw
        FROM faces JOIN stashbox_ids ON stashbox_ids.performer_id = faces.performer_id WHERE embedding_index = ?"""
    for index, *row, blob in news.execute(query):
        if tuple(row) not in release.execute(held, (index,)).fetchall() or index not in places:
            raise ValueError(f"the face {index} is another in the full release")
        if widened(np.asarray(full.index.vectors[places[index]])).tobytes() != blob:
            raise ValueError(f"the vector of face {index} is another in the full release")
