"""A tracker through one annotated sequence, as a protocol has it; what comes out are the lines of result files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from trackctl.evaluation.anchor import anchor_frames
from trackctl.evaluation.annotations import Rows, corners_of, has_area
from trackctl.evaluation.protocol import AnchorProtocol, Protocol, ResetProtocol
from trackctl.evaluation.realtime import Camera
from trackctl.evaluation.regions import reset_overlap
from trackctl.evaluation.reset import FAILED, SKIPPED, STARTED
from trackctl.evaluation.sequence import ResultFormat, Sequence
from trackctl.runtime.errors import BoxError, InputError, SourceError
from trackctl.runtime.frame import Frame
from trackctl.runtime.geometry import Box, Float64Array
from trackctl.runtime.loop import TracksFrames

# In files of times: the frame came while the tracker was busy, and the last box stands.
LATE = 0.0


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run from one start.

    Attributes:
        lines: of the result file, one per frame.
        seconds: (N,) duration of each update; LATE for a frame that came too early, NaN where nothing was tracked.
    """

    lines: tuple[str, ...]
    seconds: Float64Array

    def result_text(self) -> str:
        """The contents of the result file."""
        return "\n".join(self.lines) + "\n"

    def times_text(self) -> str:
        """The contents of the file of times, seconds with whole nanoseconds."""
        return "".join(f"{value:.9f}\n" for value in self.seconds.tolist())


def read_times(rows: Rows) -> Float64Array:
    """The seconds of a file written by :meth:`Run.times_text`, (N,)."""
    return rows.table((1,), "seconds")[:, 0]


def starts(sequence: Sequence, protocol: Protocol) -> dict[str, NDArray[np.int64]]:
    """The runs that a protocol asks for: name of the result file without its suffix -> frames in their order.

    Raises:
        InputError: the protocol starts at anchors, and the sequence has none.
    """
    if isinstance(protocol, AnchorProtocol):
        return {f"{sequence.name}_{start:08d}": frames for start, frames in anchor_frames(sequence)}
    return {sequence.name: np.arange(len(sequence))}


def follow(
    tracker: TracksFrames,
    sequence: Sequence,
    frames: NDArray[np.int64],
    protocol: Protocol,
    written: ResultFormat,
    camera: Camera | None = None,
) -> Run:
    """One run of a tracker.

    Args:
        tracker: is given the annotation of the first frame, and under the reset protocol again after each failure.
        sequence: with its images.
        frames: numbers of the frames in their order, one of :func:`starts`.
        protocol: says what a failure is.
        written: how the data set writes boxes.
        camera: for real-time mode; its ``seconds`` follow ``frames``.

    Raises:
        InputError: there are no images, too few of them, or a frame or box does not suit the tracker.
    """
    follower = _Follower(tracker, sequence, frames, camera)
    if isinstance(protocol, ResetProtocol):
        lines = _with_restarts(follower, sequence, protocol, written)
    else:
        first = str(STARTED) if isinstance(protocol, AnchorProtocol) else ""
        lines = _without(follower, written, first)
    return Run(lines=tuple(lines), seconds=follower.seconds)


class _Follower:
    """The tracker, the frames and the clock."""

    def __init__(self, tracker: TracksFrames, sequence: Sequence, frames: NDArray[np.int64], camera: Camera | None) -> None:
        self.seconds = np.full(len(frames), np.nan)
        self._tracker, self._sequence, self._frames, self._camera = tracker, sequence, frames, camera
        self._box = Box(0.0, 0.0, 0.0, 0.0)
        self._free = 0

    def __iter__(self) -> Iterator[tuple[int, Frame]]:
        return enumerate(play(self._sequence, self._frames))

    def init(self, step: int, frame: Frame) -> Box:
        """Give the tracker the annotation; the box given."""
        self._box = give(self._tracker, self._sequence, int(self._frames[step]), frame)
        self._free = step + 1
        return self._box

    def update(self, step: int, frame: Frame) -> Box:
        """The tracker's box on a frame, or the last one if it is still busy."""
        if step < self._free:
            self.seconds[step] = LATE
            return self._box
        began = perf_counter_ns()
        self._box = self._tracker.update(frame).box
        self.seconds[step] = (perf_counter_ns() - began) / 1e9
        if self._camera is not None:
            self.seconds[step] = self._camera.duration(step)
            self._free = self._camera.next_seen(step)
        return self._box


