"""Delivery of an alert to the address in STASH_SENSE_ALERT_URL."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from stash_sense_pipeline.foundation.errors import StashSenseError
from stash_sense_pipeline.settings.alert_address import apprise_service, kind_and_address

_TIMEOUT_SECONDS = 5.0
_ATTEMPTS = 3
_BETWEEN_ATTEMPTS_SECONDS = 1.0
_GOOD_NEWS = ("fresh_again", "accepted", "test")


class AlertError(StashSenseError):
    """The service did not accept an alert. The message holds no part of its address, which is a secret."""


@dataclass(frozen=True)
class Alert:
    """The content of an alert. Fields that do not apply are empty.

    `kind` is failing, blocked, stale, fresh_again, refused, accepted or test.
    """

    kind: str
    title: str
    message: str
    source: str = ""
    job: str = ""
    run_id: str = ""


def send_alert(url: str, alert: Alert) -> None:
    """Sends an alert. Raises AlertError after three attempts.

    `http(s)://` gets the fields of the alert as JSON, `ntfy+http(s)://` is an ntfy topic, `discord+http(s)://` a Discord
    webhook; the addresses of ntfy.sh and discord.com need no prefix. Any other address is one of Apprise, as in
    `mailto://`, `tgram://` or `gotifys://`.
    """
    kind, address = kind_and_address(url)
    problem = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_BETWEEN_ATTEMPTS_SECONDS)
        problem = _notify(address, alert) if kind == "apprise" else _post(address, _body(kind, alert))
        if not problem:
            return
    raise AlertError(
        f"STASH_SENSE_ALERT_URL did not accept the alert ({problem}); check the address and its server"
    )


def _body(kind: str, alert: Alert) -> Mapping[str, Any]:
    """The arguments of the request. Operators parse these forms, so they stay as they are."""
    if kind == "ntfy":
        return {"content": alert.message.encode(), "headers": {"Title": alert.title, "Tags": alert.kind}}
    if kind == "discord":
        content = f"**{alert.title}**\n{alert.message}"
        return {"json": {"content": content, "allowed_mentions": {"parse": []}}}
    return {"json": asdict(alert)}


def _post(address: str, body: Mapping[str, Any]) -> str:
    """Posts a request. Returns the problem; empty when it was accepted."""
    import httpx

    try:
        answer = httpx.post(address, timeout=_TIMEOUT_SECONDS, **body)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return type(error).__name__
    return "" if answer.is_success else f"status {answer.status_code}"


def _notify(address: str, alert: Alert) -> str:
    """Sends an alert with Apprise. Returns the problem; empty when it was accepted."""
    import apprise

    service = apprise_service(address)
    if service is None:
        raise AlertError(
            "STASH_SENSE_ALERT_URL is not an address that Apprise knows; "
            "https://github.com/caronc/apprise/wiki lists the forms"
        )
    good = alert.kind in _GOOD_NEWS
    sent = service.notify(
        title=alert.title,
        body=alert.message,
        notify_type=apprise.NotifyType.INFO if good else apprise.NotifyType.WARNING,
    )
    return "" if sent else "the service refused it or cannot be reached"
