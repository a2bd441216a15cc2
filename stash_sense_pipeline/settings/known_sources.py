"""Defaults of the known stash-boxes and reference sites."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

# Values of the sources with known names, used where sources.yaml gives none.
KNOWN_STASH_BOXES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "stashdb": {"url": "https://stashdb.org/graphql", "host": "stashdb.org", "priority": 1},
        "theporndb": {
            "url": "https://api.theporndb.net",
            "host": "theporndb.net",
            "priority": 2,
            "connector": "theporndb",
        },
        "pmvstash": {"url": "https://pmvstash.org/graphql", "host": "pmvstash.org", "priority": 3},
        "javstash": {"url": "https://javstash.org/graphql", "host": "javstash.org", "priority": 4},
        "fansdb": {"url": "https://fansdb.cc/graphql", "host": "fansdb.cc", "priority": 5},
    }
)


# A performer of several stash-boxes takes its name and universal id from its record at the first of these. Others follow
# in order of name. The sidecar's own trainer chose this order.
ENDPOINT_PRIORITY = ("stashdb", "theporndb", "fansdb", "pmvstash", "javstash")

KNOWN_REFERENCE_SITES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "babepedia": {"url": "https://www.babepedia.com"},
        "iafd": {"url": "https://www.iafd.com", "fetch": False},
        "freeones": {"url": "https://www.freeones.com"},
        "boobpedia": {"url": "https://www.boobpedia.com"},
        "thenude": {"url": "https://www.thenude.com"},
        "afdb": {"url": "https://www.adultfilmdatabase.com"},
        "pornpics": {"url": "https://www.pornpics.com"},
        "elitebabes": {"url": "https://www.elitebabes.com", "reference_mode": "name"},
        "javdatabase": {"url": "https://www.javdatabase.com", "reference_mode": "name"},
        "indexxx": {"url": "https://www.indexxx.com"},
    }
)
