import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.settings.environment import read_environment
from stash_sense_pipeline.settings.known_sources import KNOWN_REFERENCE_SITES, KNOWN_STASH_BOXES
from stash_sense_pipeline.settings.run_overrides import (
    RunOverrides,
    apply_overrides,
    make_overrides,
    parse_counts,
    parse_names,
)
from stash_sense_pipeline.settings.schema import ExportSettings, GlobalSettings, TrustLevel, is_private_host
from stash_sense_pipeline.settings.sources_file import load_settings

SHIPPED = Path(__file__).parents[1] / "sources.yaml"


@pytest.fixture
def load(tmp_path):
    def from_text(text):
        path = tmp_path / "sources.yaml"
        path.write_text(text)
        return load_settings(path)

    return from_text


@pytest.fixture
def refused(load):
    def complaints(text):
        with pytest.raises(ConfigurationError) as error:
            load(text)
        assert error.value.exit_code == 2
        return [line.rpartition("sources.yaml:")[2] for line in str(error.value).splitlines()]

    return complaints


# --- the file that ships ---


def test_the_shipped_file_has_all_sources_and_only_stash_boxes_on():
    shipped = load_settings(SHIPPED)
    assert shipped.names[:5] == ("stashdb", "theporndb", "pmvstash", "javstash", "fansdb")
    assert set(shipped.names) == {*KNOWN_STASH_BOXES, *KNOWN_REFERENCE_SITES}
    assert len(shipped.names) == 15
    assert [source.name for source in shipped.enabled] == list(shipped.names[:5])
    assert not shipped.reference_sites["iafd"].fetch
    assert shipped.missing_contact


@pytest.mark.parametrize(
    ("name", "rate", "faces", "trust", "gender", "url"),
    [
        ("stashdb", 240, 5, "high", None, "https://stashdb.org/graphql"),
        ("theporndb", 240, 5, "high", None, "https://api.theporndb.net"),
        ("pmvstash", 300, 3, "high", None, "https://pmvstash.org/graphql"),
        ("javstash", 300, 3, "high", None, "https://javstash.org/graphql"),
        ("fansdb", 240, 3, "high", None, "https://fansdb.cc/graphql"),
        ("babepedia", 60, 5, "high", "FEMALE", "https://www.babepedia.com"),
        ("iafd", 120, 3, "high", None, "https://www.iafd.com"),
        ("indexxx", 20, 5, "high", None, "https://www.indexxx.com"),
        ("freeones", 30, 5, "medium", "FEMALE", "https://www.freeones.com"),
        ("boobpedia", 60, 3, "medium", "FEMALE", "https://www.boobpedia.com"),
        ("thenude", 60, 5, "medium", "FEMALE", "https://www.thenude.com"),
        ("afdb", 60, 5, "high", None, "https://www.adultfilmdatabase.com"),
        ("pornpics", 60, 5, "medium", None, "https://www.pornpics.com"),
        ("elitebabes", 60, 5, "medium", "FEMALE", "https://www.elitebabes.com"),
        ("javdatabase", 60, 3, "medium", None, "https://www.javdatabase.com"),
    ],
)
def test_the_shipped_values_are_those_of_the_predecessor(name, rate, faces, trust, gender, url):
    source = load_settings(SHIPPED).source(name)
    assert (source.rate_limit, source.max_faces, source.trust_level, source.gender_filter, source.url) == (
        rate, faces, trust, gender and (gender,), url
    )  # fmt: skip


def test_the_shipped_file_gives_the_same_settings_as_the_names_alone(load):
    """A file with only the names of the sources gives the same addresses, hosts and connectors."""
    shipped = load_settings(SHIPPED)
    boxes = load(yaml.safe_dump({"stash_boxes": {name: {} for name in KNOWN_STASH_BOXES}}, sort_keys=False))
    assert boxes.names == shipped.names[:5]
    for name, box in boxes.stash_boxes.items():
        given_ = shipped.stash_boxes[name]
        assert (box.url, box.host, box.connector, box.priority) == (
            given_.url, given_.host, given_.connector, given_.priority
        )  # fmt: skip
    assert shipped.global_ == GlobalSettings()
    assert shipped.export == ExportSettings()


