"""Syncs of a stash-box, against a bare httpx loop that sends the same requests.

There are two servers. One answers 110,000 performers at the speed of loopback, where the sync itself is the limit. The
other executes the schema for 40,000 performers with graphql-core, field by field, as every stash-box must. It is the limit
for the bare loop, for a sweep and nearly for a backfill, and the speed of a sweep depends on the number of requested
fields. Under a real rate limit the speed of a sweep depends on the number of its requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from stash_sense_pipeline_tests.bench.table import Row

_PERFORMERS = 110_000
# graphql-core is slow, and the ratios do not depend on the number of performers.
_OF_A_REAL_SCHEMA = 40_000
_TURNS = 2
_CHANGES = 300
_BOX = "stashdb"
_KIB = 1024


def rows() -> Iterator[Row]:
    """Rows a second, requests and peak memory of a backfill, an unchanged day, an increment and a sweep.

    Server, sync and bare loop are one process each. Bare loop and sync of one server take turns, and the fastest run
    of each kind counts.
    """
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        with _served(_PERFORMERS) as (endpoint, key):
            yield from _rows_of_a_fast_server(home, endpoint, key)
        with _served(_OF_A_REAL_SCHEMA, "--graphql-core") as (endpoint, key):
            yield from _rows_of_a_real_schema(home, endpoint, key)


def _rows_of_a_fast_server(home: Path, endpoint: str, key: str) -> Iterator[Row]:
    questions = home / "fast.json"
    backfill = _refresh(home / "fast.db", endpoint, key, questions=questions)
    bare = _bare(endpoint, key, questions)
    sweep = _sweep(home / "fast.db", endpoint, key)
    _change(endpoint, _CHANGES)
    increment = _refresh(home / "fast.db", endpoint, key)
    unchanged = _refresh(home / "fast.db", endpoint, key)
    assert backfill["added"] == backfill["live"] == _PERFORMERS, backfill
    assert increment["updated"] == _CHANGES
    assert unchanged["updated"] == sweep["updated"] == 0
    quick = "server at the speed of loopback"
    yield Row(f"sync: backfill / bare loop, {quick}", bare / backfill["seconds"], "x")
    faster = _ratio(backfill, sweep, "seconds")
    yield Row(f"sync: sweep, times faster than a backfill, {quick}", faster, "x", 5, at_least=True)
    yield Row("sync: requests of a backfill", backfill["requests"], "")
    for name, run in (("backfill", backfill), ("sweep", sweep), ("increment", increment)):
        yield Row(f"sync: peak memory of a {name}", run["peak"], "MB", 400)
    yield Row(f"sync: requests besides details, {_CHANGES} changes", increment["besides_details"], "", 20)
    yield Row(f"sync: requests for details, {_CHANGES} changes", increment["details"], "")
    yield Row("sync: requests of an unchanged day", unchanged["requests"], "", 3)
    yield Row("sync: seconds of an unchanged day", unchanged["seconds"], "s")
    yield Row("sync: requests of a sweep", sweep["requests"], "")
    fewer = _ratio(backfill, sweep, "requests")
    yield Row("sync: sweep, times fewer requests than a backfill", fewer, "x", 5, at_least=True)


def _rows_of_a_real_schema(home: Path, endpoint: str, key: str) -> Iterator[Row]:
    backfill, bare = _beside_a_bare_loop(home, endpoint, key, "auto")
    sweep, bare_sweep = _beside_a_bare_loop(home, endpoint, key, "full_sweep")
    assert backfill["added"] == backfill["live"] == _OF_A_REAL_SCHEMA, backfill
    yield Row("sync: bare httpx loop", _OF_A_REAL_SCHEMA / bare, "rows/s")
    yield Row("sync: backfill", _OF_A_REAL_SCHEMA / backfill["seconds"], "rows/s")
    yield Row("sync: backfill / bare httpx loop", bare / backfill["seconds"], "x", 0.7, at_least=True)
    yield Row("sync: sweep / bare httpx loop", bare_sweep / sweep["seconds"], "x", 0.7, at_least=True)
    # Without a bound: it is the ratio of the server's times for the fields of a record and of a listing.
    yield Row("sync: sweep, times faster than a backfill", _ratio(backfill, sweep, "seconds"), "x")


def _beside_a_bare_loop(home: Path, endpoint: str, key: str, mode: str) -> tuple[dict[str, Any], float]:
    """The fastest refresh, and the fewest seconds of a bare loop that sends its requests. They take turns."""
    questions = home / f"{mode}.json"
    runs, bare = [], []
    for turn in range(_TURNS):
        runs.append(_refresh(home / f"{turn}.db", endpoint, key, mode=mode, questions=questions))
        bare.append(_bare(endpoint, key, questions))
    return _fastest(runs), min(bare)


def _fastest(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return min(runs, key=lambda run: float(run["seconds"]))


def _ratio(large: dict[str, Any], small: dict[str, Any], what: str) -> float:
    return float(large[what] / small[what])


@contextmanager
def _served(performers: int, *options: str) -> Iterator[tuple[str, str]]:
    """Address and key of a stash-box that runs in its own process."""
    command = [
        sys.executable,
        "-m",
        "stash_sense_pipeline_tests.tools.serve_sandbox",
        "--synthetic",
        str(performers),
        *options,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            for line in server.stdout:
                name, endpoint, *key = line.split()
                if name == _BOX:
                    yield endpoint, key[0]
                    return
            raise RuntimeError("the sandbox server did not start")
        finally:
            server.terminate()


def _change(endpoint: str, count: int) -> None:
    """Edits this many performers, evenly distributed."""
    control = endpoint.removesuffix("/graphql") + "/_control"
    with httpx.Client(trust_env=False, timeout=60) as client:
        listed = client.post(f"{control}/performers").json()["result"]
        for row in listed[:: len(listed) // count][:count]:
            change = {"performer_id": row["id"], "disambiguation": "changed"}
            client.post(f"{control}/edit", json=change).raise_for_status()


def _refresh(
    catalog: Path, endpoint: str, key: str, *, mode: str = "auto", questions: Path | None = None
) -> dict[str, Any]:
    options = ["--questions", str(questions)] if questions else []
    return _in_a_process("refresh", endpoint, key, str(catalog), mode, *options)


def _sweep(catalog: Path, endpoint: str, key: str) -> dict[str, Any]:
    """The fastest of several sweeps."""
    return _fastest([_refresh(catalog, endpoint, key, mode="full_sweep") for _ in range(_TURNS)])


def _bare(endpoint: str, key: str, questions: Path) -> float:
    return float(_in_a_process("bare", endpoint, key, str(questions))["seconds"])


def _in_a_process(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", __name__, *arguments]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


# --- code that runs in its own process ---------------------------------------------------------------------------


def main(arguments: list[str]) -> None:
    """One measured process. Prints its measurements as JSON."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command")
    refresh = commands.add_parser("refresh")
    for name in ("endpoint", "key", "catalog", "mode"):
        refresh.add_argument(name)
    refresh.add_argument("--questions", type=Path)
    bare = commands.add_parser("bare")
    for name in ("endpoint", "key", "questions"):
        bare.add_argument(name)
    given = parser.parse_args(arguments)
    work = _measure_refresh if given.command == "refresh" else _measure_bare
    result = asyncio.run(work(given))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _KIB
    print(json.dumps({**result, "peak": peak}))


