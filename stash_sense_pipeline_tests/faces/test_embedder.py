"""Vectors equal an independent reference written from the sidecar's contract, whatever else is in the batch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest

from stash_sense_pipeline.faces.models.embedder import Embedder, EmbeddingError, _buckets, preprocess
from stash_sense_pipeline.faces.models.model_packs import EmbedderSpec, ModelPack
from stash_sense_pipeline.faces.models.onnx_sessions import Device
from stash_sense_pipeline.faces.models.pack_fields import ChannelOrder, Layout
from stash_sense_pipeline.foundation.errors import DeviceError, ModelPackError
from stash_sense_pipeline_tests.faces.nets import random_embedder, rewritten, with_norm, with_pooled_axes


def some_crops(count: int, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 14, 14, 3), dtype=np.uint8)
    return np.stack([cv2.resize(one, (112, 112), interpolation=cv2.INTER_CUBIC) for one in coarse])


def reference(
    crops: np.ndarray, path: Path, size: int, mean: float, std: float, nchw: bool, flip: bool
) -> np.ndarray:
    """The contract, step by step: flip the 112 crop, resize by INTER_AREA, normalise, run interleaved, average."""
    rows = []
    for crop in crops:
        for view in (crop, crop[:, ::-1, :]) if flip else (crop,):
            resized = cv2.resize(view.copy(), (size, size), interpolation=cv2.INTER_AREA)
            rows.append((resized.astype(np.float32) - mean) / std)
    batch = np.stack(rows).astype(np.float32)
    if nchw:
        batch = batch.transpose(0, 3, 1, 2)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    raw = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(batch)})[0]
    return np.stack([raw[2 * i : 2 * i + 2].mean(axis=0) for i in range(len(crops))]) if flip else raw


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize(("size", "mean", "std"), [(160, 127.5, 127.5), (112, 127.5, 128.0)])
def test_vectors_equal_those_of_the_reference(
    tmp_path: Path, size: int, mean: float, std: float, layout: Layout, flip: bool
) -> None:
    path = tmp_path / "net.onnx"
    random_embedder(path, 11, size=size, layout=layout)
    spec = EmbedderSpec(path, "d", size, layout, mean, std, 512)
    crops = some_crops(7)
    with Embedder("net", spec) as embedder:
        ours = embedder.embed(crops, flip)
    theirs = reference(crops, path, size, mean, std, layout is Layout.NCHW, flip)
    assert ours.shape == (7, 512)
    assert ours.dtype == np.float32
    assert cosines(ours, theirs).min() >= 0.99999
    # Raw: neither the length nor the scale is touched.
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
    assert np.abs(np.linalg.norm(ours, axis=1) - 1).min() > 1e-3


def test_the_order_of_flip_and_resize_matters_in_this_test() -> None:
    crop = some_crops(1)[0]
    spec = EmbedderSpec(Path("x"), "d", 160, Layout.NHWC, 0, 1, 512)
    flipped_first, flipped_last = preprocess(crop[:, ::-1], spec), preprocess(crop, spec)[:, ::-1]
    assert np.abs(flipped_first - flipped_last).max() > 1


def test_a_face_has_one_vector_alone_in_any_batch_and_with_any_threads(pack: ModelPack) -> None:
    crops = some_crops(13)
    for name, spec in pack.embedders.items():
        with Embedder(name, spec) as one, Embedder(name, spec, threads=3) as three:
            alone = np.concatenate([one.embed(crops[i : i + 1], True) for i in range(13)])
            assert np.array_equal(one.embed(crops, True), alone)
            assert np.array_equal(one.embed(crops[::-1], True)[::-1], alone)
            assert np.array_equal(three.embed(crops, True), alone)


@pytest.mark.slow
def test_a_face_has_one_vector_in_any_process(pack: ModelPack) -> None:
    script = (
        "import sys, numpy as np; from pathlib import Path;"
        "from stash_sense_pipeline.faces.models.model_packs import load_pack;"
        "from stash_sense_pipeline.faces.models.embedder import Embedder;"
        "spec = load_pack(sys.argv[1], Path('x')).embedders['facenet'];"
        "crops = np.load(sys.argv[2]);"
        "np.save(sys.argv[3], Embedder('facenet', spec).embed(crops, True))"
    )
    crops = some_crops(4)
    here = Embedder("facenet", pack.embedders["facenet"]).embed(crops, True)
    directory = pack.directory
    np.save(directory / "crops.npy", crops)
    command = [
        sys.executable,
        "-c",
        script,
        str(directory),
        str(directory / "crops.npy"),
        str(directory / "out.npy"),
    ]
    subprocess.run(command, check=True)
    assert np.array_equal(np.load(directory / "out.npy"), here)


def test_a_network_with_a_fixed_batch_gives_the_same_vectors(tmp_path: Path) -> None:
    vectors = []
    for batch in (1, 3, "N"):
        path = tmp_path / f"{batch}.onnx"
        random_embedder(path, 2, size=112, layout="nhwc", batch=batch)
        with Embedder("net", EmbedderSpec(path, "d", 112, Layout.NHWC, 127.5, 128, 512)) as embedder:
            vectors.append(embedder.embed(some_crops(5), True))
    assert np.allclose(vectors[0], vectors[2], atol=1e-5)
    assert np.allclose(vectors[1], vectors[2], atol=1e-5)


def test_a_bgr_embedder_of_swapped_crops_equals_an_rgb_one(pack: ModelPack) -> None:
    spec = pack.embedders["arcface"]
    crops = some_crops(2)
    with Embedder("a", spec) as rgb, Embedder("a", replace(spec, channel_order=ChannelOrder.BGR)) as bgr:
        assert np.array_equal(bgr.embed(np.ascontiguousarray(crops[..., ::-1]), True), rgb.embed(crops, True))


def test_a_crop_that_is_not_square_is_fitted_and_centred() -> None:
    spec = EmbedderSpec(Path("x"), "d", 160, Layout.NHWC, 0, 1, 512)
    fitted = preprocess(np.full((56, 112, 3), 100, np.uint8), spec)
    assert (fitted[40:120] == 100).all()
    assert not fitted[:40].any()
    assert not fitted[120:].any()


@pytest.mark.parametrize("broken", ["zero", "nan"])
def test_degenerate_vectors_never_come_back(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "net.onnx"
    random_embedder(path, 2, size=112, layout="nhwc", broken=broken)
    spec = EmbedderSpec(path, "d", 112, Layout.NHWC, 127.5, 128, 512)
    with (
        Embedder("net", spec) as embedder,
        pytest.raises(EmbeddingError, match="2 of 2 vectors are zero or not finite"),
    ):
        embedder.embed(some_crops(2), True)


@pytest.fixture
def nchw(tmp_path: Path) -> EmbedderSpec:
    """An embedder in the layout of insightface's own recognisers."""
    random_embedder(tmp_path / "nchw.onnx", 8, size=112, layout="nchw")
    return EmbedderSpec(tmp_path / "nchw.onnx", "d", 112, Layout.NCHW, 127.5, 127.5, 512)


