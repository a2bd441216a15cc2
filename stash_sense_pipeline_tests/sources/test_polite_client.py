"""The polite client against a real server on loopback: every kind of failure, and its typed outcome."""

from __future__ import annotations

import asyncio
import gzip
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import pytest

from stash_sense_pipeline.foundation.clock import Clock
from stash_sense_pipeline.foundation.errors import (
    CircuitOpenError,
    HttpStatusError,
    Outcome,
    SourceError,
    UnreachableError,
)
from stash_sense_pipeline.sources.http.address_guard import host_of
from stash_sense_pipeline.sources.http.polite_client import PoliteClient, user_agent
from stash_sense_pipeline.sources.http.redirects import redirect_target
from stash_sense_pipeline.sources.http.response import Response
from stash_sense_pipeline.sources.http.retry_policy import RetryPolicy
from stash_sense_pipeline_tests.sources.conftest import PATIENT, VirtualTime
from stash_sense_pipeline_tests.sources.loopback import LoopbackServer, Raw, Request, answer

HTML = b"<!DOCTYPE html><html><body>Attention required</body></html>"
# For a server that stays silent on purpose: the other ones have all the time that a loaded machine needs.
HASTY = RetryPolicy(attempts=2, connect=120, read=0.1, total=240)
FAST = 600_000.0
SLACK = 0.002  # seconds that a limiter catches up


@pytest.fixture
def served(virtual_time: VirtualTime) -> Iterator[Callable[..., Served]]:
    """served(handler or list of answers, **options of PoliteClient): a server with clients in virtual time."""
    running: list[LoopbackServer] = []

    def serve(script: Callable[[Request], Raw] | list[Raw], **options: Any) -> Served:
        if isinstance(script, list):
            left = list(script)
            script = lambda _: left.pop(0) if len(left) > 1 else left[0]  # noqa: E731
        server = LoopbackServer(script)
        server.__enter__()
        running.append(server)
        options = {"rate": FAST, "retry_policy": PATIENT, "clock": virtual_time.clock, **options}
        return Served(server, options)

    yield serve
    for server in running:
        server.__exit__(None, None, None)


class Served:
    """A server with a client for it."""

    def __init__(self, server: LoopbackServer, options: dict[str, Any]) -> None:
        self.server = server
        self._options = options

    def get(self, path: str = "/", **options: Any) -> Response:
        """One GET with a new client. `path` may be a whole URL."""
        url = path if "://" in path else f"{self.server.url}{path}"
        return self.run(lambda client: client.get(url, **options))

    def failure(self, path: str = "/", **options: Any) -> SourceError:
        """The failure of one GET."""
        with pytest.raises(SourceError) as caught:
            self.get(path, **options)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith("tested: ")
        return caught.value

    def run(self, ask: Callable[[PoliteClient], Any]) -> Any:
        """The result of `ask` with a new client."""

        async def within() -> Any:
            async with PoliteClient("tested", self.server.url, **self._options) as client:
                return await ask(client)

        return asyncio.run(within())


def test_get_sends_params_and_headers_and_returns_the_response(served):
    at = served([answer(body=b'{"a": 1}', Content_Type="application/JSON; charset=utf-8")])
    response = at.get("/x", params={"q": "a b", "page": 2}, headers={"ApiKey": "k"})
    assert (response.status, response.json(), response.content_type) == (200, {"a": 1}, "application/json")
    request = at.server.requests[0]
    assert (request.method, request.target) == (
        "GET",
        "/x?q=a+b&page=2",
    ) or request.target == "/x?q=a%20b&page=2"
    assert request.headers["apikey"] == "k"


def test_the_user_agent_names_the_version_and_the_contact(served):
    at = served([answer()], contact="mailto:me@example.org")
    at.get()
    assert at.server.requests[0].headers["user-agent"].startswith("stash-sense-pipeline/")
    assert at.server.requests[0].headers["user-agent"].endswith(" (+mailto:me@example.org)")
    assert "(" not in user_agent("")


