"""The address guard: which addresses are public, and that a connection goes to a checked address only."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.sources.http.address_guard import AddressGuard, RefusedAddressError, is_public

PRIVATE_IPV4 = [
    "127.0.0.1",
    "10.1.2.3",
    "192.168.1.1",
    "169.254.169.254",
    "172.16.0.1",
    "100.64.0.1",
    "0.0.0.0",
]


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:4700::1111", "::ffff:93.184.216.34"])
def test_a_global_unicast_address_is_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *PRIVATE_IPV4,
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fd00::1",
        "fec0::1",
        "ff02::1",
        # Not for hosts, or not allocated: local routers may send them anywhere.
        *(
            "192.0.0.9",
            "192.88.99.1",
            "100:0:0:1::1",
            "200::1",
            "3fff::1",
            "4000::1",
            "5f00::1",
            "64:ff9b:2::1",
        ),
    ],
)
def test_an_address_of_a_private_network_is_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "prefix", ["::ffff:0:0", "::ffff:0:0:0", "::", "64:ff9b::", "64:ff9b:1::", "2002:{}::", "2001:0:{}::"]
)
@pytest.mark.parametrize("embedded", PRIVATE_IPV4)
def test_an_ipv6_form_that_embeds_a_private_ipv4_address_is_not_public(prefix, embedded):
    number = int(ipaddress.IPv4Address(embedded))
    if "{}" in prefix:
        text = prefix.format(f"{number >> 16:x}:{number & 0xFFFF:x}")
    else:
        text = str(ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | number))
    assert not is_public(text)


@pytest.mark.slow
@given(st.ip_addresses(v=4).filter(lambda address: not address.is_global))
def test_no_form_of_a_private_ipv4_address_is_public(address):
    number = int(address)
    forms = [
        0,
        0xFFFF << 32,
        int(ipaddress.IPv6Address("64:ff9b::")),
        int(ipaddress.IPv6Address("64:ff9b:1::")),
    ]
    assert not is_public(str(address))
    assert not any(is_public(str(ipaddress.IPv6Address(form | number))) for form in forms)


class Recorder(httpx.AsyncBaseTransport):
    """Answers each request and records its address; addresses in `dead` refuse the connection."""

    def __init__(self, dead: Sequence[str] = ()) -> None:
        self.requests: list[httpx.Request] = []
        self.dead = dead

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.url.host in self.dead:
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(200)


def ask(
    url: str,
    answers: list[list[str]],
    *,
    trusted: Sequence[str] = (),
    dead: Sequence[str] = (),
    times: int = 1,
):
    """Requests a URL; the name server returns the next of `answers` each time. Returns transport and lookups."""
    recorder = Recorder(dead)
    lookups: list[str] = []

    async def resolver(host: str, port: int) -> list[str]:
        lookups.append(host)
        return answers[min(len(lookups), len(answers)) - 1]

    async def run() -> None:
        async with httpx.AsyncClient(transport=AddressGuard(trusted, lambda: recorder, resolver)) as client:
            for _ in range(times):
                await client.get(url)

    asyncio.run(run())
    return recorder, lookups


def test_the_connection_goes_to_the_checked_address_under_the_name_of_the_url():
    recorder, _ = ask("https://pictures.example/1.jpg", [["93.184.216.34"]])
    (request,) = recorder.requests
    assert request.url.host == "93.184.216.34"
    assert request.headers["host"] == "pictures.example"
    assert request.extensions["sni_hostname"] == "pictures.example"


def test_a_name_that_resolves_to_loopback_the_second_time_is_connected_at_the_first_address():
    recorder, lookups = ask("http://changing.example/", [["93.184.216.34"], ["127.0.0.1"]], times=3)
    assert [request.url.host for request in recorder.requests] == ["93.184.216.34"] * 3
    assert lookups == ["changing.example"]


def test_a_host_with_one_private_address_among_public_ones_is_refused():
    with pytest.raises(RefusedAddressError):
        ask("http://mixed.example/", [["93.184.216.34", "10.0.0.1"]])


def test_the_next_address_is_tried_when_a_connection_is_refused():
    recorder, _ = ask("http://two.example/", [["2606:4700::1111", "93.184.216.34"]], dead=["2606:4700::1111"])
    assert [request.url.host for request in recorder.requests] == ["2606:4700::1111", "93.184.216.34"]


def test_a_host_with_no_reachable_address_is_resolved_again():
    recorder = Recorder(dead=["93.184.216.34"])
    answers = [["93.184.216.34"], ["93.184.216.35"]]

    async def resolver(host: str, port: int) -> list[str]:
        return answers.pop(0)

    async def run() -> None:
        async with httpx.AsyncClient(transport=AddressGuard((), lambda: recorder, resolver)) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("http://moved.example/")
            assert (await client.get("http://moved.example/")).status_code == 200

    asyncio.run(run())


def test_a_trusted_host_is_not_resolved_here_and_keeps_its_name():
    recorder, lookups = ask("http://nas.local:9000/1.jpg", [["10.0.0.1"]], trusted=["nas.local:9000"])
    assert (recorder.requests[0].url.host, lookups) == ("nas.local", [])


@pytest.mark.parametrize(
    "url", ["http://nas.local/1.jpg", "http://nas.local:9001/1.jpg", "https://nas.local/"]
)
def test_another_port_of_a_trusted_host_is_refused(url):
    with pytest.raises(RefusedAddressError):
        ask(url, [["10.0.0.1"]], trusted=["nas.local:9000"])
