"""Operations: how soon the UI is up, how soon a launched run starts, four embedding workers, a night without changes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stash_sense_pipeline_tests.bench.table import Row

_PROGRAM = Path(sys.executable).with_name("stash-sense")


def rows() -> Iterator[Row]:
    """Seconds, each measured once on a small world: the bounds are the operator's patience, not a comparison."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        demo = [_PROGRAM, "demo", "--data-dir", home / "demo"]
        subprocess.run(demo, check=True, capture_output=True)
        begun = time.perf_counter()
        subprocess.run(demo, check=True, capture_output=True)
        yield Row(
            "operations: five sources and publish, nothing changed", time.perf_counter() - begun, "s", 60
        )
        begun = time.perf_counter()
        with _ui(home / "demo") as address:
            yield Row("operations: UI up", time.perf_counter() - begun, "s", 10)
            yield Row("operations: launch to started", _launch_to_started(address), "s", 6)


@contextmanager
def _ui(data: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [_PROGRAM, "ui", "--data-dir", data, "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        give_up = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{address}/server_info", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.1)
        yield address
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(timeout=60)
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)


def _launch_to_started(address: str) -> float:
    launch = """mutation($p: ExecutionParams!) {launchPipelineExecution(executionParams: $p) {
      ... on LaunchRunSuccess {run {runId}}}}"""
    selector = {
        "repositoryLocationName": "stash_sense",
        "repositoryName": "__repository__",
        "jobName": "publish",
    }
    # A first one, so that the daemon has begun to look at its queue.
    for _ in range(2):
        begun = time.perf_counter()
        params = {"selector": selector, "mode": "default", "runConfigData": {}}
        made = _ask(address, launch, {"p": params})["launchPipelineExecution"]["run"]["runId"]
        status = "query($id: ID!) {runOrError(runId: $id) {... on Run {status}}}"
        seconds = None
        while True:
            found = _ask(address, status, {"id": made})["runOrError"]["status"]
            if seconds is None and found in ("STARTED", "SUCCESS"):
                seconds = time.perf_counter() - begun
            if found in ("SUCCESS", "FAILURE"):
                break
            time.sleep(0.05)
    return seconds or float("inf")


def _ask(address: str, query: str, variables: dict[str, object]) -> dict[str, dict[str, dict[str, str]]]:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["data"]
