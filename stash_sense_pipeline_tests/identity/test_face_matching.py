"""Faces as evidence: templates, calibration, matches, and the support that a link by faces needs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.queries.identity.identity_runs import last_run
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.identity.face_matching.calibration import Calibration
from stash_sense_pipeline.identity.face_matching.face_agreement import find_matches, find_matches_around
from stash_sense_pipeline.identity.face_matching.face_templates import build_templates, make_template
from stash_sense_pipeline.identity.face_matching.template_set import TemplateSet
from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline.identity.linkage.overrides import Overrides
from stash_sense_pipeline.identity.rebuild import IdentityReport, rebuild_identities
from stash_sense_pipeline.identity.review import write_review
from stash_sense_pipeline_tests.identity.face_world import MODELS, FaceMaker, add_photos
from stash_sense_pipeline_tests.identity.population import HOSTS, NOW, members, store_many
from stash_sense_pipeline_tests.identity.test_incremental import content

_LINKED = 150


@dataclass
class World:
    """People with a record in each of two boxes. The records link to each other, for the calibration."""

    engine: sa.Engine
    make: FaceMaker = field(default_factory=lambda: FaceMaker(np.random.default_rng(11)))

    def fill(self) -> None:
        records = []
        photos = []
        for number in range(_LINKED):
            url = f"https://x.com/person{number}"
            person = self.make.person()
            for box in ("stashdb", "fansdb"):
                record = Record(box, f"{number:04d}", f"Given{number} Family{number}", urls=(url,))
                records.append(record)
                photos += [(record, self.make.photo(person), None) for _ in range(2)]
        store_many(self.engine, records)
        add_photos(self.engine, photos)

    def add(self, person: dict[str, np.ndarray], box: str, name: str, faces: int = 2, **facts: str) -> Record:
        record = Record(box, f"x-{name.replace(' ', '-')}", name, **facts)  # type: ignore[arg-type]
        store_many(self.engine, [record])
        add_photos(self.engine, [(record, self.make.photo(person), None) for _ in range(faces)])
        return record

    def rebuild(self, *, full: bool = False) -> IdentityReport:
        return rebuild_identities(self.engine, HOSTS, Overrides(), NOW, models=MODELS, full=full)

    def together(self, a: Record, b: Record) -> bool:
        keys = {":".join(a.key), ":".join(b.key)}
        return any(keys <= found for found in members(self.engine).values())


@pytest.fixture(scope="module")
def filled(catalog_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(shutil.copy2(catalog_file, tmp_path_factory.mktemp("faces") / "catalog.db"))
    engine = open_catalog(f"sqlite:///{path}")
    World(engine).fill()
    engine.dispose()
    return path


@pytest.fixture
def world(filled: Path, tmp_path: Path) -> World:
    engine = open_catalog(f"sqlite:///{shutil.copy2(filled, tmp_path / 'catalog.db')}")
    return World(engine, FaceMaker(np.random.default_rng(12)))


@pytest.mark.slow
def test_thresholds_are_calibrated_and_recorded(world: World) -> None:
    report = world.rebuild()
    found = report.calibration
    assert [row.model for row in found.thresholds] == ["arcface", "facenet"]
    assert all(row.recall > 0.9 and 0.2 < row.match_threshold < 0.9 for row in found.thresholds)
    assert found.grounds is not None
    assert found.grounds.precision > found.grounds.precision_at_least >= 0.999
    assert found.grounds.recall > 0.9
    assert found.positives == _LINKED
    with reading(world.engine) as connection:
        run = last_run(connection)
    assert run is not None
    assert Calibration.from_detail(run.detail["calibration"]) == found
    assert report.templates == 2 * _LINKED


@pytest.mark.slow
def test_a_name_and_a_face_are_one_person(world: World) -> None:
    who, twin = world.make.person(), world.make.person()
    one, other = world.add(who, "stashdb", "Mira Sample"), world.add(who, "fansdb", "Mira Sample")
    single = [world.add(twin, box, "Tara Test", faces=1) for box in ("stashdb", "fansdb")]
    report = world.rebuild()
    assert world.together(one, other)
    assert world.together(*single)
    assert report.evidence["face"] >= 2
    with reading(world.engine) as connection:
        table = schema.identity_evidence.c
        query = sa.select(table.key, table.weight).where(table.kind == "face", table.source_id_a.like("x-%"))
        rows = {row.key: row.weight for row in connection.execute(query)}
    assert sorted(rows.values()) == [1.4, 2.4]
    assert any("(2 and 2 faces)" in key for key in rows)


@pytest.mark.slow
@pytest.mark.parametrize("facts", [{}, {"birth_date": "1990-05-05", "country": "CZ"}])
def test_a_face_match_links_no_records_without_a_name_even_with_equal_birth_dates(
    world: World, facts: dict[str, str]
) -> None:
    who = world.make.person()
    one = world.add(who, "stashdb", "Mira Sample", **facts)
    other = world.add(who, "fansdb", "Vera Else", **facts)
    world.rebuild()
    assert not world.together(one, other)
    counts = write_review(world.engine, Path(str(world.engine.url.database)).parent / "review", NOW)
    assert counts["face"] == 1


@pytest.mark.slow
def test_namesakes_with_different_faces_stay_apart(world: World) -> None:
    born = {"birth_date": "1990-05-05"}
    one = world.add(world.make.person(), "stashdb", "Mira Sample", **born)
    other = world.add(world.make.person(), "fansdb", "Mira Sample", **born)
    few = [world.add(world.make.person(), box, "Tara Test", faces=1, **born) for box in ("stashdb", "fansdb")]
    calibration = world.rebuild().calibration
    assert len(calibration.mismatch_thresholds) == 0
    assert world.together(one, other)
    assert world.together(*few)
    # With enough certain pairs there are mismatch thresholds, and faces speak against the pair.
    more = [f"https://x.com/more{n}" for n in range(100)]
    records = [
        Record(box, f"more{n}", f"Other{n} Name{n}", urls=(url,))
        for n, url in enumerate(more)
        for box in ("stashdb", "fansdb")
    ]
    store_many(world.engine, records)
    people = [world.make.person() for _ in more]
    add_photos(
        world.engine,
        [
            (record, world.make.photo(people[n // 2]), None)
            for n, record in enumerate(records)
            for _ in range(2)
        ],
    )
    assert len(world.rebuild(full=True).calibration.mismatch_thresholds) == 2
    assert not world.together(one, other)
    assert world.together(*few)


@pytest.mark.slow
def test_a_face_with_two_similar_candidates_matches_neither(world: World) -> None:
    who = world.make.person()
    one = world.add(who, "stashdb", "Mira Sample")
    others = [
        world.add(world.make.like(who, 0.95), "fansdb", name) for name in ("Mira Sample", "Nora Sample")
    ]
    world.rebuild()
    assert not any(world.together(one, other) for other in others)


@pytest.mark.slow
def test_an_equal_picture_adds_no_evidence_of_faces(world: World) -> None:
    who = world.make.person()
    one, other = Record("stashdb", "x-1", "Mira Sample"), Record("fansdb", "x-2", "Vera Else")
    store_many(world.engine, [one, other])
    photo = world.make.photo(who)
    add_photos(world.engine, [(one, photo, "same"), (other, photo, "same")])
    world.rebuild()
    assert not world.together(one, other)


def test_too_few_to_calibrate_means_no_face_links(catalog: sa.Engine) -> None:
    world = World(catalog)
    who = world.make.person()
    one, other = world.add(who, "stashdb", "Mira Sample"), world.add(who, "fansdb", "Mira Sample")
    report = world.rebuild()
    assert report.calibration.thresholds == ()
    assert "too few to calibrate: 0 pairs" in str(report.calibration.reason)
    assert not world.together(one, other)


@pytest.mark.slow
def test_an_incremental_run_with_faces_equals_one_over_everything(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the same thresholds: a run over everything takes new ones, an incremental one keeps them."""
    worlds = [
        World(open_catalog(f"sqlite:///{shutil.copy2(filled, tmp_path / name)}")) for name in ("a.db", "b.db")
    ]
    first = [world.rebuild() for world in worlds]
    assert first[0].calibration == first[1].calibration
    monkeypatch.setattr("stash_sense_pipeline.identity.rebuild.calibrate", lambda *_: first[0].calibration)
    steps = [
        lambda world, make: world.add(make.person(), "stashdb", "Mira Sample"),
        lambda world, make: (
            world.add(person := make.person(), "pmvstash", "Tara Test"),
            world.add(person, "javstash", "Tara Test"),
            world.add(make.like(person, 0.9), "javstash", "Lana Test"),
        ),
        lambda world, _: _without_faces(world.engine, "javstash", "x-Lana-Test"),
    ]
    for number, step in enumerate(steps):
        reports = []
        for world, full in zip(worlds, (True, False), strict=True):
            world.make = FaceMaker(np.random.default_rng(number))
            step(world, world.make)
            reports.append(world.rebuild(full=full))
        assert [report.incremental for report in reports] == [False, True]
        assert content(worlds[0].engine) == content(worlds[1].engine)
    assert worlds[1].together(Record("pmvstash", "x-Tara-Test"), Record("javstash", "x-Tara-Test"))


