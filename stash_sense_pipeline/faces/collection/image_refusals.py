"""Refused images: when each is looked at again, when a refusal is final, and how many at once are not believed.

An image is refused when its source answers 404 or 410, redirects to another host, or lists an address that must not be
fetched. An image also counts as refused when its last permitted attempt failed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

# A nightly run starts at varying times: an image is due some hours before a whole day has passed.
_EARLIER = timedelta(hours=4)
# Days between one request and the next.
_DISTANCES = (1, 3, 9, 27, 81)
# After refusals on so many different days an image is not requested again.
FINAL_REFUSALS = len(_DISTANCES) + 1


def next_look(refusals: int, now: datetime) -> datetime | None:
    """The next attempt for an image with refusals on so many days, today included; None when the refusal is final."""
    if refusals >= FINAL_REFUSALS:
        return None
    return now + timedelta(days=_DISTANCES[max(0, refusals - 1)]) - _EARLIER


def next_night(now: datetime) -> datetime:
    """The next attempt for an image about which this run decided nothing."""
    return now + timedelta(days=1) - _EARLIER


@dataclass(frozen=True)
class RefusalRules:
    """How many images may be refused for the first time in one run: `images`, or `share` of the requested ones.

    A few images in a hundred are dead links. A storage outage refuses nearly all images, or one part in the number of
    its servers. A tenth lies between the two.
    """

    images: int = 20
    share: float = 0.1

    def allowed(self, asked: int) -> int:
        """How many of `asked` requested images may be refused for the first time."""
        return max(self.images, int(self.share * asked))
