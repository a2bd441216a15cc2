"""The crop of a tattoo for the embedder."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.faces.models.tattoo_detector import TattooRegion
from stash_sense_pipeline.faces.models.tattoo_embedder import CROP_SIDE

# The shorter side to which the padded box is scaled before its middle is cut out.
_SHORT_SIDE = 256
_PADDING = 0.1
# The crop of a longer strip would have as many pixels as a large picture; only its middle is used.
_LONGEST_STRIP = 40


def cut_out(rgb: NDArray[np.uint8], region: TattooRegion) -> NDArray[np.uint8] | None:
    """The crop (224, 224, 3) uint8 of a tattoo in an (H, W, 3) picture; None when the box has no whole pixel.

    The box with 10 % of its size on each side, in whole pixels, is scaled to a shorter side of 256 by bilinear
    interpolation; the crop is its middle. These are the sidecar's steps, with its way of rounding.
    """
    height, width = rgb.shape[:2]
    across, down = region.width * _PADDING, region.height * _PADDING
    left, right = (
        max(0, int((region.x - across) * width)),
        min(width, int((region.x + region.width + across) * width)),
    )
    top, bottom = (
        max(0, int((region.y - down) * height)),
        min(height, int((region.y + region.height + down) * height)),
    )
    if left >= right or top >= bottom:
        return None
    box = rgb[top:bottom, left:right]
    short, long = sorted(box.shape[:2])
    if long > _LONGEST_STRIP * short:
        return None
    scaled = cv2.resize(np.ascontiguousarray(box), _scaled_size(box), interpolation=cv2.INTER_LINEAR)
    first_row, first_column = ((side - CROP_SIDE) // 2 for side in scaled.shape[:2])
    crop = scaled[first_row : first_row + CROP_SIDE, first_column : first_column + CROP_SIDE]
    return np.ascontiguousarray(crop, dtype=np.uint8)


def _scaled_size(box: NDArray[np.uint8]) -> tuple[int, int]:
    """(width, height) with a shorter side of 256."""
    height, width = box.shape[:2]
    if height < width:
        return round(width * _SHORT_SIDE / height), _SHORT_SIDE
    return _SHORT_SIDE, round(height * _SHORT_SIDE / width)
