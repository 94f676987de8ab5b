"""What a rendered pair shows: all random choices of a scene, as numbers. ``render.py`` makes pixels of them.

Shapes: K objects, C channels. Scene coordinates are sensor px from the target's middle. Everything is [ours].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np

from trackctl.runtime.geometry import Box, CropSpec, Float64Array
from trackctl.training.data.shapes import KINDS, PHASES, stamps

Camera = Literal["grey", "rgbt"]

BACKGROUNDS = 12
CANVAS_HW = (600, 1024)
OBJECTS, OCCLUDERS = 5, 2  # most per scene; the target is the first object
NOISE_PX = 512
GONE: Float64Array = np.full((2, 3), np.nan)
GONE.setflags(write=False)


@dataclass(frozen=True, kw_only=True)
class RenderSpec:
    """What scenes look like. Shifts are in patch px, levels are grey levels of 255.

    Attributes:
        height_px: smallest and largest height of a target, sensor px, drawn evenly in its logarithm.
        contrast: smallest and largest difference of a target's mean from its surroundings, levels.
        negatives: share of pairs whose search patch shows something else, or nothing.
        rivals: probability of each further object.
        twin: probability that a rival is of the target's kind.
        occlusion: probability of a post or bush before the target in the search patch; it hides half of it at most.
        search_shift, search_scale: as in :class:`trackctl.training.pairs.PairSpec`.
        roll: standard deviation of the camera's roll between the patches, degrees.
        invert: probability of black-hot pictures.
        noise: largest standard deviation of the noise, levels.
        halo: probability of a dark rim round hot objects, as local contrast enhancement makes it.
    """

    height_px: tuple[float, float] = (8.0, 220.0)
    contrast: tuple[float, float] = (10.0, 110.0)
    negatives: float = 0.2
    rivals: float = 0.45
    twin: float = 0.5
    occlusion: float = 0.3
    search_shift: float = 64.0
    search_scale: tuple[float, float] = (0.75, 1.33)
    roll: float = 4.0
    invert: float = 0.4
    noise: float = 9.0
    halo: float = 0.4


@dataclass
class View:
    """How one patch sees the scene: ``scene = matrix @ (patch px, 1)``, and what is where."""

    matrix: Float64Array
    objects: list[tuple[int, Float64Array]] = field(default_factory=list)  # stamp, 2 x 3 scene -> stamp coordinates -1..1
    occluders: list[Float64Array] = field(default_factory=list)  # 2 x 3, the same for a unit square
    gain: float = 1.0
    offset: float = 0.0
    noise: float = 0.0
    entry: tuple[int, int] = (0, 0)
    dead: int = 0


@dataclass
class Scene:
    """All random choices of one pair."""

    views: tuple[View, View]
    background: int
    anchor: Float64Array  # 2 x 3 scene -> canvas coordinates -1..1
    base: Float64Array  # (1 + K + occluders, C) level of background, objects, occluders
    slope: Float64Array  # the same shape: level per unit of their texture
    zoom: tuple[float, float]  # patch px per sensor px
    blur: float
    halo: float
    pattern: float
    inverted: bool
    box_xyxy: Float64Array
    positive: bool
    seed: int


def draw_scene(number: int, spec: RenderSpec, crop: CropSpec, camera: Camera, seed: int) -> Scene:
    """Scene ``number`` >= 0, the same for the same seed."""
    rng = np.random.default_rng((seed, number, 1))
    base, slope, contrast = _palette(rng, spec, camera)
    kind = int(rng.integers(len(KINDS)))
    height = float(np.exp(rng.uniform(*np.log(spec.height_px))))
    mirror, aspect, angle = rng.choice((-1.0, 1.0)), float(np.exp(0.12 * rng.standard_normal())), _heading(kind, rng)
    phase = int(rng.integers(PHASES))
    now = (phase + int(rng.integers(-2, 3))) % PHASES
    growth = float(np.exp(0.12 * rng.standard_normal()))
    turn = 0.06 * float(rng.standard_normal())
    first = _placed(np.zeros(2), height, mirror * aspect, angle)
    second = _placed(np.zeros(2), height * growth, mirror * aspect * float(np.exp(0.06 * rng.standard_normal())), angle + turn)
    template_box, true_box = _bounds(kind * PHASES + phase, first), _bounds(kind * PHASES + now, second)
    positive = bool(rng.random() >= spec.negatives)
    shown, box, placed = kind * PHASES + now, true_box, second
    if not positive:
        other = (kind + int(rng.integers(1, len(KINDS)))) % len(KINDS)
        shown = other * PHASES + now
        box = _bounds(shown, placed)
    loose, squeeze = float(rng.uniform(0.95, 1.25)), rng.uniform(0.95, 1.05, 2)
    template_box, box = (_scaled(part, loose * squeeze) for part in (template_box, box))
    template_view = View(_window(template_box, crop.template_side_px, crop.template_size, rng, shift=4.0, scale=(0.95, 1.05)))
    search_view = View(_window(box, crop.search_side_px, crop.search_size, rng, shift=spec.search_shift, scale=spec.search_scale))
    if rng.random() < 0.5:
        # The camera rolls about the target; its box is that of what is seen.
        roll = np.deg2rad(spec.roll * float(rng.standard_normal()))
        placed = _placed(np.zeros(2), height * growth, mirror * aspect, angle + turn + roll)
        box = _scaled(_bounds(shown, placed), loose * squeeze)
    empty = not positive and rng.random() < 0.4
    template_view.objects.append((kind * PHASES + phase, first))
    search_view.objects.append((shown, GONE if empty else placed))
    for _ in range(OBJECTS - 1):
        _rival(rng, spec, kind, height, template_box, box, template_view, search_view)
    covered = not empty and rng.random() < spec.occlusion
    for place in range(OCCLUDERS):
        template_view.occluders.append(GONE)
        search_view.occluders.append(_occluder(box, rng) if covered and place == 0 else GONE)
    for view in (template_view, search_view):
        view.gain, view.offset = float(np.exp(0.12 * rng.standard_normal())), 10.0 * float(rng.standard_normal())
        # Noise that drowns the target would teach to guess.
        view.noise = min(spec.noise, 0.25 * contrast) * float(rng.random() ** 2)
        view.entry = int(rng.integers(NOISE_PX)), int(rng.integers(NOISE_PX))
        view.dead = int(rng.integers(0, 12)) if rng.random() < 0.15 else 0
    background, anchor = _anchor(rng, search_view)
    matrix = search_view.matrix
    return Scene(
        (template_view, search_view), background, anchor, base, slope,
        (1.0 / template_view.matrix[0, 0], 1.0 / matrix[0, 0]), float(rng.uniform(0.4, 1.0)),
        float(rng.uniform(0.2, 0.9)) if rng.random() < spec.halo else 0.0, float(rng.uniform(0.0, 3.0)),
        bool(rng.random() < spec.invert), _in_patch(box, matrix), positive, number,
    )  # fmt: skip


def _rival(
    rng: np.random.Generator,
    spec: RenderSpec,
    kind: int,
    height: float,
    template_box: Box,
    box: Box,
    template: View,
    search: View,
) -> None:
    """Another object beside the target, in both patches."""
    if rng.random() >= spec.rivals:
        template.objects.append((0, GONE))
        search.objects.append((0, GONE))
        return
    other = kind if rng.random() < spec.twin else int(rng.integers(len(KINDS)))
    size = height * float(np.exp(0.35 * rng.standard_normal()))
    phases = rng.integers(PHASES, size=2)
    mirror, angle = rng.choice((-1.0, 1.0)), _heading(other, rng)
    for view, own, phase in ((template, template_box, phases[0]), (search, box, phases[1])):
        number = other * PHASES + int(phase)
        alone = _bounds(number, _placed(np.zeros(2), size, mirror, angle))
        bearing = rng.uniform(0.0, 2 * np.pi)
        direction = np.array([np.cos(bearing), np.sin(bearing)])
        # Distance at which the two boxes stop overlapping.
        room = np.array([own.width + alone.width, own.height + alone.height]) / 2
        apart = float(np.min(room / np.maximum(np.abs(direction), 1e-6))) * float(rng.uniform(0.92, 2.4))
        centre = np.array(own.centre_xy) + direction * apart
        view.objects.append((number, _placed(centre - np.array(alone.centre_xy), size, mirror, angle)))


def _palette(rng: np.random.Generator, spec: RenderSpec, camera: Camera) -> tuple[Float64Array, Float64Array, float]:
    """Levels and textures (layers, C) of background, objects and occluders, and the target's contrast.

    The visible and the thermal camera see levels of their own; colours differ little.
    """
    planes = [_levels(rng, spec) for _ in range(1 if camera == "grey" else 2)]
    contrast = min(plane[2] for plane in planes)
    if camera == "grey":
        return planes[0][0][:, None], planes[0][1][:, None], contrast
    (visible, visible_detail, _), (thermal, thermal_detail, _) = planes
    tints = np.exp(0.2 * rng.standard_normal((len(visible), 3)))
    base = np.concatenate((visible[:, None] * tints, thermal[:, None]), axis=1)
    return base, np.concatenate((visible_detail[:, None] * tints, thermal_detail[:, None]), axis=1), contrast


def _levels(rng: np.random.Generator, spec: RenderSpec) -> tuple[Float64Array, Float64Array, float]:
    """Level and texture of every layer for one camera, and the target's contrast."""
    ground = rng.uniform(45.0, 150.0)
    contrast = float(np.exp(rng.uniform(*np.log(spec.contrast))))
    own = ground + contrast * (1.0 if rng.random() < 0.75 else -1.0)
    # Rivals of one world look alike more often than not.
    rivals = own + rng.choice((4.0, 40.0)) * rng.standard_normal(OBJECTS - 1)
    levels = [ground, own, *rivals, *(ground + 35.0 * rng.standard_normal(OCCLUDERS))]
    depth = rng.uniform(0.1, 0.8) * min(contrast, 40.0)
    details = [depth, *(contrast * rng.uniform(0.1, 0.6, OBJECTS)), *rng.uniform(3.0, 15.0, OCCLUDERS)]
    return np.array(levels), np.array(details), contrast


