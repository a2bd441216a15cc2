"""Checks that a release holds nothing of suppressed people."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.identity.trusted_faces import trusted_table
from stash_sense_pipeline.catalog.schema import faces, source_images
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.foundation.errors import DatabaseFileError, ReleaseError
from stash_sense_pipeline.foundation.json_file import LARGE, read_json
from stash_sense_pipeline.privacy.recheck import matching_records
from stash_sense_pipeline.privacy.redaction.mentions import texts_of
from stash_sense_pipeline.privacy.suppression.suppressed_faces import load_templates
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline.release.build.face_order import ReleaseVectors
from stash_sense_pipeline.release.checks.check_result import CheckResult
from stash_sense_pipeline.release.checks.opened_release import open_database
from stash_sense_pipeline.release.contract import PERFORMERS_DB

# A universal id as the sidecar writes it, and a URL. No other text in the files identifies a record.
_UNIVERSAL_ID = re.compile(r"([a-z0-9._-]+(?::\d+)?):([^\s:/]+)")
_ADDRESS = re.compile(r"https?://\S+", re.IGNORECASE)
# The beginning of a time, with a T, which no universal id and no address has there.
_TIME = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T*"
# Text columns of performers.db with a record's source and id.
_ID_COLUMNS = {
    "stashbox_ids": ("endpoint", "stashbox_performer_id"),
    "merged_ids": ("endpoint", "merged_stashbox_id"),
}


@dataclass(frozen=True)
class HeldKeys:
    """The numbers of suppressed records and URLs in a release, and of all records and URLs in it."""

    records: int
    urls: int
    of_records: int
    of_urls: int

    @property
    def any(self) -> bool:
        """True when the release holds a key of a suppressed person."""
        return bool(self.records or self.urls)


class Keys:
    """The records and addresses that the files of a release name."""

    def __init__(self) -> None:
        self._records: set[tuple[str, str]] = set()
        self._texts: set[str] = set()

    def add_database(
        self, connection: sqlite3.Connection, id_columns: Iterable[tuple[str, tuple[str, str]]]
    ) -> None:
        """Adds all texts of a database. `id_columns`: tables with the columns of a record's source and id."""
        names = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        for name, (source, record) in id_columns:
            if name in names:
                query = f"SELECT {source}, {record} FROM {name} WHERE {record} IS NOT NULL"
                self._records.update(connection.execute(query))
        for name in names:
            columns = [
                row[1] for row in connection.execute(f'PRAGMA table_info("{name}")') if row[2] == "TEXT"
            ]
            for column in columns:
                # Most texts are names and times. A text without either character is not a key, and neither is a time.
                query = f"""SELECT "{column}" FROM "{name}"
                    WHERE (instr("{column}", '/') OR instr("{column}", ':')) AND "{column}" NOT GLOB ?"""
                found = connection.execute(query, (_TIME,))
                self.add_texts(text for (text,) in found if isinstance(text, str))

    def add_texts(self, texts: Iterable[str]) -> None:
        """Adds texts, of which those that are universal ids and addresses count."""
        self._texts.update(texts)

    def held(self, suppressions: Suppressions, hosts: Mapping[str, str]) -> HeldKeys:
        """The numbers of those that the list covers. `hosts`: the part of universal ids before the colon, by source."""
        records = set(self._records)
        sources = {host: source for source, host in hosts.items()}
        urls: set[str] = set()
        for text in self._texts:
            if "/" in text:
                if _ADDRESS.fullmatch(text):
                    urls.add(text)
            elif ":" in text:
                universal = _UNIVERSAL_ID.fullmatch(text)
                if universal is not None and universal[1] in sources:
                    records.add((sources[universal[1]], universal[2]))
        return HeldKeys(
            records=sum(suppressions.covers_record(*record) for record in records),
            urls=sum(map(suppressions.covers_url, urls)) if suppressions.urls else 0,
            of_records=len(records),
            of_urls=len(urls),
        )


def held_keys(release: Path, suppressions: Suppressions, hosts: Mapping[str, str]) -> HeldKeys:
    """Counts suppressed records and URLs in all texts of performers.db and the JSON files of a release directory.

    `hosts` maps a stash-box's short name to the host in universal ids. Raises ValueError for damaged files, and for a
    database that holds anything but the tables of the contract.
    """
    keys = Keys()
    with _database(release) as connection:
        keys.add_database(connection, _ID_COLUMNS.items())
    for path in sorted(release.glob("*.json")):
        keys.add_texts(texts_of(read_json(path, LARGE)))
    return keys.held(suppressions, hosts)


