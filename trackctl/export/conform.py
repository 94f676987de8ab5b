"""Footage in the size and layout that a frame graph was made for, so that any clip can prove any frame graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np

from trackctl.calibration.footage import Footage
from trackctl.export.frame_graph import FrameFormat
from trackctl.runtime.contract import Array
from trackctl.runtime.frame import BGR8, GRAY16, PAIR8, Frame, layout_of
from trackctl.runtime.geometry import Box
from trackctl.runtime.sources import Source
from trackctl.runtime.tone import ToneMapper

# Grey levels 0..255 as counts of a 14-bit sensor.
COUNTS_PER_LEVEL, COUNTS_AT_BLACK = 16, 4000


def conform(footage: Footage, form: FrameFormat) -> Footage:
    """The footage with frames of that format and with its boxes stretched alike; as it is, if it has the format."""
    source = footage.source
    if source.frame_hw == form.frame_hw and layout_of(next(iter(footage)).pixels) == form.layout:
        return footage
    height, width = (target / own for target, own in zip(form.frame_hw, source.frame_hw, strict=True))
    stretch = np.array([width, height, width, height])
    truth = None if footage.truth_ltwh is None else footage.truth_ltwh * stretch
    box = Box(*(np.array(footage.box) * stretch).tolist())
    return replace(footage, source=Conformed(source, form), box=box, truth_ltwh=truth)


class Conformed(Source):
    """The frames of a source in another format: resized, and converted between grey, colour, 16 bit and pairs."""

    def __init__(self, source: Source, form: FrameFormat) -> None:
        self.name, self.fps, self.count, self.live = source.name, source.fps, source.count, source.live
        self.frame_hw = form.frame_hw
        self._source = source
        self._form = form

    def __iter__(self) -> Iterator[Frame]:
        """The frames converted one by one."""
        tone = ToneMapper()
        for frame in self._source:
            yield Frame(self._convert(frame.pixels, tone), frame.timestamp_ns, frame.index)

    def _convert(self, pixels: Array, tone: ToneMapper) -> Array:
        height, width = self._form.frame_hw
        own = layout_of(pixels)
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
