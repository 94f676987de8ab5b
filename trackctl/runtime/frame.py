"""One camera frame: its pixels and when they were taken."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.contract import Array, TensorSpec
from trackctl.runtime.device_frame import DeviceFrame
from trackctl.runtime.errors import FrameError
from trackctl.runtime.sensor import LEAST_BANDS, Sensor

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

# Layouts of hyperspectral frames name their bands and the bits of a value: mosaic4c16u8, mosaic5c25u16, cube31u16.
#   mosaic<pattern>c<bands>u<bits>  (H * pattern, W * pattern), the bands are the first positions of each cell
#   cube<bands>u<bits>              (H, W, bands)
BAND_LAYOUT = r"(?:mosaic(?:4|5)c|cube)[1-9][0-9]*u(?:8|16)"


@dataclass(frozen=True)
class BandLayout:
    """A layout of hyperspectral frames.

    Attributes:
        bands: number of bands.
        bits: 8 or 16.
        pattern: side of the mosaic's cell, px; None for cubes.
    """

    bands: int
    bits: int
    pattern: int | None = None

    @classmethod
    def parse(cls, layout: str) -> BandLayout | None:
        """The parts of a layout's name; None if it is not one with bands."""
        match = re.fullmatch(r"(?:mosaic(4|5)c|cube)([1-9][0-9]*)u(8|16)", layout)
        if match is None or int(match[2]) < LEAST_BANDS or (match[1] and int(match[2]) > int(match[1]) ** 2):
            return None
        return cls(int(match[2]), int(match[3]), int(match[1]) if match[1] else None)

    def __str__(self) -> str:
        return f"{'cube' if self.pattern is None else f'mosaic{self.pattern}c'}{self.bands}u{self.bits}"

    def sensor(self) -> Sensor:
        """The sensor whose frames have this layout, without corrections."""
        if self.pattern is None:
            return Sensor(positions=self.bands)
        cells = self.pattern**2
        return Sensor(positions=cells, pattern=self.pattern, dead=tuple(range(self.bands, cells)))


@dataclass(frozen=True)
class Frame:
    """Pixels with the time they were taken.

    Attributes:
        pixels: (H, W) uint8 or uint16, (H, W, 3) uint8 BGR, (H, W, 4) uint8 BGR and thermal, or the bands of ``sensor``: a mosaic
            (H, W) or a cube (H, W, bands), uint8 or uint16; C-contiguous.
        timestamp_ns: capture time on the source's own monotonic clock.
        index: number of the frame in its source, from 0; a skipped frame leaves a gap.
        sensor: which pixel is which band; None for other cameras.
        missing: cameras of a pair that show nothing in this frame, ``visible`` or ``thermal``; their planes are flat.
    """

    pixels: Array
    timestamp_ns: int
    index: int
    sensor: Sensor | None = None
    missing: tuple[str, ...] = ()

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width in pixels of the picture in which boxes are given; of a mosaic, its cells."""
        return (self.pixels.shape[0], self.pixels.shape[1]) if self.sensor is None else self.sensor.hw(self.pixels)


def layout_of(pixels: Array | DeviceFrame, sensor: Sensor | None = None) -> str:
    """The layout's name: ``gray8``, ``bgr8``, ``gray16``, ``pair8`` or one with bands.

    Args:
        pixels: of a frame; a trailing axis of length 1 counts as gray.
        sensor: which pixel is which band; an array with 5 or more channels is a cube without one, too.

    Raises:
        FrameError: the array is none of these, or not one of the sensor.
    """
    if sensor is not None and isinstance(pixels, np.ndarray):
        sensor.check(pixels)
        return str(BandLayout(sensor.count, 8 * pixels.dtype.itemsize, sensor.pattern))
    if not isinstance(pixels, (np.ndarray, DeviceFrame)):
        raise FrameError(f"got a frame of type {type(pixels).__name__}, expected a numpy array (H, W) or (H, W, 3)")
    channels = pixels.shape[2] if len(pixels.shape) == 3 else 1
    if channels >= LEAST_BANDS and isinstance(pixels, np.ndarray):
        return layout_of(pixels, Sensor(positions=channels))
    if math.prod(pixels.shape) == 0 or len(pixels.shape) not in (2, 3) or channels not in (1, 3, 4):
        raise FrameError(
            f"got a frame of shape {pixels.shape}, expected (H, W) gray, (H, W, 3) BGR, (H, W, 4) BGR and thermal or "
            f"(H, W, {LEAST_BANDS} or more) bands"
        )
    if pixels.dtype == np.uint8:
        return {1: GRAY8, 3: BGR8, 4: PAIR8}[channels]
    if pixels.dtype == np.uint16 and channels == 1:
        return GRAY16
    raise FrameError(
        f"got a frame of {pixels.dtype} with shape {pixels.shape}, "
        "expected uint8 (gray, BGR, BGR and thermal) or uint16 (gray): convert it first"
    )


def channels_of(layout: str) -> int:
    """Values per pixel of a layout: its channels or bands."""
    banded = BandLayout.parse(layout)
    return CHANNELS[layout] if banded is None else banded.bands


def is_toned(layout: str) -> bool:
    """Whether sensor counts of this layout become levels by a tone: (low, high) per channel."""
    return layout == GRAY16 or BandLayout.parse(layout) is not None


def graph_frame_spec(layout: str, frame_hw: tuple[int, int]) -> TensorSpec:
    """The uint8 tensor that carries a frame of this layout into a frame graph; ``frame_hw`` as :attr:`Frame.hw`."""
    banded = BandLayout.parse(layout)
    if banded is not None:
        size = banded.bits // 8
        if banded.pattern is None:
            return TensorSpec("uint8", (*frame_hw, size * banded.bands))
        raw = (frame_hw[0] * banded.pattern, frame_hw[1] * banded.pattern)
        return TensorSpec("uint8", raw if size == 1 else (*raw, 2))
    planes = {GRAY8: (), BGR8: (3,), GRAY16: (2,), PAIR8: (4,)}[layout]
    return TensorSpec("uint8", (*frame_hw, *planes))


def graph_frame(pixels: Array) -> NDArray[np.uint8]:
    """The frame as the uint8 array of a frame graph, without a copy.

    uint16 counts become low and high bytes: (H, W, 2), and (H, W, 2 * bands) for a cube.
    """
    if pixels.ndim == 3 and pixels.shape[2] >= LEAST_BANDS:
        return np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<")).view(np.uint8)
    if pixels.dtype == np.uint16:
        counts = np.ascontiguousarray(pixels.reshape(pixels.shape[:2]), dtype="<u2")
        return counts.view(np.uint8).reshape(*counts.shape, 2)
    planes = pixels.reshape(pixels.shape[:2]) if layout_of(pixels) == GRAY8 else pixels
    return planes.view(np.uint8)