def test_post_json_sends_json_and_is_retried_after_a_503(served):
    at = served([answer(503), answer(body=b"{}")])
    at.run(lambda client: client.post_json(f"{at.server.url}/graphql", {"query": "ä"}))
    assert [request.body for request in at.server.requests] == [b'{"query":"\\u00e4"}'] * 2
    assert at.server.requests[0].headers["content-type"] == "application/json"
    assert at.server.requests[0].headers["accept"] == "application/json"


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (400, Outcome.PARSE_ERROR),
        (401, Outcome.BLOCKED),
        (403, Outcome.BLOCKED),
        (404, Outcome.NOT_FOUND),
        (410, Outcome.GONE),
        (422, Outcome.PARSE_ERROR),
        (451, Outcome.BLOCKED),
        (500, Outcome.TIMEOUT),
    ],
)
def test_a_permanent_failure_is_not_retried(served, status, outcome):
    at = served([answer(status, HTML)])
    error = at.failure("/secret?token=abc")
    assert isinstance(error, HttpStatusError)
    assert (error.outcome, error.status, error.body) == (outcome, status, HTML)
    assert "abc" not in str(error)
    assert len(at.server.requests) == 1


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504, 520, 524])
def test_a_transient_status_is_retried_until_an_answer_comes(served, status):
    at = served([answer(status, HTML), answer(status), answer(body=b"done")])
    assert at.get().content == b"done"
    assert len(at.server.requests) == 3


@pytest.mark.parametrize(("status", "outcome"), [(429, Outcome.RATE_LIMITED), (503, Outcome.TIMEOUT)])
def test_a_transient_status_that_stays_fails_after_all_attempts(served, status, outcome):
    at = served([answer(status, HTML)])
    error = at.failure()
    assert error.outcome is outcome
    assert len(at.server.requests) == PATIENT.attempts


def test_the_delay_between_attempts_doubles_with_jitter(served, virtual_time):
    at = served([answer(503)])
    at.failure()
    waits = [
        later - earlier
        for earlier, later in pairwise(accumulated(virtual_time.slept))
        if later - earlier > 0.1
    ]
    assert len(waits) == PATIENT.attempts - 1
    for number, wait in enumerate(waits):
        assert 0.5 * 2**number <= wait <= 1.0 * 2**number
    assert len({round(wait / 2**number, 6) for number, wait in enumerate(waits)}) > 1


def accumulated(slept: list[float]) -> list[float]:
    """The times at which the sleeps end."""
    moments = [0.0]
    for seconds in slept:
        moments.append(moments[-1] + seconds)
    return moments


def test_a_retry_after_in_seconds_is_waited_for(served, virtual_time):
    at = served([answer(429, Retry_After="37"), answer()])
    began = virtual_time.seconds
    at.get()
    assert virtual_time.seconds - began == pytest.approx(37, abs=0.01)


@pytest.mark.parametrize("told", [True, False])
def test_a_retry_after_date_is_waited_for_on_the_clock_of_the_server(served, virtual_time, told):
    """Without a Date header the local clock is used."""
    server_now = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC) if told else virtual_time.now()
    until = format_datetime(server_now.replace(microsecond=0), usegmt=True)
    until = until.replace(until[17:25], (server_now.replace(second=59)).strftime("%H:%M:%S"))
    expected = 59 - server_now.second
    headers = {"Date": format_datetime(server_now, usegmt=True)} if told else {}
    at = served([answer(503, Retry_After=until, **headers), answer()])
    began = virtual_time.seconds
    at.get()
    assert virtual_time.seconds - began == pytest.approx(expected, abs=1.01)


def test_a_retry_after_in_the_past_or_unreadable_is_ignored(served):
    at = served(
        [answer(429, Retry_After="Thu, 01 Jan 1970 00:00:00 GMT"), answer(429, Retry_After="soon"), answer()]
    )
    assert at.get().status == 200


def test_a_long_retry_after_fails_further_requests_without_waiting(served, virtual_time):
    at = served([answer(429, Retry_After="86400")])
    began = virtual_time.seconds

    async def ask(client: PoliteClient) -> None:
        for _ in range(2):
            with pytest.raises(SourceError, match=r"asked for a pause|answered 429") as caught:
                await client.get(at.server.url)
            assert caught.value.outcome is Outcome.RATE_LIMITED

    at.run(ask)
    assert len(at.server.requests) == 1
    assert virtual_time.seconds - began < 1


def test_a_truncated_body_is_retried_and_then_a_timeout(served):
    cut = Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
    at = served([cut, answer(body=b"whole")])
    assert at.get().content == b"whole"
    at = served([cut])
    assert at.failure().outcome is Outcome.TIMEOUT
    assert len(at.server.requests) == PATIENT.attempts


