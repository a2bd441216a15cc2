"""Refused images: when each is looked at again, when a refusal is final, and how many at once are not believed.

An image is refused when its source answers that there is none (404, 410), sends us to another host, or names an address that
we may not fetch; and when it failed so often that it was given up.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

# A nightly run does not begin at the same minute each night.
_EARLIER = timedelta(hours=4)
# Days between one look and the next.
_DISTANCES = (1, 3, 9, 27, 81)
# Refused on so many different days, an image is not asked for again.
FINAL_REFUSALS = len(_DISTANCES) + 1


def next_look(refusals: int, now: datetime) -> datetime | None:
    """When to look again at an image that was refused on so many days, today included; None when that is final."""
    if refusals >= FINAL_REFUSALS:
        return None
    return now + timedelta(days=_DISTANCES[max(0, refusals - 1)]) - _EARLIER


def next_night(now: datetime) -> datetime:
    """When to look again at an image that this run says nothing about."""
    return now + timedelta(days=1) - _EARLIER


@dataclass(frozen=True)
class RefusalRules:
    """How many images may be refused for the first time in one run: up to `images`, or `share` of those asked for.

    Dead links are a few in a hundred, and a storage that is away takes nearly all answers, or one part in the number of
    its servers: a tenth lies between.
    """

    images: int = 20
    share: float = 0.1

    def allowed(self, asked: int) -> int:
        """How many of `asked` images may be refused at once."""
        return max(self.images, int(self.share * asked))
