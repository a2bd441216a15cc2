"""How often fields are found, and when a fall is a drift."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.sources.reference_sites.enrichment.field_counts import (
    ENOUGH_PAGES,
    FieldCounts,
    FieldHistory,
    PageCounts,
)

NIGHT = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def after(
    *nights: tuple[int, int], history: FieldHistory | None = None, start: datetime = NIGHT
) -> FieldHistory:
    """The history after nights of (links found, pages)."""
    history = history or FieldHistory()
    for night, (found, pages) in enumerate(nights):
        history = history.after({"profile": PageCounts(pages, {"links": found})}, start + night * DAY)
    return history


@pytest.mark.parametrize(
    ("nights", "drifts"),
    [
        ([(18, 20), (0, 20)], True),
        ([(90, 100), (0, 20)], True),
        ([(100, 100), (30, 100)], True),
        ([(90, 100), (80, 100)], False),
        # Fields that few pages have come and go by chance.
        ([(2, 20), (0, 20)], False),
        ([(9, 20), (2, 20)], False),
        # The second night is too small; with the third it is enough.
        ([(90, 100), (0, 12)], False),
        ([(90, 100), (0, 12), (0, 12)], True),
        ([(90, 100), (0, 20), (18, 20)], False),
        # What was found on no page cannot fall, nor what rises.
        ([(0, 100), (0, 100)], False),
        ([(0, 100), (90, 100)], False),
        ([(0, 30)], False),
    ],
)
def test_a_field_that_falls_by_half_and_not_by_chance_is_a_drift(nights, drifts):
    assert bool(after(*nights).drifts) == drifts


def test_a_drift_says_the_numbers_of_both_readings():
    (drift,) = after((90, 100), (3, 40)).drifts
    assert str(drift) == "links of profile pages: on 3 of 40, usually on 90 of 100"


def test_a_drift_stays_until_the_field_is_found_again_and_the_usual_share_is_that_before_it():
    drifting = after((90, 100), (0, 40), (1, 40))
    assert drifting.drifts[0].was_found == 90
    small = after((0, 3), history=drifting)
    assert small.drifts == drifting.drifts
    found_again = after((36, 40), history=drifting)
    assert (found_again.drifts, found_again.drifting_since) == ((), {})
    assert found_again.usual["profile"] == PageCounts(40, {"links": 36})


def test_after_thirty_days_the_absence_of_a_field_is_the_usual_state():
    drifting = after((90, 100), (0, 40))
    assert after((0, 40), history=drifting, start=NIGHT + 30 * DAY).drifts != ()
    accepted = after((0, 40), history=drifting, start=NIGHT + 31 * DAY)
    assert (accepted.drifts, accepted.usual["profile"].found) == ((), {"links": 0})


def test_page_types_are_judged_apart():
    pages = {"profile": PageCounts(30, {"links": 30}), "gallery": PageCounts(30, {"pictures": 30})}
    history = FieldHistory().after(pages, NIGHT)
    history = history.after({**pages, "gallery": PageCounts(30, {"pictures": 0})}, NIGHT + DAY)
    assert [(drift.page_type, drift.field) for drift in history.drifts] == [("gallery", "pictures")]
    assert after((30, 30), history=history).drifts == history.drifts


def test_a_run_counts_pages_and_the_fields_that_they_have():
    counts = FieldCounts()
    counts.note("profile", {"links": True, "gender": False})
    counts.note("profile", {"links": False, "gender": False})
    counts.note("gallery", {"pictures": True})
    assert counts.of_types() == {
        "gallery": PageCounts(1, {"pictures": 1}),
        "profile": PageCounts(2, {"links": 1, "gender": 0}),
    }


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8))
def test_any_history_is_the_same_after_it_was_stored(nights):
    history = after(*((min(pair), max(pair)) for pair in nights if max(pair)))
    assert FieldHistory.from_detail(json.loads(json.dumps(history.detail()))) == history
    assert all(counts.pages < ENOUGH_PAGES for counts in history.recent.values())
