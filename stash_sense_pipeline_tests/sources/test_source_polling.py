"""Polls of stash-boxes: each has its own time, and none waits for another."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.faults import Fault, FaultKind
from stash_sense_pipeline.sandbox.servers import SandboxServers, sources_settings
from stash_sense_pipeline.settings.environment import Environment, read_environment
from stash_sense_pipeline.settings.schema import Settings
from stash_sense_pipeline.settings.sources_file import load_settings
from stash_sense_pipeline.sources.source_polling import poll_sources
from stash_sense_pipeline_tests.rendered_pictures import rendered

pytestmark = pytest.mark.slow

LONG = 240.0
BOXES = ("fansdb", "stashdb", "theporndb", "pmvstash", "javstash")


@pytest.fixture
def servers() -> Iterator[SandboxServers]:
    with SandboxServers(make_demo_world(seed=3, people=12), pictures=rendered()) as running:
        yield running


def operator(home: Path, servers: SandboxServers) -> tuple[Settings, Environment]:
    file = home / "sources.yaml"
    file.write_text(yaml.safe_dump(sources_settings(servers)))
    variables = {"DATA_DIR": str(home), **servers.environment()}
    return load_settings(file), read_environment(variables, home)


def test_a_source_that_does_not_answer_in_its_time_has_a_problem(
    tmp_path: Path, servers: SandboxServers
) -> None:
    hang = servers.traffic.inject(Fault(FaultKind.HANG, box="fansdb", times=None, seconds=LONG))
    (poll,) = asyncio.run(poll_sources(*operator(tmp_path, servers), ["fansdb"], seconds=0.5))
    assert (poll.source, poll.token) == ("fansdb", None)
    assert poll.problem
    assert hang.done <= 1, "a poll that fails is not repeated"


def test_no_source_waits_for_one_that_does_not_answer(tmp_path: Path, servers: SandboxServers) -> None:
    """The first source is held until every other one was answered."""
    traffic = servers.traffic
    traffic.inject(Fault(FaultKind.HANG, box="fansdb", times=None, seconds=LONG))
    others = BOXES[1:]

    def answered(box: str) -> bool:
        return any(request.finished for request in traffic.requests(box))

    def release() -> None:
        give_up = time.monotonic() + LONG
        while time.monotonic() < give_up:
            if traffic.requests("fansdb") and all(map(answered, others)):
                seen.append("all others")
                break
            time.sleep(0.02)
        traffic.stopping.set()

    seen: list[str] = []
    holder = threading.Thread(target=release)
    holder.start()
    polls = asyncio.run(poll_sources(*operator(tmp_path, servers), BOXES, seconds=2 * LONG))
    holder.join()
    assert seen == ["all others"]
    assert [poll.source for poll in polls] == list(BOXES)
    assert {poll.source for poll in polls if poll.problem} == {"fansdb"}
    assert {poll.source for poll in polls if poll.token} == set(others)
