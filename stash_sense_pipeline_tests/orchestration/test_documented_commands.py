"""docs/commands.md shows the current output of the commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from stash_sense_pipeline.deployment.readiness import doctor
from stash_sense_pipeline.settings.environment import Environment
from stash_sense_pipeline.settings.schema import Settings
from stash_sense_pipeline.sources.probing.probes import Probe, probe_sources
from stash_sense_pipeline_tests.tools.documented_commands import EXAMPLES, comparable, transcripts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


async def patient_probes(
    settings: Settings, environment: Environment, names: Sequence[str], _seconds: float = 0.0
) -> list[Probe]:
    """On a busy machine the few seconds of a look at a source can be too few."""
    return await probe_sources(settings, environment, names, 240.0)


def test_every_command_prints_what_the_documentation_shows(
    demo: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "probe_sources", patient_probes)
    said = transcripts(*demo, tmp_path)
    shown = {path.stem: path.read_text() for path in EXAMPLES.glob("*.txt")}
    assert shown.keys() == said.keys()
    for name in said:
        assert comparable(shown[name]) == comparable(said[name]), (
            f"{name}: run `make examples`, and `make docs`"
        )
