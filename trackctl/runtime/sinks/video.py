"""Results drawn into a video."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.confidence import Status
from trackctl.runtime.contract import Array
from trackctl.runtime.errors import FrameError, InputError
from trackctl.runtime.false_colour import FalseColour
from trackctl.runtime.frame import GRAY16, PAIR8, Frame, layout_of
from trackctl.runtime.geometry import Box
from trackctl.runtime.quiet import quiet_opencv
from trackctl.runtime.sinks import Sink
from trackctl.runtime.tone import ToneMapper
from trackctl.runtime.tracker import Result

# Codecs per container, best first; mp4v is in every build of OpenCV's wheels, avc1 only where a licensed encoder is.
_CODECS = {".mp4": ("mp4v", "avc1"), ".mkv": ("mp4v", "avc1", "FFV1"), ".avi": ("MJPG", "XVID", "mp4v")}

# BGR, chosen to stand out from white-hot and from each other, also for colour-blind readers.
_COLOURS = {Status.TRACKING: (96, 230, 64), Status.UNCERTAIN: (0, 190, 255), Status.LOST: (80, 70, 255)}
_SHADE, _LIGHT = (16, 16, 16), (240, 240, 240)
_FONT = cv2.FONT_HERSHEY_SIMPLEX

Uint8Array = NDArray[np.uint8]


class VideoSink(Sink):
    """An annotated video: the box in the colour of the status, and below the picture status, score and frame number.

    Of a pair both pictures are shown side by side, visible and thermal, and the caption names a camera that is missing. Boxes of
    several targets have their numbers, and the caption counts them by status.
    LOST is drawn as corners only, since nobody knows whether the target is there. Frames whose shorter side is below
    ``least_side_px`` are enlarged by a whole factor, so that the text stays readable. Encoders want even sizes: an odd width
    gains a repeated column.

    Args:
        path: the file, .mp4, .mkv or .avi.
        fps: frames per second at which it plays.
        least_side_px: see above.

    Raises:
        InputError: the suffix, rate or folder is wrong, or (from ``write``) no codec can write it.
    """

    def __init__(self, path: str | Path, fps: float, *, least_side_px: int = 240) -> None:
        self._path = Path(path)
        if self._path.suffix.lower() not in _CODECS:
            raise InputError(f"got the video {self._path}, expected a name that ends in one of {', '.join(_CODECS)}")
        if not (math.isfinite(fps) and 0.0 < fps <= 1000.0):
            raise InputError(f"got {fps} frames per second for {self._path}, expected a number above 0, at most 1000")
        try:
            # Asked now, since OpenCV opens the file at the first frame and would not say why it cannot.
            self._path.open("wb").close()
        except OSError as error:
            raise InputError(
                f"cannot write {self._path}: {error.strerror}: give a path in a folder that exists and can be written"
            ) from error
        # MPEG-4 holds a rate as a fraction of two 16-bit numbers.
        self._fps = round(fps, 2) if fps < 100.0 else float(round(fps))
        self._least_side_px = least_side_px
        self._tone = ToneMapper()
        self._false_colour: FalseColour | None = None
        self._writer: cv2.VideoWriter | None = None
        self._frame_hw = (0, 0)

    def write(self, frame: Frame, result: Result) -> None:
        """Draw one frame.

        Raises:
            FrameError: its size is not that of the first.
        """
        self._draw(frame, lambda shown: annotate(shown, result, frame.index, scale=self._scale))

    def write_targets(self, frame: Frame, results: Mapping[int, Result]) -> None:
        """Draw one frame with all targets; errors as ``write``."""
        self._draw(frame, lambda shown: annotate_targets(shown, results, frame.index, scale=self._scale))

    def _draw(self, frame: Frame, draw: Callable[[Uint8Array], Uint8Array]) -> None:
        if self._writer is None:
            self._frame_hw = frame.hw
        elif frame.hw != self._frame_hw:
            raise FrameError(
                f"{self._path}: got a frame of {frame.hw}, expected {self._frame_hw} as the first: start another video"
            )
        pixels = frame.pixels
        if frame.sensor is not None:
            self._false_colour = self._false_colour or FalseColour(frame.sensor)
            pixels = self._false_colour(pixels)
        canvas = draw(self._shown(pixels))
        if layout_of(frame.pixels) == PAIR8:
            canvas = np.hstack((canvas, draw(self._shown(frame.pixels[:, :, 3]))))
        if self._writer is None:
            self._writer = self._open(canvas.shape[1], canvas.shape[0])
        self._writer.write(canvas)

    def close(self) -> None:
        """Write the file's index."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None

    @property
    def _scale(self) -> int:
        return max(1, math.ceil(self._least_side_px / min(self._frame_hw)))

    def _shown(self, pixels: Array) -> Uint8Array:
        """A BGR copy to draw on."""
        if layout_of(pixels) == GRAY16:
            pixels = self._tone.apply(pixels, *self._tone.update(pixels))
        if layout_of(pixels) == PAIR8:
            pixels = pixels[:, :, :3]
        shown = pixels.copy() if pixels.ndim == 3 and pixels.shape[2] == 3 else cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
        if self._scale > 1:
            shown = cv2.resize(shown, None, fx=self._scale, fy=self._scale, interpolation=cv2.INTER_CUBIC)
        canvas: Uint8Array = shown
        return canvas

    def _open(self, width: int, height: int) -> cv2.VideoWriter:
        codecs = _CODECS[self._path.suffix.lower()]
        for codec in codecs:
            with quiet_opencv():
                writer = cv2.VideoWriter(str(self._path), cv2.VideoWriter.fourcc(*codec), self._fps, (width, height))
            if writer.isOpened():
                return writer
        raise InputError(
            f"cannot write {self._path}: this OpenCV has none of the codecs {', '.join(codecs)} for {width}x{height}: "
            "try another suffix of " + ", ".join(_CODECS)
        )


