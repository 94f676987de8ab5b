"""The loop over a real Tracker, and the newest-frame policy over a paced camera."""

from __future__ import annotations

import json
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_tracker import correlation_tracker, scene

from trackctl.runtime.errors import BoxError, FrameError, InputError, SourceError
from trackctl.runtime.frame import Frame
from trackctl.runtime.geometry import Box, iou
from trackctl.runtime.loop import track
from trackctl.runtime.sinks import Sink
from trackctl.runtime.sinks.jsonl import JsonLinesSink
from trackctl.runtime.sinks.video import VideoSink
from trackctl.runtime.sources import Source, open_source
from trackctl.runtime.sources.newest import Newest
from trackctl.runtime.tracker import Result, Status


def write_scene(path: Path, count: int = 12, dtype: type = np.uint8) -> tuple[str, list[Box]]:
    frames, boxes = zip(*(scene(index, dtype) for index in range(count)), strict=True)
    np.save(path, np.array(frames))
    return str(path), list(boxes)


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def frames_in(path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.read()[0]:
        count += 1
    return count


class Camera(Source):
    """A live source that takes a picture every few milliseconds whether it is awaited or not."""

    live = True

    def __init__(self, count: int, period_s: float = 0.004, error: Exception | None = None) -> None:
        self.name, self.fps, self.frame_hw = "camera", 1 / period_s, (240, 320)
        self.closed = 0
        self.closed_by: int | None = None
        self._count, self._period_s, self._error = count, period_s, error

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._count):
            time.sleep(self._period_s)
            yield Frame(scene(index % 40)[0], time.monotonic_ns(), index)
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self.closed += 1
        self.closed_by = threading.get_ident()


