"""Publishes a release from staged files, or finds that nothing has changed."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import sqlalchemy as sa

from stash_sense_pipeline.release.assembly import assemble_release, index_reports
from stash_sense_pipeline.release.build.face_order import (
    ReleaseVectors,
)
from stash_sense_pipeline.release.build.performers_db import stage_performers_db
from stash_sense_pipeline.release.build.staging import Staging, open_staging
from stash_sense_pipeline.release.build.voyager_index import stage_indices
from stash_sense_pipeline.release.checks.quality_gate import prove_release
from stash_sense_pipeline.release.checks.suppression_check import (
    check_suppressed,
)
from stash_sense_pipeline.release.contract import Flavour
from stash_sense_pipeline.release.flavours import add_flavours
from stash_sense_pipeline.release.promotion import (
    ReleaseReport,
    clear_leftovers,
    promote_release,
    refuse_errors,
    unchanged_release,
)
from stash_sense_pipeline.release.release_input import (
    read_input,
    read_input_and_vectors,
)
from stash_sense_pipeline.release.reports.release_diff import diff_releases
from stash_sense_pipeline.release.spec import ReleaseSpec, index_tasks
from stash_sense_pipeline.release.suppression_gate import check_suppressed_faces, list_held
from stash_sense_pipeline.release.versions import (
    latest_release,
    next_version,
    release_path,
)


def publish_staged(
    engine: sa.Engine,
    data_dir: Path,
    staging: Staging,
    spec: ReleaseSpec,
    on: date,
) -> ReleaseReport:
    """Publishes the staged indices and database, or returns the newest release when nothing has changed.

    The steps: assemble, verify, compare the indices with the catalog, the same for the other flavours, promote. The parts
    must have been staged from the present state of the catalog. An error changes no published release and leaves the
    staged parts in place.
    """
    begun = time.monotonic()
    releases = data_dir / "releases"
    now, vectors = read_input_and_vectors(engine, spec)
    unchanged = unchanged_release(engine, releases, now, spec)
    if unchanged is not None:
        staging.discard()
        unchanged = _with_suppression_checks(engine, unchanged, spec, vectors)
        return replace(unchanged, vectors=vectors, seconds=time.monotonic() - begun)
    indices = index_reports(staging, spec)
    clear_leftovers(data_dir, keep_run=staging.root.name)
    assembled = assemble_release(staging, next_version(releases, on), spec, now[Flavour.FULL])
    refuse_errors(assembled)
    previous = latest_release(releases)
    proof = prove_release(engine, staging.release, vectors, spec, previous)
    suppressed = check_suppressed_faces(engine, spec, vectors)
    assembled = replace(assembled, checks=(*assembled.checks, *suppressed, *proof.checks))
    refuse_errors(assembled)
    if proof.figures is not None:
        assembled = add_flavours(assembled, spec, now, vectors, proof.figures.accuracy)
        refuse_errors(assembled)
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


def publish_release(
    engine: sa.Engine, data_dir: Path, run: str, spec: ReleaseSpec, on: date
) -> ReleaseReport:
    """Builds and publishes a release in one call. Builds nothing when nothing has changed.

    An error changes no published release. The staging directory of `run` is removed, also after an error.
    """
    releases = data_dir / "releases"
    unchanged = unchanged_release(engine, releases, read_input(engine, spec), spec)
    if unchanged is not None:
        return _with_suppression_checks(engine, unchanged, spec, read_input_and_vectors(engine, spec)[1])
    staging = open_staging(data_dir, run)
    try:
        reuse = latest_release(releases)
        stage_indices(engine, index_tasks(spec.models, spec.index, spec.flavours, reuse), staging)
        stage_performers_db(engine, staging, spec.hosts, profile_key=spec.profile_key, priority=spec.priority)
        return publish_staged(engine, data_dir, staging, spec, on)
    finally:
        staging.discard()


def _with_suppression_checks(
    engine: sa.Engine, unchanged: ReleaseReport, spec: ReleaseSpec, vectors: ReleaseVectors
) -> ReleaseReport:
    """Repeats the checks for suppressed people: the list may have grown since the release was built."""
    checks = {check.label: check for check in unchanged.checks}
    releases = unchanged.path.parent
    found = (
        *(
            replace(
                check_suppressed(
                    release_path(releases, unchanged.version, each), spec.suppressions, spec.hosts
                ),
                flavour=each.value,
            )
            for each in spec.flavours
        ),
        *check_suppressed_faces(engine, spec, vectors),
    )
    return replace(unchanged, checks=tuple((checks | {check.label: check for check in found}).values()))
