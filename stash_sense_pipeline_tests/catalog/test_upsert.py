from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stash_sense_pipeline.catalog.schema import (
    performer_aliases,
    source_images,
    source_performers,
    sync_state,
)
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.catalog.upsert import _halving_batches, batched, upsert

NOW = datetime(2026, 11, 20, tzinfo=UTC)


def put(engine, rows, **options):
    with writing(engine) as connection:
        upsert(connection, sync_state, rows, **options)


def stored(engine):
    with reading(engine) as connection:
        query = sa.select(sync_state.c.source, sync_state.c.last_outcome, sync_state.c.last_message)
        return {row.source: (row.last_outcome, row.last_message) for row in connection.execute(query)}


def test_new_rows_are_inserted_and_known_ones_overwritten(any_catalog):
    put(any_catalog, [{"source": "a", "last_outcome": "x"}, {"source": "b", "last_outcome": "y"}])
    put(any_catalog, [{"source": "b", "last_outcome": "z"}, {"source": "c", "last_outcome": None}])
    assert stored(any_catalog) == {"a": ("x", None), "b": ("z", None), "c": (None, None)}


def test_columns_that_are_not_in_the_rows_stay(any_catalog):
    put(any_catalog, [{"source": "a", "last_outcome": "x", "last_message": "m"}])
    put(any_catalog, [{"source": "a", "last_outcome": "y"}])
    assert stored(any_catalog) == {"a": ("y", "m")}


def test_an_upsert_leaves_the_kept_columns_of_an_existing_row_unchanged(any_catalog):
    rows = [{"source": "a", "last_outcome": "x", "last_message": "m"}]
    put(any_catalog, rows, keep=frozenset({"last_message"}))
    put(
        any_catalog,
        [{"source": "a", "last_outcome": "y", "last_message": "n"}],
        keep=frozenset({"last_message"}),
    )
    assert stored(any_catalog) == {"a": ("y", "m")}


def test_with_nothing_to_change_a_known_row_stays(any_catalog):
    put(any_catalog, [{"source": "a", "last_outcome": "x"}])
    put(any_catalog, [{"source": "a"}, {"source": "b"}])
    assert stored(any_catalog) == {"a": ("x", None), "b": (None, None)}


def test_rows_are_equal_only_when_all_columns_of_a_compound_key_are(any_catalog):
    record = {"source": "s", "first_seen_at": NOW, "changed_at": NOW}
    rows = [{"source": "s", "source_id": i, "alias": a} for i in ("1", "2") for a in ("x", "y")]
    with writing(any_catalog) as connection:
        upsert(connection, source_performers, [{**record, "source_id": i} for i in ("1", "2")])
        upsert(connection, performer_aliases, rows)
        upsert(connection, performer_aliases, rows)
        found = connection.execute(sa.select(performer_aliases)).mappings().all()
    assert sorted(map(dict, found), key=lambda row: (row["source_id"], row["alias"])) == rows


@pytest.mark.parametrize("count", [0, 1, 499, 500, 501, 2345])
def test_an_upsert_of_0_to_many_rows_inserts_and_then_updates_each(any_catalog, count):
    put(any_catalog, [{"source": f"s{number}", "last_outcome": str(number)} for number in range(count)])
    put(any_catalog, [{"source": f"s{number}", "last_outcome": f"n{number}"} for number in range(count)])
    assert stored(any_catalog) == {f"s{number}": (f"n{number}", None) for number in range(count)}


def test_wide_rows_stay_below_the_limits_of_the_databases(any_catalog):
    row = {column.name: None for column in source_images.c}
    row |= {"source": "s", "url": "u", "state": "pending", "attempts": 0, "refusals": 0}
    with writing(any_catalog) as connection:
        upsert(connection, source_images, [{**row, "image_id": str(number)} for number in range(3000)])
        assert connection.scalar(sa.select(sa.func.count()).select_from(source_images)) == 3000


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), max_size=12))
def test_the_last_of_rows_with_one_key_counts(any_catalog, pairs):
    with writing(any_catalog) as connection:
        connection.execute(sa.delete(sync_state))
    put(any_catalog, [{"source": source, "last_outcome": outcome} for source, outcome in pairs])
    assert stored(any_catalog) == {source: (outcome, None) for source, outcome in dict(pairs).items()}


def test_a_row_without_its_key_is_refused(any_catalog):
    with pytest.raises(ValueError, match="upsert into sync_state without primary key column source"):
        put(any_catalog, [{"last_outcome": "x"}])


def test_rows_of_different_columns_are_refused(any_catalog):
    with pytest.raises(ValueError, match="upsert into sync_state: rows of different columns"):
        put(any_catalog, [{"source": "a"}, {"source": "b", "last_outcome": "x"}])
    assert stored(any_catalog) == {}


@given(st.lists(st.integers()), st.integers(1, 7))
def test_batches_hold_all_items_in_order(items, size):
    batches = list(batched(items, size))
    assert [item for batch in batches for item in batch] == items
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(0 < len(batch) <= size for batch in batches)


@given(st.lists(st.integers(), max_size=300), st.integers(1, 50))
def test_halving_batches_hold_all_items_in_order_and_have_few_lengths(items, most):
    batches = list(_halving_batches(items, most))
    assert [item for batch in batches for item in batch] == items
    assert {len(batch) for batch in batches} <= {most >> halved for halved in range(6)} - {0}
