"""A picture that every viewer opens gives the same face, in whatever file it comes."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

import stash_sense_pipeline.sandbox
from stash_sense_pipeline.catalog.queries.faces import StoredFace
from stash_sense_pipeline.faces.extraction.decode import DecodeLimits, decode_image
from stash_sense_pipeline.faces.extraction.extract_face import FaceExtractor, decode_crop
from stash_sense_pipeline.faces.extraction.rejection_reasons import Reason, Rejected
from stash_sense_pipeline.faces.models.detector import Detector
from stash_sense_pipeline.faces.models.embedder import Embedder
from stash_sense_pipeline.faces.models.model_packs import ModelPack, load_pack
from stash_sense_pipeline.sandbox.invented.rendered_person import make_person
from stash_sense_pipeline.sandbox.invented.rendering import render_portrait
from stash_sense_pipeline.settings.schema import QualityFilters
from stash_sense_pipeline_tests.faces.picture_files import (
    exif as exif_of,
)
from stash_sense_pipeline_tests.faces.picture_files import (
    gif_file,
    grey_of,
    jpeg_file,
    png_file,
    saved,
    webp_file,
)

LIMITS = DecodeLimits()
PORTRAIT = np.asarray(render_portrait(make_person(3), 2, (500, 600), 10.0).image)
PHOTO = Image.fromarray(PORTRAIT)
GREY = {"L", "LA", "I;16"}

# Name → a file of the portrait by orientation and metadata.
FILES: dict[str, Callable[[int, bool], bytes]] = {
    **{
        f"png {colours}": lambda turn, more, colours=colours: png_file(PHOTO, colours, turn, more)
        for colours in ("RGB", "RGBA", "P", "tRNS", "L", "LA", "I;16")
    },
    **{
        f"{kind} {colours}": lambda turn, more, colours=colours, kind=kind: jpeg_file(
            PHOTO, colours, turn, more, progressive=kind.startswith("progressive")
        )
        for kind, colours in product(("jpeg", "progressive jpeg"), ("RGB", "L", "CMYK"))
    },
    **{
        f"webp {colours}": lambda turn, more, colours=colours: webp_file(PHOTO, colours, turn, more)
        for colours in ("RGB", "RGBA")
    },
}
# Bytes that may be missing at the end: the end marker or chunk, and some before it.
CUTS = {"png": (0, 4, 12, 16, 60), "jpeg": (0, 1, 2, 3, 20), "webp": (0, 1, 2, 8, 60)}


def expected_for(name: str) -> np.ndarray:
    return grey_of(PORTRAIT) if name.split()[-1] in GREY else PORTRAIT


@pytest.fixture(scope="module")
def demo_pack() -> ModelPack:
    return load_pack(str(Path(stash_sense_pipeline.sandbox.__file__).parent / "demo_pack"), Path("nowhere"))


@pytest.fixture(scope="module")
def extractor(demo_pack: ModelPack) -> FaceExtractor:
    return FaceExtractor(demo_pack, Detector(demo_pack.detector), QualityFilters(), True, LIMITS)


def cuts(name: str, orientation: int) -> tuple[int, ...]:
    """How many bytes may be missing. The EXIF data of a WebP file stands at its end."""
    kind = name.split()[-2]
    if orientation == 1:
        return CUTS[kind]
    return (0, CUTS[kind][-1]) if orientation == 6 and kind != "webp" else (0,)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("metadata", [False, True], ids=["plain", "with metadata"])
def test_each_orientation_and_each_slight_cut_gives_the_same_pixels(name: str, metadata: bool) -> None:
    for orientation in (1, 6) if metadata else range(1, 9):
        data = FILES[name](orientation, metadata)
        for cut in cuts(name, orientation):
            decoded = decode_image(data[: len(data) - cut], LIMITS)
            assert decoded.size == PHOTO.size
            difference = np.abs(decoded.rgb.astype(int) - expected_for(name)).mean(axis=2)
            # What is missing lies at an edge.
            assert np.median(difference) < 8, (orientation, cut)
            assert difference.mean() < 8, (orientation, cut)


def landmarks(face: StoredFace) -> np.ndarray:
    return np.frombuffer(face.columns["landmarks"], dtype="<f4").reshape(5, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FILES, "gif", "bmp", "avif"])
def test_the_face_is_that_of_the_plain_picture(
    name: str, extractor: FaceExtractor, demo_pack: ModelPack
) -> None:
    plain = extractor.extract(png_file(PHOTO, "L" if name.split()[-1] in GREY else "RGB"))
    if name in FILES:
        data = FILES[name](6, True)
        data = data[: len(data) - cuts(name, 6)[-1]]
    else:
        avif = {"quality": 90} if name == "avif" else {}
        data = gif_file(PHOTO, metadata=True) if name == "gif" else saved(PHOTO, format=name.upper(), **avif)
    face = extractor.extract(data)
    assert np.abs(landmarks(face) - landmarks(plain)).max() < 2
    for model, spec in demo_pack.embedders.items():
        with Embedder(model, spec) as embedder:
            crops = np.stack([decode_crop(each.png) for each in (plain, face) if each.png is not None])
            first, second = embedder.embed(crops, flip_averaging=True)
        assert first @ second / np.linalg.norm(first) / np.linalg.norm(second) > 0.97


@pytest.mark.slow
def test_an_avif_file_is_turned_by_its_own_property_and_not_by_exif() -> None:
    """As the AVIF specification says. Pillow writes an orientation as that property."""
    turned = saved(PHOTO.rotate(90, expand=True), format="AVIF", quality=90, exif=exif_of(6))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(turned))).convert("RGB"))
    assert np.array_equal(decode_image(turned, LIMITS).rgb, expected)
    assert expected.shape == PORTRAIT.shape


BAD_EXIF = [
    b"",
    b"Exif\0\0",
    b"Exif\0\0II*\0\xff\xff\xff\xff",
    b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40,
    b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\x09\0\0",
    b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\5\0\0\0\1\0\6\0\0",
    b"Exif\0\0not a TIFF structure",
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("exif", BAD_EXIF)
def test_damaged_exif_costs_nothing(kind: str, exif: bytes) -> None:
    plain = saved(PHOTO, format=kind)
    if kind == "AVIF":
        # Written with sound EXIF data of the same length, which is then spoiled.
        sound = exif_of(1)
        data = saved(PHOTO, format=kind, exif=sound)
        data = data.replace(sound.removeprefix(b"Exif\0\0"), b"\xff" * (len(sound) - 6))
    else:
        data = saved(PHOTO, format=kind, exif=exif) if exif else plain
    assert np.array_equal(decode_image(data, LIMITS).rgb, decode_image(plain, LIMITS).rgb)


@pytest.mark.parametrize("quality", [75, 92])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 0.5, 0.8])
def test_a_jpeg_that_lacks_a_real_part_is_truncated(quality: int, progressive: bool, share: float) -> None:
    data = saved(PHOTO, format="JPEG", quality=quality, progressive=progressive)
    cut = data[: int(len(data) * (1 - share))]
    with pytest.raises(Rejected) as refused:
        decode_image(cut, LIMITS)
    assert refused.value.reason is Reason.TRUNCATED
    if not progressive:
        # An end marker does not make it whole.
        with pytest.raises(Rejected):
            decode_image(cut + b"\xff\xd9", LIMITS)


def test_a_whole_jpeg_with_a_grey_border_is_not_taken_for_a_cut_one() -> None:
    pixels = np.full((700, 600, 3), 128, np.uint8)
    pixels[50:650, 50:550] = PORTRAIT
    data = saved(Image.fromarray(pixels), format="JPEG", quality=92)
    assert decode_image(data, LIMITS).rgb.shape == pixels.shape
    assert decode_image(data[:-2], LIMITS).rgb.shape == pixels.shape


@pytest.mark.slow
@pytest.mark.parametrize("tail", [b"\0" * 500, b"<!-- cached -->", b"\xff" * 20, b"\xff\xd8\xff\xe0"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_bytes_behind_the_end_cost_nothing(kind: str, tail: bytes) -> None:
    plain = saved(PHOTO, format=kind)
    assert np.array_equal(decode_image(plain + tail, LIMITS).rgb, decode_image(plain, LIMITS).rgb)


@pytest.mark.slow
def test_a_reduced_picture_gives_boxes_of_its_full_size(
    extractor: FaceExtractor, demo_pack: ModelPack
) -> None:
    """Twice as large a picture has a face twice as large, whether it is decoded at half its size or not."""
    large = cv2.resize(PORTRAIT, (4000, 4800), interpolation=cv2.INTER_CUBIC)
    reduced = extractor.extract(saved(Image.fromarray(large), format="JPEG", quality=90))
    whole = extractor.extract(saved(PHOTO, format="JPEG", quality=90))
    assert np.abs(landmarks(reduced) / 8 - landmarks(whole)).max() < 2
    assert reduced.columns["x2"] == pytest.approx(8 * whole.columns["x2"], rel=0.03)
    strict = FaceExtractor(
        demo_pack, Detector(demo_pack.detector), QualityFilters(min_image_size=4000), True, DecodeLimits()
    )
    assert strict.extract(saved(Image.fromarray(large), format="JPEG", quality=90))
