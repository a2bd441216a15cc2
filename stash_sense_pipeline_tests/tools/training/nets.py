"""The networks of the demo pack: a small SCRFD-shaped detector and a small residual embedder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

STRIDES = (8, 16, 32)
ANCHORS = 2


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class _Residual(nn.Module):  # type: ignore[misc]
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _conv(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(self.first(x)))


class Detector(nn.Module):  # type: ignore[misc]
    """Anchor-free heads on strides 8, 16 and 32 in the output convention of SCRFD.

    Takes (B, 3, H, W) with H and W multiples of 32, normalised by (x - 127.5) / 128. Returns nine tensors
    (B, cells * ANCHORS, k): three of scores (k=1; logits while training, probabilities when exported), three
    of distances to the box sides (k=4) and three of landmark offsets (k=10), both in units of the stride and
    from the cell's upper left corner.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, 16, 3, 2), _conv(16, 24, 3, 2), _Residual(24))
        self.level8 = nn.Sequential(_conv(24, 48, 3, 2), _Residual(48), _Residual(48))
        self.level16 = nn.Sequential(_conv(48, 64, 3, 2), _Residual(64), _Residual(64))
        self.level32 = nn.Sequential(_conv(64, 96, 3, 2))
        width = 48
        self.lateral = nn.ModuleList(nn.Conv2d(inputs, width, 1) for inputs in (48, 64, 96))
        self.smooth = nn.ModuleList(_conv(width, width) for _ in STRIDES)
        self.tower = nn.Sequential(_conv(width, width), _conv(width, width))
        self.score = nn.Conv2d(width, ANCHORS, 3, 1, 1)
        self.box = nn.Conv2d(width, 4 * ANCHORS, 3, 1, 1)
        self.landmarks = nn.Conv2d(width, 10 * ANCHORS, 3, 1, 1)
        nn.init.constant_(self.score.bias, -4.0)
        self.probabilities = False

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        level8 = self.level8(self.stem(x))
        level16 = self.level16(level8)
        level32 = self.level32(level16)
        top = self.lateral[2](level32)
        middle = self.lateral[1](level16) + nn.functional.interpolate(top, scale_factor=2.0, mode="nearest")
        fine = self.lateral[0](level8) + nn.functional.interpolate(middle, scale_factor=2.0, mode="nearest")
        features = [
            self.tower(smooth(level)) for smooth, level in zip(self.smooth, (fine, middle, top), strict=True)
        ]
        with torch.autocast("cpu", enabled=False):
            features = [feature.float() for feature in features]
            scores = [_rows(self.score(feature), 1) for feature in features]
            boxes = [nn.functional.softplus(_rows(self.box(feature), 4)) for feature in features]
            landmarks = [_rows(self.landmarks(feature), 10) for feature in features]
        if self.probabilities:
            scores = [torch.sigmoid(score) for score in scores]
        return (*scores, *boxes, *landmarks)


def _rows(x: Tensor, width: int) -> Tensor:
    """(B, ANCHORS * k, H, W) to (B, H * W * ANCHORS, k), cells row by row, the anchors of a cell together."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, width)


def stored_detector(path: Path) -> Detector:
    """The detector of a pack, to be trained further: the export has joined each normalisation with its convolution.

    The normalisations do nothing: they stay in evaluation mode, with mean 0, variance 1 and the bias of the export.
    """
    weights = [
        torch.from_numpy(numpy_helper.to_array(tensor).astype(np.float32))
        for tensor in onnx.load(str(path)).graph.initializer
        if tensor.name.endswith(("_stored", "_half", ".bias")) or tensor.name.startswith("onnx::Conv_")
    ]
    net: Detector = Detector().eval()
    parts = [net.stem, net.level8, net.level16, net.level32, net.smooth[0], net.tower, *net.smooth[1:]]
    joined = [module for part in parts for module in part.modules() if isinstance(module, nn.Conv2d)]
    normal = [module for part in parts for module in part.modules() if isinstance(module, nn.BatchNorm2d)]
    plain = [*net.lateral, net.score, net.box, net.landmarks]
    with torch.no_grad():
        for conv, weight, bias in zip([*plain, *joined], weights[::2], weights[1::2], strict=True):
            conv.weight.copy_(weight)
            if conv.bias is not None:
                conv.bias.copy_(bias)
        for norm, bias in zip(normal, weights[2 * len(plain) + 1 :: 2], strict=True):
            norm.bias.copy_(bias)
            norm.running_var.fill_(1 - norm.eps)
    return net


class Embedder(nn.Module):  # type: ignore[misc]
    """A residual network that ends in a depthwise convolution over the whole map: (B, 3, S, S) to (B, 512).

    `input_size` 112 starts with a stride of 2, `input_size` 160 (an enlarged crop of 112) with a stride of 4.
    """

    def __init__(self, input_size: int) -> None:
        super().__init__()
        if input_size == 112:
            stem, last = [_conv(3, 32, 3, 2), _conv(32, 48, 3, 2)], 7
        elif input_size == 160:
            stem, last = [_conv(3, 32, 7, 4), _Residual(32), _conv(32, 48, 3, 2)], 5
        else:
            raise ValueError(f"there is no embedder for an input size of {input_size}; use 112 or 160")
        self.body = nn.Sequential(
            *stem,
            _Residual(48),
            _conv(48, 64, 3, 2),
            _Residual(64),
            _Residual(64),
            _conv(64, 96, 3, 2),
            _Residual(96),
            _conv(96, 160, 1),
            nn.Conv2d(160, 160, last, groups=160, bias=False),
            nn.BatchNorm2d(160),
            nn.Flatten(),
        )
        self.project = nn.Sequential(nn.Linear(160, 512, bias=False), nn.BatchNorm1d(512))

    def forward(self, x: Tensor) -> Tensor:
        body = self.body(x)
        with torch.autocast("cpu", enabled=False):
            return self.project(body.float())


class CosineMarginHead(nn.Module):  # type: ignore[misc]
    """Class logits s * (cos - m at the true class), the loss of CosFace (arXiv 1801.09414)."""

    def __init__(self, classes: int, scale: float = 32.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, 512) * 0.05)
        self.scale = scale

    def forward(self, embedding: Tensor, labels: Tensor, margin: float) -> Tensor:
        cosine = nn.functional.linear(
            nn.functional.normalize(embedding), nn.functional.normalize(self.weight)
        )
        return self.scale * (cosine - margin * nn.functional.one_hot(labels, cosine.shape[1]))
