"""`python -m stash_sense_pipeline_tests.tools.training --out DIR`: makes and measures a demo pack."""

from __future__ import annotations

import logging
from pathlib import Path

import click
import torch

from stash_sense_pipeline_tests.tools.training.data import make_crops, make_scenes
from stash_sense_pipeline_tests.tools.training.evaluate import report
from stash_sense_pipeline_tests.tools.training.export import (
    detector_spec,
    export_detector,
    export_embedder,
    write_pack,
)
from stash_sense_pipeline_tests.tools.training.nets import stored_detector
from stash_sense_pipeline_tests.tools.training.train import train_detector, train_embedder, train_further

log = logging.getLogger(__name__)

_WINDOW = 224
_INPUT_SIZE = 320


@click.command()
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="The pack directory."
)
@click.option("--scenes", default=9000, show_default=True, help="Pictures the detector learns from.")
@click.option("--detector-steps", default=2000, show_default=True, help="0 keeps the detector of --out.")
@click.option("--turned-steps", default=800, show_default=True, help="0 keeps the other detector of --out.")
@click.option("--identities", default=2400, show_default=True, help="People the embedders learn from.")
@click.option("--photos", default=8, show_default=True, help="Photos of each of them.")
@click.option("--facenet-steps", default=2000, show_default=True, help="0 keeps the embedder of --out.")
@click.option("--arcface-steps", default=2000, show_default=True, help="0 keeps the embedder of --out.")
@click.option("--people", default=400, show_default=True, help="Held-out people to measure the pack on.")
def main(
    out: Path,
    scenes: int,
    detector_steps: int,
    turned_steps: int,
    identities: int,
    photos: int,
    facenet_steps: int,
    arcface_steps: int,
    people: int,
) -> None:
    """Renders people, trains detector and embedders on them, and writes a measured model pack to --out."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(2)
    out.mkdir(parents=True, exist_ok=True)
    if detector_steps:
        log.info("rendering %d scenes", scenes)
        export_detector(train_detector(make_scenes(scenes, _WINDOW), detector_steps), out / "detector.onnx")
    if turned_steps:
        log.info("rendering %d scenes, turned by any angle", scenes)
        start = stored_detector(out / "detector.onnx")
        turned = train_further(start, make_scenes(scenes, _WINDOW, turned=True), turned_steps)
        export_detector(turned, out / "detector_turned.onnx")
    embedders = (("arcface", 112, 128.0, arcface_steps), ("facenet", 160, 127.5, facenet_steps))
    if arcface_steps or facenet_steps:
        log.info("rendering and aligning %d people", identities)
        crops = make_crops(identities, photos, detector_spec(out, _INPUT_SIZE))
        log.info("%d crops", len(crops.images))
        for name, size, divisor, steps in embedders:
            if steps:
                export_embedder(train_embedder(crops, size, divisor, steps), size, out / f"{name}.onnx")
    write_pack(out, _INPUT_SIZE)
    for line in report(out, people):
        log.info("%s", line)


if __name__ == "__main__":
    main()
