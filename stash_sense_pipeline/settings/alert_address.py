"""Which addresses STASH_SENSE_ALERT_URL may be, and how an alert goes to each."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import apprise

# Hosts with addresses that need no prefix.
_KNOWN_HOSTS = {"ntfy.sh": "ntfy", "discord.com": "discord", "discordapp.com": "discord"}


def kind_and_address(url: str) -> tuple[str, str]:
    """`ntfy`, `discord`, `json` or `apprise`, and the address without the prefix."""
    prefix, plus, rest = url.partition("+")
    if plus and prefix in ("ntfy", "discord") and urlsplit(rest).scheme in ("http", "https"):
        return prefix, rest
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return "apprise", url
    return _KNOWN_HOSTS.get(parts.hostname or "", "json"), url


def is_alert_address(url: str) -> bool:
    """False for a text that is no address of a known form. The service is not asked."""
    kind, address = kind_and_address(url)
    return apprise_service(address) is not None if kind == "apprise" else bool(urlsplit(address).netloc)


def apprise_service(address: str) -> apprise.Apprise | None:
    """The service of Apprise at this address; None when Apprise does not know it."""
    # Imported here: it takes a second, and most addresses do without it.
    import apprise

    # Its log lines hold addresses, which are secrets.
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    service = apprise.Apprise()
    return service if service.add(address) else None
