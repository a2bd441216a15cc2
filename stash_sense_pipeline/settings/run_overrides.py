"""Overrides of the settings for one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.settings.run_options import RUN_OPTIONS
from stash_sense_pipeline.settings.schema import (
    ReferenceMode,
    Settings,
    SourceSettings,
)
from stash_sense_pipeline.settings.validation import (
    SettingsModel,
    complaints,
    unknown_source,
)

SyncMode = Literal["auto", "updates_only", "full_sweep"]


def _option(name: str) -> Any:
    """The field of an option, with its default and limits."""
    option = RUN_OPTIONS[name]
    if isinstance(option.default, Mapping):
        return Field(default_factory=dict, description=option.rule)
    return Field(default=option.default, ge=option.least, description=option.rule)


class RunOverrides(SettingsModel):
    """Deviations of one run from sources.yaml. The defaults change nothing. `run_options.py` declares each."""

    sources: tuple[str, ...] = _option("sources")
    disabled_sources: tuple[str, ...] = _option("disabled_sources")
    source_max_faces: Mapping[str, Annotated[int, Field(ge=1)]] = _option("source_max_faces")
    max_faces_total: int | None = _option("max_faces_total")
    reference_mode: ReferenceMode | None = _option("reference_mode")
    sync: SyncMode = _option("sync")
    completeness_threshold: int | None = _option("completeness_threshold")
    max_performers: int | None = _option("max_performers")
    max_images: int | None = _option("max_images")
    faces: bool = _option("faces")
    jobs: int | None = _option("jobs")
    fast_index: bool = _option("fast_index")
    accept_shrink: bool = _option("accept_shrink")


def parse_names(text: str) -> tuple[str, ...]:
    """`a,b` as ("a", "b"). Blanks around a name, empty parts and repeated names are dropped."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def parse_counts(text: str) -> dict[str, int]:
    """`a=10,b=5` as {"a": 10, "b": 5}.

    Raises ConfigurationError for a part that is not NAME=NUMBER, and for a name that is given twice.
    """
    counts: dict[str, int] = {}
    for part in parse_names(text):
        name, _, number = (piece.strip() for piece in part.partition("="))
        if not name or not (number.isascii() and number.isdigit()):
            raise ConfigurationError(f"{part!r} is not NAME=NUMBER, as in stashdb=10")
        if name in counts:
            raise ConfigurationError(f"{name!r} is given twice in {text!r}")
        counts[name] = int(number)
    return counts


def make_overrides(values: Mapping[str, Any]) -> RunOverrides:
    """Makes overrides from run config or command-line options.

    Names and counts may be text (`a,b`, `a=10,b=5`) or lists of such text; other values are as in RunOverrides.
    Raises ConfigurationError that names the override and the allowed values.
    """
    parsed = dict(values)
    for key in ("sources", "disabled_sources"):
        if key in parsed:
            parsed[key] = parse_names(_joined(parsed[key]))
    if "source_max_faces" in parsed and not isinstance(parsed["source_max_faces"], Mapping):
        parsed["source_max_faces"] = parse_counts(_joined(parsed["source_max_faces"]))
    try:
        return RunOverrides.model_validate(parsed)
    except ValidationError as error:
        texts = [f"{'.'.join(where)}: {text}" for where, text in complaints(RunOverrides, error)]
        raise ConfigurationError("\n".join(texts)) from error


def _joined(value: Any) -> str:
    return value if isinstance(value, str) else ",".join(value or ())


def apply_overrides(settings: Settings, overrides: RunOverrides) -> Settings:
    """The settings of one run. Raises ConfigurationError, which lists the known names, for an unknown source."""
    named = (*overrides.sources, *overrides.disabled_sources, *overrides.source_max_faces)
    unknown = [name for name in dict.fromkeys(named) if name not in settings.names]
    if unknown:
        raise ConfigurationError("\n".join(unknown_source(name, settings.names) for name in unknown))
    changes: dict[str, Any] = {}
    if overrides.max_faces_total is not None:
        changes["max_faces_per_performer"] = overrides.max_faces_total
    if overrides.completeness_threshold is not None:
        changes["completeness_threshold"] = overrides.completeness_threshold
    sites = {name: _overridden(site, overrides) for name, site in settings.reference_sites.items()}
    if overrides.reference_mode is not None:
        mode = {"reference_mode": overrides.reference_mode}
        sites = {name: site.model_copy(update=mode) for name, site in sites.items()}
    return settings.model_copy(
        update={
            "global_": settings.global_.model_copy(update=changes),
            "stash_boxes": {name: _overridden(box, overrides) for name, box in settings.stash_boxes.items()},
            "reference_sites": sites,
        }
    )


_S = TypeVar("_S", bound=SourceSettings)


def _overridden(source: _S, overrides: RunOverrides) -> _S:
    chosen = source.name in overrides.sources if overrides.sources else source.enabled
    return source.model_copy(
        update={
            "enabled": chosen and source.name not in overrides.disabled_sources,
            "max_faces": overrides.source_max_faces.get(source.name, source.max_faces),
        }
    )
