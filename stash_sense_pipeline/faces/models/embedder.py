"""Embedder: aligned crops to raw vectors, with the sidecar's preprocessing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.faces.models.model_packs import EmbedderSpec
from stash_sense_pipeline.faces.models.onnx_sessions import Device, open_session, running
from stash_sense_pipeline.faces.models.pack_fields import ChannelOrder, Layout
from stash_sense_pipeline.foundation.errors import ModelPackError, StashSenseError

# Batch sizes on CUDA: a few shapes, so that plans and arenas are reused; the rest of the last batch is padding.
_CUDA_ROWS = (2, 8, 32, 128)


class EmbeddingError(StashSenseError):
    """A network returned a vector that is not finite or is zero; such a vector would spoil every index."""


class Embedder:
    """One embedding network on one device. Close it, or use it in a `with`."""

    def __init__(self, name: str, spec: EmbedderSpec, device: Device = Device.CPU, threads: int = 1) -> None:
        """Loads the network.

        On the CPU `threads` faces are embedded in parallel, each on one thread. This takes the same time per core as
        batches, and a vector does not depend on the other faces of a batch, to the last bit. Raises ModelPackError when
        the shapes differ from the spec, DeviceError for a missing device.
        """
        self.name = name
        self.spec = spec
        self._device = device
        self._session = open_session(spec.path, device, threads=1)
        (taken,) = self._session.get_inputs()
        size = spec.input_size
        expected = [size, size, 3] if spec.layout is Layout.NHWC else [3, size, size]
        if not _fits(taken.shape[1:], expected):
            raise self._unfit("input", taken.shape, expected)
        self._input = taken.name
        self._output = self._output_of(spec.dim)
        batch = taken.shape[0]
        self._fixed_batch = batch if isinstance(batch, int) and batch > 0 else None
        self._workers = (
            ThreadPoolExecutor(threads, thread_name_prefix=f"embed-{name}") if threads > 1 else None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the worker threads."""
        if self._workers is not None:
            self._workers.shutdown()

    def embed(self, crops: NDArray[np.uint8], flip_averaging: bool) -> NDArray[np.float32]:
        """Raw vectors (N, dim) float32 of aligned RGB crops (N, S, S, 3) uint8, not normalised.

        With `flip_averaging` a vector is the mean of the raw outputs for the crop and its mirror image.
        Raises EmbeddingError when a vector is not finite or is zero.
        """
        if len(crops) == 0:
            return np.empty((0, self.spec.dim), dtype=np.float32)
        if self._device is Device.CUDA:
            vectors = self._embed_in_buckets(crops, flip_averaging)
        else:
            run = self._workers.map if self._workers is not None else map
            vectors = np.stack(list(run(lambda crop: self._embed_one(crop, flip_averaging), crops)))
        self._refuse_degenerate(vectors)
        return vectors

    def _embed_one(self, crop: NDArray[np.uint8], flip_averaging: bool) -> NDArray[np.float32]:
        outputs = self._run(self._views(crop, flip_averaging))
        return np.asarray(_mean_of_views(outputs, 1 + flip_averaging)[0])

    def _embed_in_buckets(self, crops: NDArray[np.uint8], flip_averaging: bool) -> NDArray[np.float32]:
        rows = np.concatenate([self._views(crop, flip_averaging) for crop in crops])
        outputs = []
        for start, used, padded in _buckets(len(rows)):
            batch = np.zeros((padded, *rows.shape[1:]), dtype=np.float32)
            batch[:used] = rows[start : start + used]
            outputs.append(self._run(batch)[:used])
        return _mean_of_views(np.concatenate(outputs), 1 + flip_averaging)

    def _views(self, crop: NDArray[np.uint8], flip_averaging: bool) -> NDArray[np.float32]:
        # Mirrored before it is resized: the two operations do not commute.
        views = [crop, crop[:, ::-1]] if flip_averaging else [crop]
        return np.stack([preprocess(view, self.spec) for view in views])

    def _run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        step = self._fixed_batch or len(rows)
        outputs = []
        for start in range(0, len(rows), step):
            batch = rows[start : start + step]
            missing = step - len(batch)
            if missing:
                batch = np.concatenate([batch, np.zeros((missing, *rows.shape[1:]), dtype=np.float32)])
            with running(self.spec.path):
                (output,) = self._session.run([self._output], {self._input: batch})
            outputs.append(output.reshape(len(batch), -1)[: step - missing])
        return np.concatenate(outputs) if len(outputs) > 1 else np.asarray(outputs[0])

    def _output_of(self, dim: int) -> str:
        """The name of the output with the vectors: some exports have a second output with the norm of the vector."""
        outputs = self._session.get_outputs()
        fitting = [
            output
            for output in outputs
            # Some exports keep the pooled axes: (N, dim, 1, 1).
            if _fits(output.shape[1:2], [dim]) and _fits(output.shape[2:], [1] * len(output.shape[2:]))
        ]
        if len(fitting) != 1:
            raise self._unfit("output", [output.shape for output in outputs], [dim])
        return str(fitting[0].name)

    def _unfit(self, side: str, shape: Sequence[Any], expected: list[int]) -> ModelPackError:
        return ModelPackError(
            f"{self.spec.path}: the {side} of {self.name} has the shape {list(shape)},"
            f" but pack.yaml says {['N', *expected]}"
        )

    def _refuse_degenerate(self, vectors: NDArray[np.float32]) -> None:
        if vectors.shape[1] != self.spec.dim:
            raise ModelPackError(
                f"{self.spec.path}: {self.name} gives {vectors.shape[1]} numbers,"
                f" but pack.yaml says {self.spec.dim}"
            )
        sound = np.isfinite(vectors).all(axis=1) & (vectors != 0).any(axis=1)
        if not sound.all():
            raise EmbeddingError(
                f"{self.name}: {int((~sound).sum())} of {len(vectors)} vectors are zero or not finite;"
                f" check the network {self.spec.path.name} and the device"
            )


