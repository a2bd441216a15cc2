"""Limits of a sync: how far it reads back, how many records may vanish before it is believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any


@dataclass(frozen=True)
class SyncRules:
    """The numbers of a sync.

    `overlap`: how far below the watermark it reads again. Rows appear late, with the time at which their
    transaction began, and a server in a zone with daylight saving steps back an hour.
    More than `missing_count` records, or more than `missing_share` of the live ones, may not vanish before two
    sweeps agree. A share of a few records says nothing: up to `missing_always` may vanish from any source.
    """

    overlap: timedelta = timedelta(hours=24)
    missing_count: int = 20
    missing_share: float = 0.01
    missing_always: int = 10

    def allowed_missing(self, live: int) -> int:
        """How many of `live` records may vanish at once."""
        return min(self.missing_count, max(self.missing_always, int(self.missing_share * live)))

    def allowed_short(self, count: int) -> int:
        """By how much a whole list may fall short of what the server counts: others write while it is read."""
        return max(self.missing_count, int(self.missing_share * count))


@dataclass(frozen=True)
class MissingVerdict:
    """`believed`: missing records to be asked for one by one. `refused`: what to remember of those that are too many,
    with their `ids` and the numbers; empty when none are. `message` says it in one line.
    """

    believed: tuple[str, ...]
    refused: Mapping[str, Any]
    message: str | None


def judge_missing(
    rules: SyncRules, live: int, missing: Sequence[str], before: Mapping[str, Any]
) -> MissingVerdict:
    """Judges `missing`, those of `live` records that a whole list of the source lacked, in their order.

    `before` is what the last sweep refused.
    """
    allowed = rules.allowed_missing(live)
    suspected = frozenset(before.get("ids", ()))
    fresh = [source_id for source_id in missing if source_id not in suspected]
    if len(fresh) <= allowed:
        return MissingVerdict(tuple(missing), {}, None)
    message = (
        f"{len(fresh)} of {live} performers are missing from the source's list, more than {allowed}; "
        "they stay until a second sweep agrees"
    )
    refused = {"ids": fresh, "count": len(fresh), "live": live, "allowed": allowed}
    return MissingVerdict(tuple(sorted(suspected.intersection(missing))), refused, message)
