"""The frames on which a tracker did worst, as pictures with the annotated box and the tracker's."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from trackctl.evaluation.annotations import Rows, has_area
from trackctl.evaluation.follow import play
from trackctl.evaluation.protocol import AnchorProtocol, Protocol
from trackctl.evaluation.report import PLAIN, Entry, result_files
from trackctl.evaluation.sequence import DataSet, ResultFormat, Sequence
from trackctl.runtime.contract import Array
from trackctl.runtime.geometry import Box, Float64Array, boxes_array, iou

# BGR, as the legend of the page says: annotation green, tracker orange.
TRUTH_BGR, RESULT_BGR = (80, 200, 60), (0, 128, 255)
_SIZE = (320, 240)  # of a picture, width and height
_LEAST_WIDTH_PX = 120.0  # of what it shows
_MARGIN = 1.6  # what it shows by the extent of both boxes
_JPEG_QUALITY = 82


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A frame where the tracker did worst on a sequence.

    Attributes:
        sequence: its name.
        frame: number from 0.
        overlap: IoU of the upright boxes.
        jpeg: base64 text.
    """

    sequence: str
    frame: int
    overlap: float
    jpeg: str


def worst_pictures(entry: Entry, folder: Path, dataset: DataSet, protocol: Protocol, count: int = 6) -> list[Picture]:
    """From each of the sequences with the lowest score, the first of the frames with the least overlap.

    Args:
        entry: the bundle.
        folder: of its results.
        dataset: with images.
        protocol: of the run. Runs from anchors show the first anchor's.
        count: of pictures, at most.

    Raises:
        InputError: a file cannot be read.
    """
    score = "accuracy" if "accuracy" in entry.scores.overall else "auc"
    known = {sequence.name: sequence for sequence in dataset.sequences}
    ranked = sorted(known, key=lambda name: (float(np.nan_to_num(entry.scores.sequences[name][score], nan=-1.0)), name))
    pictures = (_picture(known[name], folder / PLAIN, protocol, dataset.results) for name in ranked[:count])
    return [picture for picture in pictures if picture is not None]


def _picture(sequence: Sequence, folder: Path, protocol: Protocol, written: ResultFormat) -> Picture | None:
    name, path = next(iter(result_files(folder, sequence, protocol, written).items()))
    start = int(name.rpartition("_")[2]) if isinstance(protocol, AnchorProtocol) else 0
    boxes = _boxes(path, written)
    truth = sequence.truth_ltwh[start : start + len(boxes)]
    overlap = iou(truth, boxes[: len(truth)])
    seen = has_area(truth) & np.isfinite(overlap)
    seen[0] = False  # the box was given
    if not seen.any():
        return None
    at = int(np.argmin(np.where(seen, overlap, np.inf)))
    frame = next(iter(play(sequence, np.arange(start + at, start + at + 1))))
    jpeg = _draw(frame.pixels, Box(*truth[at].tolist()), Box(*boxes[at].tolist()))
    return Picture(sequence=sequence.name, frame=start + at, overlap=float(overlap[at]), jpeg=jpeg)


def _boxes(path: Path, written: ResultFormat) -> Float64Array:
    """The boxes of a result file, NaN on lines that hold a code."""
    rows = Rows.read(path)
    boxes = np.full((len(rows.counts), 4), np.nan)
    begins = np.cumsum(rows.counts) - rows.counts
    at = np.flatnonzero(rows.counts == 4)
    boxes[at] = rows.values[begins[at][:, None] + np.arange(4)]
    return boxes - [1.0, 1.0, 0.0, 0.0] if written.one_based else boxes


def _draw(pixels: Array, truth: Box, result: Box) -> str:
    """The part of a frame around both boxes, drawn at the size of a picture."""
    corners = boxes_array([truth, result])
    low, high = corners[:, :2].min(axis=0), (corners[:, :2] + corners[:, 2:]).max(axis=0)
    aspect = _SIZE[0] / _SIZE[1]
    frame_hw = pixels.shape[:2]
    extent = max(_MARGIN * max(high[0] - low[0], aspect * (high[1] - low[1])), _LEAST_WIDTH_PX)
    width = min(extent, max(frame_hw[1], aspect * frame_hw[0]))
    left, top = _inside((low[0] + high[0] - width) / 2, width, frame_hw[1]), (low[1] + high[1] - width / aspect) / 2
    top = _inside(top, width / aspect, frame_hw[0])
    scale = _SIZE[0] / width
    # Pixel centres are at .5 of continuous coordinates, warpAffine counts them from 0.
    matrix = np.array([[scale, 0.0, 0.5 * scale - 0.5 - scale * left], [0.0, scale, 0.5 * scale - 0.5 - scale * top]])
    flags = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_LINEAR
    picture = cv2.warpAffine(_shown(pixels), matrix, _SIZE, flags=flags, borderValue=(40, 40, 40))
    for box, ink in ((truth, TRUTH_BGR), (result, RESULT_BGR)):
        first = ((box.left - left) * scale, (box.top - top) * scale)
        last = ((box.left + box.width - left) * scale, (box.top + box.height - top) * scale)
        cv2.rectangle(picture, _corner(*first), _corner(*last), ink, 2)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return base64.b64encode(data.tobytes()).decode("ascii")


def _corner(x: float, y: float) -> tuple[int, int]:
    """Whole pixels, kept where OpenCV's 32 bits can count them."""
    return round(min(max(x, -2000.0), 2000.0)), round(min(max(y, -2000.0), 2000.0))


def _inside(start: float, length: float, limit: int) -> float:
    """The start moved so that the span stays within 0..limit, or lies about its middle if it is longer."""
    return (limit - length) / 2 if length >= limit else min(max(start, 0.0), limit - length)


def _shown(pixels: Array) -> NDArray[np.uint8]:
    """8-bit BGR; 16-bit counts are stretched between their 1st and 99th percentile."""
    if pixels.dtype == np.uint16:
        counts = pixels.astype(np.float64)
        low, high = np.percentile(counts, (1, 99))
        pixels = ((counts - low) * (255.0 / max(high - low, 1.0))).clip(0, 255).astype(np.uint8)
    shown: NDArray[np.uint8] = np.ascontiguousarray(pixels, dtype=np.uint8)
    if shown.ndim == 2 or shown.shape[2] == 1:
        shown = cv2.cvtColor(shown, cv2.COLOR_GRAY2BGR)
    return shown
