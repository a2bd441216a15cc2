"""Why automation waits: what a run needs before a schedule or a sensor may request it."""

from __future__ import annotations

from collections.abc import Sequence

from stash_sense_pipeline.foundation.errors import CatalogError, ConfigurationError, ModelPackError
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings
from stash_sense_pipeline.sources.connections import unusable


def why_all_wait(environment: Environment) -> str | None:
    """Why no run can succeed: no catalog, or no model pack. None when runs can succeed.

    A catalog that does not exist yet is made by the first run.
    """
    return why_catalog_fails(environment) or _why_no_pack(environment)


def why_catalog_fails(environment: Environment) -> str | None:
    """Why the catalog cannot be opened; None when it can."""
    # Imported here, because the code location loads this module before it needs a database.
    from stash_sense_pipeline.catalog.engine import catalog_state

    try:
        catalog_state(environment.catalog_url)
    except CatalogError as error:
        return str(error)
    return None


def ready_sources(
    settings: Settings, environment: Environment, sources: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Those of `sources` that can be asked, and why the others cannot: no contact address, no key or no page solver.

    Sources with the same reason share one line.
    """
    ready: list[str] = []
    reasons: dict[str, list[str]] = {}
    for source in sources:
        problem = _why_source_waits(settings, environment, source)
        if problem is None:
            ready.append(source)
        else:
            reasons.setdefault(problem.removeprefix(f"{source}: "), []).append(source)
    return ready, [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]


def _why_source_waits(settings: Settings, environment: Environment, source: str) -> str | None:
    try:
        return unusable(settings, environment, source)
    except ConfigurationError as error:
        return str(error)


def _why_no_pack(environment: Environment) -> str | None:
    from stash_sense_pipeline.faces.models.model_packs import load_pack

    try:
        load_pack(environment.model_pack, environment.models_dir)
    except ModelPackError as error:
        return str(error)
    return None
