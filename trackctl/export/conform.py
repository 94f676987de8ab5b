"""Footage in the size and layout that a frame graph was made for, so that any clip can prove any frame graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np

from trackctl.calibration.footage import Footage
from trackctl.export.frame_graph import FrameFormat
from trackctl.runtime.contract import Array
from trackctl.runtime.frame import BGR8, GRAY8, GRAY16, PAIR8, BandLayout, Frame, layout_of
from trackctl.runtime.geometry import Box
from trackctl.runtime.sensor import Sensor, mosaic_of
from trackctl.runtime.sources import Source
from trackctl.runtime.tone import ToneMapper

# Grey levels 0..255 as counts of a 14-bit sensor.
COUNTS_PER_LEVEL, COUNTS_AT_BLACK = 16, 4000

# A source without bands becomes one whose first band is that much darker than its last.
TINT = 0.5


def conform(footage: Footage, form: FrameFormat) -> Footage:
    """The footage with frames of that format and with its boxes stretched alike; as it is, if it has the format."""
    source = footage.source
    first = next(iter(footage))
    if source.frame_hw == form.frame_hw and layout_of(first.pixels, first.sensor) == form.layout:
        return footage
    height, width = (target / own for target, own in zip(form.frame_hw, source.frame_hw, strict=True))
    stretch = np.array([width, height, width, height])
    truth = None if footage.truth_ltwh is None else footage.truth_ltwh * stretch
    box = Box(*(np.array(footage.box) * stretch).tolist())
    return replace(footage, source=Conformed(source, form), box=box, truth_ltwh=truth)


class Conformed(Source):
    """The frames of a source in another format: resized, and converted between grey, colour, 16 bit, pairs and bands."""

    def __init__(self, source: Source, form: FrameFormat) -> None:
        self.name, self.fps, self.count, self.live = source.name, source.fps, source.count, source.live
        self.frame_hw = form.frame_hw
        self._source = source
        self._form = form
        self._top = 0.0
        self._banded = BandLayout.parse(form.layout)
        self._sensor = None if self._banded is None else self._banded.sensor()

    def __iter__(self) -> Iterator[Frame]:
        """The frames converted one by one."""
        tone = ToneMapper()
        self._top = 0.0
        for frame in self._source:
            yield Frame(self._convert(frame, tone), frame.timestamp_ns, frame.index, self._sensor)

    def _convert(self, frame: Frame, tone: ToneMapper) -> Array:
        pixels, sensor = frame.pixels, frame.sensor
        height, width = self._form.frame_hw
        own = layout_of(pixels, sensor)
        bands = BandLayout.parse(own)
        if bands is not None:
            planes = (sensor or Sensor(positions=pixels.shape[2])).planes(pixels)
            cube = np.dstack([cv2.resize(np.ascontiguousarray(plane), (width, height)) for plane in planes])
            if self._banded is not None:
                return self._as_bands(cube, self._banded)
            pixels, own = np.rint(cube.mean(axis=2)).astype(cube.dtype), GRAY8 if bands.bits == 8 else GRAY16
        elif self._banded is not None:
            gray: Array = pixels if pixels.ndim == 2 else cv2.cvtColor(np.ascontiguousarray(pixels[:, :, :3]), cv2.COLOR_BGR2GRAY)
            sized_gray = cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA)
            tint = np.linspace(TINT, 1.0, self._banded.bands)
            return self._as_bands((sized_gray[:, :, None] * tint).astype(gray.dtype), self._banded)
        sized: Array = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        if own == self._form.layout:
            return sized
        if own == GRAY16:
            low, high = tone.update(sized)
            sized = np.clip((sized - np.float32(low)) * (255.0 / (high - low)), 0.0, 255.0).astype(np.uint8)
        colour: Array = sized[:, :, :3] if own == PAIR8 else sized
        if colour.ndim == 2:
            colour = cv2.cvtColor(colour, cv2.COLOR_GRAY2BGR)
        if self._form.layout == BGR8:
            return np.ascontiguousarray(colour)
        grey: Array = sized if sized.ndim == 2 else cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY)
        if self._form.layout == PAIR8:
            return np.dstack((colour, grey))
        if self._form.layout == GRAY16:
            return grey.astype(np.uint16) * COUNTS_PER_LEVEL + COUNTS_AT_BLACK
        return grey

    def _as_bands(self, cube: Array, layout: BandLayout) -> Array:
        """A cube (H, W, bands) in a layout: of its bands the nearest ones, its counts on a scale that the first frame sets."""
        chosen = np.rint(np.linspace(0, cube.shape[2] - 1, layout.bands)).astype(np.int64)
        values = cube[:, :, chosen].astype(np.float32)
        self._top = self._top or max(float(values.max()), 1.0)
        full = 255 if layout.bits == 8 else COUNTS_PER_LEVEL * 255
        values = np.clip(values * (full / self._top), 0, full).astype(np.uint8 if layout.bits == 8 else np.uint16)
        return values if layout.pattern is None else mosaic_of(values, layout.pattern)
