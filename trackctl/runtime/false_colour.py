"""Hyperspectral frames for the eye and for trackers of three channels or none: false colour, principal components, luminance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.contract import Array
from trackctl.runtime.crop import Float32Array, band_tone
from trackctl.runtime.sensor import Sensor

Uint8Array = NDArray[np.uint8]

# Shares of the pixels of the first frame that a principal component clips at either end. [ours]
_CLIPPED_PERCENT = 0.5


class FalseColour:
    """BGR pictures whose blue is the mean of the third of shortest wavelengths and whose red is that of the longest.

    The first frame sets the scale.

    Args:
        sensor: which pixel is which band; without wavelengths their order counts.
    """

    def __init__(self, sensor: Sensor) -> None:
        self._sensor = sensor
        order = np.argsort(sensor.band_nm or range(sensor.count), kind="stable")
        self._thirds = [third.tolist() for third in np.array_split(order, 3)]
        self._tone: tuple[Float32Array, Float32Array] | None = None

    def __call__(self, pixels: Array) -> Uint8Array:
        """(H, W, 3) uint8 of a raw frame."""
        planes = self._sensor.planes(pixels)
        if self._tone is None:
            self._tone = band_tone(planes, self._sensor.band_dark, self._sensor.band_gain)
        low, high = self._tone
        levels = [
            sum((planes[band].astype(np.float32) - low[band]) * (255.0 / (high[band] - low[band])) for band in third) / len(third)
            for third in self._thirds
        ]
        picture: Uint8Array = np.clip(np.rint(np.dstack(levels)), 0, 255).astype(np.uint8)
        return picture


class Luminance:
    """Cubes in which every band is the mean of all: what is left of a scene without its spectra.

    Args:
        sensor: which pixel is which band.
    """

    def __init__(self, sensor: Sensor) -> None:
        self._sensor = sensor

    def __call__(self, pixels: Array) -> Array:
        """(H, W, bands) of a raw frame, in its dtype."""
        corrected = _corrected(self._sensor, pixels)  # (H, W, C)
        limit = np.iinfo(pixels.dtype).max  # type: ignore[type-var]
        mean = np.clip(np.rint(corrected.mean(axis=2, keepdims=True)), 0, limit).astype(pixels.dtype)
        return np.repeat(mean, corrected.shape[2], axis=2)


class PrincipalComponents:
    """Pictures of three channels: the first three principal components of the first frame's spectra, each on its own scale.

    Args:
        sensor: which pixel is which band.
    """

    def __init__(self, sensor: Sensor) -> None:
        self._sensor = sensor
        self._mean = np.zeros(sensor.count)
        self._axes: NDArray[np.float64] | None = None  # (C, 3)
        self._low = self._span = np.zeros(3)

    def __call__(self, pixels: Array) -> Uint8Array:
        """(H, W, 3) uint8 of a raw frame."""
        spectra = _corrected(self._sensor, pixels)
        flat = spectra.reshape(-1, spectra.shape[2]).astype(np.float64)
        if self._axes is None:
            self._mean = flat.mean(axis=0)
            _, axes = np.linalg.eigh(np.cov(flat, rowvar=False))
            leading = axes[:, ::-1][:, :3]
            # An eigenvector's sign means nothing; the largest entry decides, so that every machine finds the same picture.
            largest = leading[np.abs(leading).argmax(axis=0), range(3)]
            self._axes = leading * np.sign(largest)
            scores = (flat - self._mean) @ self._axes
            self._low, high = np.percentile(scores, (_CLIPPED_PERCENT, 100.0 - _CLIPPED_PERCENT), axis=0)
            self._span = np.maximum(high - self._low, 1e-9)
        levels = ((flat - self._mean) @ self._axes - self._low) / self._span * 255.0
        picture: Uint8Array = np.clip(np.rint(levels), 0, 255).astype(np.uint8).reshape(*spectra.shape[:2], 3)
        return picture


def _corrected(sensor: Sensor, pixels: Array) -> Float32Array:
    """Counts above dark times gain, (H, W, C)."""
    counts: Float32Array = np.dstack([plane.astype(np.float32) for plane in sensor.planes(pixels)])
    return (counts - sensor.band_dark) * sensor.band_gain
