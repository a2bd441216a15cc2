"""Draws a person into a photo: skin, eyes, brows, nose, mouth and light."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stash_sense_pipeline.sandbox.invented.head import FOREHEAD, Face, Pose, face_outline
from stash_sense_pipeline.sandbox.invented.head_drawing import draw_back, draw_ears, draw_fringe, draw_glasses
from stash_sense_pipeline.sandbox.invented.rendered_person import PERSON_STREAM, RenderedPerson
from stash_sense_pipeline.sandbox.invented.shapes import (
    Image,
    Points,
    dot,
    ellipse,
    fill,
    fill_mask,
    mix,
    region_around,
    soft_fill,
    stroke,
)


@dataclass(frozen=True)
class _Expression:
    """How a face differs from its looks in one photo. Lengths are in face units; `squint` scales the eyes' height."""

    smile: float
    opening: float
    squint: float
    gaze: NDArray[np.float64]
    raised_brows: float


def _random_expression(rng: np.random.Generator) -> _Expression:
    return _Expression(
        smile=float(rng.uniform(-0.02, 0.09)),
        opening=float(max(0.0, rng.uniform(-0.12, 0.09))),
        squint=float(rng.uniform(0.72, 1.1)),
        gaze=rng.uniform(-0.05, 0.05, 2),
        raised_brows=float(rng.uniform(-0.03, 0.05)),
    )


def draw_person(image: Image, person: RenderedPerson, pose: Pose, rng: np.random.Generator) -> Face:
    """Draws a person with a random expression. Returns the box and the landmarks of the face."""
    expression = _random_expression(rng)
    line = max(1, round(pose.half * 0.022))

    outline = pose.silhouette(face_outline(person))
    draw_back(image, person, pose, rng)
    draw_ears(image, person, pose)
    fill(image, outline, person.skin)
    _tint_skin(image, person, pose)
    _draw_marks(image, person, pose, line)
    eyes = _draw_eyes(image, person, pose, line, expression)
    _draw_brows(image, person, pose, expression)
    nose = _draw_nose(image, person, pose, line)
    corners = _draw_mouth(image, person, pose, line, expression)
    _shade(image, outline, pose, rng)
    draw_fringe(image, person, pose, rng)
    if rng.random() < 0.12:
        draw_glasses(image, person, pose, rng, line)

    visible = pose.silhouette(face_outline(person)[face_outline(person)[:, 1] > FOREHEAD])
    low, high = visible.min(0), visible.max(0)
    landmarks = np.concatenate([eyes, nose, corners]).astype(np.float32)
    return Face((float(low[0]), float(low[1]), float(high[0]), float(high[1])), landmarks)


def _tint_skin(image: Image, person: RenderedPerson, pose: Pose) -> None:
    """Draws soft tints of the skin: blush, eye shadow, beard."""
    if person.blush > 0.08:
        cheeks = [pose.surface(np.array([[side * 0.56, 0.3]]) + ellipse(0.24, 0.18)) for side in (-1.0, 1.0)]
        soft_fill(image, cheeks, mix(person.skin, (214, 84, 84), 0.75), person.blush, pose.half * 0.1)
    if person.shadow_strength > 0.08:
        lids = [
            pose.surface(np.array([[side * person.eye_distance, person.eye_y - 0.07]]) + ellipse(0.25, 0.13))
            for side in (-1.0, 1.0)
        ]
        soft_fill(image, lids, person.shadow, person.shadow_strength, pose.half * 0.04)
    nose_end = person.eye_y + person.nose_length
    mouth = nose_end + person.mouth_y
    hair = mix(person.hair_colour, (30, 24, 20), 0.35)
    if person.beard > 0:
        rim = face_outline(person)
        rim = rim[rim[:, 1] > 0.1] * np.array([0.985, 0.985])
        order = np.argsort(np.arctan2(rim[:, 1] - 0.1, -rim[:, 0]))
        inner = np.array([[0.62, mouth - 0.05], [0.0, mouth - 0.16], [-0.62, mouth - 0.05]])
        shape = pose.silhouette(np.concatenate([rim[order], inner]))
        soft_fill(image, [shape], hair, person.beard, pose.half * 0.035)
    if person.moustache > 0:
        wide = person.mouth_width + 0.05
        shape = np.array(
            [
                [-wide, mouth + 0.02],
                [-0.1, nose_end + 0.06],
                [0.1, nose_end + 0.06],
                [wide, mouth + 0.02],
                [0.0, mouth - 0.05],
            ]
        )
        soft_fill(image, [pose.surface(shape, 0.08)], hair, person.moustache, pose.half * 0.02)
    if person.goatee > 0:
        shape = np.array([[0.0, (mouth + person.chin_length) / 2 + 0.08]]) + ellipse(0.22, 0.2)
        soft_fill(image, [pose.surface(shape, 0.12)], hair, person.goatee, pose.half * 0.03)


