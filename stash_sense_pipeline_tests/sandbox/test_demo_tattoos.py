"""The networks for tattoos of the demo pack, on rendered people that they never learned from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml

import stash_sense_pipeline.sandbox
from stash_sense_pipeline.faces.models.model_packs import TattooNetworks, load_pack
from stash_sense_pipeline.faces.models.tattoo_detector import TattooDetector, TattooRegion
from stash_sense_pipeline.faces.models.tattoo_embedder import TattooEmbedder
from stash_sense_pipeline.faces.tattoos.crop import cut_out
from stash_sense_pipeline.foundation.files import sha256_file
from stash_sense_pipeline.sandbox.invented.marks import make_mark
from stash_sense_pipeline.sandbox.invented.pictures import Kind, Picture, PictureStore
from stash_sense_pipeline.sandbox.invented.rendered_person import HELD_OUT_SEEDS, make_person
from stash_sense_pipeline.sandbox.invented.rendering import render_group, render_portrait, render_scenery
from stash_sense_pipeline_tests.tools.training.evaluate import through_jpeg

PACK = Path(stash_sense_pipeline.sandbox.__file__).parent / "demo_pack"
SIZES = ((400, 500), (400, 600), (360, 450), (480, 600), (420, 420))
PEOPLE = 60


@pytest.fixture(scope="module")
def networks() -> TattooNetworks:
    tattoo = load_pack(str(PACK), Path("nowhere")).tattoo
    assert tattoo is not None
    return tattoo


def overlap(region: TattooRegion, box: tuple[float, ...], size: tuple[int, int]) -> float:
    """Intersection over union of a found and a drawn box."""
    width, height = size
    x1, y1 = region.x * width, region.y * height
    x2, y2 = x1 + region.width * width, y1 + region.height * height
    shared = max(0.0, min(x2, box[2]) - max(x1, box[0])) * max(0.0, min(y2, box[3]) - max(y1, box[1]))
    return shared / ((x2 - x1) * (y2 - y1) + (box[2] - box[0]) * (box[3] - box[1]) - shared)


def test_the_networks_are_small_and_described_truly() -> None:
    section = yaml.safe_load((PACK / "pack.yaml").read_text())["tattoo"]
    for body in section.values():
        assert sha256_file(PACK / body["file"]) == body["sha256"]
        assert (PACK / body["file"]).stat().st_size < 200_000
        model = onnx.load(PACK / body["file"])
        assert [entry.version for entry in model.opset_import if not entry.domain] == [17]


@pytest.mark.slow
def test_tattoos_are_found_and_told_apart(networks: TattooNetworks) -> None:
    detector = TattooDetector(networks.detector)
    drawn, found, extra = 0, 0, 0
    crops: dict[int, list[np.ndarray]] = {}
    for number, seed in enumerate(HELD_OUT_SEEDS[:PEOPLE]):
        for photo_seed in range(3):
            size = SIZES[(number + photo_seed) % len(SIZES)]
            photo = render_portrait(make_person(seed), photo_seed, size, mark=make_mark(seed))
            image = through_jpeg(photo.image, 90)
            regions = detector.detect(image)
            hits = [each for each in regions if any(overlap(each, box, size) > 0.5 for box in photo.marks)]
            drawn, found, extra = (
                drawn + len(photo.marks),
                found + len(hits),
                extra + len(regions) - len(hits),
            )
            crops.setdefault(seed, []).extend(
                crop for each in hits[:1] if (crop := cut_out(image, each)) is not None
            )
    assert drawn > PEOPLE
    assert found >= 0.97 * drawn
    assert extra <= 0.03 * 3 * PEOPLE
    several = {seed: shown for seed, shown in crops.items() if len(shown) > 1}
    with TattooEmbedder(networks.embedder) as embedder:
        gallery = embedder.vectors(np.stack([shown[0] for shown in several.values()]))
        probes = embedder.vectors(np.stack([shown[1] for shown in several.values()]))
    right = (probes @ gallery.T).argmax(axis=1) == np.arange(len(several))
    assert right.mean() > 0.9, right


@pytest.mark.slow
def test_pictures_without_a_tattoo_give_few(networks: TattooNetworks) -> None:
    detector = TattooDetector(networks.detector)
    group = [make_person(seed) for seed in HELD_OUT_SEEDS[:4]]
    pictures = [render_scenery(HELD_OUT_SEEDS[number]).image for number in range(20)]
    pictures += [render_group(group, number).image for number in range(5)]
    pictures += [render_portrait(make_person(seed), 1).image for seed in HELD_OUT_SEEDS[:25]]
    assert sum(len(detector.detect(image)) for image in pictures) <= 2


@pytest.mark.slow
def test_only_a_world_with_tattoos_shows_them(tmp_path: Path) -> None:
    plain, marked = PictureStore(tmp_path), PictureStore(tmp_path, tattoos=True)
    same = []
    for number in range(8):
        picture = Picture(number, Kind.PORTRAIT, (number,), (True,))
        same.append(plain.original(picture) == marked.original(picture))
        assert same[-1] == (make_mark(number) is None)
        assert marked.original(picture) == PictureStore(tmp_path, tattoos=True).original(picture)
    assert len(set(same)) == 2
