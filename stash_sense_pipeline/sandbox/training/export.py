"""Writes trained networks as ONNX files and as a model pack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
import yaml
from onnx import helper, numpy_helper
from torch import nn

from stash_sense_pipeline.files import replacing, sha256_file, write_atomically
from stash_sense_pipeline.sandbox.training.nets import STRIDES, Detector, Embedder

_OPSET = 17
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
    _export(net, (1, 3, 256, 256), names, {"input": {0: "batch", 2: "height", 3: "width"}, **axes}, path)


def export_embedder(net: Embedder, input_size: int, path: Path) -> None:
    """One output (batch, 512); channels first, a fixed input size and any batch."""
    net.eval()
    axes = {"input": {0: "batch"}, "embedding": {0: "batch"}}
    _export(net, (1, 3, input_size, input_size), ["embedding"], axes, path)


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
            "threshold": 0.5,
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


def _export(
    net: nn.Module, shape: tuple[int, ...], outputs: list[str], axes: dict[str, dict[int, str]], path: Path
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
        _halve(model)
        onnx.checker.check_model(model)
        onnx.save(model, str(temporary))


def _halve(model: onnx.ModelProto) -> None:
    """Stores large float32 initialisers as float16 with a Cast in front: half the file, same graph."""
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < 64:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(
            helper.make_node("Cast", [f"{name}_half"], [name], name=f"Cast_{name}", to=onnx.TensorProto.FLOAT)
        )
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(casts + nodes)