def _draw_marks(image: Image, person: RenderedPerson, pose: Pose, line: int) -> None:
    """Draws moles, freckles, the folds next to the mouth, and lines on the forehead."""
    dark = mix(person.skin, (70, 30, 20), 0.35)
    nose_end = person.eye_y + person.nose_length
    if person.fold > 0.15:
        colour = mix(person.skin, (80, 40, 30), 0.3 * person.fold)
        for side in (-1.0, 1.0):
            curve = np.array([[0.22, nose_end - 0.02], [0.38, nose_end + 0.12], [0.46, nose_end + 0.32]]) * (
                side,
                1.0,
            )
            stroke(image, pose.surface(curve), colour, line)
    if person.forehead_lines > 0.15:
        colour = mix(person.skin, (80, 40, 30), 0.28 * person.forehead_lines)
        x = np.linspace(-0.42, 0.42, 9)
        for height in (-0.68, -0.56):
            stroke(image, pose.surface(np.stack([x, height + 0.06 * x**2], 1)), colour, line)
    if person.freckles > 0.1:
        rng = np.random.default_rng([PERSON_STREAM, person.seed, 1])
        count = int(26 * person.freckles) + 6
        spots = np.stack([rng.uniform(-0.72, 0.72, count), rng.uniform(0.08, 0.46, count)], 1)
        for spot in pose.surface(spots):
            dot(image, spot, pose.half * 0.02, dark)
    for across, down, radius in person.moles:
        centre = pose.surface(np.array([[across, down]]))[0]
        dot(image, centre, pose.half * radius, mix(person.skin, (45, 20, 15), 0.75))


