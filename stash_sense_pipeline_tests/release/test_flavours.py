"""The flavours of a release: both from one run, each with its own manifest, zip and gate, and the same people."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from stash_sense_pipeline.cli import main
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.files import sha256_file
from stash_sense_pipeline.release import flavours, promotion
from stash_sense_pipeline.release.build.archive import check_zip
from stash_sense_pipeline.release.checks.check_result import ReleaseRefusedError, failures
from stash_sense_pipeline.release.checks.verify import verify_release
from stash_sense_pipeline.release.contract import Flavour, zip_name
from stash_sense_pipeline.release.distribution.history import list_releases, prune_releases
from stash_sense_pipeline.release.distribution.install import install_release
from stash_sense_pipeline.release.promotion import ReleaseReport, clear_leftovers
from stash_sense_pipeline.release.publish import publish_release
from stash_sense_pipeline.release.reports.quality_report import read_checks
from stash_sense_pipeline.release.spec import small_limits
from stash_sense_pipeline.release.versions import (
    flavours_of,
    latest_release,
    named_release,
    next_version,
    published_versions,
)

from .changes import FIRST, NEXT, opened, rename_a_performer
from .conftest import DAY
from .sidecar import Sidecar
from .worlds import SPEC, make_catalog

BOTH = replace(SPEC, small=small_limits(SPEC.limits))
SMALL = f"{FIRST}.small"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ReleaseReport]:
    """A catalog and one release of it in both flavours. A test that changes files uses `both`."""
    data = tmp_path_factory.mktemp("flavours")
    engine = make_catalog(data / "catalog.db")
    report = publish_release(engine, data, "first", BOTH, DAY)
    engine.dispose()
    return data, report


@pytest.fixture
def both(made: tuple[Path, ReleaseReport], tmp_path: Path) -> Path:
    data = tmp_path / "data"
    shutil.copytree(made[0], data, symlinks=True)
    return data


def manifest(release: Path) -> dict[str, object]:
    return dict(json.loads((release / "manifest.json").read_text()))


def files(releases: Path) -> dict[str, str]:
    """The digest of every file of both flavours and their zips."""
    places = [releases / FIRST, releases / SMALL]
    found = {f"{place.name}/{path.name}": sha256_file(path) for place in places for path in place.iterdir()}
    return found | {path.name: sha256_file(path) for path in releases.glob("*.zip")}


@pytest.mark.slow
def test_both_flavours_have_the_same_people_and_each_its_own_manifest_zip_and_checks(
    made: tuple[Path, ReleaseReport],
) -> None:
    releases = made[0] / "releases"
    full, small = manifest(releases / FIRST), manifest(releases / SMALL)
    assert (full["flavour"], small["flavour"]) == ("full", "small")
    assert (full["version"], small["version"]) == (FIRST, FIRST)
    assert full["input_digest"] != small["input_digest"]
    for name in ("performers.db", "faces.json", "performers.json"):
        assert sha256_file(releases / FIRST / name) == sha256_file(releases / SMALL / name)
    for model in ("facenet", "arcface"):
        name = f"face_{model}.voy"
        assert (releases / SMALL / name).stat().st_size < 0.4 * (releases / FIRST / name).stat().st_size
    for flavour in Flavour:
        check_zip(
            releases / zip_name(FIRST, flavour), releases / f"{FIRST}{'' if flavour == 'full' else '.small'}"
        )
        assert not failures(verify_release(releases / zip_name(FIRST, flavour)))
    checks = read_checks(releases / f"{FIRST}.report")
    own = {name: {check.name for check in checks if check.flavour == name} for name in ("full", "small")}
    assert {"same_people", "suppressed", "facenet_content", "arcface_recall_at_1", "self_retrieval"} <= own[
        "small"
    ]
    assert own["small"] - own["full"] == {"same_people"}
    assert not failures(checks)
    assert made[1].flavours.keys() == {"full", "small"}


def test_the_sidecar_finds_the_same_people_in_both_flavours(made: tuple[Path, ReleaseReport]) -> None:
    full, small = (Sidecar(made[0] / "releases" / name) for name in (FIRST, SMALL))
    for position in range(0, 160, 7):
        vectors = {model: index.get_vector(position) for model, index in full.indices.items()}
        right, found = full.identify(vectors)[0], small.identify(vectors)[0]
        assert found.universal_id == right.universal_id
        assert abs(found.distance - right.distance) < 0.01


@pytest.mark.slow
def test_two_runs_give_the_same_bytes_of_each_flavour(
    made: tuple[Path, ReleaseReport], tmp_path: Path
) -> None:
    engine = make_catalog(tmp_path / "catalog.db")
    publish_release(engine, tmp_path, "other", BOTH, DAY)
    engine.dispose()
    again = files(tmp_path / "releases")
    assert len(again) == 14
    assert again == files(made[0] / "releases")


def test_the_flavour_full_has_the_bytes_that_it_has_without_the_flavour_small(
    made: tuple[Path, ReleaseReport], world: tuple[Path, ReleaseReport]
) -> None:
    alone = files_of(world[0] / "releases" / FIRST)
    assert files_of(made[0] / "releases" / FIRST) == alone


def files_of(release: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in release.iterdir()}


@pytest.mark.slow
def test_a_second_publish_builds_nothing_and_a_missing_flavour_makes_a_new_version(both: Path) -> None:
    engine = opened(both)
    assert not publish_release(engine, both, "again", BOTH, DAY).changed
    # A publish of the flavour full alone finds no change either: the other flavour stays on disk.
    assert not publish_release(engine, both, "full", SPEC, DAY).changed
    shutil.rmtree(both / "releases" / SMALL)
    report = publish_release(engine, both, "new", BOTH, DAY)
    assert (report.changed, report.version) == (True, NEXT)
    assert flavours_of(both / "releases", NEXT) == (Flavour.FULL, Flavour.SMALL)


@pytest.mark.slow
def test_unchanged_indices_of_each_flavour_are_reused(both: Path) -> None:
    engine = opened(both)
    rename_a_performer(engine)
    publish_release(engine, both, "next", BOTH, DAY)
    releases = both / "releases"
    for old, new in ((FIRST, NEXT), (SMALL, f"{NEXT}.small")):
        one, other = releases / old / "face_facenet.voy", releases / new / "face_facenet.voy"
        assert one.stat().st_ino == other.stat().st_ino


@pytest.mark.slow
def test_a_lost_zip_of_the_flavour_small_is_packed_again(both: Path) -> None:
    before = files(both / "releases")
    (both / "releases" / zip_name(FIRST, Flavour.SMALL)).unlink()
    assert not publish_release(opened(both), both, "again", BOTH, date(2026, 3, 1)).changed
    assert files(both / "releases") == before


@pytest.mark.slow
def test_a_flavour_that_fails_its_gate_is_recorded_and_nothing_is_published(both: Path) -> None:
    engine = opened(both)
    rename_a_performer(engine)
    strict = replace(BOTH, small=replace(small_limits(SPEC.limits), tie=0.0, recall_at_1=1.0))
    with pytest.raises(ReleaseRefusedError, match=r"small: facenet_recall_at_1: ") as refused:
        publish_release(engine, both, "strict", strict, DAY)
    failed = {check.label for check in failures(refused.value.checks)}
    assert failed <= {"small: answer_fidelity", "small: facenet_recall_at_1", "small: arcface_recall_at_1"}
    assert published_versions(both / "releases") == (FIRST,)
    assert not list((both / "releases").glob(f"*{NEXT}*"))


@pytest.mark.slow
def test_a_flavour_with_other_people_is_refused(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flavour small is made of another database than the flavour full."""
    engine = opened(both)
    rename_a_performer(engine)

    def share(full: flavours.Staging, other: flavours.Staging) -> None:
        (other.release / "performers.db").write_bytes(
            (both / "releases" / FIRST / "performers.db").read_bytes()
        )
        other.write_part("performers_db", full.read_part("performers_db"))

    monkeypatch.setattr(flavours, "_share_database", share)
    with pytest.raises(ReleaseError, match=r"small: (checksums|same_people): "):
        publish_release(engine, both, "other", BOTH, DAY)


