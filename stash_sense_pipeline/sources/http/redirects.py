"""Redirects: followed for GET on the same host, refused for POST."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from stash_sense_pipeline.foundation.errors import Outcome, SourceError
from stash_sense_pipeline.sources.http.address_guard import host_of
from stash_sense_pipeline.sources.http.response import Response, endpoint_of, origin_of

MAX_REDIRECTS = 3

# Removes the keys of the source from a text that a server sent.
Redact = Callable[[str], str]


def redirect_target(response: Response, redact: Redact) -> httpx.URL:
    """The URL that a redirect to GET leads to.

    Raises SourceError: parse_error for a Location that is not a web address; disallowed for another host, and for a
    redirect from https to http. A redirect from http to https on default ports stays on the host.
    """
    old = httpx.URL(response.url)
    try:
        new = old.join(response.headers.get("location", ""))
        host_of(str(new))
    except (httpx.InvalidURL, ValueError) as error:
        raise SourceError(
            response.source,
            Outcome.PARSE_ERROR,
            f"{origin_of(response.url)} redirects without a target address",
        ) from error
    if (old.scheme, new.scheme) == ("https", "http"):
        # The API key would be sent in clear text.
        raise SourceError(
            response.source, Outcome.DISALLOWED, f"{origin_of(response.url)} redirects from https to http"
        )
    upgraded = (old.scheme, new.scheme) == ("http", "https") and old.port is None and new.port is None
    if new.host != old.host or not (host_of(str(new)) == host_of(str(old)) or upgraded):
        raise SourceError(
            response.source,
            Outcome.DISALLOWED,
            f"{origin_of(response.url)} redirects to another host, {origin_of(redact(str(new)))}",
        )
    return new


def refused_post_redirect(url: str, response: Response, redact: Redact) -> SourceError:
    """The error (disallowed) for a POST to `url` that was answered with a redirect."""
    try:
        target = redact(str(httpx.URL(url).join(response.headers.get("location", ""))))
    except (httpx.InvalidURL, ValueError):
        target = "no address"
    return SourceError(
        response.source,
        Outcome.DISALLOWED,
        f"{endpoint_of(url)} redirects to {endpoint_of(target)}; if that is right, make it the url of this source",
    )