def annotate(shown: Uint8Array, result: Result, index: int, *, scale: float = 1.0) -> Uint8Array:
    """The picture with its box drawn in (also into the argument) and a caption below, (H + caption, W) of even size.

    Args:
        shown: (H, W, 3) uint8 BGR.
        result: its box is in frame pixels.
        index: the frame's number.
        scale: picture pixels per frame pixel.
    """
    unit = _unit(shown)
    _box_in(shown, result, scale, unit)
    caption = " ".join((f"{result.status.value} {result.score:.2f}", *_absent(result)))
    return _captioned(shown, [(caption, _COLOURS[result.status])], f"#{index}", unit)


def annotate_targets(shown: Uint8Array, results: Mapping[int, Result], index: int, *, scale: float = 1.0) -> Uint8Array:
    """The picture with all boxes and their numbers drawn in, otherwise as :func:`annotate`; the caption counts the statuses."""
    unit = _unit(shown)
    for result in results.values():
        _box_in(shown, result, scale, unit)
    for target, result in results.items():
        _number_in(shown, result, str(target), scale, unit)
    counts = Counter(result.status for result in results.values())
    texts = [(f"{counts[status]} {status.value}", colour) for status, colour in _COLOURS.items() if counts[status]]
    texts += [(text, _LIGHT) for text in _absent(next(iter(results.values())))]
    return _captioned(shown, texts, f"#{index}", unit)


def _unit(shown: Uint8Array) -> float:
    """How much larger than for a picture of 360 px lines and letters are drawn."""
    return max(1.0, float(min(shown.shape[:2])) / 360.0)


def _absent(result: Result) -> list[str]:
    return [f"no {camera}" for camera in result.missing]


def _box_in(shown: Uint8Array, result: Result, scale: float, unit: float) -> None:
    if all(math.isfinite(value) for value in result.box):
        bars = _bars(result.box, scale, max(1, round(1.5 * unit)), corners=result.status is Status.LOST, shape=shown.shape)
        # A dark rim of one pixel makes the lines stand out from hot and cold alike.
        for bar_colour, rim in ((_SHADE, 1), (_COLOURS[result.status], 0)):
            for left, top, right, bottom in bars:
                cv2.rectangle(shown, (left - rim, top - rim), (right + rim, bottom + rim), bar_colour, cv2.FILLED)


