"""Runs all checks of readiness, and reports them as lines and as data."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stash_sense_pipeline.catalog.engine import CatalogState, catalog_state, unchanging_engine
from stash_sense_pipeline.catalog.queries.sync_state import SyncState, load_states
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.deployment.readiness.check import Check, State
from stash_sense_pipeline.deployment.readiness.history_checks import (
    check_history,
    instance_settings,
    launches_elsewhere,
)
from stash_sense_pipeline.deployment.readiness.machine_checks import (
    check_clock,
    check_data_dir,
    check_device,
    check_disk,
    check_versions,
    free_bytes,
    installed_versions,
)
from stash_sense_pipeline.deployment.readiness.setup_checks import (
    check_catalog,
    check_contact,
    check_overrides,
    check_pack,
    check_second,
    check_sources_file,
)
from stash_sense_pipeline.deployment.readiness.source_checks import (
    check_answer,
    check_resting,
    check_unasked,
)
from stash_sense_pipeline.deployment.readiness.tattoo_check import check_tattoos
from stash_sense_pipeline.deployment.shipped_files import shipped_file
from stash_sense_pipeline.faces.models.onnx_sessions import Device
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings, SourceSettings
from stash_sense_pipeline.settings.sources_file import load_settings
from stash_sense_pipeline.sources.connections import lacking_access, lacks_contact
from stash_sense_pipeline.sources.cooldown import cooldown_until
from stash_sense_pipeline.sources.probing.build_estimate import (
    BuildEstimate,
    estimate_lines,
    estimate_samples,
)
from stash_sense_pipeline.sources.probing.probes import Probe, probe_sources

_WIDTH = 80
_STATE_WIDTH = 9
# A build does not wait longer for its estimate, and Ctrl-C waits for it.
_SECONDS_BEFORE_A_BUILD = 5.0


@dataclass(frozen=True)
class Report:
    """All checks, and the estimate of a first build of the sources that answered and were never read in full."""

    checks: tuple[Check, ...]
    estimate: BuildEstimate | None = None

    @property
    def has_problem(self) -> bool:
        """True when at least one check is a problem."""
        return any(check.state is State.PROBLEM for check in self.checks)

    def as_data(self) -> dict[str, Any]:
        """The report as JSON values. Names of checks and keys are stable; texts are for people."""
        return {
            "ready": not self.has_problem,
            "checks": [asdict(check) for check in self.checks],
            "estimate": asdict(self.estimate) if self.estimate else None,
        }


@dataclass(frozen=True)
class Scope:
    """What a report covers: `ask` the sources with requests; `history`: the run history and its daemon too."""

    ask: bool = True
    history: bool = True


def examine(environment: Environment, home: Path, gpus: int, scope: Scope) -> Report:
    """Runs all checks. `gpus` is STASH_SENSE_GPUS. Creates, migrates and changes nothing.

    Raises ConfigurationError when sources.yaml or dagster.yaml cannot be read.
    """
    settings, is_there = _settings(environment.sources_file)
    dagster = instance_settings(home)
    catalog, state = check_catalog(environment.catalog_url)
    states = _states(environment) if state is CatalogState.CURRENT else {}
    asked = _Asked.of(settings, environment, states, ask=scope.ask)
    samples = {probe.source: probe.sample for probe in asked.probes if probe.sample is not None}
    estimate = estimate_samples(settings, {name: samples[name] for name in samples if _is_new(states, name)})
    elsewhere = environment.executor != "in_process" or launches_elsewhere(dagster)
    checks = [
        check_versions(installed_versions()),
        check_sources_file(environment.sources_file, settings, is_there=is_there),
        check_contact(settings),
        *asked.checks,
        check_pack(
            environment.model_pack,
            environment.models_dir,
            real_sources=any(source.needs_contact for source in settings.enabled),
        ),
        check_second(settings, environment, has_catalog=state is CatalogState.CURRENT),
        check_device(Device(environment.device), runs_elsewhere=elsewhere),
        check_data_dir(environment.data_dir),
        check_disk(free_bytes(environment.data_dir), estimate.disk_bytes if estimate else None),
        check_clock([probe.server_ahead for probe in asked.probes if probe.server_ahead is not None]),
        catalog,
        check_overrides(environment, has_catalog=state is CatalogState.CURRENT),
        check_tattoos(settings, environment, has_catalog=state is CatalogState.CURRENT),
    ]
    if scope.history:
        ready = state in (CatalogState.CURRENT, CatalogState.OLDER)
        checks += check_history(home, dagster, gpus, server_ready=ready, automation=environment.automation)
    return Report(tuple(check for check in checks if check is not None), estimate)


def first_build(
    settings: Settings, environment: Environment, sources: Sequence[str], *, faces: bool
) -> BuildEstimate | None:
    """The estimate for those of `sources` that were never read in full; None when there are none, or none answers."""
    current = catalog_state(environment.catalog_url) is CatalogState.CURRENT
    states = _states(environment) if current else {}
    new = [name for name in sources if name in settings.stash_boxes and _is_new(states, name)]
    probes = asyncio.run(probe_sources(settings, environment, new, _SECONDS_BEFORE_A_BUILD))
    samples = {probe.source: probe.sample for probe in probes if probe.sample is not None}
    return estimate_samples(settings, samples, faces=faces)


def report_lines(report: Report) -> list[str]:
    """Each check in one line, wrapped at 80 columns, then the estimate and how many problems and warnings there are."""
    lines = [line for check in report.checks for line in check_lines(check)]
    if report.estimate is not None:
        lines += ["", *wrapped_estimate(report.estimate)]
    counts = {state: sum(check.state is state for check in report.checks) for state in State}
    if not (counts[State.PROBLEM] or counts[State.WARNING]):
        return [*lines, "", "ready"]
    said = [
        f"{counts[state]} {state.value}{'' if counts[state] == 1 else 's'}"
        for state in (State.PROBLEM, State.WARNING)
        if counts[state]
    ]
    return [*lines, "", ", ".join(said)]


def check_lines(check: Check) -> list[str]:
    """One check for a person: state, name, what was found, what to do."""
    action = f"; {check.action}" if check.action else ""
    text = f"{check.state.value:{_STATE_WIDTH}}{check.name}: {check.text}{action}"
    return _wrapped(text, " " * _STATE_WIDTH)


def wrapped_estimate(estimate: BuildEstimate) -> list[str]:
    """The lines of an estimate, wrapped at 80 columns."""
    return [line for text in estimate_lines(estimate) for line in _wrapped(text, "    ")]


@dataclass(frozen=True)
class _Asked:
    """The checks of the enabled sources in their order, and the answers of those that were asked."""

    checks: tuple[Check, ...]
    probes: tuple[Probe, ...]

    @classmethod
    def of(
        cls, settings: Settings, environment: Environment, states: Mapping[str, SyncState], *, ask: bool
    ) -> _Asked:
        resting = dict(_resting(settings, states))
        names = [
            source.name
            for source in settings.enabled
            if ask and source.name not in resting and not lacks_contact(settings, source)
        ]
        probes = {probe.source: probe for probe in asyncio.run(probe_sources(settings, environment, names))}
        checks = []
        for source in settings.enabled:
            if source.name in resting:
                checks.append(check_resting(source, resting[source.name]))
            elif source.name in probes:
                checks.append(check_answer(source, probes[source.name]))
            else:
                checks.append(check_unasked(source, _lacking(environment, source)))
        return cls(tuple(checks), tuple(probes.values()))


def _settings(path: Path) -> tuple[Settings, bool]:
    """The settings of sources.yaml, and True; those that `prepare` would write, and False, when it does not exist."""
    try:
        path.stat()
    except FileNotFoundError:
        return load_settings(shipped_file("sources.yaml")), False
    except OSError as error:
        raise ConfigurationError(f"STASH_SENSE_SOURCES: {path} cannot be read: {error.strerror}") from error
    return load_settings(path), True


def _states(environment: Environment) -> dict[str, SyncState]:
    engine = unchanging_engine(environment.catalog_url)
    try:
        with reading(engine) as connection:
            return load_states(connection)
    finally:
        engine.dispose()


def _is_new(states: Mapping[str, SyncState], source: str) -> bool:
    state = states.get(source)
    return state is None or state.backfilled_at is None


def _resting(settings: Settings, states: Mapping[str, SyncState]) -> Iterator[tuple[str, datetime]]:
    now = datetime.now(UTC)
    for source in settings.enabled:
        until = cooldown_until(states[source.name].detail) if source.name in states else None
        if until is not None and now < until:
            yield source.name, until


def _lacking(environment: Environment, source: SourceSettings) -> str | None:
    try:
        return lacking_access(environment, source)
    except ConfigurationError as error:
        return str(error)


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
