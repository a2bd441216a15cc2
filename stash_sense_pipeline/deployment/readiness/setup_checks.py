"""Checks of what an operator sets up: sources.yaml, contact address, model pack, catalog, overrides."""

from __future__ import annotations

from pathlib import Path

from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.engine import CatalogState, catalog_state, unchanging_engine
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.deployment.readiness.check import Check, State, check_of_error
from stash_sense_pipeline.faces.models.model_packs import load_pack
from stash_sense_pipeline.faces.requeue import load_second_pack, second_backlog
from stash_sense_pipeline.foundation.errors import CatalogError, ConfigurationError, ModelPackError
from stash_sense_pipeline.identity.linkage.overrides import load_overrides
from stash_sense_pipeline.identity.override_resolution import refused_overrides
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings

_PREPARE = "`stash-sense prepare` or a build makes it"


def check_sources_file(path: Path, settings: Settings, *, is_there: bool) -> Check:
    """A problem when sources.yaml does not exist, or enables no source."""
    if not is_there:
        return Check("settings", State.PROBLEM, f"{path} does not exist", "`stash-sense prepare` writes it")
    enabled = f"{len(settings.enabled)} of {len(settings.sources)} sources are enabled"
    if not settings.enabled:
        return Check("settings", State.PROBLEM, f"{path}: {enabled}", "set `enabled: true` for one")
    return Check("settings", State.OK, enabled)


def check_contact(settings: Settings) -> Check:
    """A problem when a source of the public Internet is enabled and there is no contact address: it is not asked."""
    if settings.has_contact:
        return Check("contact", State.OK, settings.global_.user_agent_contact)
    if settings.missing_contact:
        return Check(
            "contact",
            State.PROBLEM,
            "no contact address, so no source of the Internet is asked",
            "set global.user_agent_contact in sources.yaml to a web or mail address of yours",
        )
    return Check("contact", State.OK, "none, and none is needed: no source is on the Internet")


def check_pack(name_or_path: str, models_dir: Path, *, real_sources: bool) -> Check:
    """A problem when the pack is missing or a file has another digest; a warning for a demo pack with `real_sources`."""
    try:
        pack = load_pack(name_or_path, models_dir)
    except ModelPackError as error:
        return check_of_error("model pack", error, "`stash-sense models pull stash-sense-v1`")
    if pack.demo and real_sources:
        return Check(
            "model pack",
            State.WARNING,
            f"{pack.name} recognises no real people",
            "set STASH_SENSE_MODEL_PACK to another pack",
        )
    return Check("model pack", State.OK, f"{pack.name}, {1 + len(pack.embedders)} networks verified")


def check_second(settings: Settings, environment: Environment, *, has_catalog: bool) -> Check | None:
    """Says how many pictures wait for the second pack; a problem when it cannot be used; None without a second pack."""
    wanted = settings.global_.second_pack
    if not wanted:
        return None
    try:
        first = load_pack(environment.model_pack, environment.models_dir)
        second = load_second_pack(wanted, environment.models_dir, first)
    except ModelPackError as error:
        return check_of_error("second pack", error, f"`stash-sense models pull {wanted}`, or leave it empty")
    assert second is not None
    found = f"{second.name}, {1 + len(second.embedders)} networks verified"
    if not has_catalog:
        return Check("second pack", State.OK, found)
    engine = unchanging_engine(environment.catalog_url)
    try:
        with reading(engine) as connection:
            waiting = second_backlog(connection, second)
    finally:
        engine.dispose()
    of_source = [
        f"{waiting[source.name]} of {source.name} (about {waiting[source.name] / source.rate_limit / 60:.1f} h)"
        for source in settings.enabled
        if source.name in waiting
    ]
    if of_source:
        found = f"{found}; pictures that will be fetched once more: {', '.join(of_source)}"
    return Check("second pack", State.OK, found)


def check_overrides(environment: Environment, *, has_catalog: bool) -> Check | None:
    """A problem when the file of overrides cannot be read; a warning for lines without effect; None without either."""
    try:
        overrides = load_overrides(environment.overrides_file)
    except ConfigurationError as error:
        return check_of_error("overrides", error, "correct the file: it stops every publish")
    if not overrides or not has_catalog:
        return None
    engine = unchanging_engine(environment.catalog_url)
    try:
        refused = refused_overrides(ShortReads(engine), overrides)
    finally:
        engine.dispose()
    if not refused:
        return None
    lines = f"{len(refused)} line{'' if len(refused) == 1 else 's'} of {environment.overrides_file}"
    return Check("overrides", State.WARNING, f"{lines} without effect", "see `stash-sense review settled`")


def check_catalog(url: str) -> tuple[Check, CatalogState | None]:
    """A problem when the catalog cannot be opened; a warning when it is missing or older. Its state, if it can be opened."""
    try:
        state = catalog_state(url)
    except CatalogError as error:
        return check_of_error("catalog", error, "start its server, or run `stash-sense prepare`"), None
    checks = {
        CatalogState.MISSING: Check("catalog", State.WARNING, "does not exist yet", _PREPARE),
        CatalogState.OLDER: Check(
            "catalog",
            State.WARNING,
            "is of an older program",
            "back it up; `stash-sense prepare` migrates it",
        ),
        CatalogState.CURRENT: Check("catalog", State.OK, "can be opened and is migrated"),
    }
    return checks[state], state
