"""The names that the sidecar shows, and the ids that it matches by: namesakes, the order of endpoints, unseen records."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.release.build.shown_names import (
    NAMESAKE_COLUMNS,
    NamedPerson,
    same_name,
    shown_names,
)
from stash_sense_pipeline.release.checks.check_result import failures
from stash_sense_pipeline.release.checks.verify import verify_release
from stash_sense_pipeline.release.promotion import ReleaseReport
from stash_sense_pipeline.release.publish import publish_release
from stash_sense_pipeline.release.shown_people import count_shown_people
from stash_sense_pipeline.sources.cleaning.addresses import address
from stash_sense_pipeline.sources.cleaning.text import text
from stash_sense_pipeline_tests.hostile_texts import HOSTILE

from .changes import opened
from .conftest import DAY
from .worlds import SPEC

RULE = ("disambiguation", "country", "years")


def person(number: int, name: str, **fields: Any) -> NamedPerson:
    return NamedPerson(number, name, {**dict.fromkeys(NAMESAKE_COLUMNS), **fields})


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [
        ({"disambiguation": "the elder"}, {"disambiguation": "the younger"}, ("the elder", "the younger")),
        ({"disambiguation": "(dancer)"}, {"country": "NZ"}, ("dancer", "NZ")),
        ({"country": "NZ"}, {"country": "FR"}, ("NZ", "FR")),
        # The first field is shared, so the second one tells them apart.
        ({"country": "NZ", "birth_date": "1990-01"}, {"country": "NZ", "birth_date": "1991"}, ("born 1990", "born 1991")),
        ({"career_start_year": 2009}, {"career_start_year": 2009, "career_end_year": 2015}, ("2009-", "2009-2015")),
        ({"career_end_year": 2015}, {"birth_date": "1980"}, ("-2015", "born 1980")),
        ({"country": "NZ"}, {}, ("NZ", None)),
        ({}, {}, (None, None)),
        # Nothing tells them apart: both show what is known.
        ({"country": "NZ", "birth_date": "1990"}, {"country": "nz", "birth_date": "1990"},
         ("NZ, born 1990", "nz, born 1990")),
    ],
)  # fmt: skip
def test_namesakes_show_the_first_field_that_tells_them_apart(
    one: Mapping[str, Any], other: Mapping[str, Any], shown: tuple[str | None, str | None]
) -> None:
    people = [
        person(1, "Ann Sample", **one),
        person(2, "ann  sample", **other),
        person(3, "Bea Sample", country="NZ"),
    ]
    expected = {1: f"Ann Sample ({shown[0]})", 2: f"ann  sample ({shown[1]})"}
    expected = {number: text for number, text in expected.items() if shown[number - 1] is not None}
    assert shown_names(people, RULE) == expected


def test_the_rule_decides_which_fields_are_used_and_in_which_order() -> None:
    people = [
        person(
            number, "Ann Sample", disambiguation=f"d{number}", country=f"C{number}", birth_date=f"199{number}"
        )
        for number in (1, 2)
    ]
    assert shown_names(people, ()) == {}
    assert shown_names(people, ("years", "country"))[1] == "Ann Sample (born 1991)"
    assert shown_names(people, ("country",))[2] == "Ann Sample (C2)"


_TEXTS = st.sampled_from([None, "", "NZ", "nz", "FR", "(x)"])
_PEOPLE = st.lists(
    st.tuples(st.sampled_from(["Ann", "ann", "Ann B"]), _TEXTS, _TEXTS, st.sampled_from([None, 2001, 2002])),
    max_size=6,
)


@pytest.mark.slow
@given(_PEOPLE, st.randoms(), st.permutations(RULE))
def test_shown_names_depend_on_no_order_and_never_make_more_people_alike(
    rows: list[tuple[str, str | None, str | None, int | None]], random: Any, rule: list[str]
) -> None:
    people = [
        person(number, name, disambiguation=text, country=country, career_start_year=year)
        for number, (name, text, country, year) in enumerate(rows)
    ]
    shown = shown_names(people, rule)
    shuffled = list(people)
    random.shuffle(shuffled)
    assert shown_names(shuffled, rule) == shown
    plain = Counter(same_name(each.name) for each in people)
    after = Counter(same_name(shown.get(each.performer_id, each.name)) for each in people)
    assert sum(n for n in after.values() if n > 1) <= sum(n for n in plain.values() if n > 1)
    for each in people:
        name = shown.get(each.performer_id, each.name)
        assert name.startswith(each.name)
        assert plain[same_name(each.name)] > 1 or name == each.name


def make_namesakes(data: Path, name: str = "Person &amp; 1") -> sa.Engine:
    """Persons 1 and 3 of the world have one name, and different countries."""
    engine = opened(data)
    people = schema.source_performers
    with writing(engine) as connection:
        for record, country in (("st-00001", "NZ"), ("st-00003", "FR")):
            row = sa.update(people).where(people.c.source_id == record)
            connection.execute(row.values(name=name, country=country))
    return engine


def names_of(release: Path) -> dict[str, str]:
    return {
        uid: entry["name"] for uid, entry in json.loads((release / "performers.json").read_text()).items()
    }


@pytest.mark.slow
def test_only_the_names_that_the_sidecar_shows_tell_namesakes_apart(data: Path) -> None:
    engine = make_namesakes(data)
    plain = publish_release(engine, data, "plain", SPEC, DAY)
    shown = publish_release(engine, data, "shown", replace(SPEC, namesakes=RULE), DAY)
    assert shown.changed
    before, after = names_of(plain.path), names_of(shown.path)
    assert {uid: name for uid, name in after.items() if name != before[uid]} == {
        "stashdb.org:st-00001": "Person & 1 (NZ)",
        "stashdb.org:st-00003": "Person & 1 (FR)",
    }
    # performers.db has the plain names, and no alias.
    assert (shown.path / "performers.db").read_bytes() == (plain.path / "performers.db").read_bytes()
    with sqlite3.connect(shown.path / "performers.db") as database:
        texts = {
            row[0]
            for row in database.execute(
                "SELECT alias FROM aliases UNION SELECT canonical_name FROM performers"
            )
        }
    assert not {text for text in texts if text.endswith((" (NZ)", " (FR)"))}
    assert not failures(verify_release(shown.path))
    # Equal but for the shown names.
    assert not publish_release(engine, data, "again", replace(SPEC, namesakes=RULE), DAY).changed


@pytest.mark.slow
def test_every_system_reads_the_json_files_alike_whatever_letters_a_name_has(data: Path) -> None:
    report = publish_release(make_namesakes(data, "Zoë 名"), data, "letters", SPEC, DAY)
    assert [path.name for path in report.path.glob("*.json") if not path.read_bytes().isascii()] == []
    assert "Zoë 名" in names_of(report.path).values()


@pytest.mark.slow
def test_a_rule_that_changes_no_name_makes_no_release(data: Path) -> None:
    assert not publish_release(opened(data), data, "rule", replace(SPEC, namesakes=RULE), DAY).changed
    engine = make_namesakes(data)
    assert publish_release(engine, data, "one", replace(SPEC, namesakes=("country",)), DAY).changed
    assert not publish_release(
        engine, data, "two", replace(SPEC, namesakes=("country", "years")), DAY
    ).changed


@pytest.mark.slow
def test_the_order_of_endpoints_decides_id_and_name(data: Path) -> None:
    engine = opened(data)
    order = ("fansdb", "stashdb")
    report = publish_release(engine, data, "order", replace(SPEC, priority=order), DAY)
    assert report.changed
    hosts = Counter(uid.partition(":")[0] for uid in names_of(report.path))
    assert hosts == {"fansdb.cc": 20, "stashdb.org": 20}
    assert names_of(report.path)["fansdb.cc:fa-00000"] == "Someone 0"
    assert report.manifest["endpoint_priority"] == list(order)
    assert not failures(verify_release(report.path))
    assert not failures(verify_release(report.archive))
    # An order that gives every person the same record changes nothing for users.
    same = replace(SPEC, priority=(*order, "theporndb"))
    assert not publish_release(engine, data, "same", same, DAY).changed


@pytest.mark.slow
def test_a_stated_order_that_is_not_that_of_the_ids_is_found(data: Path) -> None:
    report = publish_release(opened(data), data, "order", replace(SPEC, priority=("fansdb",)), DAY)
    path = report.path / "manifest.json"
    manifest = json.loads(path.read_text())
    for stated in (["stashdb"], "fansdb", [1], {"a": 1}, ["x"] * 101):
        path.write_text(json.dumps({**manifest, "endpoint_priority": stated}, sort_keys=True))
        assert "database_owners" in {check.name for check in failures(verify_release(report.path))}, stated


@pytest.mark.slow
def test_the_report_counts_namesakes_and_records_that_the_sidecar_cannot_see(
    data: Path, world: tuple[Path, ReleaseReport]
) -> None:
    plain = count_shown_people(world[1].path)
    assert (plain.namesakes, plain.alike) == (0, 0)
    # Twenty of the forty people have a second record, at fansdb.
    assert (dict(plain.records), dict(plain.unseen)) == (
        {"fansdb": 20, "pmvstash": 10, "stashdb": 30},
        {"fansdb": 10, "pmvstash": 10, "stashdb": 0},
    )
    engine = make_namesakes(data)
    report = publish_release(engine, data, "shown", replace(SPEC, namesakes=RULE), DAY)
    counts = count_shown_people(report.path)
    assert (counts.namesakes, counts.alike) == (2, 0)
    reports = data / "releases" / f"{report.version}.report"
    for name in ("report.md", "quality.md"):
        text = (reports / name).read_text()
        assert "2 people have the name of another person. 2 of them are told apart" in text
        assert "does not see 20 of 60 records" in text
        assert "| fansdb | 20 | 10 |" in text


class _Elements(HTMLParser):
    """The elements of a piece of HTML, each with the names of its attributes."""

    def __init__(self, piece: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.feed(piece)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))


def elements_of(entry: Mapping[str, Any], uid: str) -> list[tuple[str, tuple[str, ...]]]:
    """What a page consists of that inserts the texts of a performer into HTML unescaped, as the sidecar's page does."""
    host, _, record = uid.partition(":")
    return _Elements(
        f"""<h4>{entry["name"]}</h4><p>{entry["country"]}</p><img src="{entry["image_url"]}" alt="{entry["name"]}">"""
        f"""<a href="https://{host}/performers/{record}">{entry["name"]}</a><button data-id="{record}"></button>"""
    ).found