def test_a_body_that_cannot_be_decoded_is_retried_and_then_a_parse_error(served):
    broken = answer(body=gzip.compress(b"x" * 1000)[:-20] + b"y" * 20, Content_Encoding="gzip")
    at = served([broken, answer(body=gzip.compress(b"whole"), Content_Encoding="gzip")])
    assert at.get().content == b"whole"
    assert served([broken]).failure().outcome is Outcome.PARSE_ERROR


@pytest.mark.slow
@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal"])
def test_a_server_that_stops_sending_is_a_timeout(served, said):
    at = served([Raw(said, silent=True)], retry_policy=HASTY)
    sent = []

    async def ask(client: PoliteClient) -> SourceError:
        failure = await _caught(client.get(at.server.url))
        sent.append(client.requests)
        return failure

    assert at.run(ask).outcome is Outcome.TIMEOUT
    assert sent == [HASTY.attempts]


@pytest.mark.slow
def test_a_body_that_exceeds_the_total_time_is_a_timeout(served):
    """Each byte arrives in time, the whole body does not."""

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        try:
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(trickle, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        retry_policy = RetryPolicy(attempts=1, connect=120, read=120, total=0.3)
        async with PoliteClient("tested", url, rate=FAST, retry_policy=retry_policy) as client:
            with pytest.raises(SourceError) as caught:
                await client.get(url)
        assert caught.value.outcome is Outcome.TIMEOUT
        server.close()

    asyncio.run(run())


def test_a_closed_port_is_a_timeout_after_all_attempts(served):
    async def run(url: str) -> SourceError:
        async with PoliteClient("tested", url, rate=FAST, clock=VirtualTime().clock) as client:
            with pytest.raises(SourceError) as caught:
                await client.get(url)
            assert client.requests == RetryPolicy().attempts
            return caught.value

    # Nothing listens at a port that is only bound, and no other process can take it.
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        error = asyncio.run(run(f"http://127.0.0.1:{bound.getsockname()[1]}"))
    assert error.outcome is Outcome.TIMEOUT
    assert "could not be reached" in str(error)


def test_a_body_of_more_than_max_bytes_is_disallowed(served):
    at = served([answer(body=b"x" * 100_001)])
    error = at.failure(max_bytes=100_000)
    assert error.outcome is Outcome.DISALLOWED
    assert "larger than 100000 bytes" in str(error)
    assert len(at.server.requests) == 1
    assert at.get(max_bytes=100_001).content == b"x" * 100_001


@pytest.mark.slow
def test_a_compressed_body_that_expands_beyond_max_bytes_is_disallowed(served):
    bomb = gzip.compress(b"\0" * 50_000_000)
    assert len(bomb) < 100_000
    error = served([answer(body=bomb, Content_Encoding="gzip")]).failure(max_bytes=1_000_000)
    assert error.outcome is Outcome.DISALLOWED


def test_html_read_as_json_is_a_parse_error(served):
    response = served([answer(body=HTML, Content_Type="text/html")]).get()
    with pytest.raises(SourceError, match="did not answer with JSON") as caught:
        response.json()
    assert caught.value.outcome is Outcome.PARSE_ERROR


@pytest.mark.parametrize("body", [b'{"a": ', b"\xff\xfe", b"[" * 100_000, b""])
def test_invalid_json_is_a_parse_error(served, body):
    with pytest.raises(SourceError) as caught:
        served([answer(body=body)]).get().json()
    assert caught.value.outcome is Outcome.PARSE_ERROR


def test_a_redirect_on_the_same_host_is_followed(served):
    def handler(request: Request) -> Raw:
        return answer(302, Location="/there?x=1") if request.target == "/here" else answer(body=b"there")

    at = served(handler)
    assert at.get("/here", headers={"ApiKey": "k"}).content == b"there"
    assert [request.target for request in at.server.requests] == ["/here", "/there?x=1"]


def test_a_redirect_to_another_host_is_not_followed(served):
    other = served([answer(body=b"stolen")])
    at = served([answer(301, Location=f"{other.server.url}/x")])
    error = at.failure(headers={"ApiKey": "k"})
    assert error.outcome is Outcome.DISALLOWED
    assert "another host" in str(error)
    assert other.server.requests == []


def test_a_redirect_loop_has_the_outcome_disallowed(served):
    at = served([answer(302, Location="/")])
    assert at.failure().outcome is Outcome.DISALLOWED
    assert len(at.server.requests) < 10


@pytest.mark.parametrize("location", ["http://[", "mailto:x", ""])
def test_a_redirect_to_an_invalid_address_is_refused(served, location):
    assert served([answer(302, Location=location)]).failure().outcome in (
        Outcome.PARSE_ERROR,
        Outcome.DISALLOWED,
    )


def test_a_redirect_of_a_post_is_refused(served):
    at = served([answer(307, Location="/graphql/")])
    with pytest.raises(SourceError, match="make it the url") as caught:
        at.run(lambda client: client.post_json(f"{at.server.url}/graphql", {}))
    assert caught.value.outcome is Outcome.DISALLOWED


@pytest.mark.parametrize(
    "url", ["ftp://a.example/x", "file:///etc/passwd", "a.example", "http://", "http://[::1", ""]
)
def test_an_invalid_url_has_the_outcome_disallowed(served, url):
    at = served([answer()])
    with pytest.raises(SourceError) as caught:
        at.run(lambda client: client.get(url))
    assert caught.value.outcome is Outcome.DISALLOWED


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::1", "fe80::1", "fd00::1",
     "::ffff:127.0.0.1", "224.0.0.1"],
)  # fmt: skip
def test_a_host_with_an_address_of_a_private_network_is_refused(served, address):
    async def resolver(host: str, port: int) -> list[str]:
        return ["93.184.216.34", address]

    at = served([answer()], resolver=resolver)
    error = at.failure("http://pictures.example/1.jpg")
    assert error.outcome is Outcome.DISALLOWED
    assert at.server.requests == []


