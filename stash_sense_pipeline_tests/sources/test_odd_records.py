"""Odd records: any values in the fields of some records leave the others stored, and the run succeeds.

The connectors read the bytes of responses, without sockets; the records are stored in both databases.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, reject, settings
from hypothesis import strategies as st

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.foundation.clock import Clock
from stash_sense_pipeline.foundation.errors import HttpStatusError, Outcome, UnreadRecordError
from stash_sense_pipeline.foundation.json_file import LARGE, parse_json
from stash_sense_pipeline.identity.linkage.overrides import Overrides
from stash_sense_pipeline.identity.rebuild import rebuild_identities
from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS
from stash_sense_pipeline.records.performer_record import ImageRecord, PerformerRecord
from stash_sense_pipeline.settings.known_sources import KNOWN_REFERENCE_SITES
from stash_sense_pipeline.settings.schema import ReferenceSiteSettings, StashBoxSettings
from stash_sense_pipeline.sources.catalog_writer import CatalogWriter
from stash_sense_pipeline.sources.cleaning.ids import MAX_ID_BYTES
from stash_sense_pipeline.sources.cleaning.text import MAX_TEXT_BYTES
from stash_sense_pipeline.sources.http.response import Response
from stash_sense_pipeline.sources.ingest_context import IngestContext
from stash_sense_pipeline.sources.legacy_import import import_legacy
from stash_sense_pipeline.sources.legacy_reader import read_legacy
from stash_sense_pipeline.sources.reference_sites.enrichment.profile_matching import AliasHashes, record_of
from stash_sense_pipeline.sources.reference_sites.site import Profile
from stash_sense_pipeline.sources.reference_sites.site_connector import SiteConnector
from stash_sense_pipeline.sources.stash_boxes.connectors import make_connector
from stash_sense_pipeline.sources.stash_boxes.refresh import SyncReport, refresh_source
from stash_sense_pipeline.sources.unread import MANY_UNREAD

NOW = datetime(2026, 3, 1, tzinfo=UTC)
CLOCK = Clock(now=lambda: NOW)
HEALTHY = 3
STORED = (
    *(schema.source_performers, schema.performer_aliases, schema.performer_urls, schema.source_images),
    schema.performer_images,
)

TRAPS = (
    *(
        "",
        "   ",
        "\0",
        "a\0b",
        "\ud800",
        "a\udfff",
        "\u200b\ufeff",
        "\u3164",
        "\u202edrawkcab",
        "A\u00a0\u2003B",
    ),
    *("x" * 2000, "x" * 3000, "x" * 10_000, "é" * 1500, "\U0001f600" * 600, "\ufdfa" * 600, "ΐ" * 900),
    *("0000-00-00", "-0001-11-30", "-000001-11-30T00:00:00.000000Z", "0001-01-01", "9999999-01-01T00:00:00Z"),
    *(
        "9999-12-31T23:59:59-10:00",
        "0001-01-01T00:00:00+23:59",
        "2024-02-30",
        "１９９０-０５-０５",
        "May 1990",
    ),
    *(
        "https://cdn..example/1",
        "https://[::1",
        "https://xn--a/1",
        "https://a.example:99999/",
        "javascript:alert(1)",
    ),
    *(
        "https://a.example/\0",
        "https://a.example/" + "p" * 3000,
        "https://" + "a." * 300 + "example/",
        "//",
        "http://",
    ),
    *(
        "https://user:secret@a.example/1",
        "http://" + "a" * 64 + ".example/",
        "ftp://a.example/1",
        "\nhttps://a.example/1",
    ),
    *("https://stashdb.org/performers/" + "ΐ" * 800, "https://www.iafd.com/person.rme/id=" + "x" * 1900),
    *("a/b", "a b", "..", "a\nb", "-", "NaN", "1" * 30, "true", "null"),
)
TEXTS = st.sampled_from(TRAPS) | st.text(max_size=20) | st.text(st.characters(), max_size=6)
NUMBERS = (
    st.sampled_from(
        [0, -1, 1, 2**31, 2**63, -(2**63), 2**64, 10**30, 1e308, float("inf"), float("nan"), -0.0, 1.5]
    )
    | st.integers()
    | st.floats()
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
ODD = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["0", "2", "id", "url", "name", "a\0b", "\ud800"]) | TEXTS, inner, max_size=3
        )
    ),
    max_leaves=6,
)


def uid(number: int) -> str:
    """A UUID made from a number."""
    return f"00000000-0000-4000-8000-{number:012d}"


def box_row(number: int) -> dict[str, Any]:
    """A performer of a stash-box with a value in every field."""
    image = {"id": f"image{number}", "url": f"https://cdn.example/{number}.jpg", "width": 600, "height": 800}
    return {
        **{"id": uid(number), "name": f"Invented Person{number}", "disambiguation": "the tall one"},
        **{"aliases": ["Ann"], "gender": "FEMALE", "birth_date": "1990-05-05", "death_date": "2020-01-02"},
        **{"ethnicity": "ASIAN", "country": "US", "eye_color": "BLUE", "hair_color": "RED", "height": 170},
        **{"career_start_year": 2012, "career_end_year": 2019, "tattoos": [{"location": "arm"}]},
        **{
            "piercings": [{"location": "ear"}],
            "urls": [{"url": f"https://www.iafd.com/person.rme/id={uid(number)}"}],
        },
        **{"images": [image], "deleted": False, "merged_ids": [], "merged_into_id": None},
        **{"created": "2024-01-01T00:00:00Z", "updated": f"2024-02-{1 + number % 27:02d}T00:00:00Z"},
    }


def rest_row(number: int) -> dict[str, Any]:
    """A performer of ThePornDB with a value in every field."""
    poster = {"id": number, "url": f"https://cdn.example/p{number}.jpg", "order": 1}
    child = {
        "id": f"child{number}",
        "_id": number + 100,
        "name": "Annie",
        "image": "https://cdn.example/c.jpg",
    }
    return {
        **{
            "id": uid(900 + number),
            "_id": 5000 + number,
            "slug": f"person{number}",
            "name": f"Person {number}",
        },
        **{"disambiguation": "the other", "is_parent": True, "rating": 4.5, "aliases": ["A. Lea"]},
        **{"image": f"https://cdn.example/i{number}.jpg", "face": None, "posters": [poster]},
        "site_performers": [child],
        "extras": {
            **{"gender": "Female", "birthday": "1990-05-05", "deathday": None, "birthplace_code": "US"},
            **{"ethnicity": "Caucasian", "hair_colour": "Red", "eye_colour": "Blue", "height": "170cm"},
            **{"career_start_year": 2012, "career_end_year": None, "tattoos": "arm", "cupsize": "C"},
            "links": {"Twitter": f"https://twitter.com/person{number}"},
        },
    }


@st.composite
def odd_rows(
    draw: st.DrawFn, make: Callable[[int], dict[str, Any]], lists: Mapping[str, tuple[str, ...]]
) -> Any:
    """Up to three rows with odd values in some of their fields, and in fields of the items of `lists`."""
    rows = []
    for number in range(draw(st.integers(1, 3))):
        row: Any = make(HEALTHY + 1 + number)
        fields = [(name,) for name in row]
        fields += [(name, inner) for name, inners in lists.items() for inner in inners]
        for path in draw(st.lists(st.sampled_from(fields), min_size=1, max_size=4)):
            value = draw(ODD)
            inside = row.get(path[0]) if len(path) == 2 else None
            if len(path) == 1:
                row[path[0]] = value
            elif isinstance(inside, dict):
                inside[path[1]] = value
            elif isinstance(inside, list):
                inside.append(
                    {**(inside[0] if inside and isinstance(inside[0], dict) else {}), path[1]: value}
                )
        rows.append(draw(st.just(row) | ODD) if draw(st.integers(0, 9)) == 0 else row)
    return rows


class FakeClient:
    """A client that answers from memory, with the bytes that a server would send."""

    def __init__(self, answer: Callable[[str, Any], Any]) -> None:
        self.requests = 0
        self._answer = answer

    async def post_json(self, url: str, payload: Any, **_: Any) -> Response:
        """The answer to a question."""
        return self._respond(url, payload)

    async def get(self, url: str, params: Any = None, **_: Any) -> Response:
        """The answer to a request."""
        return self._respond(url, params)

    def _respond(self, url: str, question: Any) -> Response:
        self.requests += 1
        assert self.requests < 500
        answer = self._answer(url, question)
        if answer is None:
            raise HttpStatusError("fake", Outcome.NOT_FOUND, "status 404", 404, b"")
        return Response(url, 200, {}, json.dumps(answer).encode(), "fake")


FIELDS = (*box_row(1),)
DESCRIPTION = {
    "performer": {"fields": [{"name": name} for name in FIELDS]},
    "query": {"fields": [{"name": name} for name in ("findPerformer", "queryPerformers", "queryEdits")]},
    "edit": {"fields": [{"name": name} for name in ("closed", "created", "target", "merge_sources")]},
    "edits": {
        "inputFields": [
            {"name": name}
            for name in ("operation", "applied", "target_type", "sort", "direction", "page", "per_page")
        ]
    },
    "version": {"version": "v0.7.0"},
}


def graphql(rows: list[Any], edits: Any = ()) -> Callable[[str, Any], Any]:
    """A stash-box with these performers."""

    def answer(_: str, payload: Any) -> Any:
        name, variables = re.match(r"query (\w+)", payload["query"])[1], payload["variables"]  # type: ignore[index]
        listed = [row for row in rows if not (isinstance(row, dict) and row.get("deleted") is True)]
        if name == "Describe":
            return {"data": DESCRIPTION}
        if name in ("Head", "Performers"):
            asked = variables["input"]
            rank = "updated" if asked["sort"] == "UPDATED_AT" else "name"
            keyed = sorted(listed, key=lambda row: str(row.get(rank)) if isinstance(row, dict) else "")
            ordered = keyed[::-1] if asked["direction"] == "DESC" else keyed
            start = (asked["page"] - 1) * asked["per_page"]
            shown = ordered[start : start + asked["per_page"]]
            return {"data": {"queryPerformers": {"count": len(listed), "performers": shown}}}
        if name == "Edits":
            return {
                "data": {operation: {"count": len(edits), "edits": list(edits)} for operation in variables}
            }
        by_id = {str(row.get("id")): row for row in rows if isinstance(row, dict)}
        return {"data": {f"p{alias[1:]}": by_id.get(source_id) for alias, source_id in variables.items()}}

    return answer


def rest(rows: list[Any]) -> Callable[[str, Any], Any]:
    """ThePornDB with these performers."""

    def answer(url: str, params: Any) -> Any:
        path = url.partition(".test")[2]
        if path == "/performers":
            start = (params["page"] - 1) * params["per_page"]
            meta = {"total": len(rows), "per_page": params["per_page"], "current_page": params["page"]}
            return {"data": rows[start : start + params["per_page"]], "meta": meta}
        known = {str(row.get("id")): row for row in rows if isinstance(row, dict)}
        found = known.get(path.rpartition("/")[2])
        return None if found is None else {"data": found}

    return answer


def refresh(
    engine: sa.Engine, answer: Callable[[str, Any], Any], mode: Any = "auto", connector: str = "stash_box"
) -> SyncReport:
    """Refreshes the source `boxed` from a fake server."""
    source = StashBoxSettings.model_validate(
        {
            "name": "boxed",
            "url": "https://boxed.test",
            "host": "boxed.test",
            "rate_limit": 6e5,
            "connector": connector,
        }
    )
    made = make_connector(source, "key", FakeClient(answer))  # type: ignore[arg-type]
    return asyncio.run(
        refresh_source(IngestContext(engine, NO_SUPPRESSIONS, clock=CLOCK), source, made, mode)
    )


def stored(engine: sa.Engine) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of all records in the catalog, without the times at which they were stored."""
    with engine.connect() as connection:
        return {
            table.name: sorted((tuple(row) for row in connection.execute(sa.select(*_told(table)))), key=repr)
            for table in STORED
        }


