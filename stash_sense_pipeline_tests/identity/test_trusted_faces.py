from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.queries.identity.trusted_faces import read_candidates, read_collisions
from stash_sense_pipeline.catalog.schema import (
    embeddings,
    faces,
    identities,
    identity_members,
    performer_images,
    site_rejections,
    source_images,
    source_performers,
    trusted_faces,
)
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.identity.face_matching import accepted_faces, cleaning
from stash_sense_pipeline.identity.face_matching.trust_policy import TrustPolicy
from stash_sense_pipeline.identity.face_matching.trusted_faces import TrustReport, choose_trusted_faces
from stash_sense_pipeline.privacy.erasure import erase_alone
from stash_sense_pipeline_tests.identity.population import NOW

MODELS = {"arcface": "digest-a", "facenet": "digest-f"}
CAPS = {"stashdb": 10, "fansdb": 10, "medium": 10, "low": 10}
TRUST = {"stashdb": "high", "fansdb": "high", "medium": "medium", "low": "low"}


@dataclass
class Gallery:
    """Puts faces into a catalog. Each person is a direction; a face of them stands off it by `spread`."""

    engine: sa.Engine
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))
    faces: int = 0

    def person(self) -> np.ndarray:
        return self.rng.standard_normal(64)

    def record(self, performer_id: int, source: str, source_id: str) -> None:
        with writing(self.engine) as connection:
            if (
                connection.execute(
                    sa.select(identities).where(identities.c.performer_id == performer_id)
                ).first()
                is None
            ):
                connection.execute(identities.insert().values(performer_id=performer_id, created_at=NOW))
            key = {"source": source, "source_id": source_id}
            connection.execute(
                source_performers.insert().values(**key, name="X", first_seen_at=NOW, changed_at=NOW)
            )
            connection.execute(identity_members.insert().values(**key, performer_id=performer_id))

    def image(self, source: str, image_id: str, *owners: str, sha256: str | None = None) -> None:
        with writing(self.engine) as connection:
            connection.execute(
                source_images.insert().values(
                    source=source,
                    image_id=image_id,
                    url="u",
                    state="done",
                    sha256=sha256 or f"{source}/{image_id}",
                )
            )
            for owner in owners:
                connection.execute(
                    performer_images.insert().values(source=source, source_id=owner, image_id=image_id)
                )

    def face(
        self,
        source: str,
        image_id: str,
        who: np.ndarray,
        spread: float = 0.5,
        quality: float = 0.5,
        models: dict[str, str] = MODELS,
        index: int = 0,
    ) -> int:
        vectors = {model: 3 * (who + spread * self.rng.standard_normal(64)) for model in models}
        with writing(self.engine) as connection:
            result: Any = connection.execute(
                faces.insert().values(
                    source=source, image_id=image_id, face_index=index, detection_confidence=0.9, x1=0, y1=0, x2=9, y2=9,
                    landmarks=b"", yaw=0, roll=0, blur=1, quality=quality, pack="p", detector_digest="d", created_at=NOW,
                )
            )  # fmt: skip
            face_id = int(result.inserted_primary_key[0])
            for model, vector in vectors.items():
                connection.execute(
                    embeddings.insert().values(
                        face_id=face_id, model=model, vector=vector.astype("<f4").tobytes(), pack="p",
                        model_digest=models[model], created_at=NOW,
                    )
                )  # fmt: skip
        self.faces += 1
        return face_id

    def shot(self, source: str, owner: str, who: np.ndarray, **how: Any) -> int:
        """One image with one face."""
        image_id = f"i{self.faces}"
        self.image(source, image_id, owner)
        return self.face(source, image_id, who, **how)


@pytest.fixture
def gallery(catalog: sa.Engine) -> Gallery:
    return Gallery(catalog)


def choose(gallery: Gallery, most: int = 20, **changes: Any) -> TrustReport:
    arguments: dict[str, Any] = {"source_caps": CAPS, "trust": TRUST, "models": MODELS} | changes
    return choose_trusted_faces(gallery.engine, max_faces_per_performer=most, **arguments)


def trusted(gallery: Gallery) -> dict[int, tuple[int, int]]:
    """face_id to (performer_id, rank)."""
    with reading(gallery.engine) as connection:
        return {
            row.face_id: (row.performer_id, row.rank) for row in connection.execute(sa.select(trusted_faces))
        }


