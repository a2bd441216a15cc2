"""`python -m stash_sense_pipeline_tests.tools.training.tattoos --out DIR`: trains the networks for tattoos of a pack."""

from __future__ import annotations

import itertools
import logging
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn

from stash_sense_pipeline.faces.models.tattoo_detector import TattooRegion, letterbox
from stash_sense_pipeline.faces.tattoos.crop import cut_out
from stash_sense_pipeline.foundation.files import sha256_file, write_atomically
from stash_sense_pipeline.sandbox.invented.marks import make_mark
from stash_sense_pipeline.sandbox.invented.rendered_person import TRAIN_SEEDS, make_person
from stash_sense_pipeline.sandbox.invented.rendering import (
    Photo,
    render_group,
    render_portrait,
    render_scenery,
)
from stash_sense_pipeline_tests.tools.training.data import batches
from stash_sense_pipeline_tests.tools.training.evaluate import through_jpeg
from stash_sense_pipeline_tests.tools.training.export import export_tattoo_detector, export_tattoo_embedder
from stash_sense_pipeline_tests.tools.training.tattoo_nets import (
    INPUT_SIZE,
    STRIDE,
    MarginHead,
    TattooDetector,
    TattooEmbedder,
    cells,
)

log = logging.getLogger(__name__)

_SCENE_STREAM, _CROP_STREAM = 31, 32
_WORKERS = 2
# The side of the part of a picture that the detector learns from at once.
_WINDOW = 320
_SIZES = ((400, 500), (400, 600), (360, 450), (480, 600), (420, 420), (640, 800))
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
DETECTOR, EMBEDDER = "tattoo_detector.onnx", "tattoo_embedder.onnx"


@click.command()
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="The pack directory."
)
@click.option("--scenes", default=2400, show_default=True, help="Pictures the detector learns from.")
@click.option("--detector-steps", default=1200, show_default=True, help="0 keeps the detector of --out.")
@click.option("--tattoos", default=500, show_default=True, help="Tattoos the embedder learns from.")
@click.option("--photos", default=8, show_default=True, help="Photos of each of them.")
@click.option("--embedder-steps", default=1000, show_default=True, help="0 keeps the embedder of --out.")
def main(out: Path, scenes: int, detector_steps: int, tattoos: int, photos: int, embedder_steps: int) -> None:
    """Renders people with tattoos, trains both networks on them, and adds them to the pack.yaml of --out."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    # With two threads, two networks this small are slower on shared cores, and their numbers differ between runs.
    torch.set_num_threads(1)
    if detector_steps:
        with ProcessPoolExecutor(_WORKERS) as pool:
            parts = list(pool.map(_scene, range(scenes), chunksize=32))
        images, boxes = (np.stack(column) for column in zip(*parts, strict=True))
        log.info("%d scenes, %d with a tattoo", len(images), int((boxes[:, 2] > 0).sum()))
        export_tattoo_detector(train_detector(images, boxes, detector_steps), out / DETECTOR)
    if embedder_steps:
        seeds = list(itertools.islice((seed for seed in TRAIN_SEEDS if make_mark(seed)), tattoos))
        with ProcessPoolExecutor(_WORKERS) as pool:
            crops = list(pool.map(_crops, seeds, itertools.repeat(photos), chunksize=16))
        labels = np.concatenate([np.full(len(part), label) for label, part in enumerate(crops)])
        log.info("%d crops of %d tattoos", len(labels), len(seeds))
        export_tattoo_embedder(train_embedder(np.concatenate(crops), labels, embedder_steps), out / EMBEDDER)
    describe(out)


def describe(directory: Path) -> None:
    """Adds the two networks to the pack.yaml of a directory."""
    path = directory / "pack.yaml"
    pack: dict[str, Any] = yaml.safe_load(path.read_text())
    pack["tattoo"] = {
        "detector": {
            "file": DETECTOR,
            "kind": "yolov5",
            "input_size": INPUT_SIZE,
            "sha256": sha256_file(directory / DETECTOR),
        },
        "embedder": {
            "file": EMBEDDER,
            "input_size": 224,
            "dim": 1280,
            "sha256": sha256_file(directory / EMBEDDER),
        },
    }
    write_atomically(path, yaml.safe_dump(pack, sort_keys=False, width=100))


def _scene(index: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A window of a letterboxed picture, and the box (x1, y1, x2, y2) of its tattoo in pixels; zeros without one."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng([_SCENE_STREAM, index])
    photo = _photo(rng, index)
    boxed = letterbox(through_jpeg(photo.image, int(rng.integers(75, 96))), INPUT_SIZE)
    box = np.zeros(4, np.float32)
    if photo.marks:
        box = np.array(photo.marks[0], np.float32) * np.float32(boxed.ratio)
        box += np.array([boxed.left, boxed.top] * 2, np.float32)
    return _window(boxed.image, box, rng)


def _window(
    image: NDArray[np.uint8], box: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A part of a picture with its tattoo, if it has one."""
    corner = rng.integers(0, INPUT_SIZE - _WINDOW + 1, 2)
    if box[2] > 0:
        low = np.maximum(0, np.ceil(box[2:] - _WINDOW)).astype(int)
        high = np.minimum(INPUT_SIZE - _WINDOW, np.floor(box[:2])).astype(int)
        corner = np.minimum(rng.integers(low, np.maximum(low, high) + 1), INPUT_SIZE - _WINDOW)
        box = box - np.tile(corner, 2).astype(np.float32)
    x, y = (int(each) for each in corner)
    return image[y : y + _WINDOW, x : x + _WINDOW].copy(), box


