"""Serves a sandbox world as a program, for benchmarks and other processes."""

from __future__ import annotations

import argparse
import gc
import signal
import threading
from pathlib import Path

from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.invented.pictures import PictureStore
from stash_sense_pipeline.sandbox.servers import SandboxServers
from stash_sense_pipeline_tests.sandbox.synthetic_world import make_synthetic_world


def main(arguments: list[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT, and prints one line `source url key` for each server."""
    parser = argparse.ArgumentParser(description="Serve the sandbox world on loopback until SIGTERM.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--people", type=int, default=250, help="people of the world that has pictures")
    parser.add_argument(
        "--synthetic", type=int, help="serve a world of this many performers, without pictures"
    )
    parser.add_argument(
        "--first-port", type=int, default=0, help="the first of five ports in a row; 0: free ones"
    )
    parser.add_argument("--pictures", type=Path, help="directory that keeps rendered pictures")
    parser.add_argument(
        "--graphql-core", action="store_true", help="let graphql-core execute every query, as real servers do"
    )
    given = parser.parse_args(arguments)
    if given.synthetic is None:
        world = make_demo_world(seed=given.seed, people=given.people)
    else:
        world = make_synthetic_world(given.synthetic, seed=given.seed)
    ports = (
        {name: given.first_port + place for place, name in enumerate(world.sources)}
        if given.first_port
        else None
    )
    # All rows live as long as the process, and collecting garbage among them takes longer than serving a page.
    gc.freeze()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with SandboxServers(
        world, ports=ports, pictures=PictureStore(given.pictures), fast=not given.graphql_core
    ) as servers:
        for name in world.sources:
            print(name, servers.endpoint(name), servers.api_key(name), flush=True)
        ended.wait()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
