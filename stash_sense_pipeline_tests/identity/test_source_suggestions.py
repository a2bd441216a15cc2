"""Suggestions to the sources: planted mistakes are found, clean worlds give none, suppressed people appear nowhere."""

from __future__ import annotations

import csv
import json
import random
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.cli import main
from stash_sense_pipeline.deployment.shipped_files import shipped_file
from stash_sense_pipeline.foundation.tables.spreadsheet_cells import spreadsheet_cell
from stash_sense_pipeline.foundation.visible_text import visible, visible_line
from stash_sense_pipeline.identity.face_matching.trusted_faces import choose_trusted_faces
from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline.identity.linkage.face_verdicts import FaceVerdict
from stash_sense_pipeline.identity.linkage.overrides import Override, Overrides
from stash_sense_pipeline.identity.override_resolution import resolve_overrides
from stash_sense_pipeline.identity.rebuild import rebuild_identities
from stash_sense_pipeline.identity.source_suggestions.finding import find_suggestions
from stash_sense_pipeline.identity.source_suggestions.identity_state import SuggestionRules
from stash_sense_pipeline.identity.source_suggestions.suggestion import (
    DescribedRecord,
    Suggestion,
    SuggestionKind,
    SuggestionList,
    in_order,
)
from stash_sense_pipeline.privacy.erasure import erase_suppressed
from stash_sense_pipeline.privacy.redaction.report_redaction import erase_traces
from stash_sense_pipeline.privacy.suppression.suppression_file import SuppressionEntry
from stash_sense_pipeline.privacy.suppression.suppression_import import add_suppressions
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions, load_suppressions
from stash_sense_pipeline.release.reports.source_suggestions import (
    COLUMNS,
    suggestion_rows,
    write_suggestions,
)
from stash_sense_pipeline_tests.identity.face_world import MODELS, FaceMaker, add_photos
from stash_sense_pipeline_tests.identity.population import HOSTS, NOW, population, store, store_many
from stash_sense_pipeline_tests.identity.test_face_matching import World

KEY = b"k" * 32
WITHOUT_FACES = SuggestionRules(HOSTS, {})
X = "https://x.com/mira_sample"
ALONE = "https://x.com/mira_alone"


