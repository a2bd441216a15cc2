"""Publishes a sense2 release: full zip, delta from the release before it, links, notes, report, all or nothing."""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path

import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.sense2.ledger import (
    FIRST_INDEX,
    FIRST_NUMBER,
    Publication,
    lock_ledger,
    newest_publication,
    store_publication,
)
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.files import (
    PUBLIC_DIRECTORY,
    PUBLIC_FILE,
    fsync_directory,
    fsync_file,
    holding_lock,
    make_directory,
    write_atomically,
)
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions, hold_list
from stash_sense_pipeline.release.build.staging import disk_errors
from stash_sense_pipeline.release.checks.check_result import CheckResult, ReleaseRefusedError, failures
from stash_sense_pipeline.release.checks.shrinkage import find_ledger_losses, shrink_check
from stash_sense_pipeline.release.checks.suppression_check import (
    HeldKeys,
    check_suppressed_images,
    check_suppressed_people,
)
from stash_sense_pipeline.release.sense2.content import Content, read_numbered_content
from stash_sense_pipeline.release.sense2.contract import full_zip, links_zip, zip_kind
from stash_sense_pipeline.release.sense2.delta import Changes, find_changes, may_move_a_number, write_delta
from stash_sense_pipeline.release.sense2.full import (
    Links,
    Origin,
    make_links,
    write_full,
    write_links,
    write_notes,
)
from stash_sense_pipeline.release.sense2.history import (
    REPORT,
    foreign_release,
    held_in_files,
    held_in_zip,
    next_version,
)
from stash_sense_pipeline.release.sense2.opened import OpenedFiles
from stash_sense_pipeline.release.sense2.vectors import ModelVectors, read_model_vectors
from stash_sense_pipeline.release.sense2.verify import verify_sense2
from stash_sense_pipeline.release.spec import Sense2Spec

NOTES = "notes.md"
# An erasure removes the staged files; see privacy.redaction.report_redaction.
_STAGED = ".staged"
_LOCK = ".lock"
# The directories of the unpacked files, and the kinds of their zips.
_KINDS = {"full": "data", "delta": "delta", "links": "links"}


@dataclass(frozen=True)
class Sense2Report:
    """A sense2 release on disk. `changed` is False when the newest release already has this content.

    `delta` is None for a release that must be downloaded in full; `why_full` then says why. `counts`: what the release
    changes, by what it is. `next_number` and `next_index`: the least numbers that no release has used.
    """

    version: str
    path: Path
    full: Path
    delta: Path | None
    links: Path
    performers: int
    faces: int
    changed: bool
    why_full: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    checks: tuple[CheckResult, ...] = ()
    next_number: int = FIRST_NUMBER
    next_index: int = FIRST_INDEX
    seconds: float = 0.0


@dataclass(frozen=True)
class _Made:
    """A release that is not published yet. `before`: the release that its delta leads from. `shrinkage`: what it lost."""

    content: Content
    vectors: ModelVectors
    changes: Changes
    links: Links
    before: Publication | None
    why_full: str | None
    shrinkage: CheckResult

    @property
    def differs(self) -> bool:
        """True when the release is not the one before it."""
        newest = self.content.ledger.newest
        if newest is None or self.why_full is not None:
            return True
        return self.changes.any or self.links.digests != (newest.links_digest, newest.aliases_digest)


def publish_sense2(engine: sa.Engine, data_dir: Path, spec: Sense2Spec, on: date) -> Sense2Report:
    """Publishes the catalog's trusted faces to `<data_dir>/sense2/<version>`, or returns the newest release if it is equal.

    A newest release with a zip that is missing, is damaged or names a suppressed person is followed by another one with the
    same content.
    The version is the day `on`. When that day, or a later one, has a release already, it is the day after the newest: its
    form stays YYYY.MM.DD, and it is later as text. One publish runs at a time.

    An error publishes nothing. Numbers that were given to new records and faces stay given. Raises ReleaseError when the
    catalog cannot be released, and ReleaseRefusedError when a check failed.
    """
    begun = time.monotonic()
    root = data_dir / "sense2"
    with disk_errors(f"make {root}"):
        make_directory(root, PUBLIC_DIRECTORY)
    with holding_lock(root / _LOCK):
        return _publish(engine, data_dir, spec, on, begun)


