"""The ten reference sites, a module each, and which is which."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from stash_sense_pipeline.sources.sites.afdb import Afdb
from stash_sense_pipeline.sources.sites.babepedia import Babepedia
from stash_sense_pipeline.sources.sites.boobpedia import Boobpedia
from stash_sense_pipeline.sources.sites.elitebabes import EliteBabes
from stash_sense_pipeline.sources.sites.freeones import FreeOnes
from stash_sense_pipeline.sources.sites.iafd import Iafd
from stash_sense_pipeline.sources.sites.indexxx import Indexxx
from stash_sense_pipeline.sources.sites.javdatabase import JavDatabase
from stash_sense_pipeline.sources.sites.pornpics import PornPics
from stash_sense_pipeline.sources.sites.site import Site
from stash_sense_pipeline.sources.sites.thenude import TheNude

SITES: Mapping[str, Site] = MappingProxyType(
    {
        site.name: site
        for site in (
            Babepedia(),
            Iafd(),
            FreeOnes(),
            Boobpedia(),
            TheNude(),
            Afdb(),
            PornPics(),
            EliteBabes(),
            JavDatabase(),
            Indexxx(),
        )
    }
)
