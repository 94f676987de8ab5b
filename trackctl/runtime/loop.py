"""Source -> tracker -> sinks, with the time of every stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Protocol

from trackctl.runtime.confidence import Status
from trackctl.runtime.errors import InputError, SourceError
from trackctl.runtime.frame import Frame
from trackctl.runtime.geometry import Box
from trackctl.runtime.sinks import Sink
from trackctl.runtime.sources import Source
from trackctl.runtime.sources.newest import Newest
from trackctl.runtime.timing import Percentiles, StageTimes
from trackctl.runtime.tracker import Result


class TracksFrames(Protocol):
    """What the loop asks of a tracker; :class:`trackctl.runtime.tracker.Tracker` is one."""

    def init(self, frame: Frame, box: Sequence[float]) -> None:
        """Learn the target."""

    def update(self, frame: Frame) -> Result:
        """Find the target in the next frame."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run came to.

    Attributes:
        frames: frames tracked, the first included.
        skipped: frames of a live source that newer ones overtook.
        mean_score: mean score of the updates, 0..1; 1 when there was only the first frame.
        status_counts: frames per status, the first included.
        fps: updates per second of wall clock, waiting for frames and writing included; 0 without updates.
        stages: percentiles per stage: ``read``, the tracker's own stages, ``update`` (all of the tracker), ``sinks`` and
            ``frame`` (all of it). The first frame (``init``) does not count.
    """

    frames: int
    skipped: int
    mean_score: float
    status_counts: Mapping[str, int]
    fps: float
    stages: Mapping[str, Percentiles]


def track(
    source: Source,
    tracker: TracksFrames,
    initial_box: Sequence[float],
    sinks: Sequence[Sink] = (),
    *,
    on_frame: Callable[[Frame, Result], object] | None = None,
    max_frames: int | None = None,
) -> Summary:
    """The summary of tracking one target through a source.

    A recording is read fully and in order; of a live source, each update gets the newest frame. The first frame's result is the
    given box with score 1 and TRACKING. The sinks are closed in any case, a live source too; when the source or the tracker
    fails midway, what was written so far is complete and the error is raised.

    Args:
        source: frames.
        tracker: ``init`` is called with the first frame, ``update`` with each further one.
        initial_box: left, top, width, height in pixels of the first frame.
        sinks: take each frame with its result.
        on_frame: called after the sinks; tracking ends when it returns False.
        max_frames: end after this many frames, the first included.

    Raises:
        InputError: ``max_frames`` is below 1, or the box does not fit.
        SourceError: the source has no frames.
        TrackctlError: whatever the source, the tracker or a sink raises.
    """
    times = StageTimes()
    statuses: Counter[str] = Counter()
    frames, score_sum, began_ns = 0, 0.0, perf_counter_ns()
    with ExitStack() as stack:
        for sink in sinks:
            stack.enter_context(sink)
        if max_frames is not None and max_frames < 1:
            raise InputError(f"got max_frames {max_frames}, expected 1 or more")
        if source.live:
            source = stack.enter_context(Newest(source))
        upcoming = iter(source)
        while max_frames is None or frames < max_frames:
            started_ns = perf_counter_ns()
            frame = next(upcoming, None)
            read_ns = perf_counter_ns()
            if frame is None:
                break
            if frames == 0:
                tracker.init(frame, initial_box)
                result = Result(Box(*initial_box).checked(), 1.0, Status.TRACKING, {}, {})
            else:
                result = tracker.update(frame)
            updated_ns = perf_counter_ns()
            for sink in sinks:
                sink.write(frame, result)
            written_ns = perf_counter_ns()
            statuses[result.status.value] += 1
            if frames == 0:
                began_ns = written_ns
            else:
                score_sum += result.score
                stages = {
                    "read": read_ns - started_ns,
                    **result.stages_ns,
                    "update": updated_ns - read_ns,
                    "sinks": written_ns - updated_ns,
                    "frame": written_ns - started_ns,
                }
                for stage, duration_ns in stages.items():
                    times.add(stage, duration_ns)
            frames += 1
            if on_frame is not None and on_frame(frame, result) is False:
                break
        elapsed_ns = perf_counter_ns() - began_ns
        skipped = source.skipped
    if frames == 0:
        raise SourceError(f"{source.name} gave no frame at all: check the source")
    updates = frames - 1
    return Summary(
        frames=frames,
        skipped=skipped,
        mean_score=score_sum / updates if updates else 1.0,
        status_counts=dict(statuses),
        fps=updates * 1e9 / elapsed_ns if updates else 0.0,
        stages=times.summary(),
    )