def _told(table: sa.Table) -> Iterable[sa.Column[Any]]:
    return [column for column in table.columns if column.name not in ("first_seen_at", "changed_at")]


def live(engine: sa.Engine) -> set[str]:
    """The names of live records."""
    table = schema.source_performers
    with engine.connect() as connection:
        return set(connection.scalars(sa.select(table.c.name).where(table.c.deleted_at.is_(None))))


def empty(engine: sa.Engine) -> None:
    """Deletes all rows."""
    with writing(engine) as connection:
        for table in reversed(schema.metadata.sorted_tables):
            connection.execute(table.delete())


def check_odd_records(
    engine: sa.Engine, answer: Callable[[str, Any], Any], names: set[str], connector: str
) -> None:
    """The law, for a fake server of which `names` are healthy."""
    empty(engine)
    first = refresh(engine, answer, connector=connector)
    assert (first.outcome, first.message) == (Outcome.FOUND, None)
    assert names <= live(engine)
    assert not [reason for reason in first.unread_reasons if reason.startswith("the database")]
    if "different performers of a page have its id" in first.unread_reasons:
        # The next run requests that id alone, and the answer decides which of the rows has it.
        refresh(engine, answer, "auto", connector)
    before = stored(engine)
    for mode in ("auto", "full_sweep"):
        again = refresh(engine, answer, mode, connector)
        assert (again.outcome, again.added, again.removed, again.merged) == (Outcome.FOUND, 0, 0, 0)
        assert stored(engine) == before


