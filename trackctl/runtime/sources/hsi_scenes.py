"""What made hyperspectral clips show: a rendered scene, or a real annotated clip; luminance and materials per pixel."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from trackctl.runtime.contract import Array
from trackctl.runtime.errors import SourceError
from trackctl.runtime.geometry import Box, Float64Array
from trackctl.runtime.sensor import Float32Array
from trackctl.runtime.sources import open_source
from trackctl.runtime.sources.synth_scene import Sprite, World, draw_target, wander

# Materials besides the target's. [ours]
RENDERED_CLUSTERS, CLIP_CLUSTERS = 6, 8
# Darkest luminance: nothing outdoors is black.
_DARKEST = 0.15
_PHASES = 16
# The target's nominal height in shares of the frame's, by kind.
_HEIGHTS = {"vehicle": 0.16, "person": 0.26, "drone": 0.13}


class Stage:
    """A rendered world, whose materials are clusters of its brightness, and a target in it.

    Args:
        rng: of the world.
        size: width and height, px.
        kind: target.
    """

    materials = RENDERED_CLUSTERS + 1

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], kind: str) -> None:
        self.world = World(rng, *size)
        self.sprites = [Sprite(kind, phase / _PHASES) for phase in range(_PHASES)]
        self.size, self.kind = size, kind
        first = self._luminance(self.world.view(np.zeros(3)))
        self._centres = np.quantile(first, (np.arange(RENDERED_CLUSTERS) + 0.5) / RENDERED_CLUSTERS).astype(np.float32)
        self._width = np.float32(max(0.35 * float(np.diff(self._centres).mean()), 1e-3))

    def look(
        self, camera: Float64Array, phase: int, centre_xy: Float64Array, height_px: float, *, equal: bool
    ) -> tuple[Float32Array, Float32Array]:
        """Luminance (H, W) in 0..1 and shares (H, W, materials) as a camera at (pan, tilt, roll) sees the target there.

        With ``equal`` the target leaves the luminance of what is behind it.
        """
        celsius = self.world.view(camera)
        sprite = self.sprites[phase % _PHASES]
        behind = self._luminance(celsius)
        # The sprite over black and over white differs by what it lets through.
        black, white = np.zeros_like(celsius), np.ones_like(celsius)
        draw_target(black, sprite, centre_xy, height_px, 0.0)
        draw_target(white, sprite, centre_xy, height_px, 0.0)
        cover = np.clip(1.0 - (white - black), 0.0, 1.0)[:, :, None]
        distance = (behind[:, :, None] - self._centres) / self._width
        weights = np.exp(-0.5 * np.square(distance)) + np.float32(1e-6)
        weights *= (1.0 - cover) / weights.sum(axis=2, keepdims=True)
        shares = np.concatenate((weights, cover), axis=2)
        if equal:
            return behind, shares
        through = 1.0 - cover[:, :, 0]
        return self._luminance(celsius * through + black), shares

    def _luminance(self, celsius: Float32Array) -> Float32Array:
        low, high = self.world.range_c
        levels = np.clip((celsius - np.float32(low)) / np.float32(high - low), 0.0, 1.0)
        luminance: Float32Array = np.float32(_DARKEST) + np.float32(1.0 - _DARKEST) * levels
        return luminance


class RenderedScene:
    """A target that wanders through a rendered world.

    Args:
        rng: of the world and the path.
        size: width and height, px.
        kind: target.
        frames: length.
        equal: see :meth:`Stage.look`.
    """

    materials = Stage.materials

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], kind: str, frames: int, *, equal: bool) -> None:
        width, height = size
        self._stage, self._equal = Stage(rng, size, kind), equal
        self._cameras = self._stage.world.camera_path(rng, frames)
        across, down = 0.5 + 0.3 * wander(rng, frames, 90.0), 0.5 + 0.28 * wander(rng, frames, 80.0)
        self._centres = np.stack((across * width, down * height), axis=1)
        self._heights = _HEIGHTS[kind] * height * np.exp(0.3 * wander(rng, frames, 120.0))
        self.boxes_ltwh = np.stack(
            [
                self._stage.sprites[index % _PHASES].box_ltwh(self._centres[index], float(self._heights[index]))
                for index in range(frames)
            ]
        )

    def layers(self) -> Iterator[tuple[Float32Array, Float32Array]]:
        """See :class:`trackctl.runtime.sources.synth_hsi.Scene`."""
        for index, camera in enumerate(self._cameras):
            yield self._stage.look(camera, index, self._centres[index], float(self._heights[index]), equal=self._equal)


class ClipScene:
    """A real clip whose materials are clusters of its first frame's colours.

    Args:
        clip: video or folder of images.
        boxes: text file with left, top, width, height per frame, or polygons x1, y1, x2, y2, ...
        frames: most frames.
        seed: of the clusters.
        equal: whether the target takes the mean and deviation of its surroundings' luminance and a material of its own.
    """

    materials = CLIP_CLUSTERS + 1

    def __init__(self, clip: Path, boxes: Path, frames: int, seed: int, *, equal: bool) -> None:
        self._source, self._equal = open_source(f"file:{clip}"), equal
        self.boxes_ltwh = _read_boxes(boxes)[: min(frames, self._source.count or frames)]
        colours = _colours(next(iter(self._source)).pixels)
        cv2.setRNGSeed(seed)
        sample = np.ascontiguousarray(colours[::2, ::2].reshape(-1, 3))
        criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 30, 0.1)
        _, _, centres = cv2.kmeans(sample, CLIP_CLUSTERS, None, criteria, 2, cv2.KMEANS_PP_CENTERS)
        self._centres: Float32Array = centres
        apart = np.linalg.norm(centres[:, None] - centres[None], axis=2) + np.diag(np.full(len(centres), np.inf))
        self._width = float(max(0.35 * apart.min(axis=1).mean(), 1.0))

    def layers(self) -> Iterator[tuple[Float32Array, Float32Array]]:
        """See :class:`trackctl.runtime.sources.synth_hsi.Scene`."""
        for frame, box in zip(islice(iter(self._source), len(self.boxes_ltwh)), self.boxes_ltwh, strict=False):
            colours = _colours(frame.pixels)
            levels = frame.pixels if frame.pixels.ndim == 2 else cv2.cvtColor(frame.pixels, cv2.COLOR_BGR2GRAY)
            luminance = np.float32(_DARKEST) + np.float32((1.0 - _DARKEST) / 255.0) * levels.astype(np.float32)
            squares = np.stack([np.square(colours - centre).sum(axis=2) for centre in self._centres], axis=2)
            weights = np.exp((squares.min(axis=2, keepdims=True) - squares) / np.float32(2.0 * self._width**2))
            weights /= weights.sum(axis=2, keepdims=True)
            cover = np.zeros((*luminance.shape, 1), dtype=np.float32)
            if self._equal and np.isfinite(box).all():
                cover[:, :, 0] = _oval(luminance.shape, Box(*box.tolist()))
                luminance = _like_surroundings(luminance, cover[:, :, 0], Box(*box.tolist()))
            yield luminance, np.concatenate((weights * (1.0 - cover), cover), axis=2)


def _colours(pixels: Array) -> Float32Array:
    """Smoothed Lab colours (H, W, 3)."""
    if pixels.dtype != np.uint8 or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise SourceError(f"synth:hsi: got a clip of {pixels.shape} {pixels.dtype}, expected 8-bit gray or colour")
    colour = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR) if pixels.ndim == 2 else pixels
    smooth: Float32Array = cv2.GaussianBlur(cv2.cvtColor(colour, cv2.COLOR_BGR2Lab).astype(np.float32), (0, 0), 1.0)
    return smooth


def _oval(hw: tuple[int, ...], box: Box) -> Float32Array:
    """The ellipse in a box, (H, W) in 0..1 with a soft rim of about a pixel."""
    rows, columns = np.mgrid[: hw[0], : hw[1]].astype(np.float32) + 0.5
    x, y = box.centre_xy
    radius = np.sqrt(((columns - x) / (box.width / 2)) ** 2 + ((rows - y) / (box.height / 2)) ** 2)
    rim: Float32Array = np.clip((1.0 - radius) * min(box.width, box.height) / 2 + 0.5, 0.0, 1.0).astype(np.float32)
    return rim


def _like_surroundings(luminance: Float32Array, cover: Float32Array, box: Box) -> Float32Array:
    """The luminance with the mean and deviation of the ring around the target inside it."""
    ring = _oval(luminance.shape, Box.from_centre(*box.centre_xy, 1.8 * box.width, 1.8 * box.height)) - cover > 0.5
    inside = cover > 0.5
    if not ring.any() or not inside.any():
        return luminance
    own, around = luminance[inside], luminance[ring]
    matched = (luminance - own.mean()) * (around.std() / max(float(own.std()), 1e-3)) + around.mean()
    changed: Float32Array = np.clip(luminance + cover * (matched - luminance), 0.0, 1.0).astype(np.float32)
    return changed


def _read_boxes(path: Path) -> Float64Array:
    """(N, 4) boxes of a text file of boxes or polygons.

    Raises:
        SourceError: it is malformed, or its first frame has no box.
    """
    try:
        lines = path.read_text(encoding="utf-8").replace(",", " ").replace(";", " ").splitlines()
        table = np.array([[float(value) for value in line.split()] for line in lines if line.strip()], dtype=np.float64)
        if table.shape[1] != 4:
            corners = table.reshape(len(table), -1, 2)
            table = np.concatenate((corners.min(axis=1), np.ptp(corners, axis=1)), axis=1)
    except (OSError, ValueError, IndexError) as error:
        raise SourceError(f"cannot read the boxes {path}: {error}: expected left, top, width, height per line") from error
    table[~(table[:, 2:] > 0.0).all(axis=1)] = np.nan
    if np.isnan(table[0]).any():
        raise SourceError(f"{path} line 1 has no box with area, expected the target in the first frame")
    return table
