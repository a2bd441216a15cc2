from datetime import date

import pytest

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.privacy.suppression.suppression_file import (
    SuppressionEntry,
    append_entry,
    read_suppressions_file,
)

SOURCES = ("stashdb", "fansdb", "iafd")
GOOD = """\
# asked by mail
- target: stashdb:0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0
  reason: asked to be removed
  date: 2026-11-20
- {target: "https://www.example.com/babe/Example_Person", reason: same, date: "2026-01-31"}
"""


def write(tmp_path, text):
    path = tmp_path / "suppressions.yaml"
    path.write_text(text)
    return path


def test_a_valid_file_gives_its_entries_and_an_empty_list_gives_none(tmp_path):
    assert read_suppressions_file(write(tmp_path, GOOD), SOURCES) == (
        SuppressionEntry(
            "stashdb:0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0", "asked to be removed", date(2026, 11, 20)
        ),
        SuppressionEntry("https://www.example.com/babe/Example_Person", "same", date(2026, 1, 31)),
    )
    assert read_suppressions_file(write(tmp_path, "[]"), SOURCES) == ()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "the file is empty"),
        ("target: x", r":1: must be a list of entries"),
        ("- stashdb:1", r":1: 0: is not an entry with target, reason and date"),
        ("- {target: 'stashdb:1', reason: r}", r":1: 0: date is missing"),
        ("- {target: 'stashdb:1', date: 2026-01-01}", r":1: 0: reason is missing"),
        ("- {reason: r, date: 2026-01-01}", r":1: 0: target is missing"),
        (
            "-\n  target: 'stashdb:1'\n  reason: r\n  date: 2026-01-01\n  by: me",
            r":5: 0\.by: is not a known key",
        ),
        (
            "- {target: 'stashbd:1', reason: r, date: 2026-01-01}",
            "'stashbd' is not a source; did you mean stashdb",
        ),
        (
            "- {target: 'nowhere:1', reason: r, date: 2026-01-01}",
            "'nowhere' is not a source; allowed: stashdb, ",
        ),
        ("- {target: 12, reason: r, date: 2026-01-01}", r"0\.target: is not text"),
        ("- {target: someone, reason: r, date: 2026-01-01}", "it is neither SOURCE:ID nor"),
        ("- {target: 'stashdb:', reason: r, date: 2026-01-01}", "neither SOURCE:ID nor"),
        ("- {target: 'stashdb: 1', reason: r, date: 2026-01-01}", "neither SOURCE:ID nor"),
        ("- {target: 'https://www.iafd.com', reason: r, date: 2026-01-01}", "neither SOURCE:ID nor"),
        ("- {target: 'https://www.iafd.com/', reason: r, date: 2026-01-01}", "neither SOURCE:ID nor"),
        ("- {target: 'ftp://x.example/a', reason: r, date: 2026-01-01}", "neither SOURCE:ID nor"),
        ("- {target: 'stashdb:1', reason: '', date: 2026-01-01}", r"0\.reason: must be one line"),
        ("- {target: 'stashdb:1', reason: r, date: 20.11.2026}", r"0\.date: is not a date as in 2026-01-31"),
        ("- {target: 'stashdb:1', reason: r, date: 2026-02-31}", r":1: not valid YAML: '2026-02-31' is not"),
        ("- {target: 'stashdb:1', reason: r, date: 2026-01-01 10:00:00}", r"0\.date: is not a date"),
        ("- {target: 'stashdb:1', target: 'stashdb:2', reason: r, date: 2026-01-01}", "is given twice"),
        ("- [", "not valid YAML"),
    ],
)
def test_an_invalid_entry_is_refused_with_the_number_of_its_line(tmp_path, text, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        read_suppressions_file(write(tmp_path, text), SOURCES)


def test_all_mistakes_are_reported_at_once(tmp_path):
    text = GOOD + "- {target: 'stashdb:9', reason: r}\n- {target: 'fansdb:9', date: 2026-01-01}\n"
    text += "- {target: 'stashdb:0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0', reason: r, date: 2026-01-01}\n"
    with pytest.raises(ConfigurationError) as refused:
        read_suppressions_file(write(tmp_path, text), SOURCES)
    lines = str(refused.value).splitlines()
    assert lines[0].endswith("suppressions.yaml: 3 errors")
    assert [line.split("suppressions.yaml:")[1] for line in lines[1:]] == [
        "6: 2: date is missing",
        "7: 3: reason is missing",
        "8: 4.target: is there already in line 2",
    ]


def test_adding_an_entry_keeps_the_mode_of_the_file(tmp_path):
    path = tmp_path / "suppressions.yaml"
    for number in range(2):
        append_entry(path, SuppressionEntry(f"stashdb:{number}", "asked", date(2026, 11, 20)))
        assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    append_entry(path, SuppressionEntry("stashdb:2", "asked", date(2026, 11, 20)))
    assert path.stat().st_mode & 0o777 == 0o640
