"""The world and the target of the rendered clip, in degrees Celsius."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.geometry import Float64Array

Float32Array = NDArray[np.float32]

TARGETS = ("vehicle", "person", "drone")

# Pixels across a sprite, and how much finer it is drawn before it is averaged down.
_SPRITE_PX, _FINER = 96, 4


def wander(rng: np.random.Generator, frames: int, period: float) -> Float64Array:
    """A smooth path (N,) within -1..1: three sines near ``period`` frames with random phases."""
    frame = np.arange(frames, dtype=np.float64)
    shares, rates = np.array([0.6, 0.28, 0.12]), rng.uniform(0.8, 1.25, 3) * np.array([1.0, 2.3, 5.1])
    phases = rng.uniform(0.0, 2 * np.pi, 3)
    path: Float64Array = (shares * np.sin(2 * np.pi * frame[:, None] / period * rates + phases)).sum(axis=1)
    return path


def texture(rng: np.random.Generator, height: int, width: int, coarsest_px: float, stretch: float = 1.0) -> Float32Array:
    """Fractal noise (H, W), mean 0 and deviation 1: octaves of smooth noise, each half as strong as the coarser one.

    Args:
        coarsest_px: grain of the first octave.
        stretch: how much wider than high the grains are.
    """
    field = np.zeros((height, width), dtype=np.float32)
    grain, strength = coarsest_px, 1.0
    while grain >= 1.0:
        grid = (max(2, round(height / grain)), max(2, round(width / (grain * stretch))))
        noise = rng.standard_normal(grid, dtype=np.float32)
        field += strength * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        grain, strength = grain / 2, strength * 0.6
    normal: Float32Array = (field - field.mean()) / max(float(field.std()), 1e-6)
    return normal


def _folded(position: NDArray[np.floating], length: int) -> Float32Array:
    """Positions folded into 0..length - 1 to and fro, so that a tile repeats without a seam."""
    folded: Float32Array = np.abs(np.mod(position, 2.0 * (length - 1)) - (length - 1)).astype(np.float32)
    return folded


class World:
    """A static scene on a canvas larger than the frame, and the camera that looks at it.

    Attributes:
        canvas: float32 (H, W) degrees Celsius, the part of the world that the camera can turn to.
        range_c: temperatures that an 8-bit camera would show as black and white.
    """

    def __init__(self, rng: np.random.Generator, width: int, height: int) -> None:
        self._frame_wh = (width, height)
        self._margin_xy = (round(0.35 * width), round(0.12 * height))
        canvas_w, canvas_h = width + 2 * self._margin_xy[0], height + 2 * self._margin_xy[1]
        self._unit = height / 512.0
        self.canvas = np.empty((canvas_h, canvas_w), dtype=np.float32)
        self._horizon = self._margin_xy[1] + 0.40 * height
        self._sky(rng)
        self._ground(rng)
        self._skyline(rng)
        self._clutter(rng)
        low, high = np.percentile(self.canvas[::4, ::4], (1.0, 99.5)).tolist()
        self.range_c = (low - 1.0, max(high, 27.0) + 2.0)

    def camera_path(self, rng: np.random.Generator, frames: int) -> Float64Array:
        """Per frame (N, 3): pan and tilt in pixels, roll in degrees: slow drift plus the jitter of a hand or a mast."""
        margin_x, margin_y = self._margin_xy
        jitter = rng.standard_normal((frames, 2)) * 0.6 * self._unit
        pan = 0.85 * margin_x * wander(rng, frames, 190.0) + jitter[:, 0]
        tilt = 0.6 * margin_y * wander(rng, frames, 130.0) + jitter[:, 1]
        return np.stack((pan, tilt, 0.6 * wander(rng, frames, 110.0)), axis=1)

    def view(self, camera: Float64Array) -> Float32Array:
        """The frame (H, W) that the camera sees, without target."""
        width, height = self._frame_wh
        pan, tilt, roll = camera.tolist()
        canvas_h, canvas_w = self.canvas.shape
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), roll, 1.0)
        matrix[:, 2] += (canvas_w - width) / 2 + pan, (canvas_h - height) / 2 + tilt
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        frame: Float32Array = cv2.warpAffine(self.canvas, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return frame

    def _sky(self, rng: np.random.Generator) -> None:
        canvas_h, canvas_w = self.canvas.shape
        above = np.clip((self._horizon - np.arange(canvas_h, dtype=np.float32)) / self._horizon, 0.0, 1.0)
        clouds = np.clip(texture(rng, canvas_h, canvas_w, 120 * self._unit, stretch=2.5), 0.0, 2.5)
        self.canvas[...] = (7.0 - 7.0 * np.sqrt(above))[:, None] + 1.3 * clouds

    def _ground(self, rng: np.random.Generator) -> None:
        canvas_h, canvas_w = self.canvas.shape
        first = int(self._horizon)
        tile_px = 1024
        plane = texture(rng, tile_px, tile_px, 180.0) + 0.5 * texture(rng, tile_px, tile_px, 12.0)
        rows = np.arange(first, canvas_h, dtype=np.float32)[:, None]
        columns = np.arange(canvas_w, dtype=np.float32)[None]
        # A flat ground seen from a mast: distance goes with 1 / (rows below the horizon).
        distance = 160.0 * self._unit / (rows - self._horizon + 12.0 * self._unit)
        across = _folded((columns - canvas_w / 2) / self._unit * distance + 500.0, tile_px)
        along = np.broadcast_to(_folded(700.0 * distance, tile_px), across.shape)
        grass = cv2.remap(plane, across, np.ascontiguousarray(along), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        contrast = np.clip(2.2 / np.maximum(distance, 1.0), 0.35, 1.6)
        self.canvas[first:] = 13.5 + 1.1 * contrast * grass + 1.5 * (rows - first) / (canvas_h - first)
        # A road that runs towards the horizon keeps the day's warmth.
        bend = 220.0 * np.sin(0.9 * distance + rng.uniform(0.0, 6.0)) + rng.uniform(-200.0, 200.0)
        offset = np.abs((columns - canvas_w / 2) / self._unit * distance - bend)
        road = np.clip((70.0 - offset) / 12.0, 0.0, 1.0)
        self.canvas[first:] += road * (17.3 + 0.3 * grass - self.canvas[first:])

    def _skyline(self, rng: np.random.Generator) -> None:
        canvas_h, canvas_w = self.canvas.shape
        unit = self._unit
        hills = self._horizon - 16 * unit - 14 * unit * texture(rng, 1, canvas_w, 200 * unit)[0]
        wood = self._horizon - 9 * unit - np.abs(7 * unit * texture(rng, 1, canvas_w, 24 * unit)[0])
        rows = np.arange(canvas_h, dtype=np.float32)[:, None]
        below = rows < self._horizon + 1.0
        far = np.clip(rows - hills, 0.0, 1.0) * below
        self.canvas += far * (9.5 + 0.4 * texture(rng, canvas_h, canvas_w, 30 * unit) - self.canvas)
        near = np.clip(rows - wood, 0.0, 1.0) * (rows < self._horizon + 4 * unit)
        self.canvas += near * (12.2 + 0.9 * texture(rng, canvas_h, canvas_w, 10 * unit) - self.canvas)
        for left in rng.uniform(0.0, canvas_w, 5):
            self._house(rng, float(left), float(rng.uniform(30, 80)) * unit, float(rng.uniform(16, 38)) * unit)

    def _house(self, rng: np.random.Generator, left: float, width: float, height: float) -> None:
        bottom = self._horizon + 5 * self._unit
        x0, x1, y0, y1 = (round(value) for value in (left, left + width, bottom - height, bottom))
        wall = float(rng.uniform(13.5, 17.0))
        cv2.rectangle(self.canvas, (x0, y0), (x1, y1), wall, cv2.FILLED)
        roof = np.array([(x0 - 2, y0), ((x0 + x1) // 2, round(y0 - 0.35 * height)), (x1 + 2, y0)], dtype=np.int32)
        cv2.fillConvexPoly(self.canvas, roof, wall - 4.0, cv2.LINE_AA)
        side = max(2, round(3.5 * self._unit))
        for x in range(x0 + side, x1 - side, 3 * side):
            for y in range(y0 + side, y1 - 2 * side, 3 * side):
                cv2.rectangle(self.canvas, (x, y), (x + side, y + side), wall + float(rng.uniform(-1.0, 6.0)), cv2.FILLED)

    def _clutter(self, rng: np.random.Generator) -> None:
        """Bushes (cool and warm) and sun-warmed stones all over the ground: the things that a target is mistaken for."""
        canvas_h, canvas_w = self.canvas.shape
        leaves = texture(rng, canvas_h, canvas_w, 8 * self._unit)
        for depth in np.sort(rng.uniform(0.03, 1.0, 90)):
            x = float(rng.uniform(0, canvas_w))
            y = float(self._horizon + depth * (canvas_h - self._horizon))
            stone = rng.random() < 0.3
            radius = float(rng.uniform(4, 9) if stone else rng.uniform(8, 26)) * self._unit * (0.25 + 0.9 * float(depth))
            self._blob(rng, x, y, max(radius, 1.5), float(rng.uniform(18, 25) if stone else rng.uniform(9.5, 16.5)), leaves)

    def _blob(self, rng: np.random.Generator, x: float, y: float, radius: float, celsius: float, leaves: Float32Array) -> None:
        """A ragged round thing: the area where a falling-off dome, roughened by noise, is above a threshold."""
        canvas_h, canvas_w = self.canvas.shape
        reach = round(1.8 * radius) + 2
        top, bottom, left, right = (
            round(v) for v in (max(y - reach, 0), min(y + reach, canvas_h), max(x - reach, 0), min(x + reach, canvas_w))
        )
        if top >= bottom or left >= right:
            return
        rows, columns = np.mgrid[top:bottom, left:right].astype(np.float32)
        dome = 1.0 - ((columns - x) / (1.25 * radius)) ** 2 - ((rows - y) / radius) ** 2
        part = leaves[top:bottom, left:right]
        cover = np.clip((dome + 0.25 * part) * radius / 2.0, 0.0, 1.0)
        # The upper side faces the sky or the sun.
        surface = celsius + 0.7 * part - 1.2 * (rows - y) / radius * (1.0 if rng.random() < 0.5 else -1.0)
        target = self.canvas[top:bottom, left:right]
        target += cover * (surface - target)


@lru_cache(maxsize=1)
def _grains() -> tuple[Float32Array, Float32Array]:
    """The target's fixed pattern and the one that comes and goes, the same on all targets."""
    side = _SPRITE_PX * _FINER
    rng = np.random.default_rng(7)
    return texture(rng, side, side, side / 8), texture(rng, side, side, side / 4)


