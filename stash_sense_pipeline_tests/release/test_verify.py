"""Every damage to a release fails its check, and none makes the verification raise."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import voyager

from stash_sense_pipeline.foundation.files import sha256_file
from stash_sense_pipeline.release.build.archive import write_zip
from stash_sense_pipeline.release.build.graph.voyager_file import read_voyager_file
from stash_sense_pipeline.release.checks import verify
from stash_sense_pipeline.release.checks.check_result import Severity, failures
from stash_sense_pipeline.release.checks.verify import verify_release
from stash_sense_pipeline.release.promotion import ReleaseReport
from stash_sense_pipeline_tests.release.damages import DAMAGES, index, reseal, sql


def failed(path: Path) -> set[str]:
    return {result.name for result in verify_release(path) if not result.passed}


def test_a_good_release_passes(copy: Path) -> None:
    results = verify_release(copy)
    assert not [result for result in results if not result.passed]
    assert len({result.name for result in results}) == len(results) > 35


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_fails_its_check(copy: Path, damage: str) -> None:
    change, expected = DAMAGES[damage]
    change(copy)
    if not expected & {"checksums", "no_other_files"}:
        reseal(copy)
    assert failed(copy) == expected


def test_a_file_with_other_bytes_fails_its_checksum(copy: Path) -> None:
    (copy / "faces.json").write_text((copy / "faces.json").read_text() + " ")
    assert failed(copy) == {"checksums"}


def test_fewer_faces_than_the_sidecar_asks_for_is_a_warning(copy: Path) -> None:
    index("facenet", vectors=lambda vectors: vectors[:99])(copy)
    reseal(copy)
    result = next(result for result in verify_release(copy) if result.name == "facenet_enough_faces")
    assert (result.passed, result.severity) == (False, Severity.WARNING)
    assert "RecallError" in result.detail
    assert "facenet_enough_faces" not in {failure.name for failure in failures(verify_release(copy))}


@pytest.mark.parametrize("storage", [voyager.StorageDataType.E4M3, voyager.StorageDataType.Float8])
def test_8_bit_indices_pass(copy: Path, storage: voyager.StorageDataType) -> None:
    path = copy / "face_facenet.voy"
    vectors = voyager.Index.load(str(path)).get_vectors(range(160))
    new = voyager.Index(voyager.Space.Cosine, 512, storage_data_type=storage)
    new.add_items(vectors, ids=list(range(160)), num_threads=1)
    new.save(str(path))
    reseal(copy)
    assert failed(copy) == set()


def test_tattoo_files_pass(copy: Path) -> None:
    uids = sorted(json.loads((copy / "performers.json").read_text()))[:20]
    rng = np.random.default_rng(0)
    tattoos = voyager.Index(voyager.Space.Cosine, 1280)
    tattoos.add_items(rng.standard_normal((20, 1280)).astype("f4"), ids=list(range(20)))
    tattoos.save(str(copy / "tattoo_embeddings.voy"))
    (copy / "tattoo_embeddings.json").write_text(
        json.dumps([{"universal_id": uid, "extra": 1} for uid in uids])
    )
    reseal(copy)
    assert failed(copy) == set()
    # As plain strings the sidecar's matcher raises a TypeError.
    (copy / "tattoo_embeddings.json").write_text(json.dumps(uids))
    reseal(copy)
    assert failed(copy) == {"tattoo_files"}


def test_verification_changes_nothing(copy: Path) -> None:
    before = {path.name: (sha256_file(path), path.stat().st_mtime_ns) for path in copy.iterdir()}
    verify_release(copy)
    assert {path.name: (sha256_file(path), path.stat().st_mtime_ns) for path in copy.iterdir()} == before


# --- zips -----------------------------------------------------------------------------------------------------------


def zipped(release: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for member in release.iterdir():
            archive.write(member, prefix + member.name)
    return path


def test_times_as_sqlite_writes_them_pass(copy: Path) -> None:
    sql("UPDATE faces SET created_at = datetime('now')", "UPDATE aliases SET created_at = NULL")(copy)
    reseal(copy)
    assert failed(copy) == set()


def test_the_zip_of_a_published_release_passes(world: tuple[Path, ReleaseReport]) -> None:
    assert failed(world[1].archive) == set()


def test_a_zip_of_more_than_4_gib_can_be_read(
    world: tuple[Path, ReleaseReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit of 100 kB instead of 4 GiB the larger members have 64-bit sizes, which every reader supports."""
    path = tmp_path / world[1].archive.name
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZIP64_LIMIT", 100_000)
        write_zip(world[1].path, path)
    assert path.read_bytes() != world[1].archive.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("face_facenet.voy").extract_version == zipfile.ZIP64_VERSION
    assert failed(path) == set()


