import hashlib
import hmac
from datetime import UTC, date, datetime

import pytest
import sqlalchemy as sa
from hypothesis import assume, example, given
from hypothesis import strategies as st

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.foundation.errors import CatalogError, ConfigurationError
from stash_sense_pipeline.privacy import url_forms
from stash_sense_pipeline.privacy.intake.comparison import compare
from stash_sense_pipeline.privacy.intake.parsed_record import ParsedRecord
from stash_sense_pipeline.privacy.intake.record_evidence import RecordEvidence
from stash_sense_pipeline.privacy.record_lookup import records_called, records_listing
from stash_sense_pipeline.privacy.suppression import suppression_hashes, suppression_list
from stash_sense_pipeline.privacy.suppression.suppression_file import SuppressionEntry
from stash_sense_pipeline.privacy.suppression.suppression_hashes import (
    IMAGE,
    image_hash,
    likeness,
    record_hash,
    url_hashes,
)
from stash_sense_pipeline.privacy.suppression.suppression_import import (
    ImportReport,
    add_suppressions,
    import_suppressions_file,
)
from stash_sense_pipeline.privacy.suppression.suppression_list import (
    NO_SUPPRESSIONS,
    HashRow,
    Suppressions,
    load_suppressions,
    store_hashes,
)

KEY = bytes(range(32))
OTHER_KEY = bytes(32)
SOURCES = ("stashdb", "fansdb")
UUID = "0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0"
NOW = datetime(2026, 11, 29, tzinfo=UTC)
DIGEST = hashlib.sha256(b"an image").hexdigest()


def suppress(engine, *targets, key=KEY):
    entries = [SuppressionEntry(target, "asked", date(2026, 11, 20)) for target in targets]
    with writing(engine) as connection:
        return add_suppressions(connection, key, entries)


def rows(engine):
    with reading(engine) as connection:
        query = sa.select(schema.suppressions).order_by(schema.suppressions.c.key_hash)
        return [tuple(row) for row in connection.execute(query)]


def test_a_listed_record_is_covered_and_no_other_record_is(any_catalog):
    assert suppress(any_catalog, f"stashdb:{UUID}") == 1
    listed = load_suppressions(any_catalog, KEY)
    assert len(listed) == 1
    assert listed.covers_record("stashdb", UUID)
    assert listed.covers_record("stashdb", UUID.upper())
    assert not listed.covers_record("fansdb", UUID)
    assert not listed.covers_record("stashdb", UUID[:-1] + "1")
    assert not listed.covers_url("https://x.example/a")
    assert not listed.covers_image(DIGEST)


def test_no_listed_id_url_or_key_is_stored_or_shown_in_clear(any_catalog):
    suppress(any_catalog, f"stashdb:{UUID}", "https://people.example/Example_Person")
    stored = repr(rows(any_catalog))
    assert "0f1e" not in stored
    assert "xample" not in stored
    assert "xample" not in repr(load_suppressions(any_catalog, KEY))
    assert KEY.hex() not in repr(load_suppressions(any_catalog, KEY))
    assert repr(KEY) not in repr(load_suppressions(any_catalog, KEY))


def test_hashes_depend_on_the_key_and_the_kind():
    assert record_hash(KEY, "stashdb", UUID) != record_hash(OTHER_KEY, "stashdb", UUID)
    assert image_hash(KEY, "a:b") != record_hash(KEY, "a", "b")


def test_an_image_with_a_listed_sha256_is_covered_and_another_is_not(catalog):
    with writing(catalog) as connection:
        row = HashRow(IMAGE, image_hash(KEY, DIGEST), "asked", datetime(2026, 11, 20, tzinfo=UTC))
        assert store_hashes(connection, KEY, [row]) == 1
    assert load_suppressions(catalog, KEY).covers_image(DIGEST.upper())
    assert not load_suppressions(catalog, KEY).covers_image(hashlib.sha256(b"another").hexdigest())


def test_adding_a_listed_target_again_adds_no_row(any_catalog):
    suppress(any_catalog, f"stashdb:{UUID}", "https://people.example/e")
    before = rows(any_catalog)
    assert suppress(any_catalog, f"stashdb:{UUID}", "https://people.example/e") == 0
    assert rows(any_catalog) == before
    assert suppress(any_catalog, "stashdb:another") == 1
    assert set(before) < set(rows(any_catalog))


def test_an_empty_list_covers_no_record_url_or_image(any_catalog):
    listed = load_suppressions(any_catalog, KEY)
    assert len(listed) == len(NO_SUPPRESSIONS) == 0
    assert not listed.covers_record("a", "b")
    assert not listed.covers_url("https://a.example/b")


