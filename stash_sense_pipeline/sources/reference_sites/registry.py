"""The ten sites by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from stash_sense_pipeline.sources.reference_sites.site import Site
from stash_sense_pipeline.sources.reference_sites.sites.afdb import Afdb
from stash_sense_pipeline.sources.reference_sites.sites.babepedia import Babepedia
from stash_sense_pipeline.sources.reference_sites.sites.boobpedia import Boobpedia
from stash_sense_pipeline.sources.reference_sites.sites.elitebabes import EliteBabes
from stash_sense_pipeline.sources.reference_sites.sites.freeones import FreeOnes
from stash_sense_pipeline.sources.reference_sites.sites.iafd import Iafd
from stash_sense_pipeline.sources.reference_sites.sites.indexxx import Indexxx
from stash_sense_pipeline.sources.reference_sites.sites.javdatabase import JavDatabase
from stash_sense_pipeline.sources.reference_sites.sites.pornpics import PornPics
from stash_sense_pipeline.sources.reference_sites.sites.thenude import TheNude

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