def test_a_release_too_large_for_github_is_a_warning(
    world: tuple[Path, ReleaseReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "ASSET_LIMIT_BYTES", 100_000)
    for path in (world[1].path, world[1].archive):
        (result,) = (result for result in verify_release(path) if not result.passed)
        assert (result.name, result.severity) == ("size", Severity.WARNING)
        assert "below 2 GiB only; keep fewer faces a performer, or store the indices as e4m3" in result.detail


def test_a_release_that_is_nearly_too_large_is_a_warning_already(
    world: tuple[Path, ReleaseReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = world[1].archive.stat().st_size
    for limit, warns in ((size * 1.05, {"size"}), (size * 1.2, set())):
        monkeypatch.setattr(verify, "ASSET_LIMIT_BYTES", limit)
        assert failed(world[1].archive) == warns


def test_a_zip_with_a_folder_is_refused(copy: Path, tmp_path: Path) -> None:
    assert failed(zipped(copy, tmp_path / "release.zip", "2026.02.18/")) == {"archive"}


def test_a_zip_with_a_path_outside_is_refused_and_writes_nothing(copy: Path, tmp_path: Path) -> None:
    path = zipped(copy, tmp_path / "release.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../escaped.txt", "x")
    assert failed(path) == {"archive"}
    assert not (tmp_path.parent / "escaped.txt").exists()


def test_a_zip_with_a_file_outside_the_contract_is_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "readme.txt").touch()
    assert failed(zipped(copy, tmp_path / "release.zip")) == {"no_other_files"}


def test_a_zip_with_the_name_of_another_version_is_refused(copy: Path, tmp_path: Path) -> None:
    assert failed(zipped(copy, tmp_path / "stash-sense-data-v2026.02.19.zip")) == {"version"}


@pytest.mark.parametrize("kept", [0, 10, 1000, 400_000, -1])
def test_a_truncated_zip_is_refused(world: tuple[Path, ReleaseReport], tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.zip"
    path.write_bytes(world[1].archive.read_bytes()[:kept])
    assert failed(path) == {"archive"}


def test_a_changed_byte_in_a_zip_is_refused(world: tuple[Path, ReleaseReport], tmp_path: Path) -> None:
    path = tmp_path / "flipped.zip"
    content = bytearray(world[1].archive.read_bytes())
    content[200_000] ^= 1
    path.write_bytes(content)
    assert failed(path) == {"archive"}


@pytest.mark.parametrize("what", ["a release", "a file in it"])
def test_a_release_that_may_not_be_read_fails_in_one_line(
    copy: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of a user without permission is simulated, because root may read every file."""

    def forbidden(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir" if what == "a release" else "exists", forbidden)
    path = copy if what == "a release" else copy / "performers.db"
    assert any("Permission denied" in result.detail for result in failures(verify_release(path)))


def test_a_missing_path_and_an_empty_directory_are_refused(tmp_path: Path) -> None:
    assert failed(tmp_path / "nothing") == {"archive"}
    assert "required_files" in failed(tmp_path)


# --- random damage -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_random_damage_never_raises(world: tuple[Path, ReleaseReport], tmp_path: Path) -> None:
    original = world[1].path
    rng = random.Random(4)
    for round_ in range(60):
        release = tmp_path / str(round_)
        shutil.copytree(original, release)
        victim = rng.choice(sorted(release.iterdir()))
        content = bytearray(victim.read_bytes())
        if round_ % 3 == 0:
            content = content[: rng.randrange(len(content))]
        else:
            for _ in range(rng.choice([1, 20, 2000])):
                content[rng.randrange(len(content))] = rng.randrange(256)
        victim.write_bytes(content)
        # The manifest has every checksum but its own, so that a change of its free text is not noticed.
        noticed = failures(verify_release(release)) or victim.name == "manifest.json"
        assert noticed, f"round {round_}: damage to {victim.name} was not noticed"
        shutil.rmtree(release)


_LOAD_DAMAGED = """
import random, sys
from pathlib import Path
import voyager
from stash_sense_pipeline.release.build.graph.voyager_file import read_voyager_file
original, scratch = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
rng = random.Random(5)
graph = 115 + 160 * 2156
passed = 0
for round_ in range(600):
    content = bytearray(original)
    for _ in range(rng.choice([1, 1, 3])):
        # The bytes with offsets and links: the header, the links of an element, the upper levels.
        place = rng.choice(
            [rng.randrange(115), 115 + rng.randrange(160) * 2156 + rng.randrange(100), rng.randrange(graph, len(content))]
        )
        content[place] = rng.choice([0, 1, 127, 255, rng.randrange(256)])
    scratch.write_bytes(content)
    try:
        read_voyager_file(scratch)
    except ValueError:
        continue
    passed += 1
    index = voyager.Index.load(str(scratch))
    try:
        index.get_vectors(range(10))
        index.query(index.get_vector(0), k=min(100, len(index)))
    except (RuntimeError, ValueError):
        pass
print(passed)
"""


@pytest.mark.slow
def test_an_index_that_passes_the_structure_check_does_not_crash_voyager(
    world: tuple[Path, ReleaseReport], tmp_path: Path
) -> None:
    """In a child process, which a link that points outside would crash."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            _LOAD_DAMAGED,
            str(world[1].path / "face_facenet.voy"),
            str(tmp_path / "damaged.voy"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert 0 < int(done.stdout) < 500


def test_the_structure_of_a_real_index_is_parsed(world: tuple[Path, ReleaseReport]) -> None:
    file = read_voyager_file(world[1].path / "face_facenet.voy")
    assert (file.count, file.dimensions, file.space, file.storage) == (160, 512, "Cosine", "Float32")
    assert (file.m, file.ef_construction, file.deleted) == (12, 100, 0)
    assert file.ids.tolist() == list(range(160))
