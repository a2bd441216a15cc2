"""Serves the review page on 127.0.0.1 until SIGINT or SIGTERM."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable

import uvicorn

from stash_sense_pipeline.foundation.errors import ConfigurationError
from stash_sense_pipeline.review.desk import ReviewDesk
from stash_sense_pipeline.review.page.app import ReviewPage
from stash_sense_pipeline.review.page.guard import PageAccess

# No setting changes it: the page shows people and faces.
HOST = "127.0.0.1"


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
        uvicorn.Server(config).run(sockets=[listener])