def test_a_list_made_with_another_key_is_refused_for_reading_and_writing(any_catalog):
    suppress(any_catalog, f"stashdb:{UUID}")
    before = rows(any_catalog)
    with pytest.raises(CatalogError, match=r"another suppression\.key; restore it"):
        load_suppressions(any_catalog, OTHER_KEY)
    with pytest.raises(CatalogError, match=r"another suppression\.key"):
        suppress(any_catalog, "stashdb:2", key=OTHER_KEY)
    assert rows(any_catalog) == before


@pytest.mark.parametrize(
    "url",
    [
        "https://www.people.example/pics/Example_Person",
        "http://people.example/pics/Example_Person/",
        "HTTPS://WWW.People.Example/pics/Example_Person?utm_source=x&size=full#pics",
        "//people.example:443/pics/Example%5FPerson",
        " people.example/pics/Example_Person ",
    ],
)
def test_a_url_is_covered_in_every_way_of_writing_it(catalog, url):
    suppress(catalog, "https://people.example/pics/Example_Person")
    assert load_suppressions(catalog, KEY).covers_url(url)


@pytest.mark.parametrize("written", ["https://bücher.example/a", "https://xn--bcher-kva.example/a"])
@pytest.mark.parametrize("listed", ["http://www.Bücher.example/a/", "https://XN--bcher-kva.example/a?x=1"])
def test_an_international_host_matches_its_encoded_form(catalog, written, listed):
    suppress(catalog, written)
    assert load_suppressions(catalog, KEY).covers_url(listed)
    assert not load_suppressions(catalog, KEY).covers_url("https://bucher.example/a")


@pytest.mark.parametrize("url", ["https://ü..example/a", f"https://{'ü' * 80}.example/a"])
def test_a_listed_url_with_an_invalid_host_covers_itself(catalog, url):
    suppress(catalog, url)
    assert load_suppressions(catalog, KEY).covers_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://people.example/pics/Example_Person_2",
        "https://people.example/pics/example_person",
        "https://people.example/pics",
        "https://people.example/",
        "https://people.example.evil.example/pics/Example_Person",
        "https://other.example/?u=https://people.example/pics/Example_Person",
    ],
)
def test_a_url_of_another_page_of_the_same_host_is_not_covered(catalog, url):
    suppress(catalog, "https://people.example/pics/Example_Person")
    assert not load_suppressions(catalog, KEY).covers_url(url)


def test_the_query_distinguishes_pages_of_a_program(catalog):
    suppress(catalog, "https://people.example/show.php?id=7&x=1")
    listed = load_suppressions(catalog, KEY)
    assert listed.covers_url("http://www.people.example/show.php?x=1&id=7")
    assert not listed.covers_url("https://people.example/show.php?id=8&x=1")
    assert not listed.covers_url("https://people.example/show.php")


def test_a_profile_is_recognised_in_any_of_its_forms(catalog):
    suppress(catalog, "https://www.freeones.com/example-person")
    listed = load_suppressions(catalog, KEY)
    assert listed.covers_url("https://freeones.com/de/example-person/bio?utm=1")
    assert not listed.covers_url("https://www.freeones.com/example-person-2")


# URLs that earlier versions of the table of profile sites did not recognise. Their hash is that of the plain form.
ONCE_UNKNOWN = [
    ("https://www.instagram.com/_u/example_person/", "http://instagram.com/_u/example_person?hl=en"),
    ("https://linktree.com/example_person", "https://www.linktree.com/example_person/"),
    (f"https://fansdb.xyz/performers/{UUID}", f"http://www.fansdb.xyz/performers/{UUID}/"),
    ("https://www.pornpics.de/pornstars/example-person/", "http://pornpics.de/pornstars/example-person"),
    ("https://www.reddit.com/user/example/submitted/", "https://reddit.com/user/example/submitted"),
    ("https://www.youtube.com/c/ExamplePerson", "http://youtube.com/c/ExamplePerson?x=1"),
    ("https://www.facebook.com/example.person", "http://facebook.com/example.person/"),
    ("https://www.facebook.com/profile.php?id=100001", "http://facebook.com/profile.php?id=100001"),
    ("https://www.patreon.com/user?u=12345", "http://patreon.com/user?u=12345"),
    ("https://db.msin.jp/page/actress?id=12345", "http://db.msin.jp/page/actress?id=12345"),
    (
        "https://www.egafd.com/actresses/details.php/id/e00123",
        "http://egafd.com/actresses/details.php/id/e00123",
    ),
    ("https://x.com/login", "http://www.x.com/login/"),
]


