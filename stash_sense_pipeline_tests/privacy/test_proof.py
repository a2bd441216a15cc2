"""Removal of a person from end to end: through the command line and releases, down to the bytes of every file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
import voyager
import yaml
from click.testing import CliRunner, Result

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.cli import main
from stash_sense_pipeline.deployment.shipped_files import shipped_file
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.foundation.private_work import private_work
from stash_sense_pipeline.privacy import erasure
from stash_sense_pipeline.privacy.suppression.suppression_file import SuppressionEntry
from stash_sense_pipeline.privacy.suppression.suppression_hashes import image_hash, record_hash
from stash_sense_pipeline.privacy.suppression.suppression_import import add_suppressions
from stash_sense_pipeline.privacy.suppression.suppression_key import load_or_create_key
from stash_sense_pipeline.privacy.suppression.suppression_list import (
    ASSOCIATED,
    NAMED,
    HashRow,
    load_suppressions,
    store_hashes,
)
from stash_sense_pipeline.release import promotion, publish, suppression_gate
from stash_sense_pipeline.release.checks.quality_gate import Proof, prove_release
from stash_sense_pipeline.release.contract import Flavour
from stash_sense_pipeline.release.publish import publish_release
from stash_sense_pipeline.release.spec import ReleaseSpec, small_limits
from stash_sense_pipeline_tests.privacy.waiting_threads import wait_until_locked_out
from stash_sense_pipeline_tests.release.worlds import BEGIN, DIGESTS, SPEC, make_catalog

FIRST, SECOND = date(2026, 2, 18), date(2026, 2, 19)
# All of person number 1 of the world: one record, a tombstone merged into it, three pictures.
PERSON = "stashdb:st-00001"
# The catalog has the name as its source writes it, with an entity, where a release and its reports resolve it.
STRINGS = ["st-00001", "Alias 1 of stashdb", "person.1/", "Person & 1 (", "Person &amp; 1 ("]


class Operator:
    """An operator with a catalog of forty people and one release of it: in a new directory, or in a copy of such a one."""

    def __init__(self, data: Path, spec: ReleaseSpec = SPEC) -> None:
        self.data, self.spec = data, spec
        if (data / "catalog.db").exists():
            self.engine = open_catalog(f"sqlite:///{data / 'catalog.db'}")
            return
        self.engine = make_catalog(data / "catalog.db", performers=40, faces_each=3)
        with writing(self.engine) as connection:
            for source in ("stashdb", "fansdb", "pmvstash"):
                row = {"source": source, "backfilled_at": BEGIN}
                connection.execute(sa.insert(schema.sync_state).values(**row))
        self.publish(FIRST)

    def publish(self, day: date) -> Path:
        key = load_or_create_key(self.data / "suppression.key")
        spec = replace(self.spec, suppressions=load_suppressions(self.engine, key))
        return publish_release(self.engine, self.data, "next", spec, day).path

    def runs(self, *arguments: str, data: Path | None = None, sources: Path | None = None) -> Result:
        return CliRunner().invoke(main, list(arguments), env=self.variables(data, sources))

    def variables(self, data: Path | None = None, sources: Path | None = None) -> dict[str, str]:
        return {
            "DATA_DIR": str(data or self.data),
            "STASH_SENSE_SOURCES": str(sources or shipped_file("sources.yaml")),
            "STASH_SENSE_CATALOG_URL": "",
            "STASH_SENSE_SUPPRESSIONS": "",
        }

    def vectors_of_person(self) -> list[bytes]:
        """The first halves of the embeddings of the person's faces, raw and with norm 1 as an index stores them."""
        faces, embeddings, links = schema.faces, schema.embeddings, schema.performer_images
        query = (
            sa.select(embeddings.c.vector)
            .join(faces, faces.c.face_id == embeddings.c.face_id)
            .join(links, (links.c.source == faces.c.source) & (links.c.image_id == faces.c.image_id))
            .where(links.c.source_id == "st-00001")
        )
        with reading(self.engine) as connection:
            raw = [np.frombuffer(blob, "<f4") for blob in connection.scalars(query)]
        found = [vector.tobytes()[:256] for vector in raw]
        if Flavour.SMALL in self.spec.flavours:
            found += [in_one_byte_a_number(vector) for vector in raw]
        for model in DIGESTS:
            with (self.data / "releases/latest" / f"face_{model}.voy").open("rb") as stream:
                index = voyager.Index.load(stream)
            stored = index.get_vectors(range(index.num_elements))
            for vector in raw:
                unit = vector / np.linalg.norm(vector)
                best = int(np.argmax(stored @ unit))
                if stored[best] @ unit > 0.9999:
                    found.append(stored[best].astype("<f4").tobytes()[:256])
        return found


