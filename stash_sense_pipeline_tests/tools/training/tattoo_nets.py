"""The networks for tattoos of the demo pack: a small detector in the output form of YOLOv5, and a small embedder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

INPUT_SIZE, STRIDE = 640, 16
# A box of this side in pixels is the detector's answer for zeros.
_USUAL_SIDE = 90.0
DIM = 1280
_WIDTH = 48


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, inputs, 5, stride, inputs), _conv(inputs, outputs, 1))


class TattooDetector(nn.Module):  # type: ignore[misc]
    """Takes (B, 3, S, S), values 0..1, S a multiple of 16. Gives (B, cells, 6): middle, sides, objectness and class.

    Middle and sides are in pixels. While training, objectness and class are logits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(3, 12, 5, 4),
            _separable(12, 24, 2),
            _separable(24, 40, 2),
            _separable(40, 40),
            _separable(40, 40),
            _separable(40, 40),
        )
        self.head = nn.Conv2d(40, 6, 1)
        nn.init.constant_(self.head.bias, 0.0)
        with torch.no_grad():
            self.head.bias[4] = -4.0
        self.probabilities = False

    def forward(self, x: Tensor) -> Tensor:
        found = self.head(self.body(x)).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 6)
        middles = cells(int(x.shape[-1]))[None] + found[..., :2] * STRIDE
        sides = torch.exp(found[..., 2:4].clamp(-3, 3)) * _USUAL_SIDE
        scores = torch.sigmoid(found[..., 4:]) if self.probabilities else found[..., 4:]
        return torch.cat([middles, sides, scores], -1)


def cells(side: int) -> Tensor:
    """The middles (x, y) of all cells of a square input, row by row."""
    line = (torch.arange(side // STRIDE) + 0.5) * STRIDE
    down, across = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([across, down], -1).reshape(-1, 2)


class TattooEmbedder(nn.Module):  # type: ignore[misc]
    """Takes (B, 3, 224, 224) in ImageNet's normalisation. Gives (B, 1280)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(3, 16, 7, 4),
            _conv(16, 24, 3, 2),
            _separable(24, 40),
            _separable(40, 56, 2),
            _separable(56, 64),
            _separable(64, 64, 2),
            nn.Conv2d(64, 64, 7, groups=64, bias=False),
            nn.BatchNorm2d(64),
            nn.Conv2d(64, _WIDTH, 1, bias=False),
            nn.BatchNorm2d(_WIDTH),
            # A convolution, because the export stores the kernels of convolutions in few bits.
            nn.Conv2d(_WIDTH, DIM, 1, bias=False),
            nn.Flatten(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class MarginHead(nn.Module):  # type: ignore[misc]
    """Class logits s * (cos - m at the true class), the loss of CosFace (arXiv 1801.09414)."""

    def __init__(self, classes: int, scale: float = 24.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, DIM) * 0.03)
        self.scale = scale

    def forward(self, embedding: Tensor, labels: Tensor, margin: float) -> Tensor:
        cosine = nn.functional.linear(
            nn.functional.normalize(embedding), nn.functional.normalize(self.weight)
        )
        return self.scale * (cosine - margin * nn.functional.one_hot(labels, cosine.shape[1]))
