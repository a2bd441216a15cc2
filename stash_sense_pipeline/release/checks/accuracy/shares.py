"""Shares of people with 95 % intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.release.build.graph.exact_search import Positions

Mask = NDArray[np.bool_]

# The 97.5 % quantile of the normal distribution.
_Z = 1.959964


@dataclass(frozen=True)
class Share:
    """A share of `people`, and its 95 % interval."""

    people: int
    share: float
    low: float
    high: float

    def __str__(self) -> str:
        """For example `1.2 % (0.6-2.4)`."""
        return f"{100 * self.share:.1f} % ({100 * self.low:.1f}-{100 * self.high:.1f})"


def share_of_people(person: Positions, event: Mask, counted: Mask) -> Share | None:
    """The mean over people of the share of their photographs with the event; None when no photograph is counted.

    `person`: the person's number of each photograph (q,). A person counts once, however many photographs are counted:
    photographs of one person are alike, and only people are independent. The interval is Wilson's for as many trials as
    there are people. It is too wide rather than too narrow, because a mean of shares varies at most as much as a mean of
    single trials.
    """
    photographs = np.bincount(person[counted])
    events = np.bincount(person[counted & event], minlength=len(photographs))
    seen = photographs > 0
    people = int(np.count_nonzero(seen))
    if people == 0:
        return None
    share = float(np.mean(events[seen] / photographs[seen]))
    return Share(people, share, *wilson_interval(share, people))


def wilson_interval(share: float, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson, 1927)."""
    spread = _Z**2 / trials
    centre = (share + spread / 2) / (1 + spread)
    half = (share * (1 - share) * spread + spread**2 / 4) ** 0.5 / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)
