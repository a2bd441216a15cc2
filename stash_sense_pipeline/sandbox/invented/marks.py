"""Invented tattoos: which people have one, how it looks, and drawing it on a shoulder."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stash_sense_pipeline.sandbox.invented.head import Pose
from stash_sense_pipeline.sandbox.invented.rendered_person import RenderedPerson
from stash_sense_pipeline.sandbox.invented.shapes import Colour, Image, Points, ellipse, fill, mix, stroke

# First word of the seeds of the random stream of a person's tattoo; PERSON_STREAM is another.
_MARK_STREAM = 15
_SHARE_WITH_MARK = 0.5
_INKS: tuple[Colour, ...] = (
    (24, 30, 60),
    (20, 20, 24),
    (24, 70, 96),
    (20, 84, 56),
    (130, 26, 40),
    (96, 30, 110),
    (176, 84, 20),
    (40, 60, 160),
)
# The unit of a mark is its half height, of which it leaves a margin in its box.
_RING = 1.0
_SIDE = 1.42

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Mark:
    """The tattoo of one person: a ring with a star in it and dots around. `side` is -1 for the left of the picture."""

    side: float
    size: float
    ring: Colour
    ring_width: float
    star: Colour
    points: int
    depth: float
    turn: float
    core: Colour
    core_size: float
    bars: int
    dots: int
    dot_colour: Colour


def make_mark(seed: int) -> Mark | None:
    """The tattoo of the person of a seed; None for a person without one."""
    rng = np.random.default_rng([_MARK_STREAM, seed])
    if rng.random() >= _SHARE_WITH_MARK:
        return None
    inks = [_INKS[number] for number in rng.choice(len(_INKS), 4)]
    return Mark(
        side=float(rng.choice((-1.0, 1.0))),
        size=float(rng.uniform(0.4, 0.5)),
        ring=inks[0],
        ring_width=float(rng.uniform(0.05, 0.2)),
        star=inks[1],
        points=int(rng.integers(3, 9)),
        depth=float(rng.uniform(0.3, 0.85)),
        turn=float(rng.uniform(0, math.pi)),
        core=inks[2],
        core_size=float(rng.uniform(0.1, 0.4)),
        bars=int(rng.integers(0, 4)),
        dots=int(rng.integers(0, 7)),
        dot_colour=inks[3],
    )


def draw_mark(image: Image, person: RenderedPerson, mark: Mark, pose: Pose) -> Box | None:
    """Draws a bare shoulder with the tattoo. Returns the part of its box in the image; None when less than half is."""
    centre = np.array([mark.side * _SIDE, person.chin_length + 1.05])
    fill(image, _placed(centre + ellipse(0.74, 0.8), pose), mix(person.skin, (60, 30, 20), 0.1))
    outline = _placed(centre + ellipse(_RING, _RING) * mark.size, pose)
    line = max(1, round(mark.ring_width * mark.size * pose.half))
    _draw_star(image, mark, centre, pose)
    for number in range(mark.dots):
        angle = mark.turn + 2 * math.pi * number / mark.dots
        place = centre + 0.78 * mark.size * np.array([[math.cos(angle), math.sin(angle)]])
        fill(image, _placed(place + ellipse(0.1, 0.1) * mark.size, pose), mark.dot_colour)
    stroke(image, np.concatenate([outline, outline[:1]]), mark.ring, line)
    return _visible_box(image, outline, line / 2)


def _draw_star(image: Image, mark: Mark, centre: Points, pose: Pose) -> None:
    angles = mark.turn + np.linspace(0, 2 * math.pi, 2 * mark.points, endpoint=False)
    radii = np.where(np.arange(2 * mark.points) % 2, 0.62 * mark.depth, 0.66)
    star = np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None] * mark.size
    fill(image, _placed(centre + star, pose), mark.star)
    for number in range(mark.bars):
        height = (number - (mark.bars - 1) / 2) * 0.34 * mark.size
        bar = np.array([[-0.5 * mark.size, height], [0.5 * mark.size, height]])
        thickness = max(1, round(0.1 * mark.size * pose.half))
        stroke(image, _placed(centre + bar, pose), mark.ring, thickness)
    fill(image, _placed(centre + ellipse(1, 1) * mark.core_size * mark.size, pose), mark.core)


def _placed(points: Points, pose: Pose) -> Points:
    """Pixels of points on the body. Unlike the head, the body stays upright."""
    return np.asarray(points * pose.half + np.asarray(pose.centre), np.float64)


def _visible_box(image: Image, outline: Points, margin: float) -> Box | None:
    height, width = image.shape[:2]
    low, high = outline.min(0) - margin, outline.max(0) + margin
    inner_low, inner_high = np.maximum(low, 0), np.minimum(high, (width, height))
    sides = np.maximum(inner_high - inner_low, 0)
    if float(np.prod(sides)) < 0.5 * float(np.prod(high - low)):
        return None
    return (float(inner_low[0]), float(inner_low[1]), float(inner_high[0]), float(inner_high[1]))
