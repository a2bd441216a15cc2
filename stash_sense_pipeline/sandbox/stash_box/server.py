"""The HTTP server: GraphQL and images."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    GraphQLSyntaxError,
    OperationDefinitionNode,
    execute_sync,
    parse,
    validate,
)
from graphql.execution.values import get_variable_values
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stash_sense_pipeline.sandbox.invented.pictures import PictureStore, sniff
from stash_sense_pipeline.sandbox.stash_box.database import Box
from stash_sense_pipeline.sandbox.stash_box.fast_execution import Plan, compile_plan
from stash_sense_pipeline.sandbox.stash_box.field_getters import GETTERS, Context
from stash_sense_pipeline.sandbox.stash_box.resolvers import FAST_ROOTS, executable_schema
from stash_sense_pipeline.sandbox.stash_box.rows import ImageRow, Moment

_PARSE_FAILED = "GRAPHQL_PARSE_FAILED"
_VALIDATION_FAILED = "GRAPHQL_VALIDATION_FAILED"
_RESIZED = (300, 600, 1280)
_COMPRESSED_FROM = 1024  # bytes


@dataclass(frozen=True)
class Answer:
    """The status code and the JSON object of a GraphQL response."""

    status: int
    body: dict[str, Any]


@dataclass(frozen=True)
class _Prepared:
    document: DocumentNode
    operation: OperationDefinitionNode
    plan: Plan | None


class _Refused(Exception):  # noqa: N818
    """The query is refused before its execution."""

    def __init__(self, code: str, errors: Sequence[GraphQLError]) -> None:
        super().__init__(code)
        self.answer = Answer(
            422,
            {
                "errors": [
                    {
                        "message": error.message,
                        "locations": [{"line": at.line, "column": at.column} for at in error.locations or ()],
                        "extensions": {"code": code},
                    }
                    for error in errors
                ],
                "data": None,
            },
        )


def answer_query(
    context: Context,
    query: str,
    variables: Mapping[str, Any] | None = None,
    operation_name: str | None = None,
    *,
    fast: bool = True,
) -> Answer:
    """Executes a GraphQL request. `fast=False` always uses graphql-core; the answers are equal."""
    options = context.box.options
    schema = executable_schema(changelog=options.changelog, legacy=options.legacy_schema)
    try:
        prepared = _prepare(schema, query, operation_name)
        coerced = get_variable_values(schema, prepared.operation.variable_definitions, dict(variables or {}))
        if isinstance(coerced, list):
            raise _Refused(_VALIDATION_FAILED, coerced)
    except _Refused as refused:
        return refused.answer
    if fast and prepared.plan is not None:
        data, errors = prepared.plan.execute(context, coerced)
    else:
        result = execute_sync(
            schema,
            prepared.document,
            context_value=context,
            variable_values=dict(variables or {}),
            operation_name=operation_name,
        )
        data, errors = result.data, result.errors or []
    body: dict[str, Any] = {"data": data}
    if errors:
        body = {"errors": [{"message": error.message, "path": error.path} for error in errors], "data": data}
    return Answer(200, body)


@lru_cache(maxsize=512)
def _prepare(schema: GraphQLSchema, query: str, operation_name: str | None) -> _Prepared:
    try:
        document = parse(query)
    except GraphQLSyntaxError as error:
        raise _Refused(_PARSE_FAILED, [error]) from error
    invalid = validate(schema, document)
    if invalid:
        raise _Refused(_VALIDATION_FAILED, invalid)
    operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    if operation_name:
        operations = [node for node in operations if node.name and node.name.value == operation_name]
    if len(operations) != 1:
        what = f"operation {operation_name}" if operation_name else "operation name"
        raise _Refused(_VALIDATION_FAILED, [GraphQLError(f"no {what} in the request")])
    if schema.get_root_type(operations[0].operation) is None:
        kind = operations[0].operation.value
        raise _Refused(_VALIDATION_FAILED, [GraphQLError(f"this server offers no {kind}", operations[0])])
    plan = compile_plan(schema, document, operations[0], GETTERS, FAST_ROOTS)
    return _Prepared(document, operations[0], plan)


class StashBoxServer:
    """The routes of one box."""

    def __init__(self, box: Box, pictures: PictureStore, *, fast: bool = True) -> None:
        """`fast=False`: graphql-core executes every query."""
        self._box = box
        self._fast = fast
        self._pictures = pictures

    def routes(self) -> list[Route]:
        """`/graphql` and `/images/<id>`."""
        return [
            Route("/graphql", self._graphql, methods=["GET", "POST"]),
            Route("/images/{image_id}", self._image),
        ]

    async def _graphql(self, request: Request) -> Response:
        if self._has_bad_key(request):
            return Response(status_code=401)
        try:
            payload = await _payload(request)
        except ValueError as error:
            return self._json(request, Answer(400, {"errors": [{"message": str(error)}], "data": None}))
        self._box.observe(Moment.RECEIVED)
        context = Context(
            box=self._box,
            authorized="apikey" in request.headers,
            base_url=_base_url(request),
            number=self._box.next_request(),
        )
        answer = answer_query(
            context,
            payload.get("query") or "",
            payload.get("variables"),
            payload.get("operationName") or None,
            fast=self._fast,
        )
        self._box.observe(Moment.ANSWERED)
        return self._json(request, answer)

    async def _image(self, request: Request) -> Response:
        if self._has_bad_key(request):
            return Response(status_code=401)
        row = self._box.images.get(request.path_params["image_id"])
        if row is None:
            return Response("404 page not found\n", 404, media_type="text/plain")
        data, status = await run_in_threadpool(self._image_bytes, row, request.query_params.get("size"))
        headers = {"cache-control": "max-age=604800000"}
        return Response(data, status, headers, media_type=sniff(data))

    def _image_bytes(self, row: ImageRow, size: str | None) -> tuple[bytes, int]:
        options = self._box.options
        if size is None:
            longest = options.image_max_size
        elif size == "full":
            longest = None
        else:
            try:
                number = int(size)
            except ValueError:
                # Like the real servers, which send the picture after the text of the error.
                return b"invalid size\n" + self._pictures.original(row.picture), 400
            longest = number if number in _RESIZED else None
        if longest is None or not options.resizing:
            return self._pictures.original(row.picture), 200
        return self._pictures.resized(row.picture, longest), 200

    def _has_bad_key(self, request: Request) -> bool:
        key = request.headers.get("apikey")
        return key is not None and key != self._box.api_key

    def _json(self, request: Request, answer: Answer) -> Response:
        body = json.dumps(answer.body, ensure_ascii=False, separators=(",", ":")).encode()
        headers = {"vary": "Accept-Encoding"}
        wants_gzip = "gzip" in request.headers.get("accept-encoding", "")
        if self._box.options.gzip and wants_gzip and len(body) >= _COMPRESSED_FROM:
            body = gzip.compress(body, compresslevel=1)
            headers["content-encoding"] = "gzip"
        return Response(body, answer.status, headers, media_type="application/json")


async def _payload(request: Request) -> dict[str, Any]:
    """The GraphQL request object of a GET or POST. Raises ValueError with the text of the 400 answer."""
    if request.method == "GET":
        variables = request.query_params.get("variables")
        return {
            "query": request.query_params.get("query"),
            "variables": _decoded(variables) if variables else None,
            "operationName": request.query_params.get("operationName"),
        }
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise ValueError("transport not supported")
    payload = _decoded(await request.body())
    if not isinstance(payload, dict):
        raise ValueError("json request body could not be decoded: not an object")
    return payload


def _decoded(data: str | bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise ValueError(f"json request body could not be decoded: {error}") from error


def _base_url(request: Request) -> str:
    scheme = request.headers.get("x-forwarded-proto", "http")
    return f"{scheme}://{request.headers.get('host', 'localhost')}"
