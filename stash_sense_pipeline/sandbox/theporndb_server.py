"""The REST server of ThePornDB.

Answers have no timestamps. Lists end after 10,000 entries, and the last page is repeated for any page after it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stash_sense_pipeline.sandbox.control import decode_picture
from stash_sense_pipeline.sandbox.invented.clock import parse_rfc3339
from stash_sense_pipeline.sandbox.invented.pictures import Picture, PictureStore, sniff
from stash_sense_pipeline.sandbox.theporndb import (
    EXTRA_FIELDS,
    RESULT_CAP,
    ParentPerformer,
    SitePerformer,
    ThePornDB,
)

_DEFAULT_PER_PAGE, _MAX_PER_PAGE = 20, 100


_BLOCKED_AGENTS = ("python-httpx/", "python-requests/", "python-urllib/", "python/")


_THUMBNAIL = 300  # pixels


def theporndb_operations(store: ThePornDB) -> dict[str, Callable[..., Any]]:
    """The operations of the catalogue by name, for other processes. Times are RFC 3339 texts."""

    def decoding(method: Callable[..., Any]) -> Callable[..., Any]:
        def change(**arguments: Any) -> Any:
            if isinstance(arguments.get("at"), str):
                arguments["at"] = parse_rfc3339(arguments["at"])
            if arguments.get("picture") is not None:
                arguments["picture"] = decode_picture(arguments["picture"])
            return method(**arguments)

        return change

    names = ("create", "edit", "delete", "merge", "add_poster", "remove_poster", "add_site_performer")
    return {name: decoding(getattr(store, name)) for name in names}


class ThePornDBServer:
    """The routes of the REST API, and of the pictures at `/cdn/`."""

    def __init__(self, store: ThePornDB, pictures: PictureStore) -> None:
        self._store = store
        self._pictures = pictures

    def routes(self) -> list[Route]:
        """All routes. All but `/cdn/` need the token."""
        return [
            Route("/performers", self._guarded(self._performers)),
            Route("/performers/{identifier}", self._guarded(self._performer)),
            Route("/performer-sites", self._guarded(self._site_performers)),
            Route("/changes/{kind}", self._guarded(self._changes)),
            Route("/cdn/posters/{number:int}.jpg", self._poster),
            Route("/cdn/thumbnails/{number:int}.jpg", self._thumbnail),
            Route("/cdn/thumb/{signature}/{number:int}.jpg", self._face),
        ]

    def _guarded(self, endpoint: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
        # A coroutine, so that it runs on the event loop and not in a thread.
        async def guarded(request: Request) -> Response:
            agent = request.headers.get("user-agent", "").lower()
            if self._store.blocks_python and (not agent or agent.startswith(_BLOCKED_AGENTS)):
                return Response("<html><body>error code: 1010</body></html>", 403, media_type="text/html")
            if request.headers.get("authorization") != f"Bearer {self._store.api_key}":
                return JSONResponse({"message": "Unauthenticated."}, 401)
            return endpoint(request)

        return guarded

    def _performers(self, request: Request) -> Response:
        given = request.query_params
        extras = {
            field_name: given[parameter]
            for parameter, field_name in _EXTRA_FILTERS.items()
            if given.get(parameter)
        }
        try:
            found = self._store.listing(
                given.get("orderBy") or "most_relevant",
                query=given.get("q", ""),
                letter=given.get("letter", ""),
                extras=extras,
            )
        except ValueError as error:
            return JSONResponse({"message": str(error), "errors": {"orderBy": [str(error)]}}, 422)
        return self._page(request, found, lambda row: self._resource(row, _base_url(request)))

    def _performer(self, request: Request) -> Response:
        row = self._store.find(request.path_params["identifier"])
        if row is None:
            return JSONResponse({"message": "No query results for this performer."}, 404)
        return JSONResponse({"data": self._resource(row, _base_url(request))})

    def _site_performers(self, request: Request) -> Response:
        given = request.query_params
        with self._store.lock:
            found = [
                child
                for child in self._store.site_performers.values()
                if given.get("q", "").casefold() in child.name.casefold()
                and given.get("site_id") in (None, "", str(child.site_number))
            ]
        base = _base_url(request)
        return self._page(request, found, lambda child: self._child(child, base, with_parent=True))

    def _changes(self, request: Request) -> Response:
        if not self._store.offers_changes:
            return JSONResponse({"message": "Not found."}, 404)
        kind, since = request.path_params["kind"], request.query_params.get("from", "")
        if kind not in ("scenes", "movies", "jav", "performers"):
            return JSONResponse({"message": "Not found."}, 404)
        try:
            moment = _day_or_moment(since) if since else 0
        except ValueError:
            message = "The from is not a valid date."
            return JSONResponse({"message": message, "errors": {"from": [message]}}, 422)
        found = []
        if kind == "performers":
            found = [row for row in self._store.listing("reverse_updated") if row.updated >= moment]
        return self._page(request, found, lambda row: {"id": row.number, "uuid": row.id})

    def _page(
        self, request: Request, found: Sequence[Any], resource: Callable[[Any], dict[str, Any]]
    ) -> JSONResponse:
        """One page of a list, which ends at the cap. The last page is repeated for any page after it."""
        per_page = min(_whole(request, "per_page", _DEFAULT_PER_PAGE), _MAX_PER_PAGE)
        total = min(len(found), RESULT_CAP)
        last = max(1, -(-total // per_page))
        page = min(_whole(request, "page", 1), last)
        rows = found[(page - 1) * per_page : min(page * per_page, total)]
        meta = {"total": total, "per_page": per_page, "current_page": page, "last": last, "last_page": last}
        return JSONResponse({"data": [resource(row) for row in rows], "meta": meta})

    def _resource(self, row: ParentPerformer, base: str) -> dict[str, Any]:
        first = row.posters[0] if row.posters and row.has_art else None
        return {
            "id": row.id,
            "_id": row.number,
            "slug": row.slug,
            "name": row.name,
            "full_name": f"{row.name} ({row.disambiguation})" if row.disambiguation else row.name,
            "disambiguation": row.disambiguation,
            "bio": None,
            "rating": 0.0,
            "is_parent": True,
            "aliases": None if row.aliases is None else list(row.aliases),
            "image": f"{base}/cdn/posters/{first.number}.jpg" if first else None,
            "thumbnail": f"{base}/cdn/thumbnails/{first.number}.jpg" if first else None,
            "face": _face_url(base, first.number) if first else None,
            "posters": [
                {
                    "id": poster.number,
                    "url": f"{base}/cdn/posters/{poster.number}.jpg",
                    "size": poster.picture.size[0] * poster.picture.size[1] // 8,
                    "order": place,
                }
                for place, poster in enumerate(row.posters, start=1)
            ],
            "site_performers": [
                self._child(child, base, with_parent=False) for child in self._store.children(row.id)
            ],
            "extras": {
                **{name: row.extras.get(name) for name in EXTRA_FIELDS},
                # PHP encodes an empty map as a list.
                "links": dict(row.links) or [],
            },
        }

    def _child(self, child: SitePerformer, base: str, *, with_parent: bool) -> dict[str, Any]:
        has_picture = child.picture is not None
        resource: dict[str, Any] = {
            "id": child.id,
            "_id": child.number,
            "site_id": child.site_number,
            "name": child.name,
            "bio": None,
            "is_parent": False,
            "extra": {"fakeboobs": None, "haircolor": None, "eye_colour": None},
            "image": f"{base}/cdn/posters/{child.number}.jpg" if has_picture else None,
            "thumbnail": f"{base}/cdn/thumbnails/{child.number}.jpg" if has_picture else None,
            "face": _face_url(base, child.number) if has_picture else None,
            "site": {"id": child.site_number, "name": child.site},
        }
        if with_parent:
            parent = self._store.find(child.parent) if child.parent else None
            resource["parent"] = None if parent is None else self._resource(parent, base)
        return resource

    async def _poster(self, request: Request) -> Response:
        return await self._picture(request, self._pictures.original)

    async def _thumbnail(self, request: Request) -> Response:
        return await self._picture(request, lambda picture: self._pictures.resized(picture, _THUMBNAIL))

    async def _face(self, request: Request) -> Response:
        if request.path_params["signature"] != _signature(request.path_params["number"]):
            return Response(status_code=403)
        return await self._picture(request, self._pictures.face)

    async def _picture(self, request: Request, read: Callable[[Picture], bytes]) -> Response:
        picture = self._store.posters.get(request.path_params["number"])
        if picture is None:
            return Response(status_code=404)
        data = await run_in_threadpool(read, picture)
        return Response(data, media_type=sniff(data))


_EXTRA_FILTERS = {
    "gender": "gender",
    "ethnicity": "ethnicity",
    "hair_colour": "hair_colour",
    "eye_colour": "eye_colour",
    "birthplace_code": "birthplace_code",
    "cup": "cupsize",
}


def _face_url(base: str, number: int) -> str:
    return f"{base}/cdn/thumb/{_signature(number)}/{number}.jpg"


def _signature(number: int) -> str:
    """Stands for the signature of a derived picture, which a client cannot compute."""
    return hashlib.sha256(f"face {number}".encode()).hexdigest()[:20]


def _whole(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    return max(int(text), 1) if text.isdigit() else default


def _day_or_moment(text: str) -> int:
    return parse_rfc3339(f"{text}T00:00:00Z" if len(text) == 10 else text)


def _base_url(request: Request) -> str:
    scheme = request.headers.get("x-forwarded-proto", "http")
    return f"{scheme}://{request.headers.get('host', 'localhost')}"