def test_another_port_of_the_source_is_refused_unless_it_is_trusted(served):
    other = served([answer(body=b"a picture")])
    at = served([answer()])
    assert at.failure(other.server.url).outcome is Outcome.DISALLOWED
    assert other.server.requests == []
    trusting = served([answer()], trusted_hosts=[f"127.0.0.1:{other.server.port}"])
    assert trusting.get(other.server.url).content == b"a picture"


@pytest.mark.parametrize("host", ["127.0.0.2", "localhost", "[::1]"])
def test_another_name_of_this_machine_has_the_outcome_disallowed_and_no_request(served, host):
    at = served([answer()])
    assert at.failure(f"http://{host}:{at.server.port}/").outcome is Outcome.DISALLOWED
    assert at.server.requests == []


KEY = "Key-of/this+box-0123456789"


@pytest.mark.parametrize(
    "told",
    [
        answer(307, Location=f"/x/{KEY}"),
        answer(307, Location=f"/{'x' * 150}/{KEY}"),
        answer(307, Location="http://u:Key-of%2Fthis%2Bbox-0123456789@b.example/x"),
        answer(body=b"<html>", Content_Type=f"text/{KEY}"),
        answer(body=b"not gzip", Content_Encoding="gzip", Content_Type=KEY),
        f"HTTP/1.1 200 OK\r\n{KEY}\r\n\r\n".encode(),
        f"HTTP/1.1 500 {KEY}\r\nContent-Length: 0\r\n\r\n".encode(),
    ],
    ids=["path", "where it is cut", "user", "content type", "broken body", "broken header", "reason"],
)
@pytest.mark.parametrize("header", [{"ApiKey": KEY}, {"Authorization": f"Bearer {KEY}"}])
def test_a_key_that_a_server_repeats_outside_of_its_body_is_in_no_message(served, told, header):
    at = served([told], retry_policy=RetryPolicy(attempts=1))
    for ask in (
        lambda client: client.post_json(f"{at.server.url}/", {}, headers=header),
        lambda client: client.get(f"{at.server.url}/", headers=header),
    ):
        with pytest.raises(SourceError) as caught:
            at.run(lambda client, ask=ask: _json_of(ask(client)))
        assert not re.search("key-of|box-0123", str(caught.value), re.IGNORECASE)


async def _json_of(asked):
    return (await asked).json()


def test_a_redirect_from_https_to_http_is_refused():
    """The API key would be sent in clear text."""
    told = Response("https://a.example:8443/x", 302, {"location": "http://a.example:8443/x"}, b"", "tested")
    with pytest.raises(SourceError) as caught:
        redirect_target(told, str)
    assert caught.value.outcome is Outcome.DISALLOWED


