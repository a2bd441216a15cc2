"""The clock of the servers, which tests can stop and set."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_WITHOUT_ZONE = _EPOCH.replace(tzinfo=None)
_MICROSECOND = timedelta(microseconds=1)
# Uneven, so that some timestamps end in zeros, which the servers drop.
_STEPS = (1_234_567, 500_000, 2_000_000, 765_430, 1_000_003)


def to_micros(moment: datetime) -> int:
    """Microseconds since 1970 of an aware datetime."""
    return (moment - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """The UTC datetime of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=micros)


def rfc3339(micros: int) -> str:
    """A moment as Go writes RFC3339Nano: UTC with Z, and no trailing zeros in the fraction."""
    text = (_EPOCH_WITHOUT_ZONE + timedelta(microseconds=micros)).isoformat()
    return f"{text.rstrip('0') if micros % 1_000_000 else text}Z"


def parse_rfc3339(text: str) -> int:
    """Microseconds since 1970 of an RFC 3339 text with an offset or Z. Raises ValueError for other texts."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return to_micros(moment)


class Clock:
    """The clock of one server. It stands still between changes, and advances with each change."""

    def __init__(self, start: datetime) -> None:
        self._lock = threading.Lock()
        self._now = to_micros(start)
        self._ticks = 0
        self._frozen = False

    def now(self) -> int:
        """The present moment in microseconds since 1970."""
        return self._now

    def stamp(self) -> int:
        """Advances (unless frozen) and returns the new moment: the start of the next transaction."""
        with self._lock:
            if not self._frozen:
                self._now += _STEPS[self._ticks % len(_STEPS)]
                self._ticks += 1
            return self._now

    def set(self, moment: datetime) -> None:
        """Sets the clock to any moment."""
        with self._lock:
            self._now = to_micros(moment)

    def advance(self, seconds: float) -> None:
        """Moves the clock by some seconds, backwards if negative."""
        with self._lock:
            self._now += round(seconds * 1_000_000)

    def freeze(self, frozen: bool = True) -> None:
        """While frozen, every change gets the same timestamp, as in a bulk update."""
        with self._lock:
            self._frozen = frozen