def _without_faces(engine: sa.Engine, source: str, source_id: str) -> None:
    shown = schema.performer_images.c
    images = sa.select(shown.image_id).where(shown.source == source, shown.source_id == source_id)
    with writing(engine) as connection:
        connection.execute(
            schema.faces.delete().where(schema.faces.c.source == source, schema.faces.c.image_id.in_(images))
        )


@pytest.mark.slow
def test_find_matches_around_gives_the_part_of_find_matches(world: World) -> None:
    report = world.rebuild()
    templates = TemplateSet.of(build_templates(ShortReads(world.engine), MODELS, frozenset()), MODELS)
    everything = find_matches(templates, report.calibration)
    assert len(everything) >= 0.9 * _LINKED
    some = [("stashdb", f"{n:04d}") for n in range(0, _LINKED, 7)]
    assert find_matches_around(templates, report.calibration, some) == {
        pair: row for pair, row in everything.items() if set(pair) & set(some)
    }


def test_a_template_leaves_out_outliers_and_copies() -> None:
    make = FaceMaker(np.random.default_rng(3))
    who, other = make.person(), make.person()
    photos = [make.photo(who) for _ in range(3)]

    def template(*shots: dict[str, np.ndarray]) -> tuple[int, float] | None:
        found = make_template(
            [np.stack([shot[model] for shot in shots]).astype(np.float32) for model in MODELS]
        )
        if found is None:
            return None
        return found.faces, float(found.vector[:64].astype(float) @ who["arcface"])

    assert template(photos[0])[0] == 1
    # A copy of a shot is no second face.
    assert template(photos[0], photos[0])[0] == 1
    assert template(*photos)[0] == 3
    # The outlier is left out. Of two faces that differ, neither is known to be the person's.
    assert template(*photos, make.photo(other))[0] == 3
    assert template(photos[0], make.photo(other)) is None
    assert template({model: np.zeros(64) for model in MODELS}) is None
    assert template(*photos)[1] > 0.7
