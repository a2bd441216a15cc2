from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.files import sha256_file
from stash_sense_pipeline.release.distribution import install
from stash_sense_pipeline.release.distribution.install import BACKUP, install_release
from stash_sense_pipeline.release.promotion import ReleaseReport

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
def test_an_installation_replaces_the_files_of_the_contract_and_keeps_a_backup(
    world: World, sidecar: Path, kind: str
) -> None:
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


def test_an_installation_creates_a_missing_directory(world: World, tmp_path: Path) -> None:
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
    # Seven old files, six new ones and the backup: later moves do not exist.
    if number >= 14:
        install_release(world[1].path, sidecar)
        return
    with pytest.raises(ReleaseError, match=r"cannot install into .*No space left"):
        install_release(world[1].path, sidecar)
    assert content(sidecar) == before
    assert {path.name for path in sidecar.iterdir() if path.is_dir()} == {"backup_1700000000"}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(14))
def test_a_kill_at_any_move_is_rolled_back_by_the_next_installation(
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
    # The next installation fails while it copies, so that only the roll-back has changed files.
    with pytest.MonkeyPatch.context() as patch:

        def failing(*_: object, **__: object) -> None:
            raise OSError(5, "Input/output error")

        patch.setattr(install, "open_regular", failing)
        with pytest.raises(ReleaseError, match="Input/output error"):
            install_release(world[1].path, sidecar)
    assert content(sidecar) == before
    report = install_release(world[1].path, sidecar)
    assert report.previous == "2025.01.01"
    assert content(sidecar)["faces.json"] == content(world[1].path)["faces.json"]


# --- files that others put there ------------------------------------------------------------------------------------------


def plant(sidecar: Path, plan: object) -> Path:
    """A directory like that of an interrupted installation, with this plan."""
    work = sidecar / ".stash-sense-install"
    (work / "new").mkdir(parents=True)
    work.chmod(0o700)
    (work / "plan.json").write_text(plan if isinstance(plan, str) else json.dumps(plan))
    return work


PLANS: dict[str, object] = {
    "a path outside": {"new": {"../victim": [1, 2]}, "old": []},
    "an absolute path": {"new": {"/etc/hostname": [1, 2]}, "old": []},
    "a file of the user": {"new": {"stash_sense.db": [1, 2]}, "old": []},
    "an old file outside": {"new": {}, "old": ["../victim"]},
    "the plan of an old version": {"new": ["../victim"], "old": []},
    "a list": ["../victim"],
    "numbers": {"new": 1, "old": 2},
    "names that are no text": {"new": {}, "old": [["faces.json"]]},
    "cut off": '{"new": {',
    "deep": "[" * 100_000,
    "a text as an identity": {"new": {"faces.json": "x"}, "old": []},
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_that_this_program_did_not_write_is_refused_and_nothing_is_touched(
    world: World, sidecar: Path, name: str
) -> None:
    victim = sidecar.parent / "victim"
    victim.write_text("precious")
    before = content(sidecar)
    plant(sidecar, PLANS[name])
    with pytest.raises(ReleaseError, match="is not the plan of an installation") as caught:
        install_release(world[1].path, sidecar)
    assert "\n" not in str(caught.value)
    assert victim.read_text() == "precious"
    assert content(sidecar) == before


def test_a_planted_plan_deletes_no_file_that_it_did_not_bring(world: World, sidecar: Path) -> None:
    """The author of an archive cannot know the inodes of the files after unpacking."""
    plant(sidecar, {"new": {name: [1, 2] for name in content(world[1].path)}, "old": []})
    before = content(sidecar)
    install_release(world[1].path, sidecar)
    del before["stash_sense.db"]
    assert content(sidecar / BACKUP) == before


@pytest.mark.parametrize("what", [".stash-sense-install", BACKUP])
@pytest.mark.parametrize("kind", ["link", "file", "fifo"])
def test_a_working_directory_or_backup_of_another_program_is_refused(
    world: World, sidecar: Path, tmp_path: Path, what: str, kind: str
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "faces.json").write_text("not ours")
    place = sidecar / what
    {"link": lambda: place.symlink_to(other), "file": place.touch, "fifo": lambda: os.mkfifo(place)}[kind]()
    before = content(sidecar)
    with pytest.raises(ReleaseError, match="not a directory that this program made"):
        install_release(world[1].path, sidecar)
    assert content(sidecar) == before
    assert (other / "faces.json").read_text() == "not ours"


def test_a_working_directory_that_others_may_write_is_refused(world: World, sidecar: Path) -> None:
    plant(sidecar, {"new": {}, "old": []}).chmod(0o777)
    with pytest.raises(ReleaseError, match="not a directory that this program made"):
        install_release(world[1].path, sidecar)


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "stray"])
def test_a_release_with_anything_but_its_plain_files_is_not_installed(
    copy: Path, sidecar: Path, tmp_path: Path, kind: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("[]")
    victim = copy / ("stray.txt" if kind == "stray" else "tattoo_embeddings.json")
    {
        "link": lambda: victim.symlink_to(secret),
        "fifo": lambda: os.mkfifo(victim),
        "directory": victim.mkdir,
        "stray": victim.touch,
    }[kind]()
    before = content(sidecar)
    with pytest.raises(ReleaseError, match=f"{victim.name}.* is not a plain file of a release"):
        install_release(copy, sidecar)
    assert content(sidecar) == before
    assert not (sidecar / ".stash-sense-install").exists()


def test_a_release_that_the_disk_has_no_room_for_is_not_installed(
    world: World, sidecar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "room_for", lambda size, roots: None)
    for release in (world[1].path, world[1].archive):
        with pytest.raises(ReleaseError, match="its files need"):
            install_release(release, sidecar)


def test_old_files_that_cannot_be_put_back_are_kept(world: World, sidecar: Path) -> None:
    """After a copy of the whole directory to another disk all files have other inodes."""
    work = plant(sidecar, {"new": {"faces.json": [1, 2]}, "old": ["faces.json"]})
    (work / "old").mkdir()
    (work / "old" / "faces.json").write_text("the old one")
    with pytest.raises(ReleaseError, match="put the old files back"):
        install_release(world[1].path, sidecar)
    assert (work / "old" / "faces.json").read_text() == "the old one"
