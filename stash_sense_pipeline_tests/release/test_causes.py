"""Errors of the model apart from people who stand twice in the release and faces with a wrong label."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.tables.markdown_writer import markdown_lines
from stash_sense_pipeline.release.build.face_order import FaceOrder, ReleaseVectors, normalised
from stash_sense_pipeline.release.checks.accuracy.measurement import Accuracy, measure_accuracy
from stash_sense_pipeline.release.checks.accuracy.released_people import (
    ReleasedPerson,
    names_agree,
    read_released_people,
)
from stash_sense_pipeline.release.promotion import ReleaseReport
from stash_sense_pipeline.release.reports.accuracy_tables import group_table

MODELS = ("facenet", "arcface")
FACES = 4


def person(
    name: str, *aliases: str, birth_date: str | None = None, ethnicity: str | None = None
) -> ReleasedPerson:
    return ReleasedPerson(
        name,
        frozenset(aliases),
        birth_date,
        {"gender": "FEMALE", "ethnicity": ethnicity, "country": None},
    )


class Population:
    """Sixty people with four photographs each, which tests then give the faces and names of others."""

    def __init__(self, people: int = 60) -> None:
        rng = np.random.default_rng(1)
        self.rng = rng
        self.owners = np.repeat(np.arange(people), FACES)
        directions = rng.standard_normal((people, 256))
        self.vectors = np.repeat(directions, FACES, axis=0)
        self.people = {
            number: person(f"sample{number} person", ethnicity="MIXED" if number < people // 2 else "OTHER")
            for number in range(people)
        }

    def looks_like(self, one: int, other: int, photographs: slice = slice(None)) -> None:
        self.vectors[np.flatnonzero(self.owners == one)[photographs]] = self.vectors[other * FACES]

    def measure(self) -> Accuracy:
        noise = 0.3 * self.rng.standard_normal(self.vectors.shape)
        table = normalised((self.vectors + noise).astype("f4"))
        order = FaceOrder(np.arange(len(self.owners)) + 1000, self.owners)
        return measure_accuracy(ReleaseVectors(order, dict.fromkeys(MODELS, table)), self.people)


def strangers_named(accuracy: Accuracy) -> float:
    row = next(row for row in accuracy.thresholds.rows if (row.distance, row.faces) == (0.5, "all"))
    assert row.strangers is not None
    return row.strangers.share


def test_a_person_who_stands_twice_is_a_split_and_no_error_of_the_model() -> None:
    population = Population()
    population.looks_like(1, 0)
    population.people[1] = person("sample0 person", ethnicity="MIXED")
    accuracy = population.measure()
    assert accuracy.wrong.splits == ((0, 1),)
    assert accuracy.wrong.labels == ()
    assert strangers_named(accuracy) == 0
    assert accuracy.thresholds.aside == {"split": 8, "label": 0}
    groups = {group.group: group for group in accuracy.groups}
    mixed = groups["ethnicity: MIXED"]
    assert mixed.misnamed is not None
    assert mixed.strangers is not None
    assert (mixed.misnamed.share, mixed.strangers.share, mixed.splits, mixed.labels) == (0, 0, 2, 0)
    assert groups["ethnicity: OTHER"].splits == 0


def test_two_people_who_look_alike_under_different_names_are_errors_of_the_model() -> None:
    population = Population()
    population.looks_like(1, 0)
    accuracy = population.measure()
    assert accuracy.wrong.splits == ()
    assert strangers_named(accuracy) == pytest.approx(2 / 60)
    mixed = {group.group: group for group in accuracy.groups}["ethnicity: MIXED"]
    assert mixed.strangers is not None
    assert (mixed.strangers.share, mixed.splits) == (pytest.approx(2 / 30), 0)


def test_two_people_with_one_name_who_do_not_look_alike_are_no_split() -> None:
    population = Population()
    population.people[1] = person("sample0 person")
    accuracy = population.measure()
    assert (accuracy.wrong.splits, strangers_named(accuracy)) == ((), 0)


def test_a_face_under_a_wrong_label_is_no_error_of_the_model() -> None:
    """The last photograph of person 1 is one of person 0."""
    population = Population()
    population.looks_like(1, 0, slice(3, 4))
    accuracy = population.measure()
    assert accuracy.wrong.labels == ((1000 + 7, 1, 0),)
    assert strangers_named(accuracy) == 0
    # The photograph finds person 0, and the four of person 0 find it when they are strangers.
    assert accuracy.thresholds.aside == {"split": 0, "label": 5}
    mixed = {group.group: group for group in accuracy.groups}["ethnicity: MIXED"]
    assert (mixed.splits, mixed.labels) == (0, 2)


def test_a_photograph_that_looks_like_its_own_person_too_is_an_error_of_the_model() -> None:
    """The last photographs of person 1 lie between persons 0 and 1: within the sidecar's distance of both."""
    population = Population()
    faces = np.flatnonzero(population.owners == 1)[3:]
    population.vectors[faces] = 1.5 * population.vectors[0] + population.vectors[faces]
    accuracy = population.measure()
    assert accuracy.wrong.labels == ()
    assert strangers_named(accuracy) > 0


