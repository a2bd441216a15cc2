"""Renders cartoon people from seeds, with exact boxes and landmarks.

Needs numpy and OpenCV only. Everything is a pure function of its seeds: the same call gives the same bytes in
every process, and no global random state is read or written. Colours are RGB throughout.

Geometry is in *face units*: x to the right and y down, the origin in the middle of the face, the half width
of the face one unit. Features lie on an ellipsoid that turns with the pose, so that they shift against the
silhouette as the features of a real head do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Points = NDArray[np.float64]
Colour = tuple[float, float, float]

# Disjoint ranges of `make_person` seeds: the demo model pack must never have seen the people it is shown.
DEMO_SEEDS = range(0, 100_000)
HELD_OUT_SEEDS = range(100_000, 200_000)
TRAIN_SEEDS = range(200_000, 1_000_000)

_PERSON_STREAM, _PORTRAIT_STREAM, _GROUP_STREAM, _SCENERY_STREAM = 11, 12, 13, 14
_SHIFT = 4  # fractional bits of the coordinates handed to OpenCV's drawing functions
_SKULL_TOP = -1.42
_FOREHEAD = -0.92  # where a detector's box starts: below the hairline of most people


@dataclass(frozen=True)
class RenderedPerson:
    """What stays the same in every photo of somebody. Lengths are in face units, colours RGB 0-255."""

    seed: int
    feminine: bool
    skin: Colour
    blush: float
    freckles: float
    skull_power: float
    skull_height: float
    jaw_width: float
    jaw_height: float
    chin_length: float
    chin_width: float
    eye_y: float
    eye_distance: float
    eye_width: float
    eye_height: float
    eye_tilt: float
    lid_peak: float
    crease: float
    eye_bag: float
    lash: float
    iris: Colour
    iris_size: float
    shadow: Colour
    shadow_strength: float
    brow_height: float
    brow_length: float
    brow_thickness: float
    brow_arch: float
    brow_tilt: float
    brow_colour: Colour
    nose_length: float
    nose_width: float
    nose_bridge: float
    nose_lift: float
    nostril: float
    mouth_y: float
    mouth_width: float
    upper_lip: float
    lower_lip: float
    cupid_bow: float
    mouth_curve: float
    lip_colour: Colour
    hair_colour: Colour
    hair_volume: float
    hair_length: float
    hairline: float
    fringe_slope: float
    fringe_parting: float
    fringe_wave: float
    temple: float
    ear_size: float
    ear_y: float
    earring: Colour | None
    fold: float
    forehead_lines: float
    moles: tuple[tuple[float, float, float], ...]
    beard: float
    moustache: float
    goatee: float


@dataclass(frozen=True)
class Face:
    """One face of a photo: box (x1, y1, x2, y2) in pixels, and landmarks (5, 2) float32 in pixels.

    Landmarks are in the order of insightface: left eye, right eye, nose, left and right corner of the mouth,
    where left and right are those of the image.
    """

    box: tuple[float, float, float, float]
    landmarks: NDArray[np.float32]


@dataclass(frozen=True)
class Photo:
    """An RGB image (H, W, 3) and the faces in it, from left to right."""

    image: Image
    faces: tuple[Face, ...]


_SKINS: tuple[Colour, ...] = (
    (250, 222, 204),
    (243, 205, 180),
    (232, 188, 155),
    (219, 168, 128),
    (198, 143, 104),
    (168, 114, 78),
    (134, 88, 60),
    (100, 66, 48),
)
_HAIRS: tuple[Colour, ...] = (
    (28, 24, 24),
    (58, 40, 30),
    (94, 62, 38),
    (134, 92, 54),
    (176, 132, 80),
    (222, 190, 128),
    (238, 222, 180),
    (150, 62, 30),
    (190, 84, 36),
    (150, 150, 152),
    (210, 210, 214),
    (120, 30, 52),
    (70, 60, 140),
    (200, 110, 150),
    (60, 120, 120),
)
_IRISES: tuple[Colour, ...] = (
    (70, 42, 24),
    (104, 66, 34),
    (140, 106, 52),
    (88, 124, 66),
    (70, 130, 120),
    (72, 122, 176),
    (110, 160, 205),
    (122, 134, 142),
)
_LIPS: tuple[Colour, ...] = (
    (196, 104, 100),
    (206, 84, 92),
    (178, 40, 58),
    (150, 70, 84),
    (214, 128, 120),
    (120, 40, 60),
)
_SHADOWS: tuple[Colour, ...] = (
    (90, 60, 60),
    (70, 80, 130),
    (130, 70, 120),
    (60, 110, 100),
    (150, 110, 60),
    (40, 36, 40),
)


def make_person(seed: int, feminine: bool | None = None) -> RenderedPerson:
    """The person of a seed; `feminine` overrides how they present, everything else follows from the seed."""
    rng = np.random.default_rng([_PERSON_STREAM, seed])
    drawn = bool(rng.random() < 0.6)
    is_feminine = drawn if feminine is None else feminine
    u = rng.uniform

    def either(if_feminine: tuple[float, float], otherwise: tuple[float, float]) -> float:
        # One draw in either case, so that everything drawn later stays the same.
        low, high = if_feminine if is_feminine else otherwise
        return float(u(low, high))

    skin = _jitter(rng, _SKINS[rng.integers(len(_SKINS))], 9)
    hair = _jitter(rng, _HAIRS[rng.integers(len(_HAIRS))], 12)
    lip_tint = _jitter(rng, _LIPS[rng.integers(len(_LIPS))], 10)
    lip_strength = either((0.45, 0.95), (0.15, 0.4))
    has_hair = bool(rng.random() > 0.14) or is_feminine
    facial_hair, wears_rings = rng.random(3) + is_feminine, rng.random()
    metal = _jitter(rng, (225, 195, 110), 25)
    moles = tuple(
        (float(u(-0.72, 0.72)), float(u(-0.62, 0.95)), float(u(0.022, 0.05)))
        for _ in range(rng.integers(0, 4))
    )
    return RenderedPerson(
        seed=seed,
        feminine=is_feminine,
        skin=skin,
        blush=float(u(0, 0.45)),
        freckles=float(max(0.0, u(-1.2, 1.0))),
        skull_power=float(u(1.9, 2.7)),
        skull_height=float(u(1.28, 1.5)),
        jaw_width=float(u(0.52, 0.92)),
        jaw_height=float(u(0.5, 0.85)),
        chin_length=float(u(1.12, 1.45)),
        chin_width=float(u(0.16, 0.48)),
        eye_y=float(u(-0.22, -0.05)),
        eye_distance=float(u(0.37, 0.5)),
        eye_width=float(u(0.155, 0.245)),
        eye_height=float(u(0.055, 0.135)),
        eye_tilt=float(u(-0.28, 0.22)),
        lid_peak=float(u(-0.45, 0.45)),
        crease=float(u(0.0, 1.0)),
        eye_bag=float(max(0.0, u(-0.6, 1.0))),
        lash=either((0.5, 1.0), (0.15, 0.6)),
        iris=_jitter(rng, _IRISES[rng.integers(len(_IRISES))], 10),
        iris_size=float(u(0.075, 0.11)),
        shadow=_SHADOWS[rng.integers(len(_SHADOWS))],
        shadow_strength=max(0.0, either((-0.5, 0.75), (0.0, 0.0))),
        brow_height=float(u(0.17, 0.33)),
        brow_length=float(u(0.2, 0.33)),
        brow_thickness=either((0.025, 0.06), (0.04, 0.095)),
        brow_arch=float(u(-0.01, 0.12)),
        brow_tilt=float(u(-0.3, 0.3)),
        brow_colour=_mix(hair, (30, 22, 18), float(u(0.1, 0.75))),
        nose_length=float(u(0.4, 0.6)),
        nose_width=float(u(0.13, 0.29)),
        nose_bridge=float(u(0.03, 0.1)),
        nose_lift=float(u(0.16, 0.3)),
        nostril=float(u(0.02, 0.05)),
        mouth_y=float(u(0.17, 0.3)),
        mouth_width=float(u(0.25, 0.43)),
        upper_lip=float(u(0.03, 0.1)),
        lower_lip=float(u(0.05, 0.14)),
        cupid_bow=float(u(0.0, 0.05)),
        mouth_curve=float(u(-0.06, 0.05)),
        lip_colour=_mix(_mix(skin, (170, 60, 60), 0.35), lip_tint, lip_strength),
        hair_colour=hair,
        hair_volume=float(u(0.06, 0.34)) * has_hair,
        hair_length=either((0.3, 2.6), (-0.6, 0.25)),
        hairline=float(u(-1.12, -0.62)) if has_hair else -1.25,
        fringe_slope=float(u(-0.42, 0.42)),
        fringe_parting=float(u(-0.6, 0.6)),
        fringe_wave=float(u(0.0, 0.09)),
        temple=float(u(0.0, 0.75)),
        ear_size=float(u(0.15, 0.3)),
        ear_y=float(u(-0.05, 0.2)),
        earring=metal if wears_rings < (0.45 if is_feminine else 0.08) else None,
        fold=float(max(0.0, u(-0.6, 1.0))),
        forehead_lines=float(max(0.0, u(-1.0, 1.0))),
        moles=moles,
        beard=float(u(0.25, 0.95) * (facial_hair[0] < 0.45)),
        moustache=float(u(0.35, 1.0) * (facial_hair[1] < 0.4)),
        goatee=float(u(0.35, 1.0) * (facial_hair[2] < 0.35)),
    )


def render_portrait(
    person: RenderedPerson, seed: int, size: tuple[int, int] = (400, 500), max_yaw: float = 30.0
) -> Photo:
    """One photo of a person: another `seed` is another pose, expression, light and place.

    `size` is (width, height) in pixels; `max_yaw` bounds the turn of the head in degrees. The face is 0.3 to
    0.48 of the shorter relative side, so at the default size its box is about 120 to 190 px wide.
    """
    width, height = size
    rng = np.random.default_rng([_PORTRAIT_STREAM, person.seed, seed])
    image = _background(rng, width, height)
    half = min(width, 0.8 * height) * rng.uniform(0.15, 0.235)
    centre = (width * (0.5 + rng.uniform(-0.09, 0.09)), height * (0.46 + rng.uniform(-0.06, 0.06)))
    face = _draw_person(image, person, _draw_pose(rng, centre, half, max_yaw), rng)
    return Photo(_develop(image, rng), (face,))


def render_group(people: Sequence[RenderedPerson], seed: int, size: tuple[int, int] = (900, 600)) -> Photo:
    """Several people side by side, none of them hidden; the faces of `Photo` follow `people` in order.

    With the default size up to five people have faces of more than 80 px. Raises ValueError for no people.
    """
    if not people:
        raise ValueError("render_group got no people; use render_scenery for a photo without faces")
    width, height = size
    rng = np.random.default_rng([_GROUP_STREAM, seed, *(person.seed for person in people)])
    image = _background(rng, width, height)
    column = width / len(people)
    half = min(column / 3.0, height / 5.6)
    faces = []
    for place, person in enumerate(people):
        centre = (
            column * (place + 0.5 + rng.uniform(-0.05, 0.05)),
            height * (0.42 + rng.uniform(-0.07, 0.07)),
        )
        pose = _draw_pose(rng, centre, half * rng.uniform(0.86, 1.0), max_yaw=22.0)
        faces.append(_draw_person(image, person, pose, rng))
    return Photo(_develop(image, rng), tuple(faces))


def render_scenery(seed: int, size: tuple[int, int] = (400, 500)) -> Photo:
    """A picture without any face: a place with coloured things in it."""
    width, height = size
    rng = np.random.default_rng([_SCENERY_STREAM, seed])
    image = _background(rng, width, height)
    _draw_clutter(image, rng, int(rng.integers(4, 22)))
    return Photo(_develop(image, rng), ())


def encode_jpeg(image_rgb: Image, quality: int = 90) -> bytes:
    """The JPEG file of an RGB image."""
    _, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    return data.tobytes()


@dataclass(frozen=True)
class _Pose:
    """Where a head is and how it is turned (radians), and how its face moves in this photo."""

    centre: tuple[float, float]
    half: float
    yaw: float
    pitch: float
    roll: float

    def surface(self, points: Points, lift: float = 0.0) -> Points:
        """Pixels of points of the face that lie on the ellipsoid, raised by `lift`."""
        x, y = points[:, 0], points[:, 1]
        depth = 0.92 * np.sqrt(np.clip(1 - (x / 1.12) ** 2 - (y / 1.7) ** 2, 0.0, 1.0)) + lift
        turned = x * math.cos(self.yaw) + depth * math.sin(self.yaw)
        towards = depth * math.cos(self.yaw) - x * math.sin(self.yaw)
        return self.flat(
            np.stack([turned, y * math.cos(self.pitch) - (towards - 0.8) * math.sin(self.pitch)], 1)
        )

    def silhouette(self, points: Points) -> Points:
        """Pixels of points of the outline: it keeps its width when the head turns, but the chin swings."""
        swing = math.sin(self.yaw) * (0.16 + 0.22 * np.clip(points[:, 1], 0.0, 1.2))
        return self.flat(np.stack([points[:, 0] + swing, points[:, 1]], 1))

    def flat(self, points: Points) -> Points:
        """Pixels of points that only roll with the head."""
        cos, sin = math.cos(self.roll) * self.half, math.sin(self.roll) * self.half
        x, y = points[:, 0], points[:, 1]
        return np.stack([self.centre[0] + cos * x - sin * y, self.centre[1] + sin * x + cos * y], 1)


def _draw_pose(rng: np.random.Generator, centre: tuple[float, float], half: float, max_yaw: float) -> _Pose:
    limit = math.radians(max_yaw)
    return _Pose(
        centre=centre,
        half=float(half),
        yaw=float(np.clip(rng.normal(0, limit / 2), -limit, limit)),
        pitch=float(np.clip(rng.normal(0, 0.1), -0.22, 0.22)),
        roll=float(np.clip(rng.normal(0, 0.09), -0.26, 0.26)),
    )


def _draw_person(image: Image, person: RenderedPerson, pose: _Pose, rng: np.random.Generator) -> Face:
    smile = float(rng.uniform(-0.02, 0.09))
    opening = float(max(0.0, rng.uniform(-0.12, 0.09)))
    squint = float(rng.uniform(0.72, 1.1))
    gaze = rng.uniform(-0.05, 0.05, 2)
    raise_brows = float(rng.uniform(-0.03, 0.05))
    line = max(1, round(pose.half * 0.022))

    outline = pose.silhouette(_outline(person))
    _draw_back(image, person, pose, rng)
    _draw_ears(image, person, pose)
    _fill(image, outline, person.skin)
    _tint_skin(image, person, pose)
    _draw_marks(image, person, pose, line)
    eyes = _draw_eyes(image, person, pose, line, squint, gaze)
    _draw_brows(image, person, pose, raise_brows)
    nose = _draw_nose(image, person, pose, line)
    corners = _draw_mouth(image, person, pose, line, smile, opening)
    _shade(image, outline, pose, rng)
    _draw_fringe(image, person, pose, rng)
    if rng.random() < 0.12:
        _draw_glasses(image, person, pose, rng, line)

    visible = pose.silhouette(_outline(person)[_outline(person)[:, 1] > _FOREHEAD])
    low, high = visible.min(0), visible.max(0)
    landmarks = np.concatenate([eyes, nose, corners]).astype(np.float32)
    return Face((float(low[0]), float(low[1]), float(high[0]), float(high[1])), landmarks)


def _outline(person: RenderedPerson) -> Points:
    """The silhouette of the face: half a superellipse for the skull, a smooth jaw to the chin below."""
    angle = np.linspace(0, math.pi, 25)
    power = 2 / person.skull_power
    cos, sin = np.cos(angle), np.sin(angle)
    skull = np.stack([np.sign(cos) * np.abs(cos) ** power, -person.skull_height * np.abs(sin) ** power], 1)
    t = np.linspace(0, 1, 7)[1:, None]
    cheek = np.array([-1.0, 0.0])
    jaw = np.array([-person.jaw_width, person.jaw_height])
    chin = np.array([-person.chin_width, person.chin_length])
    pull = np.array([-1.0, person.jaw_height * 0.55])
    upper = (1 - t) ** 2 * cheek + 2 * t * (1 - t) * pull + t**2 * jaw
    bend = np.array([-person.jaw_width * 0.8, person.jaw_height * 0.35 + person.chin_length * 0.65])
    lower = (1 - t) ** 2 * jaw + 2 * t * (1 - t) * bend + t**2 * chin
    left = np.concatenate([upper, lower])
    tip = np.array([[0.0, person.chin_length + 0.06 * (1 - person.chin_width)]])
    return np.concatenate([skull, left, tip, left[::-1] * np.array([-1.0, 1.0])])


def _draw_back(image: Image, person: RenderedPerson, pose: _Pose, rng: np.random.Generator) -> None:
    """What is behind the face: hair, neck and shoulders."""
    volume = person.hair_volume
    if volume > 0:
        angle = np.linspace(math.pi, 2 * math.pi, 21)
        crown = np.stack(
            [(1.02 + volume) * np.cos(angle), (person.skull_height + volume) * np.sin(angle) - 0.02], 1
        )
        ends = np.array(
            [[1.0 + volume * 1.2, person.hair_length], [-1.0 - volume * 1.2, person.hair_length]]
        ) * np.array([1.0, 1.0])
        _fill(image, pose.flat(np.concatenate([crown, ends])), _mix(person.hair_colour, (0, 0, 0), 0.22))
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
    _fill(image, body * pose.half + (x, y), (shirt[0], shirt[1], shirt[2]))
    throat = np.array([[-neck, top], [-neck - 0.08, base], [0, base + 0.4], [neck + 0.08, base], [neck, top]])
    _fill(image, throat * pose.half + (x, y), _mix(person.skin, (60, 30, 20), 0.18))


def _draw_ears(image: Image, person: RenderedPerson, pose: _Pose) -> None:
    if person.hair_length > 0.45 and person.hair_volume > 0:
        return
    for side in (-1.0, 1.0):
        reach = 1.02 - 0.12 * side * math.sin(pose.yaw) * 2
        centre = np.array([[side * reach, person.ear_y]])
        ear = centre + _ellipse(0.13, person.ear_size)
        _fill(image, pose.silhouette(ear), _mix(person.skin, (120, 50, 40), 0.12))
        _fill(
            image,
            pose.silhouette(centre + _ellipse(0.06, person.ear_size * 0.6)),
            _mix(person.skin, (120, 50, 40), 0.3),
        )
        if person.earring is not None:
            drop = centre + np.array([[0.0, person.ear_size + 0.03]])
            _fill(image, pose.silhouette(drop + _ellipse(0.05, 0.06)), person.earring)


def _tint_skin(image: Image, person: RenderedPerson, pose: _Pose) -> None:
    """Everything that colours the skin softly: blush, eye shadow, beard."""
    if person.blush > 0.08:
        cheeks = [pose.surface(np.array([[side * 0.56, 0.3]]) + _ellipse(0.24, 0.18)) for side in (-1.0, 1.0)]
        _soft_fill(image, cheeks, _mix(person.skin, (214, 84, 84), 0.75), person.blush, pose.half * 0.1)
    if person.shadow_strength > 0.08:
        lids = [
            pose.surface(np.array([[side * person.eye_distance, person.eye_y - 0.07]]) + _ellipse(0.25, 0.13))
            for side in (-1.0, 1.0)
        ]
        _soft_fill(image, lids, person.shadow, person.shadow_strength, pose.half * 0.04)
    nose_end = person.eye_y + person.nose_length
    mouth = nose_end + person.mouth_y
    hair = _mix(person.hair_colour, (30, 24, 20), 0.35)
    if person.beard > 0:
        rim = _outline(person)
        rim = rim[rim[:, 1] > 0.1] * np.array([0.985, 0.985])
        order = np.argsort(np.arctan2(rim[:, 1] - 0.1, -rim[:, 0]))
        inner = np.array([[0.62, mouth - 0.05], [0.0, mouth - 0.16], [-0.62, mouth - 0.05]])
        shape = pose.silhouette(np.concatenate([rim[order], inner]))
        _soft_fill(image, [shape], hair, person.beard, pose.half * 0.035)
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
        _soft_fill(image, [pose.surface(shape, 0.08)], hair, person.moustache, pose.half * 0.02)
    if person.goatee > 0:
        shape = np.array([[0.0, (mouth + person.chin_length) / 2 + 0.08]]) + _ellipse(0.22, 0.2)
        _soft_fill(image, [pose.surface(shape, 0.12)], hair, person.goatee, pose.half * 0.03)


def _draw_marks(image: Image, person: RenderedPerson, pose: _Pose, line: int) -> None:
    """Moles, freckles, folds beside the mouth and lines on the forehead."""
    dark = _mix(person.skin, (70, 30, 20), 0.35)
    nose_end = person.eye_y + person.nose_length
    if person.fold > 0.15:
        colour = _mix(person.skin, (80, 40, 30), 0.3 * person.fold)
        for side in (-1.0, 1.0):
            curve = np.array([[0.22, nose_end - 0.02], [0.38, nose_end + 0.12], [0.46, nose_end + 0.32]]) * (
                side,
                1.0,
            )
            _stroke(image, pose.surface(curve), colour, line)
    if person.forehead_lines > 0.15:
        colour = _mix(person.skin, (80, 40, 30), 0.28 * person.forehead_lines)
        x = np.linspace(-0.42, 0.42, 9)
        for height in (-0.68, -0.56):
            _stroke(image, pose.surface(np.stack([x, height + 0.06 * x**2], 1)), colour, line)
    if person.freckles > 0.1:
        rng = np.random.default_rng([_PERSON_STREAM, person.seed, 1])
        count = int(26 * person.freckles) + 6
        spots = np.stack([rng.uniform(-0.72, 0.72, count), rng.uniform(0.08, 0.46, count)], 1)
        for spot in pose.surface(spots):
            _dot(image, spot, pose.half * 0.02, dark)
    for across, down, radius in person.moles:
        centre = pose.surface(np.array([[across, down]]))[0]
        _dot(image, centre, pose.half * radius, _mix(person.skin, (45, 20, 15), 0.75))


def _draw_eyes(
    image: Image, person: RenderedPerson, pose: _Pose, line: int, squint: float, gaze: NDArray[np.float64]
) -> Points:
    """Both eyes; returns their centres (2, 2) in pixels, left one first."""
    t = np.linspace(-1, 1, 11)
    tall = person.eye_height * squint
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
        looked_at = pose.surface((middle + gaze * (1.0, 0.4))[None], 0.03)[0]
        _draw_eyeball(image, lid, looked_at, person, pose)
        lash = _mix(person.skin, (25, 15, 12), 0.45 + 0.5 * person.lash)
        _stroke(image, upper, lash, max(1, round(line * (0.6 + 1.4 * person.lash))))
        _stroke(image, lower, _mix(person.skin, (60, 30, 25), 0.4), max(1, line // 2))
        if person.crease > 0.2:
            _stroke(
                image,
                place(person.eye_width * t, upper_y - 0.045 - 0.03 * person.crease),
                _mix(person.skin, (70, 35, 25), 0.4 * person.crease),
                max(1, line // 2),
            )
        if person.eye_bag > 0.15:
            _stroke(
                image,
                place(person.eye_width * t * 0.9, lower_y + 0.06),
                _mix(person.skin, (80, 40, 50), 0.35 * person.eye_bag),
                line,
            )
        centres.append(centre[0])
    return np.array(centres)


def _draw_eyeball(image: Image, lid: Points, looked_at: Points, person: RenderedPerson, pose: _Pose) -> None:
    """White, iris and pupil, seen only through the opening `lid`."""
    region = _region(image, lid, 3)
    if region is None:
        return
    (x1, y1), patch = region
    ball = patch.copy()
    ball[:] = (244, 240, 236)
    offset = np.array([x1, y1])
    radius = person.iris_size * pose.half
    _dot(ball, looked_at - offset, radius * 1.12, _mix(person.iris, (15, 10, 10), 0.6))
    _dot(ball, looked_at - offset, radius, person.iris)
    _dot(ball, looked_at - offset, radius * 0.45, (14, 12, 14))
    _dot(ball, looked_at - offset + np.array([-0.35, -0.4]) * radius, radius * 0.22, (250, 250, 250))
    mask = np.zeros(patch.shape[:2], np.uint8)
    _fill_mask(mask, lid - offset)
    cv2.copyTo(ball, mask, patch)


def _draw_brows(image: Image, person: RenderedPerson, pose: _Pose, raised: float) -> None:
    t = np.linspace(-1, 1, 9)
    arch = -person.brow_arch * (1 - (t - 0.25) ** 2)
    body = person.brow_thickness * (1 - 0.55 * np.clip(t, 0, 1) ** 2)
    for side in (-1.0, 1.0):
        x = side * (person.eye_distance + 0.02) + side * person.brow_length * t
        y = (
            person.eye_y
            - person.brow_height
            - raised
            + arch
            - person.brow_tilt * 0.3 * person.brow_length * t
        )
        shape = np.concatenate([np.stack([x, y - body / 2], 1), np.stack([x, y + body / 2], 1)[::-1]])
        _fill(image, pose.surface(shape, 0.05), person.brow_colour)


def _draw_nose(image: Image, person: RenderedPerson, pose: _Pose, line: int) -> Points:
    """The nose; returns its tip (1, 2) in pixels."""
    dark, light = _mix(person.skin, (80, 35, 25), 0.38), _mix(person.skin, (255, 250, 245), 0.35)
    end = person.eye_y + person.nose_length
    tip = pose.surface(np.array([[0.0, end - 0.06]]), person.nose_lift)
    for side in (-1.0, 1.0):
        ridge = pose.surface(np.array([[side * person.nose_bridge * 1.3, person.eye_y - 0.02]]), 0.02)
        wing = pose.surface(
            np.array([[side * person.nose_width, end - 0.05], [side * person.nose_width * 0.8, end + 0.02]]),
            0.08,
        )
        flank = pose.surface(np.array([[side * person.nose_bridge * 1.6, end - 0.2]]), person.nose_lift * 0.6)
        _stroke(image, np.concatenate([ridge, flank, wing]), dark, line)
        hole = pose.surface(
            np.array([[side * person.nose_width * 0.5, end]])
            + _ellipse(person.nostril * 1.5, person.nostril),
            0.12,
        )
        _fill(image, hole, _mix(person.skin, (40, 15, 12), 0.7))
    base = np.array(
        [[-person.nose_width * 0.45, end + 0.03], [0.0, end + 0.05], [person.nose_width * 0.45, end + 0.03]]
    )
    _stroke(image, pose.surface(base, 0.12), dark, line)
    bridge = pose.surface(np.array([[0.0, person.eye_y + 0.08]]), 0.06)
    _stroke(image, np.concatenate([bridge, tip]), light, max(1, round(pose.half * person.nose_bridge * 0.6)))
    _dot(image, tip[0], pose.half * 0.05, light)
    return tip


def _draw_mouth(
    image: Image, person: RenderedPerson, pose: _Pose, line: int, smile: float, opening: float
) -> Points:
    """The mouth; returns its corners (2, 2) in pixels, left one first."""
    t = np.linspace(-1, 1, 13)
    y = person.eye_y + person.nose_length + person.mouth_y
    x = (person.mouth_width + 0.5 * smile) * t
    seam = y + (person.mouth_curve - smile) * t**2
    bow = person.cupid_bow * np.exp(-((t / 0.18) ** 2))
    top = seam - person.upper_lip * (1 - np.abs(t) ** 1.8) + bow
    bottom = seam + opening * (1 - t**2) + person.lower_lip * (1 - np.abs(t) ** 2.2)

    def place(height: Points) -> Points:
        return pose.surface(np.stack([x, height], 1), 0.1)

    _fill(image, np.concatenate([place(top), place(seam)[::-1]]), _mix(person.lip_colour, (60, 10, 20), 0.15))
    _fill(image, np.concatenate([place(seam), place(bottom)[::-1]]), person.lip_colour)
    if opening > 0.02:
        inside = seam + opening * (1 - t**2)
        _fill(image, np.concatenate([place(seam), place(inside)[::-1]]), (70, 22, 26))
        teeth = seam + 0.5 * opening * (1 - t**2)
        _fill(image, np.concatenate([place(seam), place(teeth)[::-1]]), (240, 236, 228))
    _stroke(image, place(seam), _mix(person.lip_colour, (40, 10, 14), 0.65), line)
    return place(seam)[[0, -1]]


def _draw_fringe(image: Image, person: RenderedPerson, pose: _Pose, rng: np.random.Generator) -> None:
    """The hair in front of the skull, from the crown to the hairline."""
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
    _fill(image, np.concatenate([pose.silhouette(crown), edge]), person.hair_colour)
    strand = _mix(person.hair_colour, (255, 250, 240), 0.16)
    for shift in (-0.5, -0.15, 0.2, 0.5):
        start = np.array([[person.fringe_parting * 0.6 + shift * 0.3, -person.skull_height - volume * 0.7]])
        end = np.array([[person.fringe_parting * 0.6 + shift * 1.4, person.hairline - 0.12]])
        _stroke(
            image,
            pose.silhouette(np.concatenate([start, (start + end) / 2 + (shift * 0.2, 0.0), end])),
            strand,
            max(1, round(pose.half * 0.02)),
        )


def _draw_glasses(
    image: Image, person: RenderedPerson, pose: _Pose, rng: np.random.Generator, line: int
) -> None:
    colour = tuple(float(c) for c in rng.integers(10, 120, 3))
    frame = (colour[0], colour[1], colour[2])
    wide, tall, power = rng.uniform(0.26, 0.33), rng.uniform(0.2, 0.28), rng.uniform(0.5, 1.0)
    ring = _ellipse(1.0, 1.0)
    ring = np.sign(ring) * np.abs(ring) ** power * np.array([wide, tall])
    for side in (-1.0, 1.0):
        lens = pose.surface(np.array([[side * person.eye_distance, person.eye_y + 0.02]]) + ring, 0.1)
        _stroke(image, np.concatenate([lens, lens[:1]]), frame, line + 1)
        arm = np.array(
            [[side * (person.eye_distance + wide), person.eye_y], [side * 1.0, person.eye_y - 0.03]]
        )
        _stroke(image, pose.surface(arm, 0.05), frame, line + 1)
    inner = person.eye_distance - wide
    _stroke(
        image, pose.surface(np.array([[-inner, person.eye_y], [inner, person.eye_y]]), 0.16), frame, line + 1
    )


def _shade(image: Image, outline: Points, pose: _Pose, rng: np.random.Generator) -> None:
    """Lambert shading of the ellipsoid by one lamp, within the face."""
    region = _region(image, outline, 2)
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
    _fill_mask(mask, outline - (x1, y1))
    wide = cv2.resize(light.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    lit = cv2.multiply(patch, cv2.merge([wide, wide, wide]), dtype=cv2.CV_8U)
    cv2.copyTo(lit, mask, patch)


def _background(rng: np.random.Generator, width: int, height: int) -> Image:
    """A blurred place: a smooth field of colours with a few shapes out of focus."""
    cells = (int(rng.integers(2, 7)), int(rng.integers(2, 7)))
    base = rng.uniform(50, 215) + rng.normal(0, 26, 3)
    variation = rng.normal(0, 26, (*cells, 1)) + rng.normal(0, 12, (*cells, 3))
    field = np.clip(base + variation, 0, 255).astype(np.uint8)
    image: Image = np.array(cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    _draw_clutter(image, rng, int(rng.integers(0, 9)))
    if rng.random() < 0.5:
        return np.asarray(cv2.blur(image, (9, 9)), np.uint8)
    return image


def _draw_clutter(image: Image, rng: np.random.Generator, count: int) -> None:
    height, width = image.shape[:2]
    reach = min(width, height)
    for _ in range(count):
        colour = tuple(float(c) for c in rng.integers(0, 256, 3))
        centre = rng.uniform((0, 0), (width, height))
        kind = rng.integers(4)
        if kind == 0:
            shape = centre + rng.uniform(-0.3, 0.3, (int(rng.integers(3, 7)), 2)) * reach
        elif kind == 1:
            shape = centre + _ellipse(*rng.uniform(0.02, 0.28, 2)) * reach
        elif kind == 2:
            across, down = rng.uniform(0.03, 0.35, 2) * reach
            shape = centre + np.array([[-across, -down], [across, -down], [across, down], [-across, down]])
        else:
            ends = centre + rng.uniform(-0.5, 0.5, (3, 2)) * reach
            _stroke(image, ends, (colour[0], colour[1], colour[2]), int(rng.integers(1, 10)))
            continue
        _fill(image, shape, (colour[0], colour[1], colour[2]))


def _develop(image: Image, rng: np.random.Generator) -> Image:
    """What a camera adds: uneven coloured light, exposure, blur and sensor noise."""
    height, width = image.shape[:2]
    slope_x, slope_y = rng.uniform(-0.13, 0.13, 2)
    grid_x, grid_y = np.meshgrid(np.linspace(-1, 1, 8), np.linspace(-1, 1, 8))
    warmth = 1 + rng.uniform(-0.06, 0.06, 3)
    light = (rng.uniform(0.84, 1.12) * (1 + slope_x * grid_x + slope_y * grid_y))[..., None] * warmth
    wide = cv2.resize(light.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    lit = cv2.multiply(image, wide, dtype=cv2.CV_8U)
    sigma = rng.uniform(0.0, 1.3)
    if sigma > 0.45:
        lit = cv2.GaussianBlur(lit, (0, 0), sigma)
    # A tile of noise, repeated: fresh noise for every pixel would cost more than all the drawing.
    tile = rng.normal(0, rng.uniform(0.5, 6.0), (96, 96, 3)).astype(np.int16)
    noise = np.tile(tile, (height // 96 + 1, width // 96 + 1, 1))[:height, :width]
    return np.asarray(cv2.add(lit, noise, dtype=cv2.CV_8U), np.uint8)


def _jitter(rng: np.random.Generator, colour: Colour, spread: float) -> Colour:
    moved = np.clip(np.asarray(colour) + rng.normal(0, spread, 3), 0, 255)
    return (float(moved[0]), float(moved[1]), float(moved[2]))


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    mixed = [a + (b - a) * share for a, b in zip(first, second, strict=True)]
    return (mixed[0], mixed[1], mixed[2])


_UNIT_CIRCLE = np.stack(
    [np.cos(np.linspace(0, 2 * math.pi, 21)[:-1]), np.sin(np.linspace(0, 2 * math.pi, 21)[:-1])], 1
)


def _ellipse(across: float, down: float) -> Points:
    """Twenty points (20, 2) of an ellipse around the origin with these half axes."""
    return np.asarray(_UNIT_CIRCLE * np.array([across, down]), np.float64)


def _fixed(points: Points) -> NDArray[np.int32]:
    return np.round(points * (1 << _SHIFT)).astype(np.int32)


def _fill(image: Image, points: Points, colour: Colour) -> None:
    cv2.fillPoly(image, [_fixed(points)], colour, cv2.LINE_AA, _SHIFT)


def _fill_mask(mask: Image, points: Points) -> None:
    cv2.fillPoly(mask, [_fixed(points)], 255, cv2.LINE_8, _SHIFT)


def _stroke(image: Image, points: Points, colour: Colour, thickness: int) -> None:
    cv2.polylines(image, [_fixed(points)], False, colour, thickness, cv2.LINE_AA, _SHIFT)


def _dot(image: Image, centre: Points, radius: float, colour: Colour) -> None:
    x, y = _fixed(centre)
    cv2.circle(
        image, (int(x), int(y)), max(1, round(radius * (1 << _SHIFT))), colour, -1, cv2.LINE_AA, _SHIFT
    )


def _soft_fill(image: Image, shapes: Sequence[Points], colour: Colour, strength: float, blur: float) -> None:
    """Blends a colour into the shapes, with edges blurred by `blur` pixels."""
    region = _region(image, np.concatenate(shapes), math.ceil(2.5 * blur) + 1)
    if region is None:
        return
    (x1, y1), patch = region
    mask = np.zeros(patch.shape[:2], np.uint8)
    for shape in shapes:
        _fill_mask(mask, shape - (x1, y1))
    size = 2 * round(blur) + 1
    soft = cv2.blur(mask, (size, size)).astype(np.float32)[..., None] * (strength / 255)
    patch[:] = patch + (np.asarray(colour, np.float32) - patch) * soft


def _region(image: Image, points: Points, margin: int) -> tuple[tuple[int, int], Image] | None:
    """The upper left corner and a view of the part of the image around the points; None outside of it."""
    height, width = image.shape[:2]
    x1, y1 = np.maximum(np.floor(points.min(0)).astype(int) - margin, 0)
    x2, y2 = np.minimum(np.ceil(points.max(0)).astype(int) + margin + 1, (width, height))
    if x1 >= x2 or y1 >= y2:
        return None
    return (int(x1), int(y1)), image[y1:y2, x1:x2]
