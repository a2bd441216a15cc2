"""The cadence of automatic uploads: a simulated month of nights, removals at once, and notes that are damaged or lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.cli import main
from stash_sense_pipeline.foundation.errors import ReleaseError
from stash_sense_pipeline.privacy.suppression.suppression_hashes import record_hash
from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS, Suppressions
from stash_sense_pipeline.release.checks.suppression_check import held_keys, refuse_suppressed
from stash_sense_pipeline.release.contract import Flavour
from stash_sense_pipeline.release.distribution.cadence import (
    AutomaticUpload,
    Decision,
    decide,
    upload_status,
)
from stash_sense_pipeline.release.distribution.github import Destination
from stash_sense_pipeline.release.distribution.history import prune_releases
from stash_sense_pipeline.release.distribution.uploads import Upload, Waiting, read_uploads, write_upload
from stash_sense_pipeline.release.publish import publish_release
from stash_sense_pipeline.release.versions import published_versions, remove_release
from stash_sense_pipeline.settings.schema import CadenceSettings, Settings
from stash_sense_pipeline.settings.sources_file import load_settings

from .changes import FIRST, opened
from .github import REPOSITORY, TOKEN, GithubWorld, github
from .sidecar import Updater
from .worlds import HOSTS, SPEC

KEY = b"k" * 32
WEEKLY = CadenceSettings()
FIRST_NIGHT = datetime(2026, 3, 1, 3, 5, tzinfo=UTC)


class Nights:
    """A pipeline that publishes and uploads every night, with a clock that a test moves."""

    def __init__(self, data: Path, hub: GithubWorld, cadence: CadenceSettings) -> None:
        self.data, self.hub = data, hub
        self.engine = opened(data)
        self.now = FIRST_NIGHT
        self.listed = NO_SUPPRESSIONS
        self.destination = Destination(REPOSITORY, hub.url, TOKEN, sleep=lambda _: None, now=lambda: self.now)
        self.uploads = AutomaticUpload(
            data / "releases",
            cadence,
            refuse=lambda release: refuse_suppressed(release, self.listed, HOSTS),
            holds_suppressed=lambda release: held_keys(release, self.listed, HOSTS).any,
        )

    def rename(self, people: int, text: str) -> None:
        """Changes the names of so many people."""
        table = schema.source_performers
        with writing(self.engine) as connection:
            for number in range(1, 2 * people, 2):
                row = sa.update(table).where(table.c.source_id == f"st-{number:05d}")
                connection.execute(row.values(name=f"{text} {number}"))

    def suppress(self, source_id: str) -> None:
        """Suppresses and erases a person of one record, as `suppress add` and `apply` do."""
        hashes = self.listed.records | {record_hash(KEY, "stashdb", source_id)}
        self.listed = Suppressions(key=KEY, records=frozenset(hashes))
        with writing(self.engine) as connection:
            for table in (schema.trusted_faces, schema.identity_members):
                connection.execute(sa.delete(table).where(table.c.source_id == source_id))
            people = schema.source_performers
            connection.execute(sa.delete(people).where(people.c.source_id == source_id))

    def night(self) -> Decision:
        """One night: publish, then upload when it is due."""
        spec = replace(SPEC, suppressions=self.listed)
        report = publish_release(self.engine, self.data, "night", spec, self.now.date())
        return self.uploads.run(report.version, self.destination)[0]

    def sent(self) -> list[str]:
        return [release["tag_name"].removeprefix("v") for release in self.hub.releases]


@pytest.fixture
def hub() -> Iterator[GithubWorld]:
    with github() as world:
        yield world


@pytest.fixture
def nights(data: Path, hub: GithubWorld) -> Nights:
    return Nights(data, hub, WEEKLY)


@pytest.mark.slow
def test_a_month_of_nights_uploads_once_a_week_and_a_suppression_at_once(
    nights: Nights, tmp_path: Path
) -> None:
    """People change in some nights; one is suppressed in the night of the 17th, two days after an upload."""
    home = tmp_path / "sidecar"
    home.mkdir()
    updater = Updater(home, f"{nights.hub.url}/repos/{REPOSITORY}/releases")
    uploaded: dict[int, str] = {}
    updated: list[str] = []
    for day in range(1, 32):
        # The run begins a few minutes earlier or later each night.
        nights.now = FIRST_NIGHT + timedelta(days=day - 1, minutes=-5 * (day % 3))
        if day in (1, 2, 8, 13, 20, 24):
            nights.rename(1, f"Night {day}")
        if day == 17:
            nights.suppress("st-00005")
        decision = nights.night()
        if decision.due:
            uploaded[day] = decision.reason
            updated.append(updater.update() or "nothing")
    assert list(uploaded) == [1, 8, 15, 17, 24]
    assert "nothing was uploaded" in uploaded[1]
    assert "1 people and 0 faces changed since 2026.03.01" in uploaded[8]
    assert "2026.03.13, which users have, holds people who are suppressed now" in uploaded[17]
    # What changed on the 13th waited for the 15th.
    assert updated == nights.sent() == [f"2026.03.{day:02d}" for day in (1, 8, 13, 17, 24)]
    # Every change was released here.
    assert len(published_versions(nights.data / "releases")) == 8
    assert "st-00005" not in (home / "performers.json").read_text()


@pytest.mark.slow
def test_a_change_below_the_least_change_waits_and_adds_up(data: Path, hub: GithubWorld) -> None:
    nights = Nights(data, hub, CadenceSettings(days=1, people=3, faces=100))
    assert nights.night().due
    for people, name, due in ((1, "A", False), (2, "A", False), (3, "A", True), (1, "B", False)):
        nights.now += timedelta(days=1)
        nights.rename(people, name)
        decision = nights.night()
        assert decision.due is due, decision.reason
    needed = "it takes 3 people (export.cadence.people) or 100 faces (export.cadence.faces)"
    assert decision.reason == f"1 people and 0 faces changed since 2026.03.04; {needed}"
    assert nights.sent() == ["2026.02.18", "2026.03.04"]


@pytest.mark.parametrize(
    ("days", "change", "due"),
    [
        (0, (5, 5), False),
        (6, (5, 5), False),
        (7, (5, 5), True),
        (7, (0, 0), False),
        (7, (1, 0), True),
        (7, (0, 1), True),
        (70, (0, 0), False),
        # The clock was wrong when the last upload was noted.
        (-30, (5, 5), True),
    ],
)
def test_time_and_change_decide_together(days: int, change: tuple[int, int], due: bool) -> None:
    upload = Upload(FIRST, FIRST_NIGHT)
    on = FIRST_NIGHT.date() + timedelta(days=days)
    assert decide(upload, Waiting("2026.03.02", *change), WEEKLY, on).due is due


def test_the_night_of_the_seventh_day_counts_though_it_begins_earlier() -> None:
    late = Upload(FIRST, datetime(2026, 3, 1, 23, 59, tzinfo=UTC))
    assert decide(late, Waiting("2026.03.08", 1, 1), WEEKLY, date(2026, 3, 8)).due


def made_by_other_networks(release: Path) -> None:
    path = release / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["models"]["embedders"]["facenet"]["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))


# What happens to the release that users have, and why the next one is uploaded at once.
LOSSES: tuple[tuple[Callable[[Path], object], str], ...] = (
    (
        lambda release: remove_release(release.parent, release.name),
        "is no longer here and cannot be compared",
    ),
    (lambda release: (release / "performers.db").write_bytes(b"x"), "cannot be read here"),
    (made_by_other_networks, "are of other networks"),
    (lambda release: (release.parent / "uploads.json").unlink(), "nothing was uploaded to example/data yet"),
)


@pytest.mark.slow
def test_a_release_that_cannot_be_compared_any_more_or_has_other_vectors_is_replaced(nights: Nights) -> None:
    nights.rename(1, "One")
    assert nights.night().due
    for number, (lose, reason) in enumerate(LOSSES):
        nights.rename(1, f"Before loss {number}")
        nights.now += timedelta(days=1)
        assert not nights.night().due
        lose(nights.data / "releases" / nights.sent()[-1])
        nights.rename(1, f"After loss {number}")
        nights.now += timedelta(days=1)
        decision = nights.night()
        assert decision.due
        assert reason in decision.reason


@pytest.mark.slow
def test_pruning_keeps_the_release_that_the_next_upload_is_compared_with(nights: Nights) -> None:
    nights.rename(1, "One")
    assert nights.night().due
    for day in (2, 3):
        nights.now += timedelta(days=1)
        nights.rename(1, f"Night {day}")
        assert not nights.night().due
    releases = nights.data / "releases"
    assert prune_releases(releases, 1) == (FIRST, "2026.03.02")
    assert published_versions(releases) == ("2026.03.01", "2026.03.03")


@pytest.mark.slow
def test_an_upload_that_fails_is_tried_again_the_next_night(nights: Nights) -> None:
    nights.hub.fail("POST", "/upload/", 400)
    with pytest.raises(ReleaseError, match="400 ordered"):
        nights.night()
    assert read_uploads(nights.data / "releases") == {}
    nights.now += timedelta(days=1)
    assert nights.night().due
    assert nights.sent() == [FIRST]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"a/b": 1}', '{"a/b": {"version": "x", "at": "2026-01-01T00:00:00+00:00"}}',
     '{"a/b": {"version": "2026.01.01", "at": "2026-01-01"}}', '{"a/b": {"version": "2026.01.01", "at": 5}}',
     '{"a/b": {"version": "2026.01.01", "at": "2026-01-01T00:00:00+00:00", "waiting": {"version": "2026.01.02"}}}'],
)  # fmt: skip
def test_a_damaged_note_is_one_line_that_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "uploads.json").write_text(text)
    with pytest.raises(ReleaseError, match=r"uploads\.json is damaged .*; remove it") as refused:
        read_uploads(tmp_path)
    assert "\n" not in str(refused.value)


def settings_at(path: Path, url: str) -> Settings:
    path.write_text(
        f"export: {{github: {{repository: {REPOSITORY}, upload: true, api: '{url}'}}}}\n"
        "stash_boxes: {stashdb: {}}\n"
    )
    return load_settings(path)


@pytest.mark.slow
def test_status_says_when_the_next_upload_is_due_and_why(nights: Nights, tmp_path: Path) -> None:
    sources = tmp_path / "sources.yaml"
    settings = settings_at(sources, nights.hub.url)
    releases = nights.data / "releases"

    def said() -> str:
        (status,) = upload_status(releases, settings, nights.now)
        assert (status.repository, status.flavour) == (REPOSITORY, Flavour.FULL)
        return status.next

    assert said() == f"{FIRST} goes out with the next publish: nothing was uploaded there yet"
    nights.night()
    assert said() == f"{FIRST} is uploaded, and there is no newer release"
    nights.rename(2, "New")
    nights.now += timedelta(days=2)
    nights.night()
    assert said() == (
        f"due on 2026-03-08, 7 days after {FIRST} (export.cadence.days); 2 people and 0 faces changed"
    )
    nights.now += timedelta(days=5)
    assert said().startswith("2026.03.03 goes out with the next publish: 2 people and 0 faces changed since")
    variables = {"DATA_DIR": str(nights.data), "STASH_SENSE_SOURCES": str(sources), "STASHDB_API_KEY": "x"}
    shown = CliRunner().invoke(main, ["status"], env={**variables, "STASH_SENSE_CATALOG_URL": ""})
    assert f"upload to {REPOSITORY} (full): 2026.03.03 goes out" in shown.output
    # Without automatic uploads there is nothing to say.
    manual = settings.export.github.model_copy(update={"upload": False})
    export = settings.export.model_copy(update={"github": manual})
    assert upload_status(releases, settings.model_copy(update={"export": export}), nights.now) == []


def test_each_repository_has_its_own_note_and_another_name_in_capitals_is_the_same(tmp_path: Path) -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    write_upload(tmp_path, "Owner/One", Upload("2026.03.01", at))
    write_upload(tmp_path, "owner/two", Upload("2026.03.02", at, Waiting("2026.03.03", 1, 2)))
    write_upload(tmp_path, "owner/one", Upload("2026.03.04", at))
    assert read_uploads(tmp_path) == {
        "owner/one": Upload("2026.03.04", at),
        "owner/two": Upload("2026.03.02", at, Waiting("2026.03.03", 1, 2)),
    }
    shutil.rmtree(tmp_path)