class Slow:
    """A tracker that takes its time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.indices: list[int] = []

    def init(self, frame: Frame, box) -> None:
        self.indices.append(frame.index)

    def update(self, frame: Frame) -> Result:
        time.sleep(self._seconds)
        self.indices.append(frame.index)
        return Result(Box(1, 2, 3, 4), 0.5, Status.UNCERTAIN, {}, {"crop": 1000})


class Recorder(Sink):
    def __init__(self, fail_at: int | None = None, fail_on_close: bool = False) -> None:
        self.indices: list[int] = []
        self.closed = 0
        self._fail_at, self._fail_on_close = fail_at, fail_on_close

    def write(self, frame: Frame, result: Result) -> None:
        if frame.index == self._fail_at:
            raise InputError("the sink is full")
        self.indices.append(frame.index)

    def close(self) -> None:
        self.closed += 1
        if self._fail_on_close:
            raise InputError("the sink cannot be closed")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tracks_a_recording_into_both_sinks(tmp_path: Path, dtype: type) -> None:
    uri, truth = write_scene(tmp_path / "clip.npy", dtype=dtype)
    seen: list[int] = []
    with open_source(uri, fps=50) as source, correlation_tracker() as tracker:
        sinks = [JsonLinesSink(tmp_path / "out.jsonl"), VideoSink(tmp_path / "out.mp4", source.fps)]
        summary = track(source, tracker, truth[0], sinks, on_frame=lambda frame, result: seen.append(frame.index))
    lines = records(tmp_path / "out.jsonl")
    assert [line["frame"] for line in lines] == seen == list(range(12))
    assert [line["t_ns"] for line in lines] == [index * 20_000_000 for index in range(12)]
    assert (lines[0]["box"], lines[0]["score"], lines[0]["status"]) == (list(truth[0]), 1.0, "TRACKING")
    assert (lines[0]["quality"], lines[0]["ms"]) == ({}, {})
    assert iou([line["box"] for line in lines], truth).min() > 0.8
    assert {line["status"] for line in lines} == {"TRACKING"}
    assert lines[1]["ms"].keys() >= {"crop", "engine", "update"}
    assert frames_in(tmp_path / "out.mp4") == 12
    assert (summary.frames, summary.skipped, summary.status_counts) == (12, 0, {"TRACKING": 12})
    assert summary.mean_score == pytest.approx(np.mean([line["score"] for line in lines[1:]]), abs=1e-5)
    assert summary.fps > 1


def test_stages_are_timed_and_add_up(tmp_path: Path) -> None:
    uri, truth = write_scene(tmp_path / "clip.npy", 20)
    with open_source(uri) as source:
        summary = track(source, correlation_tracker(), truth[0], [Recorder()])
    stages = summary.stages
    assert next(iter(stages)) == "read"
    assert list(stages)[-2:] == ["sinks", "frame"]
    assert stages.keys() >= {"crop", "engine", "update"}
    for percentiles in stages.values():
        assert 0 < percentiles.p50_ms <= percentiles.p95_ms <= percentiles.p99_ms
    assert stages["crop"].p50_ms + stages["engine"].p50_ms <= 1.05 * stages["update"].p50_ms + 0.05
    assert stages["read"].p50_ms + stages["update"].p50_ms <= 1.05 * stages["frame"].p50_ms + 0.05


def test_the_loop_measures_the_update_of_any_tracker() -> None:
    with open_source("synth:?frames=6&size=64x64") as source:
        summary = track(source, Slow(0.01), (1, 1, 5, 5))
    assert summary.stages["update"].p50_ms >= 10
    assert summary.stages["crop"].p50_ms == pytest.approx(0.001, rel=0.01)
    assert summary.fps < 100
    assert summary.mean_score == 0.5
    assert summary.status_counts == {"TRACKING": 1, "UNCERTAIN": 5}


@pytest.mark.parametrize("wanted, got", [(1, 1), (5, 5), (99, 12), (None, 12)])
def test_max_frames(tmp_path: Path, wanted: int | None, got: int) -> None:
    uri, truth = write_scene(tmp_path / "clip.npy")
    sink = Recorder()
    with open_source(uri) as source:
        summary = track(source, correlation_tracker(), truth[0], [sink], max_frames=wanted)
    assert summary.frames == len(sink.indices) == got
    if got == 1:
        assert (summary.mean_score, summary.fps, summary.stages) == (1.0, 0.0, {})


def test_on_frame_can_end_the_run(tmp_path: Path) -> None:
    uri, truth = write_scene(tmp_path / "clip.npy")
    with open_source(uri, loop=True) as source:
        summary = track(source, correlation_tracker(), truth[0], on_frame=lambda frame, result: frame.index < 30)
    assert summary.frames == 31


def test_a_source_that_fails_midway_leaves_complete_files(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    for index in range(8):
        cv2.imwrite(str(folder / f"{index}.png"), scene(index)[0])
    (folder / "5.png").write_bytes(b"damaged")
    sinks = [JsonLinesSink(tmp_path / "out.jsonl"), VideoSink(tmp_path / "out.mp4", 25)]
    with open_source(str(folder)) as source, pytest.raises(SourceError, match=r"5\.png"):
        track(source, correlation_tracker(), scene(0)[1], sinks)
    assert [line["frame"] for line in records(tmp_path / "out.jsonl")] == [0, 1, 2, 3, 4]
    assert frames_in(tmp_path / "out.mp4") == 5


def test_a_tracker_that_fails_midway_leaves_complete_files(tmp_path: Path) -> None:
    uri, truth = write_scene(tmp_path / "clip.npy")
    tracker = correlation_tracker()
    sinks = [JsonLinesSink(tmp_path / "out.jsonl"), VideoSink(tmp_path / "out.mp4", 25)]

    def close_at_frame_6(frame: Frame, result: Result) -> None:
        if frame.index == 6:
            tracker.close()

    with open_source(uri) as source, pytest.raises(InputError, match="before init"):
        track(source, tracker, truth[0], sinks, on_frame=close_at_frame_6)
    assert len(records(tmp_path / "out.jsonl")) == frames_in(tmp_path / "out.mp4") == 7


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_an_interrupt_closes_the_sinks(tmp_path: Path, error: type[BaseException]) -> None:
    uri, truth = write_scene(tmp_path / "clip.npy")
    sinks = [JsonLinesSink(tmp_path / "out.jsonl"), VideoSink(tmp_path / "out.mp4", 25)]

    def interrupt(frame: Frame, result: Result) -> None:
        if frame.index == 3:
            raise error

    with open_source(uri) as source, pytest.raises(error):
        track(source, correlation_tracker(), truth[0], sinks, on_frame=interrupt)
    assert len(records(tmp_path / "out.jsonl")) == frames_in(tmp_path / "out.mp4") == 4


def test_all_sinks_are_closed_when_one_fails(tmp_path: Path) -> None:
    uri, truth = write_scene(tmp_path / "clip.npy")
    sinks = [Recorder(), Recorder(fail_at=4), Recorder(), Recorder(fail_on_close=True), Recorder()]
    with open_source(uri) as source, pytest.raises(InputError, match="cannot be closed") as caught:
        track(source, correlation_tracker(), truth[0], sinks)
    assert "the sink is full" in str(caught.value.__context__)
    assert [sink.closed for sink in sinks] == [1] * 5
    assert [len(sink.indices) for sink in sinks] == [5, 4, 4, 4, 4]


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (900, 0, 5, 5), (1, 2, 3), (float("nan"), 0, 5, 5)])
def test_a_wrong_box_is_refused_and_the_sinks_closed(tmp_path: Path, box: tuple[float, ...]) -> None:
    uri, _ = write_scene(tmp_path / "clip.npy")
    sink = Recorder()
    with open_source(uri) as source, pytest.raises(InputError):
        track(source, correlation_tracker(), box, [sink])
    assert (sink.indices, sink.closed) == ([], 1)


def test_a_wrong_first_frame_of_the_tracker_propagates(tmp_path: Path) -> None:
    uri, truth = write_scene(tmp_path / "clip.npy")
    tracker = correlation_tracker()
    with open_source(uri) as source, pytest.raises(BoxError):
        track(source, tracker, truth[0]._replace(left=5000.0))
    with open_source(uri) as source, pytest.raises(InputError, match="max_frames 0"):
        track(source, tracker, truth[0], max_frames=0)


def test_a_camera_without_frames_is_an_error() -> None:
    sink, camera = Recorder(), Camera(0)
    with pytest.raises(SourceError, match="camera gave no frame"):
        track(camera, Slow(0), (1, 1, 5, 5), [sink])
    assert sink.closed == 1
    assert camera.closed == 1


def test_ten_thousand_updates_do_not_grow_the_memory(tmp_path: Path) -> None:
    sizes: dict[int, int] = {}

    def measure(frame: Frame, result: Result) -> None:
        if frame.index in (1000, 9999):
            sizes[frame.index] = tracemalloc.get_traced_memory()[0]

    np.save(tmp_path / "clip.npy", np.zeros((50, 8, 8), np.uint8))
    with open_source(str(tmp_path / "clip.npy"), loop=True) as source:
        tracemalloc.start()
        try:
            summary = track(source, Slow(0), (1, 1, 5, 5), max_frames=10_000, on_frame=measure)
        finally:
            tracemalloc.stop()
    assert summary.frames == 10_000
    # Slow itself remembers 9,000 frame numbers, 8 bytes each and their integers.
    assert sizes[9999] - sizes[1000] < 9000 * 48 + 20_000


# The newest frame


def test_a_slow_tracker_gets_the_newest_frames_of_a_camera() -> None:
    camera, tracker, sink = Camera(100), Slow(0.02), Recorder()
    summary = track(camera, tracker, (1, 1, 5, 5), [sink])
    assert tracker.indices == sink.indices == sorted(set(tracker.indices))
    assert tracker.indices[-1] == 99
    assert summary.frames == len(tracker.indices) < 60
    assert summary.frames + summary.skipped == 100
    assert camera.closed == 1
    assert camera.closed_by != threading.get_ident()


def test_a_fast_tracker_misses_nothing() -> None:
    summary = track(Camera(40, period_s=0.01), Slow(0), (1, 1, 5, 5))
    assert summary.frames + summary.skipped == 40
    assert summary.skipped <= 4


def test_frames_are_no_older_than_one_period() -> None:
    ages_ms = []
    with Newest(Camera(60)) as newest:
        for frame in newest:
            ages_ms.append((time.monotonic_ns() - frame.timestamp_ns) / 1e6)
            time.sleep(0.02)
    # 15 frames would queue up behind each other without the policy, 80 ms and growing.
    assert np.median(ages_ms) < 15


def test_an_error_of_the_camera_comes_after_its_last_frame() -> None:
    tracker, sink = Slow(0.02), Recorder()
    with pytest.raises(FrameError, match="cable"):
        track(Camera(30, error=FrameError("the cable was pulled")), tracker, (1, 1, 5, 5), [sink])
    assert tracker.indices[-1] == 29
    assert sink.closed == 1


def test_max_frames_stops_the_camera() -> None:
    camera = Camera(10_000)
    summary = track(camera, Slow(0), (1, 1, 5, 5), max_frames=5)
    assert summary.frames == 5
    assert camera.closed == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("trackctl")]


def test_closing_before_the_first_frame_closes_the_camera() -> None:
    camera = Camera(3)
    with Newest(camera):
        pass
    assert camera.closed == 1


def test_a_camera_that_hangs_does_not_hang_the_end() -> None:
    class Hanging(Camera):
        release = threading.Event()

        def __iter__(self) -> Iterator[Frame]:
            yield from super().__iter__()
            self.release.wait(30)

    camera = Hanging(3)
    newest = Newest(camera, patience_s=0.1)
    assert next(iter(newest)).index == 0
    time.sleep(0.05)
    started = time.monotonic()
    newest.close()
    assert time.monotonic() - started < 5
    assert camera.closed == 0
    camera.release.set()
    for _ in range(200):
        if camera.closed:
            break
        time.sleep(0.01)
    assert camera.closed == 1


def test_a_real_infrared_clip(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "sequences" / "tir_antiuav9"
    boxes = [[float(value) for value in line.split()] for line in (folder / "groundtruth.txt").read_text().splitlines()[:40]]
    with open_source(str(folder / "video.avi")) as source:
        sinks = [JsonLinesSink(tmp_path / "out.jsonl"), VideoSink(tmp_path / "out.mp4", source.fps)]
        summary = track(source, correlation_tracker(), boxes[0], sinks, max_frames=40)
    assert summary.frames == frames_in(tmp_path / "out.mp4") == 40
    assert iou([line["box"] for line in records(tmp_path / "out.jsonl")], boxes).mean() > 0.5