@pytest.mark.parametrize(("suppressed", "listed"), ONCE_UNKNOWN)
def test_a_url_that_was_suppressed_before_its_site_was_known_still_refuses_the_record(
    catalog, suppressed, listed
):
    plain = suppression_hashes.plain_url_hash(KEY, suppressed)
    with writing(catalog) as connection:
        store_hashes(connection, KEY, [HashRow(suppression_hashes.URL, plain, "asked", NOW)])
    known = load_suppressions(catalog, KEY)
    assert known.covers_url(listed)
    assert known.degree("stashdb", ("7",), (listed,)) is not None
    record = ParsedRecord(RecordEvidence("stashdb", "7", "Ada Lovely", urls=(listed,)), KEY)
    assert compare(known, record).degree is not None


def test_pages_that_may_be_a_fans_are_compared_as_written_and_pages_of_namesakes_are_not():
    kept = ["https://www.facebook.com/example.person", "https://studio.example/models/1"]
    pages = [
        *kept,
        "https://www.pornpics.com/pornstars/example-person/",
        "https://x.com/example_person",
        "https://www.patreon.com/user?u=1",
        "https://studio.example/",
    ]
    record = ParsedRecord(RecordEvidence("stashdb", "7", urls=tuple(pages)), KEY)
    assert [each.page.url for each in record.compared_as_written] == kept


# The profiles of the first table of profile sites, in the spelling that lists of that time hold as hashes.
FIRST_KEYS = [
    ("iafd", "perfid:exampleperson:f", "https://iafd.com/person.rme/perfid=exampleperson/gender=f/x.htm"),
    ("freeones", "example-person", "https://www.freeones.com/de/example-person/bio"),
    ("indexxx", "legacy:9876", "https://www.indexxx.com/models/9876/x"),
    ("twitter", "example_person", "https://twitter.com/Example_Person/media"),
    ("instagram", "example.person", "https://www.instagram.com/Example.Person?hl=en"),
    ("onlyfans", "example", "https://onlyfans.com/Example/c12"),
    ("reddit", "example_person", "https://old.reddit.com/u/Example_Person"),
    ("youtube", "exampleperson", "https://www.youtube.com/@ExamplePerson/videos"),
    ("pornhub", "pornstar:example-person", "https://de.pornhub.com/pornstar/example-person/videos/upload"),
    ("xvideos", "profiles:12345", "https://www.xvideos.com/profiles/12345"),
    ("wikidata", "Q42", "https://www.wikidata.org/wiki/Q42"),
    ("boobpedia", "example_person", "https://www.boobpedia.com/boobs/Example_Person"),
    ("dmm", "1012345", "https://actress.dmm.co.jp/-/detail/=/actress_id=1012345/"),
    ("linktree", "example", "https://linktr.ee/Example"),
    ("bluesky", "did:plc:abc123", "https://bsky.app/profile/did:plc:abc123"),
]


@pytest.mark.parametrize(("site", "key", "listed"), FIRST_KEYS)
def test_a_profile_that_was_suppressed_under_its_first_key_still_refuses_the_record(site, key, listed):
    digest = suppression_hashes.keyed_hash(KEY, suppression_hashes.URL, f"{site} {key}")
    assert Suppressions(KEY, urls=frozenset({digest})).covers_url(listed)


@pytest.mark.parametrize(
    ("suppressed", "same", "other"),
    [
        (f"{page}{1}", f"{page}{1}&x=2", f"{page}{2}")
        for page in (
            "https://db.msin.jp/page/actress?id=",
            "https://www.patreon.com/user?u=",
            "https://video.dmm.co.jp/av/list/?actress=",
            "https://www.facebook.com/profile.php?id=10000",
        )
    ],
)
def test_a_profile_that_the_query_names_covers_no_other_profile_of_its_site(catalog, suppressed, same, other):
    suppress(catalog, suppressed)
    known = load_suppressions(catalog, KEY)
    assert known.covers_url(same)
    assert not known.covers_url(other)


