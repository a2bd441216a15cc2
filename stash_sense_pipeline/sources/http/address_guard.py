"""The address guard: an httpx transport that connects only to addresses that it has checked."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

import httpx

Resolver = Callable[[str, int], Awaitable[list[str]]]

_DEFAULT_PORTS = {"http": 80, "https": 443}
# A name is resolved again after this time, even while connections to its address are open.
_KEPT_SECONDS = 60.0
# Other IPv6 addresses are special or not allocated (RFC 4291 2.4), although Python calls most of them global.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
# Networks with addresses that embed an IPv4 address, and networks that are not for hosts.
_REFUSED_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in (
        "2001::/23",  # Teredo and other protocols, RFC 2928
        "2002::/16",  # 6to4, RFC 3056
        "3fff::/20",  # documentation, RFC 9637
        "192.0.0.0/24",  # protocols, RFC 6890
        "192.88.99.0/24",  # relays of 6to4, RFC 7526
    )
)


class RefusedAddressError(Exception):
    """The host of a URL is invalid, or has an address that is not public. No request was sent."""


def host_of(url: str) -> str:
    """`host:port` in lower case and ASCII, with the default port of the scheme. ValueError for an invalid web address.

    A name that the socket layer cannot encode (an empty label, or a label of more than 63 characters) is invalid.
    """
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError("not a web address") from error
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    host = parts.raw_host.decode("ascii")
    if not host or port is None:
        raise ValueError("not a web address")
    try:
        host.encode("idna")
    except UnicodeError as error:
        raise ValueError("not a web address") from error
    return f"{host}:{port}"


async def resolve(host: str, port: int) -> list[str]:
    """The IP addresses of a host name. Raises OSError when it has none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def is_public(address: str) -> bool:
    """True for an IP address of the public Internet.

    False for private, loopback, link-local, multicast and unallocated addresses, and for IPv6 addresses that embed an
    IPv4 address. Only for an IPv4-mapped address the embedded address decides.
    """
    parsed = ipaddress.ip_address(address.split("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        elif parsed not in _GLOBAL_UNICAST:
            return False
    if any(parsed in network for network in _REFUSED_NETWORKS):
        return False
    return parsed.is_global and not parsed.is_multicast


@dataclass(frozen=True)
class _Checked:
    addresses: tuple[str, ...]
    until: float


class AddressGuard(httpx.AsyncBaseTransport):
    """Resolves each host, checks all of its addresses, and connects to those addresses.

    The connection is made to the checked IP address, with the name in the Host header and in the TLS handshake, so a
    second answer of the name server cannot redirect it. Hosts in `trusted` (`host:port`), which the operator configured,
    may be private. Each host has a transport of its own, because connections to one IP address must not be shared
    between names.
    """

    def __init__(
        self,
        trusted: Collection[str],
        make_transport: Callable[[], httpx.AsyncBaseTransport],
        resolver: Resolver = resolve,
    ) -> None:
        self._trusted = frozenset(trusted)
        self._make_transport = make_transport
        self._resolver = resolver
        self._transports: dict[str, httpx.AsyncBaseTransport] = {}
        self._checked: dict[str, _Checked] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends the request. Raises RefusedAddressError, OSError for a name without address, or httpx.TransportError."""
        host = host_of(str(request.url))
        origin = f"{request.url.scheme}://{host}"
        transport = self._transports.get(origin)
        if transport is None:
            transport = self._transports[origin] = self._make_transport()
        if host in self._trusted:
            return await transport.handle_async_request(request)
        try:
            return await self._send(transport, request, await self._addresses(host))
        except httpx.ConnectError:
            self._checked.pop(host, None)
            raise

    async def aclose(self) -> None:
        """Closes the connections to all hosts."""
        for transport in self._transports.values():
            await transport.aclose()

    async def _send(
        self, transport: httpx.AsyncBaseTransport, request: httpx.Request, addresses: Sequence[str]
    ) -> httpx.Response:
        *others, last = addresses
        for address in others:
            try:
                return await transport.handle_async_request(_addressed(request, address))
            except httpx.ConnectError:
                continue
        return await transport.handle_async_request(_addressed(request, last))

    async def _addresses(self, host: str) -> tuple[str, ...]:
        known = self._checked.get(host)
        if known is not None and time.monotonic() < known.until:
            return known.addresses
        name, _, port = host.rpartition(":")
        try:
            found = await self._resolver(name.strip("[]"), int(port))
        except UnicodeError as error:
            raise RefusedAddressError("names no host") from error
        addresses = tuple(dict.fromkeys(found))
        if not addresses:
            raise OSError("the name has no address")
        if not all(map(is_public, addresses)):
            raise RefusedAddressError("has an address that is not public")
        self._checked[host] = _Checked(addresses, time.monotonic() + _KEPT_SECONDS)
        return addresses


def _addressed(request: httpx.Request, address: str) -> httpx.Request:
    """The request with an IP address as its host. The Host header and the TLS server name are those of the URL."""
    extensions = {**request.extensions, "sni_hostname": request.url.raw_host.decode("ascii")}
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions=extensions,
    )
