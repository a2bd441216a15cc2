"""Tattoo embedder: crops to vectors of length 1, with ImageNet's normalisation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.faces.models.embedder import Embedder
from stash_sense_pipeline.faces.models.model_packs import EmbedderSpec, TattooEmbedderSpec
from stash_sense_pipeline.faces.models.onnx_sessions import Device
from stash_sense_pipeline.faces.models.pack_fields import Layout

# The side of the crops in pixels.
CROP_SIDE = 224
# ImageNet's mean and standard deviation of red, green and blue, as torchvision states them.
_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)


class TattooEmbedder(Embedder):
    """The embedder for tattoos of a pack. Close it, or use it as a context manager."""

    def __init__(self, spec: TattooEmbedderSpec, device: Device = Device.CPU, threads: int = 1) -> None:
        """Loads the network. Raises as `Embedder` does."""
        as_face = EmbedderSpec(spec.path, spec.digest, CROP_SIDE, Layout.NCHW, 0.0, 1.0, spec.dim)
        super().__init__("the tattoo embedder", as_face, device, threads)

    def vectors(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Vectors (N, dim) float32 of length 1 of RGB crops (N, 224, 224, 3) uint8.

        Raises EmbeddingError when a vector is not finite or is zero.
        """
        raw = self.embed(crops, flip_averaging=False)
        # In float64, because the squares of large values exceed float32.
        lengths = np.linalg.norm(raw.astype(np.float64), axis=1, keepdims=True)
        return np.asarray(raw / lengths, dtype=np.float32)

    def _views(self, crop: NDArray[np.uint8], flip_averaging: bool) -> NDArray[np.float32]:
        del flip_averaging  # a tattoo is not mirrored
        scaled = (crop.astype(np.float32) / np.float32(255) - _MEAN) / _STD
        return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])