def _photo(rng: np.random.Generator, index: int) -> Photo:
    kind, size = rng.random(), _SIZES[rng.integers(len(_SIZES))]
    seed = TRAIN_SEEDS[0] + index
    if kind < 0.08:
        return render_scenery(seed, size)
    if kind < 0.16:
        group = rng.integers(TRAIN_SEEDS.start, TRAIN_SEEDS.stop, int(rng.integers(2, 5)))
        return render_group([make_person(int(each)) for each in group], seed)
    person = make_person(int(rng.integers(TRAIN_SEEDS.start, TRAIN_SEEDS.stop)))
    return render_portrait(person, seed, size, mark=make_mark(person.seed))


def _crops(seed: int, photos: int) -> NDArray[np.uint8]:
    """Crops of one tattoo, from boxes that are as far off as a detector's."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng([_CROP_STREAM, seed])
    crops = []
    for number in range(photos):
        photo = render_portrait(
            make_person(seed),
            TRAIN_SEEDS[0] + number,
            _SIZES[rng.integers(len(_SIZES))],
            mark=make_mark(seed),
        )
        image = through_jpeg(photo.image, int(rng.integers(75, 96)))
        height, width = image.shape[:2]
        for x1, y1, x2, y2 in photo.marks:
            off = rng.normal(0, 0.05, 4) * (x2 - x1)
            region = TattooRegion(
                (x1 + off[0]) / width,
                (y1 + off[1]) / height,
                (x2 - x1 + off[2]) / width,
                (y2 - y1 + off[3]) / height,
                1.0,
            )
            crop = cut_out(image, region)
            if crop is not None:
                crops.append(crop)
    return np.array(crops, np.uint8).reshape(-1, 224, 224, 3)


def train_detector(
    images: NDArray[np.uint8], boxes: NDArray[np.float32], steps: int, batch: int = 16
) -> TattooDetector:
    """Focal loss on the objectness, absolute error on the boxes of the cells at the middle of a tattoo."""
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    net = TattooDetector()
    net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps, pct_start=0.1)
    seen = []
    for step, rows in zip(range(steps), batches(len(images), batch, rng), strict=False):
        scene, truth = _mirrored(images[rows], boxes[rows], rng)
        loss = _detector_loss(net(scene), truth, cells(_WINDOW))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        seen.append(float(loss.detach()))
        if (step + 1) % 100 == 0:
            log.info("detector %d/%d: %.4f", step + 1, steps, np.mean(seen[-100:]))
    return net


def _mirrored(
    images: NDArray[np.uint8], boxes: NDArray[np.float32], rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    images, boxes = images.copy(), boxes.copy()
    for place in np.flatnonzero(rng.random(len(images)) < 0.5):
        images[place] = images[place, :, ::-1]
        if boxes[place, 2] > 0:
            boxes[place] = boxes[place][[2, 1, 0, 3]] * (-1, 1, -1, 1) + (_WINDOW, 0, _WINDOW, 0)
    light = rng.uniform(0.8, 1.2, (len(images), 1, 1, 3)).astype(np.float32)
    values = np.clip(images.astype(np.float32) / 255 * light, 0, 1)
    return torch.from_numpy(values).permute(0, 3, 1, 2), torch.from_numpy(boxes)


def _detector_loss(found: Tensor, truth: Tensor, places: Tensor) -> Tensor:
    there = truth[:, 2] > 0
    middles, sides = (truth[:, :2] + truth[:, 2:]) / 2, truth[:, 2:] - truth[:, :2]
    away = (places[None] - middles[:, None]).abs().amax(-1)
    positive = (away <= STRIDE) & there[:, None]
    ignored = (away <= 2 * STRIDE) & there[:, None] & ~positive
    target = positive.float()
    logits = found[..., 4]
    focal = (torch.sigmoid(logits) - target).abs() ** 2
    loss = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none") * focal
    total = positive.sum().clamp(min=1)
    score = (loss * ~ignored).sum() / total
    image, cell = torch.nonzero(positive, as_tuple=True)
    rows = found[image, cell]
    place = (rows[:, :2] - middles[image]).abs().mean(-1) / STRIDE
    size = (torch.log(rows[:, 2:4]) - torch.log(sides[image])).abs().mean(-1)
    kind = nn.functional.binary_cross_entropy_with_logits(rows[:, 5], torch.ones(len(rows)), reduction="sum")
    return 4 * score + (place.sum() + 2 * size.sum() + 0.1 * kind) / total


def train_embedder(
    crops: NDArray[np.uint8], labels: NDArray[np.int64], steps: int, batch: int = 64
) -> TattooEmbedder:
    """Large margin cosine loss over the tattoos."""
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    net, head = TattooEmbedder(), MarginHead(int(labels.max()) + 1)
    net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW([*net.parameters(), *head.parameters()], lr=4e-3, weight_decay=0.03)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps, pct_start=0.15)
    seen = []
    for step, rows in zip(range(steps), batches(len(crops), batch, rng), strict=False):
        light = rng.uniform(0.8, 1.2, (len(rows), 1, 1, 3)).astype(np.float32)
        values = (np.clip(crops[rows].astype(np.float32) / 255 * light, 0, 1) - _MEAN) / _STD
        wanted = torch.from_numpy(labels[rows])
        margin = 0.3 * min(1.0, step / (0.4 * steps))
        logits = head(net(torch.from_numpy(values).permute(0, 3, 1, 2)), wanted, margin)
        loss = nn.functional.cross_entropy(logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        seen.append((float(loss.detach()), float((logits.argmax(1) == wanted).float().mean())))
        if (step + 1) % 100 == 0:
            log.info("embedder %d/%d: %.4f, right %.3f", step + 1, steps, *np.mean(seen[-100:], axis=0))
    return net


if __name__ == "__main__":
    main()