TIERS = [
    pytest.param("sqlite", 100, id="sqlite", marks=pytest.mark.timeout(1800)),
    pytest.param("postgresql", 30, id="postgresql", marks=[pytest.mark.postgres, pytest.mark.timeout(1800)]),
]
BOX_LISTS = {
    "images": ("id", "url", "width", "height"),
    **{"urls": ("url",), "tattoos": ("location",), "piercings": ("location",)},
}
REST_LISTS = {
    **{"posters": ("id", "url"), "site_performers": ("id", "_id", "name", "image", "posters")},
    "extras": (*rest_row(1)["extras"], "weight", "a\0b"),
}


@pytest.fixture
def engine_of(request: pytest.FixtureRequest) -> Callable[[str], sa.Engine]:
    """engine_of(database): a catalog on it."""

    def engine(database: str) -> sa.Engine:
        if database == "sqlite":
            found: sa.Engine = request.getfixturevalue("catalog")
            return found
        from stash_sense_pipeline.catalog.engine import open_catalog

        opened = open_catalog(request.getfixturevalue("postgres_catalog_url"))
        request.addfinalizer(opened.dispose)
        return opened

    return engine


def holds(examples: int) -> Any:
    """The settings of hypothesis for a number of examples."""
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.slow
@pytest.mark.parametrize(("database", "examples"), TIERS)
def test_any_value_in_a_record_of_a_stash_box_leaves_the_others_stored(engine_of, database, examples):
    engine = engine_of(database)

    @holds(examples)
    @given(odd=odd_rows(box_row, BOX_LISTS), edits=st.lists(ODD, max_size=2))
    @example(odd=[{**box_row(7), "updated": None}], edits=[])
    @example(odd=[{**box_row(7), "id": box_row(8)["id"]}, box_row(8)], edits=[{"target": {"id": 5}}])
    def law(odd: list[Any], edits: list[Any]) -> None:
        healthy = [box_row(number) for number in range(1, HEALTHY + 1)]
        answer = graphql([*healthy, *odd], edits)
        check_odd_records(engine, answer, {row["name"] for row in healthy}, "stash_box")

    law()


