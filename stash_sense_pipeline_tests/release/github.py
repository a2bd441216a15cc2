"""A stand-in on loopback for the part of GitHub's REST API that releases need, with faults on request."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

REPOSITORY = "example/data"
SMALL_REPOSITORY = "example/data-small"
TOKEN = "t0ken"


class GithubWorld:
    """Releases with their assets, the received requests, and the faults: (method, path part) → answers."""

    def __init__(self, repository: str, ids: Iterator[int]) -> None:
        self.repository = repository
        # Other repositories on the same server, by name.
        self.others: dict[str, GithubWorld] = {}
        self._ids = ids
        self.url = ""
        self.releases: list[dict[str, Any]] = []
        self.content: dict[int, bytes] = {}
        self.requests: list[str] = []
        self.faults: list[tuple[str, str, int, dict[str, str]]] = []
        self.cut_uploads = 0
        self.cut_downloads = 0
        # Asset and token of each download. `storage`: the server that has the files, when it is another one.
        self.downloads: list[tuple[int, str | None]] = []
        self.storage = ""
        self.private = False
        self.latest: int | None = None

    def fail(self, method: str, part: str, status: int, times: int = 1, **headers: str) -> None:
        """Answers the next `times` matching requests with this status."""
        self.faults += [(method, part, status, headers)] * times

    def next_id(self) -> int:
        return next(self._ids)

    def asset(self, name: str, data: bytes, state: str = "uploaded") -> dict[str, Any]:
        number = self.next_id()
        self.content[number] = data
        return {
            "id": number,
            "name": name,
            "size": len(data),
            "state": state,
            "digest": f"sha256:{hashlib.sha256(data).hexdigest()}" if state == "uploaded" else None,
            "url": f"{self.url}/repos/{self.repository}/releases/assets/{number}",
            "browser_download_url": f"{self.url}/download/{number}",
        }

    def release(
        self, tag: str, *, draft: bool = False, assets: list[dict[str, Any]] | None = None
    ) -> dict[str, Any]:
        number = self.next_id()
        made = {
            "id": number,
            "tag_name": tag,
            "name": tag,
            "body": "",
            "draft": draft,
            "html_url": f"{self.url}/{self.repository}/releases/{tag}",
            "upload_url": f"{self.url}/upload/{number}/assets{{?name,label}}",
            "assets": assets or [],
        }
        self.releases.append(made)
        if not draft:
            self.latest = number
        return made


@contextmanager
def github(repository: str = REPOSITORY, *others: str) -> Iterator[GithubWorld]:
    """Serves the stand-in, with these repositories, until the end of the block. The world is that of the first one."""
    ids = itertools.count(1)
    world = GithubWorld(repository, ids)
    world.others = {name: GithubWorld(name, ids) for name in others}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"first": world}))
    for each in (world, *world.others.values()):
        each.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield world
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body are two writes: the second one would wait for the acknowledgement of the first, 40 ms long.
    disable_nagle_algorithm = True
    first: GithubWorld
    world: GithubWorld

    def log_message(self, *_: object) -> None:
        """Prints nothing to the terminal."""

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_PATCH(self) -> None:
        self._handle("PATCH")

    def do_DELETE(self) -> None:
        self._handle("DELETE")

    def _handle(self, method: str) -> None:
        path = urlsplit(self.path).path
        self.world = self._world_of(path)
        self.world.requests.append(f"{method} {path}")
        fault = next((f for f in self.world.faults if f[0] == method and f[1] in path), None)
        if fault is not None:
            self.world.faults.remove(fault)
            self._discard()
            self._answer(fault[2], {"message": "ordered"}, fault[3])
        elif path.startswith("/download/"):
            self._download(self.world.content[int(path.rsplit("/", 1)[1])])
        elif path.endswith("/releases/latest") and self._may_read():
            found = next((r for r in self.world.releases if r["id"] == self.world.latest), None)
            self._answer(200 if found else 404, found or {"message": "Not Found"}, {})
        elif method == "GET" and "/releases/assets/" in path and self._may_read():
            number = path.rsplit("/", 1)[1]
            self.world.downloads.append((int(number), self.headers.get("Authorization")))
            self._send(302, b"", {"Location": f"{self.world.storage or self.world.url}/download/{number}"})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._discard()
            self._answer(401, {"message": "Bad credentials"}, {})
        elif path.startswith("/upload/"):
            self._upload(int(path.split("/")[2]))
        else:
            self._releases(method, path.removeprefix(f"/repos/{self.world.repository}/releases"))

    def _world_of(self, path: str) -> GithubWorld:
        """The repository that a path names, or that has the release of an upload or the file of a download."""
        kind, number = path.split("/")[1:3]
        for world in self.first.others.values():
            held = (*world.content, *(release["id"] for release in world.releases))
            numbered = kind in ("upload", "download") and number.isdigit() and int(number) in held
            if numbered or path.startswith(f"/repos/{world.repository}/"):
                return world
        return self.first

    def _may_read(self) -> bool:
        return not self.world.private or self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _download(self, data: bytes) -> None:
        if not self.world.cut_downloads:
            self._send(200, data, {})
            return
        self.world.cut_downloads -= 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 3])
        self.close_connection = True

    def _releases(self, method: str, rest: str) -> None:
        world = self.world
        if method == "GET" and rest == "":
            query = parse_qs(urlsplit(self.path).query)
            size, page = int(query["per_page"][0]), int(query["page"][0])
            newest_first = world.releases[::-1]
            self._answer(200, newest_first[(page - 1) * size : page * size], {})
        elif method == "POST" and rest == "":
            body = json.loads(self._body())
            # GitHub accepts a second draft of a tag, and refuses the tag of a published release.
            if any(r["tag_name"] == body["tag_name"] and not r["draft"] for r in world.releases):
                self._answer(
                    422, {"message": "Validation Failed", "errors": [{"code": "already_exists"}]}, {}
                )
                return
            made = world.release(body["tag_name"], draft=body["draft"])
            made["body"] = body["body"]
            self._answer(201, made, {})
        elif method == "GET" and rest.endswith("/assets"):
            self._answer(200, self._release(rest.split("/")[1])["assets"], {})
        elif method == "DELETE":
            number = int(rest.rsplit("/", 1)[1])
            for release in world.releases:
                release["assets"] = [asset for asset in release["assets"] if asset["id"] != number]
            self._send(204, b"", {})
        elif method == "PATCH":
            release = self._release(rest.split("/")[1])
            body = json.loads(self._body())
            release["draft"] = body["draft"]
            if body["make_latest"] == "true":
                world.latest = release["id"]
            self._answer(200, release, {})
        else:
            self._answer(404, {"message": "Not Found"}, {})

    def _upload(self, number: int) -> None:
        release = self._release(str(number))
        name = parse_qs(urlsplit(self.path).query)["name"][0]
        length = int(self.headers["Content-Length"])
        if any(asset["name"] == name for asset in release["assets"]):
            self._discard()
            self._answer(422, {"message": "Validation Failed", "errors": [{"code": "already_exists"}]}, {})
            return
        if self.world.cut_uploads:
            self.world.cut_uploads -= 1
            release["assets"].append(self.world.asset(name, self.rfile.read(length // 3), "starter"))
            self.close_connection = True
            self.connection.close()
            return
        release["assets"].append(self.world.asset(name, self.rfile.read(length)))
        self._answer(201, release["assets"][-1], {})

    def _release(self, number: str) -> dict[str, Any]:
        return next(release for release in self.world.releases if release["id"] == int(number))

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _discard(self) -> None:
        if self.headers.get("Content-Length"):
            self._body()

    def _answer(self, status: int, body: Any, headers: dict[str, str]) -> None:
        self._send(status, json.dumps(body).encode(), {"Content-Type": "application/json", **headers})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def reset_in(seconds: float) -> str:
    """The reset time of a rate limit, this many seconds from now."""
    return str(int(time.time() + seconds))