def test_known_stash_boxes_have_the_hosts_of_universal_ids():
    hosts = {name: box.host for name, box in load_settings(SHIPPED).stash_boxes.items()}
    assert hosts == {
        "stashdb": "stashdb.org",
        "theporndb": "theporndb.net",
        "pmvstash": "pmvstash.org",
        "javstash": "javstash.org",
        "fansdb": "fansdb.cc",
    }


# --- valid files ---


def test_a_private_stash_box_needs_only_its_address(load):
    box = load("stash_boxes: {mine: {url: 'https://Box.Example:9998/graphql'}}").stash_boxes["mine"]
    assert (box.host, box.connector, box.enabled, box.trust_level) == (
        "box.example", "stash_box", True, TrustLevel.HIGH
    )  # fmt: skip
    assert box.rate_limit == 60.0


def test_a_known_name_keeps_its_host_at_another_address(load):
    box = load("stash_boxes: {stashdb: {url: 'http://127.0.0.1:8001/graphql'}}").stash_boxes["stashdb"]
    assert (box.url, box.host) == ("http://127.0.0.1:8001/graphql", "stashdb.org")


def test_the_default_rate_holds_where_a_source_has_none(load):
    settings = load("global: {default_rate_limit: 7.5}\nstash_boxes: {stashdb: {}, fansdb: {rate_limit: 9}}")
    assert [source.rate_limit for source in settings.sources] == [7.5, 9.0]


def test_stash_boxes_come_first_and_each_kind_by_priority(load):
    settings = load(
        "reference_sites: {iafd: {priority: 0}, afdb: {priority: 0}}\n"
        "stash_boxes: {fansdb: {priority: 9}, mine: {url: 'http://a.example/', priority: 2}, stashdb: {}}"
    )
    assert settings.names == ("stashdb", "mine", "fansdb", "iafd", "afdb")


def test_sections_may_be_empty(load):
    assert load("global:\nstash_boxes:\nreference_sites:\n").sources == ()
    assert load("stash_boxes:\n  stashdb:\n").names == ("stashdb",)


def test_a_reference_site_is_off_until_it_is_switched_on(load):
    settings = load("reference_sites: {iafd: {}, afdb: {enabled: true}}")
    assert [source.name for source in settings.enabled] == ["afdb"]


def test_gender_is_written_as_the_catalog_writes_it(load):
    assert load("reference_sites: {afdb: {gender_filter: Female}}").source("afdb").gender_filter == (
        "FEMALE",
    )


def test_a_contact_is_missing_only_when_a_source_of_the_internet_is_enabled(load):
    local = "stash_boxes: {mine: {url: 'http://127.0.0.1:9/graphql'}, other: {url: 'http://[::1]:9/graphql'}}"
    assert not load(local).missing_contact
    assert load("stash_boxes: {stashdb: {}}").missing_contact
    assert not load("stash_boxes: {stashdb: {enabled: false}}").missing_contact
    assert not load(
        "global: {user_agent_contact: me@mail.example}\nstash_boxes: {stashdb: {}}"
    ).missing_contact


@pytest.mark.parametrize(
    ("host", "private"),
    [("127.0.0.1", True), ("::1", True), ("10.1.2.3", True), ("192.168.0.9", True), ("172.17.0.1", True),
     ("169.254.1.1", True), ("100.64.0.1", True), ("fd00::1", True), ("8.8.8.8", False), ("2606:4700::1", False),
     ("localhost", True), ("box", True), ("Box.Local", True), ("a.internal", True), ("a.home.arpa.", True),
     ("stashdb.org", False), ("local.stashdb.org", False), ("notlocal", True), ("134744072", False), ("a.localnet", False)],
)  # fmt: skip
def test_a_private_host_is_an_address_or_a_name_that_the_internet_does_not_have(host: str, private: bool):
    assert is_private_host(host) is private


