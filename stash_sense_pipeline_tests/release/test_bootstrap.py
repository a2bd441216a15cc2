"""A published release is taken over: proven by a sample, used, seen, and taken back."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.queries.claims.faces import proven_pictures
from stash_sense_pipeline.catalog.queries.status import source_status
from stash_sense_pipeline.catalog.source_lock import source_lock
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.faces.models.detector import Detector
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.faces.models.pack_fields import DetectionRules, SecondPass
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.identity.face_matching.trust_policy import ChoiceRules, TrustPolicy
from stash_sense_pipeline.privacy.erasure import erase_suppressed
from stash_sense_pipeline.privacy.suppression.suppression_list import load_suppressions
from stash_sense_pipeline.release.bootstrap import import_release
from stash_sense_pipeline.release.bootstrap.accepted_faults import ACCEPTED, ACCEPTED_FINDINGS, why_accepted
from stash_sense_pipeline.release.bootstrap.face_rows import Skipped
from stash_sense_pipeline.release.bootstrap.proof import (
    OpenSource,
    ProofReport,
    ProofRules,
    polite_sources,
    prove,
)
from stash_sense_pipeline.release.bootstrap.sample import findings, is_refuted, sample_size, spread
from stash_sense_pipeline.release.bootstrap.undo import undo_release
from stash_sense_pipeline.release.checks.check_result import Severity, failures
from stash_sense_pipeline.release.checks.verify import verify_release
from stash_sense_pipeline.release.snapshot import read_face_pictures
from stash_sense_pipeline.settings.environment import read_environment
from stash_sense_pipeline.sources.cooldown import check_cooldown, start_cooldown
from stash_sense_pipeline_tests.faces.world import ImageServer

from .bootstrap_world import (
    HOSTS,
    KEY,
    MADE_OTHERWISE,
    PEOPLE,
    Change,
    Home,
    as_the_sidecars_exporter,
    block_face,
    changed,
    demo_pack,
    digests,
    list_three_checksums,
    made_by,
    of_manifest,
    of_vectors,
    picture_beside_the_first,
    picture_id,
    released,
    rename_everybody,
    serve_people,
    suppress,
    uid,
    vectors_in_use,
)
from .damages import DAMAGES, Damage, edit, manifest, performer, sql
from .worlds import PACK

# Each test takes a copy of a catalog and its release, which take seconds to make.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def people_server() -> Iterator[ImageServer]:
    """The pictures of all people. It lives as long as the session, because addresses are part of a release."""
    server = ImageServer()
    serve_people(server)
    with server.running():
        yield server


@pytest.fixture(scope="session")
def pack() -> ModelPack:
    return demo_pack()


@pytest.fixture(scope="session")
def built(
    tmp_path_factory: pytest.TempPathFactory, people_server: ImageServer, pack: ModelPack
) -> tuple[Home, Path]:
    """A home that was built from scratch, and its release."""
    home = Home(tmp_path_factory.mktemp("scratch"), people_server, pack)
    return home, home.build()


@pytest.fixture
def release(built: tuple[Home, Path]) -> Path:
    return built[1]


@pytest.fixture
def home(tmp_path: Path, people_server: ImageServer, pack: ModelPack) -> Iterator[Home]:
    made = Home(tmp_path / "home", people_server, pack)
    yield made
    made.engine.dispose()


@pytest.fixture(scope="module")
def proven_catalog(
    tmp_path_factory: pytest.TempPathFactory,
    people_server: ImageServer,
    pack: ModelPack,
    built: tuple[Home, Path],
) -> Path:
    """A catalog that has taken over the release, which is proven; for copies."""
    made = Home(tmp_path_factory.mktemp("proven"), people_server, pack)
    assert made.bootstrap(built[1], size=20).state == "proven"
    made.engine.dispose()
    return made.directory / "catalog.db"


@pytest.fixture
def proven_home(
    tmp_path: Path, people_server: ImageServer, pack: ModelPack, proven_catalog: Path
) -> Iterator[Home]:
    """A home with the release, which is proven."""
    (tmp_path / "proven").mkdir()
    shutil.copy2(proven_catalog, tmp_path / "proven" / "catalog.db")
    made = Home(tmp_path / "proven", people_server, pack)
    yield made
    made.engine.dispose()


def states(home: Home) -> list[str]:
    return [row.state for row in home.rows(schema.claimed_releases)]


def requests(server: ImageServer, since: dict[str, int]) -> set[str]:
    """The pictures that were requested after `since`."""
    return {name for name, count in server.requests.items() if count > since.get(name, 0)}


def test_a_release_is_proven_and_its_next_build_fetches_no_picture_with_a_proven_face(
    home: Home, release: Path, people_server: ImageServer
) -> None:
    report = home.take_over(release)
    assert report.faces == 128
    assert report.skipped == {}
    assert {source.source: source.records for source in report.records.sources} == {
        "stashdb": 26,
        "fansdb": 8,
    }
    assert home.count(schema.claimed_faces) == 128
    assert home.count(schema.claimed_vectors) == 256
    assert vectors_in_use(home) == set()
    proof = home.prove(report.release, size=20)
    assert proof.state == "proven", proof.message
    assert 20 <= proof.wanted <= 22
    assert all(finding.agreed == finding.compared >= 20 for finding in proof.findings)
    assert proof.proven_sources == ("fansdb", "stashdb")
    # No face is in use before its source lists the picture.
    assert vectors_in_use(home) == set()
    before = dict(people_server.requests)
    home.sync()
    collected = home.collect()
    assert requests(people_server, before) == set()
    assert sum(each.claims.used for each in collected.values()) == 128
    assert home.count(schema.claimed_vectors) == 0
    trusted = home.identify()
    assert trusted.faces > 100
    published = home.publish()
    # The data card counts these faces as proven, and not as seen.
    with reading(home.engine) as connection:
        assert proven_pictures(connection) >= set(read_face_pictures(published)) != set()


def test_a_bootstrapped_catalog_publishes_the_same_bytes_after_every_picture_was_seen(
    home: Home, release: Path
) -> None:
    assert home.bootstrap(release, size=30).state == "proven"
    home.sync()
    home.collect()
    home.identify()
    home.global_ = home.global_.model_copy(update={"claimed_faces_a_night": 50})
    for night in range(1, 4):
        home.now += timedelta(days=1)
        seen = home.collect()
        assert {source: each.claims.queued for source, each in seen.items()}["stashdb"] in (50, 4)
        embedded = home.identify()
        assert embedded.faces > 100
        left = sum(row.face_id is not None for row in home.rows(schema.claimed_faces))
        assert left == [54, 4, 0][night - 1]
    assert home.count(schema.claimed_faces) == 0
    assert home.count(schema.faces) == 128
    assert len(digests(release)) == 7
    assert digests(home.publish()) == digests(release)


def test_a_catalog_from_scratch_that_was_filled_in_another_order_publishes_the_same_bytes(
    home: Home, built: tuple[Home, Path], release: Path
) -> None:
    """The pictures arrive on several days, and those of fansdb before or after those of stashdb."""
    random = Random(0)
    people = [uid(person) for numbers, _ in PEOPLE.values() for person in numbers]
    random.shuffle(people)
    for known in (len(people) // 3, len(people) // 2, len(people)):
        home.now += timedelta(days=random.randrange(1, 400))
        home.sync(unlisted=people[known:])
        for source in random.sample(list(HOSTS), len(HOSTS)):
            asyncio.run(home.collect_one(source))
    # Performer ids are allocated in the order of records, at the first computation of identities.
    home.identify()
    assert arrivals(home) != arrivals(built[0])
    assert digests(home.publish()) == digests(release)


def arrivals(home: Home) -> list[str]:
    """The pictures in the order of face ids."""
    return [row.image_id for row in home.rows(schema.faces)]


def test_an_import_and_a_proof_done_twice_change_nothing(proven_home: Home, release: Path) -> None:
    home = proven_home
    tables = (schema.claimed_releases, schema.claimed_faces, schema.claimed_records, schema.source_performers)
    before = [home.rows(table) for table in tables]
    again = home.take_over(release)
    assert (again.records, again.faces) == (None, 0)
    assert again.release.state == "proven"
    assert [home.rows(table) for table in tables] == before


class StopError(Exception):
    """Stops an import or a proof at some step."""


@pytest.mark.parametrize("step", range(1, 4))
def test_an_import_that_is_stopped_at_any_batch_goes_on(
    home: Home, release: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_release, "_FACES_A_BATCH", 50)
    left = [step]

    def progress(stage: str, done: int, total: int | None, /, **counts: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise StopError

    with pytest.raises(StopError):
        home.take_over(release, progress)
    assert states(home) == ["importing"]
    assert 0 < home.count(schema.claimed_vectors) < 256
    assert home.take_over(release).release.state == "claimed"
    assert home.count(schema.claimed_faces) == 128
    assert home.count(schema.claimed_vectors) == 256


def test_a_proof_that_is_stopped_goes_on_with_the_other_pictures(
    home: Home, release: Path, people_server: ImageServer
) -> None:
    taken = home.take_over(release).release

    def progress(stage: str, done: int, total: int | None, /, **counts: int) -> None:
        if done == 9:
            raise StopError

    with pytest.raises(StopError):
        home.prove(taken, size=20, progress=progress)
    compared = {
        row.url.rpartition("/")[2] for row in home.rows(schema.claimed_faces) if row.cosines is not None
    }
    assert 9 <= len(compared) < 20
    before = dict(people_server.requests)
    assert home.prove(taken, size=20).state == "proven"
    again = requests(people_server, before)
    assert again
    assert not again & compared


UNUSABLE: dict[str, tuple[Change, str]] = {
    "a release older than the alignment": (
        of_manifest(alignment=None, flip_averaging=None),
        "does not say how faces were aligned",
    ),
    "another alignment": (of_manifest(alignment="bounding_box"), "aligned by 'bounding_box'"),
    "without the mirror image": (of_manifest(flip_averaging=False), "flip_averaging False"),
    "another detector": (of_manifest(detector_sha256="0" * 64), "another detector"),
    "another embedder": (
        of_manifest(embedders={"facenet": {"sha256": "0" * 64, "dim": 512}}),
        "facenet vectors were made by another network",
    ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_release_that_says_that_its_faces_are_of_another_kind_gives_records_only(
    home: Home, release: Path, tmp_path: Path, name: str, people_server: ImageServer
) -> None:
    change, reason = UNUSABLE[name]
    before = dict(people_server.requests)
    report = home.take_over(changed(release, tmp_path / release.name, change))
    assert report.release.state == "records"
    assert reason in str(report.release.reason)
    assert home.count(schema.source_performers) == 34
    assert home.count(schema.claimed_faces) == 0
    assert requests(people_server, before) == set()


def test_a_pack_with_rules_of_its_own_takes_over_records_only(home: Home, release: Path) -> None:
    """No release of the sidecar says that its pictures were padded or turned."""
    rules = DetectionRules(SecondPass.NONE)
    home.pack = replace(home.pack, detector=replace(home.pack.detector, rules=rules))
    report = home.take_over(release)
    assert report.release.state == "records"
    assert "has rules of its own" in str(report.release.reason)
    assert home.count(schema.claimed_faces) == 0


def rolled(vectors: np.ndarray) -> np.ndarray:
    return np.roll(vectors, 1, axis=0)


def other_network(vectors: np.ndarray) -> np.ndarray:
    turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((512, 512)))
    return vectors @ turn


def half(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    def of_half(vectors: np.ndarray) -> np.ndarray:
        mixed = vectors.copy()
        mixed[::2] = change(vectors)[::2]
        return mixed

    return of_half


LIES: dict[str, Change] = {
    "vectors in another order": of_vectors("facenet", rolled),
    "another embedder": of_vectors("arcface", other_network),
    "a mixture of two packs": of_vectors("facenet", half(other_network)),
    "a small error in each vector": of_vectors(
        "facenet", lambda vectors: vectors + 0.003 * np.random.default_rng(2).standard_normal(vectors.shape)
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_a_release_with_other_vectors_than_it_says_is_found_out_and_loses_them(
    home: Home, release: Path, tmp_path: Path, name: str
) -> None:
    proof = home.bootstrap(changed(release, tmp_path / release.name, LIES[name]), size=40)
    assert proof.state == "refused"
    assert "compared faces have a cosine of 0.999" in proof.message
    assert sum(sum(finding.histogram.values()) for finding in proof.findings) > 0
    assert home.count(schema.claimed_faces) == home.count(schema.claimed_vectors) == 0
    assert home.count(schema.source_performers) == 34
    assert vectors_in_use(home) == set()


def test_the_pictures_of_a_refused_release_are_read_as_without_it(
    home: Home, release: Path, tmp_path: Path
) -> None:
    lie = LIES["vectors in another order"]
    assert home.bootstrap(changed(release, tmp_path / release.name, lie), size=40).state == "refused"
    home.sync()
    home.collect()
    assert home.count(schema.faces) == 128
    assert vectors_in_use(home) == set()


@pytest.fixture(scope="module")
def detector(pack: ModelPack) -> Detector:
    return Detector(pack.detector)


@pytest.mark.parametrize("name", MADE_OTHERWISE)
def test_a_release_that_was_made_otherwise_is_found_out_by_the_sample(
    home: Home, release: Path, tmp_path: Path, name: str, detector: Detector
) -> None:
    """The vectors are really computed so: without alignment, or with red and blue swapped."""
    made = made_by(home.server, home.pack, detector, MADE_OTHERWISE[name])
    wrong = changed(release, tmp_path / release.name, made)
    proof = home.bootstrap(wrong, size=40)
    assert proof.state == "refused", proof
    assert home.count(schema.claimed_vectors) == 0


@pytest.mark.parametrize("storage", ["E4M3", "Float8"])
def test_rounded_vectors_are_proven_by_equal_rounding_and_marked(
    home: Home, release: Path, tmp_path: Path, storage: str
) -> None:
    files = [of_vectors(model, storage=storage) for model in ("facenet", "arcface")]
    proof = home.bootstrap(changed(release, tmp_path / release.name, *files), size=40)
    assert proof.state == "proven", proof
    assert {row.rounded for row in home.rows(schema.claimed_faces)} == {True}


def test_a_release_that_the_sidecars_exporter_wrote_is_proven(
    home: Home, release: Path, tmp_path: Path
) -> None:
    theirs = changed(release, tmp_path / release.name, as_the_sidecars_exporter)
    list_three_checksums(theirs)
    proof = home.bootstrap(theirs, size=30)
    assert proof.state == "proven", proof
    # Its qualities are of another scale.
    assert {row.quality for row in home.rows(schema.claimed_faces)} == {0.5}
    home.sync()
    home.collect()
    home.identify()
    home.publish()


def test_a_zip_is_taken_over_as_a_directory_is(home: Home, release: Path) -> None:
    zipped = release.parent / f"stash-sense-data-v{release.name}.zip"
    assert home.bootstrap(zipped, size=20).state == "proven"
    # The directory has the same manifest.
    assert home.take_over(release).records is None


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_release_is_refused_in_one_line_and_leaves_nothing_or_the_damage_is_accepted(
    tmp_path: Path, people_server: ImageServer, copy: Path, name: str
) -> None:
    """`copy` is a release of random vectors, for which the damages are made."""
    home = Home(tmp_path / "home", people_server, PACK)
    damage, _ = DAMAGES[name]
    damage(copy)
    failed = failures(verify_release(copy))
    if all(map(why_accepted, failed)):
        report = home.take_over(copy)
        assert report.release.state == "claimed"
        assert len(home.warnings) == len(failed)
        assert not any("\n" in line for line in home.warnings)
        return
    with pytest.raises(ReleaseError, match="is not taken over, it fails") as refusal:
        home.take_over(copy)
    assert "\n" not in str(refusal.value)
    assert home.count(schema.claimed_releases) == home.count(schema.source_performers) == 0


def test_the_page_lists_all_checks_with_what_their_failure_means(release: Path) -> None:
    page = Path(__file__).parents[2].joinpath("docs", "bootstrap.md").read_text()
    table = page.partition("| check | a failure is | because |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.strip().splitlines()[1:]]
    listed = {name: verdict for names, verdict, _ in rows for name in re.findall(r"`(\w+)`", names)}
    zipped = release.parent / f"stash-sense-data-v{release.name}.zip"
    checks = {result.name for result in verify_release(zipped) if result.severity is Severity.ERROR}
    assert {re.sub("^(facenet|arcface)_", "", name) for name in checks} == set(listed)
    assert {name for name, verdict in listed.items() if verdict == "accepted"} == set(ACCEPTED)
    assert {name for name, verdict in listed.items() if verdict == "accepted in part"} == set(
        ACCEPTED_FINDINGS
    )
    assert set(listed.values()) == {"accepted", "accepted in part", "refused"}


# What the predecessor's exports had wrong, alone and together.
DRIFTS: dict[str, Damage] = {
    "people without counted faces are not in performers.json": edit(
        "performers.json", lambda people: dict(list(people.items())[10:])
    ),
    "counts of performers.db": sql("UPDATE performers SET face_count = face_count + 1"),
    "counts of performers.json": performer(face_count=99),
    "counts of the manifest": manifest(face_count=366794, performer_count=1),
    "a database in WAL mode": sql("PRAGMA journal_mode = WAL"),
    "times of another form": sql("UPDATE faces SET created_at = 'last Monday'"),
    "no pictures of people": sql("UPDATE performers SET image_url = NULL"),
    "no pictures of people in performers.json": performer(image_url=None),
    "no name in performers.json": performer(name=None),
    "sources in another order": manifest(sources=["stashdb", "fansdb"]),
    "an alias without a performer": sql("INSERT INTO aliases (performer_id, alias) VALUES (9999, 'Mira')"),
    "a tattoo without a place": sql("INSERT INTO tattoos (performer_id, location) VALUES (5, ' ')"),
    "found tattoos that cannot be read": sql(
        "INSERT INTO tattoo_detections (performer_id, has_tattoos, confidence, detections_json) VALUES (5, 1, 0.9, 'none')"
    ),
    "a date of no day": sql("UPDATE performers SET birth_date = '1990-02-30' WHERE id = 5"),
}


def claims(of: Home) -> list[tuple[object, ...]]:
    columns = ("position", "source", "url", "box", "box_id", "quality", "yaw")
    return [tuple(getattr(row, name) for name in columns) for row in of.rows(schema.claimed_faces)]


@pytest.mark.parametrize("name", DRIFTS)
def test_drift_that_nothing_depends_on_is_accepted_with_a_warning_and_gives_the_same_faces(
    home: Home, proven_home: Home, release: Path, tmp_path: Path, name: str
) -> None:
    drifted = changed(release, tmp_path / release.name, DRIFTS[name])
    assert failures(verify_release(drifted))
    assert home.take_over(drifted).release.state == "claimed"
    assert home.warnings
    assert claims(home) == claims(proven_home)


def test_a_release_with_all_drift_together_is_proven(
    home: Home, proven_home: Home, release: Path, tmp_path: Path
) -> None:
    drifted = changed(release, tmp_path / release.name, *DRIFTS.values())
    assert home.bootstrap(drifted, size=20).state == "proven"
    assert {line.partition(" ")[0] for line in home.warnings} >= {*ACCEPTED, "database_journal_mode"}
    assert claims(home) == claims(proven_home)


def test_what_the_suppression_list_covers_is_never_stored(home: Home, release: Path) -> None:
    picture = picture_beside_the_first(release, 5)
    suppress(home, ("stashdb", uid(3)), picture)
    report = home.take_over(release)
    assert report.records.suppressed == 1
    assert report.skipped[Skipped.PERSON] == 4
    assert report.skipped[Skipped.SUPPRESSED] == 1
    addresses = {row.url for row in home.rows(schema.claimed_faces)}
    assert picture not in addresses
    assert not any("/p3-" in url for url in addresses)


def test_a_refused_face_is_never_stored(
    home: Home, built: tuple[Home, Path], release: Path, people_server: ImageServer
) -> None:
    """The face of a person is refused; the release has it under a record that the list does not name."""
    blocked = block_face(home, built[0], ("stashdb", uid(7)))
    assert blocked == 1
    report = home.take_over(release)
    assert report.skipped[Skipped.SUPPRESSED] >= 3
    addresses = [row.url for row in home.rows(schema.claimed_faces)]
    assert sum("/p7-" in url for url in addresses) <= 1


def test_an_erasure_removes_claims_of_the_person_and_of_the_picture(home: Home, release: Path) -> None:
    home.take_over(release)
    picture = picture_beside_the_first(release, 5)
    suppress(home, ("stashdb", uid(3)), picture)
    erase_suppressed(home.engine, load_suppressions(home.engine, KEY), home.now)
    addresses = {row.url for row in home.rows(schema.claimed_faces)}
    assert not any("/p3-" in url for url in addresses)
    assert picture not in addresses
    assert home.count(schema.claimed_faces) == 123
    assert home.count(schema.claimed_vectors) == 246


def test_records_that_the_source_removed_lose_their_claims_and_unlisted_pictures_too(
    proven_home: Home,
) -> None:
    home = proven_home
    home.gone = {uid(2)}
    home.sync()
    home.collect()
    home.identify()
    assert not any("/p2-" in row.url for row in home.rows(schema.claimed_faces))
    owners = {row.source_id for row in home.rows(schema.trusted_faces)}
    assert uid(2) not in owners


def test_no_name_of_the_release_overrules_a_source(home: Home, release: Path, tmp_path: Path) -> None:
    home.take_over(changed(release, tmp_path / release.name, rename_everybody))
    assert {row.name for row in home.rows(schema.source_performers)} == {"Other Person"}
    home.sync()
    assert "Other Person" not in {row.name for row in home.rows(schema.source_performers)}


def test_a_claimed_face_has_medium_trust_until_its_picture_was_seen(proven_home: Home) -> None:
    home = proven_home
    home.sync()
    home.collect()
    rows = home.candidates()
    rules = ChoiceRules(
        20, {}, dict.fromkeys(("stashdb", "fansdb"), "high"), home.pack.digests, TrustPolicy()
    )
    assert {rules.trust_of(row) for row in rows} == {"medium"}
    low = ChoiceRules(20, {}, dict.fromkeys(("stashdb", "fansdb"), "low"), home.pack.digests, TrustPolicy())
    assert {low.trust_of(row) for row in rows} == {"low"}


def test_a_look_that_fails_keeps_the_face_and_one_at_a_picture_that_is_gone_removes_it(
    proven_home: Home, people_server: ImageServer
) -> None:
    home = proven_home
    home.sync()
    home.collect()
    home.global_ = home.global_.model_copy(update={"claimed_faces_a_night": 500})
    home.now += timedelta(days=1)
    broken, gone = picture_id(1, 0), picture_id(1, 1)
    people_server.statuses.update({broken: 500, gone: 404})
    try:
        asyncio.run(home.collect_one("stashdb"))
    finally:
        people_server.statuses.clear()
    images = {row.image_id: row for row in home.rows(schema.source_images)}
    assert images[broken].state == "done"
    assert images[gone].state == "gone"
    assert [row.url for row in home.rows(schema.claimed_faces) if row.url.endswith(broken)] != []
    assert images[picture_id(2, 0)].sha256 is not None


def test_an_undo_leaves_no_byte(proven_home: Home) -> None:
    home = proven_home
    home.sync()
    home.collect()
    vectors = sorted(vectors_in_use(home))
    assert len(vectors) == 256
    known = home.rows(schema.claimed_releases)[0]
    report = undo_release(home.engine, released(home, known.manifest_digest), home.now)
    assert (report.faces, report.records, report.bytes_left) == (128, 0, None)
    for table in (schema.claimed_releases, schema.claimed_faces, schema.claimed_vectors, schema.faces):
        assert home.count(table) == 0
    # The sources have confirmed the records, and their pictures wait.
    assert home.count(schema.source_performers) == 34
    assert {row.state for row in home.rows(schema.source_images)} == {"pending"}
    home.engine.dispose()
    stored = b"".join(path.read_bytes() for path in home.directory.glob("catalog.db*"))
    assert not [vector for vector in vectors if vector[:64] in stored]
    assert known.manifest_digest.encode() not in stored


def test_an_undo_before_the_first_sync_removes_the_records_too(proven_home: Home) -> None:
    home = proven_home
    known = home.rows(schema.claimed_releases)[0]
    report = undo_release(home.engine, released(home, known.manifest_digest), home.now)
    assert (report.claims, report.faces, report.records) == (128, 0, 34)
    for table in schema.metadata.sorted_tables:
        if table.name not in ("identities", "identity_log", "suppressions"):
            assert home.count(table) == 0, table.name
    assert all(row.retired_at is not None for row in home.rows(schema.identities))
    home.engine.dispose()
    stored = b"".join(path.read_bytes() for path in home.directory.glob("catalog.db*"))
    assert b"Invented 1" not in stored
    assert uid(1).encode() not in stored


def test_pictures_that_cannot_be_fetched_prove_nothing(
    home: Home, release: Path, people_server: ImageServer
) -> None:
    taken = home.take_over(release).release
    people_server.statuses["*"] = 404
    people_server.statuses.update(dict.fromkeys(people_server.bodies, 404))
    try:
        proof = home.prove(taken, size=20)
    finally:
        people_server.statuses.clear()
    assert proof.state == "claimed"
    assert "too few to decide" in proof.message
    home.sync()
    asyncio.run(home.collect_one("fansdb"))
    assert home.count(schema.faces) == 24
    assert vectors_in_use(home) == set()
    assert home.count(schema.claimed_vectors) > 0


def test_faces_of_a_source_that_could_not_be_asked_stay_out_of_use(home: Home, release: Path) -> None:
    taken = home.take_over(release).release
    home.closed = {"fansdb"}
    proof = home.prove(taken, size=20)
    assert (proof.state, proof.proven_sources) == ("proven", ("stashdb",))
    assert proof.unasked == {"fansdb": "fansdb: no key; set FANSDB_API_KEY"}
    home.closed = set()
    home.sync()
    used = {source: report.claims.used for source, report in home.collect().items()}
    assert used == {"stashdb": 104, "fansdb": 0}
    status = {row.source: row for row in source_status(home.engine, ("stashdb", "fansdb"), 5)}
    assert (status["stashdb"].faces_proven, status["stashdb"].faces_seen) == (104, 0)
    assert (status["fansdb"].faces_proven, status["fansdb"].faces_seen) == (0, 24)
    # Its pictures were seen, so that its claims have no use any more.
    home.collect()
    assert {row.source for row in home.rows(schema.claimed_faces)} == {"stashdb"}


def prove_politely(home: Home, release: Path, open_source: OpenSource | None = None) -> ProofReport:
    """A proof with the clients, locks and cooldowns of the program."""
    keys = {f"{name.upper()}_API_KEY": "key" for name in HOSTS}
    environment = read_environment({**keys, "DATA_DIR": str(home.directory)}, home.directory)
    polite = polite_sources(home.settings, environment, home.engine, home.now)
    rules = ProofRules(home.pack, open_source or polite, lambda _: False, lambda: home.now, size=20, seed=1)
    return asyncio.run(prove(home.engine, home.take_over(release).release, rules))


def test_a_source_that_a_run_reads_is_not_asked(home: Home, release: Path) -> None:
    with source_lock(home.engine, "fansdb", lambda _: None):
        report = prove_politely(home, release)
    assert report.unasked == {"fansdb": "fansdb: a run reads it now; run the command again later"}
    assert report.proven_sources == ("stashdb",)


def test_a_source_in_its_cooldown_is_left_alone_and_the_others_are_compared(
    home: Home, release: Path
) -> None:
    @asynccontextmanager
    async def open_source(name: str) -> AsyncIterator[Any]:
        if name == "fansdb":
            start_cooldown(home.engine, name, home.now)
            check_cooldown(home.engine, name, home.now)
        async with home.client(name) as opened:
            yield opened

    report = prove_politely(home, release, open_source)
    assert report.unasked == {"fansdb": "fansdb: its pictures cannot be fetched now (blocked)"}
    assert report.proven_sources == ("stashdb",)


def test_one_replaced_picture_does_not_refute_a_release_and_three_of_two_hundred_do() -> None:
    good = {"facenet": 1.0}
    bad = {"facenet": 0.2}
    assert not is_refuted(findings([good] * 198 + [bad] * 2), 200)
    assert is_refuted(findings([good] * 197 + [bad] * 3), 200)
    assert findings([good] * 200)[0].wrong_at_most == pytest.approx(0.0149, abs=0.0005)
    assert sample_size(0.95) == 199


def test_a_sample_has_some_pictures_of_each_source() -> None:
    wanted = spread({"large": 300_000, "small": 800, "tiny": 3}, 200)
    assert wanted["small"] == 5
    assert wanted["tiny"] == 3
    assert 195 <= wanted["large"] <= 200


@pytest.mark.postgres
def test_a_release_is_taken_over_used_seen_and_taken_back_on_postgresql(
    tmp_path: Path, people_server: ImageServer, pack: ModelPack, release: Path, postgres_catalog_url: str
) -> None:
    home = Home(tmp_path / "home", people_server, pack, url=postgres_catalog_url)
    assert home.bootstrap(release, size=20).state == "proven"
    home.sync()
    assert sum(each.claims.used for each in home.collect().values()) == 128
    home.global_ = home.global_.model_copy(update={"claimed_faces_a_night": 10})
    home.now += timedelta(days=1)
    assert home.collect()["stashdb"].done == 10
    known = home.rows(schema.claimed_releases)[0]
    report = undo_release(home.engine, released(home, known.manifest_digest), home.now)
    # Ten of each stash-box were seen.
    assert report.faces == 108
    assert home.count(schema.claimed_faces) == home.count(schema.claimed_vectors) == 0
    home.engine.dispose()
