"""The host crop: a square of the frame resampled to a patch. The same function as training/crop.py in another medium."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.contract import Array
from trackctl.runtime.frame import BGR8, GRAY16, GRAY_OF_BGR
from trackctl.runtime.geometry import Float64Array, patch_matrix

Float32Array = NDArray[np.float32]

_TOP_PERCENTILE = 99.9
# OpenCV warps up to four channels at once, in the time of one and a half.
_TOGETHER = 4


def frame_fill(pixels: Array) -> tuple[float, ...]:
    """The mean of each channel, rounded to a whole level: what fills the outside of the frame.

    Rounded because ``cv2.warpAffine`` on integer frames would round the border value anyway, and the graph must agree.
    """
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    return tuple(float(np.rint(value)) for value in cv2.mean(pixels)[:channels])


def band_fill(planes: Sequence[Array]) -> tuple[float, ...]:
    """The mean of each band, rounded to a whole count: what fills the outside of the frame."""
    return tuple(float(np.rint(plane.mean(dtype=np.float64))) for plane in planes)


def band_tone(planes: Sequence[Array], dark: Float32Array, gain: Float32Array) -> tuple[Float32Array, Float32Array]:
    """The counts of each band that become 0 and 255, (C,) each: all bands on one scale, so that spectra keep their shape.

    255 stands for the 99.9th percentile of all corrected counts ``(count - dark) * gain``; measured on a sequence's first frame.

    Args:
        planes: C bands (H, W).
        dark, gain: (C,) correction.
    """
    corrected = np.concatenate([plane.reshape(-1).astype(np.float32) for plane in planes]).reshape(len(planes), -1)
    corrected = (corrected - dark[:, None]) * gain[:, None]
    # A black frame has no scale.
    top = max(float(np.percentile(corrected, _TOP_PERCENTILE)), 1.0)
    return dark, dark + np.float32(top) / gain


class HostCrop:
    """Cuts float32 patches (1, C, N, N) in 0..255 out of frames, into buffers allocated once.

    Args:
        size: side of the patch, px.
        channels: channels of the patch; gray frames are repeated to fill three, colour frames become gray for one.
        whole: side of the patch whose middle this one is, px, in steps of two from ``size``; None: it is the whole patch.
    """

    def __init__(self, size: int, channels: int = 3, *, whole: int | None = None) -> None:
        self._size, self._whole = size, whole or size
        self._patch = np.empty((1, channels, size, size), dtype=np.float32)
        self._planes = [self._patch[0, channel] for channel in range(channels)]
        self._sampled: Float32Array | None = None

    def __call__(
        self,
        pixels: Array,
        layout: str,
        centre_xy: tuple[float, float],
        side_px: float,
        fill: tuple[float, ...],
        tone: tuple[float, float] | None = None,
    ) -> Float32Array:
        """The patch around ``centre_xy``; the array is reused by the next call.

        Args:
            pixels: (H, W) or (H, W, 3) frame.
            layout: the frame's layout.
            centre_xy: centre of the square, continuous frame coordinates.
            side_px: side of the square of the whole patch, frame px.
            fill: value per channel outside the frame, sensor units.
            tone: sensor counts that become 0 and 255 (``gray16`` only); values beyond are clipped.
        """
        matrix = self._matrix(centre_xy, side_px)
        height, width = pixels.shape[:2]
        left, right = _span(matrix[0, 2], matrix[0, 0], self._size, width)
        top, bottom = _span(matrix[1, 2], matrix[1, 1], self._size, height)
        if layout == BGR8 and len(self._planes) == 1:
            blue, green, red = fill
            fill = (GRAY_OF_BGR[0] * blue + GRAY_OF_BGR[1] * green + GRAY_OF_BGR[2] * red,)
        if left >= right or top >= bottom:
            for plane, value in zip(self._planes, _per_plane(fill, len(self._planes)), strict=True):
                plane[...] = value
            _apply_tone(self._patch[0], layout, tone)
            return self._patch
        # Only what the square covers becomes float32, in which OpenCV samples faster than in uint8 and does not round.
        window = pixels[top:bottom, left:right]
        if layout == BGR8 and len(self._planes) == 1:
            window = cv2.cvtColor(window, cv2.COLOR_BGR2GRAY)
        seen = window.astype(np.float32)
        matrix[0, 2] -= left
        matrix[1, 2] -= top
        gray = seen.ndim == 2 or seen.shape[2] == 1
        sampled = cv2.warpAffine(
            seen,
            matrix,
            (self._size, self._size),
            dst=self._planes[0] if gray else None,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=fill,
        )
        if not gray:
            cv2.split(sampled, self._planes)
            return self._patch
        _apply_tone(self._planes[0], layout, tone)
        for plane in self._planes[1:]:
            plane[...] = self._planes[0]
        return self._patch

    def bands(
        self,
        planes: Sequence[Array],
        centre_xy: tuple[float, float],
        side_px: float,
        fill: tuple[float, ...],
        tone: tuple[Float32Array, Float32Array],
    ) -> Float32Array:
        """The patch of a frame with bands; only what the square covers is read. The array is reused by the next call.

        Args:
            planes: C bands (H, W), 4 or more, views of the raw frame.
            centre_xy, side_px: as above.
            fill: count per band outside the frame.
            tone: counts (C,) of each band that become 0 and 255; values beyond are clipped.
        """
        matrix = self._matrix(centre_xy, side_px)
        height, width = planes[0].shape
        left, right = _span(matrix[0, 2], matrix[0, 0], self._size, width)
        top, bottom = _span(matrix[1, 2], matrix[1, 1], self._size, height)
        matrix[0, 2] -= left
        matrix[1, 2] -= top
        patch, size = self._patch[0], (self._size, self._size)
        if left >= right or top >= bottom:
            patch[:] = np.array(fill, dtype=np.float32)[:, None, None]
            _apply_band_tone(patch, tone)
            return self._patch
        if self._sampled is None:
            self._sampled = np.empty((*size, _TOGETHER), dtype=np.float32)
        seen = np.empty((bottom - top, right - left, _TOGETHER), dtype=np.float32)
        for start in range(0, len(planes), _TOGETHER):
            # The last group reaches back, so that it is a whole one.
            first = min(start, len(planes) - _TOGETHER)
            for index, plane in enumerate(planes[first : first + _TOGETHER]):
                seen[:, :, index] = plane[top:bottom, left:right]
            sampled = cv2.warpAffine(
                seen,
                matrix,
                size,
                dst=self._sampled,  # a new megabyte for each call would cost four times the warp
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=fill[first : first + _TOGETHER],
            )
            cv2.split(sampled, self._planes[first : first + _TOGETHER])
        _apply_band_tone(patch, tone)
        return self._patch

    def _matrix(self, centre_xy: tuple[float, float], side_px: float) -> Float64Array:
        matrix = patch_matrix(centre_xy, side_px, self._whole)
        matrix[:, 2] += matrix[0, 0] * ((self._whole - self._size) // 2)
        return matrix


def _span(first: float, step: float, size: int, limit: int) -> tuple[int, int]:
    """The frame pixels, from and to, that ``size`` samples from ``first`` on touch along an axis of ``limit`` pixels."""
    return max(0, math.floor(first)), min(limit, math.floor(first + step * (size - 1)) + 2)


def _per_plane(fill: tuple[float, ...], planes: int) -> tuple[float, ...]:
    return fill if len(fill) == planes else fill[:1] * planes


def _apply_tone(levels: Float32Array, layout: str, tone: tuple[float, float] | None) -> None:
    if layout == GRAY16 and tone is not None:
        low, high = tone
        np.subtract(levels, np.float32(low), out=levels)
        np.multiply(levels, np.float32(255.0 / (high - low)), out=levels)
        np.clip(levels, 0.0, 255.0, out=levels)


def _apply_band_tone(patch: Float32Array, tone: tuple[Float32Array, Float32Array]) -> None:
    low, high = (bound[:, None, None] for bound in tone)
    if low.any():
        np.subtract(patch, low, out=patch)
    np.multiply(patch, np.float32(255.0) / (high - low), out=patch)
    np.clip(patch, 0.0, 255.0, out=patch)
