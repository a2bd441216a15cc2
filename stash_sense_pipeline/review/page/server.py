"""Serves the review page on 127.0.0.1 until SIGINT or SIGTERM."""

from __future__ import annotations

import resource
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.foundation.runtime_tuning import overwrite_freed_memory
from stash_sense_pipeline.review.desk import ReviewDesk
from stash_sense_pipeline.review.page.app import ReviewPage
from stash_sense_pipeline.review.page.guard import PageAccess

# No setting changes it: the page shows people and faces.
HOST = "127.0.0.1"


class _Server(uvicorn.Server):
    """A server that leaves the signals to `_ended_by_signals`: uvicorn raises them again when it has ended."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


@contextmanager
def _ended_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """SIGINT and SIGTERM end the server, also before it has begun. Afterwards the handlers of before are back."""

    def end(*_: object) -> None:
        server.should_exit = True

    before = {each: signal.signal(each, end) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def serve_review(desk: ReviewDesk, port: int, report: Callable[[str], None]) -> None:
    """Serves the page. `port` 0 takes any free one. `report` gets the lines for the user: the address has a secret path.

    The page accepts connections before `report` gets the address. Nothing is logged: a path holds the secret. Freed
    memory is overwritten, because crops pass through it, and a crash writes no memory to a disk. Raises
    ConfigurationError when the port cannot be used.
    """
    if desk.pictures:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if not overwrite_freed_memory():
            report("Memory that held a crop is not overwritten on this system before the review ends.")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            # From here on a connection waits until the server accepts it.
            listener.listen()
        except OSError as error:
            raise ConfigurationError(
                f"port {port} of {HOST} cannot be used ({error.strerror}); choose another with --port"
            ) from error
        access = PageAccess(listener.getsockname()[1], secrets.token_urlsafe(24))
        config = uvicorn.Config(
            ReviewPage(desk, access).application(),
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            lifespan="on",
            ws="none",
            timeout_graceful_shutdown=5,
        )
        server = _Server(config)
        with _ended_by_signals(server):
            report(f"Review: http://{HOST}:{access.port}/{access.token}/")
            server.run(sockets=[listener])
