"""Runs all servers of a world on loopback, in one background thread."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from stash_sense_pipeline.sandbox.control import box_operations, control_route
from stash_sense_pipeline.sandbox.faults import FaultyServer, Traffic
from stash_sense_pipeline.sandbox.invented.clock import Clock
from stash_sense_pipeline.sandbox.invented.pictures import PictureStore
from stash_sense_pipeline.sandbox.sites.server import SiteServer, site_operations
from stash_sense_pipeline.sandbox.sites.site_pages import BY_NAME
from stash_sense_pipeline.sandbox.stash_box.server import StashBoxServer
from stash_sense_pipeline.sandbox.theporndb_server import ThePornDBServer, theporndb_operations
from stash_sense_pipeline.sandbox.world import THEPORNDB, World

_RATE_LIMIT = 12_000  # requests a minute: loopback needs no rate limit
_START_TIMEOUT = 120.0  # seconds
_STOP_TIMEOUT = 120.0


class SandboxServers:
    """The servers of a world, one port each, all on one event loop in one background thread.

    Use it as a context manager, or call `start` and `stop`. `ports` fixes ports by source name; other servers get free
    ports. `pictures` renders them, by default in memory only. `fast` executes the bulk queries of a stash-box
    without graphql-core's cost per field.
    """

    def __init__(
        self,
        world: World,
        *,
        ports: Mapping[str, int] | None = None,
        host: str = "127.0.0.1",
        pictures: PictureStore | None = None,
        fast: bool = True,
    ) -> None:
        self.world = world
        self.traffic = Traffic()
        self.pictures = pictures or PictureStore()
        self._host = host
        self._fast = fast
        self._wanted_ports = dict(ports or {})
        self._ports: dict[str, int] = {}
        self._servers: list[uvicorn.Server] = []
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def start(self) -> Self:
        """Returns when all servers accept connections. Raises OSError if a port is taken."""
        if self._thread is not None:
            raise RuntimeError("the sandbox servers are already running")
        self.traffic.stopping.clear()
        sockets = {}
        try:
            for name in (*self.world.sources, *self.world.sites):
                sockets[name] = _listen(self._host, self._wanted_ports.get(name, 0))
        except OSError:
            for opened in sockets.values():
                opened.close()
            raise
        self._ports = {name: opened.getsockname()[1] for name, opened in sockets.items()}
        self._servers = [uvicorn.Server(self._configuration(name)) for name in sockets]
        self._thread = threading.Thread(
            target=self._run, args=(list(sockets.values()),), name="sandbox servers", daemon=True
        )
        self._thread.start()
        waiting = threading.Event()
        for _ in range(int(_START_TIMEOUT / 0.005)):
            if all(server.started for server in self._servers):
                return self
            if not self._thread.is_alive():
                break
            waiting.wait(0.005)
        raise RuntimeError("the sandbox servers did not start") from self._failure

    def stop(self) -> None:
        """Closes all connections and waits for the thread. A second call does nothing."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self.traffic.stopping.set()
        for server in self._servers:
            server.should_exit = True
        thread.join(_STOP_TIMEOUT)
        if thread.is_alive():
            raise RuntimeError("the sandbox servers did not stop")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def url(self, source: str) -> str:
        """The address of a server, without a path."""
        return f"http://{self._host}:{self._ports[source]}"

    def endpoint(self, source: str) -> str:
        """The address for sources.yaml: with `/graphql` for a stash-box."""
        return f"{self.url(source)}/graphql" if source in self.world.boxes else self.url(source)

    def api_key(self, source: str) -> str:
        """The key that the server accepts."""
        return self.world.sources[source].api_key

    def environment(self) -> dict[str, str]:
        """The API keys as environment variables."""
        return {f"{name.upper()}_API_KEY": self.api_key(name) for name in self.world.sources}

    def _configuration(self, name: str) -> uvicorn.Config:
        return uvicorn.Config(
            self._application(name),
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            timeout_graceful_shutdown=1,
        )

    def _application(self, name: str) -> FaultyServer:
        routes: list[Route]
        if name in self.world.sites:
            site = self.world.sites[name]
            server = SiteServer(site, self.pictures, Clock(datetime.now(UTC)))
            routes = server.routes()
            control = control_route(server, site_operations(site), self.traffic)
            return FaultyServer(Starlette(routes=[control, *routes]), name, self.traffic)
        if name == THEPORNDB:
            store = self.world.theporndb
            routes = ThePornDBServer(store, self.pictures).routes()
            control = control_route(store, theporndb_operations(store), self.traffic)
        else:
            box = self.world.boxes[name]
            routes = StashBoxServer(box, self.pictures, fast=self._fast).routes()
            control = control_route(box, box_operations(box), self.traffic)
        return FaultyServer(Starlette(routes=[*routes, control]), name, self.traffic)

    def _run(self, sockets: list[socket.socket]) -> None:
        async def serve_all() -> None:
            servers = zip(self._servers, sockets, strict=True)
            await asyncio.gather(*(server.serve(sockets=[opened]) for server, opened in servers))

        try:
            asyncio.run(serve_all())
        except BaseException as error:  # noqa: BLE001 - start() raises it in the caller's thread
            self._failure = error
        finally:
            for opened in sockets:
                opened.close()


def sources_settings(
    servers: SandboxServers, *, sites: Collection[str] = (), **per_source: Any
) -> dict[str, Any]:
    """The content of sources.yaml with which the pipeline reads this world. `sites` are the enabled reference sites.

    `per_source` are further settings for every source. API keys are in `SandboxServers.environment`.
    """
    boxes = {}
    for priority, (name, source) in enumerate(servers.world.sources.items(), start=1):
        boxes[name] = {
            "enabled": True,
            "connector": "theporndb" if name == THEPORNDB else "stash_box",
            "url": servers.endpoint(name),
            "host": source.host,
            "rate_limit": _RATE_LIMIT,
            "max_faces": 5 if name in ("stashdb", THEPORNDB) else 3,
            "priority": priority,
            "trust_level": "high",
            **per_source,
        }
    reference = {
        name: {
            "enabled": True,
            "url": servers.url(name),
            "fetch": True,
            "rate_limit": _RATE_LIMIT,
            "max_faces": 5,
            "priority": 10 + place,
            "trust_level": "medium",
            "reference_mode": "name" if name in BY_NAME else "url",
            **per_source,
        }
        for place, name in enumerate(servers.world.sites, start=1)
        if name in sites
    }
    return {"stash_boxes": boxes, "reference_sites": reference} if reference else {"stash_boxes": boxes}


def _listen(host: str, port: int) -> socket.socket:
    # Without a protocol asyncio leaves Nagle's algorithm on, which delays every answer by 40 ms.
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen(256)
    except OSError:
        opened.close()
        raise
    return opened
