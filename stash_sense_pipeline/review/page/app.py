"""The application of the review page: cards, answers by forms, crops of listed faces. No route takes a picture."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from html import escape
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from stash_sense_pipeline.foundation.errors import StashSenseError
from stash_sense_pipeline.review.crops import Crops, NoCropError
from stash_sense_pipeline.review.decision import Answer, Decision, Kind
from stash_sense_pipeline.review.desk import ReviewDesk
from stash_sense_pipeline.review.page.guard import PageAccess, PageGuard
from stash_sense_pipeline.review.page.views import Filters, Place, bars_of, choices, listed, render, title_of
from stash_sense_pipeline.review.settling import Signature

_FILES = {"review.css": "text/css", "review.js": "text/javascript", "icon.svg": "image/svg+xml"}
_LINE_OF_A_NOTE = 16
_SETTLED = "this decision is settled"


class ReviewPage:
    """The page of one session: its desk, its crops, the faces of the cards that it has shown, and the next notice."""

    def __init__(self, desk: ReviewDesk, access: PageAccess) -> None:
        self._desk = desk
        self._access = access
        self._crops = Crops(desk.engine, desk.settings, desk.environment)
        # The faces of each card that was shown, while its decision is open.
        self._faces: dict[str, set[int]] = {}
        # The faces of settled cards. A browser may still ask for them until it shows the next page.
        self._settled_faces: set[int] = set()
        self._notice = ""

    def application(self) -> ASGIApp:
        """The application behind the guard."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            if self._desk.pictures:
                self._crops.start()
            try:
                yield
            finally:
                await self._crops.aclose()

        base = f"/{self._access.token}"
        routes = [
            Route(f"{base}/", self._blocking(self._card), methods=["GET"]),
            Route(f"{base}/list", self._blocking(self._list), methods=["GET"]),
            Route(f"{base}/settled", self._blocking(self._settled), methods=["GET"]),
            Route(f"{base}/settle", self._form(self._settle), methods=["POST"]),
            Route(f"{base}/undo", self._form(self._undo), methods=["POST"]),
            Route(f"{base}/take-back", self._form(self._take_back), methods=["POST"]),
            Route(f"{base}/crops/{{face_id:int}}", self._crop, methods=["GET"]),
            *(Route(f"{base}/{name}", _file(name), methods=["GET"]) for name in _FILES),
        ]
        return PageGuard(Starlette(routes=routes, lifespan=lifespan), self._access)

    def _card(self, request: Request) -> Response:
        decisions = self._desk.open()
        self._drop_settled(decisions)
        filters = _filters(request.query_params)
        chosen = filters.chosen(decisions)
        place = Place.of(chosen, request.query_params.get("at", ""))
        values: dict[str, Any] = {"title": "Nothing to decide", "people": (), "bars": ([], [])}
        if place.decision is not None:
            people = self._desk.card(place.decision)
            faces = {face.face_id for person in people for face in person.faces}
            self._faces[place.decision.decision_id] = faces
            values = {
                "title": title_of(people, place.decision),
                "people": people,
                "bars": bars_of(place.decision),
            }
        return self._page("card.html", decisions, filters, place=place, **values)

    def _list(self, request: Request) -> Response:
        decisions = self._desk.open()
        filters = _filters(request.query_params)
        rows = listed(filters.chosen(decisions))
        names = self._desk.names(tuple(rows))
        shown = [
            (row, row.page or " and ".join(names.get(key, ":".join(key)) for key in row.records))
            for row in rows
        ]
        values = {"rows": shown, "count": len(filters.chosen(decisions)), "refused": self._desk.refused()}
        return self._page("list.html", decisions, filters, title="Open decisions", **values)

    def _settled(self, request: Request) -> Response:
        rows = self._desk.settled()[::-1]
        return self._page(
            "settled.html", self._desk.open(), _filters(request.query_params), title="Settled", rows=rows
        )

    def _settle(self, form: dict[str, list[str]]) -> Response:
        filters = Filters(_value(form, "kind"), _value(form, "source"))
        decisions = self._desk.open()
        decision = self._desk.decision(_value(form, "id"), decisions)
        following = Place.of(filters.chosen(decisions), decision.decision_id).after
        answer = _answer(_value(form, "answer"))
        done = self._desk.settle(decision, answer, Signature.now(_value(form, "reason")))
        self._close(decision.decision_id)
        kept = (
            "kept in the suppression list"
            if done.entry is None
            else "written to the overrides; u takes it back"
        )
        self._notice = f"{decision.answers[answer]}: {kept}."
        return self._back(filters.query(at=following))

    def _undo(self, form: dict[str, list[str]]) -> Response:
        filters = Filters(_value(form, "kind"), _value(form, "source"))
        done = self._desk.undo()
        if done is None:
            self._notice = "There is no answer of this session to take back."
            return self._back(filters.query())
        self._notice = f"Taken back: {done.decision.answers[done.answer]}."
        return self._back(filters.query(at=done.decision.decision_id))

    def _take_back(self, form: dict[str, list[str]]) -> Response:
        section, names = _value(form, "section"), form.get("name", [])
        entry = names[0] if _value(form, "single") else tuple(names)
        found = self._desk.take_back(section, entry) if names else False
        self._notice = "The line is removed." if found else "The line is not in the file any more."
        return self._back("settled")

    async def _crop(self, request: Request) -> Response:
        face_id = request.path_params["face_id"]
        if not self._desk.pictures or not (self._is_shown(face_id) or face_id in self._settled_faces):
            return PlainTextResponse("not found\n", 404)
        try:
            if not self._is_shown(face_id):
                raise NoCropError(_SETTLED)
            png = await self._crops.crop(face_id, await run_in_threadpool(self._desk.suppressions))
            if not self._is_shown(face_id):
                # The decision was settled while the crop was made.
                self._crops.forget({face_id})
                raise NoCropError(_SETTLED)
        except NoCropError as error:
            return Response(_note(str(error)), media_type="image/svg+xml")
        return Response(png, media_type="image/png")

    def _is_shown(self, face_id: int) -> bool:
        return any(face_id in faces for faces in list(self._faces.values()))

    def _page(
        self, template: str, decisions: tuple[Decision, ...], filters: Filters, **values: Any
    ) -> Response:
        done = len(self._desk.done)
        text = render(
            template,
            token=self._access.token,
            filters=filters,
            choices=choices(decisions, filters),
            notice=self._taken_notice(),
            done=done,
            total=done + len(decisions),
            can_undo=any(row.entry is not None for row in self._desk.done),
            overrides=str(self._desk.environment.overrides_file),
            **values,
        )
        return HTMLResponse(text)

    def _taken_notice(self) -> str:
        notice, self._notice = self._notice, ""
        return notice

    def _back(self, query: str) -> Response:
        return RedirectResponse(f"/{self._access.token}/{query}", 303)

    def _drop_settled(self, decisions: tuple[Decision, ...]) -> None:
        """Forgets the faces of cards that another session has settled, or that a suppression has removed."""
        still = {row.decision_id for row in decisions}
        for decision_id in self._faces.keys() - still:
            self._close(decision_id)

    def _close(self, decision_id: str) -> None:
        """Forgets the crops of a card that is not open any more."""
        faces = self._faces.pop(decision_id, set())
        self._settled_faces |= faces
        self._crops.forget(faces)

    def _blocking(self, view: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
        async def viewed(request: Request) -> Response:
            return await self._answered(lambda: view(request))

        return viewed

    def _form(
        self, action: Callable[[dict[str, list[str]]], Response]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def acted(request: Request) -> Response:
            try:
                form = parse_qs((await request.body()).decode(), max_num_fields=40, errors="strict")
            except ValueError:
                return PlainTextResponse("bad request\n", 400)
            if not self._access.is_token(_value(form, "token")):
                return PlainTextResponse("forbidden\n", 403)
            return await self._answered(lambda: action(form))

        return acted

    async def _answered(self, view: Callable[[], Response]) -> Response:
        """The answer of a view. An error of the program becomes a page with its line; nothing was written then."""
        try:
            return await run_in_threadpool(view)
        except StashSenseError as error:
            text = render(
                "problem.html",
                token=self._access.token,
                title="Nothing was written",
                problem=str(error).splitlines(),
            )
            return HTMLResponse(text, 409)


def _filters(values: Any) -> Filters:
    kind = values.get("kind", "")
    return Filters(kind if kind in {each.value for each in Kind} else "", values.get("source", "")[:100])


def _value(form: dict[str, list[str]], name: str) -> str:
    return form.get(name, [""])[0]


def _answer(text: str) -> Answer:
    try:
        return Answer(text)
    except ValueError:
        raise StashSenseError(f"there is no answer {text[:40]!r}; nothing was written") from None


def _file(name: str) -> Callable[[Request], Response]:
    content = files("stash_sense_pipeline.review.page").joinpath("static", name).read_bytes()

    def served(_: Request) -> Response:
        return Response(content, media_type=_FILES[name])

    return served


def _note(text: str) -> str:
    """A picture with a text in place of a crop, which needs no script."""
    lines: list[str] = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > _LINE_OF_A_NOTE:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    rows = "".join(
        f'<text x="6" y="{20 + 15 * number}" font-size="12" font-family="sans-serif" fill="#222">{escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="112" height="112"><rect width="112" height="112" fill="#eee"/>'
        f"{rows}</svg>"
    )
