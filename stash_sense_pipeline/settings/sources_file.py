"""Loads sources.yaml and reports every error in it with file, line and key."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import ValidationError

from stash_sense_pipeline.foundation.yaml_file import KeyPath, YamlFile, read_yaml
from stash_sense_pipeline.settings.known_sources import KNOWN_REFERENCE_SITES, KNOWN_STASH_BOXES
from stash_sense_pipeline.settings.schema import (
    HOST_FORM,
    NAME_FORM,
    ExportSettings,
    FacesSettings,
    GlobalSettings,
    ReferenceSiteSettings,
    Settings,
    SourceSettings,
    StashBoxSettings,
    is_loopback_host,
)
from stash_sense_pipeline.settings.validation import (
    SettingsModel,
    complaints,
    hint,
    keys,
    shown,
    unknown_key,
)


def load_settings(path: Path) -> Settings:
    """Reads and checks sources.yaml.

    Raises ConfigurationError that names file, line and key of each error, and what is allowed there.
    """
    file = read_yaml(path)
    sections = _mapping(file, (), file.data)
    for key in sections:
        if key not in _SECTIONS:
            file.complain((key,), unknown_key(key, _SECTIONS))
    global_ = _validate(
        file, GlobalSettings, ("global",), _mapping(file, ("global",), sections.get("global"))
    )
    faces = _validate(file, FacesSettings, ("faces",), _mapping(file, ("faces",), sections.get("faces")))
    export = _validate(file, ExportSettings, ("export",), _mapping(file, ("export",), sections.get("export")))
    default_rate = (global_ or GlobalSettings()).default_rate_limit
    boxes = _mapping(file, ("stash_boxes",), sections.get("stash_boxes"))
    sites = _mapping(file, ("reference_sites",), sections.get("reference_sites"))
    stash_boxes = {
        name: box
        for name, body in boxes.items()
        if (box := _stash_box(file, name, body, default_rate)) is not None
    }
    reference_sites = {
        name: site
        for name, body in sites.items()
        if (site := _reference_site(file, name, body, default_rate, boxes)) is not None
    }
    _check_hosts(file, stash_boxes.values())
    if export is not None:
        _check_export(file, export, boxes)
        if export.sense2 and global_ is not None and not global_.second_pack:
            text = (
                "is true, but global.second_pack is empty; name the pack of its faces there, such as sense2"
            )
            file.complain(("export", "sense2"), text)
    file.raise_problems()
    return Settings(
        global_=global_ or GlobalSettings(),
        faces=faces or FacesSettings(),
        export=export or ExportSettings(),
        stash_boxes=stash_boxes,
        reference_sites=reference_sites,
    )


_SECTIONS = ("global", "faces", "export", "stash_boxes", "reference_sites")
_M = TypeVar("_M", bound=SettingsModel)


def _stash_box(file: YamlFile, name: str, body: Any, default_rate: float) -> StashBoxSettings | None:
    path = ("stash_boxes", name)
    if name in KNOWN_REFERENCE_SITES:
        file.complain(path, "is a reference site; move it to reference_sites, or choose another name")
        return None
    if NAME_FORM.fullmatch(name) is None:
        file.complain(path, "is not a name of small letters, digits and _")
        return None
    written = _written_keys(file, path, body, StashBoxSettings)
    values = {"rate_limit": default_rate, **KNOWN_STASH_BOXES.get(name, {}), **written, "name": name}
    # An unusable address is one complaint. The placeholder avoids a second one about the host.
    values.setdefault("host", _host_of(values.get("url")) or "unknown")
    return _validate(file, StashBoxSettings, path, values)


def _reference_site(
    file: YamlFile, name: str, body: Any, default_rate: float, stash_boxes: Collection[str]
) -> ReferenceSiteSettings | None:
    path = ("reference_sites", name)
    if name in stash_boxes:
        line = file.line(("stash_boxes", name))
        file.complain(path, f"is the name of a stash-box too, in line {line}; a name belongs to one source")
        return None
    written = _written_keys(file, path, body, ReferenceSiteSettings)
    if name not in KNOWN_REFERENCE_SITES and "url" not in written:
        text = f"is not a known reference site{hint(name, KNOWN_REFERENCE_SITES)}; a site of your own needs its `url`"
        file.complain(path, text)
        return None
    values = {"rate_limit": default_rate, **KNOWN_REFERENCE_SITES.get(name, {}), **written, "name": name}
    return _validate(file, ReferenceSiteSettings, path, values)


def _mapping(file: YamlFile, path: KeyPath, data: Any) -> Mapping[str, Any]:
    """The mapping at `path`. A key without a value, as when all its lines are commented out, is an empty mapping."""
    if data is None or isinstance(data, dict):
        return data or {}
    file.complain(path, f"{shown(data)} is not a mapping")
    return {}


def _written_keys(file: YamlFile, path: KeyPath, body: Any, model: type[SourceSettings]) -> Mapping[str, Any]:
    written = _mapping(file, path, body)
    if "name" in written:
        file.complain((*path, "name"), unknown_key("name", keys(model)))
    return written


def _validate(file: YamlFile, model: type[_M], path: KeyPath, values: Mapping[str, Any]) -> _M | None:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for where, text in complaints(model, error):
            file.complain((*path, *where), text)
        return None


def _check_hosts(file: YamlFile, boxes: Iterable[StashBoxSettings]) -> None:
    # Universal ids are host:id, so two servers of one host would share them. This is allowed for servers on this machine.
    first: dict[str, str] = {}
    for box in boxes:
        other = first.setdefault(box.host, box.name)
        if other != box.name and not is_loopback_host(box.host):
            text = f"has the host {box.host} like stash_boxes.{other}; give each its own `host`"
            file.complain(("stash_boxes", box.name), text)


def _check_export(file: YamlFile, export: ExportSettings, stash_boxes: Collection[str]) -> None:
    """Complains about settings of a release that contradict each other or the sources of the file."""
    known = [*stash_boxes, *(name for name in KNOWN_STASH_BOXES if name not in stash_boxes)]
    for place, name in enumerate(export.endpoint_priority):
        if name not in known:
            text = f"{shown(name)} is not a stash-box{hint(name, known)}"
            file.complain(("export", "endpoint_priority", place), text)
    small = "small" in export.flavours
    if small and export.index.storage == "e4m3":
        file.complain(
            ("export", "flavours"),
            "small is stored as e4m3, and by export.index.storage full is too; leave small out, or store float32",
        )
    _check_repositories(file, export, small)


def _check_repositories(file: YamlFile, export: ExportSettings, small: bool) -> None:
    """Complains about a repository of two kinds of releases, and about one of a kind that is not made."""
    github, taken = export.github, dict[str, str]()
    for key, repository, missing in (
        ("repository", github.repository, None),
        (
            "small_repository",
            github.small_repository,
            None if small else "export.flavours has no small; add it there",
        ),
        (
            "sense2_repository",
            github.sense2_repository,
            None if export.sense2 else "export.sense2 is false; set it to true",
        ),
    ):
        path = ("export", "github", key)
        other = taken.setdefault(repository.casefold(), key) if repository else key
        if other != key:
            line = file.line(("export", "github", other))
            text = f"{repository} is {other} too, in line {line}; each kind of release needs a repository of its own"
            file.complain(path, text)
        elif repository and missing:
            file.complain(path, f"is set, but {missing}, or remove the repository")


def _host_of(url: Any) -> str | None:
    try:
        host = urlsplit(url).hostname if isinstance(url, str) else None
    except ValueError:
        return None
    return host if host and HOST_FORM.fullmatch(host) else None
