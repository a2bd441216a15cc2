"""The training loops of detector and embedders: seeded, a fixed number of steps, on the CPU in bfloat16."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stash_sense_pipeline_tests.tools.training.data import Crops, Scenes, batches
from stash_sense_pipeline_tests.tools.training.nets import (
    ANCHORS,
    STRIDES,
    CosineMarginHead,
    Detector,
    Embedder,
)

log = logging.getLogger(__name__)

# Side of the faces (square root of the area, in pixels of the detector's input) that each anchor answers for.
# Neighbours overlap, so that a face on the border is found by both.
_RANGES = (((0, 34), (28, 64)), ((54, 100), (86, 150)), ((134, 220), (200, 10_000)))
_SPREAD = 0.7  # of the score target around a face's centre, in cells
_POSITIVE = 0.3  # score target above which box and landmarks are learned


def train_detector(scenes: Scenes, steps: int, batch: int = 32, seed: int = 1) -> Detector:
    """Quality focal loss on the scores, generalised IoU on the boxes, absolute error on the landmarks."""
    torch.manual_seed(seed)
    return train_further(Detector(), scenes, steps, batch, seed, 3e-3)


def train_further(
    net: Detector, scenes: Scenes, steps: int, batch: int = 16, seed: int = 1, rate: float = 1e-3
) -> Detector:
    """Trains a detector from the weights that it has, with `rate` as the largest learning rate."""
    rng = np.random.default_rng(seed)
    net.to(memory_format=torch.channels_last)
    averaged = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995), use_buffers=True
    )
    optimizer = torch.optim.AdamW(_groups(net, 0.02), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    progress = _Progress("detector", steps)
    for step, rows in zip(range(steps), batches(len(scenes.images), batch, rng), strict=False):
        images, boxes, landmarks, state = _scene_batch(scenes, rows, rng)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = net(images)
        losses = _detector_loss(outputs, images.shape[-1], boxes, landmarks, state)
        optimizer.zero_grad()
        sum(losses).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        averaged.update_parameters(net)
        progress.add(step, [float(loss.detach()) for loss in losses])
    trained: Detector = averaged.module.eval()
    return trained


def train_embedder(
    crops: Crops, input_size: int, divisor: float, steps: int, batch: int = 128, seed: int = 1
) -> Embedder:
    """Large margin cosine loss over the identities; inputs (x - 127.5) / divisor, RGB, mirrored at random."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = Embedder(input_size)
    net.to(memory_format=torch.channels_last)
    head = CosineMarginHead(int(crops.labels.max()) + 1)
    optimizer = torch.optim.AdamW(_groups(net, 0.05) + _groups(head, 0.05), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps, pct_start=0.15)
    progress = _Progress(f"embedder {input_size}", steps)
    for step, rows in zip(range(steps), batches(len(crops.images), batch, rng), strict=False):
        images = torch.from_numpy((_crop_batch(crops, rows, input_size, rng) - 127.5) / divisor)
        with torch.autocast("cpu", torch.bfloat16):
            embedding = net(images.permute(0, 3, 1, 2))
        margin = 0.35 * min(1.0, step / (0.3 * steps))
        labels = torch.from_numpy(crops.labels[rows])
        logits = head(embedding, labels, margin)
        loss = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        right = float((logits.argmax(1) == labels).float().mean())
        progress.add(step, [float(loss.detach()), right])
    net.eval()
    return net


class _Progress:
    """Logs running means of what it is given."""

    def __init__(self, name: str, steps: int) -> None:
        self.name, self.steps, self.begun = name, steps, time.monotonic()
        self.seen: list[list[float]] = []

    def add(self, step: int, values: list[float]) -> None:
        self.seen.append(values)
        if (step + 1) % 100 == 0 or step + 1 == self.steps:
            means = " ".join(f"{mean:.4f}" for mean in np.mean(self.seen, 0))
            log.info(
                "%s %d/%d %.0f s: %s", self.name, step + 1, self.steps, time.monotonic() - self.begun, means
            )
            self.seen.clear()


def _groups(net: nn.Module, decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices and kernels, none for biases and normalisation."""
    plain = [p for p in net.parameters() if p.ndim < 2]
    return [
        {"params": [p for p in net.parameters() if p.ndim >= 2], "weight_decay": decay},
        {"params": plain, "weight_decay": 0.0},
    ]


def _crop_batch(
    crops: Crops, rows: NDArray[np.int64], size: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Mirrored first, then resized: the order in which the pipeline does it."""
    images = crops.images[rows]
    mirrored = rng.random(len(rows)) < 0.5
    images[mirrored] = images[mirrored, :, ::-1]
    if size != images.shape[1]:
        images = np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for image in images])
    return images.astype(np.float32)


