"""HTTP control of a server from another process.

The body of a request is a JSON object with the arguments of the method that the path names. The answer is
`{"result": ...}`, or status 400 with `{"error": ...}`. Times are RFC 3339 texts; pictures are objects with the fields of
`Picture`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from stash_sense_pipeline.sandbox.faults import CONTROL_PREFIX, Fault, FaultKind, Traffic
from stash_sense_pipeline.sandbox.invented.clock import Clock, from_micros, parse_rfc3339, rfc3339
from stash_sense_pipeline.sandbox.invented.pictures import Kind, Picture
from stash_sense_pipeline.sandbox.stash_box.database import Box
from stash_sense_pipeline.sandbox.stash_box.rows import BodyModification, ControlError, Link, Ties

Operation = Callable[..., Any]


class Controlled(Protocol):
    """The attributes that all controlled servers have."""

    name: str
    clock: Clock


def control_route(server: Controlled, operations: Mapping[str, Operation], traffic: Traffic) -> Route:
    """The route that runs `operations`, and the operations that every server has."""
    every = {**operations, **_shared_operations(server, traffic)}

    async def act(request: Request) -> JSONResponse:
        operation = every.get(request.path_params["operation"])
        if operation is None:
            return JSONResponse({"error": f"operations are {', '.join(sorted(every))}"}, 404)
        try:
            arguments = await request.json() if await request.body() else {}
            return JSONResponse({"result": operation(**arguments)})
        except (ControlError, ValueError, TypeError, KeyError) as error:
            return JSONResponse({"error": str(error)}, 400)

    return Route(f"{CONTROL_PREFIX}/{{operation}}", act, methods=["POST"])


def box_operations(box: Box) -> dict[str, Operation]:
    """The operations of a stash-box by name."""

    def changing(method: Operation) -> Operation:
        def change(**arguments: Any) -> Any:
            return method(**_decoded(box, arguments))

        return change

    named = ("create", "edit", "bump", "touch", "merge", "destroy", "hard_delete", "restore")
    images = ("upload", "add_image", "destroy_image")
    edits = ("hold_edits", "close_edits", "delete_edit", "rename_site")

    def options(**changes: Any) -> None:
        if "ties" in changes:
            changes["ties"] = Ties(changes["ties"])
        box.options = dataclasses.replace(box.options, **changes)

    def performers() -> list[dict[str, Any]]:
        with box.lock:
            return [
                {
                    "id": row.id,
                    "name": row.name,
                    "updated": rfc3339(row.updated),
                    "deleted": row.deleted,
                    "merged_into_id": box.redirect_of(row.id),
                    "images": list(dict.fromkeys(box.joins[row.id].images)) if row.id in box.joins else [],
                    "person": box.people.get(row.id),
                }
                for row in box.performers.values()
            ]

    operations: dict[str, Operation] = {
        name: changing(getattr(box, name)) for name in (*named, *images, *edits)
    }
    return {**operations, "options": options, "performers": performers}


def decode_picture(fields: Mapping[str, Any]) -> Picture:
    """The `Picture` of a JSON object."""
    return Picture(
        seed=fields["seed"],
        kind=Kind(fields.get("kind", Kind.PLAIN)),
        people=tuple(fields.get("people", ())),
        feminine=tuple(fields.get("feminine", ())),
        size=tuple(fields.get("size", (400, 500))),
    )


def _decoded(box: Box, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in the types that the methods of `Box` take."""
    decoded = dict(arguments)
    if isinstance(decoded.get("at"), str):
        decoded["at"] = parse_rfc3339(decoded["at"])
    if "picture" in decoded:
        decoded["picture"] = decode_picture(decoded["picture"])
    if "urls" in decoded:
        decoded["urls"] = [
            Link(link["url"], box.site_for(link["site"], link["url"])) for link in decoded["urls"]
        ]
    for key in ("tattoos", "piercings"):
        if key in decoded:
            decoded[key] = [BodyModification(**entry) for entry in decoded[key]]
    return decoded


def _shared_operations(server: Controlled, traffic: Traffic) -> dict[str, Operation]:
    def clock(set: str | None = None, advance: float = 0.0, freeze: bool | None = None) -> str:
        if set is not None:
            server.clock.set(from_micros(parse_rfc3339(set)))
        server.clock.advance(advance)
        if freeze is not None:
            server.clock.freeze(freeze)
        return rfc3339(server.clock.now())

    def inject(kind: str, **rule: Any) -> None:
        if "body" in rule:
            rule["body"] = rule["body"].encode()
        traffic.inject(Fault(FaultKind(kind), **{"box": server.name, **rule}))

    def requests(path: str = "/") -> list[dict[str, Any]]:
        return [dataclasses.asdict(entry) for entry in traffic.requests(server.name, path)]

    return {
        "clock": clock,
        "inject": inject,
        "clear_faults": traffic.clear_faults,
        "requests": requests,
        "clear_requests": traffic.clear_requests,
    }
