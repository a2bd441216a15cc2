"""The layers of a YOLOv5m with random weights, which has the size of the tattoo detector of stash-sense-v1."""

from __future__ import annotations

import numpy as np

from stash_sense_pipeline_tests.faces.nets import Graph

# The channels at the strides 2 to 32, and how many bottlenecks the blocks at the strides 4 to 32 have.
_CHANNELS = (48, 96, 192, 384, 768)
_BOTTLENECKS = (2, 4, 6, 2)
_HEAD_BOTTLENECKS = 2
# Three anchors a cell, each with a box, objectness and one class.
_ROWS = 3 * 6
# With this activation it keeps the spread of the numbers about equal from layer to layer.
_GAIN = 1.7


def yolov5m(graph: Graph) -> str:
    """Adds the layers behind `input` (1, 3, 640, 640), and returns a tensor (1, 1, 1, 1) that needs all of them.

    It is so small that it changes no number to which it is added.
    """
    layers = _Layers(graph)
    at_8, at_16, at_32 = layers.backbone()
    top = layers.conv(at_32, _CHANNELS[4], _CHANNELS[3])
    middle = layers.upward(top, at_16, _CHANNELS[3])
    bottom = layers.conv(middle, _CHANNELS[3], _CHANNELS[2])
    small = layers.upward(bottom, at_8, _CHANNELS[2])
    medium = layers.downward(small, bottom, _CHANNELS[2])
    large = layers.downward(medium, top, _CHANNELS[3])
    return layers.mean([(small, _CHANNELS[2]), (medium, _CHANNELS[3]), (large, _CHANNELS[4])])


class _Layers:
    """Adds layers to a graph. Each method returns the name of its output."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._random = np.random.default_rng(48)
        self._count = 0

    def backbone(self) -> tuple[str, str, str]:
        """The features at the strides 8, 16 and 32."""
        features = self.conv("input", 3, _CHANNELS[0], 6, 2)
        found = []
        for level, bottlenecks in enumerate(_BOTTLENECKS, start=1):
            narrow, wide = _CHANNELS[level - 1], _CHANNELS[level]
            features = self.conv(features, narrow, wide, 3, 2)
            features = self._block(features, wide, wide, bottlenecks, shortcut=True)
            found.append(features)
        return found[1], found[2], self._pyramid(features, _CHANNELS[4])

    def upward(self, features: str, beside: str, channels: int) -> str:
        """Features at twice the size, joined with those of the backbone."""
        scales = self._weight(np.array([1, 1, 2, 2], np.float32))
        large = self._add("Resize", [features, "", scales], mode="nearest")
        return self._block(self._joined([large, beside]), 2 * channels, channels, _HEAD_BOTTLENECKS)

    def downward(self, features: str, beside: str, channels: int) -> str:
        """Features at half the size, joined with those of the way up."""
        joined = self._joined([self.conv(features, channels, channels, 3, 2), beside])
        return self._block(joined, 2 * channels, 2 * channels, _HEAD_BOTTLENECKS)

    def conv(self, features: str, taken: int, given: int, side: int = 1, stride: int = 1) -> str:
        """A convolution with SiLU."""
        raw = self._convolved(features, taken, given, side, stride)
        return self._add("Mul", [raw, self._add("Sigmoid", [raw])])

    def mean(self, levels: list[tuple[str, int]]) -> str:
        """The detection head, and the mean of its outputs, divided by a large number."""
        outputs = [self._convolved(features, channels, _ROWS, 1, 1) for features, channels in levels]
        means = [self._add("ReduceMean", [each], axes=[1, 2, 3], keepdims=1) for each in outputs]
        total = self._add("Sum", means)
        return self._add("Mul", [total, self._weight(np.array([1e-20], np.float32))])

    def _block(self, features: str, taken: int, given: int, bottlenecks: int, shortcut: bool = False) -> str:
        half = given // 2
        inner, beside = self.conv(features, taken, half), self.conv(features, taken, half)
        for _ in range(bottlenecks):
            made = self.conv(self.conv(inner, half, half), half, half, 3)
            inner = self._add("Add", [inner, made]) if shortcut else made
        return self.conv(self._joined([inner, beside]), given, given)

    def _pyramid(self, features: str, channels: int) -> str:
        pooled = [self.conv(features, channels, channels // 2)]
        for _ in range(3):
            pooled.append(
                self._add("MaxPool", [pooled[-1]], kernel_shape=[5, 5], strides=[1, 1], pads=[2] * 4)
            )
        return self.conv(self._joined(pooled), 2 * channels, channels)

    def _convolved(self, features: str, taken: int, given: int, side: int, stride: int) -> str:
        spread = _GAIN / np.sqrt(taken * side**2)
        kernel = self._weight(self._random.normal(0, spread, (given, taken, side, side)).astype(np.float32))
        bias = self._weight(np.zeros(given, np.float32))
        shape = {"kernel_shape": [side, side], "strides": [stride, stride], "pads": [(side - 1) // 2] * 4}
        return self._add("Conv", [features, kernel, bias], **shape)

    def _joined(self, features: list[str]) -> str:
        return self._add("Concat", features, axis=1)

    def _add(self, kind: str, inputs: list[str], **attributes: object) -> str:
        self._count += 1
        return self._graph.add(kind, inputs, f"yolo{self._count}", **attributes)

    def _weight(self, values: np.ndarray) -> str:
        self._count += 1
        return self._graph.weight(f"yolo{self._count}_w", values)