class Sprite:
    """The target in one phase of its movement: temperatures and coverage on a square of its own.

    Args:
        kind: one of ``TARGETS``.
        phase: 0..1 of the cycle (gait, wheels, rotors).

    Attributes:
        cover: share of each pixel that is target, 0..1, float32 (S, S).
        warmth: temperature times cover.
        grain: the pattern that comes and goes with heat, times cover.
    """

    cover: Float32Array
    warmth: Float32Array
    grain: Float32Array

    def __init__(self, kind: str, phase: float) -> None:
        side = _SPRITE_PX * _FINER
        celsius, cover = np.full((side, side), 20.0, dtype=np.float32), np.zeros((side, side), dtype=np.float32)
        for points, temperature in SHAPES[kind](phase):
            outline = np.rint(np.array(points) * side).astype(np.int32)
            cv2.fillPoly(celsius, [outline], temperature)
            cv2.fillPoly(cover, [outline], 1.0)
        rows, columns = np.nonzero(cover)
        # Extent in units of the sprite's own height, from its centre.
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        self._centre = np.array([(left + right) / 2, (top + bottom) / 2]) / _FINER
        self._extent = np.array([right - left, bottom - top]) / _FINER
        grain, slow_grain = _grains()
        # Temperature is averaged where there is target only, or the fill would bleed into the rim.
        self.cover, self.warmth, self.grain = (
            cv2.resize(layer, (_SPRITE_PX, _SPRITE_PX), interpolation=cv2.INTER_AREA)
            for layer in (cover, (celsius + 0.9 * grain) * cover, slow_grain * cover)
        )

    def scale(self, height_px: float) -> float:
        """Frame pixels per sprite pixel when the target's nominal height (0.6 of the sprite) is ``height_px``."""
        return height_px / (0.6 * _SPRITE_PX)

    def box_ltwh(self, centre_xy: Float64Array, height_px: float) -> Float64Array:
        """The target's extent (4,) in the frame, when the sprite's middle is at ``centre_xy``."""
        scale = self.scale(height_px)
        centre = centre_xy + (self._centre - _SPRITE_PX / 2) * scale
        size = self._extent * scale
        return np.concatenate((centre - size / 2, size))