@pytest.fixture(scope="module")
def filled(catalog_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 people with two faces in each of two stash-boxes, without a mistake."""
    path = Path(shutil.copy2(catalog_file, tmp_path_factory.mktemp("suggestions") / "catalog.db"))
    engine = open_catalog(f"sqlite:///{path}")
    World(engine).fill()
    engine.dispose()
    return path


@pytest.fixture
def world(filled: Path, tmp_path: Path) -> Iterator[World]:
    engine = open_catalog(f"sqlite:///{shutil.copy2(filled, tmp_path / 'catalog.db')}")
    yield World(engine, FaceMaker(np.random.default_rng(13)))
    engine.dispose()


def found_in(
    world: World, overrides: Overrides | None = None, listed: Suppressions | None = None
) -> SuggestionList:
    """The suggestions after an identity run and a choice of trusted faces."""
    rebuild_identities(world.engine, HOSTS, Overrides(), NOW, models=MODELS)
    choose_trusted_faces(
        world.engine,
        max_faces_per_performer=20,
        source_caps=dict.fromkeys(HOSTS, 10),
        trust=dict.fromkeys(HOSTS, "high"),
        models=MODELS,
    )
    rules = SuggestionRules(HOSTS, MODELS, overrides or Overrides())
    return find_suggestions(world.engine, rules, listed or Suppressions(key=KEY))


def linked(engine: sa.Engine, *records: Record, overrides: Overrides | None = None) -> SuggestionList:
    """The suggestions after an identity run over these records, without faces."""
    store(engine, *records)
    rebuild_identities(engine, HOSTS, Overrides(), NOW)
    return find_suggestions(engine, SuggestionRules(HOSTS, {}, overrides or Overrides()))


def another_record(
    world: World, record: Record, source_id: str, who: dict[str, np.ndarray], **facts: str
) -> Record:
    """A second record of the same stash-box and name."""
    other = Record(record.source, source_id, facts.pop("name", record.name), **facts)  # type: ignore[arg-type]
    store_many(world.engine, [other])
    add_photos(world.engine, [(other, world.make.photo(who), None) for _ in range(3)])
    return other


@pytest.mark.slow
def test_a_clean_world_gives_no_suggestion(world: World) -> None:
    found = found_in(world)
    assert found.suggestions == ()
    assert found.faces_say_nothing is None
    assert found.counts() == {"duplicate": 0, "picture_of_another": 0, "link_of_another": 0}


@pytest.mark.slow
def test_two_records_of_one_box_with_one_face_and_name_are_a_duplicate(world: World) -> None:
    who = world.make.person()
    one = world.add(who, "stashdb", "Mira Sample", birth_date="1990-05-05")
    other = another_record(world, one, "zz-second", who, birth_date="1990-05-05")
    (row,) = found_in(world).suggestions
    assert (row.kind, row.record, row.other) == ("duplicate", one.key, other.key)
    text = "; ".join(row.facts)
    assert "faces agree: arcface 0." in text
    assert "2 and 3 pictures" in text
    assert "name equal (mira sample)" in text
    assert "birth date equal (1990-05-05)" in text
    assert row.confidence > 0.99


@pytest.mark.slow
def test_a_name_that_is_the_others_alias_makes_a_duplicate_with_the_face(world: World) -> None:
    who = world.make.person()
    one = world.add(who, "stashdb", "Mira Sample")
    other = Record("stashdb", "zz-second", "Vera Else", aliases=("Mira Sample", "Vera"))
    store(world.engine, other)
    add_photos(world.engine, [(other, world.make.photo(who), None) for _ in range(2)])
    (row,) = found_in(world).suggestions
    assert (row.record, row.other) == (one.key, other.key)
    assert "name in aliases (mira sample)" in row.facts


@pytest.mark.slow
def test_namesakes_of_one_box_without_a_face_in_common_give_none(world: World) -> None:
    one = world.add(world.make.person(), "stashdb", "Mira Sample", birth_date="1990-05-05")
    another_record(world, one, "zz-second", world.make.person(), birth_date="1990-05-05")
    store_many(world.engine, [Record("stashdb", f"zz-{number}", "Mira Sample") for number in range(3)])
    assert found_in(world).suggestions == ()


@pytest.mark.slow
def test_alike_people_with_different_names_give_none(world: World) -> None:
    who = world.make.person()
    one = world.add(who, "stashdb", "Mira Sample", birth_date="1990-05-05")
    another_record(world, one, "zz-twin", who, name="Vera Else", birth_date="1990-05-05")
    assert found_in(world).suggestions == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mine", "theirs"),
    [({"gender": "MALE"}, {"gender": "FEMALE"}), ({"birth_date": "1980"}, {"birth_date": "1990-05-05"})],
)
def test_records_that_exclude_each_other_are_no_duplicate(
    world: World, mine: dict[str, str], theirs: dict[str, str]
) -> None:
    who = world.make.person()
    one = world.add(who, "stashdb", "Mira Sample", **mine)
    another_record(world, one, "zz-second", who, **theirs)
    assert found_in(world).suggestions == ()


@pytest.mark.slow
def test_a_cannot_link_pair_is_no_duplicate_and_a_refused_must_link_names_the_command(world: World) -> None:
    who = world.make.person()
    one = world.add(who, "stashdb", "Mira Sample")
    other = another_record(world, one, "zz-second", who)
    pair = (Override(other.key, one.key, 2),)
    assert found_in(world, Overrides(cannot_link=pair)).suggestions == ()
    (refused,) = resolve_overrides(Overrides(must_link=pair), population(one, other)).refused
    assert "stash-sense identity suggestions" in refused.text


def test_a_shared_page_and_an_equal_name_are_a_duplicate_without_pictures(any_catalog: sa.Engine) -> None:
    found = linked(
        any_catalog,
        Record("stashdb", "a", "Mira Sample", urls=(X,)),
        Record("stashdb", "b", "Mira Sample", urls=(X,)),
        Record("stashdb", "c", "Mira Sample"),
        Record("stashdb", "gone", "Mira Sample", urls=(X,), live=False),
    )
    (row,) = found.suggestions
    assert (row.kind, row.record, row.other) == ("duplicate", ("stashdb", "a"), ("stashdb", "b"))
    assert row.facts == ("both list the page twitter:mira_sample", "name equal (mira sample)")
    assert found.records["stashdb", "b"].page == "https://stashdb.org/performers/b"
    assert "too few" in str(found.faces_say_nothing) or "no faces" in str(found.faces_say_nothing)


@pytest.mark.slow
def test_a_picture_of_another_person_is_found_with_that_person(world: World) -> None:
    mira, vera = world.make.person(), world.make.person()
    one = world.add(mira, "stashdb", "Mira Sample", faces=4)
    other = world.add(vera, "stashdb", "Vera Else", faces=4)
    (planted,) = add_photos(world.engine, [(one, world.make.photo(vera), None)])
    with writing(world.engine) as connection:
        images = schema.source_images
        of_image = images.c.image_id == f"i{planted}"
        connection.execute(images.update().where(of_image).values(url="https://cdn.example/planted.jpg"))
    (row,) = found_in(world).suggestions
    assert (row.kind, row.record, row.other) == ("picture_of_another", one.key, other.key)
    assert row.picture == f"i{planted}"
    assert row.subject == "https://cdn.example/planted.jpg"
    assert row.facts[0].startswith("the face agrees with 4 pictures of stashdb:x-Vera-Else: arcface 0.")
    assert row.facts[1].startswith("its own person's pictures differ: arcface ")
    assert row.confidence > 0.99


@pytest.mark.slow
def test_a_picture_that_two_records_show_is_told_to_the_wrong_one(world: World) -> None:
    mira, vera = world.make.person(), world.make.person()
    one = world.add(mira, "stashdb", "Mira Sample", faces=4)
    other = world.add(vera, "stashdb", "Vera Else", faces=4)
    photo = world.make.photo(vera)
    first, _ = add_photos(world.engine, [(one, photo, "same"), (other, photo, "same")])
    (row,) = found_in(world).suggestions
    assert (row.kind, row.record, row.other) == ("picture_of_another", one.key, other.key)
    assert row.picture == f"i{first}"


@pytest.mark.slow
def test_a_picture_of_two_in_which_one_is_anothers_is_found_by_its_collision(world: World) -> None:
    mira, vera = world.make.person(), world.make.person()
    one = world.add(mira, "stashdb", "Mira Sample", faces=1)
    other = world.add(vera, "fansdb", "Vera Else", faces=4)
    (planted,) = add_photos(world.engine, [(one, world.make.photo(vera), None)])
    (row,) = found_in(world).suggestions
    assert (row.kind, row.record, row.other) == ("picture_of_another", one.key, other.key)
    assert row.picture == f"i{planted}"
    assert "to the faces of the other person" in row.facts[0]


@pytest.mark.slow
def test_an_unknown_face_on_a_record_is_no_picture_of_another(world: World) -> None:
    one = world.add(world.make.person(), "stashdb", "Mira Sample", faces=4)
    add_photos(world.engine, [(one, world.make.photo(world.make.person()), None)])
    assert found_in(world).suggestions == ()


@pytest.mark.slow
@pytest.mark.parametrize("verdict", ["not_a_face", "not_this_person"])
@pytest.mark.parametrize("faces", [1, 4], ids=["found by its collision", "found by templates"])
def test_a_picture_with_a_verdict_is_not_suggested(world: World, verdict: str, faces: int) -> None:
    mira, vera = world.make.person(), world.make.person()
    one = world.add(mira, "stashdb", "Mira Sample", faces=faces)
    world.add(vera, "fansdb", "Vera Else", faces=4)
    (planted,) = add_photos(world.engine, [(one, world.make.photo(vera), None)])
    assert [row.picture for row in found_in(world).suggestions] == [f"i{planted}"]
    named = one.key if verdict == "not_this_person" else None
    decided = Overrides(face_verdicts=(FaceVerdict(("stashdb", f"i{planted}"), named, 2),))
    assert found_in(world, decided).suggestions == ()


def test_a_link_to_the_page_of_another_record_is_found(any_catalog: sa.Engine) -> None:
    wrong = "https://fansdb.cc/performers/00000000-0000-4000-8000-00000000000b"
    found = linked(
        any_catalog,
        Record("stashdb", "a", "Mira Sample", "FEMALE", "1990-05-05", urls=(wrong,)),
        Record("fansdb", "00000000-0000-4000-8000-00000000000b", "Vera Else", "MALE", "1970-01-02"),
    )
    (row,) = found.suggestions
    assert (row.kind, row.record) == ("link_of_another", ("stashdb", "a"))
    assert row.other == ("fansdb", "00000000-0000-4000-8000-00000000000b")
    assert row.subject == wrong
    assert row.facts == (
        "it is the page of fansdb:00000000-0000-4000-8000-00000000000b",
        "born more than 2 years apart (1990-05-05, 1970-01-02)",
        "one is female, the other male",
        "names differ",
    )


def test_a_page_that_most_sources_list_for_one_person_is_that_persons(any_catalog: sa.Engine) -> None:
    page = "https://x.com/some_account"
    found = linked(
        any_catalog,
        Record("stashdb", "a", "Mira Sample", birth_date="1990-05-05", urls=("https://x.com/else", page)),
        Record("fansdb", "a", "Mira Sample", birth_date="1990-05-05", urls=(page,)),
        Record("pmvstash", "b", "Vera Other", birth_date="1970-02-03", country="CZ", urls=(page,)),
    )
    (row,) = found.suggestions
    assert (row.record, row.other[1], row.subject) == (("pmvstash", "b"), "a", page)
    assert row.facts[0] == "2 sources list it for the other person"


def test_a_page_with_the_name_of_one_of_two_people_is_the_others_mistake(any_catalog: sa.Engine) -> None:
    found = linked(
        any_catalog,
        Record("stashdb", "a", "Mira Sample", "FEMALE", urls=(X,)),
        Record("fansdb", "b", "Vera Else", "MALE", urls=(X,)),
    )
    (row,) = found.suggestions
    assert (row.record, row.other) == (("fansdb", "b"), ("stashdb", "a"))
    assert row.facts[0] == "it has the other person's name"


def test_a_page_with_the_name_of_one_person_is_theirs_also_when_more_sources_list_it_for_another(
    catalog: sa.Engine,
) -> None:
    found = linked(
        catalog,
        Record("stashdb", "a", "Mira Sample", "FEMALE", urls=(X,)),
        Record("stashdb", "b", "Vlad Else", "MALE", birth_date="1970-02-03", urls=(X,)),
        Record("fansdb", "b", "Vlad Else", "MALE", birth_date="1970-02-03", urls=(X,)),
    )
    assert [(row.record, row.other) for row in found.suggestions] == [
        (("fansdb", "b"), ("stashdb", "a")),
        (("stashdb", "b"), ("stashdb", "a")),
    ]


def test_a_page_of_two_people_without_a_sign_of_the_owner_gives_none(any_catalog: sa.Engine) -> None:
    page = "https://x.com/the_couple"
    found = linked(
        any_catalog,
        Record("stashdb", "a", "Mira Sample", "FEMALE", urls=(page,)),
        Record("stashdb", "b", "Vlad Else", "MALE", urls=(page,)),
    )
    assert found.suggestions == ()


def test_a_page_on_too_many_records_is_one_suggestion(any_catalog: sa.Engine) -> None:
    page = "https://x.com/studio"
    found = linked(
        any_catalog, *(Record("stashdb", f"{n}", f"Given{n} Family{n}", urls=(page,)) for n in range(7))
    )
    (row,) = found.suggestions
    assert (row.record, row.other, row.subject) == (("stashdb", "0"), ("stashdb", "1"), page)
    assert row.facts[0] == "7 records of 7 people list this page"
    assert row.confidence == 0.5


def test_the_most_certain_come_first_in_any_order_of_the_findings() -> None:
    rows = [
        Suggestion(kind, ("stashdb", a), ("stashdb", b), (), score, subject)
        for kind, a, b, score, subject in (
            (SuggestionKind.LINK, "a", "b", 4.0, "u"),
            (SuggestionKind.DUPLICATE, "b", "c", 4.0, ""),
            (SuggestionKind.DUPLICATE, "a", "c", 4.0, ""),
            (SuggestionKind.PICTURE, "a", "b", 6.0, ""),
            (SuggestionKind.LINK, "a", "b", 0.0, "v"),
        )
    ]
    wanted = [rows[3], rows[2], rows[1], rows[0], rows[4]]
    for seed in range(5):
        mixed = rows.copy()
        random.Random(seed).shuffle(mixed)
        assert list(in_order(mixed)) == wanted
    assert [row.confidence for row in wanted] == [0.9999, 0.9999, 0.9999, 0.9999, 0.5]


def test_the_files_are_private_and_say_the_same(any_catalog: sa.Engine, tmp_path: Path) -> None:
    found = linked(
        any_catalog,
        Record("stashdb", "a", "Mira Sample", urls=(X,)),
        Record("stashdb", "b", "Mira Sample", urls=(X,)),
    )
    with writing(any_catalog) as connection:
        connection.execute(schema.source_performers.update().values(disambiguation="the dancer"))
    found = find_suggestions(any_catalog, WITHOUT_FACES)
    directory = tmp_path / "review"
    counts = write_suggestions(any_catalog, directory, found)
    assert counts == {"duplicate": 1, "picture_of_another": 0, "link_of_another": 0}
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (row,) = json.loads((directory / "suggestions.json").read_text())
    (line,) = csv.DictReader((directory / "suggestions.csv").read_text().splitlines())
    assert {name: "" if value is None else str(value) for name, value in row.items()} == line
    assert tuple(row) == COLUMNS
    assert row == {
        "kind": "duplicate",
        "confidence": 0.9999,
        "record": "stashdb:a",
        "name": "Mira Sample",
        "disambiguation": "the dancer",
        "page": "https://stashdb.org/performers/a",
        "other_record": "stashdb:b",
        "other_name": "Mira Sample",
        "other_disambiguation": "the dancer",
        "other_page": "https://stashdb.org/performers/b",
        "subject": None,
        "evidence": "both list the page twitter:mira_sample; name equal (mira sample)",
    }
    assert pd.read_csv(directory / "suggestions.csv").confidence.tolist() == [0.9999]


def test_an_empty_list_makes_files_with_the_columns(catalog: sa.Engine, tmp_path: Path) -> None:
    write_suggestions(catalog, tmp_path / "review", find_suggestions(catalog, WITHOUT_FACES))
    header = (tmp_path / "review" / "suggestions.csv").read_text()
    assert header == ",".join(f'"{name}"' for name in COLUMNS) + "\n"
    assert json.loads((tmp_path / "review" / "suggestions.json").read_text()) == []


@pytest.mark.parametrize(
    "name",
    ['=HYPERLINK("https://evil.example","x")', "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\uff1d1", "a\nb", "<b>|`x`</b>",
     'quo"te, comma; semicolon', "\x1b[31mred", "right\u202eleft", "lone\ud800"],
)  # fmt: skip
def test_a_hostile_name_is_one_harmless_cell(tmp_path: Path, catalog: sa.Engine, name: str) -> None:
    store(catalog, Record("stashdb", "a", "X"), Record("stashdb", "b", "X"))
    pair = (("stashdb", "a"), ("stashdb", "b"))
    row = Suggestion(SuggestionKind.DUPLICATE, *pair, (f"{name} is the name",), 4.0)
    records = {key: DescribedRecord(key, name, name, "https://stashdb.org/performers/a") for key in pair}
    counts = write_suggestions(catalog, tmp_path / "review", SuggestionList((row,), records))
    assert counts["duplicate"] == 1
    text = (tmp_path / "review" / "suggestions.csv").read_text()
    assert len(text.splitlines()) == 2
    assert visible(text) == text
    (line,) = csv.DictReader(text.splitlines())
    assert [value for value in line.values() if value.startswith(("=", "+", "-", "@", "\uff1d"))] == []
    told = (tmp_path / "review" / "suggestions.json").read_text()
    assert json.loads(told)[0]["record"] == "stashdb:a"
    assert visible(told) == told
    # An erasure finds it in both files.
    erase_traces(tmp_path, (name,), staged=False)
    assert "stashdb:a" not in (tmp_path / "review" / "suggestions.csv").read_text()
    assert not (tmp_path / "review" / "suggestions.json").exists()


@given(st.text())
def test_no_cell_is_a_formula_or_more_than_a_line(text: str) -> None:
    cell = spreadsheet_cell(text)
    assert not cell.startswith(("=", "+", "-", "@"))
    assert visible_line(cell) == cell
    assert spreadsheet_cell(cell) == cell


def planted(engine: sa.Engine) -> None:
    """A duplicate of two records, and a wrong link between two others. The ids are decimal, as some sources have them."""
    store(
        engine,
        Record("stashdb", "4711", "Mira Sample", urls=(X, ALONE)),
        Record("stashdb", "4712", "Mira Sample", urls=(X,)),
        Record("fansdb", "9001", "Vera Else", "FEMALE", "1990-05-05", urls=("https://x.com/vlad_page",)),
        Record("stashdb", "9002", "Vlad Page", "MALE", "1970-01-02", urls=("https://x.com/vlad_page",)),
    )
    rebuild_identities(engine, HOSTS, Overrides(), NOW)


def listed(engine: sa.Engine, target: str) -> Suppressions:
    """The list with one more entry, not applied yet."""
    with writing(engine) as connection:
        add_suppressions(connection, KEY, [SuppressionEntry(target, "asked", NOW.date(), unseen=True)])
    return load_suppressions(engine, KEY)


@pytest.mark.parametrize(
    ("target", "left"),
    [
        ("stashdb:4711", ["link_of_another"]),
        ("stashdb:4712", ["link_of_another"]),
        (ALONE, ["link_of_another"]),
        ("fansdb:9001", ["duplicate"]),
        ("stashdb:9002", ["duplicate"]),
    ],
)
def test_a_suppressed_person_is_in_no_suggestion_before_the_list_is_applied(
    any_catalog: sa.Engine, target: str, left: list[str]
) -> None:
    planted(any_catalog)
    assert len(find_suggestions(any_catalog, WITHOUT_FACES).suggestions) == 2
    found = find_suggestions(any_catalog, WITHOUT_FACES, listed(any_catalog, target))
    assert [row.kind for row in found.suggestions] == left
    told = json.dumps(suggestion_rows(found))
    assert target not in told
    assert len(found.records) == 2


@pytest.mark.slow
def test_a_person_who_is_suppressed_later_leaves_the_files_and_the_next_list(
    any_catalog: sa.Engine, tmp_path: Path
) -> None:
    planted(any_catalog)
    directory = tmp_path / "review"
    before = find_suggestions(any_catalog, WITHOUT_FACES)
    write_suggestions(any_catalog, directory, before)
    assert "4712" in (directory / "suggestions.csv").read_text()
    suppressions = listed(any_catalog, "stashdb:4712")
    report = erase_suppressed(
        any_catalog,
        suppressions,
        NOW,
        before=lambda erased, _: erase_traces(tmp_path, erased.traces, staged=False),
    )
    assert report.records >= 1
    left = "".join(path.read_text() for path in directory.iterdir())
    assert "4712" not in left
    assert "Mira" not in left
    assert "9002" in left
    # A list that was computed before the erasure is checked again.
    counts = write_suggestions(any_catalog, directory, before)
    assert counts == {"duplicate": 0, "picture_of_another": 0, "link_of_another": 1}
    left = "".join(path.read_text() for path in directory.iterdir())
    assert "4712" not in left
    assert "Mira" not in left


@pytest.mark.slow
def test_a_suppressed_person_of_a_planted_picture_appears_nowhere(world: World) -> None:
    mira, vera = world.make.person(), world.make.person()
    one = world.add(mira, "stashdb", "Mira Sample", faces=4)
    other = world.add(vera, "stashdb", "Vera Else", faces=4)
    add_photos(world.engine, [(one, world.make.photo(vera), None)])
    assert len(found_in(world).suggestions) == 1
    for record in (one, other):
        found = found_in(world, listed=listed(world.engine, ":".join(record.key)))
        assert found == SuggestionList()


@pytest.mark.slow
def test_a_picture_or_link_that_left_its_record_is_not_written(world: World, tmp_path: Path) -> None:
    mira, vera = world.make.person(), world.make.person()
    one = world.add(mira, "stashdb", "Mira Sample", faces=4)
    world.add(vera, "stashdb", "Vera Else", faces=4)
    (shown,) = add_photos(world.engine, [(one, world.make.photo(vera), None)])
    page = "https://x.com/vlad_page"
    store(
        world.engine,
        Record("fansdb", "9001", "Vera Else", "FEMALE", "1990-05-05", urls=(page,)),
        Record("stashdb", "9002", "Vlad Page", "MALE", "1970-01-02", urls=(page,)),
    )
    found = found_in(world)
    kept = {"duplicate": 0, "picture_of_another": 1, "link_of_another": 1}
    assert write_suggestions(world.engine, tmp_path / "review", found) == kept
    with writing(world.engine) as connection:
        images, urls = schema.performer_images, schema.performer_urls
        connection.execute(images.delete().where(images.c.image_id == f"i{shown}"))
        connection.execute(urls.delete().where(urls.c.source_id == "9001"))
    assert write_suggestions(world.engine, tmp_path / "review", found) == dict.fromkeys(kept, 0)


@pytest.mark.slow
def test_the_command_prints_the_list_and_the_same_json_as_the_file(
    catalog: sa.Engine, tmp_path: Path
) -> None:
    planted(catalog)
    directory = tmp_path / "review"
    write_suggestions(catalog, directory, find_suggestions(catalog, WITHOUT_FACES))
    variables = {
        "DATA_DIR": str(tmp_path),
        "STASH_SENSE_SOURCES": str(shipped_file("sources.yaml")),
        "STASH_SENSE_CATALOG_URL": f"sqlite:///{tmp_path / 'catalog.db'}",
        "STASH_SENSE_SUPPRESSIONS": "",
        "STASH_SENSE_MODEL_PACK": "none-installed",
        "STASH_SENSE_OVERRIDES": "",
    }
    printed = CliRunner().invoke(main, ["identity", "suggestions", "--json"], env=variables)
    assert printed.exit_code == 0, printed.output
    assert json.loads(printed.stdout) == json.loads((directory / "suggestions.json").read_text())
    shown = CliRunner().invoke(main, ["identity", "suggestions"], env=variables)
    assert shown.exit_code == 0, shown.output
    assert "  stashdb:4711  Mira Sample  https://stashdb.org/performers/4711\n" in shown.stdout
    assert "  https://x.com/vlad_page\n" in shown.stdout
    added = CliRunner().invoke(
        main, ["suppress", "add", "stashdb:4711", "--reason", "asked", "--unseen"], env=variables
    )
    assert added.exit_code == 0, added.output
    after = CliRunner().invoke(main, ["identity", "suggestions"], env=variables)
    assert "4711" not in after.output
    assert "Mira" not in after.output
    assert "Vlad Page" in after.output
