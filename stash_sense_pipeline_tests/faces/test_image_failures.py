"""Failed and refused images: failures of an image or of its host, the next attempt, and the effect on other images."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.queries.sync_state import mass_refusals
from stash_sense_pipeline.catalog.schema import faces, performer_images, source_images, source_performers
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.catalog.upsert import upsert
from stash_sense_pipeline.faces.collect import CollectReport, collect_faces
from stash_sense_pipeline.faces.collection.run_context import CollectLimits
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.foundation.errors import HttpStatusError, Outcome, SourceError, UnreachableError
from stash_sense_pipeline.orchestration.metadata import image_refusal_check
from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS
from stash_sense_pipeline.settings.schema import GlobalSettings, StashBoxSettings
from stash_sense_pipeline_tests.faces.databases import by_database
from stash_sense_pipeline_tests.faces.nets import picture
from stash_sense_pipeline_tests.faces.world import LONG_AGO, png

START = datetime(2026, 3, 1, tzinfo=UTC)
GOOD = png(picture([(5, 5, 0.95, 120)], 1))
HERE, THERE = "https://cdn.example", "https://other.example"

Failure = Callable[[], SourceError]


def _status(status: int, outcome: Outcome) -> Failure:
    return lambda: HttpStatusError("boxed", outcome, f"GET answered {status}", status, b"")


ANSWERS: Mapping[str, Failure | bytes] = {
    "ok": GOOD,
    "html": b"<!doctype html>maintenance",
    "empty": b"",
    "403": _status(403, Outcome.BLOCKED),
    "404": _status(404, Outcome.NOT_FOUND),
    "410": _status(410, Outcome.GONE),
    "429": _status(429, Outcome.RATE_LIMITED),
    "500": _status(500, Outcome.TIMEOUT),
    "cut": lambda: SourceError("boxed", Outcome.TIMEOUT, "could not be read"),
    "broken": lambda: SourceError("boxed", Outcome.PARSE_ERROR, "sent a body that cannot be decoded"),
    "unreachable": lambda: UnreachableError("boxed", Outcome.TIMEOUT, "could not be reached"),
    "redirect": lambda: SourceError("boxed", Outcome.DISALLOWED, "redirects to another host"),
}
FAILURES = ["html", "empty", "403", "500", "cut", "broken", "unreachable"]
REFUSALS = ["404", "410", "redirect"]


@dataclass
class Client:
    """An ImageClient that answers as `answers` says, by URL, and `default` for the others."""

    answers: dict[str, str] = field(default_factory=dict)
    default: str = "ok"
    requests: Counter[str] = field(default_factory=Counter)
    most_at_once: int = 0
    under_way: int = 0

    async def get(
        self, url: str, *, headers: Mapping[str, str], max_bytes: int, may_retry: Callable[[], bool]
    ) -> SimpleNamespace:
        self.requests[url] += 1
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)
        await asyncio.sleep(0.001)
        self.under_way -= 1
        answer = ANSWERS[self.answers.get(url, self.default)]
        if isinstance(answer, bytes):
            return SimpleNamespace(content=answer)
        raise answer()


@dataclass
class World:
    """A catalog of performers with images, for one run a night."""

    catalog: sa.Engine
    pack: ModelPack
    client: Client = field(default_factory=Client)
    source: str = "boxed"
    limits: CollectLimits = field(default_factory=lambda: CollectLimits(batch_seconds=0.5))

    def list(self, urls: Mapping[str, str]) -> None:
        """Lists one performer for each image id."""
        rows = [{"source": self.source, "source_id": f"of-{one}"} for one in urls]
        with writing(self.catalog) as connection:
            named = {"name": "x", "first_seen_at": LONG_AGO, "changed_at": LONG_AGO}
            upsert(connection, source_performers, [row | named for row in rows])
            images = [
                {"source": self.source, "image_id": one, "url": url, "state": "pending", "attempts": 0}
                for one, url in urls.items()
            ]
            upsert(connection, source_images, images)
            links = [row | {"image_id": one} for row, one in zip(rows, urls, strict=True)]
            upsert(connection, performer_images, links)

    def night(self, day: float, **options: Any) -> CollectReport:
        """One run on that day."""
        return asyncio.run(self.run(day, **options))

    async def run(self, day: float, **options: Any) -> CollectReport:
        box = StashBoxSettings.model_validate(
            {"name": self.source, "url": f"{HERE}/graphql", "host": "cdn.example", "rate_limit": 60_000.0}
        )
        return await collect_faces(
            self.catalog,
            box,
            self.pack,
            self.client,
            lambda url: (url, {}),
            GlobalSettings(),
            NO_SUPPRESSIONS,
            limits=self.limits,
            now=lambda: START + timedelta(days=day),
            **options,
        )

    def images(self) -> dict[str, Any]:
        query = sa.select(source_images).where(source_images.c.source == self.source)
        with reading(self.catalog) as connection:
            return {row.image_id: row for row in connection.execute(query)}

    def states(self) -> Counter[str]:
        return Counter(row.state for row in self.images().values())

    @property
    def asked(self) -> int:
        return self.client.requests.total()


@pytest.fixture
def world(any_catalog: sa.Engine, pack: ModelPack) -> World:
    return World(any_catalog, pack)


@pytest.fixture
def lite(catalog: sa.Engine, pack: ModelPack) -> World:
    return World(catalog, pack)


@contextmanager
def fresh(catalog_file: Path, pack: ModelPack) -> Iterator[World]:
    with tempfile.TemporaryDirectory() as directory:
        engine = open_catalog(f"sqlite:///{shutil.copy2(catalog_file, Path(directory) / 'catalog.db')}")
        yield World(engine, pack)
        engine.dispose()


def many(count: int, base: str = HERE, name: str = "i") -> dict[str, str]:
    return {f"{name}{number:04}": f"{base}/{name}{number:04}" for number in range(count)}


# --- failures of an image, of its host or of its source ---


@pytest.mark.slow
@pytest.mark.parametrize(("any_catalog", "answer"), by_database(*FAILURES), indirect=["any_catalog"])
def test_bad_images_before_good_ones_cost_only_themselves(world: World, answer: str) -> None:
    bad, good = many(20, name="a"), many(40, name="b")
    world.list(bad | good)
    world.client.answers = dict.fromkeys(bad.values(), answer)
    report = world.night(0)
    assert (report.outcome, report.done) == (None, 40)
    assert {world.images()[one].attempts for one in bad} == {1}
    assert {world.client.requests[url] for url in bad.values()} == {1}
    assert report.evidence <= 8, "asked again as evidence: seldom"


@pytest.mark.slow
@pytest.mark.parametrize("answer", [*FAILURES, "429"])
def test_a_source_that_refuses_everything_is_asked_a_handful_of_times(lite: World, answer: str) -> None:
    lite.list(many(1000))
    lite.client.default = answer
    report = lite.night(0)
    assert report.outcome is not None
    assert lite.asked <= 10
    assert sum(image.attempts for image in lite.images().values()) == lite.asked
    before = lite.asked
    lite.client.requests.clear()
    assert lite.night(1).outcome is not None
    assert lite.asked <= 10
    asked = [one for one, image in lite.images().items() if image.attempts]
    assert len(asked) == before + lite.asked, "other images than the night before"


@pytest.mark.slow
def test_images_that_always_answer_429_do_not_come_first_every_night(lite: World) -> None:
    bad, good = many(6, name="a"), many(30, name="b")
    lite.list(bad | good)
    lite.client.answers = dict.fromkeys(bad.values(), "429")
    for day in range(12):
        lite.night(day)
    assert {lite.images()[one].state for one in good} == {"done"}
    assert min(lite.images()[one].attempts for one in bad) >= 1


@pytest.mark.slow
def test_a_source_that_was_well_before_is_asked_a_handful_of_times_too(lite: World) -> None:
    lite.list(many(30, name="a"))
    assert lite.night(0).done == 30
    lite.list(many(1000, name="b"))
    lite.client.requests.clear()
    lite.client.default = "403"
    assert lite.night(1).outcome is Outcome.BLOCKED
    assert lite.asked <= 10


@pytest.mark.slow
def test_an_image_that_came_before_shows_whether_the_source_or_its_images_fail(lite: World) -> None:
    lite.list(many(1, name="old"))
    lite.night(0)
    bad = many(30)
    lite.list(bad)
    lite.client.answers = dict.fromkeys(bad.values(), "403")
    report = lite.night(1)
    assert (report.outcome, report.failed, report.hosts_down) == (None, {"blocked": 30}, {})
    assert report.evidence <= 4
    assert {lite.images()[one].attempts for one in bad} == {1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("any_catalog", "answer"), by_database("403", "500", "unreachable", "429"), indirect=["any_catalog"]
)
def test_a_dead_host_among_two_costs_only_its_images(world: World, answer: str) -> None:
    dead, well = many(60, HERE, "a"), many(60, THERE, "b")
    world.list(dead | well)
    world.client.answers = dict.fromkeys(dead.values(), answer)
    for day in range(3):
        world.client.requests.clear()
        report = world.night(day)
        assert report.outcome is None
        assert report.done == (60 if day == 0 else 0)
        asked = [url for url in world.client.requests if url.startswith(HERE)]
        assert len(asked) <= 10
        assert sum(report.hosts_down.values()) == 60 - len(asked)
    assert "pending" not in world.states()
    world.client.answers.clear()
    assert world.night(10).done == 60


def test_a_host_is_not_asked_at_full_width_before_it_has_answered(lite: World) -> None:
    lite.list(many(40))
    lite.client.default = "403"
    lite.night(0)
    assert lite.client.most_at_once <= 3


@pytest.mark.slow
def test_three_failures_without_evidence_do_not_fail_the_run(lite: World) -> None:
    lite.list(many(3))
    lite.client.default = "cut"
    for night in range(12):
        report = lite.night(night * 90)
        assert report.outcome is None
    assert {(image.state, image.next_attempt_at) for image in lite.images().values()} == {("failed", None)}


@pytest.mark.slow
def test_a_cache_that_answers_for_a_dead_host_does_not_open_the_whole_queue(lite: World) -> None:
    lite.list(many(2, name="old"))
    lite.night(0)
    lite.list(many(600))
    lite.client.requests.clear()
    lite.client.answers = dict.fromkeys(many(2, name="old").values(), "ok")
    lite.client.default = "500"
    report = lite.night(1)
    assert lite.asked < 250
    assert sum(report.hosts_down.values()) > 350
    assert report.outcome is None


@pytest.mark.slow
def test_a_run_that_is_cancelled_counts_every_failed_try(lite: World) -> None:
    bad, good = many(60, name="a"), many(60, name="b")
    lite.list(bad | good)
    lite.client.answers = {url: FAILURES[place % len(FAILURES)] for place, url in enumerate(bad.values())}

    async def go() -> None:
        task = asyncio.create_task(lite.run(0))
        while lite.asked < 50:
            assert not task.done()
            await asyncio.sleep(0.001)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(go())
    images = lite.images()
    for one, url in bad.items():
        assert images[one].attempts <= lite.client.requests[url]
    assert sum(image.attempts for image in images.values()) > 0
    lite.client.answers.clear()
    for day in range(1, 5):
        lite.night(day)
    assert lite.states() == {"done": 120}


# --- no single refusal is final ---


@pytest.mark.slow
@pytest.mark.parametrize("answer", REFUSALS)
def test_a_refusal_is_looked_at_again_on_later_days_and_final_after_six(lite: World, answer: str) -> None:
    world = lite
    world.list(many(1) | many(3, name="well"))
    (refused,) = many(1).values()
    world.client.answers = {refused: answer}
    asked_on = []
    for day in (*range(6), 12, 13, 14, 39, 40, 41, 120, 121, 122, 900):
        before = world.client.requests[refused]
        report = world.night(day)
        assert report.outcome is None
        if world.client.requests[refused] > before:
            asked_on.append(day)
        if day in (1, 4):
            world.night(day + 0.3)
            assert world.client.requests[refused] == len(asked_on), "once a day"
    assert asked_on == [0, 1, 4, 13, 40, 121]
    image = world.images()["i0000"]
    assert (image.state in ("gone", "rejected"), image.refusals, image.next_attempt_at) == (True, 6, None)


@pytest.mark.slow
def test_a_refusal_that_recovers_is_done_and_forgotten(world: World) -> None:
    world.list(many(1) | many(20, name="well"))
    world.client.answers = {f"{HERE}/i0000": "404"}
    world.night(0)
    world.client.answers = {}
    assert world.night(1).done == 1
    image = world.images()["i0000"]
    assert (image.state, image.reason, image.attempts, image.refusals) == ("done", None, 0, 0)


@pytest.mark.slow
def test_many_first_refusals_at_once_are_not_believed_the_first_time(world: World) -> None:
    lost, well = many(40, name="a"), many(100, name="b")
    world.list(lost | well)
    world.client.answers = dict.fromkeys(lost.values(), "404")
    report = world.night(0)
    assert report.mass_refusal == {"refused": 40, "asked": 140, "allowed": 20}
    assert {world.images()[one].refusals for one in lost} == {0}
    assert mass_refusals(world.catalog, ["boxed"]) == {"boxed": report.mass_refusal}
    report = world.night(1)
    assert (report.gone, report.mass_refusal) == (40, {})
    assert {world.images()[one].refusals for one in lost} == {1}, "a second night agrees"
    assert mass_refusals(world.catalog, ["boxed"]) == {}


@pytest.mark.slow
def test_a_few_refusals_are_counted_at_once(world: World) -> None:
    lost, well = many(20, name="a"), many(30, name="b")
    world.list(lost | well)
    world.client.answers = dict.fromkeys(lost.values(), "404")
    assert world.night(0).mass_refusal == {}
    assert {world.images()[one].refusals for one in lost} == {1}


@pytest.mark.slow
def test_the_address_of_many_images_counts_as_one_refusal(world: World) -> None:
    lost, well = dict.fromkeys(many(40, name="a"), f"{HERE}/same"), many(30, name="b")
    world.list(lost | well)
    world.client.answers = {f"{HERE}/same": "404"}
    report = world.night(0)
    assert (report.gone, report.mass_refusal) == (40, {})


@pytest.mark.slow
def test_a_storage_that_is_away_for_a_night_loses_nothing(lite: World) -> None:
    lite.list(many(20, name="old"))
    lite.night(0)
    lite.list(many(400))
    lite.client.default = "404"
    lite.client.requests.clear()
    report = lite.night(1)
    assert report.outcome is None
    assert report.mass_refusal["refused"] > 20
    assert lite.asked < 80, "a source without its images is left alone"
    lite.client.default = "ok"
    lite.night(2)
    assert lite.states() == {"done": 420}


@pytest.mark.slow
def test_images_that_are_truly_gone_do_not_stop_those_behind_them(lite: World) -> None:
    gone, well = many(200, name="a"), many(100, name="b")
    lite.list(gone | well)
    lite.client.answers = dict.fromkeys(gone.values(), "404")
    report = lite.night(0)
    assert (report.outcome, report.done, report.gone) == (None, 100, 200)


def test_the_check_of_a_source_fails_with_the_numbers_of_its_last_run_until_that_is_well() -> None:
    check = image_refusal_check("a", {"refused": 40, "asked": 140, "allowed": 20})
    assert not check.passed
    shown = {name: value.value for name, value in check.metadata.items()}
    assert shown == {"source": "a", "refused": 40, "asked": 140, "allowed": 20}
    assert image_refusal_check("a", {}).passed


# --- one address, several images ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("any_catalog", "case"),
    by_database(("ok", "done"), ("404", "gone"), ("500", "failed"), ("html", "failed")),
    indirect=["any_catalog"],
)
def test_an_address_that_several_images_share_is_fetched_once(world: World, case: tuple[str, str]) -> None:
    answer, state = case
    world.list(dict.fromkeys(many(40), f"{HERE}/default.png"))
    world.client.default = answer
    report = world.night(0)
    assert world.client.requests == {f"{HERE}/default.png": 1}
    assert world.states() == {state: 40}
    assert report.outcome is None
    if state == "failed":
        assert {image.attempts for image in world.images().values()} == {1}
    if state == "done":
        with reading(world.catalog) as connection:
            assert connection.scalar(sa.select(sa.func.count()).select_from(faces)) == 40
        assert report.reused == 39


# --- properties ---

NIGHTS = 5
LATER = (5, 6, 9, 16, 40, 121)
scripts = st.lists(
    st.lists(st.sampled_from(["ok", *FAILURES, *REFUSALS]), min_size=1, max_size=NIGHTS),
    min_size=1,
    max_size=24,
)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scripts=scripts, hosts=st.integers(1, 3), lanes=st.sampled_from([1, 3, 16]))
def test_every_image_that_answers_well_in_the_end_is_done(
    catalog_file: Path, pack: ModelPack, scripts: Sequence[Sequence[str]], hosts: int, lanes: int
) -> None:
    """Each image answers by its script, night by night, and well after that."""
    urls = {f"i{place:02}": f"https://host{place % hosts}.example/{place}" for place in range(len(scripts))}
    with fresh(catalog_file, pack) as world:
        world.limits = CollectLimits(batch_seconds=0.5, fetches=lanes)
        world.list(urls)
        for night, day in enumerate([*range(NIGHTS), *LATER]):
            world.client.requests.clear()
            world.client.answers = {
                url: script[night] if night < len(script) else "ok"
                for url, script in zip(urls.values(), scripts, strict=True)
            }
            before = world.images()
            report = world.night(day)
            for one, image in world.images().items():
                requests = world.client.requests[urls[one]]
                if before[one].state != "done":
                    assert requests <= 1 + (report.evidence if image.state == "done" else 0)
                    assert image.attempts <= before[one].attempts + 1
                    if requests == 0 and image.state != "done":
                        assert image.attempts == before[one].attempts
                else:
                    assert image.state == "done", "evidence changes nothing"
        assert world.states() == {"done": len(urls)}


@pytest.mark.slow
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FAILURES), st.integers(10, 60), st.integers(0, 20), st.sampled_from([1, 4, 16]))
def test_the_requests_of_a_dead_source_are_bounded(
    catalog_file: Path, pack: ModelPack, answer: str, waiting: int, known: int, lanes: int
) -> None:
    with fresh(catalog_file, pack) as world:
        world.limits = CollectLimits(batch_seconds=0.5, fetches=lanes)
        if known:
            world.list(many(known, name="known"))
            world.night(0)
        world.list(many(waiting))
        world.client.default = answer
        for day in range(1, 5):
            world.client.requests.clear()
            assert world.night(day).outcome is not None
            assert world.asked <= 10
