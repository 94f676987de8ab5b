"""What a thermal camera and its scenes do to a patch: random changes of grey patches, cheap enough for one core.

Shapes: S patch side. Patches are (S, S) uint8 and are not modified.
All strengths are [ours]; the papers print none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

Gray = NDArray[np.uint8]
FloatPatch = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class AugmentSpec:
    """Probabilities (0..1) and strengths (grey levels or px of the patch).

    Attributes:
        invert: white-hot becomes black-hot, in template and search alike.
        gamma: standard deviation of the logarithm of the gamma both patches share.
        drift: standard deviation of the logarithm of gain and gamma that differ between the patches, as AGC makes them.
        offset: standard deviation of the level that differs between the patches.
        blur, motion, coarse, noise, stripes, blocks: probability of each defect of a patch.
        largest_noise: highest standard deviation of the noise.
        cutout: probability of a flat patch over part of the search patch, which may hide part of the target.
        text: probability of on-screen text.
    """

    invert: float = 0.3
    gamma: float = 0.3
    drift: float = 0.12
    offset: float = 14.0
    blur: float = 0.2
    motion: float = 0.15
    coarse: float = 0.2
    noise: float = 0.4
    stripes: float = 0.12
    blocks: float = 0.1
    largest_noise: float = 14.0
    cutout: float = 0.12
    text: float = 0.08


class Augment:
    """Changes the two patches of a pair.

    Args:
        spec: probabilities and strengths.
    """

    def __init__(self, spec: AugmentSpec) -> None:
        self.spec = spec
        # Normal noise is drawn once and read at random places: drawing it anew would cost more than everything else.
        self._bank = np.random.default_rng(0).standard_normal((1024, 1024), dtype=np.float32)
        self._levels = np.linspace(0.0, 1.0, 256, dtype=np.float32)

    def __call__(
        self, template: Gray, search: Gray, box_xyxy: NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[Gray, Gray]:
        """The changed patches.

        Args:
            template, search: (S, S) uint8, each of its own side.
            box_xyxy: the target's left, top, right, bottom in the search patch, px; occluders keep half of it visible.
            rng: source of all choices.
        """
        spec = self.spec
        inverted = rng.random() < spec.invert
        gamma = spec.gamma * rng.standard_normal()
        if rng.random() < spec.cutout:
            search = occlude(search, box_xyxy, rng)
        if rng.random() < spec.text:
            search = overlay_text(search, rng)
        return self._one(template, inverted, gamma, rng), self._one(search, inverted, gamma, rng)

    def _one(self, patch: Gray, inverted: bool, gamma: float, rng: np.random.Generator) -> Gray:
        spec = self.spec
        patch = cv2.LUT(patch, self._tone(inverted, gamma, rng))
        draw = rng.random(6)
        if draw[0] < spec.coarse:
            patch = coarsen(patch, rng.uniform(0.25, 0.7))
        if draw[1] < spec.blur:
            patch = cv2.GaussianBlur(patch, (0, 0), rng.uniform(0.4, 2.2))
        if draw[2] < spec.motion:
            patch = motion_blur(patch, rng.uniform(3.0, 13.0), rng.uniform(0.0, np.pi))
        if draw[3] < spec.noise:
            patch = self.add_noise(patch, rng.uniform(0.5, spec.largest_noise) * rng.random(), rng.choice((1.0, 2.0, 4.0)), rng)
        if draw[4] < spec.stripes:
            patch = self.add_stripes(patch, rng.uniform(1.0, 6.0), rng)
        if draw[5] < spec.blocks:
            patch = compress(patch, int(rng.integers(15, 60)))
        return patch

    def _tone(self, inverted: bool, gamma: float, rng: np.random.Generator) -> Gray:
        spec = self.spec
        first, second, third = rng.standard_normal(3)
        curve = 255.0 * self._levels ** np.float32(np.exp(gamma + spec.drift * first))
        middle = 128.0
        curve = (curve - middle) * np.float32(np.exp(spec.drift * second)) + middle + np.float32(spec.offset * third)
        if inverted:
            curve = 255.0 - curve
        table: Gray = np.clip(curve, 0.0, 255.0).astype(np.uint8)
        return table

    def add_noise(self, patch: Gray, strength: float, grain: float, rng: np.random.Generator) -> Gray:
        """The patch with normal noise of this standard deviation, in grains of so many px (enlarged sensor pixels)."""
        side = patch.shape[0]
        cells = int(np.ceil(side / grain)) + 1
        row, column = rng.integers(0, 1024 - cells, 2)
        noise = self._bank[row : row + cells, column : column + cells]
        if grain > 1:
            noise = cv2.resize(noise, (side, side), interpolation=cv2.INTER_LINEAR)
        return _add(patch, noise[:side, :side] * np.float32(strength))

    def add_stripes(self, patch: Gray, strength: float, rng: np.random.Generator) -> Gray:
        """The patch with an offset per column or row, the fixed pattern of uncooled sensors."""
        side = patch.shape[0]
        stripes = np.float32(strength) * rng.standard_normal(side, dtype=np.float32)
        return _add(patch, np.broadcast_to(stripes if rng.random() < 0.5 else stripes[:, None], patch.shape))


def _add(patch: Gray, change: FloatPatch) -> Gray:
    total: Gray = cv2.add(patch, change, dtype=cv2.CV_8U)
    return total


def coarsen(patch: Gray, share: float) -> Gray:
    """The patch as a sensor with that share of the pixels per side would see it."""
    side = patch.shape[0]
    small = max(8, round(share * side))
    coarse = cv2.resize(patch, (small, small), interpolation=cv2.INTER_AREA)
    enlarged: Gray = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_LINEAR)
    return enlarged


def motion_blur(patch: Gray, length: float, angle: float) -> Gray:
    """The patch smeared over ``length`` px in the direction ``angle`` (radians)."""
    half = int(np.ceil(length / 2))
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    dx, dy = length / 2 * np.cos(angle), length / 2 * np.sin(angle)
    ends = [(round(half + sign * dx), round(half + sign * dy)) for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0)
    blurred: Gray = cv2.filter2D(patch, -1, kernel / kernel.sum())
    return blurred


def compress(patch: Gray, quality: int) -> Gray:
    """The patch after JPEG compression of that quality (1..100)."""
    _, data = cv2.imencode(".jpg", patch, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cast(Gray, cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))


def occlude(patch: Gray, box_xyxy: NDArray[np.float64], rng: np.random.Generator) -> Gray:
    """The patch with a flat rectangle beside or over part of the target: at most half of its width or height is hidden."""
    side = patch.shape[0]
    left, top, right, bottom = box_xyxy
    width, height = rng.uniform(0.2, 0.5, 2) * (right - left, bottom - top)
    if rng.random() < 0.5:
        height = rng.uniform(0.5, 2.0) * (bottom - top)
    else:
        width = rng.uniform(0.5, 2.0) * (right - left)
    x, y = rng.uniform(left - width, right), rng.uniform(top - height, bottom)
    x0, y0 = (int(np.clip(value, 0, side)) for value in (x, y))
    x1, y1 = (int(np.clip(value, 0, side)) for value in (x + width, y + height))
    hidden: Gray = patch.copy()
    hidden[y0:y1, x0:x1] = patch[int(rng.integers(side)), int(rng.integers(side))]
    return hidden


def overlay_text(patch: Gray, rng: np.random.Generator) -> Gray:
    """The patch with a word of on-screen text or a cross hair."""
    written: Gray = patch.copy()
    side = patch.shape[0]
    place = int(rng.integers(0, side)), int(rng.integers(0, side))
    level = float(rng.choice((0, 255)))
    if rng.random() < 0.3:
        cv2.drawMarker(written, place, level, cv2.MARKER_CROSS, int(rng.integers(8, 80)), int(rng.integers(1, 3)))
    else:
        word = "".join(rng.choice(list("0123456789ABCDEFXZ:.-"), int(rng.integers(2, 9))))
        cv2.putText(written, word, place, cv2.FONT_HERSHEY_SIMPLEX, rng.uniform(0.4, 1.6), level, int(rng.integers(1, 4)))
    return written


def paste(search: Gray, object_patch: Gray, centre_xy: tuple[float, float], strength: float) -> Gray:
    """The search patch with an object faded in at a place, elliptical with soft edges.

    Args:
        search: (S, S) uint8.
        object_patch: (h, w) uint8.
        centre_xy: where its centre goes, px.
        strength: opacity of its middle, 0..1.
    """
    h, w = object_patch.shape
    x0, y0 = round(centre_xy[0] - w / 2), round(centre_xy[1] - h / 2)
    side = search.shape[0]
    left, top, right, bottom = max(0, x0), max(0, y0), min(side, x0 + w), min(side, y0 + h)
    if right <= left or bottom <= top:
        return search
    across = (np.arange(w, dtype=np.float32) + 0.5) / w * 2 - 1
    down = (np.arange(h, dtype=np.float32) + 0.5) / h * 2 - 1
    radius = np.sqrt(across[None] ** 2 + down[:, None] ** 2)
    alpha = np.float32(strength) * np.clip((1.0 - radius) / 0.3, 0.0, 1.0)
    cut = slice(top - y0, bottom - y0), slice(left - x0, right - x0)
    pasted: Gray = search.copy()
    ground = pasted[top:bottom, left:right].astype(np.float32)
    pasted[top:bottom, left:right] = (ground + alpha[cut] * (object_patch[cut] - ground)).astype(np.uint8)
    return pasted
