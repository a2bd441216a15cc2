"""confusable.json beside a release: pairs of people that the sidecar may take for each other, without names."""

from __future__ import annotations

import json
from pathlib import Path

from stash_sense_pipeline.foundation.files import write_atomically
from stash_sense_pipeline.foundation.json_file import SMALL, read_json
from stash_sense_pipeline.release.checks.quality_gate import Figures
from stash_sense_pipeline.release.contract import SIDECAR_MAX_DISTANCE

_NAME = "confusable.json"


def write_confusable(directory: Path, figures: Figures) -> None:
    """Writes the pairs of performer ids within the sidecar's distance, with the distance."""
    rows = [
        (pair.first, pair.second, pair.distance)
        for pair in figures.confusable.pairs
        if pair.distance <= SIDECAR_MAX_DISTANCE
    ]
    write_atomically(directory / _NAME, json.dumps(rows))


def read_confusable(directory: Path) -> dict[tuple[int, int], float]:
    """Pairs of performer ids with the sidecar's distance. Empty without a readable file."""
    try:
        rows = read_json(directory / _NAME, SMALL)
        return {(int(first), int(second)): float(distance) for first, second, distance in rows}
    except (OSError, ValueError, TypeError):
        return {}
