from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from stash_sense_pipeline.catalog.column_types import UtcTime
from stash_sense_pipeline.catalog.schema import sync_state
from stash_sense_pipeline.catalog.transactions import reading, writing

ZONES = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))
# Without the ends of the range, where a time of another zone may have no UTC time.
TIMES = st.datetimes(timezones=ZONES).filter(lambda value: 1 < value.year < 9999)
DIALECT = sa.create_engine("sqlite://").dialect


def written(value):
    return UtcTime().process_bind_param(value, DIALECT)


def read(text):
    return UtcTime().process_result_value(text, DIALECT)


@pytest.mark.slow
@given(TIMES)
def test_a_time_comes_back_as_the_same_instant_in_utc(value):
    back = read(written(value))
    assert back == value
    assert back.tzinfo is UTC


@pytest.mark.slow
@given(TIMES, TIMES)
def test_the_order_of_texts_is_the_order_of_times(first, second):
    assert (written(first) < written(second)) == (first < second)
    assert (written(first) == written(second)) == (first == second)


@given(TIMES)
def test_each_time_is_stored_as_a_text_of_27_characters(value):
    assert len(written(value)) == len("2026-01-31T04:05:06.000007Z")


def test_the_format_is_the_one_documented():
    value = datetime(2026, 1, 31, 6, 5, 6, 7, tzinfo=timezone(timedelta(hours=2)))
    assert written(value) == "2026-01-31T04:05:06.000007Z"
    assert written(datetime(1, 1, 2, tzinfo=UTC)) == "0001-01-02T00:00:00.000000Z"


def test_null_is_stored_and_read_as_null():
    assert written(None) is None
    assert read(None) is None


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(ValueError, match="without a zone"):
        written(datetime(2026, 1, 31))  # noqa: DTZ001


def test_stored_times_sort_and_compare_in_order_of_time(any_catalog):
    start = datetime(2026, 1, 31, tzinfo=UTC)
    times = {f"s{number}": start + timedelta(microseconds=number**5) for number in range(20)}
    with writing(any_catalog) as connection:
        rows = [{"source": source, "last_sync_at": value} for source, value in times.items()]
        connection.execute(sa.insert(sync_state), rows)
    with reading(any_catalog) as connection:
        ordered = connection.execute(
            sa.select(sync_state.c.source, sync_state.c.last_sync_at).order_by(sync_state.c.last_sync_at)
        )
        assert [tuple(row) for row in ordered] == list(times.items())
        newer = sa.select(sa.func.count()).where(sync_state.c.last_sync_at > times["s10"])
        assert connection.scalar(newer) == 9
        assert connection.scalar(sa.select(sa.func.max(sync_state.c.last_sync_at))) == times["s19"]