def _draw_eyes(
    image: Image, person: RenderedPerson, pose: Pose, line: int, expression: _Expression
) -> Points:
    """Draws both eyes. Returns their centres (2, 2) in pixels, the left one first."""
    t = np.linspace(-1, 1, 11)
    tall = person.eye_height * expression.squint
    upper_y = -tall * (1 - np.abs(t) ** 2.2) * (1 + person.lid_peak * t)
    lower_y = 0.62 * tall * (1 - t**2)
    centres = []
    for side in (-1.0, 1.0):
        middle = np.array([side * person.eye_distance, person.eye_y])
        slope = person.eye_tilt * side

        def place(
            x: Points, y: Points, middle: Points = middle, side: float = side, slope: float = slope
        ) -> Points:
            local = np.stack([x * side, y + slope * x * side], 1)
            return pose.surface(middle + local, 0.03)

        upper = place(person.eye_width * t, upper_y)
        lower = place(person.eye_width * t, lower_y)
        lid = np.concatenate([upper, lower[::-1]])
        centre = pose.surface(middle[None], 0.03)
        looked_at = pose.surface((middle + expression.gaze * (1.0, 0.4))[None], 0.03)[0]
        _draw_eyeball(image, lid, looked_at, person, pose)
        lash = mix(person.skin, (25, 15, 12), 0.45 + 0.5 * person.lash)
        stroke(image, upper, lash, max(1, round(line * (0.6 + 1.4 * person.lash))))
        stroke(image, lower, mix(person.skin, (60, 30, 25), 0.4), max(1, line // 2))
        if person.crease > 0.2:
            stroke(
                image,
                place(person.eye_width * t, upper_y - 0.045 - 0.03 * person.crease),
                mix(person.skin, (70, 35, 25), 0.4 * person.crease),
                max(1, line // 2),
            )
        if person.eye_bag > 0.15:
            stroke(
                image,
                place(person.eye_width * t * 0.9, lower_y + 0.06),
                mix(person.skin, (80, 40, 50), 0.35 * person.eye_bag),
                line,
            )
        centres.append(centre[0])
    return np.array(centres)


def _draw_eyeball(image: Image, lid: Points, looked_at: Points, person: RenderedPerson, pose: Pose) -> None:
    """Draws white, iris and pupil, clipped to the opening `lid`."""
    region = region_around(image, lid, 3)
    if region is None:
        return
    (x1, y1), patch = region
    ball = patch.copy()
    ball[:] = (244, 240, 236)
    offset = np.array([x1, y1])
    radius = person.iris_size * pose.half
    dot(ball, looked_at - offset, radius * 1.12, mix(person.iris, (15, 10, 10), 0.6))
    dot(ball, looked_at - offset, radius, person.iris)
    dot(ball, looked_at - offset, radius * 0.45, (14, 12, 14))
    dot(ball, looked_at - offset + np.array([-0.35, -0.4]) * radius, radius * 0.22, (250, 250, 250))
    mask = np.zeros(patch.shape[:2], np.uint8)
    fill_mask(mask, lid - offset)
    cv2.copyTo(ball, mask, patch)


def _draw_brows(image: Image, person: RenderedPerson, pose: Pose, expression: _Expression) -> None:
    t = np.linspace(-1, 1, 9)
    arch = -person.brow_arch * (1 - (t - 0.25) ** 2)
    body = person.brow_thickness * (1 - 0.55 * np.clip(t, 0, 1) ** 2)
    for side in (-1.0, 1.0):
        x = side * (person.eye_distance + 0.02) + side * person.brow_length * t
        y = (
            person.eye_y
            - person.brow_height
            - expression.raised_brows
            + arch
            - person.brow_tilt * 0.3 * person.brow_length * t
        )
        shape = np.concatenate([np.stack([x, y - body / 2], 1), np.stack([x, y + body / 2], 1)[::-1]])
        fill(image, pose.surface(shape, 0.05), person.brow_colour)


def _draw_nose(image: Image, person: RenderedPerson, pose: Pose, line: int) -> Points:
    """Draws the nose. Returns its tip (1, 2) in pixels."""
    dark, light = mix(person.skin, (80, 35, 25), 0.38), mix(person.skin, (255, 250, 245), 0.35)
    end = person.eye_y + person.nose_length
    tip = pose.surface(np.array([[0.0, end - 0.06]]), person.nose_lift)
    for side in (-1.0, 1.0):
        ridge = pose.surface(np.array([[side * person.nose_bridge * 1.3, person.eye_y - 0.02]]), 0.02)
        wing = pose.surface(
            np.array([[side * person.nose_width, end - 0.05], [side * person.nose_width * 0.8, end + 0.02]]),
            0.08,
        )
        flank = pose.surface(np.array([[side * person.nose_bridge * 1.6, end - 0.2]]), person.nose_lift * 0.6)
        stroke(image, np.concatenate([ridge, flank, wing]), dark, line)
        hole = pose.surface(
            np.array([[side * person.nose_width * 0.5, end]]) + ellipse(person.nostril * 1.5, person.nostril),
            0.12,
        )
        fill(image, hole, mix(person.skin, (40, 15, 12), 0.7))
    base = np.array(
        [[-person.nose_width * 0.45, end + 0.03], [0.0, end + 0.05], [person.nose_width * 0.45, end + 0.03]]
    )
    stroke(image, pose.surface(base, 0.12), dark, line)
    bridge = pose.surface(np.array([[0.0, person.eye_y + 0.08]]), 0.06)
    stroke(image, np.concatenate([bridge, tip]), light, max(1, round(pose.half * person.nose_bridge * 0.6)))
    dot(image, tip[0], pose.half * 0.05, light)
    return tip


def _draw_mouth(
    image: Image, person: RenderedPerson, pose: Pose, line: int, expression: _Expression
) -> Points:
    """Draws the mouth. Returns its corners (2, 2) in pixels, the left one first."""
    smile, opening = expression.smile, expression.opening
    t = np.linspace(-1, 1, 13)
    y = person.eye_y + person.nose_length + person.mouth_y
    x = (person.mouth_width + 0.5 * smile) * t
    seam = y + (person.mouth_curve - smile) * t**2
    bow = person.cupid_bow * np.exp(-((t / 0.18) ** 2))
    top = seam - person.upper_lip * (1 - np.abs(t) ** 1.8) + bow
    bottom = seam + opening * (1 - t**2) + person.lower_lip * (1 - np.abs(t) ** 2.2)

    def place(height: Points) -> Points:
        return pose.surface(np.stack([x, height], 1), 0.1)

    fill(image, np.concatenate([place(top), place(seam)[::-1]]), mix(person.lip_colour, (60, 10, 20), 0.15))
    fill(image, np.concatenate([place(seam), place(bottom)[::-1]]), person.lip_colour)
    if opening > 0.02:
        inside = seam + opening * (1 - t**2)
        fill(image, np.concatenate([place(seam), place(inside)[::-1]]), (70, 22, 26))
        teeth = seam + 0.5 * opening * (1 - t**2)
        fill(image, np.concatenate([place(seam), place(teeth)[::-1]]), (240, 236, 228))
    stroke(image, place(seam), mix(person.lip_colour, (40, 10, 14), 0.65), line)
    return place(seam)[[0, -1]]


def _shade(image: Image, outline: Points, pose: Pose, rng: np.random.Generator) -> None:
    """Shades the face by Lambert's law: the ellipsoid in the light of one lamp."""
    region = region_around(image, outline, 2)
    lamp = np.array([rng.uniform(-0.75, 0.75), rng.uniform(-0.7, 0.25), 1.0])
    strength = rng.uniform(0.1, 0.42)
    if region is None:
        return
    (x1, y1), patch = region
    height, width = patch.shape[:2]
    x = (x1 + np.linspace(0, width, 24) - pose.centre[0]) / pose.half / 1.12
    y = (y1 + np.linspace(0, height, 24) - pose.centre[1]) / pose.half / 1.7
    grid_x, grid_y = np.meshgrid(x, y)
    normal_z = np.sqrt(np.clip(1 - grid_x**2 - grid_y**2, 0.02, 1.0))
    lambert = (grid_x * lamp[0] + grid_y * lamp[1] + normal_z * lamp[2]) / float(np.linalg.norm(lamp))
    light = 1 + strength * (np.clip(lambert, 0, 1) - 0.82)
    mask = np.zeros((height, width), np.uint8)
    fill_mask(mask, outline - (x1, y1))
    wide = cv2.resize(light.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    lit = cv2.multiply(patch, cv2.merge([wide, wide, wide]), dtype=cv2.CV_8U)
    cv2.copyTo(lit, mask, patch)
