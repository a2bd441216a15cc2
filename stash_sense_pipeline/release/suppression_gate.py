"""The last look at the suppression list: a staged release that holds a suppressed person is refused."""

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
        refuse_listed(engine, release, spec, listed)


def refuse_listed(engine: sa.Engine, release: Path, spec: ReleaseSpec, listed: Suppressions) -> None:
    """Raises ReleaseRefusedError when the release, or what it is made of, holds a person on this list."""
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
    """The checks of a release against the list that need its vectors or the catalog."""
    return (
        check_suppressed_people(engine, spec.suppressions),
        check_suppressed_images(engine, spec.suppressions),
        check_refused_faces(engine, vectors, spec.suppressions),
    )