def _without(follower: _Follower, written: ResultFormat, first: str) -> Iterator[str]:
    for step, frame in follower:
        if step == 0:
            box = follower.init(step, frame)
            yield first or written.line(box)
        else:
            yield written.line(follower.update(step, frame))


def _with_restarts(follower: _Follower, sequence: Sequence, protocol: ResetProtocol, written: ResultFormat) -> Iterator[str]:
    """Tracks until nothing of the target is covered, then starts again ``skip`` frames later, where it is annotated."""
    truth = sequence.corners_xy if sequence.corners_xy is not None else corners_of(sequence.truth_ltwh)
    present = has_area(sequence.truth_ltwh)
    size_hw = sequence.size_hw()
    start, running = 0, False
    for step, frame in follower:
        if not running:
            running = step >= start and bool(present[step])
            if running:
                follower.init(step, frame)
            yield str(STARTED if running else SKIPPED)
            continue
        # Judged as it is written, so that the file tells the same story.
        box: Float64Array = np.array([follower.update(step, frame)], dtype=np.float64).round(written.decimals)
        if present[step] and reset_overlap(truth[step : step + 1], corners_of(box), size_hw)[0] <= 0.0:
            start, running = step + protocol.skip, False
            yield str(FAILED)
        else:
            yield written.line(box[0])


def give(tracker: TracksFrames, sequence: Sequence, index: int, frame: Frame) -> Box:
    """The annotated box of a frame, after the tracker was initialised with it.

    Raises:
        InputError: the box does not fit the frame; with the file's name.
    """
    box = initial_box(sequence, index)
    try:
        tracker.init(frame, box)
    except BoxError as error:
        raise InputError(f"{sequence.truth_file} frame {index}: {error}") from error
    return box


def initial_box(sequence: Sequence, index: int) -> Box:
    """The box that a tracker is given: the annotated one; for a polygon, the upright box of its centre and area.

    The polygon's bounding box is shrunk to the polygon's area about the mean of the corners, as the trackers of the VOT
    tables do (``get_axis_aligned_bbox`` in pysot); unlike there, no pixel is added.
    """
    if sequence.corners_xy is None:
        return sequence.box(index)
    corners = sequence.corners_xy[index]
    side_px, other_px = np.hypot(*(corners[1] - corners[0])), np.hypot(*(corners[2] - corners[1]))
    bound = sequence.box(index)
    scale = float(np.sqrt(side_px * other_px / (bound.width * bound.height)))
    centre_x, centre_y = corners.mean(axis=0).tolist()
    if not scale > 0.0:
        return bound
    return Box.from_centre(centre_x, centre_y, scale * bound.width, scale * bound.height)


def play(sequence: Sequence, frames: NDArray[np.int64]) -> Iterator[Frame]:
    """The frames of a sequence in the given order.

    Raises:
        InputError: there are no images, or fewer than annotated.
    """
    if sequence.clip is None:
        raise InputError(
            f"{sequence.truth_file}: the sequence {sequence.name!r} has an annotation but no images: add them, "
            "or score result files that are there"
        )
    images = sequence.clip.images()
    if images:
        with sequence.clip.play([images[index] for index in frames.tolist()]) as source:
            yield from source
        return
    with sequence.clip.open() as video:
        stop = int(frames.max()) + 1
        if (np.diff(frames) == 1).all():
            played: Iterator[Frame] = islice(iter(video), int(frames[0]), stop)
        else:
            # A video plays forwards only; anchors ask for it backwards, too.
            held = list(islice(iter(video), stop))
            if len(held) < stop:
                raise SourceError(f"{video.name} ends after {len(held)} frames, expected {len(sequence)} as annotated")
            played = iter([held[index] for index in frames.tolist()])
        count = 0
        for frame in played:
            yield frame
            count += 1
    if count < len(frames):
        raise SourceError(f"{video.name} ends after {int(frames[0]) + count} frames, expected {len(sequence)} as annotated")
