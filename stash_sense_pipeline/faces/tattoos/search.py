"""Searches the picture of a face for tattoos, or says why it needs no search."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.catalog.queries.tattoos.scans import StoredTattoo, TattooScan
from stash_sense_pipeline.faces.extraction.extract_face import ExtractedFace, encode_crop
from stash_sense_pipeline.faces.models.model_packs import TattooNetworks
from stash_sense_pipeline.faces.models.tattoo_detector import TattooDetector
from stash_sense_pipeline.faces.tattoos.crop import cut_out

# The box of a face with this share of its size added on each side: hair and ears, and the neck down to the collarbones.
_HEAD_MARGIN = 0.5
# A picture of which a head takes at least this share shows no skin beside it.
_MOST_HEAD = 0.9


class TattooSearch:
    """Finds and crops the tattoos of a picture. Threads may share it; the network is loaded with the first picture."""

    def __init__(self, networks: TattooNetworks) -> None:
        self._spec = networks.detector
        self._detector: TattooDetector | None = None
        self._loading = threading.Lock()

    def without_search(self, found: ExtractedFace) -> TattooScan | None:
        """The scan of a picture that needs no search; None when it must be searched.

        A picture with several faces is not searched: it does not show which person has the tattoo. One that shows
        little more than a head counts as searched, and as one without tattoos.
        """
        if found.faces != 1:
            return self.not_searched
        return TattooScan(self._spec.digest, []) if _shows_only_a_head(found) else None

    @property
    def not_searched(self) -> TattooScan:
        """The scan of a picture that is not searched."""
        return TattooScan(self._spec.digest, None)

    def __call__(self, rgb: NDArray[np.uint8]) -> TattooScan:
        """What an upright picture (H, W, 3) shows."""
        return TattooScan(self._spec.digest, list(self._found(rgb)))

    def _found(self, rgb: NDArray[np.uint8]) -> Iterator[StoredTattoo]:
        with self._loading:
            if self._detector is None:
                self._detector = TattooDetector(self._spec)
        index = 0
        for region in self._detector.detect(rgb):
            crop = cut_out(rgb, region)
            if crop is None:
                continue
            columns = {
                "tattoo_index": index,
                "x": region.x,
                "y": region.y,
                "width": region.width,
                "height": region.height,
                "confidence": region.confidence,
                "location_hint": region.location_hint,
            }
            yield StoredTattoo(columns, encode_crop(crop))
            index += 1


def _shows_only_a_head(found: ExtractedFace) -> bool:
    columns, (width, height) = found.face.columns, found.picture
    sides = ((columns["x1"], columns["x2"], width), (columns["y1"], columns["y2"], height))
    shares = (_share_of_head(low, high, side) for low, high, side in sides)
    return math.prod(shares) >= _MOST_HEAD


def _share_of_head(low: float, high: float, side: int) -> float:
    """The share of one side of the picture that the head takes, with the box of its face from `low` to `high`."""
    margin = (high - low) * _HEAD_MARGIN
    return max(0.0, min(side, high + margin) - max(0.0, low - margin)) / side
