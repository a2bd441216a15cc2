"""The health of each source: what keeps it from being read or up to date, and what an operator can do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from stash_sense_pipeline.foundation.errors import Outcome
from stash_sense_pipeline.foundation.progress import duration_text
from stash_sense_pipeline.sources.health.next_step import next_step

if TYPE_CHECKING:
    from stash_sense_pipeline.catalog.queries.status import SourceStatus
    from stash_sense_pipeline.sources.reference_sites.enrichment.field_counts import FieldDrift

# A nightly refresh may be late by half a day; two missed nights are stale.
STALE_AFTER = timedelta(hours=36)


@dataclass(frozen=True)
class Advice:
    """One thing to do about a source. `failed`: it is not well, as opposed to a mere note."""

    source: str
    text: str
    failed: bool = True


def advice(
    status: SourceStatus, unusable: str | None, now: datetime, drifts: Sequence[FieldDrift] = ()
) -> Iterator[Advice]:
    """What to do about an enabled source.

    `unusable`: why it cannot be asked at all, see `connections.unusable`. `drifts`: fields that its pages lack now.
    """
    name = status.source
    if unusable is not None:
        yield Advice(name, unusable.removeprefix(f"{name}: "))
    elif status.last_sync is None and status.last_outcome is None:
        yield Advice(name, f"was never read; run stash-sense build --sources {name}")
    elif status.last_outcome is not None and status.last_outcome != Outcome.FOUND:
        yield Advice(name, _failure(status))
    if status.left_alone_until is not None and status.left_alone_until > now:
        left = duration_text((status.left_alone_until - now).total_seconds())
        yield Advice(
            name, f"refused requests and is left alone for {left}; to ask it now: sources reset {name}"
        )
    if status.last_sync is not None and now - status.last_sync > STALE_AFTER:
        yield Advice(name, f"was not read for {duration_text((now - status.last_sync).total_seconds())}")
    if status.refused_images:
        yield Advice(
            name,
            f"the check no_mass_image_loss failed: {status.refused_images:,} images were refused; they are asked for"
            " again the next day",
        )
    if drifts:
        fields = "; ".join(map(str, drifts))
        yield Advice(
            name,
            f"the check no_field_drift failed: {fields}; the site changed its layout, or dropped the field: report it,"
            " or wait 30 days",
        )
    if status.unread:
        text = f"{status.unread:,} records cannot be read: stash-sense status --unread"
        yield Advice(name, text, failed=False)


def _failure(status: SourceStatus) -> str:
    outcome = Outcome(str(status.last_outcome))
    message = (status.last_message or f"no usable answer ({outcome.value})").removeprefix(
        f"{status.source}: "
    )
    step = next_step(status.source, outcome, message)
    return f"{message}; {step}" if step else message