@pytest.mark.slow
@pytest.mark.parametrize("renames", range(6))
def test_an_error_between_the_renames_leaves_no_flavour_behind(
    both: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    engine = opened(both)
    rename_a_performer(engine)
    before, done = files(both / "releases"), []
    real, rename = promotion._make_public, Path.rename

    def renamed(path: Path, target: Path) -> Path:
        if len(done) == renames:
            raise OSError(5, "Input/output error")
        done.append(target)
        return rename(path, target)

    def from_here(move: promotion._Move) -> None:
        real(move)
        monkeypatch.setattr(Path, "rename", renamed)

    monkeypatch.setattr(promotion, "_make_public", from_here)
    if renames < 5:
        with pytest.raises(ReleaseError, match="Input/output error"):
            publish_release(engine, both, "broken", BOTH, DAY)
        assert latest_release(both / "releases") == (both / "releases" / FIRST).resolve()
    else:
        publish_release(engine, both, "whole", BOTH, DAY)
    monkeypatch.undo()
    report = publish_release(engine, both, "again", BOTH, DAY)
    versions = published_versions(both / "releases")
    assert [flavours_of(both / "releases", version) for version in versions] == [tuple(Flavour)] * 2
    assert latest_release(both / "releases") == report.path.resolve()
    assert {name: digest for name, digest in files(both / "releases").items() if name in before} == before
    clear_leftovers(both)
    assert {name for path in (both / "releases").iterdir() if (name := path.name) != "latest"} == {
        name
        for version in versions
        for name in (
            *(version, f"{version}.small", f"{version}.report"),
            *(zip_name(version, flavour) for flavour in Flavour),
        )
    }


def test_leftovers_of_a_flavour_are_removed_with_their_version(both: Path) -> None:
    releases = both / "releases"
    (releases / "2026.02.19.small").mkdir()
    (releases / zip_name("2026.02.20", Flavour.SMALL)).touch()
    assert next_version(releases, DAY) == "2026.02.20.1"
    removed = clear_leftovers(both)
    assert set(removed) == {"releases/2026.02.19.small", "releases/stash-sense-data-small-v2026.02.20.zip"}


@pytest.mark.slow
def test_the_list_has_a_row_a_flavour_and_pruning_removes_all_of_a_version(both: Path) -> None:
    engine = opened(both)
    rename_a_performer(engine)
    publish_release(engine, both, "next", BOTH, DAY + timedelta(days=1))
    releases = both / "releases"
    listed = [(row.version, row.latest) for row in list_releases(releases)]
    assert listed == [(FIRST, False), (SMALL, False), ("2026.02.19", True), ("2026.02.19.small", True)]
    assert prune_releases(releases, 1) == (FIRST,)
    assert not list(releases.glob(f"*{FIRST}*"))
    assert flavours_of(releases, "2026.02.19") == tuple(Flavour)


@pytest.mark.slow
@pytest.mark.parametrize("name", [SMALL, "latest.small"])
def test_a_flavour_is_verified_installed_and_compared_by_its_name(
    both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("DATA_DIR", str(both))
    home = tmp_path / "sidecar"
    run = CliRunner().invoke
    done = run(main, ["releases", "install", name, "--to", str(home)])
    assert done.exit_code == 0, done.output
    assert manifest(home)["flavour"] == "small"
    assert len(Sidecar(home).faces) == 160
    assert "Nothing changed" in run(main, ["releases", "diff", FIRST, name]).output
    assert run(main, ["verify", str(both / "releases" / SMALL)]).exit_code == 0
    # From the flavour small back to the flavour full, over the same files.
    assert install_release(both / "releases" / FIRST, home).previous == FIRST
    assert manifest(home)["flavour"] == "full"
    gone = run(main, ["releases", "install", f"{FIRST}.tiny", "--to", str(home)])
    assert (gone.exit_code, gone.stderr.count("\n")) == (2, 1)


def test_a_flavour_under_the_name_of_the_other_is_refused(both: Path, tmp_path: Path) -> None:
    wrong = tmp_path / FIRST
    shutil.copytree(both / "releases" / SMALL, wrong)
    assert [check.name for check in failures(verify_release(wrong))] == ["version"]


def test_names_of_releases_are_read_back() -> None:
    for flavour in Flavour:
        for version in ("2026.02.18", "2026.02.18.1"):
            kind = "" if flavour is Flavour.FULL else ".small"
            assert named_release(f"{version}{kind}") == (version, flavour)
            assert named_release(zip_name(version, flavour)) == (version, flavour)
    for other in (
        "latest",
        "2026.02.18.tiny",
        "2026.02.18.report",
        "stash-sense-data-tiny-v2026.02.18.zip",
        "v2026.02.18",
    ):
        assert named_release(other) is None


def test_vectors_of_the_flavour_small_are_those_of_the_catalog_rounded(
    made: tuple[Path, ReleaseReport],
) -> None:
    full, small = (Sidecar(made[0] / "releases" / name) for name in (FIRST, SMALL))
    for model in full.indices:
        one = full.indices[model].get_vectors(range(160))
        other = small.indices[model].get_vectors(range(160))
        other /= np.linalg.norm(other, axis=1, keepdims=True)
        assert np.einsum("ij,ij->i", one, other).min() > 0.99
