"""Aligns a face by its landmarks to a 112-pixel crop; yaw, roll and blur."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.faces.models.model_packs import CROP_SIZE

# The five-point template of ArcFace for a 112 pixel crop: left eye, right eye, nose, left and right corner of
# the mouth, as (x, y) seen in the image (Deng et al., "ArcFace", 2019; the same numbers in every
# implementation).
TEMPLATE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ],
    dtype=np.float32,
)
TEMPLATE.setflags(write=False)

_MIN_VARIANCE = 1e-3


def similarity(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """Least-squares similarity (2, 3) from image pixels to crop pixels for landmarks (5, 2).

    Closed form of Umeyama, "Least-squares estimation of transformation parameters between two point patterns"
    (1991). It is computed in float32, the precision of the detector's landmarks. The sidecar does the same, and with
    equal rounding both make equal crops. Raises ValueError for landmarks that are not finite or lie on one point.
    """
    source = np.asarray(landmarks, dtype=np.float32)
    if source.shape != TEMPLATE.shape or not np.isfinite(source).all():
        raise ValueError("landmarks must be five finite points")
    source_mean, target_mean = source.mean(axis=0), TEMPLATE.mean(axis=0)
    centred, target = source - source_mean, TEMPLATE - target_mean
    left, strengths, right = np.linalg.svd(target.T @ centred / len(source))
    variance = centred.var(axis=0).sum()
    if variance < _MIN_VARIANCE or strengths[0] < _MIN_VARIANCE:
        raise ValueError("landmarks lie on one point")
    # A face is never mirrored: when a reflection fits better, the best rotation is taken.
    signs = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    rotation = left @ np.diag(signs) @ right
    scale = 1.0 / variance * (strengths @ signs)
    return np.hstack([scale * rotation, (target_mean - scale * (rotation @ source_mean))[:, None]])


def norm_crop(rgb: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The (112, 112, 3) uint8 aligned crop of an (H, W, 3) image: bilinear, black outside the image.

    Raises ValueError as `similarity` does.
    """
    crop = cv2.warpAffine(rgb, similarity(landmarks), (CROP_SIZE, CROP_SIZE), borderValue=0.0)
    return np.asarray(crop, dtype=np.uint8)


def yaw_degrees(landmarks: NDArray[np.floating]) -> float:
    """Turn of the head in degrees, 0 facing the camera, positive with the nose to the image's right.

    The sidecar's estimate: the horizontal distance of the nose from the middle of the eyes, relative to half the
    distance between the eyes.
    """
    left, right, nose = np.asarray(landmarks[:3], dtype=np.float64)
    half_distance = float(np.hypot(*(right - left))) / 2
    return math.degrees(math.atan2(float(nose[0] - (left[0] + right[0]) / 2), half_distance))


def roll_degrees(landmarks: NDArray[np.floating]) -> float:
    """Tilt of the line through the eyes in degrees, 0 level, positive clockwise in the image."""
    left, right = np.asarray(landmarks[:2], dtype=np.float64)
    return math.degrees(math.atan2(float(right[1] - left[1]), float(right[0] - left[0])))


def blur_measure(crop: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of the crop's grey values (Pech-Pacheco et al., 2000); small is blurred."""
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())
