from __future__ import annotations

import csv
import stat
from pathlib import Path

import sqlalchemy as sa

from stash_sense_pipeline.identity.linkage.comparisons import Record
from stash_sense_pipeline.identity.linkage.overrides import Override, Overrides
from stash_sense_pipeline.identity.rebuild import rebuild_identities
from stash_sense_pipeline.identity.review import write_review
from stash_sense_pipeline.privacy.redaction.report_redaction import erase_traces
from stash_sense_pipeline_tests.identity.population import HOSTS, NOW, store

X = "https://x.com/sample_person"
STUDIO = "https://x.com/studio"


def test_conflicts_and_hubs_are_in_files_for_the_operator_alone(
    any_catalog: sa.Engine, tmp_path: Path
) -> None:
    store(
        any_catalog,
        Record("stashdb", "a", "Sample | Person", "FEMALE", urls=(X, STUDIO)),
        Record("fansdb", "b", "Sample | Person", "MALE", urls=(X,)),
        Record("stashdb", "c", "Third Person", urls=(STUDIO,)),
        Record("stashdb", "d", "=Fourth()", urls=(STUDIO,)),
    )
    rebuild_identities(any_catalog, HOSTS, Overrides(), NOW)
    directory = tmp_path / "review"
    counts = write_review(any_catalog, directory, NOW)
    assert {section: count for section, count in counts.items() if count} == {"conflict": 1, "hub": 1}
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    rows = list(csv.DictReader((directory / "identity.csv").read_text().splitlines()))
    assert [(row["section"], row["about"]) for row in rows] == [
        ("conflict", "fansdb:b - stashdb:a"),
        ("hub", "stashdb:a, stashdb:c, stashdb:d"),
    ]
    assert rows[0]["reason"] == "one is male, the other female"
    assert rows[1]["evidence"] == "twitter:studio"
    assert "| twitter:studio | 3 records |" in (directory / "identity.md").read_text()
    # An erasure reaches them.
    erase_traces(tmp_path, ("fansdb:b",), staged=False)
    assert "fansdb:b" not in "".join(path.read_text() for path in directory.iterdir())


def test_a_pair_just_below_a_link_is_listed_and_a_weak_one_is_not(
    any_catalog: sa.Engine, tmp_path: Path
) -> None:
    store(
        any_catalog,
        Record("stashdb", "a", "Mira Sample", country="US"),
        Record("fansdb", "b", "Mira Sample"),
        Record("stashdb", "c", "Vera Else", aliases=("Vera Other",), birth_date="1990-05-05"),
        Record("fansdb", "d", "Nora Third", aliases=("Vera Other",), birth_date="1990-05-05"),
    )
    report = rebuild_identities(any_catalog, HOSTS, Overrides(), NOW)
    assert report.evidence["attributes"] == 2
    directory = tmp_path / "review"
    counts = write_review(any_catalog, directory, NOW)
    assert {section: count for section, count in counts.items() if count} == {"near": 1}
    (row,) = csv.DictReader((directory / "identity.csv").read_text().splitlines())
    assert (row["about"], row["reason"]) == ("fansdb:b - stashdb:a", "too weak: 2.0 of 2.5")
    assert "name equal (mira sample)" in row["evidence"]


def test_a_main_name_that_is_the_others_alias_is_listed_where_a_field_agrees_and_none_differs(
    any_catalog: sa.Engine, tmp_path: Path
) -> None:
    store(
        any_catalog,
        Record("stashdb", "a", "Mira Sample", "FEMALE", country="BR", aliases=("Vera Else",)),
        Record("fansdb", "b", "Else Vera", country="BR"),
        Record("stashdb", "c", "Nora Third", country="BR", aliases=("Lina Fourth",)),
        Record("fansdb", "d", "Lina Fourth", country="US"),
        Record("stashdb", "e", "Ida Fifth", country="BR", aliases=("Single", "The Twins")),
        Record("fansdb", "f", "Single", country="BR"),
        Record("fansdb", "g", "The Twins", country="BR"),
    )
    rebuild_identities(any_catalog, HOSTS, Overrides(), NOW)
    directory = tmp_path / "review"
    counts = write_review(any_catalog, directory, NOW)
    assert {section: count for section, count in counts.items() if count} == {"near": 1}
    (row,) = csv.DictReader((directory / "identity.csv").read_text().splitlines())
    assert (row["about"], row["reason"]) == ("fansdb:b - stashdb:a", "an alias in common only")
    decided = Overrides(cannot_link=(Override(("fansdb", "b"), ("stashdb", "a"), 2),))
    assert not any(write_review(any_catalog, directory, NOW, decided).values())