def _heading(kind: int, rng: np.random.Generator) -> float:
    """Rotation, radians: any for what is seen from above or below, little for what stands."""
    free = list(KINDS)[kind] in ("airplane", "car from above", "bird")
    return float(rng.uniform(-np.pi, np.pi)) if free else 0.08 * float(rng.standard_normal())


def _placed(centre_xy: Float64Array, height: float, aspect: float, angle: float) -> Float64Array:
    """2 x 3 map from the scene to a stamp's coordinates -1..1; the stamp's square is 1.6 times as high as the object."""
    half = 0.8 * height
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    linear = np.diag([1.0 / (half * aspect), 1.0 / half]) @ turn
    return np.concatenate((linear, -(linear @ centre_xy)[:, None]), axis=1)


def _bounds(stamp: int, placed: Float64Array) -> Box:
    """The box round an object, scene px."""
    linear = np.linalg.inv(placed[:, :2])
    corners = (2.0 * _outlines()[stamp] - placed[:, 2]) @ linear.T
    low, high = corners.min(axis=0), corners.max(axis=0)
    return Box(float(low[0]), float(low[1]), *(high - low).tolist())


def _scaled(box: Box, factors: Float64Array) -> Box:
    return Box.from_centre(*box.centre_xy, box.width * float(factors[0]), box.height * float(factors[1]))


