"""PostgreSQL may end a session whose transaction is idle: no step of identity leaves one open while it computes."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.schema import source_performers
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.identity.linkage.overrides import Overrides
from stash_sense_pipeline.identity.rebuild import rebuild_identities
from stash_sense_pipeline_tests.identity.invented_population import make_population
from stash_sense_pipeline_tests.identity.population import HOSTS, NOW, store_many

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


def test_identities_of_many_records_are_built_where_a_transaction_may_idle_for_a_quarter_of_a_second(
    postgres_catalog_url: str,
) -> None:
    engine = open_catalog(postgres_catalog_url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(
            f"ALTER DATABASE {engine.url.database} SET idle_in_transaction_session_timeout = '250ms'"
        )
    engine.dispose()
    store_many(engine, make_population(6_000, 1).records.values())
    report = rebuild_identities(engine, HOSTS, Overrides(), NOW)
    # Far longer than a transaction may be idle.
    assert report.seconds > 1
    assert report.identities > 5_000
    one = (
        source_performers.c.source_id
        == sa.select(sa.func.min(source_performers.c.source_id)).scalar_subquery()
    )
    with writing(engine) as connection:
        connection.execute(
            source_performers.update().where(one).values(country="XX", changed_at=sa.func.now())
        )
    assert rebuild_identities(engine, HOSTS, Overrides(), NOW).incremental
    engine.dispose()
