"""The assets of a release with faces.tattoos: from the settings and the model pack to the published files."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.transactions import writing
from stash_sense_pipeline.definitions import build_defs
from stash_sense_pipeline.faces.models.model_packs import ModelPack, load_pack
from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import ExportSettings, FacesSettings, Settings
from stash_sense_pipeline_tests.orchestration.conftest import environment_at
from stash_sense_pipeline_tests.release.tattoo_world import add_tattoos, own_marks, trusted_faces
from stash_sense_pipeline_tests.release.worlds import make_catalog

FILES = {"tattoo_embeddings.voy", "tattoo_embeddings.json"}
SECTION = """
tattoo:
  detector: {file: tattoo_detector.onnx, kind: yolov5, input_size: 640}
  embedder: {file: tattoo_embedder.onnx, input_size: 224, dim: 1280}
"""


@pytest.fixture
def pack(tmp_path: Path) -> ModelPack:
    """The demo pack with files in the place of networks for tattoos, which no step of a release runs."""
    directory = tmp_path / "pack"
    shutil.copytree(DEMO_PACK, directory)
    description = (directory / "pack.yaml").read_text().partition("\ntattoo:")[0]
    (directory / "pack.yaml").write_text(description + SECTION)
    for name in ("tattoo_detector.onnx", "tattoo_embedder.onnx"):
        (directory / name).write_text(name)
    return load_pack(str(directory), tmp_path)


def catalog_of(pack: ModelPack, environment: Environment, *, people: int) -> None:
    """A catalog of 40 people with vectors of this pack, and with tattoos in the pictures of the first `people`."""
    assert pack.tattoo is not None
    engine = make_catalog(environment.data_dir / "catalog.db")
    with writing(engine) as connection:
        connection.execute(sa.update(schema.embeddings).values(pack=pack.name))
        for model, digest in pack.digests.items():
            of_model = schema.embeddings.c.model == model
            connection.execute(sa.update(schema.embeddings).where(of_model).values(model_digest=digest))
    chosen = {face for faces in list(trusted_faces(engine).values())[:people] for face in faces}
    marks = {face: vectors for face, vectors in own_marks(engine).items() if face in chosen}
    add_tattoos(engine, marks, models=pack.tattoo.models)
    with writing(engine) as connection:
        connection.execute(sa.update(schema.tattoo_embeddings).values(pack=pack.name))
    engine.dispose()


def published(settings: Settings, environment: Environment) -> dict[str, bool]:
    """Runs the assets of a release, and returns the results of its checks on tattoos."""
    job = build_defs(settings=settings, environment=environment).resolve_job_def(names.PUBLISH_JOB)
    result = job.execute_in_process(
        instance=dg.DagsterInstance.ephemeral(),
        asset_selection=[
            dg.AssetKey(key) for key in ("facenet_index", "arcface_index", "performers_db", "release")
        ],
    )
    assert result.success
    return {
        check.check_name: check.passed
        for check in result.get_asset_check_evaluations()
        if check.check_name.startswith("tattoo") or not check.passed
    }


@pytest.mark.parametrize(
    ("people", "share"),
    [
        (40, 0.9),
        pytest.param(30, 0.9, marks=pytest.mark.slow),
        pytest.param(30, 0.75, marks=pytest.mark.slow),
    ],
)
def test_the_settings_decide_about_the_tattoos_of_a_release(
    pack: ModelPack, settings: Settings, tmp_path: Path, people: int, share: float
) -> None:
    (tmp_path / "data").mkdir()
    environment = environment_at(tmp_path / "data", STASH_SENSE_MODEL_PACK=str(pack.directory))
    catalog_of(pack, environment, people=people)
    has_tattoos = people / 40 >= share
    export = ExportSettings(min_tattoo_coverage=share, flavours=("full", "small"))
    wanted = settings.model_copy(update={"faces": FacesSettings(tattoos=True), "export": export})
    assert published(wanted, environment) == {"tattoo_coverage": has_tattoos, "tattoo_worth": True}
    latest = environment.releases_dir / "latest"
    for release in (latest, latest.resolve().with_name(f"{latest.resolve().name}.small")):
        assert {path.name for path in release.iterdir()} >= FILES or not has_tattoos
        assert has_tattoos or not FILES & {path.name for path in release.iterdir()}
    first = latest.resolve()
    # Without the setting the same catalog has no tattoos, and a sidecar keeps the files of the release before.
    unwanted = wanted.model_copy(update={"faces": FacesSettings(tattoos=False)})
    assert published(unwanted, environment) == {"tattoo_coverage": not has_tattoos, "tattoo_worth": True}
    assert not FILES & {path.name for path in latest.iterdir()}
    assert (latest.resolve() == first) is not has_tattoos
