"""The plots of the quality report."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from stash_sense_pipeline.release.checks.accuracy.confusable_people import BINS
from stash_sense_pipeline.release.checks.quality_gate import Figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


FACES_PLOT, SIMILARITY_PLOT = "faces.png", "similarity.png"


def draw_plots(figures: Figures, directory: Path) -> None:
    """Writes both plots into `directory`. The same figures give the same bytes."""
    # matplotlib logs a message about its font cache on first use.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    counts = Figure(figsize=(10, 4))
    left, right = counts.subplots(1, 2)
    left.bar(list(figures.people_by_faces), list(figures.people_by_faces.values()))
    left.set(title="People by number of faces", xlabel="faces", ylabel="people")
    right.barh(list(figures.faces_by_source), list(figures.faces_by_source.values()))
    right.set(title="Faces by source", xlabel="faces")
    _save(counts, directory / FACES_PLOT)

    similarity = Figure(figsize=(5 * len(figures.similarities), 4))
    plots = similarity.subplots(1, len(figures.similarities), squeeze=False)[0]
    for axes, (model, pairs_of) in zip(plots, figures.similarities.items(), strict=True):
        for name, pairs in (("one person", pairs_of.genuine), ("two people", pairs_of.impostor)):
            total = max(1, sum(pairs))
            axes.stairs([count / total for count in pairs], BINS, label=name, fill=True, alpha=0.6)
        axes.set(title=model, xlabel="cosine similarity", ylabel="share of pairs")
        axes.legend()
    _save(similarity, directory / SIMILARITY_PLOT)


def _save(figure: Figure, path: Path) -> None:
    # A layout that matplotlib computes takes half of the time that the plots take.
    figure.subplots_adjust(left=0.09, right=0.98, bottom=0.14, top=0.9, wspace=0.3)
    # The version of matplotlib in the metadata would change the bytes.
    figure.savefig(path, dpi=100, metadata={"Software": None})