@pytest.mark.parametrize(
    ("listed", "asked"),
    [
        ("https://www.indexxx.com/models/9876/example-person-1/", "http://indexxx.com/models/9876"),
        (
            "https://www.youtube.com/channel/UCaBcdefghijklmnop_-1234/about",
            "youtube.com/channel/UCaBcdefghijklmnop_-1234",
        ),
        ("https://javdb.com/actors/0R1n3?t=s", "https://javdb.com/actors/0R1n3"),
        (
            "https://www.facebook.com/people/Example/100000000000001/",
            "https://facebook.com/profile.php?id=100000000000001",
        ),
        ("https://example-person.tumblr.com/archive", "https://www.tumblr.com/example-person"),
        (
            "https://www.iafd.com/person.rme/perfid=examplex/gender=female/x.htm",
            "https://iafd.com/person.rme/perfid=examplex/gender=f",
        ),
        (
            "https://www.dmm.co.jp/mono/dvd/-/list/=/article=actress/id=1012345/",
            "https://video.dmm.co.jp/av/list/?actress=1012345",
        ),
    ],
)
def test_a_record_that_lists_another_form_of_a_page_is_found(catalog, listed, asked):
    with writing(catalog) as connection:
        connection.execute(
            sa.insert(schema.source_performers).values(
                source="stashdb",
                source_id="7",
                name="Ada Lovely",
                first_seen_at=NOW,
                changed_at=NOW,
                raw={},
            )
        )
        row = {"source": "stashdb", "source_id": "7", "url": listed}
        connection.execute(sa.insert(schema.performer_urls).values(**row))
        found = records_listing(connection, [url_forms.parse_url(asked)])
        assert found == {asked: {("stashdb", "7")}}


def test_the_page_of_a_stash_box_record_is_that_record(catalog):
    suppress(catalog, f"https://stashdb.org/performers/{UUID}")
    listed = load_suppressions(catalog, KEY)
    assert listed.covers_record("stashdb", UUID)
    assert listed.covers_url(f"http://www.stashdb.org/performers/{UUID}/")
    assert not listed.covers_record("fansdb", UUID)


@pytest.mark.slow
@given(
    st.text(st.characters(codec="utf-8", exclude_characters="?#/"), min_size=1),
    st.sampled_from(["http://", "https://", "HTTPS://", "//", ""]),
    st.sampled_from(["", "www.", "WWW."]),
    st.sampled_from(["", "/", "//"]),
    st.sampled_from(["", "?a=1", "?size=300", "#top", "?b#c"]),
)
def test_a_url_with_another_scheme_www_or_query_shares_a_hash_with_the_plain_url(
    name, scheme, www, slash, tail
):
    # The pages of a program differ in the query.
    assume(not name.strip().lower().endswith((".php", ".cfm", ".asp", ".aspx", ".cgi", ".jsp")))
    plain = url_hashes(KEY, f"https://people.example/x/{name.strip()}")
    decorated = f"{scheme}{www}People.Example/x/{name.strip()}{slash}{tail}"
    assert not set(plain).isdisjoint(url_hashes(KEY, decorated))


def test_importing_an_unchanged_file_again_adds_no_row(any_catalog, tmp_path):
    path = tmp_path / "suppressions.yaml"
    path.write_text(
        f"- {{target: 'stashdb:{UUID}', reason: asked, date: 2026-11-20}}\n"
        "- {target: 'https://people.example/e', reason: asked, date: 2026-11-21}\n"
    )
    # The URL may be that of a page, or of an image that no source shows yet.
    assert import_suppressions_file(any_catalog, path, KEY, SOURCES) == ImportReport(entries=2, added=3)
    before = rows(any_catalog)
    assert import_suppressions_file(any_catalog, path, KEY, SOURCES) == ImportReport(entries=2, added=0)
    assert rows(any_catalog) == before
    assert {row[3] for row in before} == {datetime(2026, 11, day, tzinfo=UTC) for day in (20, 21)}


def test_an_entry_that_is_removed_from_the_file_stays_suppressed(catalog, tmp_path):
    path = tmp_path / "suppressions.yaml"
    path.write_text(f"- {{target: 'stashdb:{UUID}', reason: asked, date: 2026-11-20}}\n")
    import_suppressions_file(catalog, path, KEY, SOURCES)
    path.write_text("[]")
    assert import_suppressions_file(catalog, path, KEY, SOURCES) == ImportReport(entries=0, added=0)
    assert load_suppressions(catalog, KEY).covers_record("stashdb", UUID)


def test_a_file_with_one_wrong_line_is_not_imported(any_catalog, tmp_path):
    path = tmp_path / "suppressions.yaml"
    path.write_text(
        f"- {{target: 'stashdb:{UUID}', reason: asked, date: 2026-11-20}}\n"
        "- {target: 'stashdbb:1', reason: asked, date: 2026-11-21}\n"
    )
    with pytest.raises(
        ConfigurationError, match=r"suppressions\.yaml:2: 1\.target: 'stashdbb' is not a source"
    ):
        import_suppressions_file(any_catalog, path, KEY, SOURCES)
    assert rows(any_catalog) == []