def _window(
    box: Box,
    side_px: Callable[[float, float], float],
    size: int,
    rng: np.random.Generator,
    *,
    shift: float,
    scale: tuple[float, float],
) -> Float64Array:
    """2 x 3 map from patch px to the scene for a window round a box."""
    side = side_px(box.width, box.height) / float(np.exp(rng.uniform(*np.log(scale))))
    step = side / size
    reach = shift * (0.375 if rng.random() < 0.5 else 1.0)
    origin = np.array(box.centre_xy) - (size / 2 + rng.uniform(-reach, reach, 2)) * step
    return np.array([[step, 0.0, origin[0]], [0.0, step, origin[1]]])


def _in_patch(box: Box, matrix: Float64Array) -> Float64Array:
    """The box's corners x, y, x, y in patch px."""
    corners = np.array([box.left, box.top, box.left + box.width, box.top + box.height])
    in_patch: Float64Array = (corners - np.tile(matrix[:, 2], 2)) / np.tile([matrix[0, 0], matrix[1, 1]], 2)
    return in_patch


def _occluder(box: Box, rng: np.random.Generator) -> Float64Array:
    """A post, a beam or a bush that hides at most half of a box: 2 x 3 map from the scene to -1..1 within it."""
    share = float(rng.uniform(0.15, 0.5))
    upright = rng.random() < 0.6
    width = share * box.width if upright else float(rng.uniform(1.0, 6.0)) * box.width
    height = float(rng.uniform(1.0, 6.0)) * box.height if upright else share * box.height
    x, y = box.centre_xy
    if upright:
        x += float(rng.uniform(-0.6, 0.6)) * box.width
    else:
        y += float(rng.uniform(-0.6, 0.6)) * box.height
    return np.array([[2.0 / width, 0.0, -2.0 * x / width], [0.0, 2.0 / height, -2.0 * y / height]])


def _anchor(rng: np.random.Generator, search: View) -> tuple[int, Float64Array]:
    """Which background, and the 2 x 3 map from the scene to its coordinates -1..1."""
    height, width = CANVAS_HW
    # Canvas px per scene px; a window never spans more than the canvas.
    finest = min(2.0, 0.5 * height / (search.matrix[0, 0] * 255))
    step = float(np.exp(rng.uniform(np.log(min(0.3, 0.5 * finest)), np.log(max(finest, 0.1)))))
    x, y = float(rng.uniform(-0.7, 0.7)), float(rng.uniform(-0.7, 0.7))
    mirror = float(rng.choice((-1.0, 1.0)))
    return int(rng.integers(BACKGROUNDS)), np.array([[2 * mirror * step / width, 0.0, x], [0.0, 2 * step / height, y]])


@lru_cache(maxsize=1)
def _outlines() -> list[Float64Array]:
    return [stamp.outline_xy for stamp in stamps()]
