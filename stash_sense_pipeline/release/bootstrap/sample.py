"""The size of the sample, how it is spread over the sources, and what its comparisons say about a claim."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Two vectors of one face, made by the same networks from the same picture, differ by rounding only.
AGREEMENT = 0.999
# The share of compared faces that must agree: a source may have replaced a picture under its address.
AGREEING_SHARE = 0.99
# The share of a single source, of which few pictures may be in the sample.
SHARE_OF_A_SOURCE = 0.90
# A sample in which all faces agree shows, with the confidence that is asked for, that at least this share of all does.
SHOWN_SHARE = 0.985
# The default size shows this with a confidence of 95 %.
SAMPLE = 200
# So many pictures of each source are in the sample, where it has as many.
_LEAST_OF_A_SOURCE = 5
# With fewer comparisons than this share of the sample nothing is decided.
_ENOUGH = 0.5
# With so many comparisons a refusal need not wait for the rest of the sample.
_EARLY = 30
_BUCKETS = (0.0, 0.5, 0.9, 0.99, 0.995, 0.999)


def sample_size(confidence: float) -> int:
    """How many faces must all agree to show, with this confidence (0 to 1), that SHOWN_SHARE of all faces do."""
    return math.ceil(math.log(1 - confidence) / math.log(SHOWN_SHARE))


def spread(available: Mapping[str, int], size: int) -> dict[str, int]:
    """How many of the `available` faces of each source to compare: in proportion, and some of each source."""
    total = sum(available.values())
    if total <= size:
        return dict(available)
    return {
        source: min(count, max(_LEAST_OF_A_SOURCE, round(size * count / total)))
        for source, count in sorted(available.items())
    }


def bucket(cosine: float) -> str:
    """The name of the range of the histogram that a cosine is in."""
    if cosine >= AGREEMENT:
        return f"{AGREEMENT} and more"
    below = next((high for high in _BUCKETS if cosine < high), _BUCKETS[-1])
    return f"below {below:g}"


BUCKET_NAMES = (*(f"below {high:g}" for high in _BUCKETS), f"{AGREEMENT} and more")


@dataclass(frozen=True)
class Finding:
    """The comparisons of one embedder: `compared` faces, of which `agreed`, with the histogram of their cosines.

    `wrong_at_most`: with a confidence of 95 %, no larger share of all faces differs.
    """

    model: str
    compared: int
    agreed: int
    histogram: Mapping[str, int]
    wrong_at_most: float

    @property
    def agrees(self) -> bool:
        """True when the share that agrees is large enough."""
        return self.compared > 0 and self.agreed >= AGREEING_SHARE * self.compared


def findings(comparisons: Sequence[Mapping[str, float]]) -> list[Finding]:
    """The finding on each embedder, sorted by name. `comparisons` have the cosine by embedder, for each face."""
    found = []
    for model in sorted({model for cosines in comparisons for model in cosines}):
        values = [cosines[model] for cosines in comparisons if model in cosines]
        agreed = sum(value >= AGREEMENT for value in values)
        counts = Counter(map(bucket, values))
        found.append(
            Finding(
                model,
                len(values),
                agreed,
                {name: counts[name] for name in BUCKET_NAMES},
                wrong_share(len(values), len(values) - agreed),
            )
        )
    return found


def proven_sources(comparisons: Sequence[tuple[str, Mapping[str, float]]]) -> list[str]:
    """The sources of which enough compared faces agree in every embedder."""
    counts: dict[str, list[bool]] = {}
    for source, cosines in comparisons:
        counts.setdefault(source, []).append(min(cosines.values(), default=0.0) >= AGREEMENT)
    return sorted(source for source, agree in counts.items() if sum(agree) >= SHARE_OF_A_SOURCE * len(agree))


def is_enough(compared: int, wanted: int) -> bool:
    """True when so many comparisons decide about a claim."""
    return compared > 0 and compared >= _ENOUGH * wanted


def is_refuted(found: Sequence[Finding], wanted: int) -> bool:
    """True when the rest of the sample cannot save the claim, or the share that agrees is too small at its end."""
    allowed = (1 - AGREEING_SHARE) * wanted
    return any(
        finding.compared - finding.agreed > allowed
        for finding in found
        if finding.compared >= min(_EARLY, wanted)
    )


def wrong_share(compared: int, wrong: int, confidence: float = 0.95) -> float:
    """The upper limit of the share of wrong faces (Clopper and Pearson, 1934), at this confidence."""
    if compared == 0 or wrong >= compared:
        return 1.0
    low, high = wrong / compared, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _at_most(wrong, compared, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def _at_most(wrong: int, compared: int, share: float) -> float:
    """The probability of at most `wrong` wrong faces among `compared`, when `share` of all are wrong."""
    if share <= 0:
        return 1.0
    if share >= 1:
        return 0.0
    logs = (
        math.lgamma(compared + 1)
        - math.lgamma(k + 1)
        - math.lgamma(compared - k + 1)
        + k * math.log(share)
        + (compared - k) * math.log1p(-share)
        for k in range(wrong + 1)
    )
    return sum(map(math.exp, logs))
