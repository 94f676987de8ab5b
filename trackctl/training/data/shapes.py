"""What is rendered for training: bodies, vehicles and things that fly, as outlines with temperatures, and their pixels.

The three of the rendered clip are taken from there; the others are drawn in the same way: on a unit square, y down, part by part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.geometry import Float64Array
from trackctl.runtime.sources.synth_scene import SHAPES, Float32Array, Outline, limb, oval, texture

SIDE, FINER, PHASES = 96, 4, 6
Parts = list[tuple[Outline, float]]


def _bird(phase: float) -> Parts:
    beat = 0.22 * float(np.sin(2 * np.pi * phase))
    wings = [([(0.5 + s * 0.04, 0.46), (0.5 + s * 0.24, 0.40 - beat), (0.5 + s * 0.44, 0.44 - 1.6 * beat),
               (0.5 + s * 0.24, 0.50 - beat), (0.5 + s * 0.04, 0.56)], 22.0) for s in (-1.0, 1.0)]  # fmt: skip
    return [*wings, (oval(0.50, 0.51, 0.06, 0.12), 29.0), (oval(0.50, 0.37, 0.035, 0.04), 27.0)]


def _airplane(phase: float) -> Parts:
    bank = 0.06 * float(np.sin(2 * np.pi * phase))
    return [
        ([(0.46, 0.42), (0.06, 0.56 + bank), (0.06, 0.60 + bank), (0.46, 0.55)], 14.0),
        ([(0.54, 0.42), (0.94, 0.56 - bank), (0.94, 0.60 - bank), (0.54, 0.55)], 14.0),
        (oval(0.50, 0.50, 0.055, 0.40), 17.0),
        ([(0.47, 0.80), (0.34, 0.88), (0.34, 0.91), (0.66, 0.91), (0.66, 0.88), (0.53, 0.80)], 15.0),
        (oval(0.30, 0.52 + 0.6 * bank, 0.028, 0.05), 38.0),
        (oval(0.70, 0.52 - 0.6 * bank, 0.028, 0.05), 38.0),
    ]


def _helicopter(phase: float) -> Parts:
    reach = 0.12 + 0.32 * abs(float(np.cos(np.pi * phase)))
    return [
        ([(0.52, 0.42), (0.94, 0.44), (0.95, 0.34), (0.98, 0.34), (0.97, 0.50), (0.52, 0.52)], 18.0),
        (oval(0.34, 0.50, 0.21, 0.13), 20.0),
        (oval(0.24, 0.49, 0.09, 0.08), 16.0),
        (oval(0.40, 0.40, 0.08, 0.045), 36.0),
        ([(0.40 - reach, 0.325), (0.40 + reach, 0.325), (0.40 + reach, 0.34), (0.40 - reach, 0.34)], 15.0),
        ([(0.14, 0.66), (0.56, 0.66), (0.56, 0.685), (0.14, 0.685)], 16.0),
    ]


def _animal(phase: float) -> Parts:
    swing = 0.5 * float(np.sin(2 * np.pi * phase))
    legs = [(limb(x, 0.55, sign * swing, 0.27, 0.05), 24.5) for x, sign in ((0.27, 1), (0.33, -1), (0.66, -1), (0.72, 1))]
    return [
        *legs,
        (limb(0.22, 0.45, -1.1 - 0.3 * swing, 0.20, 0.035), 22.0),
        (oval(0.48, 0.49, 0.28, 0.105), 26.0),
        (oval(0.74, 0.40, 0.09, 0.10), 27.0),
        (oval(0.83, 0.33, 0.085, 0.06), 29.0),
        ([(0.78, 0.30), (0.80, 0.20), (0.84, 0.29)], 25.0),
    ]


def _body(phase: float) -> Parts:
    """Head and shoulders: a person near the camera."""
    turn = 0.02 * float(np.sin(2 * np.pi * phase))
    return [
        ([(0.16, 0.92), (0.20, 0.66), (0.38, 0.58), (0.62, 0.58), (0.80, 0.66), (0.84, 0.92)], 24.0),
        ([(0.43, 0.48), (0.57, 0.48), (0.60, 0.62), (0.40, 0.62)], 31.0),
        (oval(0.50 + turn, 0.34, 0.14, 0.18), 31.5),
        (oval(0.50, 0.23, 0.15, 0.10), 26.0),
        (oval(0.50 + 3 * turn, 0.40, 0.03, 0.035), 28.0),
    ]


def _van(phase: float) -> Parts:
    turn = 2 * np.pi * phase
    wheels = [
        (oval(x + r, 0.70, 0.075 - r, 0.075 - r), t)
        for x in (0.22, 0.76)
        for r, t in ((0.0, 23.0), (0.03, 27.0 + float(np.cos(turn))))
    ]
    body = [(0.05, 0.68), (0.05, 0.30), (0.68, 0.28), (0.84, 0.44), (0.95, 0.50), (0.95, 0.68)]
    window = [(0.68, 0.44), (0.66, 0.32), (0.80, 0.44)]
    bonnet = [(0.80, 0.50), (0.94, 0.52), (0.94, 0.64), (0.80, 0.64)]
    return [(body, 18.0), (window, 13.5), (bonnet, 30.0), *wheels]


def _boat(phase: float) -> Parts:
    wake = 0.02 * float(np.sin(2 * np.pi * phase))
    return [
        ([(0.04, 0.56), (0.96, 0.52), (0.86, 0.70 + wake), (0.12, 0.70 + wake)], 17.0),
        ([(0.34, 0.54), (0.38, 0.38), (0.60, 0.38), (0.66, 0.53)], 19.5),
        (oval(0.46, 0.34, 0.045, 0.09), 31.0),
        ([(0.06, 0.46), (0.13, 0.46), (0.13, 0.62), (0.06, 0.62)], 35.0),
    ]


def _from_above(phase: float) -> Parts:
    """A car seen from a drone."""
    glow = 2.0 * float(np.sin(2 * np.pi * phase))
    return [
        ([(0.32, 0.08), (0.68, 0.08), (0.72, 0.20), (0.72, 0.84), (0.66, 0.92), (0.34, 0.92), (0.28, 0.84), (0.28, 0.20)], 19.0),
        ([(0.33, 0.10), (0.67, 0.10), (0.68, 0.28), (0.32, 0.28)], 28.0 + glow),
        ([(0.33, 0.34), (0.67, 0.34), (0.63, 0.44), (0.37, 0.44)], 14.0),
        ([(0.37, 0.72), (0.63, 0.72), (0.66, 0.82), (0.34, 0.82)], 14.5),
    ]


KINDS: dict[str, Callable[[float], Parts]] = {
    **SHAPES,
    "bird": _bird,
    "airplane": _airplane,
    "helicopter": _helicopter,
    "animal": _animal,
    "body": _body,
    "van": _van,
    "boat": _boat,
    "car from above": _from_above,
}


@dataclass(frozen=True)
class Stamp:
    """An object in one phase of its movement.

    Attributes:
        layers: float32 (2, SIDE, SIDE): coverage 0..1, and temperature relative to the object's mean in units of its spread,
            times coverage.
        outline_xy: float64 (P, 2) hull, in shares of the side from the middle.
    """

    layers: Float32Array
    outline_xy: Float64Array


def stamps() -> list[Stamp]:
    """Every kind in every phase; those of kind k are numbers ``k * PHASES`` and following."""
    side = SIDE * FINER
    grain = texture(np.random.default_rng(3), side, side, side / 8)
    return [_stamp(draw(phase / PHASES), grain) for draw in KINDS.values() for phase in range(PHASES)]


def _stamp(parts: Parts, grain: Float32Array) -> Stamp:
    side = SIDE * FINER
    celsius, cover = np.zeros((side, side), dtype=np.float32), np.zeros((side, side), dtype=np.uint8)
    for outline, temperature in parts:
        points = np.rint(np.array(outline) * side).astype(np.int32)
        cv2.fillPoly(celsius, [points], temperature)
        cv2.fillPoly(cover, [points], 1)
    inside = cover > 0
    relative = celsius + 0.6 * grain
    mean, spread = float(relative[inside].mean()), float(relative[inside].std())
    share = cover.astype(np.float32)
    layers = [share, (relative - mean) / max(spread, 1e-3) * share]
    small = [cv2.resize(layer, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for layer in layers]
    rows, columns = np.nonzero(cover)
    corners: NDArray[np.int32] = np.stack((columns, rows), axis=1).astype(np.int32)
    hull = cv2.convexHull(corners).reshape(-1, 2)
    return Stamp(np.stack(small), (hull + 0.5) / side - 0.5)