def test_good_faces_of_both_sources_are_trusted(any_catalog: sa.Engine) -> None:
    gallery = Gallery(any_catalog)
    who = gallery.person()
    gallery.record(1, "stashdb", "a")
    gallery.record(1, "fansdb", "b")
    best = gallery.shot("stashdb", "a", who, quality=0.9)
    other = gallery.shot("fansdb", "b", who, quality=0.6)
    report = choose(gallery)
    assert trusted(gallery) == {best: (1, 0), other: (1, 1)}
    assert (report.performers, report.faces, report.added, report.dropped["cap of the performer"]) == (
        1,
        2,
        2,
        0,
    )
    assert report.faces_by_source == {"fansdb": 1, "stashdb": 1}
    again = choose(gallery)
    assert not again.changed
    gallery.shot("stashdb", "a", who, quality=0.7)
    third = choose(gallery)
    assert (third.added, third.removed) == (1, 0)


def test_an_image_of_two_people_represents_neither(gallery: Gallery) -> None:
    gallery.record(1, "stashdb", "a")
    gallery.record(2, "stashdb", "b")
    gallery.image("stashdb", "both", "a", "b")
    gallery.face("stashdb", "both", gallery.person())
    gallery.image("stashdb", "one", "a", sha256="same")
    gallery.image("stashdb", "two", "b", sha256="same")
    gallery.face("stashdb", "one", gallery.person())
    gallery.face("stashdb", "two", gallery.person())
    report = choose(gallery)
    assert trusted(gallery) == {}
    assert report.dropped["image of several people"] == 3


@pytest.mark.slow
def test_copies_of_one_picture_on_people_of_one_source_represent_none_of_them(gallery: Gallery) -> None:
    who = gallery.person()
    looks = ("00000000000000ff", "000000000000000f", "ffffffff00000000", "00000000000000ff")
    places = (("stashdb", "a"), ("stashdb", "b"), ("stashdb", "c"), ("fansdb", "d"))
    made = []
    for performer_id, (look, (source, owner)) in enumerate(zip(looks, places, strict=True), 1):
        gallery.record(performer_id, source, owner)
        gallery.image(source, owner, owner)
        made.append(gallery.face(source, owner, who))
        with writing(gallery.engine) as connection:
            of_image = (source_images.c.source == source) & (source_images.c.image_id == owner)
            connection.execute(source_images.update().where(of_image).values(picture_hash=look))
    report = choose(gallery)
    # The picture of the other source is a copy of one that two people of stashdb show.
    assert set(trusted(gallery)) == {made[2]}
    assert report.dropped["image of several people"] == 3


