"""The effective settings: the value of each setting, where it comes from, and what it means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from stash_sense_pipeline.foundation.yaml_file import YamlFile, read_yaml
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.known_sources import KNOWN_REFERENCE_SITES, KNOWN_STASH_BOXES
from stash_sense_pipeline.settings.schema import Settings
from stash_sense_pipeline.settings.variables import VARIABLES

_MASKED = "(set)"
# Variables with a value that is a secret or holds one.
_SECRET = ("_API_KEY", "GITHUB_TOKEN", "_ALERT_URL", "_CATALOG_URL", "FLARESOLVERR_URL", "CHROME_CDP_URL")


@dataclass(frozen=True)
class EffectiveSetting:
    """One setting. `origin` is `default`, `known source`, `<file>:<line>` or `environment`. Secrets are `(set)`."""

    setting: str
    value: str
    origin: str
    meaning: str


def effective_settings(
    settings: Settings, environment: Environment, variables: Mapping[str, str]
) -> list[EffectiveSetting]:
    """Every environment variable of the program, then every key of sources.yaml."""
    return [*_variables(settings, environment, variables), *_keys(settings, environment.sources_file)]


def _variables(
    settings: Settings, environment: Environment, variables: Mapping[str, str]
) -> Iterator[EffectiveSetting]:
    defaults = {
        "DATA_DIR": environment.data_dir,
        "STASH_SENSE_SOURCES": environment.sources_file,
        "STASH_SENSE_OVERRIDES": environment.overrides_file,
        "STASH_SENSE_SUPPRESSIONS": environment.suppressions_file,
    }
    for name, (default, meaning) in VARIABLES.items():
        if name.startswith("<NAME>"):
            suffix = name.removeprefix("<NAME>")
            names = [f"{box.upper()}{suffix}" for box in settings.stash_boxes]
        else:
            names = [name]
        for one in names:
            given = variables.get(one, "").strip()
            shown = (_MASKED if _is_secret(one) else given) if given else str(defaults.get(one, default))
            yield EffectiveSetting(
                one, shown.replace("`", ""), "environment" if given else "default", meaning.replace("`", "")
            )


def _is_secret(variable: str) -> bool:
    return variable.endswith(_SECRET)


def _keys(settings: Settings, path: Path) -> Iterator[EffectiveSetting]:
    # Settings that were made by a program, as in tests, have no file.
    file = read_yaml(path) if path.exists() else YamlFile(path, {}, {})
    sections: list[tuple[tuple[str, ...], BaseModel, Mapping[str, Any]]] = [
        (("global",), settings.global_, {}),
        (("faces",), settings.faces, {}),
        (("export",), settings.export, {}),
    ]
    sections += [
        (("stash_boxes", box.name), box, KNOWN_STASH_BOXES.get(box.name, {}))
        for box in settings.stash_boxes.values()
    ]
    sections += [
        (("reference_sites", site.name), site, KNOWN_REFERENCE_SITES.get(site.name, {}))
        for site in settings.reference_sites.values()
    ]
    for where, model, known in sections:
        for name, value, meaning in _values(model, ()):
            key = (*where, *name)
            if _written(file.data, key):
                origin = f"{path.name}:{file.line(key)}"
            else:
                origin = "known source" if name[0] in known else "default"
            yield EffectiveSetting(".".join(key), _text(value), origin, meaning)


def _values(model: BaseModel, prefix: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _values(value, (*prefix, name))
        elif name != "name":
            yield (*prefix, name), value, field.description or ""


def _written(data: Any, key: Sequence[str]) -> bool:
    for part in key:
        if not isinstance(data, Mapping) or part not in data:
            return False
        data = data[part]
    return True


def _text(value: Any) -> str:
    """A value as YAML would write it."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return str(value.value)
    return ", ".join(map(str, value)) or "-" if isinstance(value, list | tuple) else str(value)