@pytest.mark.slow
@pytest.mark.parametrize(("database", "examples"), TIERS)
def test_any_value_in_a_record_of_theporndb_leaves_the_others_stored(engine_of, database, examples):
    engine = engine_of(database)

    @holds(examples)
    @given(odd=odd_rows(rest_row, REST_LISTS))
    def law(odd: list[Any]) -> None:
        healthy = [rest_row(number) for number in range(1, HEALTHY + 1)]
        check_odd_records(engine, rest([*healthy, *odd]), {row["name"] for row in healthy}, "theporndb")

    law()


PROFILES = st.builds(
    Profile,
    key=TEXTS,
    name=TEXTS,
    aliases=st.lists(TEXTS, max_size=3).map(tuple),
    credited=st.lists(TEXTS, max_size=3).map(tuple),
    links=st.lists(TEXTS, max_size=3).map(tuple),
    urls=st.lists(TEXTS, max_size=2).map(tuple),
    images=st.lists(st.builds(ImageRecord, st.just("image"), TEXTS), max_size=2).map(tuple),
)


@pytest.mark.slow
@pytest.mark.parametrize(("database", "examples"), TIERS)
def test_any_profile_of_a_reference_site_can_be_stored_or_is_unread(engine_of, database, examples):
    engine = engine_of(database)
    known = KNOWN_REFERENCE_SITES["iafd"]
    site = ReferenceSiteSettings.model_validate({"name": "iafd", "url": known["url"], "rate_limit": 6e5})
    connector = SiteConnector(site, FakeClient(lambda *_: None), None)  # type: ignore[arg-type]

    @holds(examples)
    @given(profiles=st.lists(PROFILES, max_size=4))
    def law(profiles: list[Profile]) -> None:
        empty(engine)
        records = [PerformerRecord("healthy", "Healthy Person")]
        for profile in profiles:
            try:
                cleaned = connector._cleaned(profile)
            except UnreadRecordError:
                continue
            hashes = AliasHashes(lambda name: name[:8])
            records.append(record_of(cleaned, (), found_by="url", extra_urls=(), alias_hashes=hashes))
        writer = CatalogWriter(IngestContext(engine, NO_SUPPRESSIONS, clock=CLOCK), "iafd")
        asyncio.run(writer.store(records))
        assert writer.unread == []
        assert "Healthy Person" in live(engine)

    law()


