"""The gender filter and the trial of a stash-box: what is stored, what is left out and counted, what a later run reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.schema import source_performers
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.foundation.errors import Outcome
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.servers import SandboxServers

from .conftest import refresh_from


@pytest.fixture(scope="module")
def servers() -> Iterator[SandboxServers]:
    """A small world with people of several genders, served."""
    with SandboxServers(make_demo_world(people=60)) as running:
        yield running


@pytest.fixture
def refresh(servers: SandboxServers, catalog: sa.Engine) -> Callable[..., Any]:
    def run(mode: str = "auto", source: str = "stashdb", **options: Any) -> Any:
        return refresh_from(servers, catalog, source, mode, **options)

    return run


def genders(engine: sa.Engine, source: str) -> set[str | None]:
    query = sa.select(source_performers.c.gender).where(
        source_performers.c.source == source, source_performers.c.deleted_at.is_(None)
    )
    with reading(engine) as connection:
        return set(connection.scalars(query))


@pytest.mark.slow
def test_records_of_other_genders_are_left_out_and_counted(refresh, catalog):
    everyone = refresh().live
    found = genders(catalog, "stashdb") - {None}
    assert len(found) > 1
    wanted = sorted(found)[0]
    # The filter is set later: what is stored of other genders goes at once.
    report = refresh(genders=(wanted,))
    assert genders(catalog, "stashdb") <= {wanted, None}
    assert report.live + report.other_gender == everyone
    assert report.outcome is Outcome.FOUND
    again = refresh("full_sweep", genders=(wanted,))
    assert (again.added, again.updated, again.removed, again.refused) == (0, 0, 0, 0)
    # The filter is taken away: a full sweep reads them again.
    assert refresh("full_sweep").live == everyone


def test_a_list_of_genders_lets_each_of_them_through(refresh, catalog):
    wanted = ("FEMALE", "NON_BINARY")
    report = refresh(genders=wanted)
    assert report.other_gender > 0
    assert genders(catalog, "stashdb") <= {*wanted, None}


@pytest.mark.slow
def test_theporndb_leaves_out_the_same_genders(refresh, catalog):
    report = refresh(source="theporndb", genders=("FEMALE",))
    assert genders(catalog, "theporndb") <= {"FEMALE", None}
    assert report.live + report.other_gender == report.listed
    assert refresh(source="theporndb", genders=("FEMALE",)).updated == 0


@pytest.mark.slow
def test_a_trial_stores_so_many_records_and_the_next_run_goes_on(refresh, servers):
    everyone = servers.world.boxes["stashdb"].count()
    report = refresh(max_records=7)
    assert (report.live, report.outcome, report.mode) == (7, Outcome.FOUND, "backfill")
    again = refresh(max_records=5)
    assert (again.live, again.mode, again.removed) == (12, "backfill", 0)
    full = refresh()
    assert (full.mode, full.live, full.removed, full.refused) == ("backfill", everyone, 0, 0)
    assert refresh().mode == "increment"


@pytest.mark.slow
def test_a_trial_of_theporndb_is_no_complete_read(refresh):
    assert refresh(source="theporndb", max_records=3).live == 3
    assert refresh(source="theporndb").mode == "backfill"
