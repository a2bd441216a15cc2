"""Check of the collection of tattoos: its networks, pictures that must be fetched again for it, the time that it takes."""

from __future__ import annotations

import os

import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import unchanging_engine
from stash_sense_pipeline.catalog.queries.tattoos.scans import TattooModels
from stash_sense_pipeline.catalog.queries.tattoos.unsearched import count_unsearched
from stash_sense_pipeline.catalog.schema import faces
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.deployment.readiness.check import Check, State, check_of_error
from stash_sense_pipeline.faces.models.model_packs import load_pack
from stash_sense_pipeline.foundation.errors import ModelPackError
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings
from stash_sense_pipeline.sources.probing.build_estimate import duration_text

_NAME = "tattoos"
# More than so many times the time without tattoos is worth a warning.
_MOST_TIMES_LONGER = 1.6


def check_tattoos(settings: Settings, environment: Environment, *, has_catalog: bool) -> Check | None:
    """A problem when tattoos are wanted without networks; a warning while pictures must be fetched again for them, or
    when these cores search fewer pictures than the sources may send.

    None when they are not wanted and pictures were fetched already.
    """
    if not settings.faces.tattoos:
        if has_catalog and _has_faces(environment.catalog_url):
            return None
        text = "not collected; set faces.tattoos before the first build: later every picture must be fetched again"
        return Check(_NAME, State.OK, text)
    try:
        pack = load_pack(environment.model_pack, environment.models_dir).for_tattoos(True)
    except ModelPackError as error:
        return check_of_error(_NAME, error, "pull the networks, or set faces.tattoos to false")
    assert pack.tattoo is not None
    waiting = _unsearched(settings, environment.catalog_url, pack.tattoo.models) if has_catalog else {}
    pictures = sum(waiting.values())
    if not pictures:
        return _pace(settings, pack.tattoo.detector.search_seconds)
    hours = max(count / settings.source(name).rate_limit / 60 for name, count in waiting.items())
    text = f"{pictures} pictures with a face were not searched yet"
    action = f"the next refreshes fetch them again, in about {duration_text(hours)}"
    return Check(_NAME, State.WARNING, text, action)


def _pace(settings: Settings, seconds: float) -> Check:
    """Compares the pictures that can be searched with those that the rate limits permit."""
    cores = len(os.sched_getaffinity(0))
    permitted = sum(source.rate_limit for source in settings.enabled) / 60
    longer = permitted * seconds / cores
    found = "collected, 2 networks verified"
    if longer <= _MOST_TIMES_LONGER:
        return Check(_NAME, State.OK, found)
    text = (
        f"{found}; {cores} cores search about {cores / seconds:.0f} pictures a second, and the rate limits of the"
        f" sources permit {permitted:.0f}"
    )
    action = f"collecting takes up to {longer:.1f} times as long while all sources run; more cores shorten it"
    return Check(_NAME, State.WARNING, text, action)


def _has_faces(url: str) -> bool:
    engine = unchanging_engine(url)
    try:
        with reading(engine) as connection:
            return connection.execute(sa.select(faces.c.face_id).limit(1)).first() is not None
    finally:
        engine.dispose()


def _unsearched(settings: Settings, url: str, models: TattooModels) -> dict[str, int]:
    engine = unchanging_engine(url)
    try:
        with reading(engine) as connection:
            return {
                source.name: count_unsearched(connection, source.name, models) for source in settings.enabled
            }
    finally:
        engine.dispose()