@pytest.mark.slow
def test_two_content_codings_are_refused_before_anything_is_unpacked(served):
    once = gzip.compress(bytes(50_000_000))
    at = served(
        [answer(body=gzip.compress(once), Content_Encoding="gzip, gzip")],
        retry_policy=RetryPolicy(attempts=1),
    )
    assert at.failure().outcome is Outcome.PARSE_ERROR
    assert at.server.requests[0].headers["accept-encoding"] == "gzip, deflate"


def test_a_failure_with_a_broken_body_has_the_outcome_of_its_status(served):
    at = served([answer(404, body=b"no gzip", Content_Encoding="gzip")])
    assert at.failure().outcome is Outcome.NOT_FOUND


def test_a_name_without_an_address_is_a_timeout(served):
    async def resolver(host: str, port: int) -> list[str]:
        raise OSError("Name or service not known")

    at = served([answer()], resolver=resolver)
    assert at.failure("http://nowhere.example/").outcome is Outcome.TIMEOUT


def test_the_circuit_opens_after_consecutive_failures_and_closes_after_the_pause(served, virtual_time):
    retry_policy = replace(PATIENT, attempts=2, circuit_after=5, circuit_open=60)
    at = served([answer(503)], retry_policy=retry_policy)

    async def ask(client: PoliteClient) -> None:
        async def fails() -> SourceError:
            with pytest.raises(SourceError) as caught:
                await client.get(at.server.url)
            return caught.value

        assert not isinstance(await fails(), CircuitOpenError)
        assert not isinstance(await fails(), CircuitOpenError)
        await fails()
        asked = len(at.server.requests)
        assert asked == 5
        refused = await fails()
        assert isinstance(refused, CircuitOpenError)
        assert refused.outcome is Outcome.TIMEOUT
        assert len(at.server.requests) == asked
        virtual_time.seconds += 61
        at.server.handler = lambda _: answer(body=b"again")
        assert (await client.get(at.server.url)).content == b"again"

    at.run(ask)


def test_one_more_failure_after_the_pause_opens_the_circuit_again(served, virtual_time):
    retry_policy = replace(PATIENT, attempts=1, circuit_after=3, circuit_open=60)
    at = served([answer(403)], retry_policy=retry_policy)

    async def ask(client: PoliteClient) -> None:
        outcomes = []
        for wait in (0, 0, 0, 0, 61, 0):
            virtual_time.seconds += wait
            with pytest.raises(SourceError) as caught:
                await client.get(at.server.url)
            outcomes.append((type(caught.value), caught.value.outcome))
        blocked, opened = (HttpStatusError, Outcome.BLOCKED), (CircuitOpenError, Outcome.BLOCKED)
        assert outcomes == [blocked, blocked, blocked, opened, blocked, opened]

    at.run(ask)


def test_an_answer_resets_the_failures_of_the_circuit(served):
    retry_policy = replace(PATIENT, attempts=1, circuit_after=2)
    at = served(
        [answer(403), answer(404), answer(403), answer(200), answer(403), answer(404)],
        retry_policy=retry_policy,
    )

    async def ask(client: PoliteClient) -> None:
        for _ in range(6):
            try:
                await client.get(at.server.url)
            except CircuitOpenError:
                pytest.fail("the failures were not in a row")
            except SourceError:
                pass

    at.run(ask)


def test_a_challenge_is_blocked_and_not_retried(served):
    at = served([answer(503, HTML, cf_mitigated="challenge")])
    assert at.failure().outcome is Outcome.BLOCKED
    assert len(at.server.requests) == 1


@pytest.mark.slow
def test_api_and_images_of_a_host_share_one_even_pace(served):
    """In real time. A request may arrive late, but never before its time."""
    at = served([answer(body=b"{}")], rate=1200.0, clock=Clock())

    async def ask(client: PoliteClient) -> None:
        images = (client.get(f"{at.server.url}/images/{number}") for number in range(5))
        questions = (client.post_json(f"{at.server.url}/graphql", {}) for _ in range(5))
        await asyncio.gather(*images, *questions)

    began = time.monotonic()
    at.run(ask)
    arrived = sorted(request.arrived for request in at.server.requests)
    assert len(arrived) == 10
    for place, moment in enumerate(arrived):
        assert moment - began >= place * (0.05 - SLACK)


