"""The guard around the UI: which requests reach the application and which are refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anyio
import pytest
from dagster_webserver.webserver import DagsterWebserver
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import Message, Receive, Scope, Send

from stash_sense_pipeline.deployment.ui_access import UiAccess, read_ui_access
from stash_sense_pipeline.deployment.ui_guard import UiGuard
from stash_sense_pipeline_tests.deployment.test_ui_access import password_file

HOST = ("host", "127.0.0.1:3000")
JSON = ("content-type", "application/json")
OWN = ("origin", "http://127.0.0.1:3000")
QUERY = b'{"query": "{version}"}'
OPEN = read_ui_access({}, Path.cwd(), "127.0.0.1")

Header = tuple[str, str]


class Application:
    """An ASGI application that notes what reaches it."""

    def __init__(self) -> None:
        self.reached: list[tuple[str, str, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        if scope["type"] == "http":
            message: Message = {"more_body": True}
            while message.get("more_body"):
                message = await receive()
                body += message.get("body", b"")
            await send(
                {"type": "http.response.start", "status": 200, "headers": [(b"x-frame-options", b"ALLOW")]}
            )
            await send({"type": "http.response.body", "body": b"reached"})
        else:
            await send({"type": "websocket.accept"})
        self.reached.append((scope["type"], scope.get("method", ""), body))


def answer(
    headers: Iterable[Header],
    *,
    method: str = "GET",
    path: str = "/",
    query: bytes = b"",
    parts: Iterable[bytes] = (b"",),
    kind: str = "http",
    access: UiAccess = OPEN,
) -> tuple[list[tuple[str, str, bytes]], list[Message]]:
    """What reached the application, and the messages that went back."""
    application, sent = Application(), list[Message]()
    scope = {
        "type": kind, "path": path, "query_string": query,
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
    }  # fmt: skip
    if kind == "http":
        scope["method"] = method
    bodies = list(parts)
    waiting = [
        {"type": "http.request", "body": part, "more_body": place < len(bodies) - 1}
        for place, part in enumerate(bodies)
    ]

    async def receive() -> Message:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    anyio.run(UiGuard(application, access), scope, receive, send)
    return application.reached, sent


def status(sent: list[Message]) -> int:
    return int(sent[0]["status"])


def post(*headers: Header, **given: Any) -> tuple[list[tuple[str, str, bytes]], list[Message]]:
    return answer([HOST, *headers], method="POST", path="/graphql", **{"parts": [QUERY], **given})


def test_requests_of_the_ui_and_of_programs_reach_it_unchanged() -> None:
    fetch = [("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")]
    for headers in (
        [JSON, OWN, *fetch],
        [JSON, OWN],
        [JSON],
        [("content-type", "application/json; charset=UTF-8"), OWN],
    ):
        assert post(*headers, query=b"op=Root")[0] == [("http", "POST", QUERY)]
    assert post(JSON, parts=[b'{"query"', b": ", b'"x"}'])[0] == [("http", "POST", b'{"query": "x"}')]
    typed = [("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")]
    for headers in ([], typed, fetch):
        for path in (
            "/",
            "/assets/release",
            "/graphql",
            "/logs/x/out",
            "/_next/static/a.js",
            "/assets/notebook",
        ):
            assert answer([HOST, *headers], path=path)[0] == [("http", "GET", b"")]
    assert answer([HOST, OWN], kind="websocket", path="/graphql")[0] == [("websocket", "", b"")]


def test_other_kinds_of_scope_are_passed_on() -> None:
    assert answer([], kind="lifespan")[0] == [("lifespan", "", b"")]


def test_a_link_on_another_page_may_open_the_ui_in_a_tab_and_nothing_else() -> None:
    opened = [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "document"),
    ]
    assert answer([HOST, *opened], path="/runs")[0]
    assert not answer([HOST, *opened], path="/graphql", query=b"query=mutation")[0]
    assert not answer([HOST, *opened], method="HEAD")[0]
    for place, value in ((1, "no-cors"), (2, "iframe"), (2, "embed"), (2, "image")):
        other = [*opened[:place], (opened[place][0], value), *opened[place + 1 :]]
        assert not answer([HOST, *other], path="/runs")[0]


@pytest.mark.parametrize(
    "host", [[], [("host", "evil.example:3000")], [HOST, HOST], [HOST, ("host", "evil.example")]]
)
def test_another_host_or_none_or_two_is_refused(host: list[Header]) -> None:
    for method in ("GET", "POST"):
        reached, sent = answer([*host, JSON], method=method, parts=[QUERY])
        assert not reached
        assert status(sent) == 403
    assert not answer([*host, OWN], kind="websocket")[0]


@pytest.mark.parametrize(
    "headers",
    [
        [("origin", "http://evil.example")],
        [("origin", "http://127.0.0.1:3001")],
        [("origin", "http://localhost:3000")],
        [("origin", "null")],
        [("origin", "")],
        [OWN, ("origin", "http://evil.example")],
        [OWN, OWN],
        [("sec-fetch-site", "cross-site")],
        [("sec-fetch-site", "same-site")],
        [("sec-fetch-site", "unheard-of")],
        [OWN, ("sec-fetch-site", "cross-site")],
        [OWN, ("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
        [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")],
    ],
)
def test_a_request_of_another_page_is_refused(headers: list[Header]) -> None:
    reached, sent = post(JSON, *headers)
    assert not reached
    assert status(sent) == 403
    assert not answer([HOST, *headers], kind="websocket", path="/graphql")[0]


def test_a_websocket_without_an_origin_is_refused() -> None:
    reached, sent = answer([HOST], kind="websocket", path="/graphql")
    assert not reached
    assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.parametrize(
    "content_type",
    [
        "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/graphql",
        "text/plain; application/json", "text/plain;application/json", "application/json, text/plain",
        "application/json; boundary=x", "application/json; charset=utf-16", "application/jsonp", "application/json-seq",
        "multipart/form-data; boundary=application/json", "text/json",
    ],
)  # fmt: skip
def test_a_post_that_a_form_or_a_script_of_another_page_could_send_is_refused(content_type: str) -> None:
    """Also where the browser tells no origin: old ones leave it out of forms."""
    for path in ("/graphql", "/", "/report_asset_materialization/release", "/anything"):
        reached, sent = answer(
            [HOST, ("content-type", content_type)], method="POST", path=path, parts=[QUERY]
        )
        assert not reached
        assert status(sent) == 415
    assert not answer([HOST], method="POST", path="/graphql", query=b"query={version}")[0]
    assert not post(JSON, JSON)[0]


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "get", "QUERY"])
def test_other_methods_are_refused(method: str) -> None:
    reached, sent = answer([HOST, JSON], method=method, path="/graphql", parts=[QUERY])
    assert not reached
    assert status(sent) == 405


@pytest.mark.parametrize(
    "path",
    [
        "/graphql",
        "/graphql/",
        "//graphql",
        "/GraphQL",
        "/graphql\n",
        "/x/graphql",
        "/graphql\r",
        "/graphql\x00",
    ],
)
def test_graphql_by_get_is_refused_however_the_path_is_written(path: str) -> None:
    for method in ("GET", "HEAD"):
        for accept in ("*/*", "text/html"):
            headers = [HOST, ("accept", accept)]
            reached, sent = answer(headers, method=method, path=path, query=b"query=mutation{x}")
            assert not reached
            assert status(sent) in (400, 405)


def test_notebooks_are_closed_with_and_without_a_path_prefix() -> None:
    prefixed = read_ui_access({"STASH_SENSE_UI_PATH_PREFIX": "/pipeline"}, Path.cwd(), "127.0.0.1")
    for access, prefix in ((OPEN, ""), (prefixed, "/pipeline")):
        for path in ("/notebook", "/dagit/notebook", "/notebook\n"):
            assert not answer([HOST], path=prefix + path, query=b"path=/x.ipynb", access=access)[0]
        assert answer([HOST], path=f"{prefix}/assets", access=access)[0]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b'[{"query": "mutation"}]', b"query=mutation", b'"x"', b"mutation {x}", b"{", b'{"a": }',
        b'{"a": "\xff"}', b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"a": NaN}', b'{"a": 1, "a": 2}',
    ],
)  # fmt: skip
def test_a_body_that_is_not_a_json_object_is_refused(body: bytes) -> None:
    reached, sent = post(JSON, parts=[body])
    assert not reached
    assert status(sent) == 400


def test_an_endless_body_is_refused_at_the_limit() -> None:
    reached, sent = post(JSON, parts=[b"{", *[b" " * 1_000_000] * 40])
    assert not reached
    assert status(sent) == 413


def test_every_response_has_headers_against_framing_and_cross_origin_reads() -> None:
    for headers in ([HOST], [("host", "evil.example")]):
        _, sent = answer(headers)
        given = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        assert given["x-frame-options"] == "SAMEORIGIN"
        assert given["content-security-policy"] == "frame-ancestors 'self'"
        assert given["x-content-type-options"] == "nosniff"
        assert given["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in given


def basic(text: str) -> Header:
    return ("authorization", f"Basic {base64.b64encode(text.encode()).decode()}")


def test_with_a_password_every_request_needs_it(tmp_path: Path) -> None:
    file = password_file(tmp_path, "söme:word\n".encode())
    access = read_ui_access({"STASH_SENSE_UI_PASSWORD_FILE": str(file)}, tmp_path, "127.0.0.1")
    wrong = [
        [], [basic("x:")], [basic("söme:word")], [basic(":söme:word ")], [("authorization", "Basic ???")],
        [("authorization", "Bearer söme:word")], [("authorization", "Basic")], [("authorization", "Basic /w==")],
    ]  # fmt: skip
    for headers in wrong:
        for path in ("/", "/server_info", "/favicon.png", "/_next/a.js", "/logs/a/out", "/graphql"):
            reached, sent = answer([HOST, *headers], path=path, access=access)
            assert not reached
            assert status(sent) == 401
            assert (b"www-authenticate", b'Basic realm="Stash Sense", charset="UTF-8"') in sent[0]["headers"]
        assert not post(JSON, OWN, *headers, access=access)[0]
        assert not answer([HOST, OWN, *headers], kind="websocket", access=access)[0]
    for right in (basic("anybody:söme:word"), basic(":söme:word")):
        assert answer([HOST, right], access=access)[0]
        assert post(JSON, OWN, right, access=access)[0]
        assert answer([HOST, OWN, right], kind="websocket", access=access)[0]
        assert not post(JSON, ("origin", "http://evil.example"), right, access=access)[0], (
            "a browser adds it to all"
        )
        assert not answer([("host", "evil.example"), right], access=access)[0]


def test_every_route_of_the_webserver_is_known_here() -> None:
    """A new version of Dagster may bring one that changes something by GET."""
    server = DagsterWebserver.__new__(DagsterWebserver)
    server._app_path_prefix = ""
    routes = server.build_routes()
    files = {route.path for route in server.build_static_routes()}
    sockets = {route.path for route in routes if isinstance(route, WebSocketRoute)}
    assert sockets == {"/graphql"}
    methods = {
        route.path: route.methods for route in routes if isinstance(route, Route) and route.path not in files
    }
    assert {path for path, allowed in methods.items() if "POST" in (allowed or ())} == {
        "/graphql",
        "/report_asset_materialization/{asset_key:path}",
        "/report_asset_check/{asset_key:path}",
        "/report_asset_observation/{asset_key:path}",
    }
    assert {path for path, allowed in methods.items() if "GET" in (allowed or ())} == {
        "/graphql",  # executes a query of its query string: refused by the guard
        "/notebook",  # closed by the guard
        "/dagit/notebook",
        "/server_info",  # these only read
        "/dagit_info",
        "/logs/{path:path}",
        "/download_debug/{run_id:str}",
        "/{path:path}",
        "/",
    }
    assert all(isinstance(route, (Route, WebSocketRoute, Mount)) for route in routes)


@pytest.mark.slow
@given(
    st.sampled_from(["GET", "HEAD", "POST", "PUT"]),
    st.lists(
        st.tuples(
            st.sampled_from(["origin", "sec-fetch-site", "content-type", "accept", "x-forwarded-host"]),
            st.sampled_from([
                "http://evil.example", "null", "cross-site", "same-site", "text/plain", "application/json", "text/html",
                "127.0.0.1:3000", "multipart/form-data; application/json", OWN[1], "same-origin", "navigate",
            ]),
        ),
        max_size=5,
    ),
    st.sampled_from(["/graphql", "/graphql/", "/graphql\n", "/report_asset_check/x", "/"]),
)  # fmt: skip
def test_no_request_that_another_page_can_send_changes_anything(
    method: str, headers: list[Header], path: str
) -> None:
    """A page can choose method, path, body and some headers; the browser adds where it comes from, or asks first."""
    foreign = [value for name, value in headers if name == "origin"] not in ([], [OWN[1]])
    json_type = [value for name, value in headers if name == "content-type"] == ["application/json"]
    reached, _ = answer([HOST, *headers], method=method, path=path, query=b"query=mutation{x}", parts=[QUERY])
    if reached:
        assert not foreign
        assert method in ("GET", "HEAD", "POST")
        assert (method == "POST" and json_type) or (method != "POST" and "graphql" not in path)
        assert method != "POST" or json.loads(reached[0][2]) == json.loads(QUERY)