def _number_in(shown: Uint8Array, result: Result, text: str, scale: float, unit: float) -> None:
    """Write a target's number over its box's left corner; under it where the picture ends, and never outside."""
    if not all(math.isfinite(value) for value in result.box):
        return
    (width, height), _ = cv2.getTextSize(text, _FONT, 0.5 * unit, max(1, round(unit)))
    gap = max(4, round(5 * unit))
    over, under = result.box.top * scale - gap, (result.box.top + result.box.height) * scale + gap + height
    left = _within(result.box.left * scale, gap, shown.shape[1] - width - gap)
    baseline = _within(over if over - height >= gap else under, height + gap, shown.shape[0] - gap)
    for colour, weight in ((_SHADE, 3), (_COLOURS[result.status], 1)):
        cv2.putText(shown, text, (left, baseline), _FONT, 0.5 * unit, colour, max(1, round(weight * unit)), cv2.LINE_AA)


def _within(value: float, least: float, most: float) -> int:
    return round(max(least, min(value, most)))


def _bars(box: Box, scale: float, line_px: int, *, corners: bool, shape: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """The sides of a box, or only its corners, as filled bars (left, top, right, bottom) in picture pixels, all included.

    They lie one pixel outside the box, so that a target of a few pixels is not covered.
    """
    # Bounded, since OpenCV draws in fixed point and a lost box may be anywhere.
    limit = 4 * max(shape)
    left, top = (math.floor(_bounded(edge * scale, limit)) - 1 - line_px for edge in (box.left, box.top))
    right, bottom = (math.ceil(_bounded(edge * scale, limit)) + line_px for edge in (box.left + box.width, box.top + box.height))
    arm_x, arm_y = (right - left) // 4, (bottom - top) // 4
    spans_x = [(left, left + arm_x), (right - arm_x, right)] if corners else [(left, right)]
    spans_y = [(top, top + arm_y), (bottom - arm_y, bottom)] if corners else [(top, bottom)]
    far = line_px - 1
    level = [(x0, y, x1, y + far) for x0, x1 in spans_x for y in (top, bottom - far)]
    upright = [(x, y0, x + far, y1) for y0, y1 in spans_y for x in (left, right - far)]
    return level + upright


def _bounded(value: float, limit: int) -> float:
    return min(max(value, -limit), limit)


def _captioned(
    shown: Uint8Array, left_texts: Sequence[tuple[str, tuple[int, int, int]]], right_text: str, unit: float
) -> Uint8Array:
    """The picture on top of a dark strip with coloured texts at its left and a light one at its right; sizes made even."""
    size, weight = 0.5 * unit, max(1, round(unit))
    (_, text_height), _ = cv2.getTextSize("H", _FONT, size, weight)
    (right_width, _), _ = cv2.getTextSize(right_text, _FONT, size, weight)
    height, width = shown.shape[:2]
    margin = max(4, round(7 * unit))
    strip = text_height + 2 * margin
    strip += (height + strip) % 2
    framed = cv2.copyMakeBorder(shown, 0, 0, 0, width % 2, cv2.BORDER_REPLICATE)
    canvas: Uint8Array = cv2.copyMakeBorder(framed, 0, strip, 0, 0, cv2.BORDER_CONSTANT, value=_SHADE)
    baseline, left = height + margin + text_height, margin
    for text, colour in left_texts:
        cv2.putText(canvas, text, (left, baseline), _FONT, size, colour, weight, cv2.LINE_AA)
        left += cv2.getTextSize(text, _FONT, size, weight)[0][0] + margin
    cv2.putText(canvas, right_text, (width - margin - right_width, baseline), _FONT, size, _LIGHT, weight, cv2.LINE_AA)
    return canvas
