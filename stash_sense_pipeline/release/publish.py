"""Publishes a release from staged files, or finds that nothing has changed."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import sqlalchemy as sa

from stash_sense_pipeline.foundation.runtime_tuning import rare_collections
from stash_sense_pipeline.release.assembly import assemble_release, index_reports
from stash_sense_pipeline.release.build.face_order import (
    ReleaseVectors,
)
from stash_sense_pipeline.release.build.performers_db import stage_performers_db
from stash_sense_pipeline.release.build.staging import Staging, open_staging
from stash_sense_pipeline.release.build.tattoos.tattoo_index import (
    TattooVectors,
    load_tattoos,
    stage_tattoos,
)
from stash_sense_pipeline.release.build.voyager_index import stage_indices
from stash_sense_pipeline.release.checks.quality_gate import prove_release
from stash_sense_pipeline.release.checks.suppression_check import (
    check_suppressed,
)
from stash_sense_pipeline.release.checks.tattoos.tattoo_checks import (
    WORTH,
    coverage_check,
    prove_tattoos,
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


# The objects of a hundred thousand faces have no cycles, and each pass of the collector looks at all of them.
@rare_collections()
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
    tattoos = load_tattoos(engine, spec.tattoos)
    now, vectors = read_input_and_vectors(engine, spec, tattoos)
    unchanged = unchanged_release(engine, releases, now, spec)
    if unchanged is not None:
        staging.discard()
        unchanged = _with_present_checks(engine, unchanged, spec, vectors, tattoos)
        return replace(unchanged, vectors=vectors, seconds=time.monotonic() - begun)
    indices = index_reports(staging, spec)
    # The verification loads the indices.
    vectors.make_room()
    clear_leftovers(data_dir, keep_run=staging.root.name)
    previous = latest_release(releases)
    _stage_tattoos(staging, spec, tattoos, previous)
    assembled = assemble_release(staging, next_version(releases, on), spec, now[Flavour.FULL], tattoos)
    refuse_errors(assembled)
    proof = prove_release(engine, staging.release, vectors, spec, previous)
    suppressed = check_suppressed_faces(engine, spec, vectors)
    of_tattoos = prove_tattoos(staging.release, tattoos, vectors, spec)
    checks = (*assembled.checks, *suppressed, *proof.checks, *of_tattoos)
    assembled = replace(assembled, checks=(*checks, coverage_check(tattoos.tattoos, previous)))
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
    tattoos = load_tattoos(engine, spec.tattoos)
    unchanged = unchanged_release(engine, releases, read_input(engine, spec, tattoos), spec)
    if unchanged is not None:
        vectors = read_input_and_vectors(engine, spec, tattoos)[1]
        return _with_present_checks(engine, unchanged, spec, vectors, tattoos)
    staging = open_staging(data_dir, run)
    try:
        reuse = latest_release(releases)
        stage_indices(engine, index_tasks(spec.models, spec.index, spec.flavours, reuse), staging)
        stage_performers_db(engine, staging, spec.database)
        return publish_staged(engine, data_dir, staging, spec, on)
    finally:
        staging.discard()


def _stage_tattoos(
    staging: Staging, spec: ReleaseSpec, tattoos: TattooVectors, previous: Path | None
) -> None:
    if spec.tattoos is None:
        return
    for flavour in spec.flavours:
        earlier = None if previous is None else release_path(previous.parent, previous.name, flavour)
        stage_tattoos(tattoos, spec.of(flavour).index, staging.of(flavour), spec.tattoos, earlier)


def _with_present_checks(
    engine: sa.Engine,
    unchanged: ReleaseReport,
    spec: ReleaseSpec,
    vectors: ReleaseVectors,
    tattoos: TattooVectors,
) -> ReleaseReport:
    """Repeats the checks for suppressed people and for searched pictures: both may have changed since the release."""
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
        coverage_check(tattoos.tattoos, unchanged.path),
        *(() if WORTH in checks else prove_tattoos(unchanged.path, tattoos, vectors, spec)),
    )
    return replace(unchanged, checks=tuple((checks | {check.label: check for check in found}).values()))
