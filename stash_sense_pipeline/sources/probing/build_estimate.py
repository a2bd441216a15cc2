"""The estimate of a first build: performers, pictures, hours and disk, from the beginning of each stash-box's list."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from stash_sense_pipeline.settings.schema import Settings, StashBoxSettings
from stash_sense_pipeline.sources.stash_boxes.stash_box_records import ListSample

_RECORDS_A_REQUEST = 100
# Measured on the demo, see docs/first-build.md: the rows and vectors of a face in the catalog, a face in a release with
# its zip, and an aligned face that is kept.
CATALOG_BYTES_A_FACE = 12_000
RELEASE_BYTES_A_FACE = 10_000
CROP_BYTES_A_FACE = 20_000
# A new release is complete before the last one is replaced.
_RELEASES = 2

ASSUMPTIONS = (
    "assumed: the first performers of a list are like the rest, each picture has a usable face, none beyond max_faces "
    "is fetched, and sources answer as fast as their rate_limit allows; reference sites are not counted"
)


@dataclass(frozen=True)
class SourceEstimate:
    """The first build of one stash-box. `is_lower_bound`: its list is shorter than the number of its performers."""

    source: str
    host: str
    performers: int
    pictures: int
    hours: float
    is_lower_bound: bool


@dataclass(frozen=True)
class BuildEstimate:
    """The first build of several stash-boxes. `hours` is that of the slowest host: hosts are read side by side."""

    sources: tuple[SourceEstimate, ...]
    performers: int
    pictures: int
    hours: float
    disk_bytes: int


def estimate_source(box: StashBoxSettings, sample: ListSample, *, faces: bool = True) -> SourceEstimate:
    """Performers times the mean number of pictures in the sample, at most `max_faces` of a performer.

    A picture is one request, and so are 100 records. Without `faces` no picture is fetched.
    """
    taken = [min(count, box.max_faces) for count in sample.pictures] if faces else []
    mean = sum(taken) / len(taken) if taken else 0.0
    pictures = round(sample.performers * mean)
    requests = math.ceil(sample.performers / _RECORDS_A_REQUEST) + pictures
    return SourceEstimate(
        source=box.name,
        host=urlsplit(box.url).netloc.lower(),
        performers=sample.performers,
        pictures=pictures,
        hours=requests / box.rate_limit / 60,
        is_lower_bound=sample.is_capped,
    )


def estimate_build(sources: Sequence[SourceEstimate], *, keep_crops: bool) -> BuildEstimate:
    """The sums over the sources. Sources of one host share its rate limit, so their hours add up."""
    hours: dict[str, float] = defaultdict(float)
    for source in sources:
        hours[source.host] += source.hours
    pictures = sum(source.pictures for source in sources)
    a_face = CATALOG_BYTES_A_FACE + _RELEASES * RELEASE_BYTES_A_FACE + keep_crops * CROP_BYTES_A_FACE
    return BuildEstimate(
        sources=tuple(sources),
        performers=sum(source.performers for source in sources),
        pictures=pictures,
        hours=max(hours.values(), default=0.0),
        disk_bytes=pictures * a_face,
    )


def estimate_samples(
    settings: Settings, samples: Mapping[str, ListSample], *, faces: bool = True
) -> BuildEstimate | None:
    """The estimate for the stash-boxes with a sample, in the order of the settings; None when there are none."""
    sources = [
        estimate_source(box, samples[name], faces=faces)
        for name, box in settings.stash_boxes.items()
        if name in samples
    ]
    return estimate_build(sources, keep_crops=settings.global_.keep_aligned_crops) if sources else None


def estimate_lines(estimate: BuildEstimate) -> list[str]:
    """The estimate for a person: a line for each source, their sum, and the assumptions. Lines are not wrapped."""
    width = max((len(source.source) for source in estimate.sources), default=0)
    width = max(width, len("together")) if len(estimate.sources) > 1 else width
    lines = ["first build, estimated:"]
    for source in estimate.sources:
        least = "at least " if source.is_lower_bound else ""
        lines.append(
            f"  {source.source:{width}}  {least}{source.performers:,} performers, {source.pictures:,} pictures, "
            f"{duration_text(source.hours)}"
        )
    if len(estimate.sources) > 1:
        lines.append(
            f"  {'together':{width}}  {estimate.performers:,} performers, {estimate.pictures:,} pictures, "
            f"{duration_text(estimate.hours)} side by side"
        )
    lines.append(f"  disk: {size_text(estimate.disk_bytes)}, with the first release and its zip")
    lines.append(f"  {ASSUMPTIONS}")
    return lines


def duration_text(hours: float) -> str:
    """A duration in the largest unit of which there are at least two: `under a minute`, `40 minutes`, `29 hours`."""
    for unit, length in (("days", 24.0), ("hours", 1.0), ("minutes", 1 / 60)):
        if hours >= 2 * length:
            return f"{hours / length:.0f} {unit}"
    return "a minute" if hours >= 1 / 60 else "under a minute"


def size_text(size: int) -> str:
    """A size in decimal units of bytes: `340 MB`, `13 GB`."""
    if size >= 10_000_000_000:
        return f"{size / 1e9:,.0f} GB"
    if size >= 1_000_000_000:
        return f"{size / 1e9:.1f} GB"
    return f"{math.ceil(size / 1e6)} MB"
