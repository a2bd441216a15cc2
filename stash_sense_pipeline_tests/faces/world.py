"""A loopback image server, and catalogs filled with performers and the images that it serves."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.schema import performer_images, source_images, source_performers
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.catalog.upsert import upsert
from stash_sense_pipeline.settings.schema import StashBoxSettings
from stash_sense_pipeline.sources.http.polite_client import PoliteClient
from stash_sense_pipeline.sources.http.retry_policy import RetryPolicy

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
HURRIED = RetryPolicy(
    attempts=2,
    first_delay=0.01,
    first_delay_when_limited=0.01,
    max_delay=0.02,
    # A loaded machine must not look like a failed server.
    connect=120.0,
    read=120.0,
    total=240.0,
)


class ImageServer:
    """Serves `bodies` by image id under /images/<id>, counts requests, and answers with `statuses` and `headers`
    where given. `gate` is called in the thread of each request with the image id, before the answer: it may wait.
    """

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.statuses: dict[str, int] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.requests: Counter[str] = Counter()
        self.latency = 0.0
        self.gate: Callable[[str], object] = lambda image_id: None
        self.port = 0
        self._counting = threading.Lock()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, image_id: str) -> str:
        return f"{self.base}/images/{image_id}"

    @contextmanager
    def running(self) -> Iterator[ImageServer]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                image_id = self.path.rsplit("/", 1)[-1].split("?")[0]
                with outer._counting:
                    outer.requests[image_id] += 1
                outer.gate(image_id)
                time.sleep(outer.latency)
                body = outer.bodies.get(image_id, b"")
                known = image_id in outer.bodies
                status = outer.statuses.get(image_id, outer.statuses.get("*", 200 if known else 404))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                for name, value in outer.headers.get(image_id, {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                pass  # clients that go away are part of the tests

        server = Server(("127.0.0.1", self.port), Handler)
        server.daemon_threads = True
        self.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def png(image: NDArray[np.uint8]) -> bytes:
    """An RGB image as PNG."""
    return cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]))[1].tobytes()


def box(server: ImageServer, name: str = "boxed", **changes: object) -> StashBoxSettings:
    """Settings of a stash-box that the server plays."""
    return StashBoxSettings.model_validate(
        {"name": name, "url": f"{server.base}/graphql", "host": name, "rate_limit": 600_000.0, **changes}
    )


def polite_client(server: ImageServer, rate: float = 600_000.0) -> PoliteClient:
    return PoliteClient("boxed", f"{server.base}/graphql", rate=rate, retry_policy=HURRIED)


def image_request(url: str) -> tuple[str, Mapping[str, str]]:
    return f"{url}?size=full", {}


def list_performers(
    engine: sa.Engine,
    server: ImageServer,
    listed: Mapping[str, Sequence[str]],
    source: str = "boxed",
    seen: datetime = LONG_AGO,
) -> None:
    """Writes performers and their pending images, first seen at `seen`, as a sync does.

    Ids of images are unique in the source.
    """
    images = sorted({image_id for images in listed.values() for image_id in images})
    with writing(engine) as connection:
        upsert(
            connection,
            source_performers,
            [
                {
                    "source": source,
                    "source_id": one,
                    "name": one,
                    "first_seen_at": LONG_AGO,
                    "changed_at": LONG_AGO,
                }
                for one in listed
            ],
        )
        upsert(
            connection,
            source_images,
            [
                {
                    "source": source,
                    "image_id": one,
                    "url": server.url(one),
                    "state": "pending",
                    "attempts": 0,
                    "first_seen_at": seen,
                }
                for one in images
            ],
            keep=frozenset({"state", "attempts", "first_seen_at"}),
        )
        upsert(
            connection,
            performer_images,
            [
                {"source": source, "source_id": performer, "image_id": image_id}
                for performer, ids in listed.items()
                for image_id in ids
            ],
        )
