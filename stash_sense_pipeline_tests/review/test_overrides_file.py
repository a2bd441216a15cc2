"""Writing answers into identity_overrides.yaml: every layout, comments, broken and locked files, two writers."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.identity.linkage.overrides import SECTIONS, load_overrides
from stash_sense_pipeline.privacy.redaction.overrides_text import NewEntry, overrides_locked
from stash_sense_pipeline.review.overrides_file import add_entry, comments, entries, remove_entry

LAYOUTS = {
    "empty": "",
    "comments only": "# mine\n# and more\n",
    "block": "must_link:\n- [stashdb:a, fansdb:b]\ncannot_link:\n- [stashdb:c, fansdb:d]\n",
    "indented block": "# head\nmust_link:\n    - [stashdb:a, fansdb:b]   # why\n\n# foot\n",
    "comments between": (
        "must_link:\n  # one\n  - [stashdb:a, fansdb:b]\n  # two\n  - [stashdb:c, fansdb:d]\n  # end\ncannot_link: []\n"
    ),
    "flow": "must_link: [[stashdb:a, fansdb:b], [stashdb:c, fansdb:d]]  # mine\nnot_a_face: [stashdb:i]\n",
    "flow over lines": "must_link: [\n  [stashdb:a, fansdb:b],  # why\n  [stashdb:c, fansdb:d],\n]\n# foot\n",
    "null sections": "must_link:\ncannot_link: null\nnot_a_face: ~\nproves_nothing:  # none yet\nreviewed:\n",
    "empty lists": "must_link: []   # none\ncannot_link: [ ]\nnot_this_person: []\nnot_a_face: []\nduplicates: []\n",
    "no line break at the end": "must_link:\n- [stashdb:a, fansdb:b]",
    "line breaks of Windows": "# mine\r\nmust_link:\r\n  - [stashdb:a, fansdb:b]\r\n",
    "byte order mark": "\ufeffmust_link:\n- [stashdb:a, fansdb:b]\n",
    "nested blocks": "must_link:\n- - stashdb:a\n  - fansdb:b  # why\nnot_this_person:\n  -\n    - s:i\n    - s:a\n",
    "quotes": "must_link:\n  - ['stashdb:a', \"fansdb:b\"]\n'cannot_link':\n  - [stashdb:c, 'fansdb:d # e']\n",
    "aliases": "must_link:\n- &pair [stashdb:a, fansdb:b]\nreviewed:\n- [later, pair, stashdb:q, fansdb:r]\n",
    "one line": "{must_link: [[stashdb:a, fansdb:b]]}\n",
}
NEW = {
    "must_link": ("stashdb:new", "fansdb:new"),
    "cannot_link": ("stashdb:new", "theporndb:4711"),
    "duplicates": ("stashdb:new", "stashdb:other"),
    "not_this_person": ("stashdb:new-image", "stashdb:new"),
    "not_a_face": "stashdb:other-image",
    "proves_nothing": 'twitter:studio, the "best" # 1',
    "reviewed": ("later", "pair", "stashdb:new", "fansdb:é: x"),
}


def test_each_section_has_a_new_entry() -> None:
    assert NEW.keys() == set(SECTIONS)


@pytest.mark.parametrize("section", NEW)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_entry_is_added_and_removed_and_all_else_stays(tmp_path: Path, layout: str, section: str) -> None:
    path = tmp_path / "identity_overrides.yaml"
    path.write_bytes(LAYOUTS[layout].encode())
    before = yaml.safe_load(LAYOUTS[layout]) or {}
    entry = NEW[section]
    item = entry if isinstance(entry, str) else list(entry)
    new = NewEntry(section, entry, "2026-11-29 08:00 tester: it is so")
    if layout == "one line" and section != "must_link":
        with pytest.raises(ConfigurationError, match=rf"overrides\.yaml:1: {section} is written in a form"):
            add_entry(path, new, lambda _: None)
        assert path.read_bytes().decode() == LAYOUTS[layout]
        return
    add_entry(path, new, lambda _: None)
    text = path.read_bytes().decode()
    assert yaml.safe_load(text) == {**before, section: [*(before.get(section) or ()), item]}
    load_overrides(path)
    line = max(line for place, found, line in entries(path) if (place, found) == (section, entry))
    assert comments(path)[line].endswith("2026-11-29 08:00 tester: it is so")
    for kept in LAYOUTS[layout].splitlines():
        if "#" in kept and "'fansdb:d # e'" not in kept:
            assert kept.partition("#")[2].strip() in text
    assert text.count("\r\n") in (0, text.count("\n"))
    # Two writers cannot add it twice by mistake, and it can be taken back.
    assert remove_entry(path, section, entry)
    assert (yaml.safe_load(path.read_text("utf-8-sig")) or {}).get(section) in (before.get(section), None, [])
    assert not remove_entry(path, section, entry)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("must_link:\n- [stashdb:a, fansdb:b\n", 3),
        ("must_link:\n\t- [stashdb:a, fansdb:b]\n", 2),
        ("must_link:\n- [stashdb:a]\n", 2),
        ("# fine\nmust_lnk: []\n", 2),
        ("must_link: []\nmust_link: []\n", 1),
        ("- 1\n", 1),
    ],
)
def test_a_broken_file_is_named_by_line_and_nothing_is_lost(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "identity_overrides.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=rf"identity_overrides\.yaml:{line}: "):
        add_entry(path, NewEntry("must_link", ("stashdb:x", "fansdb:y")), lambda _: None)
    assert path.read_text() == text


def test_a_file_that_is_no_text_is_named_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "identity_overrides.yaml"
    path.write_bytes(b"must_link: []\n\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"identity_overrides\.yaml"):
        add_entry(path, NewEntry("must_link", ("stashdb:x", "fansdb:y")), lambda _: None)
    assert path.read_bytes() == b"must_link: []\n\xff\xfe"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "identity_overrides.yaml"
    (tmp_path / "folder").write_text("a file in place of the folder")
    with pytest.raises(ConfigurationError, match=r"cannot be written .*nothing was changed"):
        add_entry(path, NewEntry("must_link", ("stashdb:x", "fansdb:y")), lambda _: None)


def test_a_refused_check_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "identity_overrides.yaml"

    def refuse(_: object) -> None:
        raise ConfigurationError("no")

    with pytest.raises(ConfigurationError, match="no"):
        add_entry(path, NewEntry("must_link", ("stashdb:x", "fansdb:y")), refuse)
    assert not path.exists()


def test_a_link_stays_a_link_and_the_mode_stays(tmp_path: Path) -> None:
    real = tmp_path / "real.yaml"
    real.write_text("must_link: []\n")
    real.chmod(0o640)
    path = tmp_path / "identity_overrides.yaml"
    path.symlink_to(real)
    add_entry(path, NewEntry("must_link", ("stashdb:x", "fansdb:y")), lambda _: None)
    assert path.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert len(load_overrides(path).must_link) == 1


def test_a_line_of_an_editor_that_comes_between_is_kept(tmp_path: Path) -> None:
    """An editor knows no lock: its line comes after the file was read, and before it is replaced."""
    path = tmp_path / "identity_overrides.yaml"
    path.write_text("must_link:\n- [stashdb:a, fansdb:b]\n")
    came: list[bool] = []

    def edit(_: object) -> None:
        if not came:
            came.append(True)
            path.write_text(path.read_text() + "- [stashdb:c, fansdb:d]\n")

    add_entry(path, NewEntry("must_link", ("stashdb:x", "fansdb:y")), edit)
    assert len(load_overrides(path).must_link) == 3


@pytest.mark.slow
def test_writers_in_several_processes_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "identity_overrides.yaml"
    program = (
        "import sys; from pathlib import Path\n"
        "from stash_sense_pipeline.review.overrides_file import add_entry\n"
        "from stash_sense_pipeline.privacy.redaction.overrides_text import NewEntry\n"
        "for n in range(8): add_entry(Path(sys.argv[1]), NewEntry('must_link', ('s:%s-%d' % (sys.argv[2], n), 't:x')),"
        " lambda _: None)\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(path), str(number)]) for number in range(3)
    ]
    assert [writer.wait(timeout=240) for writer in writers] == [0, 0, 0]
    assert len({pair.a for pair in load_overrides(path).must_link}) == 24
    assert [each.name for each in tmp_path.iterdir()] == ["identity_overrides.yaml"]


@pytest.mark.slow
def test_a_writer_waits_for_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "identity_overrides.yaml"
    new = NewEntry("must_link", ("stashdb:x", "fansdb:y"))
    with overrides_locked(path):
        writer = threading.Thread(target=add_entry, args=(path, new, lambda _: None))
        writer.start()
        writer.join(0.2)
        assert writer.is_alive()
        assert not path.exists()
    writer.join(240)
    assert path.exists()


@pytest.mark.slow
def test_a_lock_that_another_process_keeps_is_said(tmp_path: Path) -> None:
    path = tmp_path / "identity_overrides.yaml"
    said: list[str] = []

    def wait() -> None:
        try:
            with overrides_locked(path, seconds=0.1):
                pass
        except OSError as error:
            said.append(str(error.strerror))

    with overrides_locked(path):
        writer = threading.Thread(target=wait)
        writer.start()
        writer.join(240)
    assert said == ["another process has held its lock for 0 s"]


NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30).filter(
    lambda text: text.strip() and "\0" not in text and ":" not in text
)


@pytest.mark.slow
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(NAMES, min_size=2, max_size=2, unique_by=str.strip), comment=st.text(max_size=40))
def test_any_name_is_written_so_that_it_is_read_again(tmp_path: Path, names: list[str], comment: str) -> None:
    path = tmp_path / "identity_overrides.yaml"
    path.write_text("# mine\nmust_link:\n- [stashdb:a, fansdb:b]\n")
    from stash_sense_pipeline.review.settling import Signature

    at = __import__("datetime").datetime(2026, 11, 29)
    pair = (f"stashdb:{names[0]}", f"fansdb:{names[1]}")
    try:
        add_entry(path, NewEntry("must_link", pair, Signature("me", at, comment).comment), lambda _: None)
    except ConfigurationError:
        # YAML cannot hold some control characters: nothing is written.
        assert path.read_text() == "# mine\nmust_link:\n- [stashdb:a, fansdb:b]\n"
        return
    assert [entry for _, entry, _ in entries(path)][1:] == [pair]
    assert "# mine\n" in path.read_text()