def test_questions_to_an_empty_list_compute_no_hash(monkeypatch):
    monkeypatch.setattr(suppression_hashes, "keyed_hash", None)
    assert not Suppressions(KEY).covers_record("a", "b")
    assert not Suppressions(KEY).covers_url("https://a.example/b")
    assert not Suppressions(KEY).covers_image(DIGEST)


LOOKS = st.integers(0, 2**64 - 1)


@pytest.mark.slow
@given(LOOKS, st.sets(st.integers(0, 63), max_size=20))
def test_copies_of_a_picture_are_recognised_by_how_few_bits_differ(look, flipped):
    stored = likeness(KEY, f"{look:016x}")
    copy = look
    for bit in flipped:
        copy ^= 1 << bit
    listed = Suppressions(KEY, likenesses=frozenset({stored}))
    assert listed.covers_likeness(f"{copy:016x}") == (len(flipped) <= 6)
    assert stored != likeness(OTHER_KEY, f"{look:016x}")


@pytest.mark.slow
@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(0, 29), st.sets(st.integers(0, 63), max_size=9)), max_size=30),
)
def test_many_pictures_at_once_give_the_same_result_as_one_by_one(listed, asked):
    found = Suppressions(KEY, likenesses=frozenset(likeness(KEY, f"{look:016x}") for look in listed))
    looks = [f"{listed[place % len(listed)] ^ sum(1 << bit for bit in bits):016x}" for place, bits in asked]
    together = found.covers_likenesses([None, *looks])
    assert together.tolist() == [False, *map(found.covers_likeness, looks)]
    assert not Suppressions(KEY).covers_likenesses(looks).any()


@given(st.binary(max_size=100), st.text())
def test_a_keyed_hash_equals_hmac_sha256(key, text):
    expected = hmac.digest(key, f"record\0stashdb:{text.casefold()}".encode(), "sha256").hex()
    assert record_hash(key, "stashdb", text) == expected


_PARTS = [
    *"./:?#@;+ é\n",
    "http",
    "https",
    "://",
    "www.",
    "WWW.",
    "a.example",
    "b",
    ":80",
    "//",
    "x",
    "X=1",
    "%41",
]


@given(st.lists(st.sampled_from(_PARTS), max_size=12).map("".join) | st.text())
@example("https://www.a.example./x")
@example("https://www./x")
@example("https://www.www.a.example//x//")
def test_the_fast_path_of_plain_url_gives_the_same_result(url):
    assert url_forms.plain_url(url) == url_forms._plain_url(url)


def test_a_met_entry_becomes_named_when_the_list_names_it(any_catalog):
    """It is then pending, as every new entry. A sync that adds it as associated again changes nothing."""
    now = datetime(2026, 11, 20, tzinfo=UTC)
    met = HashRow("record", record_hash(KEY, "stashdb", UUID), "met", now, suppression_list.ASSOCIATED, now)
    with writing(any_catalog) as connection:
        assert store_hashes(connection, KEY, [met]) == 1
    assert load_suppressions(any_catalog, KEY).degree("stashdb", [UUID], ()) == suppression_list.ASSOCIATED
    assert suppress(any_catalog, f"stashdb:{UUID}") == 1
    with writing(any_catalog) as connection:
        assert store_hashes(connection, KEY, [met]) == 0
    listed = load_suppressions(any_catalog, KEY)
    assert listed.degree("stashdb", [UUID], ()) == suppression_list.NAMED
    assert listed.pending == {met.key_hash}


def test_a_slug_is_found_without_case(any_catalog):
    raw = {"slug": "Zq-Anna", "_id": "4711"}
    row = {"source": "theporndb", "source_id": UUID, "name": "Zq", "raw": raw}
    now = datetime(2026, 11, 20, tzinfo=UTC)
    names = {("theporndb", name) for name in ("zq-anna", "4711", UUID.upper(), "zq", "Zq-Anna")}
    with writing(any_catalog) as connection:
        table = schema.source_performers
        connection.execute(sa.insert(table).values(**row, first_seen_at=now, changed_at=now))
        found = records_called(connection, names)
    assert {name for (_, name), records in found.items() if records} == {
        *("zq-anna", "4711", UUID.upper(), "Zq-Anna")
    }
