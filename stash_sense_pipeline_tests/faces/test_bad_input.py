"""What sources really send, through the whole worker: each a verdict of its own, counted by its reason."""

from __future__ import annotations

import asyncio

import cv2
import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from stash_sense_pipeline.catalog.schema import faces, source_images
from stash_sense_pipeline.catalog.transactions import reading, writing
from stash_sense_pipeline.faces.collect import CollectReport, collect_faces
from stash_sense_pipeline.faces.collection.run_context import CollectLimits
from stash_sense_pipeline.faces.models.model_packs import ModelPack
from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS
from stash_sense_pipeline.settings.schema import GlobalSettings
from stash_sense_pipeline_tests.faces.nets import picture
from stash_sense_pipeline_tests.faces.picture_files import jpeg_file, many_scans, png_file, saved
from stash_sense_pipeline_tests.faces.world import (
    ImageServer,
    box,
    image_request,
    list_performers,
    png,
    polite_client,
)

PIXELS = picture([(5, 5, 0.95, 120)], 1)
PHOTO = Image.fromarray(PIXELS)
DONE = ("done", None)


def collect(catalog: sa.Engine, server: ImageServer, pack: ModelPack) -> CollectReport:
    async def go() -> CollectReport:
        async with polite_client(server) as client:
            return await collect_faces(
                catalog,
                box(server),
                pack,
                client,
                image_request,
                GlobalSettings(),
                NO_SUPPRESSIONS,
                limits=CollectLimits(batch_seconds=0.1),
            )

    return asyncio.run(go())


def verdicts(catalog: sa.Engine) -> dict[str, tuple[str, str | None]]:
    columns = source_images.c.image_id, source_images.c.state, source_images.c.reason
    with reading(catalog) as connection:
        return {row[0]: (row[1], row[2]) for row in connection.execute(sa.select(*columns))}


FILES = {
    "progressive jpeg": (saved(PHOTO, format="JPEG", quality=95, progressive=True), DONE),
    "cmyk jpeg": (saved(PHOTO.convert("CMYK"), format="JPEG", quality=98, subsampling=0), DONE),
    "16-bit png": (cv2.imencode(".png", PIXELS[:, :, ::-1].astype(np.uint16) * 257)[1].tobytes(), DONE),
    "paletted png": (saved(PHOTO.quantize(256), format="PNG"), DONE),
    "animated webp": (
        saved(
            PHOTO,
            format="WEBP",
            lossless=True,
            save_all=True,
            append_images=[Image.new("RGB", PHOTO.size)],
            duration=50,
        ),
        DONE,
    ),
    "turned png with metadata": (png_file(PHOTO, "RGBA", orientation=8, metadata=True), DONE),
    "turned jpeg without an end marker": (jpeg_file(PHOTO, "RGB", orientation=6)[:-2], DONE),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500), ("rejected", "unsupported_format")),
    "jpeg of 500 scans": (many_scans(500), ("rejected", "too_costly")),
    "truncated jpeg": (saved(PHOTO, format="JPEG", quality=95)[:9000], ("failed", "truncated")),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ("rejected", "svg")),
    "html with 200": (b"<!doctype html><html>Just a moment", ("failed", "html")),
    "50 megapixels": (saved(Image.new("1", (8000, 6400)), format="PNG"), ("rejected", "too_many_pixels")),
    "zero bytes": (b"", ("failed", "empty")),
    "json": (b'{"error": "no"}', ("failed", "not_an_image")),
}


@pytest.mark.slow
def test_each_kind_of_file_has_its_outcome(
    any_catalog: sa.Engine, server: ImageServer, pack: ModelPack
) -> None:
    names = {kind: kind.replace(" ", "-") for kind in FILES}
    server.bodies = {names[kind]: body for kind, (body, _) in FILES.items()}
    list_performers(any_catalog, server, {f"of-{name}": [name] for name in names.values()})
    report = collect(any_catalog, server, pack)
    assert verdicts(any_catalog) == {names[kind]: verdict for kind, (_, verdict) in FILES.items()}
    assert (report.done, report.faces, report.processed) == (7, 7, len(FILES))
    assert report.rejected == {"svg": 1, "too_costly": 1, "too_many_pixels": 1, "unsupported_format": 1}
    assert report.failed == {"empty": 1, "html": 1, "not_an_image": 1, "truncated": 1}


@pytest.mark.slow
def test_a_wrong_content_type_does_not_matter(
    catalog: sa.Engine, server: ImageServer, pack: ModelPack
) -> None:
    server.bodies = {"image": png(PIXELS), "page": b"<html>we are down"}
    server.headers = {"image": {"Content-Type": "text/html"}, "page": {"Content-Type": "image/jpeg"}}
    list_performers(catalog, server, {"p": ["image"], "q": ["page"]})
    collect(catalog, server, pack)
    assert verdicts(catalog) == {"image": DONE, "page": ("failed", "html")}


@pytest.mark.slow
def test_a_redirect_is_followed_on_the_same_host_only(
    catalog: sa.Engine, server: ImageServer, pack: ModelPack
) -> None:
    server.bodies = {"here": b"", "there": b"", "inside": b"", "target": png(PIXELS)}
    server.statuses = dict.fromkeys(("here", "there", "inside"), 302)
    server.headers = {
        "here": {"Location": "/images/target"},
        "there": {"Location": f"http://localhost:{server.port}/images/target"},
        "inside": {"Location": "http://10.0.0.1/images/target"},
    }
    list_performers(catalog, server, {f"of-{name}": [name] for name in ("here", "there", "inside")})
    report = collect(catalog, server, pack)
    assert verdicts(catalog) == {
        "here": DONE,
        "there": ("rejected", "disallowed"),
        "inside": ("rejected", "disallowed"),
    }
    assert report.rejected == {"disallowed": 2}
    assert server.requests["target"] == 1


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "192.168.1.1",
        "172.16.0.1",
        "169.254.169.254",
        "127.0.0.2",
        "localhost",
        "[::1]",
        "0.0.0.0",
    ],
)
def test_an_address_that_is_not_public_is_never_requested(
    catalog: sa.Engine, server: ImageServer, pack: ModelPack, address: str
) -> None:
    """Only the machine of the source's own configured URL may be such a one: the operator chose it."""
    server.bodies = {"own": png(PIXELS)}
    list_performers(catalog, server, {"p": ["own"], "q": ["other"]})
    with writing(catalog) as connection:
        other = source_images.c.image_id == "other"
        url = f"http://{address}:{server.port}/images/other"
        connection.execute(sa.update(source_images).where(other).values(url=url))
    report = collect(catalog, server, pack)
    assert verdicts(catalog) == {"own": DONE, "other": ("rejected", "disallowed")}
    assert report.rejected == {"disallowed": 1}
    assert set(server.requests) == {"own"}
    with reading(catalog) as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(faces)) == 1
