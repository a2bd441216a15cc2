"""The HTTP server of a site: robots.txt, defences, validators, pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stash_sense_pipeline.sandbox.invented.clock import Clock
from stash_sense_pipeline.sandbox.invented.pictures import PictureStore, sniff
from stash_sense_pipeline.sandbox.sites.model import AGE_GATE, CHALLENGE, CLEARANCE, Reply, SandboxSite

# Sites that refuse pictures to other sites: they want one of their own pages as Referer.
_GUARDED = frozenset({"babepedia", "indexxx"})
# A static host that refuses a foreign Referer; a request without Referer is answered.
_SHY = frozenset({"thenude"})


class SiteServer:
    """One site on one port. Picture hosts of the real site share this port."""

    def __init__(self, site: SandboxSite, pictures: PictureStore, clock: Clock) -> None:
        self.name = site.name
        self.clock = clock
        self._site = site
        self._pictures = pictures

    def routes(self) -> list[Route]:
        """One route for all paths."""
        return [Route("/{path:path}", self._answer, methods=["GET", "POST"])]

    async def _answer(self, request: Request) -> Response:
        site, path = self._site, request.url.path
        with site.lock:
            if path == "/robots.txt":
                return self._robots()
            if site.behaviour.challenge and not _has_passed(request):
                return Response(CHALLENGE, 403, {"cf-mitigated": "challenge"}, "text/html")
            if site.behaviour.refuse is not None:
                return Response(
                    b"<html><body>No</body></html>", site.behaviour.refuse, media_type="text/html"
                )
            picture = site.files.get(path)
            if picture is None:
                if site.behaviour.age_gate:
                    reply: Reply | None = Reply(AGE_GATE)
                else:
                    reply = site.respond(path, dict(request.query_params), request.cookies)
                return self._sent(request, reply or site.not_there())
        if self._refuses_picture(request):
            return Response(b"hot-linking", 403, media_type="text/plain")
        data = await run_in_threadpool(self._pictures.original, picture)
        return Response(data, media_type=sniff(data))

    def _refuses_picture(self, request: Request) -> bool:
        referer = urlsplit(request.headers.get("referer", "")).netloc
        own = referer == request.headers.get("host")
        return (self.name in _GUARDED and not own) or (self.name in _SHY and referer != "" and not own)

    def _robots(self) -> Response:
        behaviour = self._site.behaviour
        if behaviour.robots is None:
            return Response(b"<html><body>404</body></html>", 404, media_type="text/html")
        return Response(behaviour.robots.encode(), behaviour.robots_status, media_type=behaviour.robots_type)

    def _sent(self, request: Request, reply: Reply) -> Response:
        if reply.location is not None:
            return Response(status_code=reply.status, headers={"location": reply.location})
        etag = f'"{hashlib.sha256(reply.body).hexdigest()[:16]}"'
        if reply.status == 200 and request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers={"etag": etag})
        return Response(reply.body, reply.status, {"etag": etag}, reply.content_type)


def _has_passed(request: Request) -> bool:
    """True when the request has the cookie and the User-Agent of the browser that passed the challenge."""
    agent = request.headers.get("user-agent", "")
    return request.cookies.get("cf_clearance") == CLEARANCE and agent.startswith("Mozilla/5.0")


def site_operations(site: SandboxSite) -> dict[str, Callable[..., Any]]:
    """The operations of a site by name."""

    def behave(**changes: Any) -> None:
        with site.lock:
            for name, value in changes.items():
                if not hasattr(site.behaviour, name):
                    raise ValueError(f"a site has no {name}")
                setattr(site.behaviour, name, value)

    def remove(slug: str) -> None:
        with site.lock:
            site.gone.add(slug)

    def pages() -> list[dict[str, Any]]:
        with site.lock:
            return [
                {"slug": p.slug, "key": p.key, "name": p.name, "person": p.person}
                for p in site.pages.values()
            ]

    return {"behave": behave, "remove": remove, "pages": pages}