def test_what_is_erased_while_faces_are_chosen_is_not_stored(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    who, other = gallery.person(), gallery.person()
    for performer_id, owner in ((1, "gone"), (2, "stays")):
        gallery.record(performer_id, "stashdb", owner)
        gallery.shot("stashdb", owner, who if performer_id == 1 else other)
    # A picture that outlives its record, as one that other records have.
    gallery.record(1, "fansdb", "gone too")
    gallery.image("fansdb", "left", "gone too")
    gallery.face("fansdb", "left", who)

    def erase_meanwhile(*arguments: Any) -> Any:
        with writing(gallery.engine) as connection:
            erase_alone(connection, {("stashdb", "gone")}, NOW)
            connection.execute(source_performers.delete().where(source_performers.c.source_id == "gone too"))
        return accept(*arguments)

    accept = accepted_faces.accept
    monkeypatch.setattr(cleaning, "accept", erase_meanwhile)
    choose(gallery)
    with reading(gallery.engine) as connection:
        rows = connection.execute(sa.select(trusted_faces.c.source_id)).scalars().all()
    assert rows == ["stays"]


def test_several_faces_in_an_image_of_high_trust_are_left_out(gallery: Gallery) -> None:
    gallery.record(1, "stashdb", "a")
    gallery.image("stashdb", "group", "a")
    gallery.face("stashdb", "group", gallery.person(), index=0)
    gallery.face("stashdb", "group", gallery.person(), index=1)
    assert choose(gallery).dropped["several faces"] == 2
    assert trusted(gallery) == {}


def test_the_same_bytes_count_once(gallery: Gallery) -> None:
    who = gallery.person()
    gallery.record(1, "stashdb", "a")
    gallery.record(1, "fansdb", "b")
    gallery.image("stashdb", "x", "a", sha256="same")
    gallery.image("fansdb", "y", "b", sha256="same")
    gallery.face("stashdb", "x", who, quality=0.4)
    better = gallery.face("fansdb", "y", who, quality=0.8)
    assert choose(gallery).dropped["same image"] == 1
    assert trusted(gallery) == {better: (1, 0)}


def test_near_duplicates_leave_the_best_one(gallery: Gallery) -> None:
    who = gallery.person()
    gallery.record(1, "stashdb", "a")
    shots = [gallery.shot("stashdb", "a", who, spread=0.01, quality=0.1 * i) for i in range(1, 7)]
    report = choose(gallery)
    assert trusted(gallery) == {shots[-1]: (1, 0)}
    assert report.dropped["near duplicate"] == 5


def test_no_twenty_faces_close_together_are_trusted(gallery: Gallery) -> None:
    """They are too different to be duplicates, and near enough to trip the sidecar's health gate."""
    who = gallery.person()
    gallery.record(1, "stashdb", "a")
    for _ in range(30):
        gallery.shot("stashdb", "a", who, spread=0.25)
    report = choose(gallery, 100, source_caps={"stashdb": 100})
    assert report.faces == 19


def test_an_outlier_is_left_out_of_three_faces(gallery: Gallery) -> None:
    who, other = gallery.person(), gallery.person()
    gallery.record(1, "stashdb", "a")
    mine = {gallery.shot("stashdb", "a", who) for _ in range(2)}
    foreign = gallery.shot("stashdb", "a", other, quality=0.99)
    report = choose(gallery)
    assert trusted(gallery).keys() == mine
    assert report.dropped["outlier"] == 1
    gallery.record(2, "stashdb", "b")
    third, fourth = gallery.person(), gallery.person()
    pair = {gallery.shot("stashdb", "b", third), gallery.shot("stashdb", "b", fourth)}
    choose(gallery)
    assert trusted(gallery).keys() == mine | pair
    assert foreign not in trusted(gallery)


def test_an_outlier_needs_both_models(gallery: Gallery) -> None:
    who = gallery.person()
    gallery.record(1, "stashdb", "a")
    shots = {gallery.shot("stashdb", "a", who) for _ in range(3)}
    with writing(gallery.engine) as connection:
        connection.execute(
            embeddings.update()
            .where((embeddings.c.face_id == min(shots)) & (embeddings.c.model == "arcface"))
            .values(vector=gallery.person().astype("<f4").tobytes())
        )
    choose(gallery)
    assert trusted(gallery).keys() == shots


def test_a_face_nearer_to_another_performer_is_in_quarantine(any_catalog: sa.Engine) -> None:
    gallery = Gallery(any_catalog)
    who, other = gallery.person(), gallery.person()
    gallery.record(1, "stashdb", "a")
    gallery.record(2, "stashdb", "b")
    mine = gallery.shot("stashdb", "a", who)
    misfiled = gallery.shot("stashdb", "a", other)
    theirs = {gallery.shot("stashdb", "b", other) for _ in range(3)}
    report = choose(gallery)
    assert trusted(gallery).keys() == {mine, *theirs}
    assert (report.collisions, report.dropped["nearer to another performer"]) == (1, 1)
    with reading(any_catalog) as connection:
        ((face_id, row),) = read_collisions(connection).items()
        assert connection.scalar(sa.select(faces.c.face_id).where(faces.c.face_id == misfiled)) == misfiled
    assert (face_id, row.performer_id, row.nearer_to, row.source_id) == (misfiled, 1, 2, "a")
    assert row.nearer_similarity > row.similarity + 0.1
    again = choose(gallery)
    assert not again.changed
    with writing(any_catalog) as connection:
        connection.execute(faces.delete().where(faces.c.face_id.in_(theirs)))
    choose(gallery)
    assert trusted(gallery).keys() == {mine, misfiled}
    with reading(any_catalog) as connection:
        assert read_collisions(connection) == {}


def test_a_face_in_another_pose_is_preferred(gallery: Gallery) -> None:
    who = gallery.person()
    gallery.record(1, "stashdb", "a")
    shots = [gallery.shot("stashdb", "a", who, spread=0.5, quality=0.9 - 0.01 * i) for i in range(4)]
    with writing(gallery.engine) as connection:
        connection.execute(faces.update().where(faces.c.face_id == shots[3]).values(yaw=35.0))
    choose(gallery, 2)
    assert trusted(gallery).keys() == {shots[0], shots[3]}


def test_no_more_faces_than_the_caps_of_source_and_performer_are_trusted(gallery: Gallery) -> None:
    who = gallery.person()
    gallery.record(1, "stashdb", "a")
    gallery.record(1, "fansdb", "b")
    for _ in range(6):
        # Better than the others, so that the cap of the source is reached.
        gallery.shot("stashdb", "a", who, quality=0.8)
        gallery.shot("fansdb", "b", who)
    report = choose(gallery, 5, source_caps={"stashdb": 2, "fansdb": 10})
    assert report.faces_by_source == {"fansdb": 3, "stashdb": 2}
    assert {rank for _, rank in trusted(gallery).values()} == set(range(5))
    fewer = choose(gallery, 4, source_caps={"stashdb": 2})
    assert fewer.faces_by_source == {"stashdb": 2}
    assert fewer.removed == 3


def test_only_faces_with_a_vector_of_every_model_are_trusted(gallery: Gallery) -> None:
    who = gallery.person()
    gallery.record(1, "stashdb", "a")
    good = gallery.shot("stashdb", "a", who)
    gallery.shot("stashdb", "a", who, models={"facenet": "digest-f"})
    gallery.shot("stashdb", "a", who, models={"facenet": "digest-f", "arcface": "of another pack"})
    report = choose(gallery)
    assert trusted(gallery).keys() == {good}
    assert report.dropped["no embedding"] == 2


def test_unusable_vectors_are_left_out(gallery: Gallery) -> None:
    gallery.record(1, "stashdb", "a")
    good = gallery.shot("stashdb", "a", gallery.person())
    gallery.shot("stashdb", "a", np.zeros(64), spread=0)
    gallery.shot("stashdb", "a", np.full(64, np.nan))
    assert choose(gallery).dropped["unusable vector"] == 2
    assert trusted(gallery).keys() == {good}


def test_medium_trust_needs_a_reference(gallery: Gallery) -> None:
    who, other = gallery.person(), gallery.person()
    gallery.record(1, "stashdb", "a")
    gallery.record(1, "medium", "m")
    reference = gallery.shot("stashdb", "a", who, spread=0.2)
    agrees = gallery.shot("medium", "m", who, spread=0.3)
    gallery.shot("medium", "m", other)
    report = choose(gallery)
    assert trusted(gallery).keys() == {reference, agrees}
    assert report.dropped["no agreement"] == 1


def test_medium_trust_tightens_with_few_references(gallery: Gallery) -> None:
    policy = TrustPolicy(agreement=((1, 0.0), (3, 2.0)))
    who = gallery.person()
    gallery.record(1, "stashdb", "a")
    gallery.record(1, "medium", "m")
    gallery.shot("stashdb", "a", who)
    face = gallery.shot("medium", "m", who)
    choose(gallery, policy=policy)
    assert face not in trusted(gallery)
    gallery.shot("stashdb", "a", who)
    choose(gallery, policy=policy)
    assert face in trusted(gallery)


def test_low_trust_passes_only_as_the_dominant_cluster(gallery: Gallery) -> None:
    who, other = gallery.person(), gallery.person()
    gallery.record(1, "low", "l")
    cluster = {gallery.shot("low", "l", who, spread=0.2) for _ in range(3)}
    gallery.shot("low", "l", other)
    choose(gallery)
    assert trusted(gallery).keys() == cluster
    gallery.record(2, "low", "k")
    gallery.record(2, "stashdb", "s")
    strangers = {gallery.shot("low", "k", other, spread=0.2) for _ in range(2)}
    reference = gallery.shot("stashdb", "s", who)
    choose(gallery)
    assert reference in trusted(gallery)
    assert not strangers & trusted(gallery).keys()
    gallery.record(3, "low", "alone")
    alone = gallery.shot("low", "alone", gallery.person())
    choose(gallery)
    assert alone not in trusted(gallery)


def test_quality_and_difference_decide_the_order(gallery: Gallery) -> None:
    who = gallery.person()
    gallery.record(1, "stashdb", "a")
    best = gallery.shot("stashdb", "a", who, spread=0.05, quality=0.9)
    gallery.shot("stashdb", "a", who, spread=0.2, quality=0.9)
    different = gallery.shot("stashdb", "a", who, spread=1.0, quality=0.85)
    choose(gallery, 2)
    assert trusted(gallery) == {best: (1, 0), different: (1, 1)}


def test_choosing_without_models_is_refused(gallery: Gallery) -> None:
    with pytest.raises(ValueError, match="at least one model"):
        choose(gallery, models={})


def test_a_face_of_a_pending_image_is_not_trusted(any_catalog: sa.Engine) -> None:
    gallery = Gallery(any_catalog)
    who = gallery.person()
    gallery.record(1, "stashdb", "a")
    waiting, kept = (gallery.shot("stashdb", "a", who, spread=0.3) for _ in range(2))
    image = sa.select(faces.c.image_id).where(faces.c.face_id == waiting).scalar_subquery()
    with writing(any_catalog) as connection:
        again = sa.update(source_images).where(source_images.c.image_id == image)
        connection.execute(again.values(state="pending"))
    choose(gallery)
    assert trusted(gallery).keys() == {kept}


def test_candidates_are_found_by_image_and_not_by_source(catalog: sa.Engine) -> None:
    """Without an index on all columns SQLite reads every image of a source for each face: minutes, then hours."""
    seen: list[str] = []
    sa.event.listen(catalog, "before_cursor_execute", lambda *event: seen.append(event[2]))
    with reading(catalog) as connection:
        read_candidates(connection)
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {seen[-1]}").all()
    (step,) = [row.detail for row in plan if "performer_images" in row.detail]
    assert "(source=? AND image_id=?)" in step


def test_a_site_record_with_other_faces_is_removed_and_its_distance_kept(any_catalog: sa.Engine) -> None:
    gallery = Gallery(any_catalog)
    who, stranger = gallery.person(), gallery.person()
    gallery.record(1, "stashdb", "a")
    for _ in range(3):
        gallery.shot("stashdb", "a", who, spread=0.3)
    gallery.record(1, "thenude", "7")
    gallery.record(1, "afdb", "8")
    good = [gallery.shot("afdb", "8", who, spread=0.3) for _ in range(2)]
    for _ in range(2):
        gallery.shot("thenude", "7", stranger, spread=0.3)
    sites = {"thenude": "medium", "afdb": "medium"}
    options = {"source_caps": CAPS | dict.fromkeys(sites, 5), "trust": TRUST | sites, "sites": tuple(sites)}
    report = choose(gallery, **options)
    assert report.rejected == {"thenude": 1}
    assert set(good) <= trusted(gallery).keys()
    with reading(any_catalog) as connection:
        table = source_performers.c
        gone = connection.scalars(sa.select(table.source).where(table.deleted_at.is_not(None))).all()
        rejection = connection.execute(sa.select(site_rejections)).one()
        left = connection.scalars(sa.select(source_images.c.source).distinct()).all()
    assert gone == ["thenude"]
    assert sorted(left) == ["afdb", "stashdb"]
    assert (rejection.faces, rejection.reference_faces, rejection.agreement) == (2, 3, 0.40)
    assert rejection.distance > 0.6
    again = choose(gallery, **options)
    assert (again.rejected, again.changed) == ({}, False)


@pytest.mark.parametrize("agrees", [True, False])
def test_a_record_found_by_name_never_counts_without_agreement(any_catalog: sa.Engine, agrees: bool) -> None:
    gallery = Gallery(any_catalog)
    who, other = gallery.person(), gallery.person()
    gallery.record(1, "stashdb", "a")
    gallery.record(1, "elitebabes", "quib")
    with writing(any_catalog) as connection:
        found = sa.update(source_performers).where(source_performers.c.source == "elitebabes")
        connection.execute(found.values(raw={"found_by": "name"}))
    faces_there = [gallery.shot("elitebabes", "quib", who if agrees else other, spread=0.3) for _ in range(4)]
    # Not even when the operator trusts the site, and no other source has a face of the person.
    options = {
        "source_caps": CAPS | {"elitebabes": 5},
        "trust": TRUST | {"elitebabes": "high"},
        "sites": ("elitebabes",),
    }
    choose(gallery, **options)
    assert trusted(gallery) == {}
    for _ in range(3):
        gallery.shot("stashdb", "a", who, spread=0.3)
    report = choose(gallery, **options)
    assert bool(set(faces_there) & trusted(gallery).keys()) is agrees
    assert report.rejected == ({} if agrees else {"elitebabes": 1})