def draw_target(celsius: Float32Array, sprite: Sprite, centre_xy: Float64Array, height_px: float, heat: float) -> None:
    """Lay the sprite over the frame, in place; ``heat`` -1..1 shifts its temperature and its pattern slowly."""
    scale = sprite.scale(height_px)
    reach = _SPRITE_PX / 2 * scale + 2.0
    height, width = celsius.shape
    left, top = (max(0, int(np.floor(value - reach))) for value in centre_xy)
    right, bottom = (min(limit, int(np.ceil(value + reach))) for value, limit in zip(centre_xy, (width, height), strict=True))
    if left >= right or top >= bottom:
        return
    # Sprite index to frame index, half-pixel exact: frame = centre + (sprite + 0.5 - side / 2) * scale - 0.5.
    shift = (0.5 - _SPRITE_PX / 2) * scale - 0.5
    matrix = np.array([[scale, 0.0, centre_xy[0] + shift - left], [0.0, scale, centre_xy[1] + shift - top]])
    # The layers are averaged to the frame's grain first, since warpAffine samples points.
    sigma = 0.45 / scale if scale < 1.0 else 0.0
    layers = []
    for layer in (sprite.cover, sprite.warmth + 0.8 * heat * sprite.grain + 1.0 * heat * sprite.cover):
        smooth = cv2.GaussianBlur(layer, (0, 0), sigma) if sigma > 0.0 else layer
        layers.append(cv2.warpAffine(smooth, matrix, (right - left, bottom - top), flags=cv2.INTER_LINEAR))
    part = celsius[top:bottom, left:right]
    part *= 1.0 - layers[0]
    part += layers[1]