def in_one_byte_a_number(vector: np.ndarray) -> bytes:
    """The first half of a vector as an index of the flavour small stores it.

    The files of an index of this vector and of one of its opposite differ in the numbers alone, in each of them.
    """
    files = []
    for each in (vector, -vector):
        index = voyager.Index(
            voyager.Space.Cosine, num_dimensions=len(each), storage_data_type=voyager.StorageDataType.E4M3
        )
        index.add_item(each)
        files.append(index.as_bytes())
    begin = next(place for place, pair in enumerate(zip(*files, strict=True)) if pair[0] != pair[1])
    return files[0][begin : begin + 256]


@pytest.fixture(scope="module")
def first_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of an operator after the first release, for copies."""
    data = tmp_path_factory.mktemp("operator") / "data"
    Operator(data).engine.dispose()
    return data


@pytest.fixture
def operator(tmp_path: Path, first_release: Path) -> Iterator[Operator]:
    shutil.copytree(first_release, tmp_path / "data", symlinks=True)
    operator = Operator(tmp_path / "data")
    yield operator
    operator.engine.dispose()


def contents(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below a directory, and every member of a zip."""
    for path in sorted(directory.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        yield str(path.relative_to(directory)), path.read_bytes()
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                yield from ((f"{path.name}/{name}", archive.read(name)) for name in archive.namelist())


def where_found(directory: Path, needles: list[bytes]) -> set[str]:
    return {name for name, data in contents(directory) if any(needle in data for needle in needles)}


BOTH = replace(SPEC, small=small_limits(SPEC.limits))


@pytest.fixture(scope="module")
def first_release_of_both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of an operator after a first release in both flavours, for copies."""
    data = tmp_path_factory.mktemp("both") / "data"
    Operator(data, BOTH).engine.dispose()
    return data


@pytest.fixture
def both(tmp_path: Path, first_release_of_both: Path) -> Iterator[Operator]:
    shutil.copytree(first_release_of_both, tmp_path / "data", symlinks=True)
    operator = Operator(tmp_path / "data", BOTH)
    yield operator
    operator.engine.dispose()


@pytest.mark.slow
def test_no_byte_of_an_erased_person_is_in_any_file_of_any_flavour(both: Operator) -> None:
    needles = [*(text.encode() for text in STRINGS), *both.vectors_of_person()]
    assert len(needles) == len(STRINGS) + 18
    before = where_found(both.data, needles[-12:])
    for name in ("2026.02.18.small/face_arcface.voy", "2026.02.18.small/face_facenet.voy"):
        assert f"releases/{name}" in before
    assert "stash-sense-data-small-v2026.02.18.zip/face_facenet.voy" in before
    assert both.runs("suppress", "add", PERSON, "--reason", "asked by mail").exit_code == 0
    assert both.runs("suppress", "apply").exit_code == 0
    assert both.publish(SECOND).with_name("2026.02.19.small").is_dir()
    revoked = both.runs("releases", "revoke", "--delete")
    assert revoked.exit_code == 0, revoked.output
    assert where_found(both.data, needles) == set()
    assert not list((both.data / "releases").glob("*2026.02.18*"))


@pytest.mark.slow
def test_a_flavour_alone_that_holds_a_suppressed_person_is_revoked(both: Operator, tmp_path: Path) -> None:
    """Of the first release only one part of the flavour small is left, which no other command shows."""
    assert both.runs("suppress", "add", PERSON, "--reason", "asked by mail").exit_code == 0
    assert both.runs("suppress", "apply").exit_code == 0
    both.publish(SECOND)
    for left in ("2026.02.18.small", "stash-sense-data-small-v2026.02.18.zip"):
        data = tmp_path / left
        shutil.copytree(both.data, data, symlinks=True)
        for path in (data / "releases").glob("*2026.02.18*"):
            if path.name != left:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert "2026.02.18" in both.runs("releases", "revoke", data=data).output
        assert both.runs("releases", "revoke", "--delete", data=data).exit_code == 0
        assert not (data / "releases" / left).exists()


@pytest.mark.slow
def test_no_byte_of_an_erased_person_is_in_any_file(operator: Operator) -> None:
    needles = [*(text.encode() for text in STRINGS), *operator.vectors_of_person()]
    assert len(needles) == len(STRINGS) + 12
    (operator.data / "review").mkdir()
    (operator.data / "review" / "conflicts.md").write_text("- st-00001 and st-00003\n- others\n")
    (operator.data / "logs").mkdir()
    (operator.data / "logs" / "run.log").write_text("kept Person & 1 (39)\nkept Person & 11 (29)\n")
    (operator.data / "staging" / "next" / "release").mkdir(parents=True)
    (operator.data / "staging" / "next" / "release" / "faces.json").write_text('["stashdb.org:st-00001"]')
    before = where_found(operator.data, needles)
    assert {"catalog.db", "catalog.db-wal"} & before
    assert {"review/conflicts.md", "staging/next/release/faces.json"} <= before
    assert any(name.endswith("face_facenet.voy") for name in before)

    added = operator.runs("suppress", "add", PERSON, "--reason", "asked by mail")
    assert added.exit_code == 0, added.output
    applied = operator.runs("suppress", "apply")
    assert applied.exit_code == 0, applied.output
    assert "erased: 2 records, 1 identities, 3 images, 3 faces" in applied.output
    assert "6 lines of reports and logs, 1 staged releases" in applied.output
    reports = operator.publish(SECOND).with_name("2026.02.19.report")
    told = (reports / "report.md").read_text()
    assert "### 1 performers removed\n\n| performer | id |\n|---|---|\n| (erased) | 39 |\n" in told
    assert '<tr><td>(erased)</td><td data-value="39">39</td></tr>' in (reports / "report.html").read_text()
    revoked = operator.runs("releases", "revoke", "--delete")
    assert revoked.exit_code == 0, revoked.output
    assert "2026.02.18" in revoked.output
    assert where_found(operator.data, needles) == set()
    assert not list((operator.data / "releases").glob("*2026.02.18*"))
    assert operator.runs("releases", "revoke").output.startswith("no release here holds")

    again = operator.runs("suppress", "apply")
    assert "erased: 0 records, 0 identities, 0 images, 0 faces, 0 rows in all" in again.output
    assert "on the list already" in operator.runs("suppress", "add", PERSON, "--reason", "twice").output


@pytest.mark.slow
def test_a_person_added_to_the_list_while_a_release_is_checked_is_not_in_it(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing(operator.engine) as connection:
        connection.execute(sa.update(schema.source_performers).values(country="IS"))

    def proven(*arguments: object, **named: object) -> Proof:
        proof = prove_release(*arguments, **named)
        assert operator.runs("suppress", "add", PERSON, "--reason", "asked").exit_code == 0
        return proof

    monkeypatch.setattr(publish, "prove_release", proven)
    with pytest.raises(ReleaseError, match="suppressed: 1 suppressed records"):
        operator.publish(SECOND)
    monkeypatch.undo()
    assert not (operator.data / "releases" / "2026.02.19").exists()
    operator.runs("suppress", "apply")
    operator.publish(SECOND)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["write_zip", "write_report", "fsync_file"])
def test_a_person_added_to_the_list_in_the_last_seconds_of_a_publish_is_not_in_it(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with writing(operator.engine) as connection:
        connection.execute(sa.update(schema.source_performers).values(country="IS"))
    added: list[int] = []
    original = getattr(promotion, step)

    def then_add(*arguments: Any, **named: Any) -> Any:
        if not added:
            key = load_or_create_key(operator.data / "suppression.key")
            with writing(operator.engine) as connection:
                added.append(add_suppressions(connection, key, [SuppressionEntry(PERSON, "asked", FIRST)]))
        return original(*arguments, **named)

    monkeypatch.setattr(promotion, step, then_add)
    with pytest.raises(ReleaseError, match="suppressed: 1 suppressed records"):
        operator.publish(SECOND)
    assert added == [1]
    assert not (operator.data / "releases" / "2026.02.19").exists()
    assert not list((operator.data / "releases").glob("*2026.02.19*"))


@pytest.mark.slow
@pytest.mark.parametrize("server", [False, pytest.param(True, marks=pytest.mark.postgres)])
def test_an_add_while_a_release_is_moved_waits_until_it_is_published(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, server: bool, request: pytest.FixtureRequest
) -> None:
    """The list is locked between its last reading and the rename, so that no person can be added in between."""
    engine = operator.engine
    if server:
        engine = open_catalog(request.getfixturevalue("postgres_catalog_url"))
    key = load_or_create_key(operator.data / "suppression.key")
    spec = replace(SPEC, suppressions=load_suppressions(engine, key))
    order: list[str] = []
    begun = threading.Event()

    def add() -> None:
        begun.set()
        with writing(engine) as connection:
            entry = SuppressionEntry(PERSON, "asked", FIRST, unseen=True)
            add_suppressions(connection, key, [entry])
        order.append("added")

    thread = threading.Thread(target=add)
    with suppression_gate.list_held(engine, operator.data / "releases" / "2026.02.18", spec):
        thread.start()
        assert begun.wait(200)
        if server:
            assert wait_until_locked_out(engine, thread)
        else:
            # Without the lock it would add within milliseconds.
            thread.join(0.1)
        order.append("published")
    thread.join(200)
    assert order == ["published", "added"]
    again = suppression_gate.list_held(engine, operator.data / "releases" / "2026.02.18", spec)
    with pytest.raises(ReleaseError, match="suppressed: 1 suppressed records"), again:
        raise AssertionError("a release of who has left is not moved")
    if server:
        engine.dispose()


@pytest.mark.slow
def test_an_interrupted_publish_is_not_completed_once_a_person_in_it_is_on_the_list(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing(operator.engine) as connection:
        connection.execute(sa.update(schema.source_performers).values(country="IS"))
    monkeypatch.setattr(promotion, "_point_latest", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        operator.publish(SECOND)
    monkeypatch.undo()
    operator.runs("suppress", "add", PERSON, "--reason", "asked")
    with pytest.raises(ReleaseError, match="suppressed: 1 suppressed records"):
        operator.publish(SECOND)
    assert (operator.data / "releases" / "latest").resolve().name == "2026.02.18"


@pytest.mark.slow
def test_a_release_with_a_suppressed_person_is_not_installed_or_uploaded(
    operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.runs("suppress", "add", PERSON, "--reason", "asked")
    installed = operator.runs("releases", "install", "2026.02.18", "--to", str(tmp_path / "sidecar"))
    assert installed.exit_code == 1
    assert "holds 1 records and 0 URLs of people on the suppression list" in installed.output
    assert "releases revoke --delete" in installed.output
    assert not (tmp_path / "sidecar").exists()
    (tmp_path / "sources.yaml").write_text(
        "export: {github: {repository: a/b, api: 'http://127.0.0.1:1'}}\nstash_boxes: {stashdb: {}}\n"
    )
    monkeypatch.setenv("GITHUB_TOKEN", "token")
    uploaded = operator.runs("releases", "upload", "2026.02.18", sources=tmp_path / "sources.yaml")
    assert uploaded.exit_code == 1
    assert "holds 1 records and 0 URLs of people on the suppression list" in uploaded.output


@pytest.mark.slow
def test_a_restore_brings_no_suppressed_person_back(operator: Operator, tmp_path: Path) -> None:
    """Neither a person added after the backup, who is only on the current list, nor one on the backup's list."""
    other = b"st-00003"
    (operator.data / "identity_overrides.yaml").write_text(
        "must_link: [['stashdb:st-00001', 'fansdb:fa-1']]\n"
    )
    operator.runs("suppress", "add", "stashdb:st-00003", "--reason", "asked")
    assert operator.runs("backup", str(tmp_path / "b.zip")).exit_code == 0
    operator.runs("suppress", "add", PERSON, "--reason", "asked")
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    for name in ("suppressions.yaml", "suppression.key"):
        (fresh / name).write_bytes((operator.data / name).read_bytes())
    restored = operator.runs("restore", str(tmp_path / "b.zip"), data=fresh)
    assert restored.exit_code == 0, restored.output
    assert "left out 3 records of people on the suppression list" in restored.output
    needles = [*(text.encode() for text in STRINGS), other]
    assert where_found(fresh, needles) == set()
    assert "kept your own suppressions.yaml" in restored.output
    assert "erased: 0 records" in operator.runs("suppress", "apply", data=fresh).output


KILLED = """
import os, sys, zipfile
from stash_sense_pipeline.catalog import backup
from stash_sense_pipeline.cli import main
def killed(*_, **__): os._exit(9)
if sys.argv[1] == "backup":
    zipfile.ZipFile.writestr = killed
else:
    backup._copy_rows = killed
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_backup_or_restore_that_is_killed_leaves_no_copy(
    operator: Operator, tmp_path: Path, command: str
) -> None:
    made, temporary = tmp_path / "b.zip", tmp_path / "tmp"
    temporary.mkdir()
    data, elsewhere = operator.data, tmp_path / "elsewhere"
    if command == "restore":
        assert operator.runs("backup", str(made)).exit_code == 0
        data = tmp_path / "fresh"
    else:
        elsewhere.mkdir()
        made = elsewhere / "b.zip"
    variables = {**operator.variables(data), "TMPDIR": str(temporary), "PATH": os.environ["PATH"]}
    script = [sys.executable, "-c", KILLED, command, str(made)]
    ended = subprocess.run(script, env=variables, check=False, umask=0)
    assert ended.returncode == 9
    work = data / ".work"
    [copy] = [path for path in work.iterdir() if path.is_dir()]
    assert work.stat().st_mode & 0o777 == copy.stat().st_mode & 0o777 == 0o700
    assert where_found(copy, [b"st-00001"])
    assert list(temporary.iterdir()) == []
    assert len(list(elsewhere.glob(".*.tmp")) if elsewhere.exists() else [1]) == 1

    # A running one keeps its own work folder; any command removes what the killed one left.
    with private_work(data) as at_work:
        (at_work.directory / "catalog.db").write_text("mine")
        assert operator.runs("suppress", "list", data=data).exit_code == 0
        assert (at_work.directory / "catalog.db").read_text() == "mine"
    assert [path for path in work.iterdir() if path.name != ".lock"] == []
    if elsewhere.exists():
        assert list(elsewhere.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["stash-sense-data-v2026.02.18.zip", "2026.02.18/manifest.json"])
def test_an_incomplete_release_is_revoked_too(operator: Operator, lost: str) -> None:
    """For example when the zip was deleted after its upload."""
    operator.runs("suppress", "add", PERSON, "--reason", "asked")
    operator.runs("suppress", "apply")
    operator.publish(SECOND)
    (operator.data / "releases" / lost).unlink()
    revoked = operator.runs("releases", "revoke", "--delete")
    assert revoked.output.splitlines()[1].split() == ["sidecar", "2026.02.18", "2", "3", "False", "True"]
    assert not list((operator.data / "releases").glob("*2026.02.18*"))


@pytest.mark.slow
def test_a_release_that_cannot_be_read_is_one_clear_line(operator: Operator) -> None:
    operator.runs("suppress", "add", PERSON, "--reason", "asked")
    operator.runs("suppress", "apply")
    operator.publish(SECOND)
    broken = operator.data / "releases" / "2026.02.17"
    broken.mkdir()
    (broken / "performers.db").write_text("no database")
    revoked = operator.runs("releases", "revoke", "--delete")
    assert revoked.exit_code == 1
    assert "2026.02.17 in" in revoked.output
    assert "cannot be read, and may hold suppressed people" in revoked.output
    assert (operator.data / "releases" / "2026.02.18").is_dir()


@pytest.mark.slow
def test_a_withheld_record_that_is_suppressed_leaves_the_review(operator: Operator) -> None:
    with writing(operator.engine) as connection:
        row = {"source": "stashdb", "id_hash": "h", "checked_at": BEGIN, "reason": "under_18"}
        connection.execute(sa.insert(schema.withheld_records).values(**row, source_id="st-young"))
    added = operator.runs("suppress", "add", "stashdb:st-young", "--reason", "asked", "--unseen")
    assert added.exit_code == 0, added.output
    assert "erased: 1 records" in operator.runs("suppress", "apply").output
    assert operator.runs("suppress", "review").output == "no record is withheld\n"
    assert where_found(operator.data, [b"st-young"]) == set()


@pytest.mark.slow
def test_a_met_record_can_be_added_as_named(operator: Operator) -> None:
    """An associated record is refused, but is not in the file, and its pages and merges are not followed."""
    key = load_or_create_key(operator.data / "suppression.key")
    with writing(operator.engine) as connection:
        met = HashRow("record", record_hash(key, "fansdb", "met"), "met", BEGIN, ASSOCIATED, BEGIN)
        store_hashes(connection, key, [met])
    added = operator.runs("suppress", "add", "fansdb:met", "--reason", "asked by mail", "--unseen")
    assert added.output.startswith("added to"), added.output
    assert "asked by mail" in (operator.data / "suppressions.yaml").read_text()
    assert load_suppressions(operator.engine, key).degree("fansdb", ["met"], ()) == NAMED
    assert "waiting" in operator.runs("suppress", "list").output
    again = operator.runs("suppress", "add", "fansdb:met", "--reason", "asked by mail", "--unseen")
    assert "on the list already" in again.output
    with writing(operator.engine) as connection:
        assert store_hashes(connection, key, [met]) == 0
    assert load_suppressions(operator.engine, key).degree("fansdb", ["met"], ()) == NAMED


@pytest.mark.slow
def test_a_kill_after_the_commit_leaves_no_names_in_reports(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    (operator.data / "logs").mkdir()
    (operator.data / "logs" / "run.log").write_text("kept Alias 1 of stashdb\n")
    operator.runs("suppress", "add", PERSON, "--reason", "asked")

    def killed(*_: object) -> None:
        raise SystemExit(137)

    monkeypatch.setattr(erasure, "_overwritten", killed)
    assert operator.runs("suppress", "apply").exit_code == 137
    monkeypatch.undo()
    # The catalog does not hold the names any more, so that no search could find them in files now.
    assert "erased: 0 records" in operator.runs("suppress", "apply").output
    assert "Alias 1 of stashdb" not in (operator.data / "logs" / "run.log").read_text()


@pytest.mark.slow
def test_the_file_of_the_list_survives_a_lost_catalog(operator: Operator) -> None:
    operator.runs("suppress", "add", "https://instagram.com/person.1", "--reason", "asked", "--block-face")
    listed = yaml.safe_load((operator.data / "suppressions.yaml").read_text())
    assert [entry["reason"] for entry in listed] == ["asked"]
    assert listed[0]["target"].startswith("sealed:")
    assert listed[0]["block_face"] is True
    assert (operator.data / "suppressions.yaml").stat().st_mode & 0o777 == 0o600
    with writing(operator.engine) as connection:
        connection.execute(sa.delete(schema.suppressions))
    assert "erased: 2 records" in operator.runs("suppress", "apply").output
    table = operator.runs("suppress", "list").output
    assert "asked" in table
    assert "waiting" not in table


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("stashdb:st-99999", "has no such record; correct the id, or mark the entry unseen"),
        ("stashdbb:st-00001", "'stashdbb' is not a source; did you mean stashdb?"),
        ("https://people.example/nobody", "no record lists this URL and no image has it"),
        ("Somebody", "it is neither SOURCE:ID nor the http(s) URL"),
    ],
)
def test_adding_an_unknown_target_exits_with_2_and_writes_no_list(
    operator: Operator, target: str, complaint: str
) -> None:
    result = operator.runs("suppress", "add", target, "--reason", "asked")
    assert result.exit_code == 2
    assert complaint in result.output
    assert not (operator.data / "suppressions.yaml").exists()
    assert operator.runs("suppress", "list").output == "the list is empty\n"


UUIDS = {
    "stashdb": "0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0",
    "theporndb": "1f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f1",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "whose"),
    [
        ("https://stashdb.org/performers/0F1E2D3C-4b5a-4978-8796-a5b4c3d2e1f0/", "stashdb"),
        ("https://theporndb.net/performers/Zq-Anna", "theporndb"),
        ("https://theporndb.net/performers/1f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f1", "theporndb"),
        ("theporndb:zq-anna", "theporndb"),
        ("theporndb:4711", "theporndb"),
    ],
)
def test_a_record_is_found_by_its_own_page_and_by_all_that_its_source_calls_it(
    operator: Operator, target: str, whose: str
) -> None:
    table = schema.source_performers
    with writing(operator.engine) as connection:
        connection.execute(sa.insert(schema.sync_state).values(source="theporndb", backfilled_at=BEGIN))
        for source, source_id in UUIDS.items():
            raw = {"slug": "zq-anna", "_id": "4711"} if source == "theporndb" else {}
            row = {"source": source, "source_id": source_id, "name": f"Zq of {source}", "raw": raw}
            connection.execute(sa.insert(table).values(**row, first_seen_at=BEGIN, changed_at=BEGIN))
        # Another person's record links to the page by mistake: that does not make the page ambiguous.
        row = {"source": "stashdb", "source_id": "st-00003", "url": target}
        connection.execute(sa.insert(schema.performer_urls).values(**row))
        other = {"performer_id": 500, "created_at": BEGIN}
        connection.execute(sa.insert(schema.identities).values(**other))
        member = {"source": whose, "source_id": UUIDS[whose], "performer_id": 500}
        connection.execute(sa.insert(schema.identity_members).values(**member))
    added = operator.runs("suppress", "add", target, "--reason", "asked")
    assert added.exit_code == 0, added.output
    assert "on the list already" in operator.runs("suppress", "add", target, "--reason", "asked").output
    assert "erased: 1 records, 1 identities" in operator.runs("suppress", "apply").output
    with reading(operator.engine) as connection:
        left = set(connection.scalars(sa.select(table.c.name).where(table.c.name.startswith("Zq"))))
    assert left == {f"Zq of {source}" for source in UUIDS if source != whose}


@pytest.mark.slow
def test_the_page_of_an_unknown_record_is_refused(operator: Operator) -> None:
    with writing(operator.engine) as connection:
        connection.execute(sa.insert(schema.sync_state).values(source="theporndb", backfilled_at=BEGIN))
    for page in (
        "https://theporndb.net/performers/nobody",
        f"https://fansdb.cc/performers/{UUIDS['stashdb']}",
    ):
        result = operator.runs("suppress", "add", page, "--reason", "asked")
        assert "no record lists this URL and no image has it" in result.output
        unseen = operator.runs("suppress", "add", page, "--reason", "asked", "--unseen")
        assert unseen.exit_code == 0, unseen.output


@pytest.mark.slow
def test_a_list_with_an_unknown_id_is_refused_by_line_and_nothing_is_applied(operator: Operator) -> None:
    (operator.data / "suppressions.yaml").write_text(
        f"- {{target: '{PERSON}', reason: asked, date: 2026-11-20}}\n"
        "- {target: 'stashdb:st-99999', reason: asked, date: 2026-11-20}\n"
        "- {target: 'stashdb:st-88888', reason: asked, date: 2026-11-20, unseen: true}\n"
    )
    result = operator.runs("suppress", "apply")
    assert result.exit_code == 2
    assert "suppressions.yaml:2: stashdb was read in full and has no such record" in result.output
    assert operator.runs("suppress", "list").output == "the list is empty\n"


@pytest.mark.slow
def test_adding_a_page_that_two_people_list_exits_with_2_and_says_ambiguous(operator: Operator) -> None:
    with writing(operator.engine) as connection:
        row = {"source": "stashdb", "source_id": "st-00003", "url": "https://instagram.com/person.1/"}
        connection.execute(sa.insert(schema.performer_urls).values(**row))
    result = operator.runs("suppress", "add", "https://www.instagram.com/person.1", "--reason", "asked")
    assert result.exit_code == 2
    assert "the URL is ambiguous: 2 records of 2 people list it" in result.output


PICTURE = "https://stashdb.org/images/image-4"


@pytest.mark.slow
def test_the_address_of_a_picture_of_one_person_means_the_person(operator: Operator) -> None:
    result = operator.runs("suppress", "add", PICTURE, "--reason", "asked", "--block-face")
    assert result.exit_code == 0, result.output
    assert "only one person has this picture: the person leaves, with 2 records" in result.output
    assert "erased: 2 records, 1 identities, 3 images, 3 faces" in operator.runs("suppress", "apply").output
    with reading(operator.engine) as connection:
        assert len(connection.scalars(sa.select(schema.suppressed_faces.c.sealed)).all()) == 2
    operator.publish(SECOND)
    operator.runs("releases", "revoke", "--delete")
    assert where_found(operator.data, [text.encode() for text in STRINGS]) == set()


@pytest.mark.slow
def test_with_picture_only_the_address_of_a_picture_means_the_picture(operator: Operator) -> None:
    result = operator.runs("suppress", "add", PICTURE, "--reason", "asked", "--picture-only")
    assert result.exit_code == 0, result.output
    assert "erased: 0 records, 0 identities, 1 images, 1 faces" in operator.runs("suppress", "apply").output
    both = operator.runs("suppress", "add", PICTURE, "--reason", "asked", "--picture-only", "--block-face")
    assert both.exit_code == 2
    record = operator.runs("suppress", "add", PERSON, "--reason", "asked", "--picture-only")
    assert record.exit_code == 2
    assert "picture_only is for the URL of an image" in record.output


@pytest.mark.slow
@pytest.mark.parametrize("how", ["on both records", "the same bytes", "the same looks"])
def test_the_address_of_a_picture_of_several_people_means_the_picture(operator: Operator, how: str) -> None:
    images = schema.source_images
    with writing(operator.engine) as connection:
        if how == "on both records":
            row = {"source": "stashdb", "source_id": "st-00003", "image_id": "image-4"}
            connection.execute(sa.insert(schema.performer_images).values(**row))
        else:
            value = {"sha256": "ab" * 32} if how == "the same bytes" else {"picture_hash": "00ff" * 4}
            both = images.c.image_id.in_(["image-4", "image-10"])
            connection.execute(sa.update(images).where(both).values(**value))
    face = operator.runs("suppress", "add", PICTURE, "--reason", "asked", "--block-face")
    assert face.exit_code == 2
    assert "does not tell which face to refuse" in face.output
    result = operator.runs("suppress", "add", PICTURE, "--reason", "asked")
    assert result.exit_code == 0, result.output
    assert "several people have this picture: only the picture leaves" in result.output
    applied = operator.runs("suppress", "apply").output
    assert "erased: 0 records, 0 identities" in applied
    assert "0 images" not in applied


@pytest.mark.slow
def test_the_address_of_a_picture_in_the_operators_file_means_the_person(operator: Operator) -> None:
    entry = f"- {{target: '{PICTURE}', reason: asked, date: 2026-02-01}}\n"
    (operator.data / "suppressions.yaml").write_text(entry)
    assert "erased: 2 records, 1 identities" in operator.runs("suppress", "apply").output
    assert "erased: 0 records" in operator.runs("suppress", "apply").output


@pytest.mark.slow
def test_a_shared_picture_in_the_operators_file_is_reported(operator: Operator) -> None:
    with writing(operator.engine) as connection:
        row = {"source": "stashdb", "source_id": "st-00003", "image_id": "image-4"}
        connection.execute(sa.insert(schema.performer_images).values(**row))
    entry = f"- {{target: '{PICTURE}', reason: asked, date: 2026-02-01}}\n"
    (operator.data / "suppressions.yaml").write_text(entry)
    output = operator.runs("suppress", "apply").output
    assert "erased: 0 records, 0 identities, 1 images" in output
    assert "1 new entries are pictures that several people have" in output


@pytest.mark.slow
def test_namesakes_are_listed_for_a_decision_without_their_names(operator: Operator) -> None:
    table, names = schema.source_performers, schema.performer_aliases
    with writing(operator.engine) as connection:
        of_person = table.c.source_id == "st-00001"
        connection.execute(
            sa.update(table).where(of_person).values(name="Zoë Quill", birth_date="1990-01-02")
        )
        for source_id, name, born in (
            ("fa-same", "QUILL, Zoe", "1990-01-02"),
            ("fa-name", "Zoe Quill", None),
            ("fa-alias", "Alias 1 of stashdb", "1990-01-02"),
            ("fa-born", "Other Name", "1990-01-02"),
        ):
            row = {"source": "fansdb", "source_id": source_id, "name": name, "birth_date": born}
            connection.execute(sa.insert(table).values(**row, first_seen_at=BEGIN, changed_at=BEGIN))
        row = {"source": "fansdb", "source_id": "fa-born", "alias": "alias 1 OF stashdb"}
        connection.execute(sa.insert(names).values(**row))
    told = operator.runs("suppress", "add", PERSON, "--reason", "asked").output
    lines = [line.strip() for line in told.splitlines() if line.startswith("  ")]
    assert lines == [
        "fansdb:fa-alias  same name and birth date",
        "fansdb:fa-born  same name and birth date",
        "fansdb:fa-name  same name",
        "fansdb:fa-same  same name and birth date",
    ]
    assert "quill" not in told.lower()
    applied = json.loads(operator.runs("suppress", "apply", "--json").output)
    # The same name and birth date link fa-same to the person, as identities would.
    assert [each["source_id"] for each in applied["namesakes"]] == ["fa-alias", "fa-born", "fa-name"]
    assert applied["erased"]["records"] == 3


@pytest.mark.slow
def test_a_release_with_suppressed_image_bytes_is_not_published(operator: Operator) -> None:
    key = load_or_create_key(operator.data / "suppression.key")
    digest = "ab" * 32
    with writing(operator.engine) as connection:
        of_person = schema.source_images.c.image_id == "image-4"
        connection.execute(sa.update(schema.source_images).where(of_person).values(sha256=digest))
        store_hashes(connection, key, [HashRow("image", image_hash(key, digest), "asked", BEGIN)])
        connection.execute(sa.update(schema.source_performers).values(country="IS"))
    with pytest.raises(ReleaseError, match="suppressed_images: 1 faces are from suppressed images"):
        operator.publish(SECOND)
    assert operator.runs("suppress", "apply").exit_code == 0
    operator.publish(SECOND)


@pytest.mark.slow
def test_a_blocked_face_does_not_come_back_under_a_new_record(operator: Operator) -> None:
    vectors = new_pictures_of_person(operator)
    operator.runs("suppress", "add", PERSON, "--reason", "asked", "--block-face")
    operator.runs("suppress", "apply")
    with reading(operator.engine) as connection:
        sealed = connection.scalars(sa.select(schema.suppressed_faces.c.sealed)).all()
    assert len(sealed) == 2
    index_under_another(operator, vectors)
    with pytest.raises(ReleaseError, match="refused_faces: 1 vectors are near a refused face"):
        operator.publish(SECOND)
    applied = operator.runs("suppress", "apply").output
    assert "0 records, 0 identities, 1 images, 1 faces" in applied
    assert "1 held records" in applied
    operator.publish(SECOND)
    [held] = [line.split() for line in operator.runs("suppress", "review").output.splitlines()[1:]]
    assert held[2] == "held"
    settle = ("suppress", "review", "settle", f"{held[0]}:{held[1]}")
    assert operator.runs(*settle).exit_code == 2
    assert operator.runs(*settle, "--other").exit_code == 0
    assert "no record is withheld" in operator.runs("suppress", "review").output
    again = operator.runs(*settle, "--other")
    assert again.exit_code != 0
    assert "is not a held record" in again.output


@pytest.mark.slow
def test_without_block_face_no_template_is_kept(operator: Operator) -> None:
    operator.runs("suppress", "add", PERSON, "--reason", "asked")
    operator.runs("suppress", "apply")
    with reading(operator.engine) as connection:
        assert connection.scalars(sa.select(schema.suppressed_faces.c.sealed)).all() == []


def new_pictures_of_person(operator: Operator) -> dict[str, bytes]:
    """The embeddings of a new picture with a face that is near the other faces of the person."""
    faces, embeddings, links = schema.faces, schema.embeddings, schema.performer_images
    found = {}
    with reading(operator.engine) as connection:
        for model in DIGESTS:
            query = (
                sa.select(embeddings.c.vector)
                .join(faces, faces.c.face_id == embeddings.c.face_id)
                .join(links, (links.c.source == faces.c.source) & (links.c.image_id == faces.c.image_id))
                .where(links.c.source_id == "st-00001", embeddings.c.model == model)
            )
            vectors = np.stack([np.frombuffer(blob, "<f4") for blob in connection.scalars(query)])
            unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            found[model] = unit.mean(axis=0).astype("<f4").tobytes()
    return found


def index_under_another(operator: Operator, vectors: dict[str, bytes]) -> None:
    """Gives a face of another record these embeddings, as if the person had a new record."""
    embeddings = schema.embeddings
    with writing(operator.engine) as connection:
        for model, vector in vectors.items():
            which = (embeddings.c.face_id == 100) & (embeddings.c.model == model)
            connection.execute(sa.update(embeddings).where(which).values(vector=vector))


@pytest.mark.slow
def test_the_catalog_and_the_key_are_for_the_owner_only(operator: Operator) -> None:
    (operator.data / "catalog.db").chmod(0o644)
    operator.engine.dispose()
    open_catalog(f"sqlite:///{operator.data / 'catalog.db'}").dispose()
    for name in ("catalog.db", "suppression.key"):
        assert (operator.data / name).stat().st_mode & 0o077 == 0, name


@pytest.mark.slow
def test_a_record_that_is_withheld_for_its_dates_is_listed_for_review(operator: Operator) -> None:
    row = {"source": "stashdb", "id_hash": "h", "checked_at": BEGIN}
    with writing(operator.engine) as connection:
        table = schema.withheld_records
        connection.execute(sa.insert(table).values(**row, reason="under_18", source_id="st-young"))
        connection.execute(sa.insert(table).values(**{**row, "id_hash": "s"}, reason="suppressed"))
    result = operator.runs("suppress", "review")
    assert result.exit_code == 0
    assert [line.split()[:3] for line in result.output.splitlines()[1:]] == [
        ["stashdb", "st-young", "under_18"]
    ]