def _publish(engine: sa.Engine, data_dir: Path, spec: Sense2Spec, on: date, begun: float) -> Sense2Report:
    root = data_dir / "sense2"
    shutil.rmtree(root / _STAGED, ignore_errors=True)
    made = _make(engine, data_dir, spec)
    newest = made.content.ledger.newest
    if not made.differs and newest is not None:
        unchanged = _unchanged(engine, root / newest.version, made, spec)
        if unchanged is not None:
            return replace(unchanged, seconds=time.monotonic() - begun)
    # Before the files are written: an index takes minutes.
    if failures((made.shrinkage,)):
        raise ReleaseRefusedError((made.shrinkage,))
    version = next_version(data_dir, newest, on)
    staging = root / _STAGED / secrets.token_hex(4)
    try:
        with disk_errors(f"write the release {version} in {staging}"):
            report = _stage(made, spec, version, staging)
            checks = _checks(engine, made, spec, staging)
            if failures(checks):
                raise ReleaseRefusedError(checks)
            report = replace(report, checks=checks, seconds=time.monotonic() - begun)
            _seal(staging, report)
            _promote(engine, made, spec, report, staging)
    finally:
        shutil.rmtree(root / _STAGED, ignore_errors=True)
    return report


def _make(engine: sa.Engine, data_dir: Path, spec: Sense2Spec) -> _Made:
    foreign = foreign_release(engine, data_dir)
    above = (foreign.get("next_number", FIRST_NUMBER), foreign.get("next_index", FIRST_INDEX))
    content = read_numbered_content(engine, spec.hosts, spec.priority, above, spec.second)
    vectors = read_model_vectors(engine, content.order, spec.pack, spec.model, spec.suppressions)
    changes = find_changes(content, vectors.rounded)
    newest = content.ledger.newest
    why_full = None
    if foreign:
        why_full = (
            f"the catalog does not know the release {foreign['version']}: it was restored from a backup, "
            "or a publish was killed"
        )
    elif newest is None:
        why_full = "it is the first release"
    elif (newest.detector_digest, newest.model, newest.model_digest) != _maker(spec, vectors):
        why_full = "another model made the vectors"
    elif may_move_a_number(content, changes):
        why_full = "it removes erased performers by number and adds others, of which some may be the same"
    before = newest if why_full is None else None
    shrinkage = _shrinkage(engine, content, spec)
    return _Made(content, vectors, changes, make_links(content), before, why_full, shrinkage)


def _shrinkage(engine: sa.Engine, content: Content, spec: Sense2Spec) -> CheckResult:
    numbers = {row.number for row in content.performers}
    losses = find_ledger_losses(
        engine, content.ledger, numbers, {face.embedding_index for face in content.faces}
    )
    remedy = (
        "look at the last refreshes and at the model packs: pictures may wait for another pack; then accept the loss with "
        "`stash-sense releases build --format sense2 --accept-shrink`"
    )
    return shrink_check(
        losses, allowed=spec.shrink, accepted=spec.accept_shrink, name="shrinkage", remedy=remedy
    )


def _maker(spec: Sense2Spec, vectors: ModelVectors) -> tuple[str, str, str]:
    return spec.pack.detector.finding_digest, spec.model, vectors.model_digest


# --- files ------------------------------------------------------------------------------------------------------------


def _stage(made: _Made, spec: Sense2Spec, version: str, staging: Path) -> Sense2Report:
    """Writes all files of the release. The unpacked ones are in directories of their own, until they are checked."""
    places = {name: staging / name for name in _KINDS}
    for place in places.values():
        make_directory(place)
    content, rounded = made.content, made.vectors.rounded
    counts = _counts(made.changes) if made.before is not None else {}
    delta = None
    if made.before is not None:
        versions = (made.before.version, version)
        delta = write_delta(content, rounded, made.changes, versions, places["delta"])
    links = write_links(made.links, version, places["links"])
    full = write_full(content, rounded, made.links, Origin(version, spec.pack, spec.model), places["full"])
    write_notes(staging / NOTES, content, made.links, counts, spec.pack.demo)
    target = staging.parents[1] / version
    return Sense2Report(
        version=version,
        path=target,
        full=target / full.name,
        delta=None if delta is None else target / delta.name,
        links=target / links.name,
        performers=len(content.performers),
        faces=len(content.faces),
        changed=True,
        why_full=made.why_full,
        counts=counts,
        sizes={path.name: path.stat().st_size for path in (full, links, delta) if path is not None},
        next_number=content.ledger.next_number,
        next_index=content.ledger.next_index,
    )


def _counts(changes: Changes) -> dict[str, int]:
    return {
        "performers new or changed": len(changes.performers),
        "performers removed": len(changes.gone) + len(changes.erased),
        "faces new or changed": len(changes.faces),
        "faces removed": len(changes.gone_faces),
    }


def _checks(engine: sa.Engine, made: _Made, spec: Sense2Spec, staging: Path) -> tuple[CheckResult, ...]:
    return (
        *verify_sense2(staging),
        made.shrinkage,
        made.vectors.refused_faces,
        *_suppression_checks(engine, spec, spec.suppressions, staging),
    )


