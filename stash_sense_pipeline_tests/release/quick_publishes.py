"""What tests leave out of a publish: plots that were drawn before, and the wait until the disk has written each file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from stash_sense_pipeline.release.checks.quality_gate import Figures
from stash_sense_pipeline.release.reports import quality_report
from stash_sense_pipeline.release.reports.plots import FACES_PLOT, SIMILARITY_PLOT, draw_plots


@contextmanager
def quick_publishes() -> Iterator[None]:
    """Within it, a report with the figures of an earlier one gets the bytes of that one's plots, and no file is synced.

    Drawing takes a third of a publish. Only a loss of power would show that a file was not synced.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality_report, "draw_plots", _copied)
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def _copied(figures: Figures, directory: Path) -> None:
    plotted = (figures.people_by_faces, figures.faces_by_source, figures.similarities)
    key = repr(plotted)
    if key not in _drawn():
        with TemporaryDirectory() as fresh:
            draw_plots(figures, Path(fresh))
            _drawn()[key] = {
                name: (Path(fresh) / name).read_bytes() for name in (FACES_PLOT, SIMILARITY_PLOT)
            }
    for name, content in _drawn()[key].items():
        (directory / name).write_bytes(content)


@cache
def _drawn() -> dict[str, dict[str, bytes]]:
    return {}