_ELEMENTS = [("h4", ()), ("p", ()), ("img", ("src", "alt")), ("a", ("href",)), ("button", ("data-id",))]


@pytest.mark.slow
@pytest.mark.parametrize("field", ["name", "disambiguation", "country", "image_url"])
def test_no_text_of_a_source_becomes_html_in_the_page_of_the_sidecar(data: Path, field: str) -> None:
    """Each hostile text, as the readers of sources store it, is a text of one person of the release."""
    engine = opened(data)
    texts = [cleaned for each in HOSTILE.values() if (cleaned := text(each)) is not None]
    texts.append("&lt;img src=x onerror=alert(1)&gt;")
    people, images = schema.source_performers, schema.source_images
    namesake = {"name": "Ann Sample"} if field == "disambiguation" else {}
    with writing(engine) as connection:
        for number, hostile in enumerate(texts):
            if field != "image_url":
                row = sa.update(people).where(people.c.source_id == f"st-{number:05d}")
                connection.execute(row.values(**namesake, **{field: hostile}))
            elif (url := address(f"https://example.com/{number}?{hostile}")) is not None:
                faces = [f"image-{4 * number + place}" for place in range(1, 5)]
                connection.execute(sa.update(images).where(images.c.image_id.in_(faces)).values(url=url))
    report = publish_release(engine, data, "hostile", replace(SPEC, namesakes=RULE), DAY)
    entries = json.loads((report.path / "performers.json").read_text())
    assert {uid: elements_of(entry, uid) for uid, entry in entries.items()} == dict.fromkeys(
        entries, _ELEMENTS
    )
    assert not failures(verify_release(report.path))
    shown = [str(entry["image_url" if field == "image_url" else "name"]) for entry in entries.values()]
    shown += [str(entry["country"]) for entry in entries.values()]
    assert any(("%3Cscript%3E" if field == "image_url" else "\u2039script\u203a") in each for each in shown)
