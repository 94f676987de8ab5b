"""Source -> tracker -> sinks, with the time of every stage; for one target or several."""

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

Results = Mapping[int, Result]


class TracksFrames(Protocol):
    """What the loop asks of a tracker; :class:`trackctl.runtime.tracker.Tracker` is one."""

    def init(self, frame: Frame, box: Sequence[float]) -> None:
        """Learn the target."""

    def update(self, frame: Frame) -> Result:
        """Find the target in the next frame."""


class TracksTargets(Protocol):
    """What the loop asks of a tracker of several targets; :class:`trackctl.runtime.multi.MultiTracker` is one."""

    def add(self, frame: Frame, box: Sequence[float]) -> int:
        """Learn one more target; its number."""

    def update(self, frame: Frame) -> Results:
        """Find every target in the next frame."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run came to.

    Attributes:
        frames: frames tracked, the first included.
        targets: targets followed in each of them.
        skipped: frames of a live source that newer ones overtook.
        mean_score: mean score of the updates, over all targets, 0..1; 1 when there was only the first frame.
        status_counts: frames per status, the first included; with several targets each of them counts.
        fps: updates per second of wall clock, waiting for frames and writing included; 0 without updates.
        stages: percentiles per stage: ``read``, of a single target the tracker's own stages, ``update`` (all of the tracker),
            ``sinks`` and ``frame`` (all of it). The first frame (``init``) does not count.
    """

    frames: int
    targets: int
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

    def begin(frame: Frame) -> Results:
        tracker.init(frame, initial_box)
        return {0: _given(initial_box)}

    return _play(
        source,
        begin,
        lambda frame: {0: tracker.update(frame)},
        sinks,
        lambda sink, frame, results: sink.write(frame, results[0]),
        None if on_frame is None else lambda frame, results: on_frame(frame, results[0]),
        max_frames,
    )


def track_targets(
    source: Source,
    tracker: TracksTargets,
    initial_boxes: Sequence[Sequence[float]],
    sinks: Sequence[Sink] = (),
    *,
    on_frame: Callable[[Frame, Results], object] | None = None,
    max_frames: int | None = None,
) -> Summary:
    """The summary of tracking several targets through a source, otherwise as :func:`track`.

    Args:
        source: frames.
        tracker: ``add`` is called with the first frame for each box, ``update`` with each further frame.
        initial_boxes: left, top, width, height in pixels of the first frame, one per target.
        sinks: take each frame with the results by target number.
        on_frame: called after the sinks; tracking ends when it returns False.
        max_frames: end after this many frames, the first included.

    Raises:
        InputError: there are no boxes, more than the tracker has room for, or ``max_frames`` is below 1.
        SourceError: the source has no frames.
        TrackctlError: whatever the source, the tracker or a sink raises.
    """
    if not initial_boxes:
        raise InputError("got no first box, expected one per target: give left, top, width and height of each")
    return _play(
        source,
        lambda frame: {tracker.add(frame, box): _given(box) for box in initial_boxes},
        tracker.update,
        sinks,
        lambda sink, frame, results: sink.write_targets(frame, results),
        on_frame,
        max_frames,
    )


def _given(box: Sequence[float]) -> Result:
    return Result(Box(*box).checked(), 1.0, Status.TRACKING, {}, {})


def _play(
    source: Source,
    begin: Callable[[Frame], Results],
    update: Callable[[Frame], Results],
    sinks: Sequence[Sink],
    write: Callable[[Sink, Frame, Results], None],
    on_frame: Callable[[Frame, Results], object] | None,
    max_frames: int | None,
) -> Summary:
    """The summary of a run whose first frame goes to ``begin`` and all others to ``update``."""
    times = StageTimes()
    statuses: Counter[str] = Counter()
    frames, score_sum, began_ns = 0, 0.0, perf_counter_ns()
    results: Results = {}
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
            results = begin(frame) if frames == 0 else update(frame)
            updated_ns = perf_counter_ns()
            for sink in sinks:
                write(sink, frame, results)
            written_ns = perf_counter_ns()
            statuses.update(result.status.value for result in results.values())
            if frames == 0:
                began_ns = written_ns
            else:
                score_sum += sum(result.score for result in results.values())
                # Targets that share a search wait for each other, so their stages do not add up to the whole.
                own = next(iter(results.values())).stages_ns if len(results) == 1 else {}
                stages = {
                    "read": read_ns - started_ns,
                    **own,
                    "update": updated_ns - read_ns,
                    "sinks": written_ns - updated_ns,
                    "frame": written_ns - started_ns,
                }
                for stage, duration_ns in stages.items():
                    times.add(stage, duration_ns)
            frames += 1
            if on_frame is not None and on_frame(frame, results) is False:
                break
        elapsed_ns = perf_counter_ns() - began_ns
        skipped = source.skipped
    if frames == 0:
        raise SourceError(f"{source.name} gave no frame at all: check the source")
    updates = frames - 1
    return Summary(
        frames=frames,
        targets=len(results),
        skipped=skipped,
        mean_score=score_sum / (updates * len(results)) if updates else 1.0,
        status_counts=dict(statuses),
        fps=updates * 1e9 / elapsed_ns if updates else 0.0,
        stages=times.summary(),
    )
