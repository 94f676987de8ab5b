"""Where a missing target is looked for, and that the Tracker finds it there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_tracker import CROP, HALF, STATE, find, learn, scene

from trackctl.runtime.confidence import ConfidenceSpec, Status
from trackctl.runtime.contract import TensorSpec
from trackctl.runtime.engine import FunctionEngine
from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Box, iou
from trackctl.runtime.redetect import Redetection, Sweep
from trackctl.runtime.tracker import Tracker


def searching(redetection: Redetection | None) -> Tracker:
    template = FunctionEngine(learn, {"template": TensorSpec("float32", (1, 3, 127, 127))}, {"kernel": HALF})
    search = FunctionEngine(find, {"search": TensorSpec("float32", (1, 3, 255, 255)), "state": STATE, "kernel": HALF}, {})
    return Tracker(template, search, crop=CROP, redetection=redetection, confidence=ConfidenceSpec(sure_score=0.8))


@given(
    x=st.floats(0, 640), y=st.floats(0, 480), side=st.floats(40, 400), windows=st.integers(1, 7), step=st.sampled_from([0.4, 0.5])
)
def test_a_whole_turn_looks_at_every_place_of_the_frame(x, y, side, windows, step) -> None:
    spec = Redetection(windows=windows, step=step, near=100)
    sweep = Sweep(spec, Box.from_centre(x, y, 10, 10), side, (480, 640))
    centres: list[tuple[float, float]] = [(x, y)]
    for _ in range(len(sweep) // windows + 1):
        centres += sweep.next()
    grid = np.stack(np.meshgrid(np.linspace(0, 640, 9), np.linspace(0, 480, 7)), axis=-1).reshape(-1, 2)
    apart = np.abs(grid[:, None] - np.array(centres)[None]).max(axis=2).min(axis=1)
    assert apart.max() <= step * side / 2 + 1e-6
    assert sweep.next()


def test_it_looks_near_first_and_further_as_time_goes_by() -> None:
    spec = Redetection(windows=8, near=1, speed=0.5, step=0.5)
    sweep = Sweep(spec, Box.from_centre(320, 240, 10, 10), 60.0, (480, 640))
    turns = [np.array(sweep.next()) - (320, 240) for _ in range(12)]
    furthest = [np.abs(turn).max() / 30 for turn in turns]
    assert furthest[0] == furthest[1] == 1
    assert max(furthest) > 3


def test_a_target_that_comes_back_elsewhere_is_found_only_by_looking_elsewhere() -> None:
    found = {}
    for redetection in (None, Redetection(after=2)):
        tracker = searching(redetection)
        frame, box = scene(0)
        tracker.init(frame, box)
        for index in range(1, 6):
            tracker.update(scene(index)[0])
        ground = np.kron(np.random.RandomState(7).randint(60, 110, (15, 20)), np.ones((16, 16))).astype(np.uint8)
        for index in range(8):
            hidden = ground.copy()
            hidden[0, index] = 0
            assert tracker.update(hidden).status is not Status.TRACKING
        statuses, overlap = [], 0.0
        for index in range(48, 60):
            frame, truth = scene(index)
            result = tracker.update(frame)
            statuses.append(result.status)
            overlap = float(iou(result.box, truth))
        found[redetection is not None] = (statuses[-1], overlap > 0.8)
    assert found[True] == (Status.TRACKING, True)
    assert not found[False][1]


@pytest.mark.parametrize("change", [{"windows": 0}, {"after": 0}, {"near": 0}, {"step": 0.0}, {"step": 1.5}, {"speed": -1.0}])
def test_impossible_sweeps_are_refused(change) -> None:
    with pytest.raises(InputError, match=r"got windows .* expected 1 or more"):
        Redetection(**change)
