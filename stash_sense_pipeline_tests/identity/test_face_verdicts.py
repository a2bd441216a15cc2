"""Verdicts of the operator on faces: how they are written, what they leave out, and how long they last."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.bounded_reads import ShortReads
from stash_sense_pipeline.catalog.queries.face_templates import Template, read_templates
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.identity.explain import explain
from stash_sense_pipeline.identity.face_matching.face_templates import models_digest
from stash_sense_pipeline.identity.face_matching.trusted_faces import TrustReport, choose_trusted_faces
from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline.identity.linkage.evidence import WEIGHTS
from stash_sense_pipeline.identity.linkage.face_verdicts import resolve_verdicts
from stash_sense_pipeline.identity.linkage.overrides import (
    Overrides,
    load_overrides,
    without_suppressed,
)
from stash_sense_pipeline.identity.override_resolution import refused_overrides
from stash_sense_pipeline.identity.rebuild import IdentityReport, rebuild_identities
from stash_sense_pipeline.identity.review import write_review
from stash_sense_pipeline.identity.run_steps import RunRules
from stash_sense_pipeline.privacy.suppression.suppression_hashes import image_id_hash, record_hash
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions
from stash_sense_pipeline_tests.identity.face_world import MODELS, FaceMaker, add_photos
from stash_sense_pipeline_tests.identity.population import HOSTS, NOW, store

URL = "https://x.com/sample_person"
ANNA = Record("stashdb", "anna", "Anna Sample", urls=(URL,))
ANNA_TOO = Record("fansdb", "anna2", "Anna Sample", urls=(URL,))
BERTA = Record("stashdb", "berta", "Berta Other")


@dataclass
class World:
    """Anna, with a record in two boxes, and Berta. One of Anna's three pictures in stashdb is the stranger's."""

    engine: sa.Engine
    path: Path
    make: FaceMaker = field(default_factory=lambda: FaceMaker(np.random.default_rng(4)))
    images: dict[str, list[str]] = field(default_factory=dict)

    def fill(self) -> None:
        store(self.engine, ANNA, ANNA_TOO, BERTA)
        anna, berta = self.make.person(), self.make.person()
        for name, record, person, count in (
            ("anna", ANNA, anna, 3),
            ("anna2", ANNA_TOO, anna, 2),
            ("berta", BERTA, berta, 1),
        ):
            shots = [(record, self.make.photo(person), None) for _ in range(count)]
            self.images[name] = [f"i{face_id}" for face_id in add_photos(self.engine, shots)]

    def say(self, text: str) -> Overrides:
        self.path.write_text(text)
        return load_overrides(self.path)

    def identities(self, overrides: Overrides) -> IdentityReport:
        return rebuild_identities(self.engine, HOSTS, overrides, NOW, models=MODELS)

    def choose(self, overrides: Overrides) -> TrustReport:
        return choose_trusted_faces(
            self.engine,
            max_faces_per_performer=20,
            source_caps=dict.fromkeys(HOSTS, 20),
            trust=dict.fromkeys(HOSTS, "high"),
            models=MODELS,
            overrides=overrides,
        )

    def run(self, overrides: Overrides) -> set[str]:
        """The trusted images after both runs."""
        self.identities(overrides)
        self.choose(overrides)
        return self.trusted()

    def trusted(self) -> set[str]:
        query = sa.select(schema.faces.c.image_id).join(
            schema.trusted_faces, schema.trusted_faces.c.face_id == schema.faces.c.face_id
        )
        with reading(self.engine) as connection:
            return set(connection.scalars(query))

    def template(self, record: Record) -> Template | None:
        with reading(self.engine) as connection:
            return read_templates(connection, models_digest(MODELS)).get(record.key)

    @property
    def everything(self) -> set[str]:
        return {image for some in self.images.values() for image in some}


@pytest.fixture
def world(any_catalog: sa.Engine, tmp_path: Path) -> World:
    made = World(any_catalog, tmp_path / "identity_overrides.yaml")
    made.fill()
    return made


def snapshot(engine: sa.Engine) -> dict[str, list[Any]]:
    """All rows of the tables that identity runs and choices of faces write."""
    names = ("identities", "identity_members", "identity_evidence", "face_templates", "trusted_faces")
    names += ("face_exclusions", "face_collisions", "identity_runs")
    with reading(engine) as connection:
        return {
            name: sorted(map(repr, connection.execute(sa.select(schema.metadata.tables[name]))))
            for name in names
        }


@pytest.mark.slow
def test_a_verdict_takes_the_face_out_of_the_trusted_faces_and_the_template(world: World) -> None:
    assert world.run(Overrides()) == world.everything
    before = world.template(ANNA)
    first, second, _ = world.images["anna"]
    said = world.say(
        f"not_this_person:\n- [stashdb:{first}, stashdb:anna]\nnot_a_face:\n- stashdb:{second}\n"
    )
    assert world.run(said) == world.everything - {first, second}
    after = world.template(ANNA)
    assert before is not None
    assert after is not None
    assert (before.faces, after.faces) == (3, 1)
    assert not world.identities(said).changed
    assert not world.choose(said).changed
    # Without the verdicts both come back.
    assert world.run(Overrides()) == world.everything
    assert world.template(ANNA) is not None


def test_a_verdict_on_one_record_holds_for_all_records_of_the_person(world: World) -> None:
    image = world.images["anna"][0]
    said = world.say(f"not_this_person: [[stashdb:{image}, fansdb:anna2]]")
    assert world.run(said) == world.everything - {image}
    # It is no evidence against another person: Berta's picture stays hers.
    other = world.say(f"not_this_person: [[stashdb:{world.images['berta'][0]}, fansdb:anna2]]")
    assert world.run(other) == world.everything


def test_a_verdict_holds_after_the_source_merged_the_record_and_after_a_new_sync(world: World) -> None:
    image = world.images["anna"][0]
    said = world.say(f"not_this_person: [[stashdb:{image}, stashdb:anna]]")
    successor = Record("stashdb", "anna-new", "Anna Sample", urls=(URL,))
    store(world.engine, successor, Record("stashdb", "anna", live=False, merged_into="anna-new"))
    with writing(world.engine) as connection:
        shown = schema.performer_images
        connection.execute(shown.update().where(shown.c.source_id == "anna").values(source_id="anna-new"))
    assert world.run(said) == world.everything - {image}
    template = world.template(successor)
    assert template is not None
    assert template.faces == 2
    # A sync writes the record anew.
    store(world.engine, successor)
    assert world.run(said) == world.everything - {image}


@pytest.mark.slow
def test_a_verdict_on_an_image_that_its_source_removed_is_reported_and_counts_when_it_returns(
    world: World, tmp_path: Path
) -> None:
    said = world.say("not_a_face:\n- stashdb:gone\n- stashdb:i0\n")
    plain = World(world.engine, world.path, images=world.images)
    before = plain.run(Overrides())
    found = resolve_verdicts(ShortReads(world.engine), said.path, said.face_verdicts)
    assert [problem.rpartition("/")[2] for problem in found.problems] == [
        f"identity_overrides.yaml:{line}: not_a_face names the image stashdb:{image}, which the catalog does not hold: "
        "it has no effect"
        for line, image in ((2, "gone"), (3, "i0"))
    ]
    assert world.run(said) == before
    counts = write_review(world.engine, tmp_path / "review", NOW, said)
    assert counts["verdict"] == 2
    # The source lists an image with this id again.
    with writing(world.engine) as connection:
        row = {"source": "stashdb", "image_id": "gone"}
        image = connection.execute(
            sa.select(schema.faces).where(schema.faces.c.image_id == world.images["berta"][0])
        ).one()
        connection.execute(
            schema.source_images.insert().values(**row, url="u", state="done", sha256="new", processed_at=NOW)
        )
        connection.execute(schema.performer_images.insert().values(**row, source_id="anna"))
        values = {**image._mapping, **row, "face_id": 999_999}
        connection.execute(schema.faces.insert().values(**values))
        for vector in connection.execute(
            sa.select(schema.embeddings).where(schema.embeddings.c.face_id == image.face_id)
        ).all():
            connection.execute(schema.embeddings.insert().values(**{**vector._mapping, "face_id": 999_999}))
    assert world.run(said) == before
    with reading(world.engine) as connection:
        reasons = connection.scalars(sa.select(schema.face_exclusions.c.reason)).all()
    assert reasons == ["not a face"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not_a_face: stashdb:i1", "not_a_face: must be a list of source:image"),
        ("not_a_face:\n- [stashdb:i1, stashdb:a]", ":2: not_a_face.0: ['stashdb:i1', 'stashdb:a'] is not of the form"),
        ("not_a_face:\n- i1", ":2: not_a_face.0: 'i1' is not of the form source:image"),
        ("not_a_face: [7]", "7 is not of the form source:image"),
        ("not_this_person: {a: b}", "not_this_person: must be a list of pairs [source:image, source:id]"),
        ("not_this_person:\n- stashdb:i1", ":2: not_this_person.0: must be a pair [source:image, source:id]"),
        ("not_this_person:\n- [stashdb:i1]", ":2: not_this_person.0: must be a pair"),
        ("not_this_person:\n- [stashdb:i1, a]", ":2: not_this_person.0.1: 'a' is not of the form source:id"),
        ("not_this_person:\n- [':', stashdb:a]", ":2: not_this_person.0.0: ':' is not of the form source:image"),
        ("not_a_face:\n- stashdb:i1\n- stashdb:i1", ":3: not_a_face.1: repeats line 2; remove one"),
        (
            "not_this_person:\n- [stashdb:i1, stashdb:a]\n- [stashdb:i2, stashdb:a]\n- [stashdb:i1, 'stashdb: a']",
            ":4: not_this_person.2: repeats line 2; remove one",
        ),
        (
            "not_a_face:\n- stashdb:i1\nnot_this_person:\n- [stashdb:i1, stashdb:a]",
            ":2: not_a_face.0: contradicts not_this_person of line 4",
        ),
        ("not_the_face: []", "not_the_face: is not known; allowed are must_link, cannot_link, duplicates,"),
        ("- x", "must be a mapping with must_link, cannot_link, duplicates, not_this_person, not_a_face,"),
    ],
)  # fmt: skip
def test_malformed_repeated_and_contradicting_verdicts_are_refused_with_their_line(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "identity_overrides.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        load_overrides(path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)


def test_two_people_may_both_not_be_in_one_picture(tmp_path: Path) -> None:
    path = tmp_path / "identity_overrides.yaml"
    path.write_text("not_this_person:\n- [s:i1, s:a]\n- [s:i1, s:b]\n")
    assert len(load_overrides(path).face_verdicts) == 2


def test_a_verdict_on_an_unknown_record_is_refused_by_itself(world: World) -> None:
    image = world.images["anna"][0]
    world.run(world.say(f"not_a_face:\n- stashdb:{image}\n"))
    without = snapshot(world.engine)
    said = world.say(
        f"not_a_face:\n- stashdb:{image}\nnot_this_person:\n- [stashdb:{image}x, stashdb:unknown]\n"
    )
    world.run(said)
    # Only the note of the rules of the run differs.
    found = snapshot(world.engine)
    assert {**found, "identity_runs": []} == {**without, "identity_runs": []}
    (refused,) = refused_overrides(ShortReads(world.engine), said)
    assert (
        "overrides.yaml:4: not_this_person names stashdb:unknown, which the catalog does not hold" in refused
    )


def test_verdicts_on_suppressed_people_do_not_stop_a_run(tmp_path: Path) -> None:
    key = bytes(range(32))
    path = tmp_path / "identity_overrides.yaml"
    path.write_text(
        "not_this_person:\n- [s:i1, s:gone]\n- [s:i2, s:stays]\nnot_a_face:\n- s:theirs\n- s:kept\n"
    )
    listed = Suppressions(
        key,
        records=frozenset({record_hash(key, "s", "gone")}),
        pictures=frozenset({image_id_hash(key, "s", "theirs")}),
    )
    left = without_suppressed(load_overrides(path), listed)
    assert [str(row) for row in left.face_verdicts] == ["not_this_person s:i2, s:stays", "not_a_face s:kept"]


def test_other_verdicts_are_other_rules(tmp_path: Path) -> None:
    path = tmp_path / "identity_overrides.yaml"
    texts = ("", "not_a_face: [s:i1]", "not_a_face: [s:i2]", "not_this_person: [[s:i1, s:a]]")
    digests = set()
    for text in texts:
        path.write_text(text or "must_link: []")
        digests.add(RunRules(HOSTS, load_overrides(path), WEIGHTS, MODELS).digest())
    assert len(digests) == len(texts)
    path.write_text("# one line further down\nnot_this_person: [[s:i1, s:a]]")
    assert RunRules(HOSTS, load_overrides(path), WEIGHTS, MODELS).digest() in digests


@pytest.mark.slow
def test_explain_and_the_review_show_the_verdict_and_a_person_left_without_a_face(
    world: World, tmp_path: Path
) -> None:
    image = world.images["berta"][0]
    said = world.say(f"not_this_person:\n- [stashdb:{image}, stashdb:berta]\nnot_a_face:\n- stashdb:gone\n")
    world.identities(said)
    report = world.choose(said)
    assert (report.faceless, report.dropped["not this person"]) == (1, 1)
    lines = explain(world.engine, "stashdb", "berta", said).lines()
    begin = lines.index("faces left out:")
    assert lines[begin : begin + 5] == [
        "faces left out:",
        f"  stashdb:{image}  not this person",
        "  no face is left: releases do not show this performer",
        "your verdicts:",
        f"  line 2: not_this_person stashdb:{image}, stashdb:berta",
    ]
    of_anna = explain(world.engine, "stashdb", "anna", said).lines()
    assert "faces left out:" not in of_anna
    begin = of_anna.index("faces in releases:")
    assert {line.strip() for line in of_anna[begin + 1 : begin + 6]} == {
        f"{source}:{image}"
        for source, name in (("stashdb", "anna"), ("fansdb", "anna2"))
        for image in world.images[name]
    }
    counts = write_review(world.engine, tmp_path / "review", NOW, said)
    assert (counts["verdict"], counts["no_face"]) == (2, 1)
    rows = list(csv.DictReader((tmp_path / "review" / "identity.csv").read_text().splitlines()))
    assert [(row["about"], row["reason"]) for row in rows if row["section"] == "no_face"] == [
        ("stashdb:berta", "1 not this person")
    ]
    assert any(":4: not_a_face names the image stashdb:gone" in row["evidence"] for row in rows)
    # The picture is the operator's word: it is shown before a run has read it.
    with writing(world.engine) as connection:
        connection.execute(schema.face_exclusions.delete())
    assert (
        f"  line 2: not_this_person stashdb:{image}, stashdb:berta"
        in explain(world.engine, "stashdb", "berta", said).lines()
    )


def test_a_picture_with_a_verdict_is_no_evidence(world: World) -> None:
    """Two equal pictures link two records. With a verdict on one of them they do not."""
    one, two = Record("stashdb", "x1", "Carla One"), Record("fansdb", "x2", "Carla One")
    store(world.engine, one, two)
    who = world.make.person()
    shots = [world.make.photo(who) for _ in range(2)]
    made = add_photos(
        world.engine, [(record, shot, f"equal{n}") for record in (one, two) for n, shot in enumerate(shots)]
    )
    assert world.identities(Overrides()).evidence["image"] == 2
    said = world.say(f"not_this_person: [[stashdb:i{made[0]}, stashdb:x1]]\nnot_a_face: [fansdb:i{made[3]}]")
    assert world.identities(said).evidence.get("image", 0) == 0