def test_a_site_that_is_not_fetched_needs_no_contact(load):
    assert not load("reference_sites: {iafd: {enabled: true}}").missing_contact
    assert load("reference_sites: {iafd: {enabled: true, fetch: true}}").missing_contact
    assert load("global: {user_agent_contact: '   '}\nstash_boxes: {stashdb: {}}").missing_contact


def test_settings_are_immutable_and_can_be_pickled():
    settings = load_settings(SHIPPED)
    with pytest.raises(ValidationError):
        settings.global_.max_faces_per_performer = 3
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_an_unknown_source_is_refused_and_the_known_ones_are_listed():
    with pytest.raises(ConfigurationError, match=r"'stashdbb' is not a source.*did you mean stashdb.*fansdb"):
        load_settings(SHIPPED).source("stashdbb")


# --- invalid files ---

BOX = "stash_boxes:\n  mine:\n    url: http://a.example/graphql\n    "
RATE = "is not a number of requests a minute above 0"
COUNT = "is not a whole number of at least 1"
BOX_KEYS = "enabled, url, rate_limit, max_faces, priority, trust_level, gender_filter, connector, host, picture_hosts"
FLAVOURS = "a list of full and small, with full in it; small: less than half of the bytes"
FILTERS = "min_face_size, min_image_size, min_detection_confidence, max_face_angle, prefer_single_face"
SITES = "babepedia, iafd, freeones, boobpedia, thenude, afdb, pornpics, elitebabes, javdatabase, indexxx"
GENDERS = "male, female, transgender_male, transgender_female, intersex, non_binary"
HOST = "the host name in universal ids, e.g. stashdb.org, in small letters"
ADDRESS = "an http or https address without user, query and fragment"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("rate_limt: 5", f"rate_limt: is not a known key; did you mean rate_limit? allowed: {BOX_KEYS}"),
        ("needs_flaresolverr: true", f"needs_flaresolverr: is not a known key; allowed: {BOX_KEYS}"),
        ("name: other", f"name: is not a known key; allowed: {BOX_KEYS}"),
        ("rate_limit: 0", f"rate_limit: 0 {RATE}"),
        ("rate_limit: -5", f"rate_limit: -5 {RATE}"),
        ("rate_limit: fast", f"rate_limit: 'fast' {RATE}"),
        ("rate_limit: '60'", f"rate_limit: '60' {RATE}"),
        ("rate_limit: .inf", f"rate_limit: inf {RATE}"),
        ("rate_limit: .nan", f"rate_limit: nan {RATE}"),
        ("rate_limit: true", f"rate_limit: True {RATE}"),
        ("rate_limit:", f"rate_limit: nothing {RATE}"),
        ("max_faces: 2.5", f"max_faces: 2.5 {COUNT}"),
        ("max_faces: 0", f"max_faces: 0 {COUNT}"),
        ("priority: -1", "priority: -1 is not a whole number of at least 0; small goes first"),
        ("enabled: 'yes'", "enabled: 'yes' is not true or false"),
        ("enabled: 1", "enabled: 1 is not true or false"),
        ("trust_level: huge", "trust_level: 'huge' is not one of high, medium, low"),
        ("connector: rest", "connector: 'rest' is not one of stash_box, theporndb"),
        ("gender_filter: woman", f"gender_filter: 'woman' is not one of {GENDERS}, or a list of them"),
        ("host: A.example", f"host: 'A.example' is not {HOST}"),
        ("max_faces: 5\n    max_faces: 6", "max_faces: is given twice, here and in line 5; remove one"),
    ],
)  # fmt: skip
def test_one_wrong_key_of_a_source_is_one_line(refused, line, complaint):
    assert refused(BOX + line) == [f"4: stash_boxes.mine.{complaint}"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", " the file is empty"),
        ("# only a comment", " the file is empty"),
        ("- a", "1: ['a'] is not a mapping"),
        ("stash_boxes: [stashdb]", "1: stash_boxes: ['stashdb'] is not a mapping"),
        ("stash_boxes: {stashdb: 5}", "1: stash_boxes.stashdb: 5 is not a mapping"),
        (
            "stash_box: {}",
            "1: stash_box: is not a known key; did you mean stash_boxes? "
            "allowed: global, faces, export, stash_boxes, reference_sites",
        ),
        ("global: {quality_filters: 5}", "1: global.quality_filters: 5 is not a mapping"),
        (
            "global:\n  quality_filters: {min_size: 1}",
            "2: global.quality_filters.min_size: is not a known key; did you mean min_face_size? "
            f"allowed: {FILTERS}",
        ),
        (
            "global:\n  quality_filters:\n    min_detection_confidence: 1.5",
            "3: global.quality_filters.min_detection_confidence: 1.5 is not a number from 0 to 1",
        ),
        (
            "export:\n  index:\n    M: 64",
            "3: export.index.M: is not a known key; allowed: m, ef_construction, storage",
        ),
        ("export: {min_recall_at_1: 2}", "1: export.min_recall_at_1: 2 is not a number above 0 and up to 1"),
        (
            "export: {index: {storage: float16}}",
            "1: export.index.storage: 'float16' is not one of float32, e4m3, float8",
        ),
        (
            "export: {github: {api: 'http://api.example'}}",
            "1: export.github.api: 'http://api.example' is not an https address (http on this machine only)",
        ),
        (
            "export: {github: {repository: nobody}}",
            "1: export.github.repository: 'nobody' is not owner/name of a repository, or empty",
        ),
        (
            "export:\n  flavours: [full, tiny]",
            f"2: export.flavours: ['full', 'tiny'] is not {FLAVOURS}",
        ),
        ("export: {flavours: [small]}", f"1: export.flavours: ['small'] is not {FLAVOURS}"),
        ("export: {flavours: small}", f"1: export.flavours: 'small' is not {FLAVOURS}"),
        ("export: {flavours: [full, full]}", f"1: export.flavours: ['full', 'full'] is not {FLAVOURS}"),
        (
            "export:\n  flavours: [full, small]\n  index: {storage: e4m3}",
            "2: export.flavours: small is stored as e4m3, and by export.index.storage full is too; leave small out, or "
            "store float32",
        ),
        ("export: {cadence: weekly}", "1: export.cadence: 'weekly' is not a mapping"),
        (
            "export:\n  cadence:\n    days: 0",
            "3: export.cadence.days: 0 is not a whole number of days from 1 to 366",
        ),
        (
            "export: {cadence: {days: -7}}",
            "1: export.cadence.days: -7 is not a whole number of days from 1 to 366",
        ),
        (
            "export: {cadence: {days: 1000}}",
            "1: export.cadence.days: 1000 is not a whole number of days from 1 to 366",
        ),
        (
            "export: {cadence: {days: 1.5}}",
            "1: export.cadence.days: 1.5 is not a whole number of days from 1 to 366",
        ),
        (
            "export: {cadence: {days: true}}",
            "1: export.cadence.days: True is not a whole number of days from 1 to 366",
        ),
        (
            "export: {cadence: {people: 0}}",
            "1: export.cadence.people: 0 is not a whole number of at least 1: people who were added, removed or changed",
        ),
        (
            "export: {cadence: {faces: many}}",
            "1: export.cadence.faces: 'many' is not a whole number of at least 1: faces that were added, removed or moved",
        ),
        (
            "export: {cadence: {weeks: 1}}",
            "1: export.cadence.weeks: is not a known key; allowed: days, people, faces",
        ),
        (
            "export:\n  flavours: [full, small]\n  github:\n    repository: Owner/data\n    small_repository: owner/Data",
            "5: export.github.small_repository: owner/Data is repository too, in line 4; each kind of release needs a "
            "repository of its own",
        ),
        (
            "export:\n  github:\n    small_repository: a/b\n    sense2_repository: a/b\n  sense2: true\n"
            "  flavours: [full, small]\nglobal: {second_pack: sense2}",
            "4: export.github.sense2_repository: a/b is small_repository too, in line 3; each kind of release needs a "
            "repository of its own",
        ),
        (
            "export: {github: {sense2_repository: owner/other}}",
            "1: export.github.sense2_repository: is set, but export.sense2 is false; set it to true, or remove the "
            "repository",
        ),
        (
            "export: {sense2: true}",
            "1: export.sense2: is true, but global.second_pack is empty; name the pack of its faces there, such as sense2",
        ),
        (
            "export: {github: {small_repository: owner/small}}",
            "1: export.github.small_repository: is set, but export.flavours has no small; add it there, or remove the "
            "repository",
        ),
        (
            "export: {namesakes: [country, age]}",
            "1: export.namesakes: ['country', 'age'] is not a list of disambiguation, country, years, the first choice "
            "first; empty: plain names",
        ),
        (
            "export:\n  endpoint_priority:\n    - fansdb\n    - stashbd",
            "4: export.endpoint_priority.1: 'stashbd' is not a stash-box; did you mean stashdb? "
            "allowed: stashdb, theporndb, pmvstash, javstash, fansdb",
        ),
        (
            "export: {endpoint_priority: [fansdb, fansdb]}",
            "1: export.endpoint_priority: ['fansdb', 'fansdb'] is not a list of stash-boxes, each once; a person of "
            "several has the id and the name of the first",
        ),
        (
            'global: {user_agent_contact: "a\\nHost: b"}',
            r"1: global.user_agent_contact: 'a\nHost: b' is not an address or mail box in plain ASCII "
            "of at most 200 characters",
        ),
        (
            "stash_boxes:\n  fansdb: {}\n  stashdb: {}\n  fansdb: {}",
            "2: stash_boxes.fansdb: is given twice, here and in line 4; remove one",
        ),
        (
            "stash_boxes: {stashdb: {}}\nstash_boxes: {}",
            "1: stash_boxes: is given twice, here and in line 2; remove one",
        ),
        (
            "stash_boxes:\n  mine:\n    enabled: true",
            f"2: stash_boxes.mine.url: is missing; it must be {ADDRESS}",
        ),
        (
            "stash_boxes: {My-Box: {url: 'http://a.example'}}",
            "1: stash_boxes.My-Box: is not a name of small letters, digits and _",
        ),
        (
            "stash_boxes: {afdb: {}}",
            "1: stash_boxes.afdb: is a reference site; move it to reference_sites, or choose another name",
        ),
        (
            "stash_boxes:\n  stashdb: {}\nreference_sites:\n  stashdb: {}",
            "4: reference_sites.stashdb: is the name of a stash-box too, in line 2; "
            "a name belongs to one source",
        ),
        (
            "reference_sites: {freeone: {}}",
            "1: reference_sites.freeone: is not a known reference site; did you mean freeones? "
            f"allowed: {SITES}; a site of your own needs its `url`",
        ),
        (
            "reference_sites: {afdb: {reference_mode: both}}",
            "1: reference_sites.afdb.reference_mode: 'both' is not one of url, name",
        ),
        (
            "stash_boxes:\n  a: {url: 'http://x.example/1'}\n  b: {url: 'http://x.example/2'}",
            "3: stash_boxes.b: has the host x.example like stash_boxes.a; give each its own `host`",
        ),
    ],
)
def test_one_mistake_in_the_file_is_one_line(refused, text, complaint):
    assert refused(text) == [complaint]


