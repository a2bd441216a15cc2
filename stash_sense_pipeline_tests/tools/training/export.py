"""Writes trained networks as ONNX files and as a model pack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import yaml
from onnx import helper, numpy_helper
from torch import nn

from stash_sense_pipeline.faces.models.model_packs import DetectorSpec
from stash_sense_pipeline.faces.models.pack_fields import ChannelOrder
from stash_sense_pipeline.foundation.files import replacing, sha256_file, write_atomically
from stash_sense_pipeline_tests.tools.training.nets import STRIDES, Detector, Embedder
from stash_sense_pipeline_tests.tools.training.tattoo_nets import (
    INPUT_SIZE,
    TattooDetector,
    TattooEmbedder,
)

_OPSET = 17
_THRESHOLD = 0.5
_LICENCE = (
    "Made by this project with no data from elsewhere; same licence as the project. "
    "It recognises only cartoon faces rendered by this project; it has no biometric value."
)


def export_detector(net: Detector, path: Path) -> None:
    """Nine outputs in SCRFD order: scores, boxes, landmarks of strides 8, 16, 32; any batch and size."""
    net.eval()
    net.probabilities = True
    names = [f"{kind}_{stride}" for kind in ("score", "bbox", "kps") for stride in STRIDES]
    axes = {name: {0: "batch", 1: f"anchors_{name}"} for name in names}
    _export(
        net, (1, 3, 256, 256), names, {"input": {0: "batch", 2: "height", 3: "width"}, **axes}, path, False
    )


def export_embedder(net: Embedder, input_size: int, path: Path) -> None:
    """One output (batch, 512); channels first, a fixed input size and any batch."""
    net.eval()
    axes = {"input": {0: "batch"}, "embedding": {0: "batch"}}
    _export(net, (1, 3, input_size, input_size), ["embedding"], axes, path, True)


def export_tattoo_detector(net: TattooDetector, path: Path) -> None:
    """One output (batch, 1600, 6) with probabilities; a fixed input size and any batch."""
    net.eval()
    net.probabilities = True
    axes = {"input": {0: "batch"}, "output": {0: "batch"}}
    _export(net, (1, 3, INPUT_SIZE, INPUT_SIZE), ["output"], axes, path, False)


def export_tattoo_embedder(net: TattooEmbedder, path: Path) -> None:
    """One output (batch, 1280); any batch."""
    net.eval()
    axes = {"input": {0: "batch"}, "embedding": {0: "batch"}}
    _export(net, (1, 3, 224, 224), ["embedding"], axes, path, True)


def detector_spec(directory: Path, input_size: int) -> DetectorSpec:
    """The exported detector of a pack that has no description yet."""
    path = directory / "detector.onnx"
    return DetectorSpec(path, sha256_file(path), input_size, ChannelOrder.RGB, _THRESHOLD)


def write_pack(directory: Path, input_size: int) -> None:
    """Describes the three files of `directory` in its pack.yaml; `input_size` is the detector's."""
    digest = {
        name: sha256_file(directory / name) for name in ("detector.onnx", "facenet.onnx", "arcface.onnx")
    }
    pack = {
        "name": "demo-synth-v1",
        "demo": True,
        "licence": _LICENCE,
        "detector": {
            "file": "detector.onnx",
            "kind": "scrfd",
            "input_size": input_size,
            "channel_order": "rgb",
            "threshold": _THRESHOLD,
            "sha256": digest["detector.onnx"],
        },
        "embedders": {
            name: {
                "file": f"{name}.onnx",
                "input_size": size,
                "layout": "nchw",
                "mean": 127.5,
                "std": std,
                "dim": 512,
                "sha256": digest[f"{name}.onnx"],
            }
            for name, size, std in (("facenet", 160, 127.5), ("arcface", 112, 128.0))
        },
        "flip_averaging": True,
    }
    write_atomically(directory / "pack.yaml", yaml.safe_dump(pack, sort_keys=False, width=100))
    turned = directory / "detector_turned.onnx"
    if turned.is_file():
        write_atomically(directory / "sense2.yaml", _sense2(pack, sha256_file(turned)))


def _sense2(pack: Mapping[str, Any], digest: str) -> str:
    """The description of the same networks with the rules of stash-sense2."""
    rules = {
        "second_pass": "padded_edges",
        "padding": 0.3,
        "roll_correction": {"from_degrees": 25, "accept_below": 15, "tries": 3},
    }
    detector = {**pack["detector"], "file": "detector_turned.onnx", **rules, "sha256": digest}
    changes = {
        "name": "demo-synth-sense2",
        "detector": detector,
        "embedders": {"w600k": pack["embedders"]["arcface"]},
        "flip_averaging": False,
    }
    return str(yaml.safe_dump({**pack, **changes}, sort_keys=False, width=100))


def _export(
    net: nn.Module,
    shape: tuple[int, ...],
    outputs: list[str],
    axes: dict[str, dict[int, str]],
    path: Path,
    eight_bits: bool,
) -> None:
    with replacing(path) as temporary, torch.no_grad():
        torch.onnx.export(
            net.float(),
            torch.zeros(shape),
            str(temporary),
            input_names=["input"],
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=_OPSET,
            dynamo=False,
        )
        model = onnx.load(str(temporary))
        _shrink(model, eight_bits)
        onnx.checker.check_model(model)
        onnx.save(model, str(temporary))


def _shrink(model: onnx.ModelProto, eight_bits: bool) -> None:
    """Stores large float32 initialisers in fewer bits, and puts before their use what gives the floats back.

    In float16, or with `eight_bits` the kernels of convolutions as int8 with one scale an output channel. A
    runtime folds the added nodes when it loads the graph, which is otherwise the same.
    """
    restored = []
    for tensor in list(model.graph.initializer):
        values = numpy_helper.to_array(tensor)
        name = tensor.name
        if values.dtype != np.float32 or values.size < 64:
            continue
        stored = f"{name}_stored"
        if eight_bits and values.ndim == 4 and values.size > 4096:
            scale = np.abs(values).max(axis=(1, 2, 3), keepdims=True) / np.float32(127)
            scale = np.maximum(scale, np.float32(1e-12))
            tensor.CopyFrom(numpy_helper.from_array(np.round(values / scale).astype(np.int8), stored))
            model.graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
            restored += [
                _cast(stored, f"{name}_whole"),
                helper.make_node("Mul", [f"{name}_whole", f"{name}_scale"], [name], name=f"Scale_{name}"),
            ]
        else:
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
            restored.append(_cast(stored, name))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(restored + nodes)


def _cast(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"Cast_{target}", to=onnx.TensorProto.FLOAT)
