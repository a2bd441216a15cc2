"""Who may use the UI: the host names that it answers to, its path behind a proxy, and its password.

Imports no Dagster, which takes seconds.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stash_sense_pipeline.foundation.errors import ConfigurationError

HOSTS_VARIABLE = "STASH_SENSE_UI_HOSTS"
PASSWORD_VARIABLE = "STASH_SENSE_UI_PASSWORD_FILE"
PREFIX_VARIABLE = "STASH_SENSE_UI_PATH_PREFIX"

# A password is a line; a larger file is a mistake in its path.
_PASSWORD_FILE_BYTES = 1024
_NAME = re.compile(r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9_-]*[a-z0-9])?)*", re.ASCII)
_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^\[\]:]+)(:(?P<port>[0-9]{1,5}))?", re.ASCII)
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+", re.ASCII)
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class UiAccess:
    """The hosts that the UI answers to, and the digest of its password. `password` None means that none is required.

    `hosts` are lower-case names and canonical IP addresses. With `any_address` every IP address is accepted as well: a
    server that listens on all addresses does not know the address of a published port, and DNS rebinding needs a name.
    `path_prefix` is empty or begins with a slash.
    """

    hosts: frozenset[str]
    any_address: bool = False
    path_prefix: str = ""
    password: bytes | None = field(default=None, repr=False)

    def answers_to(self, host_header: str) -> bool:
        """True when the Host header names this UI."""
        parsed = parse_authority(host_header)
        if parsed is None:
            return False
        host = parsed[0]
        if host in self.hosts or host == "localhost":
            return True
        address = _address(host)
        return address is not None and (
            address.is_loopback or (self.any_address and not address.is_unspecified)
        )

    def is_password(self, given: str) -> bool:
        """True for the password, and when none is set. The comparison takes constant time."""
        return self.password is None or hmac.compare_digest(_digest(given), self.password)


def read_ui_access(variables: Mapping[str, str], cwd: Path, bound_to: str) -> UiAccess:
    """Reads the settings of the UI from environment variables. Relative paths start from `cwd`; empty means unset.

    `bound_to` is the address that the server listens on. Raises ConfigurationError, which names the variable.
    """
    values = {name: value.strip() for name, value in variables.items() if value.strip()}
    direct = PASSWORD_VARIABLE.removesuffix("_FILE")
    if direct in values:
        raise ConfigurationError(
            f"{direct} is not read, because environment variables are visible to other programs; "
            f"write the password to a file of mode 600 and set {PASSWORD_VARIABLE} to its path"
        )
    own = parse_host(bound_to)
    bound = _address(own) if own else None
    any_address = bound is not None and bound.is_unspecified
    hosts = {host for host in values.get(HOSTS_VARIABLE, "").split(",") if host.strip()}
    return UiAccess(
        hosts=frozenset({*map(_configured_host, hosts), *((own,) if own and not any_address else ())}),
        any_address=any_address,
        path_prefix=_path_prefix(values.get(PREFIX_VARIABLE, "")),
        password=_digest(read_password(cwd / Path(values[PASSWORD_VARIABLE]).expanduser()))
        if PASSWORD_VARIABLE in values
        else None,
    )


def read_password(path: Path) -> str:
    """The password in a file: its only line, without the line break at its end.

    Raises ConfigurationError when the file is missing, empty, something else than one line of text, or may be read or
    written by other users.
    """
    where = f"{PASSWORD_VARIABLE}: {path}"
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ConfigurationError(f"{where} is not a file")
        if found.st_mode & 0o077:
            raise ConfigurationError(
                f"{where} is open to other users (mode {found.st_mode & 0o777:03o}); run chmod 600 on it"
            )
        if found.st_size > _PASSWORD_FILE_BYTES:
            raise ConfigurationError(
                f"{where} is larger than {_PASSWORD_FILE_BYTES} bytes; that is not a password"
            )
        password = path.read_bytes().decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise ConfigurationError(f"{where} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigurationError(f"{where} is not a text file") from None
    if not password.strip():
        raise ConfigurationError(f"{where} is empty")
    if not password.isprintable():
        raise ConfigurationError(f"{where} holds more than one line, or a control character")
    return password


def parse_authority(text: str) -> tuple[str, int | None] | None:
    """Host and port of a Host header, or of the part of an origin after its scheme; None when it is malformed."""
    found = _AUTHORITY.fullmatch(text.lower())
    if found is None:
        return None
    host = parse_host(found["host"])
    port = int(found["port"]) if found["port"] else None
    if host is None or (port is not None and port > 65535):
        return None
    return host, port


def parse_host(text: str) -> str | None:
    """A host name in lower case without a final dot, or an IP address in its shortest form; None for any other text."""
    text = text.lower().removesuffix(".")
    address = _address(text.removeprefix("[").removesuffix("]"))
    if address is not None:
        return str(address)
    return text if _NAME.fullmatch(text) else None


def same_origin(origin: str, host_header: str) -> bool:
    """True when an Origin header names the same host and port as the Host header.

    The scheme is used only for a default port: behind a proxy with TLS the server itself sees plain HTTP.
    """
    scheme, separator, authority = origin.strip().lower().partition("://")
    page, server = parse_authority(authority), parse_authority(host_header)
    if not separator or scheme not in _DEFAULT_PORTS or page is None or server is None:
        return False
    default = _DEFAULT_PORTS[scheme]
    return (page[0], page[1] or default) == (server[0], server[1] or default)


def _configured_host(text: str) -> str:
    host = parse_host(text.strip())
    if host is None or "_" in host:
        raise ConfigurationError(
            f"{HOSTS_VARIABLE}: {text.strip()[:60]!r} is not a host name or an IP address "
            "(several are separated by commas; without scheme, port or wildcard)"
        )
    return host


def _path_prefix(text: str) -> str:
    if text and (_PREFIX.fullmatch(text) is None or {".", ".."} & set(text.split("/"))):
        raise ConfigurationError(
            f"{PREFIX_VARIABLE}: {text[:60]!r} is not a path that begins with a slash and ends without one, as in /pipeline"
        )
    return text


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _digest(password: str) -> bytes:
    return hashlib.sha256(password.encode()).digest()