def _scene_batch(
    scenes: Scenes, rows: NDArray[np.int64], rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mirrors, recolours and resizes a batch. Channels come out as BGR: SCRFD swaps the RGB it is handed."""
    images = scenes.images[rows].astype(np.float32)
    boxes, landmarks = scenes.boxes[rows], scenes.landmarks[rows]
    edge = images.shape[2] - 1
    for i in np.flatnonzero(rng.random(len(rows)) < 0.5):
        images[i] = images[i, :, ::-1]
        boxes[i] = boxes[i][:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (edge, 0, edge, 0)
        landmarks[i] = landmarks[i][:, [1, 0, 2, 4, 3]] * (-1, 1) + (edge, 0)
    images *= rng.uniform(0.8, 1.2, (len(rows), 1, 1, 3)).astype(np.float32)
    np.clip(images, 0, 255, out=images)
    tensor = torch.from_numpy((images[..., ::-1] - 127.5) / 128).permute(0, 3, 1, 2)
    side = tensor.shape[-1]
    wanted = int(rng.choice([side - 32, side, side, side + 32]))
    if wanted != side:
        tensor = nn.functional.interpolate(tensor, (wanted, wanted), mode="bilinear", antialias=True)
    scale = wanted / side
    return (
        tensor.contiguous(memory_format=torch.channels_last),
        torch.from_numpy(boxes * np.float32(scale)),
        torch.from_numpy(landmarks * np.float32(scale)),
        torch.from_numpy(scenes.state[rows]),
    )


def _levels(side: int) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Per level: stride, cell corners (A, 2), lower and upper face side (A,) of each anchor."""
    for stride, ranges in zip(STRIDES, _RANGES, strict=True):
        cells = torch.arange(side // stride) * stride
        y, x = torch.meshgrid(cells, cells, indexing="ij")
        points = torch.stack([x, y], -1).reshape(-1, 1, 2).expand(-1, ANCHORS, 2).reshape(-1, 2).float()
        bounds = torch.tensor(ranges, dtype=torch.float32).repeat(len(points) // ANCHORS, 1)
        yield stride, points, bounds[:, 0], bounds[:, 1]


def _detector_loss(
    outputs: tuple[Tensor, ...], side: int, boxes: Tensor, landmarks: Tensor, state: Tensor
) -> list[Tensor]:
    """Losses of score, box and landmarks over all levels, each a mean over the positive anchors."""
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1).sqrt()
    centre = (boxes[..., 2:] + boxes[..., :2]) / 2
    sums = [torch.zeros(()) for _ in range(3)]
    total = torch.zeros(())
    for level, (stride, points, low, high) in enumerate(_levels(side)):
        score, box, marks = outputs[level][..., 0], outputs[level + 3], outputs[level + 6]
        distance = (points[None, :, None] - centre[:, None]).square().sum(-1) / stride**2
        nearest = distance.amin(1, keepdim=True)
        target = torch.exp((nearest - distance) / (2 * _SPREAD**2))
        fits = (size[:, None] >= low[None, :, None]) & (size[:, None] < high[None, :, None])
        target = target * fits * (state == 1)[:, None]
        target, owner = target.max(2)

        cut = (points[None, :, None] >= boxes[:, None, :, :2]) & (
            points[None, :, None] <= boxes[:, None, :, 2:]
        )
        ignored = (cut.all(-1) & (state == -1)[:, None]).any(2)
        focal = (torch.sigmoid(score) - target).abs().square()
        loss = nn.functional.binary_cross_entropy_with_logits(score, target, reduction="none") * focal
        sums[0] = sums[0] + (loss * ~ignored).sum()

        image, anchor = torch.nonzero(target > _POSITIVE, as_tuple=True)
        face = owner[image, anchor]
        weight = target[image, anchor]
        point = points[anchor]
        total = total + weight.sum()
        sides = box[image, anchor] * stride
        found = torch.cat([point - sides[:, :2], point + sides[:, 2:]], 1)
        sums[1] = sums[1] + (weight * (1 - _giou(found, boxes[image, face]))).sum()
        offsets = marks[image, anchor].reshape(-1, 5, 2) * stride + point[:, None]
        error = (offsets - landmarks[image, face]).abs().mean((1, 2)) / size[image, face]
        sums[2] = sums[2] + (weight * error).sum()
    total = total.clamp(min=1.0)
    return [4.0 * sums[0] / total, sums[1] / total, 25.0 * sums[2] / total]


def _giou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised intersection over union (arXiv 1902.09630) of boxes (N, 4), row by row."""
    inner = (torch.minimum(first[:, 2:], second[:, 2:]) - torch.maximum(first[:, :2], second[:, :2])).clamp(
        min=0
    )
    outer = torch.maximum(first[:, 2:], second[:, 2:]) - torch.minimum(first[:, :2], second[:, :2])
    inter = inner.prod(1)
    union = (first[:, 2:] - first[:, :2]).prod(1) + (second[:, 2:] - second[:, :2]).prod(1) - inter
    hull = outer.prod(1).clamp(min=math.ulp(1.0))
    return inter / union.clamp(min=1e-6) - (hull - union) / hull
