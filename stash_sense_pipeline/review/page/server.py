"""Serves the review page on 127.0.0.1 until SIGINT or SIGTERM."""

from __future__ import annotations

import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.review.desk import ReviewDesk
from stash_sense_pipeline.review.page.app import ReviewPage
from stash_sense_pipeline.review.page.guard import PageAccess

# No setting changes it: the page shows people and faces.
HOST = "127.0.0.1"


class _Server(uvicorn.Server):
    """A server that ends at SIGINT and SIGTERM without raising them again: the command has done its work then."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ends the server at a signal, and restores the handlers of before."""

        def end(*_: object) -> None:
            self.should_exit = True

        before = {each: signal.signal(each, end) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def serve_review(desk: ReviewDesk, port: int, report: Callable[[str], None]) -> None:
    """Serves the page. `port` 0 takes any free one. `report` gets the address with its secret path.

    Nothing is logged: a path holds the secret. Raises ConfigurationError when the port cannot be used.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
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
        report(f"http://{HOST}:{access.port}/{access.token}/")
        _Server(config).run(sockets=[listener])