BAD_ADDRESSES = """
stashdb.org|ftp://a.example/|http://|http:///x|http://a.example:99999/|http://a b.example/|http://[::1/
https://user:hunter2@a.example/|http://a.example/?key=hunter2|http://a.example/#x|http://a.example/é
"""


@pytest.mark.parametrize("url", ["", *BAD_ADDRESSES.strip().replace("\n", "|").split("|")])
def test_a_bad_address_is_one_complaint_without_what_may_be_a_password(refused, url):
    [complaint] = refused(f"stash_boxes:\n  mine:\n    url: {json.dumps(url)}")
    assert complaint.startswith("3: stash_boxes.mine.url: ")
    assert complaint.endswith(f" is not {ADDRESS}")
    assert "hunter2" not in complaint


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: [1", "not valid YAML"),
        ("a: b: c", "1: not valid YAML: "),
        ("stash_boxes:\n\tstashdb: {}", "2: not valid YAML: "),
        ("a: !!python/object/apply:os.system [id]", "1: not valid YAML: the tag "),
        ("a: !!python/name:os.system", "1: not valid YAML: the tag "),
        ("a: !mine {b: 1}", "1: not valid YAML: the tag !mine is unknown"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("a: &x [*x]", "1: not valid YAML: an alias that contains itself"),
        ("? [a]\n: 1", "1: not valid YAML: a key must be a word"),
        ("a: 2026-13-45", "1: not valid YAML: '2026-13-45' is not a valid value"),
    ],
)
def test_invalid_yaml_is_reported_with_its_line(refused, text, complaint):
    [line] = refused(text)
    assert complaint in line


