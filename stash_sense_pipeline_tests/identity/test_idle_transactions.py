"""PostgreSQL may end a session with an idle transaction: no step of identity leaves one open while it computes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg2.extensions
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


class IdleWatch:
    """Measures how long the transactions of an engine wait for Python. Processor time: a loaded machine changes nothing."""

    def __init__(self, engine: sa.Engine) -> None:
        self.longest = 0.0
        self._since: dict[int, float] = {}
        watch = self

        class Connection(psycopg2.extensions.connection):
            def commit(self) -> None:
                watch.request(self, super().commit)

            def rollback(self) -> None:
                watch.request(self, super().rollback)

        class Cursor(psycopg2.extensions.cursor):
            def execute(self, *arguments: Any) -> None:
                watch.request(self.connection, super().execute, *arguments)

            def executemany(self, *arguments: Any) -> None:
                watch.request(self.connection, super().executemany, *arguments)

            def fetchmany(self, *arguments: Any) -> Any:
                fetch = super().fetchmany
                # Only a named cursor asks the server.
                return watch.request(self.connection, fetch, *arguments) if self.name else fetch(*arguments)

        def use(dialect: Any, record: Any, arguments: Any, named: dict[str, Any]) -> None:
            named |= {"connection_factory": Connection, "cursor_factory": Cursor}

        sa.event.listen(engine, "do_connect", use)
        engine.dispose()

    def request(self, connection: Any, send: Callable[..., Any], *arguments: Any) -> Any:
        """Sends a request. Until it began and from its end on, an open transaction is idle."""
        began = self._since.pop(id(connection), None)
        if began is not None:
            self.longest = max(self.longest, time.process_time() - began)
        try:
            return send(*arguments)
        finally:
            if connection.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_INTRANS:
                self._since[id(connection)] = time.process_time()


def test_no_transaction_is_idle_for_long_while_identities_of_many_records_are_built(
    postgres_catalog_url: str,
) -> None:
    engine = open_catalog(postgres_catalog_url)
    store_many(engine, make_population(6_000, 1).records.values())
    watch, began = IdleWatch(engine), time.process_time()
    report = rebuild_identities(engine, HOSTS, Overrides(), NOW)
    seconds = time.process_time() - began
    assert report.identities > 5_000
    assert 0 < watch.longest < seconds / 10
    one = (
        source_performers.c.source_id
        == sa.select(sa.func.min(source_performers.c.source_id)).scalar_subquery()
    )
    with writing(engine) as connection:
        connection.execute(
            source_performers.update().where(one).values(country="XX", changed_at=sa.func.now())
        )
    assert rebuild_identities(engine, HOSTS, Overrides(), NOW).incremental
    assert watch.longest < seconds / 10
    engine.dispose()
