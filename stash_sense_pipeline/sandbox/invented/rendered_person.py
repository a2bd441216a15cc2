"""The looks of a cartoon person: every length and colour that stays the same in all photos."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stash_sense_pipeline.sandbox.invented.shapes import (
    Colour,
    mix,
)

# Disjoint ranges of `make_person` seeds: the demo model pack is never trained on people of the demo.
DEMO_SEEDS = range(0, 100_000)
HELD_OUT_SEEDS = range(100_000, 200_000)
TRAIN_SEEDS = range(200_000, 1_000_000)

# First word of the seeds of random streams that belong to a person.
PERSON_STREAM = 11


@dataclass(frozen=True)
class RenderedPerson:
    """The looks of one person. Lengths are in face units, colours RGB 0-255."""

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
    """The person of a seed. `feminine` overrides how they present; everything else follows from the seed."""
    rng = np.random.default_rng([PERSON_STREAM, seed])
    drawn = bool(rng.random() < 0.6)
    is_feminine = drawn if feminine is None else feminine
    u = rng.uniform

    def either(if_feminine: tuple[float, float], otherwise: tuple[float, float]) -> float:
        # Draws one number in either case, so that later draws stay the same.
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
        brow_colour=mix(hair, (30, 22, 18), float(u(0.1, 0.75))),
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
        lip_colour=mix(mix(skin, (170, 60, 60), 0.35), lip_tint, lip_strength),
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


def _jitter(rng: np.random.Generator, colour: Colour, spread: float) -> Colour:
    moved = np.clip(np.asarray(colour) + rng.normal(0, spread, 3), 0, 255)
    return (float(moved[0]), float(moved[1]), float(moved[2]))
