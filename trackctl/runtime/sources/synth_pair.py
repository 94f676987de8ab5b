"""Registered visible and thermal pairs with a known target, and with trouble for one of the cameras.

    synth:pair?frames=200&size=320x256&seed=0&dark=visible:40-69&fog=thermal:90-119&blank=visible:140-159
    synth:pair?pictures=FOLDER&picture=3&seed=1

With ``pictures`` a virtual camera wanders over one real pair of that folder (``vi/`` and ``ir/`` with files of equal names), and
the target is a thing of the scene that stands out in both. Without, the rendered thermal scene of ``synth:`` is shown together
with what a colour camera might see of it: materials by their temperature, and a paint that heat does not show. [ours]

Spans are ``CAMERA:FIRST-LAST``, both included; trouble rises and falls within a few frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.contract import Array
from trackctl.runtime.errors import SourceError
from trackctl.runtime.geometry import Box, Float64Array
from trackctl.runtime.pairing import PLANES, Side
from trackctl.runtime.sources import DEFAULT_FPS, Recording
from trackctl.runtime.sources.images import list_images
from trackctl.runtime.sources.options import matched, rendered_options
from trackctl.runtime.sources.synth import Synth, SynthSpec
from trackctl.runtime.sources.synth_scene import wander
from trackctl.runtime.sources.weather import TROUBLES, Trouble, troubled

Uint8Array = NDArray[np.uint8]

# Frames within which trouble rises and falls.
RISE_FRAMES = 5
# Share of the picture that the virtual camera sees, and the extent of its zoom (log) and roll (degrees). [ours]
VIEW_SHARE, ZOOM, ROLL = 0.62, 0.16, 6.0
# Sides of targets in real pictures, as shares of the view's height.
TARGET_SHARES = (0.11, 0.16)
# Targets keep this share of the picture away from its edges; one of so many good places is taken.
EDGE_SHARE, PLACES = 0.2, 4


@dataclass(frozen=True)
class Span:
    """When a camera is in trouble: frames ``first`` to ``last``."""

    camera: Side
    first: int
    last: int

    def strength(self, frame: int) -> float:
        """0 outside, rising to 1 within."""
        inside = min(frame - self.first, self.last - frame) + 1
        return float(np.clip(inside / RISE_FRAMES, 0.0, 1.0))


@dataclass(frozen=True, kw_only=True)
class SynthPairSpec:
    """What to show.

    Attributes:
        frames: number of frames.
        size: width and height, px.
        seed: another seed is another path, and another target or scene.
        target: of the rendered scene, see :class:`SynthSpec`.
        pictures: folder of real pairs; None for the rendered scene.
        picture: which of them, from 0, in the order of their names.
        dark, fog, blank: trouble of a camera.
    """

    frames: int = 200
    size: tuple[int, int] = (320, 256)
    seed: int = 0
    target: str = "vehicle"
    pictures: Path | None = None
    picture: int = 0
    dark: Span | None = None
    fog: Span | None = None
    blank: Span | None = None

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise SourceError(f"synth: got frames={self.frames}, expected at least 1")
        if not all(64 <= side <= 2048 for side in self.size):
            raise SourceError(f"synth: got size={self.size[0]}x{self.size[1]}, expected 64x64 to 2048x2048")
        for name, span in self.troubles():
            if not 1 <= span.first <= span.last < self.frames:
                raise SourceError(
                    f"synth: got {name}={span.camera}:{span.first}-{span.last}, expected FIRST-LAST within 1-{self.frames - 1}: "
                    "the target must be seen in frame 0"
                )

    def troubles(self) -> list[tuple[Trouble, Span]]:
        """Kinds of trouble with their spans."""
        spans: list[tuple[Trouble, Span | None]] = [("dark", self.dark), ("fog", self.fog), ("blank", self.blank)]
        return [(name, span) for name, span in spans if span is not None]

    @classmethod
    def parse(cls, text: str) -> SynthPairSpec:
        """The spec written as ``?frames=200&dark=visible:40-69``; what is not named keeps its default.

        Raises:
            SourceError: an option is unknown, given twice or malformed.
        """
        options = rendered_options(text, [field.name for field in fields(cls)], "synth:pair", "?frames=200")
        values = {name: _parse_value(name, value) for name, value in options.items()}
        return cls(**values)  # type: ignore[arg-type]


def _parse_value(name: str, value: str) -> object:
    if name == "target":
        return value
    if name == "pictures":
        return Path(value).expanduser()
    form, example = {"size": (r"(\d+)x(\d+)", "320x256")}.get(
        name, (r"(visible|thermal):(\d+)-(\d+)", "visible:40-69") if name in TROUBLES else (r"(\d+)", "8")
    )
    match = matched("synth:pair", name, value, form, example)
    if name in TROUBLES:
        return Span(match[1], int(match[2]), int(match[3]))  # type: ignore[arg-type]
    return (int(match[1]), int(match[2])) if name == "size" else int(match[1])


class SynthPair(Recording):
    """The clip of pairs (H, W, 4). Frame k depends on the spec and k alone, so that it can be played again.

    Args:
        spec: what to show.
        fps: None means 25.
        loop: play without end.

    Attributes:
        spec: as given.
        boxes_ltwh: float64 (N, 4), the target, also where a camera is in trouble; NaN where it is outside the frame.
    """

    def __init__(self, spec: SynthPairSpec, *, fps: float | None = None, loop: bool = False) -> None:
        self.spec = spec
        self._scene: _Wandering | _Rendered = _Rendered(spec) if spec.pictures is None else _Wandering(spec, spec.pictures)
        self.boxes_ltwh: Float64Array = self._scene.boxes_ltwh
        rate = DEFAULT_FPS if fps is None else fps
        super().__init__(
            f"synth:pair, {self._scene.name}, seed {spec.seed}", self.render(0), count=spec.frames, fps=rate, loop=loop
        )

    @property
    def initial_box(self) -> Box:
        """The target's box in frame 0."""
        return Box(*self.boxes_ltwh[0].tolist())

    def in_trouble(self, index: int) -> tuple[Side, ...]:
        """The cameras that are in trouble in a frame."""
        return tuple(dict.fromkeys(span.camera for _, span in self.spec.troubles() if span.strength(index) > 0.0))

    def _pixels(self) -> Iterator[Array]:
        return map(self.render, range(self.spec.frames))

    def render(self, index: int) -> Uint8Array:
        """The pixels (H, W, 4) uint8 of one frame."""
        pixels = self._scene.render(index)
        rng = np.random.default_rng([self.spec.seed, index])
        for trouble, span in self.spec.troubles():
            planes = PLANES[span.camera]
            part = np.ascontiguousarray(pixels[:, :, planes])
            part = part[:, :, 0] if part.shape[2] == 1 else part
            seen = troubled(part, trouble, span.strength(index), rng)
            pixels[:, :, planes] = seen.reshape(*seen.shape[:2], -1)
        return pixels


