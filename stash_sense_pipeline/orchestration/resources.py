"""The resources of a run: settings, environment, catalog, progress."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import dagster as dg

from stash_sense_pipeline.foundation.progress import Progress
from stash_sense_pipeline.orchestration.step_progress import log_step_progress
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings

if TYPE_CHECKING:
    import sqlalchemy as sa


class Catalog:
    """The catalog of a run, opened at first use so that definitions load without a database."""

    def __init__(self, url: str) -> None:
        self._url = url

    @cached_property
    def engine(self) -> sa.Engine:
        """The engine of the catalog. Raises CatalogError when it cannot be opened."""
        from stash_sense_pipeline.catalog.engine import open_catalog

        return open_catalog(self._url)

    def close(self) -> None:
        """Closes the connections, if any were opened."""
        if "engine" in self.__dict__:
            self.engine.dispose()


@dataclass(frozen=True)
class SourceRun:
    """What a step works with that handles one source."""

    source: str
    settings: Settings
    environment: Environment
    catalog: Catalog
    progress: Progress


def build_resources(settings: Settings, environment: Environment) -> dict[str, Any]:
    """Resources by name: `settings`, `environment`, `catalog` (Catalog) and `progress` (ProgressFactory).

    They are plain objects and not ConfigurableResources: the UI shows the configuration of a ConfigurableResource, and a
    catalog URL or a key may hold a secret.
    """

    @dg.resource(description="The catalog, opened at first use")
    def catalog(context: dg.InitResourceContext) -> Iterator[Catalog]:
        opened = Catalog(environment.catalog_url)
        try:
            yield opened
        finally:
            opened.close()

    return {
        "settings": dg.ResourceDefinition.hardcoded_resource(settings, "sources.yaml, validated"),
        "environment": dg.ResourceDefinition.hardcoded_resource(
            environment, "Paths and keys of this machine"
        ),
        "catalog": catalog,
        "progress": dg.ResourceDefinition.hardcoded_resource(
            log_step_progress, "Reports the progress of a step"
        ),
    }
