"""Limits of a sync: how far back an increment reads, and how many records may disappear at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from stash_sense_pipeline.settings.schema import MISSING_ALWAYS, MISSING_RECORDS, MISSING_SHARE


@dataclass(frozen=True)
class SyncRules:
    """The limits of a sync.

    An increment starts `overlap` before the watermark. Rows appear late, with the time at which their transaction
    began, and the clock of a server with daylight saving time goes back by an hour.
    When more than `missing_count` records, or more than `missing_share` of the live ones, are missing, they are believed
    missing only after a second sweep. Up to `missing_always` may be missing from any source: of a small source a share
    means little.
    """

    overlap: timedelta = timedelta(hours=24)
    missing_count: int = MISSING_RECORDS
    missing_share: float = MISSING_SHARE
    missing_always: int = MISSING_ALWAYS

    def allowed_missing(self, live: int) -> int:
        """How many of `live` records may be missing in one sweep."""
        return min(self.missing_count, max(self.missing_always, int(self.missing_share * live)))

    def allowed_short(self, count: int) -> int:
        """By how much a whole list may be shorter than the server's count, which changes while the list is read."""
        return max(self.missing_count, int(self.missing_share * count))


@dataclass(frozen=True)
class MissingVerdict:
    """The verdict on missing records.

    `believed` are the missing records to request by id. `refused` describes the others, with their `ids` and numbers, for
    the next sweep; it is empty when there are none. `message` explains a refusal in one line.
    """

    believed: tuple[str, ...]
    refused: Mapping[str, Any]
    message: str | None


def judge_missing(
    rules: SyncRules, live: int, missing: Sequence[str], before: Mapping[str, Any]
) -> MissingVerdict:
    """Judges `missing`, the ids that a whole list of the source lacked, of `live` records in the catalog.

    `before` is `refused` of the last sweep.
    """
    allowed = rules.allowed_missing(live)
    suspected = frozenset(before.get("ids", ()))
    fresh = [source_id for source_id in missing if source_id not in suspected]
    if len(fresh) <= allowed:
        return MissingVerdict(tuple(missing), {}, None)
    message = (
        f"{len(fresh)} of {live} performers are missing from the source's list, more than {allowed}; "
        "they are kept until a second sweep confirms it"
    )
    refused = {"ids": fresh, "count": len(fresh), "live": live, "allowed": allowed}
    return MissingVerdict(tuple(sorted(suspected.intersection(missing))), refused, message)
