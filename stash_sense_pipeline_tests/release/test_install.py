from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from stash_sense_pipeline.errors import ReleaseError
from stash_sense_pipeline.files import sha256_file
from stash_sense_pipeline.release.install import BACKUP, install_release
from stash_sense_pipeline.release.publish import ReleaseReport

World = tuple[Path, ReleaseReport]


@pytest.fixture
def sidecar(tmp_path: Path) -> Path:
    """A sidecar's data directory with older files, an optional one, and its own database."""
    directory = tmp_path / "sidecar"
    directory.mkdir()
    for name in ("performers.db", "face_facenet.voy", "face_arcface.voy", "faces.json", "performers.json"):
        (directory / name).write_text(f"old {name}")
    (directory / "manifest.json").write_text('{"version": "2025.01.01"}')
    (directory / "tattoo_embeddings.voy").write_text("old tattoos")
    (directory / "stash_sense.db").write_text("the user's own")
    (directory / "backup_1700000000").mkdir()
    return directory


def content(directory: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in directory.iterdir() if path.is_file()}


@pytest.mark.parametrize("kind", ["path", "archive"])
def test_the_new_files_replace_the_old(world: World, sidecar: Path, kind: str) -> None:
    release = world[1]
    old = content(sidecar)
    report = install_release(getattr(release, kind), sidecar)
    assert (report.version, report.previous) == (release.version, "2025.01.01")
    assert report.dropped == ("tattoo_embeddings.voy",)
    assert content(sidecar) == {**content(release.path), "stash_sense.db": old["stash_sense.db"]}
    own = old.pop("stash_sense.db")
    assert own
    assert content(sidecar / BACKUP) == old
    assert {path.name for path in sidecar.iterdir() if path.is_dir()} == {BACKUP, "backup_1700000000"}
    again = install_release(release.path, sidecar)
    assert again.previous == release.version
    assert content(sidecar / BACKUP) == content(release.path)


def test_into_a_directory_that_is_not_there(world: World, tmp_path: Path) -> None:
    report = install_release(world[1].path, tmp_path / "a" / "b")
    assert (report.previous, report.backup) == (None, None)
    assert content(tmp_path / "a" / "b") == content(world[1].path)
    assert [path.name for path in (tmp_path / "a" / "b").iterdir() if path.is_dir()] == []


def test_a_damaged_release_is_not_installed(copy: Path, sidecar: Path) -> None:
    before = content(sidecar)
    (copy / "faces.json").write_text("[]")
    with pytest.raises(ReleaseError, match="is not installed, it fails"):
        install_release(copy, sidecar)
    assert content(sidecar) == before
    assert not (sidecar / BACKUP).exists()


@pytest.mark.parametrize("number", range(16))
def test_an_error_at_any_move_brings_the_old_files_back(
    world: World, sidecar: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = content(sidecar)
    moves: list[Any] = []
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        moves.append(path)
        if len(moves) == number + 1:
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    # Seven old files, six new ones, the backup: then there is nothing left to fail.
    if number >= 14:
        install_release(world[1].path, sidecar)
        return
    with pytest.raises(ReleaseError, match=r"cannot install into .*No space left"):
        install_release(world[1].path, sidecar)
    assert content(sidecar) == before
    assert {path.name for path in sidecar.iterdir() if path.is_dir()} == {"backup_1700000000"}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(14))
def test_a_kill_at_any_move_is_mended_by_the_next_installation(
    world: World, sidecar: Path, number: int
) -> None:
    before = content(sidecar)
    child = os.fork()
    if child == 0:
        rename, moves = Path.rename, []

        def killing(path: Path, target: Path) -> Path:
            moves.append(path)
            if len(moves) == number + 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(path, target)

        Path.rename = killing  # type: ignore[method-assign]
        install_release(world[1].path, sidecar)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    # The next one fails while it copies, so what is left is what the roll-back made.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            shutil, "copyfile", lambda *args: (_ for _ in ()).throw(OSError(5, "Input/output error"))
        )
        with pytest.raises(ReleaseError, match="Input/output error"):
            install_release(world[1].path, sidecar)
    assert content(sidecar) == before
    report = install_release(world[1].path, sidecar)
    assert report.previous == "2025.01.01"
    assert content(sidecar)["faces.json"] == content(world[1].path)["faces.json"]