def test_bytes_that_are_not_utf_8_are_refused(tmp_path):
    (tmp_path / "sources.yaml").write_bytes(b"a: \xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="not valid YAML"):
        load_settings(tmp_path / "sources.yaml")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"nothing\.yaml: there is no such file"):
        load_settings(tmp_path / "nothing.yaml")
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        load_settings(tmp_path)


def test_all_mistakes_are_listed_under_a_summary_in_the_order_of_the_file(tmp_path):
    path = tmp_path / "sources.yaml"
    path.write_text(
        "stash_boxes:\n  stashdb:\n    max_faces: 0\n    rate: 1\nglobal:\n  default_rate_limit: -1\n"
    )
    with pytest.raises(ConfigurationError) as error:
        load_settings(path)
    first, *rest = str(error.value).splitlines()
    assert first == f"{path}: 3 errors"
    assert [line.split(": ")[0] for line in rest] == [f"{path}:{line}" for line in (3, 4, 6)]


WORDS = """global stash_boxes reference_sites stashdb iafd x url enabled rate_limit quality_filters
    min_face_size"""
CONTENT = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS.split()), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.slow
@given(CONTENT)
def test_any_content_is_either_settings_or_clear_errors(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump(content))
    try:
        load_settings(path)
    except ConfigurationError as error:
        complaints = str(error).splitlines()
    else:
        return
    assert all(line.startswith(str(path)) for line in complaints)


