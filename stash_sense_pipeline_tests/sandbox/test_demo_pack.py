"""The demo pack that lies in the repository: small, described truly, loadable and good enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from insightface.model_zoo import get_model
from insightface.model_zoo.arcface_onnx import ArcFaceONNX
from insightface.model_zoo.scrfd import SCRFD

import stash_sense_pipeline.sandbox
from stash_sense_pipeline.foundation.files import sha256_file
from stash_sense_pipeline.sandbox.invented.rendered_person import HELD_OUT_SEEDS, make_person
from stash_sense_pipeline.sandbox.invented.rendering import render_portrait
from stash_sense_pipeline_tests.tools.training.evaluate import (
    Pack,
    measure_detection,
    measure_recognition,
)

PACK = Path(stash_sense_pipeline.sandbox.__file__).parent / "demo_pack"


@pytest.fixture(scope="module")
def description():
    return yaml.safe_load((PACK / "pack.yaml").read_text())


@pytest.fixture(scope="module")
def pack():
    return Pack(PACK)


def _files(description):
    return {spec["file"]: spec for spec in (description["detector"], *description["embedders"].values())}


def test_the_description_has_the_digests_of_the_files_and_states_the_limits(description):
    assert description["name"] == "demo-synth-v1"
    assert description["demo"] is True
    assert "no biometric value" in description["licence"]
    assert {file: sha256_file(PACK / file) for file in _files(description)} == {
        file: spec["sha256"] for file, spec in _files(description).items()
    }


def test_all_three_models_together_are_small(description):
    assert sum((PACK / file).stat().st_size for file in _files(description)) < 3_000_000


def test_insightface_recognises_the_kind_of_each_model(description):
    detector = get_model(str(PACK / description["detector"]["file"]))
    assert isinstance(detector, SCRFD)
    assert detector.use_kps
    assert detector.batched
    assert (detector.fmc, detector._num_anchors) == (3, 2)
    for spec in description["embedders"].values():
        embedder = get_model(str(PACK / spec["file"]))
        assert isinstance(embedder, ArcFaceONNX)
        assert embedder.input_size == (spec["input_size"],) * 2
        assert (embedder.input_mean, embedder.input_std) == (127.5, 127.5)
        assert embedder.output_shape[1] == spec["dim"] == 512


def test_graphs_are_opset_17_with_a_free_batch(description):
    for file in _files(description):
        model = onnx.load(PACK / file)
        assert [entry.version for entry in model.opset_import if not entry.domain] == [17]
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param


@pytest.mark.slow
def test_a_batch_gives_what_each_image_gives_alone(description):
    rng = np.random.default_rng(1)
    for file, spec in _files(description).items():
        session = onnxruntime.InferenceSession(PACK / file, providers=["CPUExecutionProvider"])
        blob = rng.normal(0, 0.5, (3, 3, spec["input_size"], spec["input_size"])).astype(np.float32)
        together = session.run(None, {"input": blob})
        for row in range(3):
            alone = session.run(None, {"input": blob[row : row + 1]})
            for all_rows, one in zip(together, alone, strict=True):
                np.testing.assert_allclose(all_rows[row], one[0], atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_the_pack_recognises_held_out_people(pack):
    seen = measure_recognition(pack, people=80, probes=2)
    assert seen.detector_recall > 0.98
    assert seen.landmark_error < 0.03
    assert min(seen.rank1.values()) > 0.85
    assert seen.rank1["arcface"] >= 0.90
    assert seen.rank1["fusion"] >= 0.90
    assert seen.genuine["fusion"] > seen.impostor["fusion"] + 0.3
    counted = measure_detection(pack, groups=12, sceneries=24)
    assert counted.groups_with_the_right_number >= 10
    assert counted.faces_in_sceneries <= 2


@pytest.mark.slow
def test_faces_of_every_usual_size_are_found(pack):
    for seed in HELD_OUT_SEEDS[:6]:
        for size in ((320, 400), (400, 500), (720, 900), (1280, 1600)):
            (face,) = pack.detector.detect(render_portrait(make_person(seed), 1, size).image)
            assert face.confidence > 0.6
