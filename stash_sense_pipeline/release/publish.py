"""From staged files to a published release: what goes in, whether anything changed, assembly, and the move into place."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.files import (
    PUBLIC_DIRECTORY,
    PUBLIC_FILE,
    fsync_directory,
    fsync_file,
    make_directory,
    restrict,
)
from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.foundation.runtime_tuning import trim_heap
from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS, Suppressions, hold_list
from stash_sense_pipeline.release.build.archive import check_zip, write_zip
from stash_sense_pipeline.release.build.content import ProfileKey, read_content
from stash_sense_pipeline.release.build.face_order import FaceOrder, VectorFacts, read_face_order, read_facts
from stash_sense_pipeline.release.build.json_files import write_json_files
from stash_sense_pipeline.release.build.manifest import ManifestFacts, read_manifest, write_manifest
from stash_sense_pipeline.release.build.performers_db import DatabaseReport, stage_performers_db
from stash_sense_pipeline.release.build.staging import Staging, disk_errors, open_staging
from stash_sense_pipeline.release.build.voyager_index import (
    IndexParams,
    IndexReport,
    index_digest,
    stage_indices,
)
from stash_sense_pipeline.release.checks.quality_gate import Figures, Limits, prove_release
from stash_sense_pipeline.release.checks.retrieval import ReleaseVectors, read_unit_vectors
from stash_sense_pipeline.release.checks.suppression_check import (
    check_refused_faces,
    check_suppressed,
    check_suppressed_images,
    check_suppressed_people,
)
from stash_sense_pipeline.release.checks.verify import CheckResult, failures, verify_release
from stash_sense_pipeline.release.contract import (
    PERFORMERS_DB,
    RELEASE_FORMAT,
    REQUIRED_MODELS,
    zip_name,
)
from stash_sense_pipeline.release.distribution.history import ReleaseDiff, diff_releases
from stash_sense_pipeline.release.reports.quality_report import read_checks, write_report
from stash_sense_pipeline.release.versions import (
    LATEST,
    is_version,
    latest_release,
    next_version,
    published_versions,
    report_directory,
)


@dataclass(frozen=True)
class ReleaseSpec:
    """What a release is to be made of, apart from the catalog.

    `hosts`: universal-id host of each stash-box by its short name. `models`: embedders that get an index; each must
    be in the pack. `profile_key` finds the site and id of an external URL; None leaves those out. `suppressions` is
    proven against the finished files: keeping suppressed people out of the catalog is the privacy room's work.
    `limits`: what it must reach to be published.
    """

    hosts: Mapping[str, str]
    pack: ModelPack
    index: IndexParams = field(default_factory=IndexParams)
    models: tuple[str, ...] = REQUIRED_MODELS
    profile_key: ProfileKey | None = None
    suppressions: Suppressions = NO_SUPPRESSIONS
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class ReleaseReport:
    """A release on disk. `changed` is False when the newest one already had this content and nothing was built."""

    version: str
    path: Path
    archive: Path
    performers: int
    faces: int
    sources: tuple[str, ...]
    changed: bool
    input_digest: str
    sizes: Mapping[str, int]
    checks: tuple[CheckResult, ...] = ()
    indices: tuple[IndexReport, ...] = ()
    seconds: float = 0.0
    manifest: Mapping[str, Any] = field(default_factory=dict)
    figures: Figures | None = None
    diff: ReleaseDiff | None = None
    # What it was proven with, for whom it saves another reading.
    vectors: ReleaseVectors | None = None


class ReleaseRefusedError(ReleaseError):
    """A finished release failed a check and was not published; `checks` are all its results."""

    def __init__(self, checks: Sequence[CheckResult]) -> None:
        first, *rest = failures(checks)
        more = f" (and {len(rest)} more)" if rest else ""
        super().__init__(f"the release is not published, a check failed: {first.name}: {first.detail}{more}")
        self.checks = tuple(checks)


@dataclass(frozen=True)
class ReleaseInput:
    """Digests of what a release would be built from now. `digest` covers everything that decides what users get."""

    digest: str
    order: str
    content: str
    indices: Mapping[str, str]


@dataclass(frozen=True)
class Assembled:
    """A finished release that still lies in staging, with what the verification found. `errors` forbid publishing."""

    staging: Staging
    version: str
    manifest: Mapping[str, Any]
    checks: tuple[CheckResult, ...]

    @property
    def errors(self) -> tuple[CheckResult, ...]:
        """The failed checks of severity error."""
        return failures(self.checks)


def read_input(engine: sa.Engine, spec: ReleaseSpec) -> ReleaseInput:
    """Digests over faces, people, vectors, models, hosts and parameters; times and the number of threads are left out.

    Raises ReleaseError where a build would, so a catalog that cannot be released is known before anything is built.
    """
    content = read_content(engine, spec.hosts, spec.profile_key)
    with reading(engine) as connection:
        _check_order(connection, content.order)
        facts = {model: read_facts(connection, content.order, model) for model in spec.models}
    return _input(spec, content.order, content.digest, content.sources, facts)


def read_input_and_vectors(engine: sa.Engine, spec: ReleaseSpec) -> tuple[ReleaseInput, ReleaseVectors]:
    """read_input, and the unit vectors that it is about: they are read once for digest and proof."""
    content = read_content(engine, spec.hosts, spec.profile_key)
    order, digest, sources = content.order, content.digest, content.sources
    # Two gigabytes come now.
    del content
    trim_heap()
    with reading(engine) as connection:
        _check_order(connection, order)
        vectors = read_unit_vectors(connection, order, spec.models)
    return _input(spec, order, digest, sources, vectors.facts), vectors


def _check_order(connection: sa.Connection, order: FaceOrder) -> None:
    """Refuses vectors of another choice of faces than the one that the content was made of a moment ago."""
    if read_face_order(connection).digest != order.digest:
        raise ReleaseError("the trusted faces changed while the release was read; run publish again")


def _input(
    spec: ReleaseSpec,
    order: FaceOrder,
    content: str,
    sources: Sequence[str],
    facts: Mapping[str, VectorFacts],
) -> ReleaseInput:
    for model, of_model in facts.items():
        _check_pack(spec.pack, model, of_model.pack, of_model.model_digest)
    indices = {model: index_digest(of_model.digest, spec.index) for model, of_model in facts.items()}
    state = {
        "format": RELEASE_FORMAT,
        "order": order.digest,
        "content": content,
        "indices": indices,
        # A stash-box that gave nothing yet changes nothing for users.
        "hosts": {source: spec.hosts[source] for source in sources if source in spec.hosts},
        "detector": spec.pack.detector.digest,
    }
    digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    return ReleaseInput(f"sha256:{digest}", order.digest, content, indices)


def unchanged_release(
    engine: sa.Engine, releases: Path, digest: str, spec: ReleaseSpec
) -> ReleaseReport | None:
    """The newest release, verified again, when it was built from the same input; else None.

    When the program was stopped between finishing that release and pointing `latest` at it, `latest` is moved now,
    unless somebody in it is on the suppression list by now (ReleaseRefusedError). A zip that is damaged or gone is
    packed again, with the same bytes. Raises ReleaseError when the disk refuses.
    """
    latest = latest_release(releases)
    versions = sorted({*published_versions(releases), *([latest.name] if latest else [])})
    if not versions:
        return None
    newest = releases / versions[-1]
    manifest = read_manifest(newest)
    if manifest.get("input_digest") != digest:
        return None
    verified = verify_release(newest)
    with disk_errors(f"mend {newest}"):
        if latest != newest.resolve():
            _refuse_suppressed(engine, newest, spec, spec.suppressions)
            with list_held(engine, newest, spec):
                _point_latest(releases, newest.name)
        if not failures(verified):
            _mend_zip(newest, releases / zip_name(newest.name))
    proven = {check.name for check in verified}
    kept = [
        check for check in read_checks(report_directory(releases, newest.name)) if check.name not in proven
    ]
    return replace(_report(newest, manifest, changed=False), checks=(*verified, *kept))


def _mend_zip(release: Path, archive: Path) -> None:
    try:
        check_zip(archive, release)
    except (ReleaseError, FileNotFoundError):
        write_zip(release, archive)
        archive.chmod(PUBLIC_FILE)


def assemble_release(staging: Staging, version: str, spec: ReleaseSpec, now: ReleaseInput) -> Assembled:
    """Completes a staged release (JSON files, manifest last) and verifies it; publishes nothing.

    Needs the indices and performers.db staged before. Raises ReleaseError when these are missing, or were not built
    from the state of the catalog that `now` describes. What the verification finds is in the answer:
    promote_release refuses errors.
    """
    database = _database_report(staging)
    indices = _index_reports(staging, spec)
    stale = [index.file for index in indices if index.input_digest != now.indices[index.model]]
    stale += [index.file for index in indices if index.order_digest != now.order]
    if (database.order_digest, database.content_digest) != (now.order, now.content):
        stale.append(PERFORMERS_DB)
    if stale:
        raise ReleaseError(
            f"{stale[0]} was staged from another state of the catalog than now; run publish again"
        )
    _keep_only(staging, {PERFORMERS_DB, *(index.file for index in indices)})
    counts = write_json_files(staging.release, spec.hosts)
    facts = ManifestFacts(
        version=version,
        created_at=database.newest_change,
        performer_count=counts.performers,
        face_count=counts.faces,
        sources=database.sources,
        input_digest=now.digest,
        pack=spec.pack,
        indices={index.model: _provenance(index) for index in indices},
    )
    known = {index.file: index.sha256 for index in indices} | {PERFORMERS_DB: database.sha256}
    manifest = write_manifest(staging.release, facts, known)
    checks = (
        *verify_release(staging.release),
        check_suppressed(staging.release, spec.suppressions, spec.hosts),
    )
    return Assembled(staging, version, manifest, checks)


def promote_release(
    assembled: Assembled,
    releases: Path,
    figures: Figures | None,
    diff: ReleaseDiff | None,
    still_allowed: Callable[[], AbstractContextManager[None]],
) -> ReleaseReport:
    """Writes the report and packs the zip, then moves report, zip and release into `releases`, and `latest` last.

    `still_allowed` is entered directly before the moves, which take milliseconds, and left after them: see list_held.
    Each move is one rename on one file system: stopped anywhere, `latest` shows the old release or the new one whole.
    Raises ReleaseError, with nothing published, when a check of severity error failed or the disk refuses.
    """
    _refuse_errors(assembled)
    staging, version = assembled.staging, assembled.version
    target = releases / version
    archive = releases / zip_name(version)
    staged_archive = staging.root / archive.name
    with disk_errors(f"publish {target}"):
        make_directory(releases, PUBLIC_DIRECTORY)
        if target.exists() or archive.exists():
            raise ReleaseError(f"{target} or its zip already exists; a published version is never replaced")
        # Drawing is Python's work and packing is not, so that they share two cores well.
        with ThreadPoolExecutor(max_workers=1) as beside:
            packed = beside.submit(write_zip, staging.release, staged_archive)
            write_report(staging.report, staging.release, version, figures, assembled.checks, diff)
            packed.result()
        restrict(staging.report)
        staged_archive.chmod(PUBLIC_FILE)
        for member in staging.release.iterdir():
            member.chmod(PUBLIC_FILE)
            fsync_file(member)
        staging.release.chmod(PUBLIC_DIRECTORY)
        fsync_directory(staging.release)
        report = report_directory(releases, version)
        shutil.rmtree(report, ignore_errors=True)
        with still_allowed():
            staging.report.rename(report)
            staged_archive.rename(archive)
            staging.release.rename(target)
            fsync_directory(releases)
            _point_latest(releases, version)
    staging.discard()
    return replace(_report(target, assembled.manifest, changed=True), checks=assembled.checks)


def _refuse_errors(assembled: Assembled) -> None:
    if assembled.errors:
        raise ReleaseRefusedError(assembled.checks)


def publish_staged(
    engine: sa.Engine,
    data_dir: Path,
    staging: Staging,
    spec: ReleaseSpec,
    on: date,
) -> ReleaseReport:
    """Publishes what the index and database steps have staged, or recognises that nothing has changed.

    Assembles, verifies, proves the indices against the catalog, promotes. The parts must have been staged from the
    catalog as it is. After an error the published releases are as they were, and the staged parts are still there.
    """
    begun = time.monotonic()
    releases = data_dir / "releases"
    now, vectors = read_input_and_vectors(engine, spec)
    unchanged = unchanged_release(engine, releases, now.digest, spec)
    if unchanged is not None:
        staging.discard()
        unchanged = _searched_again(engine, unchanged, spec, vectors)
        return replace(unchanged, vectors=vectors, seconds=time.monotonic() - begun)
    indices = _index_reports(staging, spec)
    clear_leftovers(data_dir, keep_run=staging.root.name)
    assembled = assemble_release(staging, next_version(releases, on), spec, now)
    _refuse_errors(assembled)
    previous = latest_release(releases)
    proof = prove_release(
        engine,
        staging.release,
        vectors,
        pack=spec.pack,
        storage=spec.index.storage,
        limits=spec.limits,
        suppressions=spec.suppressions,
        previous=previous,
    )
    suppressed = _check_suppressed_faces(engine, spec, vectors)
    assembled = replace(assembled, checks=(*assembled.checks, *suppressed, *proof.checks))
    _refuse_errors(assembled)
    diff = diff_releases(previous, staging.release, spec.suppressions) if previous is not None else None
    report = promote_release(
        assembled, releases, proof.figures, diff, lambda: list_held(engine, staging.release, spec)
    )
    return replace(
        report,
        indices=indices,
        figures=proof.figures,
        diff=diff,
        vectors=vectors,
        seconds=time.monotonic() - begun,
    )


@contextmanager
def list_held(engine: sa.Engine, release: Path, spec: ReleaseSpec) -> Iterator[None]:
    """Holds the suppression list as it is, once the release holds nobody of it: what is added meanwhile waits, and finds
    the release published.

    The release was proven for `spec.suppressions`; making and proving it takes minutes in which the list may grow.
    Raises ReleaseRefusedError when it holds somebody who was added.
    """
    listed = spec.suppressions
    while True:
        with writing(engine) as connection:
            hold_list(connection)
            now = listed.refreshed(connection)
            if now is listed:
                yield
                return
        # Outside of the transaction, in which every other writer would wait.
        listed = now
        _refuse_suppressed(engine, release, spec, listed)


def _refuse_suppressed(engine: sa.Engine, release: Path, spec: ReleaseSpec, listed: Suppressions) -> None:
    checks = (
        check_suppressed(release, listed, spec.hosts),
        check_suppressed_people(engine, listed),
        check_suppressed_images(engine, listed),
    )
    if failures(checks):
        raise ReleaseRefusedError(checks)


def _check_suppressed_faces(
    engine: sa.Engine, spec: ReleaseSpec, vectors: ReleaseVectors
) -> tuple[CheckResult, ...]:
    return (
        check_suppressed_people(engine, spec.suppressions),
        check_suppressed_images(engine, spec.suppressions),
        check_refused_faces(engine, vectors, spec.suppressions),
    )


def _searched_again(
    engine: sa.Engine, unchanged: ReleaseReport, spec: ReleaseSpec, vectors: ReleaseVectors
) -> ReleaseReport:
    """The list of the suppressed may have grown since that release was made."""
    checks = {check.name: check for check in unchanged.checks}
    found = (
        check_suppressed(unchanged.path, spec.suppressions, spec.hosts),
        *_check_suppressed_faces(engine, spec, vectors),
    )
    return replace(unchanged, checks=tuple((checks | {check.name: check for check in found}).values()))


def publish_release(
    engine: sa.Engine,
    data_dir: Path,
    run: str,
    spec: ReleaseSpec,
    on: date,
    *,
    progress: Progress | None = None,
) -> ReleaseReport:
    """All steps in one call; when nothing changed, nothing is built.

    On any error the staging directory of `run` is removed and the published releases are as they were.
    """
    releases = data_dir / "releases"
    unchanged = unchanged_release(engine, releases, read_input(engine, spec).digest, spec)
    if unchanged is not None:
        return _searched_again(engine, unchanged, spec, read_input_and_vectors(engine, spec)[1])
    staging = open_staging(data_dir, run)
    try:
        previous = latest_release(releases)
        stage_indices(
            engine,
            spec.models,
            staging,
            spec.index,
            reuse=previous,
            progress=progress and (lambda _: progress),
        )
        stage_performers_db(engine, staging, spec.hosts, profile_key=spec.profile_key)
        return publish_staged(engine, data_dir, staging, spec, on)
    finally:
        staging.discard()


def clear_leftovers(data_dir: Path, *, keep_run: str | None = None) -> tuple[str, ...]:
    """Removes what interrupted runs left: other runs' staging directories, files that were half written, and release
    directories or zips without their other half that `latest` does not show. Call it while no other publish runs.
    Returns the names removed. Raises ReleaseError when the disk refuses."""
    with disk_errors(f"clear what interrupted runs left in {data_dir}"):
        return _clear_leftovers(data_dir, keep_run)


def _clear_leftovers(data_dir: Path, keep_run: str | None) -> tuple[str, ...]:
    removed: list[str] = []
    staging, releases = data_dir / "staging", data_dir / "releases"
    if staging.is_dir():
        for run in sorted(staging.iterdir()):
            if run.name != keep_run:
                shutil.rmtree(run, ignore_errors=True)
                removed.append(f"staging/{run.name}")
    if releases.is_dir():
        for path in sorted(releases.glob(".*.tmp")):
            path.unlink()
            removed.append(f"releases/{path.name}")
        whole = set(published_versions(releases))
        latest = latest_release(releases)
        kept = whole | ({latest.name} if latest else set())
        for path in sorted(releases.iterdir()):
            version = path.name.removeprefix("stash-sense-data-v").removesuffix(".zip")
            version = version.removesuffix(".report")
            names = (version, zip_name(version), report_directory(releases, version).name)
            half = path.name in names and is_version(version) and version not in kept
            if half:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                removed.append(f"releases/{path.name}")
    return tuple(removed)


def _check_pack(pack: ModelPack, model: str, made_by: str, model_digest: str) -> None:
    embedder = pack.embedders.get(model)
    if embedder is None:
        raise ReleaseError(
            f"model pack {pack.name} has no embedder {model}; choose another pack or leave that index out"
        )
    if (made_by, model_digest) != (pack.name, embedder.digest):
        raise ReleaseError(
            f"the {model} embeddings were made by pack {made_by} (model {model_digest[:12]}), but the pack in use is "
            f"{pack.name} (model {embedder.digest[:12]}); embed all faces again"
        )


def _database_report(staging: Staging) -> DatabaseReport:
    note = staging.read_part("performers_db")
    return DatabaseReport(**{**note, "sources": tuple(note["sources"])})


def _index_reports(staging: Staging, spec: ReleaseSpec) -> tuple[IndexReport, ...]:
    reports = tuple(IndexReport(**staging.read_part(f"index-{model}")) for model in spec.models)
    for report in reports:
        _check_pack(spec.pack, report.model, report.pack, report.model_digest)
    return reports


def _provenance(index: IndexReport) -> dict[str, Any]:
    """What the manifest says about an index; nothing that differs between two builds of the same input."""
    return {
        "file": index.file,
        "vectors": index.faces,
        "dimensions": index.dimensions,
        "m": index.m,
        "ef_construction": index.ef_construction,
        "seed": index.seed,
        "storage": index.storage,
        "threads": index.threads,
        "reproducible": index.threads == 1,
        "input_digest": index.input_digest,
    }


def _keep_only(staging: Staging, names: set[str]) -> None:
    """An earlier try of the same run may have got further; its files are made again."""
    for member in staging.release.iterdir():
        if member.name not in names:
            member.unlink()


def _point_latest(releases: Path, version: str) -> None:
    link = releases / LATEST
    fresh = releases / f".{LATEST}.tmp"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(version, target_is_directory=True)
    fresh.replace(link)
    fsync_directory(releases)


def _report(path: Path, manifest: Mapping[str, Any], *, changed: bool) -> ReleaseReport:
    archive = path.parent / zip_name(path.name)
    sizes = {member.name: member.stat().st_size for member in sorted(path.iterdir())}
    return ReleaseReport(
        version=path.name,
        path=path,
        archive=archive,
        performers=manifest["performer_count"],
        faces=manifest["face_count"],
        sources=tuple(manifest["sources"]),
        changed=changed,
        input_digest=manifest["input_digest"],
        sizes={**sizes, archive.name: archive.stat().st_size},
        manifest=manifest,
    )