def refuse_suppressed(release: Path, suppressions: Suppressions, hosts: Mapping[str, str]) -> None:
    """Raises ReleaseError when a release directory holds suppressed people: it must not be given to others."""
    try:
        held = held_keys(release, suppressions, hosts)
    except (sqlite3.Error, ValueError, OSError) as error:
        raise ReleaseError(f"{release} cannot be searched for suppressed people: {error}") from error
    if held.any:
        raise ReleaseError(
            f"{release} holds {held.records} records and {held.urls} URLs of people on the suppression list, so it stays "
            "here; publish a new release, then `stash-sense releases revoke --delete` deletes the old ones that hold them"
        )


@contextmanager
def _database(release: Path) -> Iterator[sqlite3.Connection]:
    try:
        with open_database(release) as connection:
            yield connection
    except DatabaseFileError as error:
        raise ValueError(f"{PERFORMERS_DB}: {error}") from error


def check_suppressed(
    release: Path, suppressions: Suppressions, hosts: Mapping[str, str] | None = None
) -> CheckResult:
    """No file of the release holds a record, profile or image URL that the suppression list covers."""
    try:
        held = held_keys(release, suppressions, hosts or {})
    except (ValueError, OSError) as error:
        return CheckResult("suppressed", False, f"cannot read {release.name}: {error}")
    if held.any:
        return CheckResult(
            "suppressed",
            False,
            f"{held.records} suppressed records and {held.urls} suppressed URLs;"
            " run `stash-sense suppress apply --all` and publish again",
        )
    return CheckResult(
        "suppressed", True, f"none of {held.of_records} records and {held.of_urls} URLs is suppressed"
    )


def check_suppressed_people(engine: sa.Engine, suppressions: Suppressions) -> CheckResult:
    """No record of the catalog, of which releases are made, shares evidence with a suppressed or held record."""
    found = matching_records(engine, suppressions)
    if found:
        return CheckResult(
            "suppressed_people",
            False,
            f"{found} records match suppressed people or must be held; publish again: the identities of a run remove them",
        )
    return CheckResult("suppressed_people", True, "no record matches a suppressed person")


def check_suppressed_images(
    engine: sa.Engine, suppressions: Suppressions, second: bool = False
) -> CheckResult:
    """No face of the release was cut from an image that the suppression list covers, or from a copy of one.

    The release holds no digests of images: those of all trusted faces are in the catalog. `second`: the release holds the
    faces of the second pack.
    """
    trusted = trusted_table(second)
    query = (
        sa.select(source_images.c.sha256, source_images.c.picture_hash)
        .distinct()
        .select_from(trusted)
        .join(faces, faces.c.face_id == trusted.c.face_id)
        .join(
            source_images,
            (source_images.c.source == faces.c.source) & (source_images.c.image_id == faces.c.image_id),
        )
    )
    with reading(engine) as connection:
        images = connection.execute(query).all()
    copies = suppressions.covers_likenesses([look for _, look in images])
    covered = sum(
        is_a_copy or (digest is not None and suppressions.covers_image(digest))
        for (digest, _), is_a_copy in zip(images, copies.tolist(), strict=True)
    )
    if covered:
        return CheckResult(
            "suppressed_images",
            False,
            f"{covered} faces are from suppressed images; run `stash-sense suppress apply --all` and publish again",
        )
    return CheckResult("suppressed_images", True, f"none of {len(images)} images is suppressed")


def check_refused_faces(
    engine: sa.Engine, vectors: ReleaseVectors, suppressions: Suppressions
) -> CheckResult:
    """No vector of the indices is near a refused face, by every embedder that has a template of it.

    `vectors` are the catalog's: the content checks prove that the indices hold these and no others. A suppressed person
    without a template cannot be compared. The content checks prove the absence of that person's vectors: each vector
    in an index is that of a face that is in the catalog now.
    """
    with reading(engine) as connection:
        templates = load_templates(connection, suppressions.key)
    if not len(templates):
        return CheckResult("refused_faces", True, "no face is refused")
    count = len(vectors.order)
    unit = {(model, vectors.facts[model].model_digest): rows for model, rows in vectors.unit.items()}
    near = int(templates.near(unit).sum())
    if near:
        return CheckResult(
            "refused_faces",
            False,
            f"{near} vectors are near a refused face; run `stash-sense suppress apply --all` and publish again",
        )
    return CheckResult(
        "refused_faces", True, f"none of {count} vectors is near one of {len(templates)} refused faces"
    )
