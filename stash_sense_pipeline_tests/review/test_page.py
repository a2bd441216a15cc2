"""The review page under attack, over real HTTP: other hosts and origins, no token, odd paths, faces that are not listed."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from stash_sense_pipeline.review.decision import Kind
from stash_sense_pipeline.review.page.server import serve_review
from stash_sense_pipeline_tests.review.world import HOSTILE, ReviewWorld

FORM = "application/x-www-form-urlencoded"
TIMEOUT = 240


@pytest.fixture(scope="module")
def address(filled: ReviewWorld) -> Iterator[str]:
    with filled.served() as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=TIMEOUT) as client:
        yield client


def origin(address: str) -> str:
    return f"http://{urlsplit(address).netloc}"


def token_of(address: str) -> str:
    return urlsplit(address).path.strip("/")


def test_it_listens_on_loopback_only(address: str) -> None:
    assert urlsplit(address).hostname == "127.0.0.1"
    port = urlsplit(address).port
    own = {found[4][0] for found in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for host in own - {"127.0.0.1", "127.0.1.1"}:
        with socket.socket() as probe:
            probe.settimeout(2)
            assert probe.connect_ex((host, port)) != 0


def test_it_accepts_connections_when_it_tells_its_address(filled: ReviewWorld) -> None:
    told: list[str] = []

    def connect(line: str) -> None:
        url = urlsplit(line.removeprefix("Review: "))
        with socket.create_connection((url.hostname, url.port), timeout=TIMEOUT):
            told.append(url.path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        serve_review(filled.desk(pictures=False), 0, connect)
    assert len(told) == 1


@pytest.mark.slow
def test_each_answer_forbids_storing_and_outside_sources(client: httpx.Client) -> None:
    for path in ("", "list", "settled", "review.css", "review.js", "crops/999999"):
        answer = client.get(path)
        assert answer.headers["cache-control"] == "no-store, max-age=0", path
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert not re.search(r"https?:|data:|unsafe|\*", policy)
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Host": "127.0.0.1"},
        {"Host": "[::1]:80"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", ["", "list", "crops/1", "review.js"])
def test_other_hosts_and_origins_are_refused(
    client: httpx.Client, path: str, headers: dict[str, str]
) -> None:
    answer = client.get(path, headers=headers)
    assert answer.status_code == 403
    assert "Mira" not in answer.text


def test_a_host_that_resolves_to_loopback_is_refused(address: str) -> None:
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT) as link:
        request = (
            f"GET {parts.path} HTTP/1.1\r\nHost: rebound.example:{parts.port}\r\nConnection: close\r\n\r\n"
        )
        link.sendall(request.encode())
        assert link.makefile("rb").readline().startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/",
            "/list",
            "/settle",
            "/crops/1",
            "/review.js",
            "/favicon.ico",
            "/TOKEN2/",
            "//TOKEN",
            "/%54OKEN/",
        ),
        *("/TOKEN/../list", "/x/../TOKEN/"),
    ],
)
def test_without_the_secret_path_nothing_is_there(address: str, path: str) -> None:
    token = token_of(address)
    wrong = token[::-1]
    text = path.replace("TOKEN2", token + "x").replace("TOKEN", wrong)
    assert httpx.get(origin(address) + text, timeout=TIMEOUT).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        *(
            "../../etc/passwd",
            "..%2f..%2fetc%2fpasswd",
            "%2e%2e/%2e%2e/app.py",
            "static/../../app.py",
            "review.css/",
        ),
        *("templates/card.html", "crops/../review.css", "crops/1%00", "crops/-1", "crops/x", "/etc/passwd"),
        *("crops/1.png", "identity_overrides.yaml", "....//app.py", "crops/%2e%2e%2f1"),
    ],
)
def test_no_path_leads_to_a_file(address: str, path: str) -> None:
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT) as link:
        target = f"{parts.path}{path}"
        link.sendall(f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while more := link.recv(65536):
            answer += more
    assert re.match(rb"HTTP/1.1 (404|400|307)", answer), answer[:200]
    assert b"root:" not in answer
    assert b"import" not in answer


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "OWN", "Content-Type": "text/plain"}, 415),
        ({"Origin": "OWN", "Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Origin": "OWN", "Content-Type": "image/jpeg"}, 415),
        ({"Origin": "OWN", "Content-Type": "application/json"}, 415),
    ],
)
def test_a_form_of_another_page_or_a_picture_is_refused(
    client: httpx.Client, filled: ReviewWorld, address: str, headers: dict[str, str], status: int
) -> None:
    decision = filled.desk().open()[0]
    given = {"Content-Type": FORM} | {
        name: value.replace("OWN", origin(address)) for name, value in headers.items()
    }
    body = f"token={token_of(address)}&id={decision.decision_id}&answer=later"
    assert client.post("settle", content=body, headers=given).status_code == status
    assert not filled.overrides.exists()


def test_a_form_without_the_token_or_too_long_is_refused(
    client: httpx.Client, filled: ReviewWorld, address: str
) -> None:
    decision = filled.desk().open()[0]
    headers = {"Content-Type": FORM, "Origin": origin(address)}
    body = f"id={decision.decision_id}&answer=later"
    assert client.post("settle", content=body, headers=headers).status_code == 403
    assert client.post("settle", content=f"token=x&{body}", headers=headers).status_code == 403
    long = f"token={token_of(address)}&{body}&reason={'x' * 70_000}"
    assert client.post("settle", content=long, headers=headers).status_code == 413
    assert client.post("settle", content=b"token=%ff&\xff", headers=headers).status_code in (400, 403)
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert client.request(method, "settle").status_code in (403, 405)
    assert not filled.overrides.exists()


def test_an_unknown_decision_or_answer_is_said_and_nothing_is_written(
    client: httpx.Client, filled: ReviewWorld, address: str
) -> None:
    pair = next(row for row in filled.desk().open() if row.kind is Kind.PAIR)
    headers = {"Origin": origin(address)}
    for fields in (
        {"id": "pair-000000000000", "answer": "same"},
        {"id": "<script>", "answer": "same"},
        {"id": pair.decision_id, "answer": "maybe"},
        {"id": pair.decision_id, "answer": "not-a-face"},
    ):
        answer = client.post("settle", data={"token": token_of(address), **fields}, headers=headers)
        assert answer.status_code == 409
        assert "Nothing was written" in answer.text
        assert "<script>" not in answer.text
    assert not filled.overrides.exists()


def test_names_with_html_are_shown_as_text(client: httpx.Client, filled: ReviewWorld) -> None:
    desk = filled.desk()
    hostile = next(row for row in desk.open() if row.kind is Kind.PAIR and row.records[0][1] == "p0")
    for path in (f"?at={hostile.decision_id}", "list"):
        text = client.get(path).text
        assert "&lt;script&gt;alert(1)" in text
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert "\u202e" not in text
    assert HOSTILE.split()[0] == "<script>alert(1)</script>"
    for path in (
        "?kind=%3Cscript%3E&source=%22%3E%3Cimg%20src=x%3E",
        "?at=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
    ):
        text = client.get(path).text
        assert "<img src=x" not in text
        assert "<script>alert" not in text


@pytest.mark.slow
def test_only_faces_of_shown_open_decisions_are_given(client: httpx.Client, filled: ReviewWorld) -> None:
    decisions = filled.desk().open()
    face = next(row for row in decisions if row.kind is Kind.FACE and len(row.people) == 1)
    (face_id,) = filled.faces[face.records[0]]
    assert client.get(f"crops/{face_id}").status_code == 404
    page = client.get(f"?at={face.decision_id}").text
    assert f"/crops/{face_id}" in page
    assert client.get(f"crops/{face_id}").status_code == 200
    assert client.get("crops/999999999999999999999").status_code == 404
    everything = {number for numbers in filled.faces.values() for number in numbers}
    unlisted = max(everything)
    shown = set(map(int, re.findall(r"/crops/(\d+)", page)))
    assert unlisted not in shown
    assert client.get(f"crops/{unlisted}").status_code == 404


@pytest.mark.slow
def test_a_face_of_a_settled_card_is_a_note_until_the_card_is_shown_again(world: ReviewWorld) -> None:
    """A browser asks for the faces of a card until it has the next page, and reports each 404 as an error."""
    with world.served() as address, httpx.Client(base_url=address, timeout=TIMEOUT) as client:
        headers, token = {"Origin": origin(address)}, {"token": token_of(address)}
        pair = next(row for row in world.desk().open() if row.kind is Kind.PAIR)
        crops = [f"crops/{world.faces[record][0]}" for record in pair.records]
        form = token | {"id": pair.decision_id, "answer": "different"}
        client.get(f"?at={pair.decision_id}")
        assert client.post("settle", data=form, headers=headers).status_code == 303
        for crop in crops:
            answer = client.get(crop)
            assert (answer.status_code, answer.headers["content-type"]) == (200, "image/svg+xml")
            assert "settled" in answer.text
        assert client.post("undo", data=token, headers=headers).status_code == 303
        client.get(f"?at={pair.decision_id}")
        assert {client.get(crop).headers["content-type"] for crop in crops} == {"image/png"}


@pytest.mark.slow
def test_a_crop_is_kept_or_fetched_once_and_never_stored(client: httpx.Client, filled: ReviewWorld) -> None:
    pair = [row for row in filled.desk().open() if row.kind is Kind.PAIR][3]
    faces = [filled.faces[record][0] for record in pair.records]
    # Tests before this one may have fetched the pictures for another review.
    filled.pictures.asked.clear()
    client.get(f"?at={pair.decision_id}")
    for face_id in faces * 2:
        answer = client.get(f"crops/{face_id}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        assert answer.content.startswith(b"\x89PNG")
    asked = [
        path for path in filled.pictures.asked if path in {f"/pictures/{face_id}.jpg" for face_id in faces}
    ]
    assert asked == [f"/pictures/{face_id}.jpg" for face_id in faces if face_id % 2 == 0]
    picture = filled.pictures.files[asked[0]]
    for path in Path(filled.directory).rglob("*"):
        if path.is_file():
            assert picture[100:400] not in path.read_bytes()


@pytest.mark.slow
def test_without_pictures_no_face_is_shown_and_none_is_fetched(filled: ReviewWorld) -> None:
    before = len(filled.pictures.asked)
    with filled.served("--no-pictures") as address, httpx.Client(base_url=address, timeout=TIMEOUT) as client:
        face = next(row for row in filled.desk().open() if row.kind is Kind.FACE)
        text = client.get(f"?at={face.decision_id}").text
        assert "<img" not in text
        (face_id, *_) = filled.faces[face.records[0]]
        assert client.get(f"crops/{face_id}").status_code == 404
    assert len(filled.pictures.asked) == before


@pytest.mark.slow
def test_the_page_ends_with_its_command(filled: ReviewWorld) -> None:
    with filled.served() as address:
        assert httpx.get(address, timeout=TIMEOUT).status_code == 200
    # Another program may listen on the port already.
    with suppress(httpx.TransportError):
        assert httpx.get(address, timeout=TIMEOUT).status_code != 200
    # The secret is in no file of the data directory.
    token = token_of(address).encode()
    assert not [path for path in filled.directory.rglob("*") if path.is_file() and token in path.read_bytes()]
