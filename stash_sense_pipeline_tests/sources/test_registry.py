"""The sites that the registry finds, and modules that it refuses."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from stash_sense_pipeline.records.profile_sites import site as profile_site
from stash_sense_pipeline.settings.known_sources import KNOWN_REFERENCE_SITES
from stash_sense_pipeline.settings.schema import ReferenceSiteSettings
from stash_sense_pipeline.sources.reference_sites import registry
from stash_sense_pipeline.sources.reference_sites.registry import SITES
from stash_sense_pipeline.sources.reference_sites.site import Profile


def module_with(monkeypatch: pytest.MonkeyPatch, name: str, code: str) -> ModuleType:
    module = ModuleType(f"made_up.{name}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(
        "from stash_sense_pipeline.sources.reference_sites.page_site import PageSite\n" + code,
        module.__dict__,
    )
    return module


def test_the_registry_holds_the_ten_known_sites_in_the_order_of_their_names() -> None:
    assert list(SITES) == sorted(KNOWN_REFERENCE_SITES)
    for name, site in SITES.items():
        assert site.name == name
        assert site.home == KNOWN_REFERENCE_SITES[name]["url"]
        row = profile_site(name)
        assert row is not None
        assert row.hosts[0] == site.hosts[0]


@pytest.mark.parametrize("name", sorted(SITES))
def test_usual_fields_are_fields_of_a_profile_and_a_site_searches_where_it_says_so(name: str) -> None:
    site = SITES[name]
    assert set(site.usual_fields) <= set(Profile.__dataclass_fields__) - {"key", "name", "urls"}
    assert site.page_selector


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("afdb", "", "must define one site, with the name afdb"),
        ("afdb", "class A(PageSite):\n name = 'afdb'", "must define one site"),
        (
            "afdb",
            "class A(PageSite):\n name = 'other'\n def parse(self, page, key): ...",
            "must define one site, with the name afdb",
        ),
        (
            "no_such_site",
            "class A(PageSite):\n name = 'no_such_site'\n def parse(self, page, key): ...",
            "has no row for no_such_site",
        ),
    ],
    ids=["no site", "abstract", "another name", "no addresses"],
)
def test_a_module_without_a_site_of_its_name_or_without_known_addresses_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, code: str, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        registry._site_of(module_with(monkeypatch, name, code))


def test_a_site_in_the_settings_that_no_module_reads_cannot_be_used(tmp_path) -> None:
    from stash_sense_pipeline.settings.environment import read_environment
    from stash_sense_pipeline.settings.sources_file import load_settings
    from stash_sense_pipeline.sources.connections import unusable

    path = tmp_path / "sources.yaml"
    path.write_text(
        "stash_boxes: {stashdb: {}}\nreference_sites: {my_site: {enabled: true, url: 'https://my.example'}}\n"
    )
    settings = load_settings(path)
    assert isinstance(settings.source("my_site"), ReferenceSiteSettings)
    problem = unusable(settings, read_environment({}, tmp_path), "my_site")
    assert problem is not None
    assert problem.startswith("my_site: no module reads this site; there are afdb, babepedia,")
