"""The suppressions that hold for a run: the operator's file taken over, and everything of these people erased."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from datetime import datetime

import sqlalchemy as sa

from stash_sense_pipeline.privacy.entries import import_suppressions_file
from stash_sense_pipeline.privacy.erasure import ErasureReport, erase_suppressed
from stash_sense_pipeline.privacy.keys import load_or_create_key
from stash_sense_pipeline.privacy.suppression import Suppressions, load_suppressions
from stash_sense_pipeline.privacy.traces import TraceReport, erase_traces, texts_locked
from stash_sense_pipeline.settings import Environment


def current_suppressions(
    engine: sa.Engine, environment: Environment, sources: Collection[str]
) -> Suppressions:
    """Takes the operator's list over, if there is one, and returns all suppressions of the catalog.

    Raises ConfigurationError for a list or key file that is wrong, CatalogError when the key is not the catalog's.
    """
    key = load_or_create_key(environment.suppression_key_file)
    if environment.suppressions_file.exists():
        import_suppressions_file(engine, environment.suppressions_file, key, sources)
    return load_suppressions(engine, key)


def enforce_suppressions(
    engine: sa.Engine,
    environment: Environment,
    sources: Collection[str],
    now: datetime,
    *,
    search_all: bool = False,
) -> tuple[ErasureReport, TraceReport]:
    """current_suppressions, after which nothing of the people they cover is in the catalog or in what we wrote
    of it: what is staged for a release, reports and logs. `search_all` as in erase_suppressed.
    """
    suppressions = current_suppressions(engine, environment, sources)
    traces: list[TraceReport] = []

    def forget(erased: ErasureReport, until_committed: ExitStack) -> None:
        until_committed.enter_context(texts_locked(environment.data_dir))
        traces.append(erase_traces(environment.data_dir, erased.traces, staged=not erased.is_empty))

    return erase_suppressed(engine, suppressions, now, search_all=search_all, before=forget), traces[0]