def test_a_group_of_fewer_than_20_people_says_that_it_is_small() -> None:
    population = Population()
    for number in range(5):
        population.people[number] = person(f"sample{number} person", ethnicity="ASIAN")
    groups = {group.group: group for group in population.measure().groups}
    assert groups["ethnicity: ASIAN"].small
    assert (groups["ethnicity: ASIAN"].people, groups["ethnicity: ASIAN"].strangers) == (5, None)
    assert (groups["gender: FEMALE"].people, groups["gender: FEMALE"].small) == (60, False)
    assert groups["country: unknown"].people == 60
    rows = markdown_lines(group_table(tuple(groups.values())))
    assert "| ethnicity: ASIAN | 5 | small (fewer than 20), no rate | - | - | - | - |" in rows
    (large,) = (row for row in rows if row.startswith("| gender: FEMALE | 60 |"))
    assert large == "| gender: FEMALE | 60 | 0.0 % (0.0-6.0) | 0.0 % (0.0-6.0) | 0.0 % (0.0-6.0) | 0 | 0 |"


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        (person("ann sample"), person("ann sample"), True),
        (person("ann sample", birth_date="1990"), person("ann sample", birth_date="1990-05-02"), True),
        (person("ann sample", birth_date="1990-05"), person("ann sample", birth_date="1990-06-02"), False),
        (person("ann sample"), person("other test", "ann sample"), True),
        (person("ann sample", "duo name"), person("other test", "duo name"), True),
        (person("ann sample", "ann"), person("other test", "ann"), False),
        (person("ann"), person("ann"), True),
        (person(""), person(""), False),
        (person("ann sample"), person("other test"), False),
    ],
)
def test_names_agree(one: ReleasedPerson, other: ReleasedPerson, agree: bool) -> None:
    assert names_agree(one, other) is names_agree(other, one) is agree


def test_the_people_of_a_release_are_compared_by_folded_names(world: tuple[Path, ReleaseReport]) -> None:
    _, report = world
    people = read_released_people(report.path)
    assert len(people) == 40
    # Person 0 of the world has performer id 40 and records at stashdb and fansdb.
    assert people[40].folded_name == "0 person"
    assert {"0 person", "0 alias fansdb of"} <= people[40].folded_names
    assert people[39].birth_date == "1990-01"


def test_a_release_without_performers_is_refused_in_one_line(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "performers.db") as database:
        database.execute("CREATE TABLE aliases (performer_id, alias)")
    with pytest.raises(ReleaseError, match=r"cannot read .*performers\.db: no such table: performers"):
        read_released_people(tmp_path)
