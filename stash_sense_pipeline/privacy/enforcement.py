"""Applies the operator's suppression list at the start of a run: import, erasure, redaction."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.foundation.private_work import clear_private_work
from stash_sense_pipeline.privacy.erasure import ErasureReport, ErasureScope, erase_suppressed
from stash_sense_pipeline.privacy.intake.record_evidence import Relatives
from stash_sense_pipeline.privacy.recheck import RecheckReport, recheck_people
from stash_sense_pipeline.privacy.redaction.overrides_redaction import OverridesReport, forget_overrides
from stash_sense_pipeline.privacy.redaction.report_redaction import TraceReport, erase_traces, texts_locked
from stash_sense_pipeline.privacy.suppression.suppression_file import read_suppressions_file
from stash_sense_pipeline.privacy.suppression.suppression_import import (
    ImportReport,
    add_suppressions,
    import_suppressions_file,
)
from stash_sense_pipeline.privacy.suppression.suppression_key import load_or_create_key
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions, load_suppressions
from stash_sense_pipeline.settings.environment import Environment


@dataclass(frozen=True)
class Enforcement:
    """What enforcing the list removed from the catalog, from reports and logs, and from identity_overrides.yaml.

    `shared_pictures` as in ImportReport.
    """

    erased: ErasureReport
    traces: TraceReport = field(default_factory=TraceReport)
    overrides: OverridesReport = field(default_factory=OverridesReport)
    shared_pictures: int = 0


def current_suppressions(
    engine: sa.Engine, environment: Environment, sources: Collection[str]
) -> Suppressions:
    """Imports the operator's suppressions.yaml, if it exists, and returns the suppression list of the catalog.

    Raises ConfigurationError for an invalid list or key file, CatalogError when the key is not the catalog's.
    """
    return _imported(engine, environment, sources)[0]


def enforce_suppressions(
    engine: sa.Engine,
    environment: Environment,
    sources: Collection[str],
    now: datetime,
    scope: ErasureScope | None = None,
) -> Enforcement:
    """Imports the list as current_suppressions does, and erases the people on it.

    They are removed from the catalog, the staged files of a release, reports, logs and identity_overrides.yaml. Copies of
    the catalog that a killed command left are deleted.
    """
    clear_private_work(environment.data_dir)
    suppressions, imported = _imported(engine, environment, sources)
    done = Enforcement(ErasureReport(0, 0, 0, 0), shared_pictures=imported.shared_pictures)

    def forget(erased: ErasureReport, until_committed: ExitStack) -> None:
        nonlocal done
        until_committed.enter_context(texts_locked(environment.data_dir))
        traces = erase_traces(environment.data_dir, erased.traces, staged=not erased.is_empty)
        overrides = forget_overrides(environment.overrides_file, suppressions, erased.traces)
        done = replace(done, traces=traces, overrides=overrides)

    erased = erase_suppressed(engine, suppressions, now, scope, before=forget)
    return replace(done, erased=erased)


@dataclass(frozen=True)
class UnpackedBackup:
    """A backup that is not in use yet: its catalog, and the folder of its files."""

    catalog: sa.Engine
    folder: Path


def enforce_in_copy(
    backup: UnpackedBackup,
    environment: Environment,
    sources: Collection[str],
    now: datetime,
    relatives: Relatives | None = None,
) -> ErasureReport:
    """Erases the people on a backup's own list and on the current one from its unpacked catalog and overrides.

    The entries of both lists count as `unseen`: they were checked when
    they were added, and an older catalog need not hold their targets. Raises as current_suppressions.
    """
    ours = environment.suppression_key_file
    key = load_or_create_key(ours if ours.exists() else backup.folder / "suppression.key")
    for path in (backup.folder / "suppressions.yaml", environment.suppressions_file):
        if path.exists():
            entries = [replace(entry, unseen=True) for entry in read_suppressions_file(path, sources)]
            with writing(backup.catalog) as connection:
                add_suppressions(connection, key, entries)
    suppressions = load_suppressions(backup.catalog, key)

    def forget(erased: ErasureReport, until_committed: ExitStack) -> None:
        forget_overrides(backup.folder / "identity_overrides.yaml", suppressions, erased.traces)

    scope = ErasureScope(search_all=True, relatives=relatives)
    return erase_suppressed(backup.catalog, suppressions, now, scope, before=forget)


def _imported(
    engine: sa.Engine, environment: Environment, sources: Collection[str]
) -> tuple[Suppressions, ImportReport]:
    key = load_or_create_key(environment.suppression_key_file)
    report = ImportReport(0, 0)
    if environment.suppressions_file.exists():
        report = import_suppressions_file(engine, environment.suppressions_file, key, sources)
    return load_suppressions(engine, key), report


def recheck(
    engine: sa.Engine,
    environment: Environment,
    sources: Collection[str],
    now: datetime,
    relatives: Relatives | None = None,
) -> RecheckReport:
    """Runs recheck_people with the current list, and removes erased and held people from files and staged releases."""
    suppressions = current_suppressions(engine, environment, sources)

    def forget(traces: tuple[str, ...], until_committed: ExitStack) -> None:
        until_committed.enter_context(texts_locked(environment.data_dir))
        erase_traces(environment.data_dir, traces, staged=True)
        forget_overrides(environment.overrides_file, suppressions, traces)

    return recheck_people(engine, suppressions, now, forget, relatives)
