"""Face detector (SCRFD): boxes, scores and five landmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.faces.models.model_packs import DetectorSpec
from stash_sense_pipeline.faces.models.onnx_sessions import Device, open_session, running
from stash_sense_pipeline.faces.models.pack_fields import ChannelOrder, SecondPass
from stash_sense_pipeline.foundation.errors import ModelPackError

if TYPE_CHECKING:
    import onnxruntime

# The default of insightface, which the sidecar uses too.
NMS_THRESHOLD = 0.4
# Numbers a cell for score, box and five landmarks, each at the strides 8, 16 and 32.
_WIDTHS = (1, 4, 10)
_OUTPUTS_WITH_LANDMARKS = 9
_STRIDE = 32
# A face that fills the picture is larger than the faces that an SCRFD is trained on; at half the size it is found. This
# is the smallest share of the picture's shorter side at which that happens (numbers in docs/faces.md).
_LARGE = 0.4


@dataclass(frozen=True)
class DetectedFace:
    """One face: `box` (x1, y1, x2, y2) and `landmarks` (5, 2) float32 in image pixels, `confidence` 0..1."""

    box: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    confidence: float

    @property
    def side(self) -> float:
        """The shorter side of the box in pixels."""
        return float(min(self.box[2] - self.box[0], self.box[3] - self.box[1]))

    @property
    def area(self) -> float:
        """Area of the box in square pixels."""
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))


class Detector:
    """SCRFD at one detection size. Threads may share it: calls keep no state."""

    def __init__(self, spec: DetectorSpec, threads: int = 1, device: Device = Device.CPU) -> None:
        """Loads the network.

        Raises ModelPackError when it is not an SCRFD with landmarks, DeviceError for a missing device.
        """
        # insightface imports half of the scientific stack.
        from insightface.model_zoo.scrfd import SCRFD

        self.spec = spec
        session = open_session(spec.path, device, threads)
        outputs = len(session.get_outputs())
        if outputs != _OUTPUTS_WITH_LANDMARKS:
            raise ModelPackError(
                f"{spec.path}: is not an SCRFD detector with landmarks: it has {outputs} outputs where"
                f" {_OUTPUTS_WITH_LANDMARKS} are expected"
            )
        # One session for all sizes: insightface would load the network again for each size.
        ordered = _InScrfdOrder(session, spec.path)
        self._network: Any = SCRFD(str(spec.path), session=ordered, static_shape_sessions=False)
        size = (spec.input_size, spec.input_size)
        self._network.prepare(0, nms_thresh=NMS_THRESHOLD, det_thresh=spec.threshold, input_size=size)
        if tuple(self._network.input_size) != size:
            raise ModelPackError(
                f"{spec.path}: takes images of {self._network.input_size} pixels only,"
                f" but pack.yaml says {spec.input_size}"
            )

    def detect(self, rgb: NDArray[np.uint8]) -> list[DetectedFace]:
        """The faces of an (H, W, 3) uint8 RGB image, most confident first.

        The first pass is that of the sidecar, and its faces are returned unchanged. When it finds none, and the pack
        says so, a second pass at half the detection size looks for a face that fills the picture; a network of fixed
        size has no such pass.
        """
        faces = self._find(rgb, self.spec.input_size)
        if self.spec.rules.second_pass is not SecondPass.HALF_SIZE:
            return faces
        smaller = self.spec.input_size // 2 // _STRIDE * _STRIDE
        if faces or not smaller or self._network.static_input_size is not None:
            return faces
        large = _LARGE * min(rgb.shape[:2])
        return [face for face in self._find(rgb, smaller) if face.side >= large]

    def _find(self, rgb: NDArray[np.uint8], size: int) -> list[DetectedFace]:
        height, width = rgb.shape[:2]
        if min(height, width) * size < max(height, width):
            return []  # a strip: scaled to the detection size, it would be less than a pixel wide
        # The SCRFD class swaps the first and last channel of its input; the pack says which order it expects.
        image = rgb if self.spec.channel_order is ChannelOrder.RGB else np.ascontiguousarray(rgb[:, :, ::-1])
        with running(self.spec.path):
            boxes, landmarks = self._network.detect(image, input_size=(size, size))
        return [
            DetectedFace(box=box[:4], landmarks=points, confidence=float(box[4]))
            for box, points in zip(boxes, landmarks, strict=True)
        ]


class _InScrfdOrder:
    """A session that sorts its outputs into the order that insightface's class expects; not every export has it.

    The order is scores, boxes, landmarks, each with the finest stride first.
    """

    def __init__(self, session: onnxruntime.InferenceSession, path: Path) -> None:
        self._session = session
        self._path = path
        self.get_inputs = session.get_inputs
        self.get_outputs = session.get_outputs

    def run(self, _: Sequence[str], feed: Mapping[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        outputs: list[NDArray[np.float32]] = self._session.run(None, feed)
        outputs.sort(key=lambda output: (output.shape[-1], -output.shape[-2]))
        if [output.shape[-1] for output in outputs] != [width for width in _WIDTHS for _ in range(3)]:
            shapes = ", ".join(str(list(output.shape)) for output in outputs)
            raise ModelPackError(f"{self._path}: is not an SCRFD detector with landmarks: it gives {shapes}")
        return outputs