Outline = list[tuple[float, float]]


def oval(x: float, y: float, radius_x: float, radius_y: float) -> Outline:
    """An ellipse with axes along the sprite's sides; all in shares of the sprite's side."""
    angles = np.linspace(0.0, 2 * np.pi, 24, endpoint=False)
    return [(x + radius_x * float(np.cos(angle)), y + radius_y * float(np.sin(angle))) for angle in angles]


def limb(x: float, y: float, angle: float, length: float, breadth: float) -> Outline:
    """A tapering bar from a joint, hanging down at angle 0 (radians); lengths in shares of the sprite's side."""
    dx, dy = float(np.sin(angle)), float(np.cos(angle))
    half = breadth / 2
    return [
        (x - half * dy, y + half * dx),
        (x + half * dy, y - half * dx),
        (x + length * dx + 0.7 * half * dy, y + length * dy - 0.7 * half * dx),
        (x + length * dx - 0.7 * half * dy, y + length * dy + 0.7 * half * dx),
    ]


def _vehicle(phase: float) -> list[tuple[Outline, float]]:
    turn = 2 * np.pi * phase
    parts: list[tuple[Outline, float]] = [
        (
            [
                (0.06, 0.55),
                (0.10, 0.44),
                (0.30, 0.42),
                (0.40, 0.27),
                (0.76, 0.27),
                (0.86, 0.43),
                (0.95, 0.47),
                (0.95, 0.66),
                (0.06, 0.66),
            ],
            20.5,
        ),
        ([(0.07, 0.53), (0.11, 0.45), (0.30, 0.43), (0.33, 0.56), (0.12, 0.60)], 29.0 + 0.8 * float(np.sin(turn))),
        ([(0.36, 0.41), (0.43, 0.30), (0.56, 0.30), (0.56, 0.41)], 15.0),
        ([(0.59, 0.41), (0.59, 0.30), (0.73, 0.30), (0.79, 0.41)], 15.8),
        ([(0.05, 0.62), (0.95, 0.62), (0.95, 0.66), (0.05, 0.66)], 24.0),
    ]
    for x in (0.24, 0.77):
        parts.append((oval(x, 0.66, 0.085, 0.085), 24.5))
        parts.append((oval(x + 0.03 * float(np.cos(turn)), 0.66 + 0.03 * float(np.sin(turn)), 0.03, 0.03), 31.0))
    return parts


def _person(phase: float) -> list[tuple[Outline, float]]:
    swing = 0.55 * float(np.sin(2 * np.pi * phase))
    bob = 0.01 * float(np.cos(4 * np.pi * phase))
    return [
        (limb(0.50, 0.52 + bob, -swing, 0.30, 0.085), 24.0),
        (limb(0.50, 0.52 + bob, swing, 0.30, 0.085), 25.0),
        (limb(0.53, 0.33 + bob, -0.8 * swing, 0.22, 0.055), 25.5),
        (oval(0.50, 0.42 + bob, 0.085, 0.145), 25.0),
        (oval(0.50, 0.38 + bob, 0.05, 0.07), 27.5),
        (limb(0.47, 0.33 + bob, 0.8 * swing, 0.22, 0.055), 26.0),
        (oval(0.50, 0.235 + bob, 0.048, 0.06), 31.5),
        (oval(0.50, 0.20 + bob, 0.047, 0.03), 26.0),
    ]


def _drone(phase: float) -> list[tuple[Outline, float]]:
    spread = 0.10 + 0.05 * abs(float(np.cos(2 * np.pi * phase)))
    parts: list[tuple[Outline, float]] = [
        ([(0.14, 0.40), (0.86, 0.40), (0.86, 0.45), (0.14, 0.45)], 19.0),
        (oval(0.50, 0.47, 0.17, 0.12), 22.0),
        (oval(0.50, 0.44, 0.08, 0.05), 28.0),
        (limb(0.38, 0.52, -0.5, 0.24, 0.035), 18.0),
        (limb(0.62, 0.52, 0.5, 0.24, 0.035), 18.0),
    ]
    for x in (0.16, 0.84):
        parts.append((oval(x, 0.40, 0.045, 0.055), 33.0))
        parts.append((oval(x, 0.345, spread, 0.014), 17.0))
    return parts


SHAPES = {"vehicle": _vehicle, "person": _person, "drone": _drone}
