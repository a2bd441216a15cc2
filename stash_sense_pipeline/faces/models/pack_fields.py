"""Values of pack.yaml that several modules know: orders of channels and axes, and the rules of finding faces."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ChannelOrder(StrEnum):
    """Order of the colour channels in the input of a network's class."""

    RGB = "rgb"
    BGR = "bgr"


class Layout(StrEnum):
    """Order of the axes of an embedder's input after the batch: height, width, channels, or channels first."""

    NHWC = "nhwc"
    NCHW = "nchw"


class SecondPass(StrEnum):
    """What is done when the detector finds no face in a picture.

    HALF_SIZE: it looks again at half its size, for a face that fills the picture. PADDED_EDGES: it looks at the picture
    with a border that repeats the pixels of its edges.
    """

    HALF_SIZE = "half_size"
    PADDED_EDGES = "padded_edges"
    NONE = "none"


@dataclass(frozen=True)
class RollCorrection:
    """When the whole picture is turned until its largest face is upright. The roll is in degrees.

    A roll of at least `from_degrees` turns the picture. A turned picture is accepted when the roll of its largest face
    is less than `accept_below`; after `tries` turned pictures the faces stay as they were found.
    """

    from_degrees: float
    accept_below: float
    tries: int


@dataclass(frozen=True)
class DetectionRules:
    """How the faces of a picture are found with a detector. `padding`: the border as a share of the shorter side.

    The defaults are `SIDECAR_RULES`.
    """

    second_pass: SecondPass = SecondPass.HALF_SIZE
    padding: float = 0.0
    roll: RollCorrection | None = None

    @property
    def text(self) -> str:
        """Equal rules have equal texts; empty for the defaults."""
        if self == SIDECAR_RULES:
            return ""
        roll = self.roll
        turns = "none" if roll is None else f"{roll.from_degrees:g} {roll.accept_below:g} {roll.tries}"
        return f"{self.second_pass} {self.padding:g} {turns}"


# What the public Stash Sense sidecar does, with a second pass that only adds faces.
SIDECAR_RULES = DetectionRules()
