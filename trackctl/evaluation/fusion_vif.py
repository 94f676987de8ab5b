"""Visual information fidelity in the pixel domain (Sheikh and Bovik, 2006; scales and noise of their public code).

Written here because the published figures need its products to saturate, which no library offers.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Float64Array

Uint8Array = NDArray[np.uint8]

NOISE = 2.0  # variance of the visual noise, grey levels squared
SCALES = 4
LEAST_SIDE_PX = 41  # leaves a pixel at the coarsest scale
_TINY = 1e-10


def information_fidelity(ir: Uint8Array, vi: Uint8Array, fused: Uint8Array, *, saturated: bool = False) -> float:
    """VIF of the fused image against each source, summed: 0 for nothing kept, 2 for all of two equal sources.

    Args:
        ir, vi, fused: (H, W), 41 px or more.
        saturated: as in the tables of papers: at the finest scale squares and products above 255 count as 255, which
            leaves little of that scale but the darkest places.

    Raises:
        InputError: the images are too small.
    """
    if min(fused.shape) < LEAST_SIDE_PX:
        raise InputError(f"got images of {fused.shape[1]}x{fused.shape[0]}, expected sides of {LEAST_SIDE_PX} px or more for VIF")
    return sum(_fidelity(source.astype(np.float64), fused.astype(np.float64), saturated) for source in (ir, vi))


def _fidelity(reference: Float64Array, seen: Float64Array, saturated: bool) -> float:
    kept = held = 0.0
    for scale in range(SCALES):
        size = 2 ** (SCALES - scale) + 1
        if scale:
            reference, seen = (_smooth(image, size)[::2, ::2] for image in (reference, seen))
        limit = 255.0 if saturated and scale == 0 else np.inf
        kept_here, held_here = _information(reference, seen, size, limit)
        kept, held = kept + kept_here, held + held_here
    return kept / held if held > 0.0 else 1.0


def _information(reference: Float64Array, seen: Float64Array, size: int, limit: float) -> tuple[float, float]:
    """What the seen image tells of the reference, and what the reference holds, at one scale."""
    mean, mean_seen = _smooth(reference, size), _smooth(seen, size)

    def moment(a: Float64Array, b: Float64Array, means: Float64Array) -> Float64Array:
        return _smooth(np.minimum(a * b, limit), size) - means

    variance = np.maximum(moment(reference, reference, mean * mean), 0.0)
    variance_seen = np.maximum(moment(seen, seen, mean_seen * mean_seen), 0.0)
    covariance = moment(reference, seen, mean * mean_seen)
    gain = covariance / (variance + _TINY)
    rest = variance_seen - gain * covariance
    flat, flat_seen = variance < _TINY, variance_seen < _TINY
    gain[flat | flat_seen] = 0.0
    rest[flat] = variance_seen[flat]
    rest[flat_seen] = 0.0
    variance[flat] = 0.0
    rest[gain < 0.0] = variance_seen[gain < 0.0]
    gain = np.maximum(gain, 0.0)
    rest = np.maximum(rest, _TINY)
    kept = np.log10(1.0 + gain**2 * variance / (rest + NOISE)).sum()
    return float(kept), float(np.log10(1.0 + variance / NOISE).sum())


def _smooth(image: Float64Array, size: int) -> Float64Array:
    """The image under a Gaussian window, where the window lies inside it."""
    kernel = cv2.getGaussianKernel(size, size / 5.0)
    half = size // 2
    smooth: Float64Array = cv2.sepFilter2D(image, cv2.CV_64F, kernel, kernel)[half:-half, half:-half]
    return smooth