# --- the environment ---


def test_an_empty_environment_puts_everything_under_data(tmp_path):
    environment = read_environment({}, tmp_path)
    assert environment.data_dir == tmp_path / "data"
    assert environment.sources_file == tmp_path / "sources.yaml"
    assert environment.catalog_url == f"sqlite:///{tmp_path}/data/catalog.db"
    assert environment.model_pack == "stash-sense-v1"
    assert environment.overrides_file == tmp_path / "data" / "identity_overrides.yaml"
    assert environment.suppressions_file == tmp_path / "data" / "suppressions.yaml"
    assert environment.models_dir == tmp_path / "data" / "models"
    assert environment.releases_dir == tmp_path / "data" / "releases"
    assert environment.suppression_key_file == tmp_path / "data" / "suppression.key"
    assert (
        environment.flaresolverr_url is environment.chrome_cdp_url is environment.api_key("stashdb") is None
    )


def test_every_variable_is_read(tmp_path):
    environment = read_environment(
        {
            "DATA_DIR": "d",
            "STASH_SENSE_SOURCES": "/etc/s.yaml",
            "STASH_SENSE_CATALOG_URL": "postgresql+psycopg2://u:hunter2@db/c",
            "STASH_SENSE_MODEL_PACK": "packs/mine",
            "STASH_SENSE_OVERRIDES": "o.yaml",
            "STASH_SENSE_SUPPRESSIONS": "s.yaml",
            "FLARESOLVERR_URL": "http://127.0.0.1:8191/",
            "CHROME_CDP_URL": "ws://127.0.0.1:9222",
            "STASHDB_API_KEY": " hunter3 ",
            "MY_BOX_API_KEY": "hunter4",
            "FANSDB_API_KEY": "",
        },
        tmp_path,
    )
    assert environment.data_dir == tmp_path / "d"
    assert environment.sources_file == Path("/etc/s.yaml")
    assert environment.catalog_url == "postgresql+psycopg2://u:hunter2@db/c"
    assert environment.model_pack == str(tmp_path / "packs" / "mine")
    assert environment.overrides_file == tmp_path / "o.yaml"
    assert environment.suppressions_file == tmp_path / "s.yaml"
    assert environment.flaresolverr_url == "http://127.0.0.1:8191"
    assert environment.chrome_cdp_url == "ws://127.0.0.1:9222"
    assert environment.api_key("stashdb") == "hunter3"
    assert environment.api_key("my_box") == "hunter4"
    assert environment.api_key("fansdb") is None
    assert "hunter" not in repr(environment) + str(environment)