def _suppression_checks(
    engine: sa.Engine, spec: Sense2Spec, listed: Suppressions, staging: Path
) -> tuple[CheckResult, ...]:
    """The files and the catalog hold no person on this list."""
    results = []
    for place in _KINDS:
        if not any((staging / place).iterdir()):
            continue
        held = held_in_files(OpenedFiles(staging / place), listed, spec.hosts)
        results.append(_suppressed(_KINDS[place], held))
    people = check_suppressed_people(engine, listed)
    return *results, people, check_suppressed_images(engine, listed, spec.second)


def _suppressed(kind: str, held: HeldKeys) -> CheckResult:
    detail = f"none of {held.of_records} records and {held.of_urls} URLs is suppressed"
    if held.any:
        detail = (
            f"{held.records} suppressed records and {held.urls} suppressed URLs; "
            "run `stash-sense suppress apply --all` and publish again"
        )
    return CheckResult(f"{kind}: suppressed", not held.any, detail)


def _seal(staging: Path, report: Sense2Report) -> None:
    """Writes the report, and makes the files readable by other users. The unpacked files stay until the promotion."""
    text = asdict(report) | {
        "path": report.path.name,
        **{name: getattr(report, name) and getattr(report, name).name for name in ("full", "delta", "links")},
    }
    write_atomically(staging / REPORT, json.dumps(text, sort_keys=True, indent=2) + "\n")
    for path in staging.iterdir():
        if path.is_file():
            path.chmod(PUBLIC_FILE)
            fsync_file(path)


def _promote(engine: sa.Engine, made: _Made, spec: Sense2Spec, report: Sense2Report, staging: Path) -> None:
    """Renames the release into place, and stores its state, in one transaction that holds the suppression list.

    The list may have grown since the checks: then the release is checked against the new entries first. A publish that is
    killed between the rename and the commit leaves a release that the catalog does not know; see foreign_release.
    """
    listed = spec.suppressions
    while True:
        with writing(engine) as connection:
            lock_ledger(connection)
            hold_list(connection)
            now = listed.refreshed(connection)
            if now is listed:
                _store(connection, made, spec, report.version)
                _move(staging, report.path)
                break
        # Checked outside the transaction: inside it every other writer would wait.
        listed = now
        checks = _suppression_checks(engine, spec, listed, staging)
        if failures(checks):
            raise ReleaseRefusedError(checks)
    fsync_directory(report.path.parent)


def _store(connection: sa.Connection, made: _Made, spec: Sense2Spec, version: str) -> None:
    newest = newest_publication(connection)
    if newest != made.content.ledger.newest:
        raise ReleaseError("another publish has ended meanwhile; publish again")
    detector_digest, model, model_digest = _maker(spec, made.vectors)
    links_digest, aliases_digest = made.links.digests
    publication = Publication(
        version=version,
        published_at=datetime.now(UTC),
        detector_digest=detector_digest,
        model=model,
        model_digest=model_digest,
        links_digest=links_digest,
        aliases_digest=aliases_digest,
    )
    store_publication(connection, publication, made.changes.records_state, made.changes.faces_state)


def _move(staging: Path, target: Path) -> None:
    for place in _KINDS:
        shutil.rmtree(staging / place)
    staging.chmod(PUBLIC_DIRECTORY)
    if target.exists():
        raise ReleaseError(f"{target} already exists; a published version is never replaced")
    staging.rename(target)


# --- an equal release -------------------------------------------------------------------------------------------------


def _unchanged(engine: sa.Engine, path: Path, made: _Made, spec: Sense2Spec) -> Sense2Report | None:
    """The newest release at `path`, verified again, and checked against the suppression list, which may have grown.

    None when a file is missing or damaged, or names a suppressed person: another release takes its place.
    """
    version = path.name
    full, links = path / full_zip(version), path / links_zip(version)
    if not all(each.is_file() for each in (path / REPORT, full, links)):
        return None
    verified = verify_sense2(path)
    if failures(verified):
        return None
    archives = sorted(each for each in path.glob("*.zip") if zip_kind(each.name) is not None)
    searched = {
        str(zip_kind(each.name)): held_in_zip(each, spec.suppressions, spec.hosts) for each in archives
    }
    if any(held.any for held in searched.values()):
        return None
    return Sense2Report(
        version=version,
        path=path,
        full=full,
        delta=next((each for each in archives if zip_kind(each.name) == "delta"), None),
        links=links,
        performers=len(made.content.performers),
        faces=len(made.content.faces),
        changed=False,
        sizes={each.name: each.stat().st_size for each in archives},
        checks=(
            *verified,
            made.vectors.refused_faces,
            *(_suppressed(kind, held) for kind, held in searched.items()),
            check_suppressed_people(engine, spec.suppressions),
            check_suppressed_images(engine, spec.suppressions, spec.second),
        ),
        next_number=made.content.ledger.next_number,
        next_index=made.content.ledger.next_index,
    )
