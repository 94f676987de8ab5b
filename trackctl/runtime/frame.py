"""One camera frame: its pixels and when they were taken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.contract import Array, TensorSpec
from trackctl.runtime.errors import FrameError

# Sensor layouts: how many dimensions, channels and which dtype the pixels have.
GRAY8 = "gray8"  # (H, W) uint8
BGR8 = "bgr8"  # (H, W, 3) uint8
GRAY16 = "gray16"  # (H, W) uint16, sensor counts
PAIR8 = "pair8"  # (H, W, 4) uint8: blue, green, red, thermal; registered
LAYOUTS = (GRAY8, BGR8, GRAY16, PAIR8)

# Luma of blue, green, red (ITU-R BT.601), as OpenCV weighs them.
GRAY_OF_BGR = (0.114, 0.587, 0.299)

# Values per pixel.
CHANNELS = {GRAY8: 1, BGR8: 3, GRAY16: 1, PAIR8: 4}


@dataclass(frozen=True)
class Frame:
    """Pixels with the time they were taken.

    Attributes:
        pixels: (H, W) uint8 or uint16, (H, W, 3) uint8 BGR, or (H, W, 4) uint8 BGR and thermal; C-contiguous.
        timestamp_ns: capture time on the source's own monotonic clock.
        index: number of the frame in its source, from 0; a skipped frame leaves a gap.
    """

    pixels: Array
    timestamp_ns: int
    index: int

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


def layout_of(pixels: Array) -> str:
    """The layout's name: ``gray8``, ``bgr8``, ``gray16`` or ``pair8``. A trailing axis of length 1 counts as gray.

    Raises:
        FrameError: the array is none of these.
    """
    if not isinstance(pixels, np.ndarray):
        raise FrameError(f"got a frame of type {type(pixels).__name__}, expected a numpy array (H, W) or (H, W, 3)")
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.size == 0 or pixels.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise FrameError(f"got a frame of shape {pixels.shape}, expected (H, W) gray, (H, W, 3) BGR or (H, W, 4) BGR and thermal")
    if pixels.dtype == np.uint8:
        return {1: GRAY8, 3: BGR8, 4: PAIR8}[channels]
    if pixels.dtype == np.uint16 and channels == 1:
        return GRAY16
    raise FrameError(
        f"got a frame of {pixels.dtype} with shape {pixels.shape}, "
        "expected uint8 (gray, BGR, BGR and thermal) or uint16 (gray): convert it first"
    )


def graph_frame_spec(layout: str, frame_hw: tuple[int, int]) -> TensorSpec:
    """The uint8 tensor that carries a frame of this layout into a frame graph."""
    planes = {GRAY8: (), BGR8: (3,), GRAY16: (2,), PAIR8: (4,)}[layout]
    return TensorSpec("uint8", (*frame_hw, *planes))


def graph_frame(pixels: Array) -> NDArray[np.uint8]:
    """The frame as the uint8 array of a frame graph: uint16 counts become (H, W, 2) low and high bytes, without a copy."""
    if pixels.dtype == np.uint16:
        counts = np.ascontiguousarray(pixels.reshape(pixels.shape[:2]), dtype="<u2")
        return counts.view(np.uint8).reshape(*counts.shape, 2)
    planes = pixels.reshape(pixels.shape[:2]) if layout_of(pixels) == GRAY8 else pixels
    return planes.view(np.uint8)
