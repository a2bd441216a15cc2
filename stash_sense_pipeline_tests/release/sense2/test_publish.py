"""What a publish writes, when it writes nothing, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.foundation.errors import ConfigurationError, ReleaseError
from stash_sense_pipeline.release.checks.check_result import failures
from stash_sense_pipeline.release.sense2 import publish as publishing
from stash_sense_pipeline.release.sense2.content import plain_text
from stash_sense_pipeline.release.sense2.history import Sense2Diff, diff_sense2, sense2_versions
from stash_sense_pipeline.release.sense2.publish import Sense2Report, publish_sense2
from stash_sense_pipeline.release.sense2.vectors import rounded, widened
from stash_sense_pipeline_tests.release.conftest import DAY
from stash_sense_pipeline_tests.release.worlds import PACK, make_catalog

from .changes import RENAMED, change
from .client import install, load_index, opened, state, unpack, update
from .conftest import SPEC

Made = tuple[Path, Sense2Report, Sense2Report]
NEXT = DAY + timedelta(days=7)
CHANGED = datetime(2026, 2, 20, tzinfo=UTC)


def executed(engine: sa.Engine, *statements: sa.Executable) -> None:
    with writing(engine) as connection:
        for statement in statements:
            connection.execute(statement)


def renamed(name: str, source_id: str = "st-00003") -> sa.Update:
    table = schema.source_performers
    return sa.update(table).where(table.c.source_id == source_id).values(name=name)


# --- the files --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_release_has_a_full_zip_a_delta_links_notes_and_a_report(made: Made) -> None:
    data, first, second = made
    assert {path.name for path in first.path.iterdir()} == {
        "stash-sense2-data-2026.02.18.zip",
        "stash-sense2-links-2026.02.18.zip",
        "notes.md",
        "report.json",
    }
    assert {path.name for path in second.path.iterdir()} == {
        "stash-sense2-data-2026.02.19.zip",
        "stash-sense2-delta-2026.02.18-to-2026.02.19.zip",
        "stash-sense2-links-2026.02.19.zip",
        "notes.md",
        "report.json",
    }
    assert {path.name for path in (data / "sense2").iterdir()} == {"2026.02.18", "2026.02.19"}
    assert not failures(second.checks)
    assert json.loads((second.path / "report.json").read_text())["delta"] == second.delta.name
    assert second.path.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in second.path.iterdir()} == {0o644}


def test_a_delta_holds_only_what_changed(made: Made, tmp_path: Path) -> None:
    _, first, second = made
    work = unpack(second.delta, tmp_path / "delta")
    assert {path.name for path in work.iterdir()} == {"delta.db", "delta_manifest.json"}
    with closing(opened(work / "delta.db")) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        assert tables == {"performers", "faces", "removed_faces"}
        rows = [dict(row) for row in connection.execute("SELECT * FROM performers")]
        faces = [dict(row) for row in connection.execute("SELECT * FROM faces")]
        removed = [row[0] for row in connection.execute("SELECT * FROM removed_faces")]
    assert [(row["stashbox_id"], row["action"]) for row in rows] == [
        ("st-00000", "removed"),
        (RENAMED, "upserted"),
    ]
    assert rows[0]["name"] is None, "a removed performer is named by nothing but its record"
    assert rows[1]["name"] == "Another name"
    assert len(faces) == 1
    assert len(removed) == 4
    assert diff_sense2(first.full, second.full) == replace(
        diff_sense2(first.full, second.full),
        removed=("stashdb.org:st-00000",),
        changed=(f"stashdb.org:{RENAMED}",),
        gone_faces=tuple(removed),
        redone=(faces[0]["embedding_index"],),
        added=(),
        new_faces=(),
        moved=(),
    )


def test_the_delta_leads_from_the_first_to_the_second_release(made: Made, tmp_path: Path) -> None:
    _, first, second = made
    client = install(first.full, tmp_path / "client")
    update(client, second.delta, second.version, tmp_path / "work")
    assert state(client) == state(install(second.full, tmp_path / "full"))


@pytest.mark.slow
def test_equal_catalogs_give_equal_bytes(made: Made, tmp_path: Path) -> None:
    _, first, second = made
    engine = make_catalog(tmp_path / "catalog.db")
    again = publish_sense2(engine, tmp_path, SPEC, DAY)
    change(engine)
    later = publish_sense2(engine, tmp_path, SPEC, DAY)
    engine.dispose()
    for ours, theirs in ((first, again), (second, later)):
        for path in ours.path.glob("*.zip"):
            assert path.read_bytes() == (theirs.path / path.name).read_bytes(), path.name


def test_the_notes_have_the_lines_that_the_client_reads(made: Made, tmp_path: Path) -> None:
    _, _, second = made
    notes = (second.path / "notes.md").read_text()
    assert re.search(r"^min-sidecar-version: 0\.47\.3$", notes, re.MULTILINE)
    links = unpack(second.links, tmp_path / "links")
    for word, name in (("links", "performer_links.json"), ("aliases", "aliases.json")):
        digest = hashlib.sha256((links / name).read_bytes()).hexdigest()
        assert re.search(rf"^{word}-sha256: {digest}$", notes, re.MULTILINE)
    assert "Another name" not in notes
    # What a client keeps of people who left: its backups, the links before the last, and vectors in unused places.
    for kept in ("`backup_*`", "`*.prev`", "removed vectors"):
        assert kept in notes


def test_the_links_are_the_people_of_the_catalog(made: Made, tmp_path: Path) -> None:
    _, first, _ = made
    full = unpack(first.full, tmp_path / "full")
    groups = json.loads((full / "performer_links.json").read_text())
    assert len(groups) == 20
    assert ["stashdb.org:st-00004", "fansdb.cc:fa-00004"] in groups
    aliases = json.loads((full / "aliases.json").read_text())
    assert aliases["stashdb.org:st-00001"] == ["Alias 1 of stashdb"]


def test_a_client_finds_each_face_and_the_vectors_are_those_of_the_catalog(
    made: Made, tmp_path: Path
) -> None:
    _, first, _ = made
    full = unpack(first.full, tmp_path / "full")
    index = load_index(full / "face_embeddings.usearch")
    assert len(index) == 160
    faces = json.loads((full / "faces.json").read_text())
    assert len(faces) == 160
    for key in range(160):
        vector = np.asarray(index.get(key), dtype=np.float32)
        assert abs(float(np.linalg.norm(vector)) - 1) < 0.01
        found = index.search(vector, 4)
        assert {faces[match.key] for match in found} == {faces[key]}


def test_columns_without_a_purpose_are_empty(made: Made, tmp_path: Path) -> None:
    _, first, second = made
    full = unpack(first.full, tmp_path / "full")
    empty = {
        "performers": (
            *("scene_count", "stashdb_updated_at", "created_at", "updated_at"),
            *("inferred_gender", "inferred_gender_confidence"),
        ),
        "faces": ("created_at", "gender", "gender_confidence", "estimated_age", "image_sha256"),
    }
    with closing(opened(full / "performers.db")) as connection:
        for table, columns in empty.items():
            for column in columns:
                assert connection.execute(f"SELECT count({column}) FROM {table}").fetchone()[0] == 0, column
        assert connection.execute("SELECT count(*) FROM performer_urls").fetchone()[0] == 0
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables == {"performers", "stashbox_ids", "aliases", "performer_urls", "faces"}
    work = unpack(second.delta, tmp_path / "delta")
    with closing(opened(work / "delta.db")) as connection:
        assert connection.execute("SELECT count(updated) FROM performers").fetchone()[0] == 0
        assert connection.execute("SELECT count(image_sha256) FROM faces").fetchone()[0] == 0


# --- nothing changed, and versions ------------------------------------------------------------------------------------


def test_without_a_change_there_is_no_new_version(data: Path, engine: sa.Engine) -> None:
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*.zip")}
    report = publish_sense2(engine, data, SPEC, NEXT)
    assert not report.changed
    assert report.version == "2026.02.19"
    assert report.delta is not None
    assert not failures(report.checks)
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*.zip")} == before


def test_a_time_of_change_alone_is_no_change(data: Path, engine: sa.Engine) -> None:
    table = schema.source_performers
    executed(engine, sa.update(table).values(updated_at=table.c.changed_at, changed_at=table.c.first_seen_at))
    assert not publish_sense2(engine, data, SPEC, NEXT).changed


@pytest.mark.parametrize(
    ("days", "version"), [(7, "2026.02.25"), (1, "2026.02.20"), (0, "2026.02.20"), (-400, "2026.02.20")]
)
def test_the_version_is_the_day_or_the_one_after_the_newest(
    data: Path, engine: sa.Engine, days: int, version: str
) -> None:
    executed(engine, renamed("Another person"))
    assert publish_sense2(engine, data, SPEC, DAY + timedelta(days=days)).version == version


@pytest.mark.slow
def test_the_day_after_the_last_of_a_month_is_the_first_of_the_next(data: Path, engine: sa.Engine) -> None:
    versions = []
    for number, day in enumerate([date(2026, 12, 31)] * 3):
        executed(engine, renamed(f"Name {number}"))
        versions.append(publish_sense2(engine, data, SPEC, day).version)
    assert versions == ["2026.12.31", "2027.01.01", "2027.01.02"]


def test_a_change_of_links_alone_is_a_release_with_an_empty_delta(
    data: Path, engine: sa.Engine, tmp_path: Path
) -> None:
    """Two people become one: the records stay as they are."""
    members, trusted = schema.identity_members, schema.trusted_faces
    executed(
        engine,
        *(
            sa.update(table).where(table.c.performer_id == 38).values(performer_id=36)
            for table in (members, trusted)
        ),
    )
    report = publish_sense2(engine, data, SPEC, NEXT)
    assert report.changed
    assert set(report.counts.values()) == {0}
    difference = diff_sense2(data / "sense2/2026.02.19/stash-sense2-data-2026.02.19.zip", report.full)
    assert difference.links > 0
    assert difference == Sense2Diff((), (), (), (), (), (), (), difference.links)


@pytest.mark.parametrize("kind", ["data", "links", "report", "everything", "damage"])
def test_a_release_that_is_not_whole_here_is_followed_by_an_equal_one(
    data: Path, engine: sa.Engine, kind: str
) -> None:
    newest = data / "sense2" / "2026.02.19"
    if kind == "everything":
        shutil.rmtree(newest)
    elif kind == "report":
        (newest / "report.json").unlink()
    elif kind == "damage":
        path = newest / "stash-sense2-data-2026.02.19.zip"
        path.write_bytes(path.read_bytes()[:-100])
    else:
        (newest / f"stash-sense2-{kind}-2026.02.19.zip").unlink()
    report = publish_sense2(engine, data, SPEC, NEXT)
    assert report.changed
    assert report.delta is not None
    assert set(report.counts.values()) == {0}


def test_a_merge_at_a_stash_box_removes_the_record_and_sends_its_faces_again(
    data: Path, engine: sa.Engine, tmp_path: Path
) -> None:
    """The faces keep their indices, so that they are not in the list of removed faces."""
    loser = schema.source_performers.c.source_id == "st-00005"
    executed(
        engine,
        sa.update(schema.source_performers).where(loser).values(deleted_at=CHANGED, merged_into="st-00003"),
        *(
            sa.update(table).where(table.c.performer_id == 35).values(performer_id=37)
            for table in (schema.identity_members, schema.trusted_faces)
        ),
    )
    report = publish_sense2(engine, data, SPEC, NEXT)
    with closing(opened(unpack(report.delta, tmp_path / "delta") / "delta.db")) as connection:
        removed = connection.execute("SELECT * FROM performers WHERE action = 'removed'").fetchall()
        assert [(row["stashbox_id"], row["merged_into_id"]) for row in removed] == [("st-00005", "st-00003")]
        owners = connection.execute("SELECT DISTINCT endpoint, stashbox_id FROM faces").fetchall()
        assert [tuple(row) for row in owners] == [("stashdb", "st-00003")]
        assert connection.execute("SELECT count(*) FROM faces").fetchone()[0] == 4
        assert connection.execute("SELECT count(*) FROM removed_faces").fetchone()[0] == 0


# --- when there is no delta -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_another_network_makes_a_release_without_a_delta(data: Path, engine: sa.Engine) -> None:
    executed(engine, sa.update(schema.embeddings).values(model_digest="e" * 64))
    embedders = {"arcface": replace(PACK.embedders["arcface"], digest="e" * 64)}
    spec = replace(SPEC, pack=replace(PACK, embedders=embedders))
    report = publish_sense2(engine, data, spec, NEXT)
    assert report.delta is None
    assert report.why_full == "another model made the vectors"
    assert "download all of it" in (report.path / "notes.md").read_text()
    executed(engine, renamed("Another person"))
    assert publish_sense2(engine, data, spec, NEXT).delta is not None


def test_another_embedder_of_the_pack_makes_a_release_without_a_delta(data: Path, engine: sa.Engine) -> None:
    assert publish_sense2(engine, data, replace(SPEC, model="facenet"), NEXT).delta is None


def test_numbers_of_a_catalog_that_was_lost_are_not_used_again(data: Path, tmp_path: Path) -> None:
    """A backup from before the first release is restored: all numbers in the releases stay theirs."""
    engine = make_catalog(tmp_path / "restored.db")
    report = publish_sense2(engine, data, SPEC, NEXT)
    engine.dispose()
    assert report.delta is None
    assert "restored from a backup" in str(report.why_full)
    full = unpack(report.full, tmp_path / "full")
    with closing(opened(full / "performers.db")) as connection:
        assert connection.execute("SELECT min(id) FROM performers").fetchone()[0] == 41
        assert connection.execute("SELECT min(embedding_index) FROM faces").fetchone()[0] == 160


def test_a_lost_report_of_an_unknown_release_is_an_error(data: Path, tmp_path: Path) -> None:
    engine = make_catalog(tmp_path / "restored.db")
    (data / "sense2" / "2026.02.19" / "report.json").unlink()
    with pytest.raises(ReleaseError, match="a number could be used twice"):
        publish_sense2(engine, data, SPEC, NEXT)
    engine.dispose()


# --- errors -----------------------------------------------------------------------------------------------------------


def test_an_embedder_that_the_pack_lacks_is_an_error_of_configuration(data: Path, engine: sa.Engine) -> None:
    with pytest.raises(ConfigurationError, match="it has arcface, facenet"):
        publish_sense2(engine, data, replace(SPEC, model="w600k_r50"), NEXT)
    small = {"arcface": replace(PACK.embedders["arcface"], dim=128)}
    with pytest.raises(ConfigurationError, match="with 512 numbers"):
        publish_sense2(engine, data, replace(SPEC, pack=replace(PACK, embedders=small)), NEXT)


BROKEN: dict[str, Callable[[sa.Engine], None]] = {
    "no faces": lambda engine: executed(engine, sa.delete(schema.trusted_faces)),
    "a vector of another length": lambda engine: executed(
        engine, sa.update(schema.embeddings).values(vector=b"\0\0\x80\x3f" * 128)
    ),
    "a zero vector": lambda engine: executed(engine, sa.update(schema.embeddings).values(vector=bytes(2048))),
    "a vector of another pack": lambda engine: executed(
        engine, sa.update(schema.embeddings).values(pack="other")
    ),
    "a face of another person": lambda engine: executed(
        engine, sa.update(schema.trusted_faces).values(performer_id=1)
    ),
    "no live record": lambda engine: executed(
        engine, sa.update(schema.source_performers).values(deleted_at=schema.source_performers.c.changed_at)
    ),
    "no name": lambda engine: executed(engine, sa.update(schema.source_performers).values(name=" ")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_catalog_that_cannot_be_released_publishes_nothing(
    data: Path, engine: sa.Engine, name: str
) -> None:
    BROKEN[name](engine)
    with pytest.raises(ReleaseError) as caught:
        publish_sense2(engine, data, SPEC, NEXT)
    assert len(str(caught.value).splitlines()) == 1
    assert {path.name for path in (data / "sense2").iterdir()} == {"2026.02.18", "2026.02.19"}


@pytest.mark.slow
@pytest.mark.parametrize("step", ["write_full", "verify_sense2", "_store", "_move"])
def test_a_publish_that_fails_anywhere_leaves_the_releases_as_they_were(
    data: Path, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    executed(engine, renamed("Another person"))

    def fail(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(publishing, step, fail)
        with pytest.raises(KeyboardInterrupt):
            publish_sense2(engine, data, SPEC, NEXT)
    assert {path.name for path in (data / "sense2").iterdir()} == {"2026.02.18", "2026.02.19"}
    report = publish_sense2(engine, data, SPEC, NEXT)
    assert report.counts["performers new or changed"] == 1


@pytest.mark.slow
def test_a_publish_that_was_killed_before_its_commit_is_followed_by_a_full_release(
    data: Path, engine: sa.Engine
) -> None:
    """The release is in place, and the catalog does not know it."""
    executed(engine, renamed("Another person"))
    killed = publish_sense2(engine, data, SPEC, NEXT)
    executed(
        engine, sa.delete(schema.sense2_releases).where(schema.sense2_releases.c.version == killed.version)
    )
    report = publish_sense2(engine, data, SPEC, NEXT)
    assert report.version > killed.version
    assert report.delta is None
    assert sense2_versions(data) == ("2026.02.18", "2026.02.19", killed.version, report.version)


def test_leftovers_of_a_killed_publish_are_removed(data: Path, engine: sa.Engine) -> None:
    (data / "sense2" / ".staged" / "1234" / "full").mkdir(parents=True)
    publish_sense2(engine, data, SPEC, NEXT)
    assert {path.name for path in (data / "sense2").iterdir()} == {"2026.02.18", "2026.02.19"}


# --- names and numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("A &amp; B", "A & B"),
        ("A &amp;amp; B", "A & B"),
        ("&amp;amp;amp;amp;amp;amp;lt;", "<"),
        (" x ", "x"),
        ("&lt;b&gt;", "<b>"),
        ("R&B", "R&B"),
    ],
)
def test_a_name_is_what_the_client_makes_of_it(text: str, plain: str) -> None:
    assert plain_text(text) == plain
    assert plain_text(plain_text(text)) == plain


def test_rounding_is_that_of_bfloat16_and_usearch_keeps_the_numbers() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((100, 512)).astype(np.float32)
    # Exactly between two bfloat16 numbers: the even one.
    vectors[0, :2] = np.array([0x3F808000, 0x3F818000], dtype="<u4").view("<f4")
    near = widened(rounded(vectors))
    assert near[0, :2].view("<u4").tolist() == [0x3F800000, 0x3F820000]
    assert np.abs(near - vectors).max() <= np.abs(vectors).max() / 256
    assert np.array_equal(rounded(near), rounded(vectors))


@pytest.mark.slow
def test_the_faces_of_a_reference_site_stay_with_the_record_that_shows_them(
    data: Path, engine: sa.Engine, tmp_path: Path
) -> None:
    """Another record becomes the preferred one of the person: a face that no stash-box has keeps its owner."""
    face = schema.trusted_faces.c.face_id == 21
    person = 35
    executed(
        engine,
        sa.insert(schema.source_performers).values(
            source="site", source_id="page", name="Page", first_seen_at=CHANGED, changed_at=CHANGED
        ),
        sa.insert(schema.identity_members).values(source="site", source_id="page", performer_id=person),
        sa.update(schema.trusted_faces).where(face).values(source="site", source_id="page"),
    )
    assert not publish_sense2(engine, data, SPEC, NEXT).changed, (
        "the face is still under the stash-box record"
    )
    executed(
        engine,
        sa.insert(schema.source_performers).values(
            source="stashdb", source_id="a-first", name="First", first_seen_at=CHANGED, changed_at=CHANGED
        ),
        sa.insert(schema.identity_members).values(source="stashdb", source_id="a-first", performer_id=person),
    )
    report = publish_sense2(engine, data, SPEC, NEXT)
    assert set(report.counts.values()) == {0}, "only the links have changed"
    full = unpack(report.full, tmp_path / "full")
    with closing(sqlite3.connect(full / "performers.db")) as connection:
        owners = connection.execute("SELECT DISTINCT stashbox_performer_id FROM stashbox_ids").fetchall()
    assert ("a-first",) not in owners