@pytest.mark.slow
@pytest.mark.parametrize(("database", "examples"), TIERS)
def test_any_value_in_an_entry_of_a_predecessor_leaves_the_others_imported(engine_of, database, examples):
    engine = engine_of(database)
    box = StashBoxSettings.model_validate(
        {"name": "stashdb", "url": "https://stashdb.org/graphql", "host": "stashdb.org", "rate_limit": 6e5}
    )
    fields = ("name", "country", "image_url", "face_count")

    @holds(examples)
    @given(
        odd=st.dictionaries(
            st.integers(2, 9).map(lambda number: f"stashdb.org:{uid(number)}") | TEXTS,
            st.dictionaries(st.sampled_from(fields), ODD) | ODD,
            max_size=4,
        ),
        ids=st.lists(ODD, max_size=3),
    )
    def law(odd: dict[str, Any], ids: list[Any]) -> None:
        empty(engine)
        with tempfile.TemporaryDirectory() as home:
            entries = {f"stashdb.org:{uid(1)}": {"name": "Healthy Person", "face_count": 3}, **odd}
            texts = {
                "performers.json": json.dumps(entries),
                "progress.json": json.dumps({"processed_ids": [uid(1), *ids]}),
            }
            for name, content in texts.items():
                try:
                    parse_json(content, LARGE)
                except ValueError:
                    # NaN, lone surrogates and infinite numbers make the file invalid JSON, which is refused.
                    reject()
                (Path(home) / name).write_text(content)
            import_legacy(engine, read_legacy(Path(home), [box]), NO_SUPPRESSIONS, NOW)
        assert "Healthy Person" in live(engine)

    law()


# --- unread records, and too many of them --------------------------------------------------------------------------


def test_an_unread_record_is_noted_and_requested_again_when_it_changes_and_never_removed(catalog):
    rows = [box_row(number) for number in range(1, 5)]
    assert refresh(catalog, graphql(rows)).live == 4
    rows[3] = {**rows[3], "name": " ", "updated": "2024-03-01T00:00:00Z"}
    for mode in ("auto", "auto", "auto", "full_sweep"):
        report = refresh(catalog, graphql(rows), mode)
        assert (report.outcome, report.unread, report.live, report.removed) == (Outcome.FOUND, 1, 4, 0)
        assert report.unread_reasons == {"its name is blank": 1}
    assert "Invented Person4" in live(catalog)
    rows[3] = {**rows[3], "name": "New Name", "updated": "2024-03-02T00:00:00Z"}
    report = refresh(catalog, graphql(rows))
    assert (report.unread, report.updated) == (0, 1)
    assert "New Name" in live(catalog)


def test_a_version_that_was_unread_twice_is_asked_for_again_only_by_a_sweep(catalog):
    rows = [box_row(number) for number in range(1, 5)]
    rows[3] = {**rows[3], "updated": "2026-02-28T12:00:00Z", "name": None}
    refresh(catalog, graphql(rows))
    requests = [refresh(catalog, graphql(rows)).requests for _ in range(3)]
    assert requests[1] == requests[2] == requests[0] - 1
    rows[3]["name"] = "Readable Without Any Bump"
    assert refresh(catalog, graphql(rows)).unread == 1
    assert refresh(catalog, graphql(rows), "full_sweep").unread == 0


