"""The sites by name: one for each module of `sites/`."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from inspect import isabstract
from types import MappingProxyType, ModuleType

from stash_sense_pipeline.records.profile_sites import site as profile_site
from stash_sense_pipeline.sources.reference_sites import sites
from stash_sense_pipeline.sources.reference_sites.site import Site


def _site_of(module: ModuleType) -> Site:
    """The site that a module defines. Raises TypeError unless there is exactly one, with the name of the module, and
    records/profile_sites.py knows the addresses of its profiles."""
    defined = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Site)
        and value.__module__ == module.__name__
        and not isabstract(value)
    ]
    name = module.__name__.rpartition(".")[2]
    if len(defined) != 1 or defined[0].name != name:
        raise TypeError(f"{module.__name__} must define one site, with the name {name}")
    if profile_site(name) is None:
        raise TypeError(f"records/profile_sites.py has no row for {name}: which addresses are its profiles?")
    return defined[0]()


def _discovered() -> Mapping[str, Site]:
    names = sorted(module.name for module in pkgutil.iter_modules(sites.__path__))
    return MappingProxyType({name: _site_of(import_module(f"{sites.__name__}.{name}")) for name in names})


SITES: Mapping[str, Site] = _discovered()
