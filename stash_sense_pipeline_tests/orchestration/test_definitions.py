"""The definitions: assets, jobs and partitions, and the modules that loading them imports."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster_shared.serdes import serialize_value

import stash_sense_pipeline
from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.definitions import build_defs
from stash_sense_pipeline.orchestration import names
from stash_sense_pipeline.orchestration.metadata import column_schema, rounded
from stash_sense_pipeline.settings.schema import FacesSettings, Settings
from stash_sense_pipeline_tests.orchestration.conftest import environment_at

PARENTS = {
    "performer_table": set(),
    "aligned_faces": {"performer_table"},
    "face_embeddings": {"aligned_faces"},
    "identity_graph": {"performer_table", "face_embeddings"},
    "trusted_faces": {"identity_graph", "face_embeddings"},
    "facenet_index": {"trusted_faces"},
    "arcface_index": {"trusted_faces"},
    "performers_db": {"identity_graph", "trusted_faces"},
    "release": {"facenet_index", "arcface_index", "performers_db"},
}
GROUPS = {
    "performer_table": "ingest",
    "aligned_faces": "faces",
    "face_embeddings": "faces",
    "identity_graph": "identity",
    "trusted_faces": "identity",
    "facenet_index": "index",
    "arcface_index": "index",
    "performers_db": "release",
    "release": "release",
}


def test_the_definitions_can_be_loaded(definitions: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(definitions)


def test_a_code_server_can_send_the_definitions(definitions: dg.Definitions) -> None:
    """Definitions that load can still hold values that Dagster cannot serialize for the UI."""
    snapshot = RepositorySnap.from_def(definitions.get_repository_def())
    assert "performer_table" in serialize_value(snapshot)


def test_every_asset_has_its_parents_and_its_group(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    found = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }
    assert found == PARENTS
    assert {key: graph.get(dg.AssetKey(key)).group_name for key in found} == GROUPS


def test_with_tattoos_the_files_of_a_release_depend_on_their_embeddings(
    settings: Settings, tmp_path: Path
) -> None:
    wanted = settings.model_copy(update={"faces": FacesSettings(tattoos=True)})
    graph = build_defs(settings=wanted, environment=environment_at(tmp_path)).resolve_asset_graph()
    for key in ("performers_db", "release"):
        parents = {parent.to_user_string() for parent in graph.get(dg.AssetKey(key)).parent_keys}
        assert parents == PARENTS[key] | {"tattoo_embeddings"}


def test_every_asset_has_a_description_kinds_and_owners(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description, key
        assert node.kinds, key
        assert node.owners, key


def test_the_checks_of_partitioned_assets_keep_a_result_for_each_source(
    definitions: dg.Definitions, settings: Settings
) -> None:
    graph = definitions.resolve_asset_graph()
    sources = {"performer_table", "aligned_faces"}
    keys = [key for key in graph.asset_check_keys if key.asset_key.to_user_string() in sources]
    assert {key.name for key in keys} >= {"no_mass_disappearance", "no_mass_image_loss"}
    for key in keys:
        partitions = graph.get(key).partitions_def
        assert partitions is not None
        assert partitions.get_partition_keys() == list(settings.names)


def test_the_settings_are_on_the_page_of_performer_table_without_secrets(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STASHDB_API_KEY", "secret-of-stashdb")
    definitions = build_defs(settings=settings, environment=environment_at(tmp_path))
    table = definitions.resolve_asset_graph().get(dg.AssetKey("performer_table")).metadata["settings"].value
    rows = {str(record.data["setting"]): record.data for record in table.records}
    key = rows["STASHDB_API_KEY"]
    assert (key["value"], key["origin"]) == ("(set)", "environment")
    shown = str(table)
    assert "stash_boxes.stashdb.rate_limit" in shown
    assert "secret-of-stashdb" not in shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.98765432, 0.9877), (12.345, 12.3), (12345.678, 12346), (0.0, 0), (1.0, 1), (-3.14159, -3.142)],
)
def test_numbers_are_rounded_for_people(value: float, shown: float) -> None:
    assert rounded(value) == shown


def test_every_column_of_a_table_has_a_description() -> None:
    for table in schema.metadata.sorted_tables:
        columns = column_schema(table).columns
        assert [column.name for column in columns if not column.description] == []


def test_partitions_are_the_sources_of_the_file(definitions: dg.Definitions, settings: Settings) -> None:
    graph = definitions.resolve_asset_graph()
    for key in ("performer_table", "aligned_faces", "face_embeddings"):
        partitions = graph.get(dg.AssetKey(key)).partitions_def
        assert partitions is not None
        assert partitions.get_partition_keys() == list(settings.names)
    assert len(settings.names) == 15
    assert settings.names[:5] == ("stashdb", "theporndb", "pmvstash", "javstash", "fansdb")


@pytest.mark.parametrize(
    ("job", "assets"),
    [
        ("refresh_source", {"performer_table", "aligned_faces"}),
        ("embed_faces", {"face_embeddings"}),
        ("publish", set(PARENTS) - {"performer_table", "aligned_faces", "face_embeddings"}),
    ],
)
def test_each_job_selects_its_assets(definitions: dg.Definitions, job: str, assets: set[str]) -> None:
    keys = definitions.resolve_job_def(job).asset_layer.selected_asset_keys
    assert {key.to_user_string() for key in keys} == assets


def test_with_tattoos_their_embeddings_are_an_asset_of_the_job_that_embeds(
    settings: Settings, tmp_path: Path
) -> None:
    wanted = settings.model_copy(update={"faces": FacesSettings(tattoos=True)})
    definitions = build_defs(settings=wanted, environment=environment_at(tmp_path))
    dg.Definitions.validate_loadable(definitions)
    node = definitions.resolve_asset_graph().get(names.TATTOO_EMBEDDINGS)
    assert {key.to_user_string() for key in node.parent_keys} == {"aligned_faces"}
    assert (node.group_name, node.partitions_def is not None) == ("faces", True)
    assert node.pools == {names.GPU_POOL}
    job = definitions.resolve_job_def(names.EMBED_FACES_JOB)
    assert job.asset_layer.selected_asset_keys == {names.FACE_EMBEDDINGS, names.TATTOO_EMBEDDINGS}


def test_only_face_embeddings_is_in_the_gpu_pool(definitions: dg.Definitions) -> None:
    pools = {
        key.to_user_string(): node.op.pool
        for node in definitions.assets or []
        if isinstance(node, dg.AssetsDefinition)
        for key in node.keys
    }
    assert {key for key, pool in pools.items() if pool == names.GPU_POOL} == {"face_embeddings"}


@pytest.mark.slow
def test_loading_the_definitions_imports_nothing_heavy() -> None:
    heavy = ["sqlalchemy", "numpy", "cv2", "onnxruntime", "insightface", "voyager", "pandas", "httpx", "PIL"]
    code = (
        "import sys, dagster; before = set(sys.modules)\n"
        "from stash_sense_pipeline.definitions import build_defs; build_defs()\n"
        f"print([name for name in {heavy} if name in sys.modules and name not in before])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_only_one_module_of_the_package_imports_private_modules_of_dagster() -> None:
    package = Path(stash_sense_pipeline.__file__).parent
    private = re.compile(r"^\s*(from|import) dagster\w*\._|^\s*from dagster\w* import _", re.MULTILINE)
    found = {path.name for path in package.rglob("*.py") if private.search(path.read_text())}
    assert found == {"dagster_private.py"}
