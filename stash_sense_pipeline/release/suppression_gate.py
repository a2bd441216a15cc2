"""Suppression gate: refuses to publish a staged release that holds a suppressed person."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions, hold_list
from stash_sense_pipeline.release.build.face_order import (
    ReleaseVectors,
)
from stash_sense_pipeline.release.checks.check_result import CheckResult, ReleaseRefusedError, failures
from stash_sense_pipeline.release.checks.suppression_check import (
    check_refused_faces,
    check_suppressed,
    check_suppressed_images,
    check_suppressed_people,
)
from stash_sense_pipeline.release.spec import ReleaseSpec


@contextmanager
def list_held(engine: sa.Engine, release: Path, spec: ReleaseSpec) -> Iterator[None]:
    """Holds the suppression list unchanged, after the release was checked against all of it.

    The release was checked against `spec.suppressions`. Since then the list may have grown, so the release is checked
    again until the list has no new entries. An entry that is added while the list is held waits until the release is
    published. Raises ReleaseRefusedError when the release holds a person who was added to the list.
    """
    listed = spec.suppressions
    while True:
        with writing(engine) as connection:
            hold_list(connection)
            now = listed.refreshed(connection)
            if now is listed:
                yield
                return
        # Checked outside the transaction: inside it every other writer would wait.
        listed = now
        refuse_listed(engine, release, spec, listed)


def refuse_listed(engine: sa.Engine, release: Path, spec: ReleaseSpec, listed: Suppressions) -> None:
    """Raises ReleaseRefusedError when the release or the catalog holds a person on this list."""
    checks = (
        check_suppressed(release, listed, spec.hosts),
        check_suppressed_people(engine, listed),
        check_suppressed_images(engine, listed),
    )
    if failures(checks):
        raise ReleaseRefusedError(checks)


def check_suppressed_faces(
    engine: sa.Engine, spec: ReleaseSpec, vectors: ReleaseVectors
) -> tuple[CheckResult, ...]:
    """The checks against the suppression list that need the catalog or the vectors of the release."""
    return (
        check_suppressed_people(engine, spec.suppressions),
        check_suppressed_images(engine, spec.suppressions),
        check_refused_faces(engine, vectors, spec.suppressions),
    )
