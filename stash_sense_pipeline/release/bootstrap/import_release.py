"""Imports a release as claims: records, image references and faces, in batches that an interruption does not lose."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.queries import performers
from stash_sense_pipeline.catalog.queries.claims import faces as claimed
from stash_sense_pipeline.catalog.queries.claims import releases
from stash_sense_pipeline.catalog.queries.claims.releases import ClaimedRelease, ClaimState
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.catalog.upsert import batched
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.privacy.suppression.suppressed_faces import load_templates
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline.records.record_key import RecordKey
from stash_sense_pipeline.release.bootstrap.claim import Claim, read_claim
from stash_sense_pipeline.release.bootstrap.face_rows import FaceRules, read_faces
from stash_sense_pipeline.release.bootstrap.index_vectors import refused_positions, vectors_at
from stash_sense_pipeline.settings.schema import Settings
from stash_sense_pipeline.sources.legacy_data import Legacy, LegacyPerson, Places
from stash_sense_pipeline.sources.legacy_import import LegacyReport, take_over
from stash_sense_pipeline.sources.legacy_reader import read_legacy

# A batch is one transaction: 10,000 vectors are 20 MB.
_FACES_A_BATCH = 10_000
BECAUSE = "bootstrap"


@dataclass(frozen=True)
class ImportReport:
    """The result of an import.

    `records` is None when the release was imported before. `faces`: claimed faces stored now. `skipped`: faces that were
    not claimed, by reason.
    """

    release: ClaimedRelease
    records: LegacyReport | None
    unusable: int = 0
    faces: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ImportRules:
    """What an import needs besides the release: settings, the installed pack, the suppression list, the time."""

    settings: Settings
    pack: ModelPack
    suppressions: Suppressions
    now: datetime


def import_release(
    engine: sa.Engine, directory: Path, rules: ImportRules, progress: Progress | None = None
) -> ImportReport:
    """Imports the files of a verified release as claims.

    The records are one transaction, and each batch of faces and vectors is one. An interrupted import is continued by
    the next call; a completed one is not repeated.
    """
    claim = read_claim(directory, rules.pack)
    with reading(engine) as connection:
        known = releases.release_of(connection, claim.manifest_digest)
    if known is not None and known.state is not ClaimState.IMPORTING:
        return ImportReport(known, None)
    legacy = read_legacy(directory, rules.settings.stash_boxes.values())
    release, report = _import_records(engine, claim, legacy, rules, known)
    if release.state is ClaimState.RECORDS:
        return ImportReport(release, report, legacy.unusable)
    read = _import_faces(engine, release, _ReleaseFiles(directory, claim, legacy), rules)
    for model in sorted(claim.storage):
        _import_vectors(engine, directory, release, model, progress)
    with writing(engine) as connection:
        releases.set_state(connection, release.release_id, ClaimState.CLAIMED)
        done = releases.release_of(connection, claim.manifest_digest)
    assert done is not None
    return ImportReport(done, report, legacy.unusable, *read)


def _import_records(
    engine: sa.Engine, claim: Claim, legacy: Legacy, rules: ImportRules, known: ClaimedRelease | None
) -> tuple[ClaimedRelease, LegacyReport]:
    pack, usable = rules.pack, claim.problem is None
    # Where the faces themselves are taken over, their counts say nothing more.
    noting = legacy if not usable else replace(legacy, faces_and_images={})
    with writing(engine) as connection:
        taken = take_over(connection, noting, rules.suppressions, rules.now, BECAUSE)
        if known is None:
            values: dict[str, Any] = {
                "version": claim.version,
                "manifest_digest": claim.manifest_digest,
                "state": ClaimState.IMPORTING if usable else ClaimState.RECORDS,
                "reason": claim.problem,
                "pack": pack.name if usable else None,
                "detector_digest": pack.detector.finding_digest if usable else None,
                "models": {
                    name: {"digest": pack.embedders[name].digest, "storage": storage}
                    for name, storage in sorted(claim.storage.items())
                    if usable
                },
                "taken_at": rules.now,
            }
            release_id = releases.add_release(connection, values)
            live = _live_records(connection, taken.people) if not usable else ()
            releases.note_records(connection, release_id, taken.added, live)
        release = releases.release_of(connection, claim.manifest_digest)
    assert release is not None
    return release, taken.report


@dataclass(frozen=True)
class _ReleaseFiles:
    """The directory of a verified release, its claim, and its records."""

    directory: Path
    claim: Claim
    legacy: Legacy


def _import_faces(
    engine: sa.Engine, release: ClaimedRelease, files: _ReleaseFiles, rules: ImportRules
) -> tuple[int, Mapping[str, int]]:
    """Stores the claims that are not stored yet. Returns their number, and the skipped faces by reason."""
    with reading(engine) as connection:
        suppressions = rules.suppressions.refreshed(connection)
        known = claimed.known_pictures(connection, release.release_id)
        stored = claimed.known_positions(connection, release.release_id)
        people = _people(connection, files.legacy, suppressions)
        templates = load_templates(connection, suppressions.key)
    refused: Collection[int] = ()
    if templates:
        refused = refused_positions(files.directory, rules.pack.digests, templates)
    places = Places(rules.settings.stash_boxes.values())
    sites = rules.settings.reference_sites
    read = read_faces(
        files.directory,
        FaceRules(
            source=lambda name: name if name in sites else places.source(name),
            person=people,
            forbids=suppressions.forbids_picture,
            known=known,
            refused=refused,
            own=files.claim.own,
        ),
    )
    new = [row for row in read.rows if row.position not in stored]
    for batch in batched(new, _FACES_A_BATCH):
        with writing(engine) as connection:
            claimed.add_claims(connection, release.release_id, files.claim.rounded, batch)
    return len(new), dict(sorted(read.skipped.items()))


def _people(connection: sa.Connection, legacy: Legacy, suppressions: Suppressions) -> dict[int, RecordKey]:
    """By performer id of the release, a live record of the person in the catalog.

    A person is left out when one of the records was refused: it is in the catalog neither live nor as a tombstone.
    """
    stored = _stored(connection, legacy.people)
    return {
        person.performer_id: record
        for person in legacy.people
        if person.performer_id is not None
        and (record := _live_record(person, stored)) is not None
        and not any(suppressions.covers_record(*key) for key in (*person.records, *person.merged))
    }


def _stored(connection: sa.Connection, people: Sequence[LegacyPerson]) -> dict[RecordKey, bool]:
    """The records of these people that the catalog has: True for a live one, False for a tombstone."""
    by_source: dict[str, set[str]] = {}
    for person in people:
        for source, source_id in person.records:
            by_source.setdefault(source, set()).add(source_id)
    return {
        (source, source_id): is_live
        for source, ids in by_source.items()
        for source_id, is_live in performers.liveness(connection, source, sorted(ids)).items()
    }


def _live_records(connection: sa.Connection, people: Sequence[LegacyPerson]) -> list[RecordKey]:
    return [key for key, is_live in _stored(connection, people).items() if is_live]


def _live_record(person: LegacyPerson, live: Mapping[RecordKey, bool]) -> RecordKey | None:
    if any(key not in live for key in person.records):
        return None
    return next((key for key in person.records if live[key]), None)


def _import_vectors(
    engine: sa.Engine,
    directory: Path,
    release: ClaimedRelease,
    model: str,
    progress: Progress | None,
) -> None:
    """Stores the vectors of one embedder that are not stored yet. Only one index is in memory."""
    with reading(engine) as connection:
        waiting = claimed.without_vector(connection, release.release_id, model)
    done = 0
    for claims, vectors in _blocks(directory, model, waiting):
        with writing(engine) as connection:
            claimed.add_vectors(connection, model, [claim_id for claim_id, _ in claims], vectors)
        done += len(claims)
        if progress is not None:
            progress(model, done, len(waiting))


def _blocks(
    directory: Path, model: str, waiting: Sequence[tuple[int, int]]
) -> Iterator[tuple[Sequence[tuple[int, int]], NDArray[np.float32]]]:
    if not waiting:
        return
    read: Callable[[Sequence[int]], NDArray[np.float32]] = vectors_at(directory, model)
    for batch in batched(waiting, _FACES_A_BATCH):
        yield batch, read([position for _, position in batch])
