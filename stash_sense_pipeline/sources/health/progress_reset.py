"""Clears the progress of a source, so that its next refresh begins anew."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from stash_sense_pipeline.catalog.schema import site_visits, source_images, sync_state
from stash_sense_pipeline.catalog.transactions import writing

# States of an image that a later run may ask for again.
_RETRIED = ("pending", "failed")


@dataclass(frozen=True)
class ResetReport:
    """What was cleared: whether the source had a state, visits of profiles, images with attempts or a pause."""

    state: bool
    visits: int
    images: int


def reset_progress(engine: sa.Engine, source: str) -> ResetReport:
    """Forgets watermarks, cooldown, visits of profiles, and failed attempts at images of a source.

    Records, images, faces and embeddings stay. The next refresh reads the source in full.
    """
    image = source_images.c
    with writing(engine) as connection:
        state = connection.execute(sa.delete(sync_state).where(sync_state.c.source == source))
        visits = connection.execute(sa.delete(site_visits).where(site_visits.c.source == source))
        images = connection.execute(
            sa.update(source_images)
            .where(
                image.source == source,
                image.state.in_(_RETRIED),
                sa.or_(image.attempts > 0, image.next_attempt_at.is_not(None), image.state == "failed"),
            )
            .values(state="pending", reason=None, attempts=0, next_attempt_at=None)
        )
    return ResetReport(bool(state.rowcount), visits.rowcount, images.rowcount)