def test_host_of_returns_the_host_with_its_port():
    assert host_of("https://A.example/x") == "a.example:443"
    assert host_of("http://a.example:8080") == "a.example:8080"
    with pytest.raises(ValueError, match="not a web address"):
        host_of("a.example")


@pytest.mark.slow
@pytest.mark.parametrize(
    "said",
    [
        answer(404),
        answer(403),
        answer(429),
        answer(500),
        answer(302, Location="/performers/zq-anna"),
        answer(301, Location="http://other.example/zq-anna.jpg"),
        answer(body=b"x" * 2_000),
        answer(body=b"no gzip at all", Content_Encoding="gzip"),
        Raw(b"", silent=True),
        Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nzq"),
    ],
)
def test_no_failure_message_contains_the_path_of_the_url(served, said):
    """Messages go into the run history, which an erasure does not reach; the path of a page or image may be a name."""
    at = served([said], retry_policy=HASTY if said.silent else PATIENT)
    error: BaseException | None = at.failure("/performers/zq-anna?zq-anna", max_bytes=1_000)
    while error is not None:
        assert "zq-anna" not in str(error)
        error = error.__cause__


def test_a_json_error_does_not_contain_the_path_of_the_url(served):
    response = served([answer(body=HTML)]).get("/performers/zq-anna")
    with pytest.raises(SourceError, match="did not answer with JSON") as caught:
        response.json()
    assert "zq-anna" not in str(caught.value)


NO_HOSTS = [
    "https://cdn..example/x",
    "https://.example/x",
    f"https://{'a' * 64}.example/x",
    "https://./x",
    f"https://{'ä' * 60}.example/x",
]


@pytest.mark.parametrize("url", NO_HOSTS)
def test_a_host_name_that_cannot_be_encoded_is_no_web_address(served, url):
    with pytest.raises(ValueError, match="not a web address"):
        host_of(url)
    assert served([answer()]).failure(url).outcome is Outcome.DISALLOWED


@pytest.mark.parametrize("url", NO_HOSTS)
def test_a_redirect_to_a_host_name_that_cannot_be_encoded_is_refused(served, url):
    at = served([answer(302, Location=url)])
    # httpx refuses some of them while it reads the response.
    assert at.failure().outcome in (Outcome.PARSE_ERROR, Outcome.TIMEOUT)
    failure = at.run(lambda client: _caught(client.post_json(at.server.url, {})))
    assert failure.outcome in (Outcome.DISALLOWED, Outcome.TIMEOUT)


async def _caught(asked: Any) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await asked
    return caught.value


def test_host_of_encodes_international_names_in_ascii():
    assert host_of("https://MÜLLER.example/x") == "xn--mller-kva.example:443"
    assert host_of("https://example.com./x") == "example.com.:443"
    assert host_of("http://[::1]:8080/x") == "::1:8080"


def test_a_request_with_may_retry_is_retried_only_when_it_returns_true(served):
    at = served([answer(503)])
    assert at.failure(may_retry=lambda: False).outcome is Outcome.TIMEOUT
    assert len(at.server.requests) == 1
    assert at.failure(may_retry=lambda: True).outcome is Outcome.TIMEOUT
    assert len(at.server.requests) == 1 + PATIENT.attempts


def test_failures_with_may_retry_do_not_open_the_circuit_and_a_rate_limit_does(served):
    async def ask(client: PoliteClient, url: str) -> list[str]:
        return [type(await _caught(client.get(url, may_retry=lambda: False))).__name__ for _ in range(30)]

    at = served([answer(503)])
    assert set(at.run(lambda client: ask(client, at.server.url))) == {"HttpStatusError"}
    at = served([answer(429)])
    assert "CircuitOpenError" in at.run(lambda client: ask(client, at.server.url))


def test_a_closed_port_and_a_name_without_an_address_are_unreachable(served):
    async def ask_a_closed_port() -> SourceError:
        async with PoliteClient("tested", "http://127.0.0.1:9", rate=FAST, retry_policy=PATIENT) as client:
            return await _caught(client.get("http://127.0.0.1:9/", may_retry=lambda: False))

    assert isinstance(asyncio.run(ask_a_closed_port()), UnreachableError)

    async def nowhere(host: str, port: int) -> list[str]:
        raise socket.gaierror("Name or service not known")

    at = served([answer()], resolver=nowhere)
    assert isinstance(at.failure("https://gone.example/"), UnreachableError)
