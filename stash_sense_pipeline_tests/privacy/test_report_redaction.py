"""Lines about erased people are removed from reports, logs and staged files."""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from hypothesis import assume, given
from hypothesis import strategies as st

from stash_sense_pipeline.foundation.visible_text import visible_line
from stash_sense_pipeline.identity import review
from stash_sense_pipeline.privacy.redaction.mentions import mentions
from stash_sense_pipeline.privacy.redaction.report_redaction import erase_traces, texts_locked


@pytest.mark.parametrize(
    "place",
    ["review/conflicts.md", "reports/deep/a.csv", "logs/run.log", "releases/2026.02.18.report/report.md"],
)
def test_lines_about_erased_people_are_blanked_in_every_folder_of_texts(tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text("- Person One (7)\n- Person Eleven (8)\n")
    path.chmod(0o640)
    assert erase_traces(tmp_path, ("Person One",), staged=False).lines == 1
    assert path.read_text() == "(erased)\n- Person Eleven (8)\n"
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_published_release_is_never_changed(tmp_path: Path) -> None:
    path = tmp_path / "releases" / "2026.02.18" / "performers.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"a": "Person One"}')
    assert erase_traces(tmp_path, ("Person One",), staged=False).lines == 0
    assert path.read_text() == '{"a": "Person One"}'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Person &amp; One", "- Person & One (7)"),
        ("Person | One", "| Person / One (7) | 0.4 |"),
        ("Person|One", r"| name Person\|One | weak |"),
        ('Person "P" One', 'conflict,"+1.0 name Person ""P"" One",weak'),
        ("PERSON  ONE", "name person one"),
        ("葵", "- 葵 (7)"),
        ("♥♥♥", "- ♥♥♥ (7)"),
        ("https://people.example/one", "hub,https://people.example/one,6 records"),
    ],
)
def test_a_name_is_found_as_a_report_writes_it(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "reports" / "a.md"
    path.parent.mkdir()
    path.write_text(f"{line}\n- Somebody Else (8)\n")
    assert erase_traces(tmp_path, (text,), staged=False).lines == 1
    assert path.read_text() == "(erased)\n- Somebody Else (8)\n"


@pytest.mark.slow
def test_the_texts_of_ten_thousand_people_are_looked_for_at_once(tmp_path: Path) -> None:
    path = tmp_path / "review" / "identity.csv"
    path.parent.mkdir()
    lines = [f"conflict,name person{number} of stay{number}" for number in range(2_000)]
    path.write_text("\n".join([*lines, "name person7 gone"]) + "\n")
    texts = [f"Person{number} gone" for number in range(100_000)]
    begun = time.process_time()
    assert erase_traces(tmp_path, texts, staged=False).lines == 1
    # It takes about a second; with one pattern of all texts it would take minutes.
    assert time.process_time() - begun < 15


def test_staged_files_are_removed_while_a_publish_writes_them(tmp_path: Path) -> None:
    staged = tmp_path / "staging" / "next" / "release"
    staged.mkdir(parents=True)
    with (staged / "performers.db").open("w") as still_open:
        assert erase_traces(tmp_path, (), staged=True).staged_runs == 1
        still_open.write("Person One")
    assert list((tmp_path / "staging").iterdir()) == []


@pytest.mark.parametrize(
    "line",
    [
        '{"name": "Zo\\u00eb Quill"}',
        '{"name": "zo\\u00cb \\u0051uill"}',
        "GET https://box.example/performers/Zo%C3%AB%20Quill",
        "Zoe\u0308 Quill",
        "ZOË QUILL",
        "Zo&euml; Quill",
    ],
)
def test_a_name_is_found_in_every_way_of_writing_it(tmp_path: Path, line: str) -> None:
    path = tmp_path / "logs" / "run.log"
    path.parent.mkdir()
    path.write_text(f"{line}\n- Somebody Else (8)\n")
    assert erase_traces(tmp_path, ("Zoë Quill",), staged=False).lines == 1
    assert path.read_text() == "(erased)\n- Somebody Else (8)\n"


@pytest.mark.slow
@given(st.text(st.characters(exclude_categories=["Cs", "Z"]), min_size=3))
def test_any_text_is_found_as_json_and_as_part_of_a_url(text: str) -> None:
    assume(len("".join(text.split())) >= 3)
    speaks_of = mentions([text])
    assert speaks_of(f"a {text} b")
    assert speaks_of(json.dumps({"a": text}))
    assert speaks_of(visible_line(f"a {text} b"))
    assert speaks_of(json.dumps({"a": visible_line(text)}))
    assert speaks_of(f"https://box.example/performers/{quote(text)}/b")


def test_unfinished_files_of_killed_writers_are_removed_by_the_next_erasure(tmp_path: Path) -> None:
    left = tmp_path / "review" / ".identity.csv.4711.tmp"
    left.parent.mkdir()
    left.write_text("Person One")
    old = tmp_path / "releases" / ".stash-sense-data-v2026.02.18.zip.4711.tmp"
    old.parent.mkdir()
    old.write_text("Person One")
    os.utime(old, (0, 0))
    erase_traces(tmp_path, ("Person One",), staged=False)
    assert not left.exists()
    assert not old.exists()


@pytest.mark.slow
def test_a_report_is_not_written_while_texts_are_erased(
    catalog: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that read the catalog before the commit would write the names after it."""
    asks = threading.Event()

    def asked(data_dir: Path) -> AbstractContextManager[None]:
        asks.set()
        return texts_locked(data_dir)

    monkeypatch.setattr(review, "texts_locked", asked)
    with texts_locked(tmp_path):
        writer = threading.Thread(
            target=review.write_review, args=(catalog, tmp_path / "review", datetime(2026, 1, 2, tzinfo=UTC))
        )
        writer.start()
        assert asks.wait(200)
        # Without the lock it would write within milliseconds.
        writer.join(0.1)
        assert not (tmp_path / "review").exists()
    writer.join(200)
    assert (tmp_path / "review" / "identity.csv").exists()
