"""Targets come and go, each keeps its own rows, and one run serves all."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trackctl.runtime.contract import TensorSpec
from trackctl.runtime.engine import FunctionEngine
from trackctl.runtime.errors import FrameError, InputError
from trackctl.runtime.geometry import CropSpec
from trackctl.runtime.loop import track_targets
from trackctl.runtime.multi import MultiTracker
from trackctl.runtime.sinks import Sink
from trackctl.runtime.sinks.jsonl import JsonLinesSink
from trackctl.runtime.sources import open_source
from trackctl.runtime.tracker import Tracker

N = 3
CROP = CropSpec()
BOXES = [(20.0, 30.0, 16.0, 16.0), (80.0, 50.0, 24.0, 16.0), (50.0, 70.0, 20.0, 30.0), (5.0, 5.0, 10.0, 10.0)]


def specs(count: int) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    inputs = {"search": (count, 1, 255, 255), "state": (count, 6), "level": (2 * count, 1)}
    outputs = {"next_state": (count, 6), "score": (count, 1), "quality": (count, 3), "cls": (count, 2, 1, 1)}
    return tuple({name: TensorSpec("float32", shape) for name, shape in part.items()} for part in (inputs, outputs))


def engines(count: int, runs: list[int]) -> tuple[FunctionEngine, FunctionEngine]:
    """A tracker that moves each box by what its memory (two rows a target) and its patch say."""

    def template(feeds):
        mean = feeds["template"].mean()
        return {"level": np.array([[mean], [mean / 2]], dtype=np.float32)}

    def search(feeds):
        runs.append(count)
        rows = len(feeds["search"])
        moved = feeds["state"].copy()
        level = feeds["level"].reshape(rows, 2)
        moved[:, 0] += level[:, 0] / 100.0
        moved[:, 1] += level[:, 1] / 100.0 + feeds["search"].mean(axis=(1, 2, 3)) / 100.0
        score = np.full((rows, 1), 0.9, dtype=np.float32)
        quality = np.tile(np.array([[9.0, 0.1, 20.0]], dtype=np.float32), (rows, 1))
        return {"next_state": moved, "score": score, "quality": quality, "cls": level.reshape(rows, 2, 1, 1)}

    patch = {"template": TensorSpec("float32", (1, 1, 127, 127))}
    return FunctionEngine(template, patch, {"level": TensorSpec("float32", (2, 1))}), FunctionEngine(search, *specs(count))


def frames(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (120, 160), dtype=np.uint8) for _ in range(count)]


def tracker(runs: list[int] | None = None) -> MultiTracker:
    return MultiTracker(*engines(N, [] if runs is None else runs), crop=CROP, channels=1)


def test_targets_come_and_go_and_each_is_followed_as_if_alone():
    shown, runs = frames(8), []
    many, alone = tracker(runs), {}
    for index, frame in enumerate(shown):
        if index in (1, 2, 3):
            target = many.add(frame, BOXES[index - 1])
            alone[target] = Tracker(*engines(1, []), crop=CROP, channels=1)
            alone[target].init(frame, BOXES[index - 1])
        if index == 5:
            many.remove(1)
            del alone[1]
            assert many.add(frame, BOXES[3]) == 3  # takes the free slot, with a number of its own
            alone[3] = Tracker(*engines(1, []), crop=CROP, channels=1)
            alone[3].init(frame, BOXES[3])
        if index > 1:
            seen = len(runs)
            results = many.update(frame)
            assert len(runs) == seen + 1
            assert set(results) == set(many.targets) == set(alone)
            for target, one in alone.items():
                expected = one.update(frame)
                np.testing.assert_allclose(results[target].box, expected.box, atol=1e-6)
                assert results[target].score == expected.score
    assert many.targets == (0, 2, 3)
    assert many.capacity == N


def test_a_full_tracker_refuses_one_more_and_goes_on():
    shown = frames(2)
    many = tracker()
    for box in BOXES[:N]:
        many.add(shown[0], box)
    with pytest.raises(InputError, match=r"one more target than the 3 .*export with --targets 4"):
        many.add(shown[0], BOXES[3])
    assert len(many.update(shown[1])) == N


def test_mistakes_are_named():
    shown = frames(2)
    many = tracker()
    with pytest.raises(InputError, match=r"update.. without targets"):
        many.update(shown[0])
    with pytest.raises(InputError, match=r"got the target 7, expected one of \[\]"):
        many.remove(7)
    many.add(shown[0], BOXES[0])
    with pytest.raises(FrameError, match=r"expected .*as in init"):
        many.update(np.zeros((10, 10), dtype=np.uint8))
    assert set(many.update(shown[1])) == {0}


def test_a_box_that_is_refused_takes_no_slot():
    many = tracker()
    with pytest.raises(InputError):
        many.add(frames(1)[0], (500.0, 500.0, 10.0, 10.0))
    assert many.targets == ()


class Collected(Sink):
    """Keeps what a sink that knows one target is given."""

    def __init__(self) -> None:
        self.boxes = []

    def write(self, frame, result) -> None:
        self.boxes.append((frame.index, result.box))


def clip(tmp_path, count: int):
    np.save(tmp_path / "clip.npy", np.array(frames(count)))
    return open_source(str(tmp_path / "clip.npy"))


def test_the_loop_plays_a_clip_for_several_targets(tmp_path):
    seen, collected = [], Collected()
    with clip(tmp_path, 5) as source:
        lines = JsonLinesSink(tmp_path / "out.jsonl")
        summary = track_targets(
            source, tracker(), BOXES[:2], [lines, collected], on_frame=lambda frame, results: seen.append(sorted(results))
        )
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(record["frame"], record["target"]) for record in records] == [(i, target) for i in range(5) for target in (0, 1)]
    assert [record["box"] for record in records[:2]] == [list(box) for box in BOXES[:2]]
    assert [(index, [round(float(value), 3) for value in box]) for index, box in collected.boxes] == [
        (record["frame"], record["box"]) for record in records
    ]
    assert seen == [[0, 1]] * 5
    assert (summary.frames, summary.targets) == (5, 2)
    assert sum(summary.status_counts.values()) == 10
    assert summary.mean_score == pytest.approx(0.9)
    # Targets wait for each other: only the stages of the whole are told.
    assert set(summary.stages) == {"read", "update", "sinks", "frame"}


def test_the_loop_of_one_target_tells_its_stages(tmp_path):
    with clip(tmp_path, 4) as source:
        summary = track_targets(source, tracker(), BOXES[:1], max_frames=3)
    assert (summary.frames, summary.targets) == (3, 1)
    assert {"crop", "engine", "update"} <= set(summary.stages)


@pytest.mark.parametrize(("boxes", "says"), [([], "got no first box"), (BOXES, "one more target than the 3")])
def test_the_loop_refuses_too_few_and_too_many_boxes(tmp_path, boxes, says):
    with clip(tmp_path, 2) as source, pytest.raises(InputError, match=says):
        track_targets(source, tracker(), boxes)


def test_both_engines_are_closed():
    template, search = engines(N, [])
    with MultiTracker(template, search, crop=CROP, channels=1) as many:
        many.add(frames(1)[0], BOXES[0])
    assert many.targets == ()
    for engine in (template, search):
        with pytest.raises(Exception, match="is closed"):
            engine.run({})
