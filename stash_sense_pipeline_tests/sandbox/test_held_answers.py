"""The rule of the sandbox that holds answers until the rules are cleared."""

from __future__ import annotations

import threading

import httpx
import pytest

from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.faults import Fault, FaultKind
from stash_sense_pipeline.sandbox.servers import SandboxServers
from stash_sense_pipeline_tests.orchestration.conftest import wait_until

BOX = "fansdb"
LIMIT = 240.0


def ask(servers: SandboxServers, timeout: float = LIMIT) -> httpx.Response:
    headers = {"ApiKey": servers.api_key(BOX)}
    return httpx.post(
        servers.endpoint(BOX), json={"query": "{ me { id } }"}, headers=headers, timeout=timeout
    )


@pytest.mark.slow
def test_a_held_request_gets_the_true_answer_when_the_rules_are_cleared() -> None:
    with SandboxServers(make_demo_world(seed=2, people=4)) as servers:
        true = ask(servers)
        rule = servers.traffic.inject(Fault(FaultKind.HOLD, box=BOX, skip=1, times=None))
        assert ask(servers).json() == true.json()
        answers: list[httpx.Response] = []
        clients = [threading.Thread(target=lambda: answers.append(ask(servers))) for _ in range(3)]
        for client in clients:
            client.start()
        wait_until(lambda: rule.held == 3)
        with pytest.raises(httpx.TimeoutException):
            ask(servers, timeout=0.2)
        # A client that has gone is not waited for.
        wait_until(lambda: rule.held == 3)
        assert answers == []
        servers.traffic.clear_faults()
        for client in clients:
            client.join(LIMIT)
    assert [answer.json() for answer in answers] == 3 * [true.json()]
    assert rule.held == 0
