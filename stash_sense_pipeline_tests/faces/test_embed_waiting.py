"""Waiting crops get their vectors in whole batches; unusable vectors are not stored."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from stash_sense_pipeline.catalog.schema import aligned_crops, embeddings, faces
from stash_sense_pipeline.catalog.transactions import reading
from stash_sense_pipeline.faces.collect import collect_faces
from stash_sense_pipeline.faces.collection.run_context import CollectLimits
from stash_sense_pipeline.faces.crop_embedding import EmbeddingControl, EmbeddingRules
from stash_sense_pipeline.faces.embed_waiting import embed_waiting
from stash_sense_pipeline.faces.extraction.decode import DecodeLimits, decode_image
from stash_sense_pipeline.faces.models.detector import Detector
from stash_sense_pipeline.faces.models.embedder import EmbeddingError
from stash_sense_pipeline.faces.models.model_packs import ModelPack, load_pack
from stash_sense_pipeline.faces.models.onnx_sessions import Device
from stash_sense_pipeline.foundation.errors import DeviceError
from stash_sense_pipeline.privacy.suppression.suppression_list import NO_SUPPRESSIONS
from stash_sense_pipeline.settings.schema import GlobalSettings
from stash_sense_pipeline_tests.faces.nets import describe_pack, picture, random_embedder, tattooed
from stash_sense_pipeline_tests.faces.test_embedder import cosines, reference
from stash_sense_pipeline_tests.faces.world import (
    ImageServer,
    box,
    image_request,
    list_performers,
    png,
    polite_client,
)


def fill(catalog: sa.Engine, server: ImageServer, pack: ModelPack, count: int) -> None:
    """Collects `count` faces, each with one tattoo in its picture."""
    pictures = [tattooed(picture([(4 + i % 9, 5, 0.95, 90 + i)], i), 2, 15) for i in range(count)]
    server.bodies.update({f"i{i:03}": png(image) for i, image in enumerate(pictures)})
    list_performers(catalog, server, {f"p{i:03}": [f"i{i:03}"] for i in range(count)})

    async def go() -> None:
        async with polite_client(server) as client:
            report = await collect_faces(
                catalog,
                box(server),
                pack,
                client,
                image_request,
                GlobalSettings(),
                NO_SUPPRESSIONS,
                limits=CollectLimits(batch_seconds=0.1),
            )
            assert report.faces == count

    asyncio.run(go())


def stored(catalog: sa.Engine, table: sa.Table) -> list[sa.Row]:
    with reading(catalog) as connection:
        return list(connection.execute(sa.select(table).order_by(*table.primary_key)))


@pytest.mark.slow
def test_vectors_are_those_of_the_contract_from_the_file_to_the_catalog(
    any_catalog: sa.Engine, server: ImageServer, pack: ModelPack
) -> None:
    import warnings

    from insightface.utils import face_align

    fill(any_catalog, server, pack, 6)
    report = embed_waiting(any_catalog, "boxed", pack, EmbeddingRules(batch_size=4))
    assert (report.embedded, report.vectors, report.crops_left) == (6, {"facenet": 6, "arcface": 6}, 0)
    detector = Detector(pack.detector)
    for face in stored(any_catalog, faces):
        rgb = decode_image(server.bodies[face.image_id], DecodeLimits()).rgb
        with warnings.catch_warnings(action="ignore"):
            crop = face_align.norm_crop(rgb, detector.detect(rgb)[0].landmarks)
        for name, size, std in (("facenet", 160, 127.5), ("arcface", 112, 128.0)):
            path = pack.embedders[name].path
            expected = reference(crop[None], path, size, 127.5, std, nchw=False, flip=True)
            (row,) = [
                r for r in stored(any_catalog, embeddings) if (r.face_id, r.model) == (face.face_id, name)
            ]
            vector = np.frombuffer(row.vector, "<f4")
            assert cosines(vector[None], expected).min() >= 0.99999
            assert np.abs(vector - expected[0]).max() <= 1e-5 * max(1, np.abs(expected).max())
            assert (row.pack, row.model_digest) == (pack.name, pack.embedders[name].digest)


@pytest.mark.slow
def test_batches_of_any_size_give_the_same_vectors(
    catalog: sa.Engine, server: ImageServer, pack: ModelPack
) -> None:
    fill(catalog, server, pack, 7)
    embed_waiting(catalog, "boxed", pack, EmbeddingRules(batch_size=1, keep_crops=True, threads=1))
    one_by_one = stored(catalog, embeddings)
    with catalog.begin() as connection:
        connection.execute(sa.delete(embeddings))
    embed_waiting(catalog, "boxed", pack, EmbeddingRules(batch_size=100, threads=2))
    assert [(r.face_id, r.model, r.vector) for r in one_by_one] == [
        (r.face_id, r.model, r.vector) for r in stored(catalog, embeddings)
    ]


@pytest.mark.slow
def test_crops_go_when_their_vectors_are_complete_unless_they_are_kept(
    catalog: sa.Engine, server: ImageServer, pack: ModelPack
) -> None:
    fill(catalog, server, pack, 5)
    assert embed_waiting(catalog, "boxed", pack, EmbeddingRules(keep_crops=True)).crops_left == 5
    again = embed_waiting(catalog, "boxed", pack, EmbeddingRules(keep_crops=True))
    assert (again.embedded, again.crops_left) == (0, 5)
    assert embed_waiting(catalog, "boxed", pack, EmbeddingRules(keep_crops=False)).crops_left == 0
    assert stored(catalog, aligned_crops) == []
    assert len(stored(catalog, embeddings)) == 10


@pytest.mark.slow
def test_a_new_embedder_is_added_to_retained_crops(
    catalog: sa.Engine, server: ImageServer, pack: ModelPack, tmp_path: Path
) -> None:
    fill(catalog, server, pack, 3)
    embed_waiting(catalog, "boxed", pack, EmbeddingRules(keep_crops=True))
    before = {(r.face_id, r.model): r for r in stored(catalog, embeddings)}
    larger = replace(pack, embedders={**pack.embedders, "adaface": added(tmp_path)})
    report = embed_waiting(catalog, "boxed", larger, EmbeddingRules(keep_crops=True))
    assert report.vectors == {"facenet": 0, "arcface": 0, "adaface": 3}
    after = {(r.face_id, r.model): r for r in stored(catalog, embeddings)}
    assert {key: row for key, row in after.items() if key[1] != "adaface"} == before


def added(directory: Path):
    from stash_sense_pipeline.faces.models.model_packs import EmbedderSpec
    from stash_sense_pipeline.faces.models.pack_fields import Layout

    random_embedder(directory / "adaface.onnx", 77, size=112, layout="nchw")
    return EmbedderSpec(directory / "adaface.onnx", "d" * 64, 112, Layout.NCHW, 127.5, 127.5, 512)


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["zero", "nan"])
def test_a_network_that_gives_unusable_vectors_stores_nothing(
    catalog: sa.Engine, server: ImageServer, pack: ModelPack, tmp_path: Path, broken: str
) -> None:
    fill(catalog, server, pack, 3)
    directory = Path(shutil.copytree(pack.directory, tmp_path / "pack"))
    random_embedder(directory / "arcface.onnx", 2, size=112, layout="nhwc", broken=broken)
    describe_pack(directory)
    with pytest.raises(EmbeddingError, match="arcface: 3 of 3 vectors"):
        embed_waiting(catalog, "boxed", load_pack(str(directory), tmp_path))
    assert stored(catalog, embeddings) == []
    assert len(stored(catalog, aligned_crops)) == 3


@pytest.mark.slow
def test_a_failure_keeps_the_batches_before_it(
    catalog: sa.Engine, server: ImageServer, pack: ModelPack, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(catalog, server, pack, 6)

    def fail(stage: str, done: int, total: int | None) -> None:
        assert (stage, total) == ("faces", 6)
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_waiting(catalog, "boxed", pack, EmbeddingRules(batch_size=2), EmbeddingControl(progress=fail))
    assert len(stored(catalog, embeddings)) == 8
    assert len(stored(catalog, aligned_crops)) == 2
    assert embed_waiting(catalog, "boxed", pack).embedded == 2


@pytest.mark.slow
def test_only_faces_of_the_given_source_are_embedded(
    catalog: sa.Engine, server: ImageServer, pack: ModelPack
) -> None:
    fill(catalog, server, pack, 2)
    assert embed_waiting(catalog, "another", pack).embedded == 0
    assert len(stored(catalog, aligned_crops)) == 2


def test_missing_cuda_raises_an_error_and_stores_no_vectors(
    catalog: sa.Engine, server: ImageServer, pack: ModelPack
) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has CUDA")
    fill(catalog, server, pack, 2)
    with pytest.raises(DeviceError):
        embed_waiting(catalog, "boxed", pack, EmbeddingRules(device=Device.CUDA))
    assert stored(catalog, embeddings) == []


@pytest.mark.slow
def test_stopping_ends_with_a_whole_batch(catalog: sa.Engine, server: ImageServer, pack: ModelPack) -> None:
    fill(catalog, server, pack, 12)
    batches = iter([False, False, True])
    report = embed_waiting(
        catalog, "boxed", pack, EmbeddingRules(batch_size=4), EmbeddingControl(stop=lambda: next(batches))
    )
    assert (report.embedded, report.interrupted, report.crops_left) == (8, True, 4)
    report = embed_waiting(catalog, "boxed", pack, EmbeddingRules(batch_size=4))
    assert (report.embedded, report.interrupted, report.crops_left) == (4, False, 0)