def names_of_insightface(source: Path, path: Path) -> None:
    rewritten(source, path, names={"input": "input.1", "embedding": "683"})


def declared_for_one_face(source: Path, path: Path) -> None:
    """w600k_r50.onnx takes any batch and yet declares that its output has one row."""
    rewritten(source, path, shapes={"input": ["None", 3, 112, 112], "embedding": [1, 512]})


def declared_free(source: Path, path: Path) -> None:
    free: dict[str, list[int | str]] = {"input": ["b", "c", "h", "w"], "embedding": ["b", "d"]}
    rewritten(source, path, shapes=free)


@pytest.mark.parametrize(
    "export", [names_of_insightface, declared_for_one_face, declared_free, with_norm, with_pooled_axes]
)
def test_exports_of_different_forms_give_the_same_vectors(
    nchw: EmbedderSpec, tmp_path: Path, export: Callable[[Path, Path], None]
) -> None:
    export(nchw.path, tmp_path / "other.onnx")
    with Embedder("a", nchw) as one, Embedder("a", replace(nchw, path=tmp_path / "other.onnx")) as other:
        assert np.array_equal(other.embed(some_crops(3), True), one.embed(some_crops(3), True))


def test_a_layout_that_only_a_run_shows_to_be_wrong_is_one_clear_line(
    nchw: EmbedderSpec, tmp_path: Path
) -> None:
    declared_free(nchw.path, tmp_path / "free.onnx")
    wrong = replace(nchw, path=tmp_path / "free.onnx", layout=Layout.NHWC)
    with (
        Embedder("a", wrong) as embedder,
        pytest.raises(
            ModelPackError, match=r"free\.onnx: ONNX Runtime cannot run it as pack\.yaml says"
        ) as caught,
    ):
        embedder.embed(some_crops(1), True)
    assert "\n" not in str(caught.value)


def test_shapes_must_be_those_of_the_description(pack: ModelPack) -> None:
    spec = pack.embedders["facenet"]
    for wrong, complaint in [
        (replace(spec, input_size=112), "input of facenet has the shape"),
        (replace(spec, layout=Layout.NCHW), "input of facenet has the shape"),
        (replace(spec, dim=128), "output of facenet has the shape"),
        (replace(spec, path=pack.detector.path), "input of facenet has the shape"),
    ]:
        with pytest.raises(ModelPackError, match=complaint):
            Embedder("facenet", wrong)


def test_a_file_that_is_no_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"this is not ONNX")
    with pytest.raises(ModelPackError, match=r"net\.onnx: ONNX Runtime cannot load it"):
        Embedder("net", EmbedderSpec(path, "d", 112, Layout.NHWC, 127.5, 128, 512))


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this machine has CUDA"
)
def test_missing_cuda_raises_an_error(pack: ModelPack) -> None:
    with pytest.raises(DeviceError, match="CUDA was asked for and is not there") as caught:
        Embedder("facenet", pack.embedders["facenet"], Device.CUDA)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4, 5, 70])
def test_the_batch_sizes_of_a_gpu_do_not_change_vectors(pack: ModelPack, count: int) -> None:
    crops = some_crops(count)
    with Embedder("facenet", pack.embedders["facenet"]) as embedder:
        alone = embedder.embed(crops, True)
        embedder._device = Device.CUDA  # the session stays on the CPU: only the batching changes
        assert np.abs(embedder.embed(crops, True) - alone).max() <= 1e-5
        seen = [padded for rows in range(1, 400) for _, _, padded in _buckets(rows)]
    assert set(seen) == {2, 8, 32, 128}


def test_no_crops_give_no_vectors(pack: ModelPack) -> None:
    with Embedder("facenet", pack.embedders["facenet"]) as embedder:
        assert embedder.embed(np.empty((0, 112, 112, 3), np.uint8), True).shape == (0, 512)
