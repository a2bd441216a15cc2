"""Draws what surrounds a face: hair, neck, shoulders, ears and glasses."""

from __future__ import annotations

import math

import numpy as np

from stash_sense_pipeline.sandbox.invented.head import Pose
from stash_sense_pipeline.sandbox.invented.rendered_person import RenderedPerson
from stash_sense_pipeline.sandbox.invented.shapes import (
    Image,
    ellipse,
    fill,
    mix,
    stroke,
)


def draw_back(image: Image, person: RenderedPerson, pose: Pose, rng: np.random.Generator) -> None:
    """Draws hair, neck and shoulders behind the face."""
    volume = person.hair_volume
    if volume > 0:
        angle = np.linspace(math.pi, 2 * math.pi, 21)
        crown = np.stack(
            [(1.02 + volume) * np.cos(angle), (person.skull_height + volume) * np.sin(angle) - 0.02], 1
        )
        ends = np.array(
            [[1.0 + volume * 1.2, person.hair_length], [-1.0 - volume * 1.2, person.hair_length]]
        ) * np.array([1.0, 1.0])
        fill(image, pose.flat(np.concatenate([crown, ends])), mix(person.hair_colour, (0, 0, 0), 0.22))
    shirt = tuple(float(c) for c in rng.integers(20, 236, 3))
    x, y = pose.centre
    neck = 0.5 if person.feminine else 0.66
    top, base = person.chin_length - 0.35, person.chin_length + 0.62
    bottom = (image.shape[0] - y) / pose.half + 1
    body = np.array(
        [
            [-neck - 0.2, base - 0.1],
            [-1.9, base + 0.45],
            [-2.3, bottom],
            [2.3, bottom],
            [1.9, base + 0.45],
            [neck + 0.2, base - 0.1],
        ]
    )
    fill(image, body * pose.half + (x, y), (shirt[0], shirt[1], shirt[2]))
    throat = np.array([[-neck, top], [-neck - 0.08, base], [0, base + 0.4], [neck + 0.08, base], [neck, top]])
    fill(image, throat * pose.half + (x, y), mix(person.skin, (60, 30, 20), 0.18))


def draw_ears(image: Image, person: RenderedPerson, pose: Pose) -> None:
    """Draws ears and earrings, unless long hair hides them."""
    if person.hair_length > 0.45 and person.hair_volume > 0:
        return
    for side in (-1.0, 1.0):
        reach = 1.02 - 0.12 * side * math.sin(pose.yaw) * 2
        centre = np.array([[side * reach, person.ear_y]])
        ear = centre + ellipse(0.13, person.ear_size)
        fill(image, pose.silhouette(ear), mix(person.skin, (120, 50, 40), 0.12))
        fill(
            image,
            pose.silhouette(centre + ellipse(0.06, person.ear_size * 0.6)),
            mix(person.skin, (120, 50, 40), 0.3),
        )
        if person.earring is not None:
            drop = centre + np.array([[0.0, person.ear_size + 0.03]])
            fill(image, pose.silhouette(drop + ellipse(0.05, 0.06)), person.earring)


def draw_fringe(image: Image, person: RenderedPerson, pose: Pose, rng: np.random.Generator) -> None:
    """Draws the hair in front of the skull, from the crown to the hairline."""
    if person.hair_volume <= 0:
        return
    angle = np.linspace(math.pi, 2 * math.pi, 21)
    volume = person.hair_volume
    crown = np.stack(
        [(1.02 + volume * 0.6) * np.cos(angle), (person.skull_height + volume) * np.sin(angle)], 1
    )
    x = np.linspace(1.0, -1.0, 25)
    away = x - person.fringe_parting
    line = person.hairline + person.fringe_slope * away + person.temple * np.abs(away) ** 2.5
    line += person.fringe_wave * np.sin(9 * x + person.fringe_parting * 20) + rng.uniform(-0.03, 0.03)
    line = np.minimum(line, np.where(np.abs(x) > 0.86, 0.25, person.eye_y - 0.13))
    front = np.stack([x * 1.0, np.maximum(line, -person.skull_height - 0.02)], 1)
    edge = 0.5 * pose.surface(front * (0.98, 1.0)) + 0.5 * pose.silhouette(front)
    fill(image, np.concatenate([pose.silhouette(crown), edge]), person.hair_colour)
    strand = mix(person.hair_colour, (255, 250, 240), 0.16)
    for shift in (-0.5, -0.15, 0.2, 0.5):
        start = np.array([[person.fringe_parting * 0.6 + shift * 0.3, -person.skull_height - volume * 0.7]])
        end = np.array([[person.fringe_parting * 0.6 + shift * 1.4, person.hairline - 0.12]])
        stroke(
            image,
            pose.silhouette(np.concatenate([start, (start + end) / 2 + (shift * 0.2, 0.0), end])),
            strand,
            max(1, round(pose.half * 0.02)),
        )


def draw_glasses(
    image: Image, person: RenderedPerson, pose: Pose, rng: np.random.Generator, line: int
) -> None:
    """Draws glasses of a random shape and colour."""
    colour = tuple(float(c) for c in rng.integers(10, 120, 3))
    frame = (colour[0], colour[1], colour[2])
    wide, tall, power = rng.uniform(0.26, 0.33), rng.uniform(0.2, 0.28), rng.uniform(0.5, 1.0)
    ring = ellipse(1.0, 1.0)
    ring = np.sign(ring) * np.abs(ring) ** power * np.array([wide, tall])
    for side in (-1.0, 1.0):
        lens = pose.surface(np.array([[side * person.eye_distance, person.eye_y + 0.02]]) + ring, 0.1)
        stroke(image, np.concatenate([lens, lens[:1]]), frame, line + 1)
        arm = np.array(
            [[side * (person.eye_distance + wide), person.eye_y], [side * 1.0, person.eye_y - 0.03]]
        )
        stroke(image, pose.surface(arm, 0.05), frame, line + 1)
    inner = person.eye_distance - wide
    stroke(
        image, pose.surface(np.array([[-inner, person.eye_y], [inner, person.eye_y]]), 0.16), frame, line + 1
    )
