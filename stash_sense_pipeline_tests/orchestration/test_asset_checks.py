"""The checks of the asset `release` in Dagster: their numbers, and that they are recorded when one forbids publishing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.definitions import build_defs
from stash_sense_pipeline.faces.models import model_packs
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.release.checks.check_result import failures
from stash_sense_pipeline.release.checks.verify import verify_release
from stash_sense_pipeline.settings.schema import GithubSettings, Settings
from stash_sense_pipeline_tests.release.github import REPOSITORY, SMALL_REPOSITORY, TOKEN, github
from stash_sense_pipeline_tests.release.sidecar import Sidecar, Updater
from stash_sense_pipeline_tests.release.worlds import BEGIN, PACK, make_catalog

from .conftest import environment_at

ADAFACE = "e" * 64


@pytest.fixture
def pack(monkeypatch: pytest.MonkeyPatch) -> ModelPack:
    """A pack of three embedders, without any network in it."""
    third = replace(PACK.embedders["arcface"], digest=ADAFACE)
    three = replace(PACK, embedders={**PACK.embedders, "adaface": third})
    monkeypatch.setattr(model_packs, "load_pack", lambda *_: three)
    return three


def publish(
    settings: Settings, data: Path, instance: dg.DagsterInstance, **release: Any
) -> dg.ExecuteInProcessResult:
    """Index, database and release of the catalog at `data`, as the publish job runs them."""
    definitions = build_defs(settings=settings, environment=environment_at(data))
    keys = [names.index_key("facenet"), names.index_key("arcface"), names.PERFORMERS_DB, names.RELEASE]
    if settings.export.adaface:
        keys.append(names.index_key("adaface"))
    return definitions.resolve_job_def(names.PUBLISH_JOB).execute_in_process(
        instance=instance,
        asset_selection=keys,
        raise_on_error=False,
        run_config={"ops": {"release": {"config": release}}},
    )


def checks(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    return {check.check_name: check for check in result.get_asset_check_evaluations()}


@pytest.mark.slow
def test_every_check_has_numbers_and_blocks_where_it_matters(
    settings: Settings, pack: ModelPack, tmp_path: Path
) -> None:
    make_catalog(tmp_path / "catalog.db").dispose()
    with dg.DagsterInstance.ephemeral() as instance:
        result = publish(settings, tmp_path, instance)
        assert result.success
        found = checks(result)
        assert all(check.passed for check in found.values())
        assert found["recall_at_100"].metadata["arcface_recall_at_100"].value == 1.0
        assert found["recall_in_reach"].metadata["facenet_recall_in_reach"].value == 1.0
        assert found["no_unexplained_shrink"].blocking
        assert not found["held_out_retrieval"].blocking
        assert found["held_out_retrieval"].metadata["rank_1"].value > 0.9
        event = result.get_asset_materialization_events()[-1].materialization
        quality = str(event.metadata["quality"].value)
        assert "Most confusable people" in quality
        assert "Someone" not in quality
        # The page with names is on disk only; the run history has its place.
        page = Path(str(event.metadata["report"].value))
        assert page == next((tmp_path / "releases").glob("*.report")) / "report.html"
        assert "Someone" in page.read_text()
        assert "Someone" not in str(event.metadata)
        assert event.metadata["recommended_distance"].value == 0.6
        assert found["recommended_distance"].metadata["strangers"].value == 0
        assert not found["recommended_distance"].blocking
        # Without a change the same checks are recorded again.
        (card,) = (tmp_path / "releases").glob("*.datacard.md")
        written = card.read_bytes()
        card.unlink()
        again = publish(settings, tmp_path, instance)
        assert again.success
        assert {name: check.passed for name, check in checks(again).items()} == dict.fromkeys(found, True)
        # The next run writes the data card that an interrupted run did not write.
        assert card.read_bytes() == written
        # Removing the report, which names people, turns its checks into warnings.
        (report,) = (tmp_path / "releases").glob("*.report")
        shutil.rmtree(report)
        once_more = publish(settings, tmp_path, instance)
        assert once_more.success
        unknown = checks(once_more)["recall_at_1"]
        assert (unknown.passed, unknown.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert unknown.description == "not known: the report of this release does not have it"
        assert checks(once_more)["contract"].passed


@pytest.mark.slow
def test_a_failed_blocking_check_is_recorded_and_nothing_is_published(
    settings: Settings, pack: ModelPack, tmp_path: Path
) -> None:
    engine = make_catalog(tmp_path / "catalog.db")
    with dg.DagsterInstance.ephemeral() as instance:
        assert publish(settings, tmp_path, instance).success
        latest = (tmp_path / "releases" / "latest").resolve()
        with writing(engine) as connection:
            faces = schema.trusted_faces
            connection.execute(sa.delete(faces).where(faces.c.performer_id.in_([1, 2])))
        refused = publish(settings, tmp_path, instance)
        assert not refused.success
        found = checks(refused)
        assert [name for name, check in found.items() if not check.passed] == ["no_unexplained_shrink"]
        assert found["no_unexplained_shrink"].metadata["performers"].value == 38
        assert (tmp_path / "releases" / "latest").resolve() == latest
        accepted = publish(settings, tmp_path, instance, accept_shrink=True)
        assert accepted.success
        # The files that were staged before the refusal are reused.
        built = accepted.asset_materializations_for_node("indices")
        assert [event.metadata["reused"].value for event in built] == [True, True]
    engine.dispose()


@pytest.mark.slow
def test_the_release_reaches_a_sidecar_through_github(
    settings: Settings, pack: ModelPack, tmp_path: Path
) -> None:
    """Runs the asset in the job publish against a fake GitHub API, and then the updater of a sidecar."""
    make_catalog(tmp_path / "catalog.db").dispose()
    with github() as hub, dg.DagsterInstance.ephemeral() as instance:
        to = GithubSettings(repository=REPOSITORY, upload=True, api=hub.url)
        export = settings.export.model_copy(update={"github": to})
        definitions = build_defs(
            settings=settings.model_copy(update={"export": export}),
            environment=environment_at(tmp_path, GITHUB_TOKEN=TOKEN),
        )
        keys = [
            names.index_key("facenet"),
            names.index_key("arcface"),
            names.PERFORMERS_DB,
            names.RELEASE,
            names.GITHUB_RELEASE,
        ]
        job = definitions.resolve_job_def(names.PUBLISH_JOB)
        result = job.execute_in_process(instance=instance, asset_selection=keys)
        latest = (tmp_path / "releases" / "latest").resolve()
        archive = latest.parent / f"stash-sense-data-v{latest.name}.zip"
        (published,) = hub.releases
        assert (published["tag_name"], published["draft"]) == (f"v{latest.name}", False)
        card = f"stash-sense-data-card-v{latest.name}.md"
        assert [asset["name"] for asset in published["assets"]] == [archive.name, card]
        assert hub.content[published["assets"][0]["id"]] == archive.read_bytes()
        (event,) = result.asset_materializations_for_node("github_release")
        assert event.metadata["version"].value == latest.name
        assert TOKEN not in str(event.metadata)
        sidecar = tmp_path / "sidecar"
        sidecar.mkdir()
        updater = Updater(sidecar, f"{hub.url}/repos/{REPOSITORY}/releases")
        assert updater.update() == latest.name
        assert updater.update() is None
        for backup in sidecar.glob("backup_*"):
            shutil.rmtree(backup)
        assert failures(verify_release(sidecar)) == ()


@pytest.mark.slow
def test_both_flavours_reach_their_repositories_with_the_data_card_and_wait_for_the_cadence(
    settings: Settings, pack: ModelPack, tmp_path: Path
) -> None:
    """Through the job publish, with an order of endpoints and a rule for names of sources.yaml."""
    engine = make_catalog(tmp_path / "catalog.db")
    people = schema.source_performers
    with writing(engine) as connection:
        for record, country in (("st-00001", "NZ"), ("st-00003", "FR")):
            row = sa.update(people).where(people.c.source_id == record)
            connection.execute(row.values(name="Ann Sample", country=country))
    with github(REPOSITORY, SMALL_REPOSITORY) as hub, dg.DagsterInstance.ephemeral() as instance:
        to = GithubSettings(
            repository=REPOSITORY, small_repository=SMALL_REPOSITORY, upload=True, api=hub.url
        )
        wanted = {"github": to, "flavours": ("full", "small"), "endpoint_priority": ("fansdb", "stashdb")}
        definitions = build_defs(
            settings=settings.model_copy(update={"export": settings.export.model_copy(update=wanted)}),
            environment=environment_at(tmp_path, GITHUB_TOKEN=TOKEN),
        )
        keys = [names.index_key("facenet"), names.index_key("arcface"), names.PERFORMERS_DB, names.RELEASE]
        job = definitions.resolve_job_def(names.PUBLISH_JOB)

        def run() -> dg.ExecuteInProcessResult:
            return job.execute_in_process(instance=instance, asset_selection=[*keys, names.GITHUB_RELEASE])

        first = run()
        found = checks(first)
        assert found["recall_at_1"].metadata["small_facenet_recall_at_1"].value == 1.0
        assert "small: same_people" in str(found["contract"].metadata["lines"].value)
        built = first.asset_materializations_for_node("indices")
        assert all(event.metadata["small_size_bytes"].value for event in built)
        version = (tmp_path / "releases" / "latest").resolve().name
        small = hub.others[SMALL_REPOSITORY]
        for world, kind in ((hub, ""), (small, "small-")):
            (published,) = world.releases
            assert [asset["name"] for asset in published["assets"]] == [
                f"stash-sense-data-{kind}v{version}.zip",
                f"stash-sense-data-card-v{version}.md",
            ]
            home = tmp_path / f"sidecar-{kind}"
            home.mkdir()
            assert Updater(home, f"{hub.url}/repos/{world.repository}/releases").update() == version
            shown = {person["name"] for person in Sidecar(home).performers.values()}
            assert {"Ann Sample (NZ)", "Ann Sample (FR)"} <= shown
            assert sum(uid.startswith("fansdb.cc:") for uid in Sidecar(home).performers) == 20
        with writing(engine) as connection:
            connection.execute(sa.update(people).values(country="IS"))
        second = run()
        newest = (tmp_path / "releases" / "latest").resolve().name
        assert newest > version
        (event,) = second.asset_materializations_for_node("github_release")
        assert (event.metadata["due"].value, event.metadata["small_due"].value) == (False, False)
        assert "7 days after" in event.metadata["reason"].value
        assert [len(hub.releases), len(small.releases)] == [1, 1]
    engine.dispose()


@pytest.mark.slow
def test_adaface_is_in_the_release_when_the_settings_and_the_model_pack_have_it(
    settings: Settings, pack: ModelPack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_catalog(tmp_path / "catalog.db")
    rng = np.random.default_rng(0)
    with writing(engine) as connection:
        rows = [
            {
                "face_id": face,
                "model": "adaface",
                "vector": rng.standard_normal(512).astype("<f4").tobytes(),
                "pack": PACK.name,
                "model_digest": ADAFACE,
                "created_at": BEGIN,
            }
            for face in range(1, 161)
        ]
        connection.execute(sa.insert(schema.embeddings), rows)
    engine.dispose()
    wanted = settings.model_copy(update={"export": settings.export.model_copy(update={"adaface": True})})
    with dg.DagsterInstance.ephemeral() as instance:
        result = publish(wanted, tmp_path, instance)
        assert result.success
        latest = (tmp_path / "releases" / "latest").resolve()
        assert (latest / "face_adaface.voy").is_file()
        assert failures(verify_release(latest)) == ()
        assert failures(verify_release(latest.parent / f"stash-sense-data-v{latest.name}.zip")) == ()
        assert "adaface_recall_at_1" in checks(result)["recall_at_1"].metadata
        # With a pack that lacks it there is no file, and the run succeeds.
        monkeypatch.setattr(model_packs, "load_pack", lambda *_: PACK)
        result = publish(wanted, tmp_path, instance)
        assert result.success
        latest = (tmp_path / "releases" / "latest").resolve()
        assert not (latest / "face_adaface.voy").exists()
        assert not open_catalog(f"sqlite:///{tmp_path / 'catalog.db'}").dispose()