async def _measure_refresh(given: argparse.Namespace) -> dict[str, Any]:
    from stash_sense_pipeline.catalog.engine import open_catalog
    from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS
    from stash_sense_pipeline.settings.schema import StashBoxSettings
    from stash_sense_pipeline.sources.http.polite_client import PoliteClient
    from stash_sense_pipeline.sources.http.response import Response
    from stash_sense_pipeline.sources.ingest_context import IngestContext
    from stash_sense_pipeline.sources.stash_boxes.connectors import make_connector
    from stash_sense_pipeline.sources.stash_boxes.refresh import refresh_source

    asked: list[str] = []
    details = 0

    class Watched(PoliteClient):
        """Records the requests if asked to, and counts those for single performers."""

        async def post_json(self, url: str, payload: Any, **options: Any) -> Response:
            nonlocal details
            details += payload["query"].startswith("query Details")
            if given.questions:
                asked.append(json.dumps(payload))
            return await super().post_json(url, payload, **options)

    engine = open_catalog(f"sqlite:///{given.catalog}")
    source = StashBoxSettings(name=_BOX, url=given.endpoint, host="stashdb.test", rate_limit=60_000_000.0)
    async with Watched(_BOX, source.url, rate=source.rate_limit) as client:
        connector = make_connector(source, given.key, client)
        report = await refresh_source(IngestContext(engine, NO_SUPPRESSIONS), source, connector, given.mode)
    engine.dispose()
    assert report.message is None, report.message
    if given.questions:
        given.questions.write_text(json.dumps(asked))
    return {
        "seconds": report.seconds,
        "requests": report.requests,
        "details": details,
        "besides_details": report.requests - details,
        "live": report.live,
        "added": report.added,
        "updated": report.updated,
    }


async def _measure_bare(given: argparse.Namespace) -> dict[str, Any]:
    """Sends the same requests one after the other, and reads and discards the answers."""
    asked = json.loads(Path(given.questions).read_text())
    headers = {"ApiKey": given.key, "Content-Type": "application/json"}
    async with httpx.AsyncClient(headers=headers, trust_env=False, timeout=60) as client:
        start = time.perf_counter()
        for question in asked:
            (await client.post(given.endpoint, content=question)).raise_for_status()
        return {"seconds": time.perf_counter() - start}


if __name__ == "__main__":
    main(sys.argv[1:])
