"""Options of one run: declared once, offered everywhere, and each changes what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from stash_sense_pipeline.catalog import schema
from stash_sense_pipeline.catalog.engine import open_catalog
from stash_sense_pipeline.cli.building import build
from stash_sense_pipeline.orchestration import run_config
from stash_sense_pipeline.sandbox.demo import DEMO_PACK
from stash_sense_pipeline.sandbox.demo_population import make_demo_world
from stash_sense_pipeline.sandbox.servers import SandboxServers, sources_settings
from stash_sense_pipeline.settings.run_options import RUN_OPTIONS, command_options
from stash_sense_pipeline.settings.run_overrides import RunOverrides

PROGRAM = Path(sys.executable).with_name("stash-sense")
STEPS: dict[str, type] = {
    "performer_table": run_config.IngestConfig,
    "aligned_faces": run_config.FacesConfig,
    "face_embeddings": run_config.EmbeddingConfig,
    "trusted_faces": run_config.TrustConfig,
    "indices": run_config.IndexConfig,
    "release": run_config.ReleaseConfig,
}


def test_the_command_line_has_exactly_the_declared_options():
    declared = set()
    for option in command_options():
        declared |= {option.spelling} - {""} | {flag.spelling for flag in option.flags}
    offered = {spelling for parameter in build.params for spelling in parameter.opts}
    assert offered == declared
    assert set(RunOverrides.model_fields) == {option.name for option in command_options()}


def test_the_run_configuration_has_exactly_the_declared_fields_with_their_texts():
    declared = {place: option for option in RUN_OPTIONS.values() for place in option.launchpad}
    offered: dict[str, Any] = {
        f"{step}.{name}": field
        for step, config in STEPS.items()
        for name, field in config.model_fields.items()  # type: ignore[attr-defined]
    }
    assert set(offered) == set(declared)
    for place, field in offered.items():
        assert field.description == declared[place].help, place


class Operator:
    """Runs builds in a directory of its own on a small world."""

    def __init__(self, home: Path, servers: SandboxServers) -> None:
        self.home = home
        self.sources: dict[str, Any] = sources_settings(servers)
        boxes = self.sources["stash_boxes"]
        self.sources["stash_boxes"] = {name: boxes[name] for name in ("pmvstash", "javstash")}
        self.sources["reference_sites"] = {}
        boxes["javstash"]["enabled"] = False
        self.variables = {
            **{name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")},
            "DATA_DIR": str(home / "data"),
            "STASH_SENSE_SOURCES": str(home / "sources.yaml"),
            "STASH_SENSE_MODEL_PACK": str(DEMO_PACK),
            **servers.environment(),
        }

    def builds(self, *options: str, code: int = 0) -> str:
        (self.home / "sources.yaml").write_text(yaml.safe_dump(self.sources))
        result = subprocess.run(
            [PROGRAM, "build", *options],
            env=self.variables,
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert result.returncode == code, result.stderr
        return result.stdout

    def rows(self, query: sa.Select[Any]) -> list[Any]:
        engine = open_catalog(f"sqlite:///{self.home / 'data' / 'catalog.db'}")
        try:
            with engine.connect() as connection:
                return list(connection.execute(query))
        finally:
            engine.dispose()

    def most_faces(self) -> int:
        """The largest number of faces of one record."""
        of_record = (
            sa.select(sa.func.count())
            .select_from(schema.performer_images)
            .join(schema.faces, schema.faces.c.image_id == schema.performer_images.c.image_id)
            .group_by(schema.performer_images.c.source_id)
        )
        return max(row[0] for row in self.rows(of_record))

    def tried(self) -> int:
        """The number of images that have a verdict."""
        images = schema.source_images.c
        return int(self.rows(sa.select(sa.func.count()).where(images.processed_at.is_not(None)))[0][0])

    def state(self) -> Any:
        return self.rows(sa.select(schema.sync_state))[0]


def sources(operator: Operator) -> None:
    said = operator.builds("--no-faces", "--sources", "javstash")
    assert "javstash: " in said
    assert "pmvstash" not in said


def disabled_sources(operator: Operator) -> None:
    operator.sources["stash_boxes"]["javstash"]["enabled"] = True
    said = operator.builds("--no-faces", "--disable-source", "pmvstash")
    assert "pmvstash" not in said
    assert "javstash: " in said


def source_max_faces(operator: Operator) -> None:
    operator.builds("--source-max-faces", "pmvstash=1")
    assert operator.most_faces() == 1


def max_faces_total(operator: Operator) -> None:
    operator.builds("--max-faces-total", "2")
    assert operator.most_faces() == 2


def completeness_threshold(operator: Operator) -> None:
    operator.builds("--source-max-faces", "pmvstash=1")
    before = operator.tried()
    operator.builds("--completeness-threshold", "1")
    with_one = operator.tried()
    assert operator.most_faces() == 1
    operator.builds()
    assert operator.tried() > with_one >= before
    assert operator.most_faces() > 1


def sync(operator: Operator) -> None:
    operator.builds("--no-faces")
    first = operator.state().last_sweep_at
    operator.builds("--no-faces", "--sync-updates-only")
    assert operator.state().last_sweep_at == first
    operator.builds("--no-faces", "--full-sweep")
    assert operator.state().last_sweep_at > first


def trial(operator: Operator) -> None:
    operator.builds("--max-performers", "3", "--max-images", "4")
    assert len(operator.rows(sa.select(schema.source_performers))) == 3
    assert operator.tried() == 4
    assert operator.state().backfilled_at is None
    assert (operator.home / "data" / "releases" / "latest" / "manifest.json").exists()
    operator.builds()
    assert operator.state().backfilled_at is not None
    assert len(operator.rows(sa.select(schema.source_performers))) > 3
    assert operator.tried() > 4


def faces(operator: Operator) -> None:
    operator.builds("--no-faces")
    assert not operator.rows(sa.select(schema.faces))
    assert not (operator.home / "data" / "releases" / "latest").exists()


PROOFS: dict[str, Callable[[Operator], None]] = {
    "sources": sources,
    "disabled_sources": disabled_sources,
    "source_max_faces": source_max_faces,
    "max_faces_total": max_faces_total,
    "completeness_threshold": completeness_threshold,
    "sync": sync,
    "max_performers": trial,
    "max_images": trial,
    "faces": faces,
}


@pytest.fixture(scope="module")
def servers() -> Iterator[SandboxServers]:
    """A small world, served."""
    with SandboxServers(make_demo_world(seed=2, people=24)) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("proof", list(dict.fromkeys(PROOFS.values())), ids=lambda proof: proof.__name__)
def test_an_option_of_the_command_line_changes_what_it_says(
    tmp_path: Path, servers: SandboxServers, proof: Callable[[Operator], None]
) -> None:
    proof(Operator(tmp_path, servers))
