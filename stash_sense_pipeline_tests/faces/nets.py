"""Networks for the tests: the true input and output shapes, and weights that need no training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from stash_sense_pipeline.faces.models.model_packs import ModelPack, load_pack
from stash_sense_pipeline.foundation.files import sha256_file

STRIDES = (8, 16, 32)
CELL = 32


class Graph:
    """Collects nodes and weights of one network."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, values: NDArray[np.generic] | list[float]) -> str:
        array = np.asarray(values)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def add(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def save(self, path: Path, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> None:
        graph = helper.make_graph(self.nodes, path.stem, inputs, outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(model)
        onnx.save(model, path)


# Adds layers that cost time, and returns a tensor (1, 1, 1, 1) that needs them and is next to nothing.
Ballast = Callable[[Graph], str]


def _tensor(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _head(graph: Graph, features: str, stride: int, weights: dict[str, tuple[NDArray, NDArray]]) -> None:
    """Scores, boxes and landmarks of one stride as SCRFD's export has them: rank 2, two anchors a cell."""
    for name, width in (("score", 1), ("bbox", 4), ("kps", 10)):
        kernel, bias = weights[name]
        label = f"{name}_{stride}"
        graph.weight(f"{label}_w", kernel.reshape(2 * width, -1, 1, 1))
        graph.weight(f"{label}_b", bias)
        graph.add("Conv", [features, f"{label}_w", f"{label}_b"], f"{label}_map")
        graph.add("Transpose", [f"{label}_map"], f"{label}_nhwc", perm=[0, 2, 3, 1])
        shape = graph.weight(f"{label}_shape", np.array([-1, width], dtype=np.int64))
        flat = graph.add("Reshape", [f"{label}_nhwc", shape], f"{label}_flat" if name == "score" else label)
        if name == "score":
            graph.add("Sigmoid", [flat], label)


def _outputs() -> list[onnx.ValueInfoProto]:
    widths = (("score", 1), ("bbox", 4), ("kps", 10))
    return [_tensor(f"{name}_{stride}", ["n", width]) for name, width in widths for stride in STRIDES]


def _ballast(graph: Graph, channels: int) -> str:
    """Convolutions that cost time and change nothing: three halvings of the input, then a mean that counts for nothing."""
    rng = np.random.default_rng(channels)
    features, width = "input", 3
    for depth in range(3):
        kernel = rng.normal(0, 1 / np.sqrt(width * 9), (channels, width, 3, 3))
        graph.weight(f"ballast{depth}_w", kernel)
        features = graph.add(
            "Conv",
            [features, f"ballast{depth}_w"],
            f"ballast{depth}",
            kernel_shape=[3, 3],
            strides=[2, 2],
            pads=[1] * 4,
        )
        features, width = graph.add("Relu", [features], f"ballast{depth}_r"), channels
    graph.add("ReduceMean", [features], "ballast_mean", axes=[1, 2, 3], keepdims=1)
    return graph.add("Mul", ["ballast_mean", graph.weight("nothing", [1e-20])], "ballast")


def marker_detector(path: Path, ballast: int = 0) -> None:
    """An SCRFD with a rule for weights: a 32 pixel cell on the 32 pixel grid is a face when it is red and not
    green.

    The more red over green, the more confident. Blue gives the size: the box reaches 32·(2.5 + 2·b) pixels
    from the cell's upper left corner to each side, with b from -1 to 1. Expects RGB to be handed to
    insightface's class.
    """
    graph = Graph()
    # The class swaps the channels: the network sees blue, green, red.
    red_over_green = np.array([0.0, -20.0, 20.0])
    blue = np.array([2.0, 0.0, 0.0])
    for stride in STRIDES:
        pool = graph.add(
            "AveragePool", ["input"], f"pool_{stride}", kernel_shape=[stride] * 2, strides=[stride] * 2
        )
        live = stride == CELL
        if live and ballast:
            pool = graph.add("Add", [pool, _ballast(graph, ballast)], "ballasted")
        score = (np.stack([red_over_green, np.zeros(3)]) * live, np.array([-34.0 if live else -20.0, -20.0]))
        bbox = (np.tile(blue, (8, 1)), np.full(8, 2.5))
        points = np.array([-0.4, -0.3, 0.4, -0.3, 0.0, 0.05, -0.3, 0.45, 0.3, 0.45])
        kps = (np.tile(points[:, None] * blue, (2, 1)), np.tile(points * 2.5, 2))
        _head(graph, pool, stride, {"score": score, "bbox": bbox, "kps": kps})
    graph.save(path, [_tensor("input", [1, 3, "?", "?"])], _outputs())


def random_detector(path: Path, seed: int, channels: int = 16) -> None:
    """A stand-in for det_500m.onnx: random weights behind its interface (batch 1, free size, nine outputs of
    rank 2).
    """
    rng = np.random.default_rng(seed)
    graph, features, width = Graph(), "input.1", 3
    for depth, stride in enumerate((2, 4, 8, 16, 32)):
        kernel = rng.normal(0, 1.6 / np.sqrt(width * 9), (channels, width, 3, 3))
        graph.weight(f"stem{depth}_w", kernel)
        graph.add(
            "Conv",
            [features, f"stem{depth}_w"],
            f"stem{depth}",
            kernel_shape=[3, 3],
            strides=[2, 2],
            pads=[1] * 4,
        )
        features, width = graph.add("LeakyRelu", [f"stem{depth}"], f"features{depth}"), channels
        if stride in STRIDES:
            head = {
                name: (rng.normal(0, 0.8, (2 * size, channels)), np.full(2 * size, bias))
                for name, size, bias in (("score", 1, -2.5), ("bbox", 4, 2.5), ("kps", 10, 0.0))
            }
            _head(graph, features, stride, head)
    graph.save(path, [_tensor("input.1", [1, 3, "?", "?"])], _outputs())


def random_embedder(
    path: Path,
    seed: int,
    *,
    size: int,
    layout: str,
    dim: int = 512,
    batch: int | str = "N",
    broken: str = "",
    widths: tuple[int, ...] = (8, 16, 32),
) -> None:
    """A small random convolutional embedder with a true interface. `broken`: give `zero` or `nan` vectors."""
    rng = np.random.default_rng(seed)
    graph, features = Graph(), "input"
    if layout == "nhwc":
        features = graph.add("Transpose", ["input"], "nchw", perm=[0, 3, 1, 2])
    width = 3
    for depth, channels in enumerate(widths):
        graph.weight(f"w{depth}", rng.normal(0, 1.4 / np.sqrt(width * 9), (channels, width, 3, 3)))
        graph.add(
            "Conv", [features, f"w{depth}"], f"c{depth}", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4
        )
        features, width = graph.add("LeakyRelu", [f"c{depth}"], f"r{depth}"), channels
    graph.add("AveragePool", [features], "pooled", kernel_shape=[4, 4], strides=[4, 4])
    graph.add("Flatten", ["pooled"], "flat", axis=1)
    side = -(-size // 8) // 4
    graph.weight("head", rng.normal(0, 0.05, (width * side * side, dim)))
    graph.weight("factor", [{"": 1.0, "zero": 0.0, "nan": float("nan")}[broken]])
    graph.add("MatMul", ["flat", "head"], "raw")
    graph.add("Mul", ["raw", "factor"], "embedding")
    shape = [batch, size, size, 3] if layout == "nhwc" else [batch, 3, size, size]
    graph.save(path, [_tensor("input", shape)], [_tensor("embedding", [batch, dim])])


def rewritten(
    source: Path,
    path: Path,
    *,
    names: Mapping[str, str] | None = None,
    outputs: Sequence[str] | None = None,
    shapes: Mapping[str, list[int | str]] | None = None,
) -> None:
    """The same network as another exporter writes it: tensors renamed, outputs in another order, other declared shapes."""
    model = onnx.load(source)
    graph = model.graph
    if outputs is not None:
        declared = {one.name: one for one in graph.output}
        ordered = [declared[name] for name in outputs]
        del graph.output[:]
        graph.output.extend(ordered)
    for one in [*graph.input, *graph.output]:
        if shapes and one.name in shapes:
            one.CopyFrom(_tensor(one.name, shapes[one.name]))
    for old, new in (names or {}).items():
        for one in [*graph.input, *graph.output]:
            one.name = new if one.name == old else one.name
        for node in graph.node:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]
    onnx.save(model, path)


def with_norm(source: Path, path: Path) -> None:
    """An embedder that gives the vector's length beside it, before it, as AdaFace's exports do."""
    model = onnx.load(source)
    graph = model.graph
    (vector,) = graph.output
    graph.node.append(helper.make_node("ReduceL2", [vector.name], ["norm"], axes=[1], keepdims=1))
    graph.output.insert(0, _tensor("norm", ["N", 1]))
    onnx.save(model, path)


def with_pooled_axes(source: Path, path: Path) -> None:
    """An embedder with a vector that keeps the axes of its pooling: (N, dim, 1, 1)."""
    model = onnx.load(source)
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array([0, 512, 1, 1], np.int64), "pooled_shape"))
    graph.node.append(helper.make_node("Reshape", [graph.output[0].name, "pooled_shape"], ["pooled_vector"]))
    graph.output[0].CopyFrom(_tensor("pooled_vector", ["N", 512, 1, 1]))
    onnx.save(model, path)


def write_pack(directory: Path, name: str = "test-pack", seed: int = 1, detector: str = "marker") -> Path:
    """A pack of a detector and the two embedders with the shapes of stash-sense-v1, described in pack.yaml."""
    directory.mkdir(parents=True, exist_ok=True)
    if detector == "marker":
        marker_detector(directory / "detector.onnx")
    else:
        random_detector(directory / "detector.onnx", seed)
    random_embedder(directory / "facenet.onnx", seed, size=160, layout="nhwc")
    random_embedder(directory / "arcface.onnx", seed + 1, size=112, layout="nhwc")
    describe_pack(directory, name)
    return directory


def describe_pack(directory: Path, name: str = "test-pack", **changes: object) -> None:
    """Writes pack.yaml for the networks that `write_pack` makes; `changes` replace top-level keys."""
    description = {
        "name": name,
        "licence": "made for the tests, free for all",
        "detector": {
            "file": "detector.onnx",
            "kind": "scrfd",
            "input_size": 640,
            "channel_order": "rgb",
            "threshold": 0.5,
            "sha256": sha256_file(directory / "detector.onnx"),
        },
        "embedders": {
            name: {
                "file": f"{name}.onnx",
                "input_size": size,
                "layout": "nhwc",
                "mean": 127.5,
                "std": std,
                "dim": 512,
                "sha256": sha256_file(directory / f"{name}.onnx"),
            }
            for name, size, std in (("facenet", 160, 127.5), ("arcface", 112, 128.0))
        },
        "flip_averaging": True,
    }
    (directory / "pack.yaml").write_text(yaml.safe_dump({**description, **changes}, sort_keys=False))


def picture(
    faces: list[tuple[int, int, float, int]], seed: int, size: tuple[int, int] = (640, 640)
) -> NDArray[np.uint8]:
    """An RGB picture (height, width) = `size` of noise with markers: (column, row, confidence 0..1, blue
    0-255).
    """
    rng = np.random.default_rng(seed)
    height, width = size
    coarse = rng.integers(60, 200, (height // 8 + 1, width // 8 + 1, 1))
    image = np.repeat(np.repeat(np.repeat(coarse, 8, 0), 8, 1), 3, 2)[:height, :width].astype(np.uint8)
    for column, row, confidence, blue in faces:
        # Sigmoid(20·(red - green)/128 - 34) is the confidence.
        difference = (34 + np.log(confidence / (1 - confidence))) / 20 * 128
        cell = (slice(row * CELL, (row + 1) * CELL), slice(column * CELL, (column + 1) * CELL))
        image[cell] = (255, max(0, round(255 - difference)), blue)
    return image


def with_tattoos(
    directory: Path,
    side: float = 64.0,
    seed: int = 5,
    broken: str = "",
    ballast: Ballast | None = None,
    widths: tuple[int, ...] = (8, 16, 32),
) -> None:
    """Adds networks for tattoos to a pack. A tattoo is a blue cell of 32 pixels; its box has `side` pixels.

    `broken`: the embedder gives `zero` or `nan` vectors, or, with `nan_boxes`, the detector numbers that are not finite.
    `ballast` and `widths` set the operations of detector and embedder.
    """
    marker_tattoo_detector(directory / "tattoo_detector.onnx", side, broken == "nan_boxes", ballast)
    random_embedder(
        directory / "tattoo_embedder.onnx",
        seed,
        size=224,
        layout="nchw",
        dim=1280,
        widths=widths,
        broken=broken if broken in ("zero", "nan") else "",
    )
    path = directory / "pack.yaml"
    description = yaml.safe_load(path.read_text())
    description["tattoo"] = {
        "detector": {
            "file": "tattoo_detector.onnx",
            "kind": "yolov5",
            "input_size": 640,
            "sha256": sha256_file(directory / "tattoo_detector.onnx"),
        },
        "embedder": {
            "file": "tattoo_embedder.onnx",
            "input_size": 224,
            "dim": 1280,
            "sha256": sha256_file(directory / "tattoo_embedder.onnx"),
        },
    }
    path.write_text(yaml.safe_dump(description, sort_keys=False))


def pack_with_tattoos(directory: Path, **changes: Any) -> ModelPack:
    """The pack of `write_pack` with the networks of `with_tattoos`."""
    write_pack(directory)
    with_tattoos(directory, **changes)
    return load_pack(str(directory), directory)


def marker_tattoo_detector(
    path: Path, side: float, nan: bool = False, ballast: Ballast | None = None
) -> None:
    """A YOLOv5 with a rule for weights: a cell that is more blue than red is a tattoo, the bluer the surer."""
    graph = Graph()
    pool = graph.add("AveragePool", ["input"], "pool", kernel_shape=[CELL] * 2, strides=[CELL] * 2)
    if ballast is not None:
        pool = graph.add("Add", [pool, ballast(graph)], "ballasted")
    kernel = np.zeros((6, 3))
    kernel[4] = (-12.0, 0.0, 12.0)
    graph.weight("kernel", kernel.reshape(6, 3, 1, 1))
    graph.weight("bias", np.array([0.0, 0.0, side, side, -8.0, 9.0]))
    graph.add("Conv", [pool, "kernel", "bias"], "map")
    graph.add("Transpose", ["map"], "rows", perm=[0, 2, 3, 1])
    shape = graph.weight("shape", np.array([1, -1, 6], dtype=np.int64))
    graph.add("Reshape", ["rows", shape], "flat")
    split = graph.weight("split", np.array([4, 2], dtype=np.int64))
    graph.nodes.append(helper.make_node("Split", ["flat", split], ["place", "logits"], axis=2))
    graph.add("Sigmoid", ["logits"], "scores")
    middles = (np.arange(640 // CELL) + 0.5) * CELL
    grid = np.stack([*np.meshgrid(middles, middles), *[np.zeros((20, 20))] * 2], -1).reshape(1, -1, 4)
    graph.weight("grid", grid)
    graph.add("Add", ["place", "grid"], "boxes")
    graph.add("Concat", ["boxes", "scores"], "found", axis=2)
    graph.weight("factor", [float("nan") if nan else 1.0])
    graph.add("Mul", ["found", "factor"], "output")
    graph.save(path, [_tensor("input", [1, 3, 640, 640])], [_tensor("output", [1, 400, 6])])


def yolo_of(path: Path, rows: NDArray[np.float32]) -> None:
    """A YOLOv5 that gives the same rows (N, 6) for every picture."""
    graph = Graph()
    graph.weight("rows", rows.astype(np.float32)[None])
    graph.add("ReduceMean", ["images"], "mean", axes=[1, 2, 3], keepdims=1)
    graph.add("Mul", ["mean", graph.weight("nothing", [0.0])], "zero")
    graph.add("Reshape", ["zero", graph.weight("one", np.array([1, 1, 1], dtype=np.int64))], "shaped")
    graph.add("Add", ["rows", "shaped"], "output")
    graph.save(path, [_tensor("images", [1, 3, 640, 640])], [_tensor("output", [1, len(rows), 6])])


def tattooed(image: NDArray[np.uint8], column: int, row: int, blue: int = 255) -> NDArray[np.uint8]:
    """The picture with a tattoo for `marker_tattoo_detector` in a cell."""
    cell = (slice(row * CELL, (row + 1) * CELL), slice(column * CELL, (column + 1) * CELL))
    image[cell] = (30, 60, blue)
    return image
