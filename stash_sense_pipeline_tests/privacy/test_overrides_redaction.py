"""Erased people are removed from identity_overrides.yaml; the operator's other lines and comments stay."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.privacy.redaction.overrides_redaction import forget_overrides
from stash_sense_pipeline.privacy.suppression.suppression_hashes import image_id_hash, record_hash
from stash_sense_pipeline.privacy.suppression.suppression_list import Suppressions

KEY = bytes(range(32))
NOW = datetime(2026, 11, 20, tzinfo=UTC)
GONE = Suppressions(
    KEY, records=frozenset({record_hash(KEY, "boxa", "anna"), record_hash(KEY, "boxa", 'Zoë-"Q"')})
)

BLOCK = """\
# What I know.

must_link:
  # boxa:anna is the same as boxb:annab, says Zq Anna.
  - [boxa:anna, boxb:annab]   # a photo proves it
  - [boxa:berta, boxb:berta]  # two photos
  -
    - boxa:clara
    # between
    - boxb:anna
  - - boxb:x
    - boxa:anna
cannot_link:
- ['boxa:Zoë-"Q"', boxb:other]
- [boxa:berta, boxb:clara] # see boxa:anna.
# The end.
"""
BLOCK_AFTER = """\
# What I know.

must_link:
  - [boxa:berta, boxb:berta]  # two photos
  -
    - boxa:clara
    # between
    - boxb:anna
cannot_link:
- [boxa:berta, boxb:clara]
# The end.
"""


def test_pairs_and_comments_of_erased_people_are_removed_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "identity_overrides.yaml"
    path.write_text(BLOCK)
    path.chmod(0o640)
    report = forget_overrides(path, GONE, ("Zq Anna",))
    assert (report.pairs, report.comments, report.problem) == (3, 2, None)
    assert path.read_text() == BLOCK_AFTER
    assert path.stat().st_mode & 0o777 == 0o640
    assert forget_overrides(path, GONE, ()).pairs == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("must_link: [[boxa:anna, b:x]]\n", "must_link: []\n"),
        ("must_link: [[a:y, b:x], [boxa:anna, b:x]] # kept\n", "must_link: [[a:y, b:x]] # kept\n"),
        ("must_link: [[boxa:anna, b:x], [a:y, b:x]]\n", "must_link: [[a:y, b:x]]\n"),
        ("{must_link: [[b:x, 'boxa: anna']], cannot_link: []}\n", "{must_link: [], cannot_link: []}\n"),
        (
            "must_link:\n- [boxa:ANNA, b:x]\ncannot_link:\n- [a:y, b:x]\n",
            "must_link:\ncannot_link:\n- [a:y, b:x]\n",
        ),
        ("must_link:\r\n- [boxa:anna, b:x]\r\n- [a:y, b:x]\r\n", "must_link:\r\n- [a:y, b:x]\r\n"),
        ("must_link:\n- [boxa:anna, b:x]", "must_link:\n"),
    ],
)
def test_a_pair_is_removed_in_every_way_of_writing_it(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "identity_overrides.yaml"
    path.write_bytes(before.encode())
    assert forget_overrides(path, GONE, ()).pairs == 1
    assert path.read_bytes().decode() == after


def test_a_file_with_yaml_aliases_loses_its_comments_but_no_other_pair(tmp_path: Path) -> None:
    path = tmp_path / "identity_overrides.yaml"
    path.write_text(
        "# mine\nmust_link:\n- &x [boxa:anna, b:x]\n- [a:y, b:x]\ncannot_link:\n- *x\n- [a:z, b:z]\n"
    )
    assert forget_overrides(path, GONE, ()).pairs == 2
    assert yaml.safe_load(path.read_text()) == {
        "must_link": [["a:y", "b:x"]],
        "cannot_link": [["a:z", "b:z"]],
    }


def test_a_file_that_cannot_be_read_or_written_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "identity_overrides.yaml"
    path.write_text("must_link: [[boxa:anna")
    assert "cannot be read" in str(forget_overrides(path, GONE, ()).problem)
    path.write_text("must_link: [[boxa:anna, b:x]]")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("stash_sense_pipeline.privacy.redaction.overrides_redaction.write_atomically", refuse)
    assert "cannot be written (Read-only file system)" in str(forget_overrides(path, GONE, ()).problem)
    assert forget_overrides(tmp_path / "none.yaml", GONE, ()).problem is None


VERDICTS = """\
not_this_person:
  # boxa:pic1 shows her
  - [boxa:pic1, boxa:anna]
  - [boxa:hers, boxa:berta]
  - [boxa:pic2, boxa:berta] # a look-alike
not_a_face:
- boxa:hers
- boxa:pic3   # a tattoo
- boxa:erased
"""
VERDICTS_AFTER = """\
not_this_person:
  # boxa:pic1 shows her
  - [boxa:pic2, boxa:berta] # a look-alike
not_a_face:
- boxa:pic3   # a tattoo
"""


def test_verdicts_on_erased_people_or_their_pictures_are_removed_and_others_stay(tmp_path: Path) -> None:
    """`hers` is on the list; `erased` is a picture of an erasure that is not committed yet."""
    path = tmp_path / "identity_overrides.yaml"
    path.write_text(VERDICTS)
    listed = replace(GONE, pictures=frozenset({image_id_hash(KEY, "boxa", "hers")}))
    report = forget_overrides(path, listed, ("boxa:erased",))
    assert (report.pairs, report.comments, report.problem) == (4, 0, None)
    assert path.read_text() == VERDICTS_AFTER
    path.write_text("not_a_face: [boxa:hers, boxa:pic3]\nnot_this_person: [[boxa:pic1, boxa:anna]]\n")
    assert forget_overrides(path, listed, ()).pairs == 2
    assert path.read_text() == "not_a_face: [boxa:pic3]\nnot_this_person: []\n"


NAMES = st.sampled_from(
    ["boxa:anna", "boxa:annab", "boxb:anna", 'boxa:Zoë-"Q"', "boxa:o'x", "boxb:b c", "boxa:#1"]
)


@pytest.mark.slow
@given(
    st.lists(st.tuples(NAMES, NAMES), max_size=6),
    st.lists(st.tuples(NAMES, NAMES), max_size=6),
    st.sampled_from([None, True, False]),
)
def test_the_file_afterwards_holds_the_pairs_before_without_those_of_erased_people(
    tmp_path_factory: pytest.TempPathFactory,
    must: list[tuple[str, str]],
    cannot: list[tuple[str, str]],
    flow: bool | None,
) -> None:
    path = tmp_path_factory.mktemp("overrides") / "identity_overrides.yaml"
    data = {"must_link": [list(pair) for pair in must], "cannot_link": [list(pair) for pair in cannot]}
    path.write_text("# head\n" + yaml.safe_dump(data, allow_unicode=True, default_flow_style=flow))
    forget_overrides(path, GONE, ())
    kept = yaml.safe_load(path.read_text())
    for section, pairs in data.items():
        assert (kept[section] or []) == [
            pair for pair in pairs if not {"boxa:anna", 'boxa:Zoë-"Q"'} & set(pair)
        ]
    assert path.read_text().startswith("# head\n")
    assert "boxa:anna\n" not in path.read_text()
