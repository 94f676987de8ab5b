"""16-bit sensor counts to 8-bit grey levels, steady in time (the automatic gain control of a thermal camera)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.contract import Array
from trackctl.runtime.errors import FrameError, InputError


class ToneMapper:
    """Follows the range of sensor counts that a scene uses.

    The ends of the range are percentiles of a few thousand pixels per frame, smoothed exponentially from frame to frame so that
    the target's grey level does not flicker. They lie far out, since a small hot target is what must not be clipped; so that
    dead and hot pixels do not pull them, an extreme counts only if a pixel and its diagonal neighbour share it, which single
    pixels, rows and columns do not. The papers that trackctl implements work on 8-bit images and are silent on all of this.

    Args:
        low_percentile: percentile that becomes grey level 0.
        high_percentile: percentile that becomes grey level 255.
        adapt_frames: frames within which the range covers 95 % of a change of scene.
        min_span: least counts between the ends; keeps the noise of a flat scene from being stretched to full contrast.
        samples: least pixels looked at per frame (all of them in smaller frames).
    """

    def __init__(
        self,
        *,
        low_percentile: float = 0.05,
        high_percentile: float = 99.95,
        adapt_frames: int = 15,
        min_span: float = 64.0,
        samples: int = 8192,
    ) -> None:
        if not 0.0 <= low_percentile < high_percentile <= 100.0:
            raise InputError(f"got the percentiles {low_percentile} and {high_percentile}, expected 0 <= low < high <= 100")
        if adapt_frames < 1 or not min_span > 0.0 or samples < 1:
            raise InputError(
                f"got adapt_frames {adapt_frames}, min_span {min_span} and samples {samples}, expected all of them positive"
            )
        self._shares = (low_percentile / 100.0, high_percentile / 100.0)
        self._rate = 1.0 - 0.05 ** (1.0 / adapt_frames)
        self._min_span = min_span
        self._samples = samples
        self._range: tuple[float, float] | None = None

    def update(self, pixels: Array) -> tuple[float, float]:
        """The counts (low, high) that become grey levels 0 and 255 in this frame; ``high - low >= min_span``.

        The first frame sets the range at once, and so does one whose range does not overlap the range so far (a shutter
        calibration, a gain switch), which smoothing would leave all black or all white for several frames. A frame of a single
        value (a dropped frame) shows no scene and leaves the range as it was.

        Args:
            pixels: (H, W) uint16 sensor counts.

        Raises:
            FrameError: the frame is not 16-bit gray.
        """
        counts = _counts(pixels)
        width = counts.shape[1]
        flat = counts.reshape(-1)
        step = _step(width, flat.size // self._samples)
        diagonal = width + 1 if flat.size > width + 1 else 0
        here, there = flat[: flat.size - diagonal : step], flat[diagonal::step]
        # Fine stripes turn the two around, hence sorted().
        found_low, found_high = sorted(
            float(np.partition(shared, rank)[rank])
            for shared, rank in (
                (np.maximum(here, there), round(self._shares[0] * (here.size - 1))),
                (np.minimum(here, there), round(self._shares[1] * (here.size - 1))),
            )
        )
        if found_low == found_high and self._range is not None:
            return self._range
        missing = max(0.0, self._min_span - (found_high - found_low)) / 2
        low, high = found_low - missing, found_high + missing
        if self._range is not None and low < self._range[1] and high > self._range[0]:
            old_low, old_high = self._range
            low, high = old_low + self._rate * (low - old_low), old_high + self._rate * (high - old_high)
        self._range = low, high
        return self._range

    @staticmethod
    def apply(pixels: Array, low: float, high: float) -> NDArray[np.uint8]:
        """The frame as (H, W) uint8 grey levels for display: counts from ``low`` to ``high`` spread over 0..255, rounded.

        Raises:
            FrameError: the frame is not 16-bit gray.
            InputError: ``high`` is not above ``low``.
        """
        if not high > low:
            raise InputError(f"got the tone range {low} to {high}, expected high above low: take it from ToneMapper.update()")
        levels = _counts(pixels).astype(np.float32)
        levels -= np.float32(low)
        levels *= np.float32(255.0 / (high - low))
        np.clip(levels, 0.0, 255.0, out=levels)
        return np.rint(levels, out=levels).astype(np.uint8)


def _counts(pixels: Array) -> NDArray[np.uint16]:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype != np.uint16 or pixels.ndim != 2 or pixels.size == 0:
        raise FrameError(f"got a frame {pixels.shape} {pixels.dtype}, expected (H, W) uint16: 8-bit frames need no tone mapping")
    return pixels.view(np.uint16)


def _step(width: int, wanted: int) -> int:
    """A step near ``wanted`` that shares no factor with the width, so that no column (a dead one!) is sampled too often."""
    step = max(1, wanted)
    while math.gcd(step, width) > 1:
        step -= 1
    return step