def test_a_key_may_come_from_a_mounted_secret(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    environment = read_environment({"STASHDB_API_KEY_FILE": str(secret)}, tmp_path)
    assert environment.api_key("stashdb") == "hunter2"
    assert "hunter" not in repr(environment)


@pytest.mark.parametrize(
    "content", [None, b"", b" \n", b"hunter2\nhunter3", b"hunter2 x", b"hunter2\xc3\xa9", b"\xff"]
)
def test_a_file_without_a_usable_key_is_refused_by_variable_and_path(tmp_path, content):
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_bytes(content)
    environment = read_environment({"STASHDB_API_KEY_FILE": str(secret)}, tmp_path)
    with pytest.raises(ConfigurationError) as error:
        environment.api_key("stashdb")
    assert str(error.value).startswith(f"STASHDB_API_KEY_FILE: {secret}")
    assert "hunter" not in str(error.value)
    assert environment.api_key("fansdb") is None


def test_a_key_that_is_given_twice_or_invalid_is_refused(tmp_path):
    twice = read_environment({"STASHDB_API_KEY": "hunter2", "STASHDB_API_KEY_FILE": "x"}, tmp_path)
    with pytest.raises(
        ConfigurationError, match="STASHDB_API_KEY and STASHDB_API_KEY_FILE are both set; keep one"
    ):
        twice.api_key("stashdb")
    broken = read_environment({"STASHDB_API_KEY": "hunter2\nX: y"}, tmp_path)
    with pytest.raises(ConfigurationError, match=r"^STASHDB_API_KEY: the key holds a character") as error:
        broken.api_key("stashdb")
    assert "hunter" not in str(error.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("FLARESOLVERR_URL", "localhost:8191"), ("CHROME_CDP_URL", "9222")],
)
def test_an_invalid_address_in_a_variable_is_refused_by_the_name_of_the_variable(tmp_path, variable, value):
    with pytest.raises(ConfigurationError, match=f"^{variable}: "):
        read_environment({variable: value}, tmp_path)


@pytest.mark.slow
def test_a_mistyped_alert_url_is_not_shown(tmp_path):
    """The path of a webhook URL is its secret."""
    with pytest.raises(ConfigurationError) as caught:
        read_environment({"STASH_SENSE_ALERT_URL": "htps://discord.com/api/webhooks/1/s3cret"}, tmp_path)
    assert "s3cret" not in str(caught.value)


def test_a_password_in_the_query_of_the_catalog_url_is_a_secret(tmp_path):
    url = "postgresql://db/catalog?user=me&password=s3cret-word"
    assert "s3cret-word" in read_environment({"STASH_SENSE_CATALOG_URL": url}, tmp_path).secrets


# --- overrides of one run ---


