"""dagster.yaml and workspace.yaml: that Dagster takes them, and what they promise."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import yaml

from stash_sense_pipeline.orchestration.home import prepare_home
from stash_sense_pipeline.orchestration.instance import open_instance
from stash_sense_pipeline.orchestration.names import EMBED_TAG, SOURCE_TAG
from stash_sense_pipeline.shipped_files import shipped_file


def test_the_shipped_settings_are_taken(tmp_path: Path) -> None:
    with open_instance(tmp_path / "home") as instance:
        assert not instance.telemetry_enabled
        assert not instance.nux_enabled
        assert instance.run_monitoring_enabled
        assert instance.run_retries_enabled
        assert instance.get_settings("run_retries")["retry_on_asset_or_op_failure"] is False
        assert instance.get_settings("run_monitoring")["free_slots_after_run_end_seconds"] == 60
        limits = instance.get_concurrency_config().run_queue_config
        assert limits is not None
        assert {limit["key"]: limit["limit"] for limit in limits.tag_concurrency_limits} == {
            SOURCE_TAG: 1,
            EMBED_TAG: 1,
        }


def test_settings_that_are_there_stay(tmp_path: Path) -> None:
    mine = tmp_path / "dagster.yaml"
    mine.write_text("telemetry: {enabled: false}\n")
    prepare_home(tmp_path)
    assert mine.read_text() == "telemetry: {enabled: false}\n"


def test_the_code_location_has_one_name_everywhere() -> None:
    workspace = yaml.safe_load(shipped_file("workspace.yaml").read_text())
    module = workspace["load_from"][0]["python_module"]
    project = Path(shipped_file("workspace.yaml").parent / "pyproject.toml").read_text()
    assert module["location_name"] == "stash_sense"
    assert project.count('code_location_name = "stash_sense"') == 2
    assert module["module_name"] == "stash_sense_pipeline.definitions"
    assert dg.__version__