def _fits(shape: Sequence[int | str | None], expected: Sequence[int]) -> bool:
    """True when a declared shape can be the expected one; names and None in it stand for any size."""
    return len(shape) == len(expected) and all(
        not isinstance(got, int) or got == want for got, want in zip(shape, expected, strict=True)
    )


def preprocess(crop: NDArray[np.uint8], spec: EmbedderSpec) -> NDArray[np.float32]:
    """One RGB crop (H, W, 3) uint8 as the network's input without its batch axis.

    The crop is fitted into the square by INTER_AREA, also when that enlarges it, and centred on black. Then each value
    becomes (value - mean) / std.
    """
    size = spec.input_size
    height, width = crop.shape[:2]
    scale = size / max(height, width)
    new_height, new_width = round(height * scale), round(width * scale)
    resized = cv2.resize(np.ascontiguousarray(crop), (new_width, new_height), interpolation=cv2.INTER_AREA)
    if (new_height, new_width) != (size, size):
        top, left = (size - new_height) // 2, (size - new_width) // 2
        square = np.zeros((size, size, 3), dtype=np.uint8)
        square[top : top + new_height, left : left + new_width] = resized
        resized = square
    if spec.channel_order is ChannelOrder.BGR:
        resized = resized[:, :, ::-1]
    scaled = (resized.astype(np.float32) - np.float32(spec.mean)) / np.float32(spec.std)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)) if spec.layout is Layout.NCHW else scaled


def _mean_of_views(outputs: NDArray[np.float32], views: int) -> NDArray[np.float32]:
    mean = outputs.reshape(-1, views, outputs.shape[-1]).mean(axis=1)
    return np.asarray(mean, dtype=np.float32)


def _buckets(rows: int) -> Iterator[tuple[int, int, int]]:
    """Batches (first row, rows used, rows run) that cover `rows` with few different sizes."""
    start = 0
    while start < rows:
        left = rows - start
        padded = next((size for size in _CUDA_ROWS if size >= left), _CUDA_ROWS[-1])
        yield start, min(left, padded), padded
        start += padded