def test_command_line_texts_are_parsed_to_names_and_counts():
    assert parse_names(" a, b,,a ") == ("a", "b")
    assert parse_counts("a=10, b = 5") == {"a": 10, "b": 5}
    for text in ("a", "a=", "=5", "a=-1", "a=1.5", "a=x", "a=1=2", "a=1,a=2"):
        with pytest.raises(ConfigurationError, match=r"NAME=NUMBER|given twice"):
            parse_counts(text)


def test_overrides_from_run_config_and_from_a_command_line_are_the_same():
    typed = make_overrides(
        {"sources": ["a", "b"], "disabled_sources": [], "source_max_faces": {"a": 3}, "max_faces_total": 9}
    )
    text = make_overrides(
        {"sources": "a,b", "disabled_sources": "", "source_max_faces": ("a=3",), "max_faces_total": 9}
    )
    assert typed == text == RunOverrides(sources=("a", "b"), source_max_faces={"a": 3}, max_faces_total=9)
    assert make_overrides({}) == RunOverrides()


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"source_max_faces": {"a": 0}}, "^source_max_faces.a: 0 is not a whole number of at least 1"),
        ({"max_faces_total": -1}, "^max_faces_total: -1 is not a whole number of at least 1$"),
        ({"completeness_threshold": 0}, "^completeness_threshold: 0 is not"),
        ({"sync": "sometimes"}, "^sync: 'sometimes' is not one of auto, updates_only, full_sweep$"),
        ({"reference_mode": "both"}, "^reference_mode: 'both' is not one of url, name$"),
        ({"face": False}, "^face: is not a known key; did you mean faces"),
    ],
)
def test_a_bad_override_is_refused(values, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        make_overrides(values)


def test_empty_overrides_change_no_setting():
    settings = load_settings(SHIPPED)
    assert apply_overrides(settings, RunOverrides()) == settings


def test_overrides_keep_every_section_that_is_not_the_default():
    shipped = load_settings(SHIPPED)
    changed = {
        "global_": shipped.global_.model_copy(update={"keep_aligned_crops": True}),
        "faces": shipped.faces.model_copy(update={"tattoos": True}),
        "export": shipped.export.model_copy(update={"max_shrink": 0.5}),
    }
    settings = shipped.model_copy(update=changed)
    assert {*changed, "stash_boxes", "reference_sites"} == set(type(settings).model_fields)
    overridden = apply_overrides(settings, RunOverrides(sources=("stashdb",)))
    assert {name: getattr(overridden, name) for name in changed} == changed


def test_overrides_change_exactly_the_settings_that_they_name():
    settings = load_settings(SHIPPED)
    changed = apply_overrides(
        settings,
        RunOverrides(
            sources=("stashdb", "fansdb", "afdb"),
            disabled_sources=("fansdb",),
            source_max_faces={"afdb": 9},
            max_faces_total=12,
            reference_mode="name",
            completeness_threshold=3,
        ),
    )
    assert [source.name for source in changed.enabled] == ["stashdb", "afdb"]
    assert changed.source("afdb").max_faces == 9
    assert changed.source("stashdb") == settings.source("stashdb")
    assert {site.reference_mode for site in changed.reference_sites.values()} == {"name"}
    assert (changed.global_.max_faces_per_performer, changed.global_.completeness_threshold) == (12, 3)
    assert changed.names == settings.names


@pytest.mark.parametrize("field", ["sources", "disabled_sources", "source_max_faces"])
def test_an_unknown_source_is_refused_with_the_known_names(field):
    value = {"stashbd": 3} if field == "source_max_faces" else ("stashbd",)
    with pytest.raises(
        ConfigurationError, match=r"'stashbd' is not a source .*did you mean stashdb.*indexxx"
    ):
        apply_overrides(load_settings(SHIPPED), RunOverrides(**{field: value}))


@pytest.mark.slow
def test_importing_settings_loads_nothing_heavy():
    modules = "environment, run_overrides, sources_file"
    code = f"import sys; from stash_sense_pipeline.settings import {modules}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    heavy = {"dagster", "sqlalchemy", "numpy", "httpx", "alembic", "cv2", "pandas"}
    assert heavy.isdisjoint(loaded.split())
