"""What doctor says about the collection of tattoos."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.schema import faces, source_images
from stash_sense_pipeline.deployment.readiness.check import State
from stash_sense_pipeline.deployment.readiness.tattoo_check import check_tattoos
from stash_sense_pipeline.settings.environment import Environment, read_environment
from stash_sense_pipeline.settings.schema import FacesSettings, Settings
from stash_sense_pipeline.settings.sources_file import load_settings
from stash_sense_pipeline_tests.faces.nets import with_tattoos, write_pack

NOW = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.fixture
def environment(tmp_path: Path, catalog: sa.Engine) -> Environment:
    variables = {
        "DATA_DIR": str(tmp_path),
        "STASH_SENSE_MODEL_PACK": str(write_pack(tmp_path / "pack")),
        "STASH_SENSE_CATALOG_URL": catalog.url.render_as_string(hide_password=False),
    }
    return read_environment(variables, tmp_path)


def settings(tmp_path: Path, tattoos: bool) -> Settings:
    path = tmp_path / "sources.yaml"
    path.write_text("stash_boxes: {box: {url: 'http://box.example/graphql', rate_limit: 60}}")
    return load_settings(path).model_copy(update={"faces": FacesSettings(tattoos=tattoos)})


def add_faces(catalog: sa.Engine, count: int) -> None:
    numbers = dict.fromkeys(
        ["detection_confidence", "x1", "y1", "x2", "y2", "yaw", "roll", "blur", "quality"], 1.0
    )
    with catalog.begin() as connection:
        for number in range(count):
            image = {"source": "box", "image_id": str(number)}
            connection.execute(
                sa.insert(source_images).values(**image, url="http://a.example", state="done", attempts=1)
            )
            connection.execute(
                sa.insert(faces).values(
                    **image,
                    **numbers,
                    face_index=0,
                    landmarks=b"",
                    pack="p",
                    detector_digest="d",
                    created_at=NOW,
                )
            )


def test_before_the_first_build_it_says_that_tattoos_must_be_switched_on_now(
    environment: Environment, tmp_path: Path, catalog: sa.Engine
) -> None:
    for has_catalog in (False, True):
        check = check_tattoos(settings(tmp_path, False), environment, has_catalog=has_catalog)
        assert check is not None
        assert check.state is State.OK
        assert "before the first build" in check.text
    add_faces(catalog, 1)
    assert check_tattoos(settings(tmp_path, False), environment, has_catalog=True) is None


def test_missing_networks_are_a_problem(environment: Environment, tmp_path: Path) -> None:
    check = check_tattoos(settings(tmp_path, True), environment, has_catalog=True)
    assert check is not None
    assert check.state is State.PROBLEM
    assert "--with-tattoos" in (check.action or "")


def test_cores_that_cannot_keep_up_with_the_sources_are_a_warning(
    environment: Environment, tmp_path: Path
) -> None:
    with_tattoos(tmp_path / "pack")
    seconds = (tmp_path / "pack" / "tattoo_detector.onnx").stat().st_size * 0.5 / 84e6
    cores = len(os.sched_getaffinity(0))
    for share, state in ((1.5, State.OK), (1.7, State.WARNING)):
        chosen = settings(tmp_path, True)
        (one,) = chosen.enabled
        name = one.name
        changed = one.model_copy(update={"rate_limit": share * cores / seconds * 60})
        chosen = chosen.model_copy(update={"stash_boxes": {name: changed}})
        check = check_tattoos(chosen, environment, has_catalog=False)
        assert check is not None
        assert check.state is state
        assert ("up to 1.7 times as long" in (check.action or "")) is (state is State.WARNING)


@pytest.mark.slow
def test_pictures_that_must_be_fetched_again_are_counted_with_hours(
    environment: Environment, tmp_path: Path, catalog: sa.Engine
) -> None:
    with_tattoos(tmp_path / "pack")
    check = check_tattoos(settings(tmp_path, True), environment, has_catalog=True)
    assert check is not None
    assert (check.state, check.text) == (State.OK, "collected, 2 networks verified")
    add_faces(catalog, 180)
    check = check_tattoos(settings(tmp_path, True), environment, has_catalog=True)
    assert check is not None
    assert check.state is State.WARNING
    assert check.text == "180 pictures with a face were not searched yet"
    assert "3 minutes" in (check.action or "")