@pytest.mark.parametrize("connector", ["stash_box", "theporndb"])
def test_too_many_unread_records_are_an_error_of_the_source_and_the_others_are_stored(catalog, connector):
    make, served = (box_row, graphql) if connector == "stash_box" else (rest_row, rest)
    rows = [make(number) for number in range(1, 101)]
    for row in rows[: MANY_UNREAD + 1]:
        row["name"] = []
    report = refresh(catalog, served(rows), connector=connector)
    assert report.outcome is Outcome.PARSE_ERROR
    assert report.message is not None
    assert (
        "21 of 100 performers cannot be read or stored, for example because its name is a list"
        in report.message
    )
    assert report.live == 79
    rows[0]["name"] = "Readable"
    assert refresh(catalog, served(rows), connector=connector).outcome is Outcome.FOUND


@pytest.mark.slow
@pytest.mark.parametrize("connector", ["stash_box", "theporndb"])
def test_unread_records_of_an_earlier_run_do_not_fail_the_runs_that_read_only_changes(catalog, connector):
    make, served = (box_row, graphql) if connector == "stash_box" else (rest_row, rest)
    rows = [make(number) for number in range(1, 401)]
    for row in rows[: MANY_UNREAD + 8]:
        row |= {"name": " ", "updated": None}
    assert refresh(catalog, served(rows), connector=connector).outcome is Outcome.FOUND
    for _ in range(3):
        report = refresh(catalog, served(rows), connector=connector)
        assert (report.outcome, report.unread, report.live) == (Outcome.FOUND, MANY_UNREAD + 8, 372)
    for row in rows[100:180]:
        row |= {"name": " ", "updated": "2026-02-28T12:00:00Z"}
    assert refresh(catalog, served(rows), connector=connector).outcome is Outcome.PARSE_ERROR


@pytest.mark.parametrize("connector", ["stash_box", "theporndb"])
def test_a_source_of_which_nothing_can_be_read_is_an_error(catalog, connector):
    make, served = (box_row, graphql) if connector == "stash_box" else (rest_row, rest)
    rows = [{**make(number), "name": None} for number in range(1, 4)]
    report = refresh(catalog, served(rows), connector=connector)
    assert (report.outcome, report.live) == (Outcome.PARSE_ERROR, 0)


@pytest.mark.slow
def test_images_are_kept_when_their_list_is_unreadable(catalog):
    rows = [box_row(number) for number in range(1, 4)]
    refresh(catalog, graphql(rows))
    for images in (None, "none", [None], [{"id": None, "url": "https://a.example/1"}]):
        rows[0] = {**rows[0], "images": images, "aliases": [], "urls": []}
        refresh(catalog, graphql(rows), "full_sweep")
        assert len(stored(catalog)["performer_images"]) == 3
    rows[0]["images"] = []
    refresh(catalog, graphql(rows), "full_sweep")
    assert len(stored(catalog)["performer_images"]) == 2


def test_a_value_that_the_database_refuses_costs_one_record(any_catalog, monkeypatch):
    monkeypatch.setattr(
        "stash_sense_pipeline.sources.stash_boxes.stash_box_records._height", lambda value: 2**70
    )
    rows = [{**box_row(number), "height": 170 if number == 5 else None} for number in range(1, 10)]
    report = refresh(any_catalog, graphql(rows))
    assert (report.outcome, report.live, report.unread) == (Outcome.FOUND, 8, 1)
    (reason,) = report.unread_reasons
    assert reason == "the database refused it"
    assert refresh(any_catalog, graphql(rows), "full_sweep").unread == 1


def test_the_longest_values_fit_every_index_of_identity(any_catalog):
    name = "\ufdfa " * (MAX_TEXT_BYTES // 4)
    link = "https://stashdb.org/performers/" + "ΐ" * 250
    for source in ("stashdb", "fansdb"):
        record = PerformerRecord(
            "x" * MAX_ID_BYTES,
            name,
            birth_date="1990-05-06",
            urls=(link,),
            aliases=("ΐ" * (MAX_TEXT_BYTES // 2),),
        )
        context = IngestContext(any_catalog, NO_SUPPRESSIONS, clock=CLOCK)
        asyncio.run(CatalogWriter(context, source).store([record]))
    rebuild_identities(any_catalog, {"stashdb": "stashdb.org", "fansdb": "fansdb.cc"}, Overrides(), NOW)
    with any_catalog.connect() as connection:
        keys = list(connection.scalars(sa.select(schema.identity_evidence.c.key)))
    assert len(keys) == 2
    assert 900 < max(len(key.encode()) for key in keys) <= 1000