class _Wandering:
    """A virtual camera over a real pair: it pans, zooms and rolls; the target is a place of the scene."""

    def __init__(self, spec: SynthPairSpec, folder: Path) -> None:
        visible, thermal = (_picture(folder / name, spec.picture) for name in ("vi", "ir"))
        if visible.shape[:2] != thermal.shape[:2]:
            raise SourceError(
                f"got pictures of {visible.shape[:2]} and {thermal.shape[:2]} in {folder}, expected registered pairs"
            )
        colour = visible if visible.ndim == 3 else cv2.cvtColor(visible, cv2.COLOR_GRAY2BGR)
        grey = thermal if thermal.ndim == 2 else cv2.cvtColor(thermal, cv2.COLOR_BGR2GRAY)
        self._canvas: Uint8Array = np.dstack((colour, grey))
        self._size = spec.size
        self.name = f"{folder.name} {spec.picture}"
        height, width = grey.shape
        rng = np.random.default_rng([spec.seed, spec.picture])
        # Canvas pixels per frame pixel, so that the view is the largest one of its shape that leaves room to wander.
        self._scale = VIEW_SHARE * min(width / spec.size[0], height / spec.size[1])
        view_h = self._scale * spec.size[1]
        side_w, side_h = view_h * rng.uniform(*TARGET_SHARES, 2)
        centre = _standing_out(self._canvas, (side_w, side_h), rng)
        corners = np.array([[-side_w, -side_h], [side_w, -side_h], [side_w, side_h], [-side_w, side_h]]) / 2
        self._corners = centre + corners  # (4, 2) canvas px
        frame = np.arange(spec.frames)
        zoom = np.exp(ZOOM * (wander(rng, spec.frames, 120.0)))
        roll = np.deg2rad(ROLL) * wander(rng, spec.frames, 100.0)
        # Where in the view the target is; with the path of the eye it stays inside, however the camera moves.
        path = np.stack([0.33 * wander(rng, spec.frames, 70.0) for _ in range(2)], axis=1)
        path += 0.004 * rng.standard_normal((spec.frames, 2))
        self._matrices = [
            self._matrix(centre, path[k] * np.array(spec.size), float(self._scale * zoom[k]), float(roll[k])) for k in frame
        ]
        self.boxes_ltwh = np.stack([self._box(matrix) for matrix in self._matrices])

    def _matrix(self, centre: Float64Array, offset: Float64Array, scale: float, roll: float) -> Float64Array:
        """(2, 3), maps frame to canvas positions (pixel centres at whole numbers), with the target ``offset`` from the middle."""
        cos, sin = scale * np.cos(roll), scale * np.sin(roll)
        turn = np.array([[cos, -sin], [sin, cos]])
        middle = (np.array(self._size) - 1.0) / 2.0
        shift = centre - turn @ (middle + offset)
        return np.concatenate((turn, shift[:, None]), axis=1)

    def _box(self, matrix: Float64Array) -> Float64Array:
        inside = (self._corners - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T + 0.5
        # The rolled rectangle's own size at its centre: an upright box that does not breathe with the roll.
        size = np.array([np.linalg.norm(inside[1] - inside[0]), np.linalg.norm(inside[2] - inside[1])])
        return np.concatenate((inside.mean(axis=0) - size / 2, size))

    def render(self, index: int) -> Uint8Array:
        matrix = self._matrices[index]
        # Averaged to the frame's grain first, since warpAffine samples points.
        scale = float(np.hypot(*matrix[:, 0]))
        canvas = cv2.GaussianBlur(self._canvas, (0, 0), 0.45 * scale) if scale > 1.0 else self._canvas
        seen: Uint8Array = cv2.warpAffine(
            canvas, matrix, self._size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
        )
        return seen


def _picture(folder: Path, number: int) -> Uint8Array:
    files = list_images(folder) if folder.is_dir() else []
    if number >= len(files):
        raise SourceError(
            f"got picture={number}, but {folder} holds {len(files)} images: give a smaller number or another folder"
        )
    pixels = cv2.imread(str(files[number]), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint8:
        raise SourceError(f"cannot read {files[number]}, expected an image of 8 bits: get the file again")
    picture: Uint8Array = pixels if pixels.ndim == 2 or pixels.shape[2] == 3 else np.ascontiguousarray(pixels[:, :, :3])
    return picture


def _standing_out(canvas: Uint8Array, side_wh: tuple[float, float], rng: np.random.Generator) -> Float64Array:
    """A place (2,) where corners are strong in both cameras: one of the best few, chosen at random."""
    grain = max(3, round(min(side_wh) / 4) | 1)
    strength = np.ones(canvas.shape[:2], dtype=np.float32)
    for plane in (cv2.cvtColor(np.ascontiguousarray(canvas[:, :, :3]), cv2.COLOR_BGR2GRAY), canvas[:, :, 3]):
        corner = cv2.cornerMinEigenVal(cv2.GaussianBlur(plane, (0, 0), grain / 3.0), grain)
        pooled = cv2.blur(corner, (max(1, round(side_wh[0])), max(1, round(side_wh[1]))))
        # Running sums may end just below 0 where there is nothing.
        strength *= np.sqrt(np.maximum(pooled, 0.0) / max(float(pooled.max()), 1e-12))
    height, width = canvas.shape[:2]
    edge_x, edge_y = round(EDGE_SHARE * width), round(EDGE_SHARE * height)
    strength[:edge_y] = strength[height - edge_y :] = 0.0
    strength[:, :edge_x] = strength[:, width - edge_x :] = 0.0
    apart_x, apart_y = (round(1.5 * side) for side in side_wh)
    places = []
    for _ in range(PLACES):
        row, column = divmod(int(strength.argmax()), width)
        places.append((float(column), float(row)))
        strength[max(0, row - apart_y) : row + apart_y, max(0, column - apart_x) : column + apart_x] = 0.0
    return np.array(places[int(rng.integers(len(places)))])


class _Rendered:
    """The rendered thermal scene, and a colour picture of it."""

    def __init__(self, spec: SynthPairSpec) -> None:
        self._thermal = Synth(SynthSpec(frames=spec.frames, size=spec.size, seed=spec.seed, target=spec.target))
        self.name = spec.target
        self.boxes_ltwh = self._thermal.boxes_ltwh
        rng = np.random.default_rng([spec.seed, 77])
        # Daylight colours (BGR) of what is so warm: sky, hills and wood, meadow, road and walls, stones, machines.
        levels = np.array([0, 60, 95, 120, 150, 190, 255])
        colours = np.array(
            [[235, 200, 170], [225, 205, 185], [70, 95, 75], [60, 130, 95], [110, 118, 122], [150, 160, 165], [90, 90, 100]]
        )
        shift = rng.uniform(-18.0, 18.0, (1, 3))
        table = np.stack([np.interp(np.arange(256), levels, colours[:, band]) for band in range(3)], axis=1) + shift
        self._daylight: Uint8Array = np.clip(table, 0, 255).astype(np.uint8)[None]
        self._paint = rng.uniform(20.0, 235.0, 3)

    def render(self, index: int) -> Uint8Array:
        grey = self._thermal.render(index).astype(np.uint8)
        colour = cv2.LUT(cv2.cvtColor(cv2.GaussianBlur(grey, (0, 0), 0.6), cv2.COLOR_GRAY2BGR), self._daylight)
        cover = self._thermal.target_cover(index)[:, :, None]
        shade = 0.6 + 0.4 * grey[:, :, None] / 255.0
        painted = colour * (1.0 - cover) + cover * shade * self._paint
        return np.dstack((np.clip(painted, 0, 255).astype(np.uint8), grey))
