"""How well a fused image keeps the edges of its sources: Qabf and Nabf, both after Xydeas and Petrovic (2000).

Images: (H, W) uint8, of one size, H and W >= 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.geometry import Float64Array

Uint8Array = NDArray[np.uint8]

_ACROSS = np.array([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
_DOWN = np.array([[1.0, 2.0, 1.0], [0.0, 0.0, 0.0], [-1.0, -2.0, -1.0]])


@dataclass(frozen=True)
class Sigmoid:
    """``gain / (1 + exp(slope (x - centre)))``: how much of an edge counts as kept.

    Attributes:
        gain, slope, centre: the constants of the paper that uses it.
    """

    gain: float
    slope: float
    centre: float

    def __call__(self, x: Float64Array) -> Float64Array:
        """Same shape."""
        kept: Float64Array = self.gain / (1.0 + np.exp(self.slope * (x - self.centre)))
        return kept


# Xydeas and Petrovic, Electronics Letters 36(4), 2000.
_STRENGTH, _ANGLE = Sigmoid(0.9994, -15.0, 0.5), Sigmoid(0.9879, -22.0, 0.8)
# Petrovic and Xydeas, 2005, as in the code of Kumar (Signal, Image and Video Processing, 2013), who defines Nabf.
_STRENGTH_N, _ANGLE_N = Sigmoid(0.9999, -19.0, 0.5), Sigmoid(0.9995, -22.0, 0.5)
_EDGE_FROM, _EDGE_POWER, _FLAT_WEIGHT = 2.0, 1.5, 0.001


def edge_preservation(ir: Uint8Array, vi: Uint8Array, fused: Uint8Array, *, published: bool = False) -> float:
    """Qabf, 0..1: the share of the sources' edges, weighted by their strength, that the fused image has.

    ``published`` is what the tables of papers hold: where an edge is exactly as strong as in the source, its relative strength
    is taken to be that strength (of an image in 0..1) rather than 1; and which are exactly as strong, or exactly upright, is
    left to rounding.
    """
    own_strength, own_angle = _edges(fused, published)
    kept = weights = 0.0
    for source in (ir, vi):
        strength, angle = _edges(source, published)
        relative = _ratio(strength, own_strength, equal=own_strength if published else np.ones_like(own_strength))
        aligned = 1.0 - np.abs(angle - own_angle) / (np.pi / 2.0)
        kept += float((_STRENGTH(relative) * _ANGLE(aligned) * strength).sum())
        weights += float(strength.sum())
    return kept / weights if weights > 0.0 else 0.0


def fusion_artifacts(ir: Uint8Array, vi: Uint8Array, fused: Uint8Array, *, published: bool = False) -> float:
    """Nabf (Kumar, 2013), 0..1, lower is better: the edges that are stronger than in both sources and not theirs.

    ``published`` is what the tables of papers hold: images in 0..1, of which no edge reaches the strength of 2 grey levels
    from which on it would weigh more than a flat place.
    """
    scale = 1.0 / 255.0 if published else 1.0
    own_strength, own_angle = _periodic_edges(fused, scale)
    new = np.ones(fused.shape, dtype=bool)
    lost = np.zeros(fused.shape)
    weights = 0.0
    for source in (ir, vi):
        strength, angle = _periodic_edges(source, scale)
        relative = _ratio(strength, own_strength, equal=(strength > 0.0).astype(np.float64))
        aligned = np.abs(np.abs(angle - own_angle) - np.pi / 2.0) * 2.0 / np.pi
        kept = np.sqrt(_STRENGTH_N(relative) * _ANGLE_N(aligned))
        weight = np.where(strength >= _EDGE_FROM, strength**_EDGE_POWER, _FLAT_WEIGHT)
        new &= own_strength > strength
        lost += (1.0 - kept) * weight
        weights += float(weight.sum())
    return float(lost[new].sum()) / weights


def _edges(image: Uint8Array, published: bool) -> tuple[Float64Array, Float64Array]:
    """Strength and angle (-pi/2..pi/2] by Sobel's operator with zeros around the image."""
    across, down = (_published_sobel(image / 255.0, k) if published else _sobel(image, k) for k in (_ACROSS, _DOWN))
    flat = across == 0.0
    angle = np.where(flat, np.pi / 2.0, np.arctan(down / np.where(flat, 1.0, across)))
    return np.sqrt(across**2 + down**2), angle


def _sobel(image: Uint8Array, kernel: Float64Array) -> Float64Array:
    """Exact, since the image holds whole numbers."""
    filtered: Float64Array = cv2.filter2D(image.astype(np.float64), cv2.CV_64F, kernel, borderType=cv2.BORDER_CONSTANT)
    return filtered


def _published_sobel(image: Float64Array, kernel: Float64Array) -> Float64Array:
    """MATLAB's conv2 on an image in 0..1: the same sums of the same rounding, on which it hangs what equals what."""
    height, width = image.shape
    framed = np.pad(image, 1)
    total = np.zeros_like(image)
    # Its order of addition: the last column first, each from below. The kernels are odd, so flipping them changes a sign.
    for column in (2, 1, 0):
        for row in (2, 1, 0):
            if weight := -kernel[row, column]:
                total = total + weight * framed[row : row + height, column : column + width]
    return total


def _periodic_edges(image: Uint8Array, scale: float) -> tuple[Float64Array, Float64Array]:
    """Strength and angle -pi/2..pi/2 by Sobel's operator over 8, the image going on from its other side."""
    wrapped = np.pad(image * scale, 1, mode="wrap")
    across, down = (cv2.filter2D(wrapped, cv2.CV_64F, kernel / 8.0)[1:-1, 1:-1] for kernel in (_ACROSS, _DOWN))
    with np.errstate(divide="ignore", invalid="ignore"):
        # Kumar's angle is that of the other axis; its sign is the same for source and fused image.
        angle = np.arctan(-across / down)
    return np.hypot(across, down), np.nan_to_num(angle)


def _ratio(first: Float64Array, second: Float64Array, *, equal: Float64Array) -> Float64Array:
    """The smaller over the larger, 0..1; ``equal`` where they are the same."""
    larger = np.maximum(first, second)
    ratio: Float64Array = np.where(first == second, equal, np.minimum(first, second) / np.where(larger > 0.0, larger, 1.0))
    return ratio
