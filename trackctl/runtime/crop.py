"""The host crop: a square of the frame resampled to a patch. The same function as training/crop.py in another medium."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.contract import Array
from trackctl.runtime.frame import BGR8, GRAY16, GRAY_OF_BGR
from trackctl.runtime.geometry import patch_matrix

Float32Array = NDArray[np.float32]


def frame_fill(pixels: Array) -> tuple[float, ...]:
    """The mean of each channel, rounded to a whole level: what fills the outside of the frame.

    Rounded because ``cv2.warpAffine`` on integer frames would round the border value anyway, and the graph must agree.
    """
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    return tuple(float(np.rint(value)) for value in cv2.mean(pixels)[:channels])


class HostCrop:
    """Cuts float32 patches (1, C, N, N) in 0..255 out of frames, into buffers allocated once.

    Args:
        size: side of the patch, px.
        channels: channels of the patch; gray frames are repeated to fill three, colour frames become gray for one.
    """

    def __init__(self, size: int, channels: int = 3) -> None:
        self._size = size
        self._patch = np.empty((1, channels, size, size), dtype=np.float32)
        self._planes = [self._patch[0, channel] for channel in range(channels)]

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
            side_px: side of the square, frame px.
            fill: value per channel outside the frame, sensor units.
            tone: sensor counts that become 0 and 255 (``gray16`` only); values beyond are clipped.
        """
        matrix = patch_matrix(centre_xy, side_px, self._size)
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
