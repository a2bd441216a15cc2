"""The check no_field_drift: two sites on loopback, one of which changes its layout between two nights."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml

from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.definitions import build_defs
from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.settings.sources_file import load_settings
from stash_sense_pipeline_tests.factories import add_rows, insert_rows, record_rows
from stash_sense_pipeline_tests.sources.loopback import LoopbackServer, Raw, Request, answer

from .conftest import environment_at

PEOPLE = 25
SITES = ("babepedia", "indexxx")


class TwoSites:
    """Pages of Babepedia and Indexxx for any name. `aliases_in`: the element with Babepedia's aliases."""

    aliases_in = 'h2 id="aka"'

    def __call__(self, request: Request) -> Raw:
        slug = unquote(request.target).rpartition("/")[2]
        name = slug.replace("_", " ").replace("-", " ").title()
        if request.target == "/robots.txt":
            return answer(404)
        if "/babe/" in request.target:
            body = f'<h1 id="babename">{name}</h1><{self.aliases_in}><small>Also known as</small> Exa {slug[-2:]}</h2>'
        else:
            body = (
                f'<h1 id="model-name">{name}</h1><div id="model-websites-box"><li><a class="websiteLink">x</a>'
                f'<span class="alias">Exa {slug[-2:]}</span></li></div>'
            )
        return answer(
            200, f"<html><body>{body}</body></html>".encode(), Content_Type="text/html; charset=utf-8"
        )


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[sa.Engine]:
    """The catalog of the environment at `tmp_path`."""
    engine = open_catalog(f"sqlite:///{tmp_path / 'catalog.db'}")
    yield engine
    engine.dispose()


def add_people(engine: sa.Engine, first: int) -> None:
    """Adds performers of StashDB, each with a page on both sites."""
    rows: dict = {}
    for number in range(first, first + PEOPLE):
        name = f"Invented {chr(65 + number // 26)}{chr(65 + number % 26)}son"
        add_rows(rows, record_rows("stashdb", f"p{number}", 0, datetime.now(UTC), name=name))
        rows.pop("identity_members")
        slug = name.replace(" ", "_")
        for url in (
            f"https://www.babepedia.com/babe/{slug}",
            f"https://www.indexxx.com/m/{slug.lower().replace('_', '-')}",
        ):
            add_rows(rows, {"performer_urls": [{"source": "stashdb", "source_id": f"p{number}", "url": url}]})
    insert_rows(engine, rows)


@pytest.fixture
def nights(tmp_path: Path) -> Iterator[tuple[TwoSites, dg.Definitions, dg.DagsterInstance]]:
    """The sites, the definitions that ask them, and an instance."""
    sites = TwoSites()
    with LoopbackServer(sites) as server, dg.DagsterInstance.ephemeral() as instance:
        body = {"enabled": True, "url": server.url, "rate_limit": 600_000, "needs_flaresolverr": False}
        text = {"stash_boxes": {"stashdb": {}}, "reference_sites": dict.fromkeys(SITES, body)}
        (tmp_path / "sources.yaml").write_text(yaml.safe_dump(text))
        settings = load_settings(tmp_path / "sources.yaml")
        yield sites, build_defs(settings=settings, environment=environment_at(tmp_path)), instance


def refresh(
    definitions: dg.Definitions, instance: dg.DagsterInstance, source: str
) -> dg.ExecuteInProcessResult:
    """Materializes the performers of one source."""
    job = definitions.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance, partition_key=source, asset_selection=[names.PERFORMER_TABLE]
    )
    assert result.success
    return result


def drift_check(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (evaluation,) = (
        each for each in result.get_asset_check_evaluations() if each.check_name == "no_field_drift"
    )
    return evaluation


def _latest_results(instance: dg.DagsterInstance) -> dict[str | None, bool]:
    """The newest result of the check for each source."""
    key = dg.AssetCheckKey(names.PERFORMER_TABLE, "no_field_drift")
    history = instance.event_log_storage.get_asset_check_execution_history(key, limit=50)
    evaluations = [record.evaluation for record in reversed(history) if record.evaluation is not None]
    return {evaluation.partition: evaluation.passed for evaluation in evaluations}


@pytest.mark.slow
def test_a_field_that_a_new_layout_hides_fails_the_check_until_it_is_found_again(nights, catalog):
    sites, definitions, instance = nights
    add_people(catalog, 0)
    first = refresh(definitions, instance, "babepedia")
    assert drift_check(first).passed
    (event,) = first.get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert metadata["found/profile/aliases"].value == 1.0
    assert metadata["found/profile/links"].value == 0.0
    assert metadata["fields"].value["profile"]["pages"] == PEOPLE
    assert drift_check(refresh(definitions, instance, "indexxx")).passed

    sites.aliases_in = 'h2 class="also-known"'
    add_people(catalog, PEOPLE)
    drifted = drift_check(refresh(definitions, instance, "babepedia"))
    assert not drifted.passed
    said = "babepedia: aliases of profile pages: on 0 of 25, usually on 25 of 25"
    assert drifted.description == said
    assert (drifted.partition, drifted.metadata["source"].value) == ("babepedia", "babepedia")
    # Each site has a result of its own, so another site does not hide it.
    other = drift_check(refresh(definitions, instance, "indexxx"))
    assert (other.partition, other.passed) == ("indexxx", True)
    assert _latest_results(instance) == {"babepedia": False, "indexxx": True}

    sites.aliases_in = TwoSites.aliases_in
    add_people(catalog, 2 * PEOPLE)
    assert drift_check(refresh(definitions, instance, "babepedia")).passed
    assert drift_check(refresh(definitions, instance, "indexxx")).passed
