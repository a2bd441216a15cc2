"""Files and directories get the modes that the program chooses, independently of the umask."""

from __future__ import annotations

import ast
import os
import re
import stat
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import stash_sense_pipeline
from stash_sense_pipeline.foundation.files import (
    PUBLIC_DIRECTORY,
    PUBLIC_FILE,
    keep_files_private,
    make_directory,
    make_private_file,
    private_opener,
    replacing,
    restrict,
    write_atomically,
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture(
    params=[0o000, 0o022, 0o027, 0o077, 0o177], ids=lambda value: f"umask {value:03o}", autouse=True
)
def umask(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_written_file_is_private_and_its_missing_directories_too(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_atomically(path, "text")
    assert [mode(place) for place in (path, path.parent, path.parent.parent)] == [0o600, 0o700, 0o700]
    path.chmod(0o666)
    write_atomically(path, b"again")
    assert (mode(path), path.read_text()) == (0o600, "again")
    assert [place.name for place in path.parent.iterdir()] == ["file"]


def test_a_public_file_is_private_until_it_is_complete(tmp_path: Path) -> None:
    with replacing(tmp_path / "file", PUBLIC_FILE) as temporary:
        assert mode(temporary) == 0o600
        temporary.write_text("text")
        assert mode(temporary) == 0o600
    assert mode(tmp_path / "file") == 0o644


def test_a_file_that_the_writer_replaces_gets_the_chosen_mode(tmp_path: Path) -> None:
    with replacing(tmp_path / "file") as temporary:
        temporary.unlink()
        temporary.write_text("text")
    assert mode(tmp_path / "file") == 0o600


def test_a_leftover_of_a_killed_writer_is_not_used(tmp_path: Path) -> None:
    leftover = tmp_path / f".file.{os.getpid()}.tmp"
    leftover.symlink_to(tmp_path / "elsewhere")
    write_atomically(tmp_path / "file", "text")
    assert not (tmp_path / "elsewhere").exists()
    assert not (tmp_path / "file").is_symlink()


def test_a_new_directory_gets_its_mode_and_an_existing_one_keeps_its_own(tmp_path: Path) -> None:
    make_directory(tmp_path / "public" / "inner", PUBLIC_DIRECTORY)
    assert [mode(tmp_path / name) for name in ("public", "public/inner")] == [0o755, 0o755]
    make_directory(tmp_path / "public" / "inner")
    assert mode(tmp_path / "public" / "inner") == 0o755
    write_atomically(tmp_path / "file", "")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=r"exists|Not a directory"):
            make_directory(place)


def test_a_file_that_open_makes_is_private(tmp_path: Path, umask: int) -> None:
    with open(tmp_path / "log", "a", opener=private_opener) as stream:
        stream.write("x")
    make_private_file(tmp_path / "new")
    assert mode(tmp_path / "log") == 0o600 & ~umask
    assert mode(tmp_path / "new") == 0o600


def test_restrict_removes_the_rights_of_others_and_follows_no_links(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    make_directory(root / "inner", 0o777)
    for path in (root / "inner" / "file", outside):
        path.touch()
        path.chmod(0o4777)
    (root / "link").symlink_to(outside)
    (root / "to directory").symlink_to(tmp_path)
    restrict(root, forbidden=0o022)
    assert [mode(root), mode(root / "inner"), mode(root / "inner" / "file")] == [0o755, 0o755, 0o4755]
    restrict(root)
    assert [mode(root), mode(root / "inner"), mode(root / "inner" / "file")] == [0o700, 0o700, 0o4700]
    restrict(root / "link")
    restrict(root / "to directory")
    restrict(root / "nothing")
    assert mode(outside) == 0o4777


def test_files_that_a_process_and_its_children_make_are_private(tmp_path: Path) -> None:
    keep_files_private()
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    assert (mode(tmp_path / "file"), mode(tmp_path / "directory")) == (0o600, 0o700)


@pytest.mark.slow
def test_no_module_leaves_the_mode_of_a_file_or_directory_to_the_umask() -> None:
    """Modules use `foundation/files.py`. Exceptions are files inside a private directory or a file of `replacing`."""
    known = {
        "release/build/voyager_index.py": ['path.open("wb")'],  # in the staging directory, which is private
        "release/distribution/install.py": [
            '(fresh / member.name).open("xb")'
        ],  # in a private directory, then made public
        "release/distribution/github.py": ['path.open("wb")'],  # in a private directory of its caller
        "frames/export_files.py": [
            'temporary.open("w", encoding="utf-8", newline="")'
        ],  # a file of `replacing`
        "foundation/zip_file.py": ['target.open("xb")'],  # in a private directory of its caller
    }
    assert {name: calls for name, calls in _makers_of_package().items() if calls} == known


@cache
def _makers_of_package() -> dict[str, list[str]]:
    """The calls of `_makers` by module."""
    package = Path(stash_sense_pipeline.__file__).parent
    found: dict[str, list[str]] = {}
    for path in sorted(package.rglob("*.py")):
        name = str(path.relative_to(package))
        if name != "foundation/files.py" and not name.startswith("sandbox/"):
            found[name] = _makers(ast.parse(path.read_text()))
    return found


def _makers(tree: ast.AST) -> list[str]:
    """The calls of a module that make files or directories with the mode of the umask."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    makers = []
    for call in calls:
        attribute = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        texts = [
            node.value for node in call.args if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        writes = attribute == "open" and any(
            re.fullmatch(r"[rwax]b?\+?b?", text) and text[0] in "wax" for text in texts
        )
        opened = isinstance(call.func, ast.Name) and call.func.id == "open"
        bare = opened and not any(keyword.arg == "opener" for keyword in call.keywords)
        if (
            attribute in ("mkdir", "makedirs", "touch", "copytree")
            or (writes and "archive" not in ast.unparse(call))
            or bare
        ):
            makers.append(ast.unparse(call).replace("'", '"'))
    return makers
