"""Looking near first: the whole window is searched only where the near search is not sure, and then in the same frame."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackctl.runtime.confidence import ConfidenceSpec
from trackctl.runtime.contract import TensorSpec
from trackctl.runtime.crop import HostCrop, band_fill, band_tone, frame_fill
from trackctl.runtime.engine import FunctionEngine
from trackctl.runtime.errors import EngineError
from trackctl.runtime.frame import BGR8, GRAY8
from trackctl.runtime.geometry import CropSpec
from trackctl.runtime.multi import MultiTracker
from trackctl.runtime.tracker import Tracker

SPEC = ConfidenceSpec(near_score=0.9, sure_psr=5.0, found_after=2)
WHOLE, NEAR = 41, 21
CROP = CropSpec(template_size=21, search_size=WHOLE)
# Its template square is of 21 px, so that a patch shows the frame's very pixels; its centre is that of the pixel (40, 30).
BOX = (35.25, 25.25, 10.5, 10.5)
COLUMN, ROW = 40, 30
SEEDS = itertools.count()


def spot_finder(side: int, calls: list[int], psr: float, count: int) -> FunctionEngine:
    """Finds the brightest pixel of each row's patch, surer the brighter it is; ``gain`` is its memory."""

    def search(feeds):
        calls.append(side)
        patches = feeds["search"][:, 0] * feeds["gain"][:, :, None]
        rows, columns = np.unravel_index(patches.reshape(count, -1).argmax(axis=1), (side, side))
        moved = feeds["state"].copy()
        moved[:, 0] += columns - side // 2
        moved[:, 1] += rows - side // 2
        quality = np.tile(np.array([[psr, 0.0, 9.0]], dtype=np.float32), (count, 1))
        return {"next_state": moved, "score": patches.max(axis=(1, 2))[:, None], "quality": quality}

    inputs = {"search": (count, 1, side, side), "state": (count, 6), "gain": (count, 1)}
    outputs = {"next_state": (count, 6), "score": (count, 1), "quality": (count, 3)}
    specs = [{name: TensorSpec("float32", shape) for name, shape in part.items()} for part in (inputs, outputs)]
    return FunctionEngine(search, *specs, name=f"spots of {side}")


def engines(calls: list[int], psr: float = 8.0, count: int = 1) -> list[FunctionEngine]:
    template = FunctionEngine(
        lambda feeds: {"gain": np.full((1, 1), 1 / feeds["template"].max(), dtype=np.float32)},
        {"template": TensorSpec("float32", (1, 1, 21, 21))},
        {"gain": TensorSpec("float32", (1, 1))},
    )
    return [template, spot_finder(WHOLE, calls, psr, count), spot_finder(NEAR, calls, psr, count)]


def frame(right: int = 0, down: int = 0, level: int = 200) -> np.ndarray:
    """A spot so far from the first box's centre; the noise differs from frame to frame, as a sensor's does."""
    pixels = np.random.default_rng(next(SEEDS)).integers(0, 8, (60, 80), dtype=np.uint8)
    pixels[ROW + down, COLUMN + right] = level
    return pixels


@pytest.fixture
def calls() -> list[int]:
    return []


def begun(calls: list[int], psr: float = 8.0) -> Tracker:
    tracker = Tracker(*engines(calls, psr), crop=CROP, channels=1, confidence=SPEC)
    tracker.init(frame(), BOX)
    return tracker


def way(tracker: Tracker, *frames: np.ndarray) -> list[tuple[float, float]]:
    """How far the box is from the first one after each frame."""
    boxes = [tracker.update(pixels).box for pixels in frames]
    return [(box.left - BOX[0], box.top - BOX[1]) for box in boxes]


@given(st.integers(-10, 10), st.integers(-10, 10))
def test_a_sure_target_in_the_middle_costs_one_near_search_and_is_where_the_whole_search_finds_it(right, down):
    calls: list[int] = []
    frames = [frame(right, down), frame()]
    found = way(begun(calls), *frames)
    assert calls == [NEAR, NEAR]
    assert found == [(right, down), (0.0, 0.0)]
    template, search, _ = engines(calls)
    without = Tracker(template, search, crop=CROP, channels=1, confidence=SPEC)
    without.init(frame(), BOX)
    assert way(without, *frames) == found
    assert calls[2:] == [WHOLE, WHOLE]


def test_what_is_outside_the_middle_is_found_in_the_same_frame_and_near_again_after_that(calls):
    assert way(begun(calls), frame(17, -17), frame(17, -17)) == [(17.0, -17.0), (17.0, -17.0)]
    assert calls == [NEAR, WHOLE, NEAR]  # still the near window first: the target is TRACKING


def test_a_flat_peak_is_not_sure(calls):
    assert way(begun(calls, psr=4.9), frame(3, 3)) == [(3.0, 3.0)]
    assert calls == [NEAR, WHOLE]


def test_what_is_not_tracking_is_looked_for_in_the_whole_window_alone(calls):
    """A target that fades: the near search finds it no more, then the tracker waits for two sure frames."""
    tracker = begun(calls)
    found = [(tracker.update(frame(level=level)).status, calls.copy(), calls.clear()) for level in (200, 0, 200, 200, 200)]
    assert [(status.value, searches) for status, searches, _ in found] == [
        ("TRACKING", [NEAR]),
        ("UNCERTAIN", [NEAR, WHOLE]),
        ("UNCERTAIN", [WHOLE]),
        ("TRACKING", [WHOLE]),
        ("TRACKING", [NEAR]),
    ]


def test_the_time_of_both_searches_is_in_the_stages(calls):
    tracker = begun(calls)
    for pixels in (frame(2, 2), frame(17, -17)):
        spent = tracker.update(pixels).stages_ns
        assert min(spent.values()) > 0
        assert sum(ns for stage, ns in spent.items() if stage != "update") <= spent["update"]


def test_closing_closes_all(calls):
    template, search, near = engines(calls)
    with Tracker(template, search, near, crop=CROP, channels=1):
        pass
    for engine in (template, search, near):
        with pytest.raises(EngineError, match="is closed"):
            engine.run({})


@given(st.integers(-10, 10), st.integers(-10, 10))
def test_of_several_targets_only_one_that_is_not_sure_makes_them_look_further(right, down):
    calls: list[int] = []
    many = MultiTracker(*engines(calls, count=3), crop=CROP, channels=1, confidence=SPEC)
    first = frame()
    first[ROW, COLUMN - 25] = 200
    targets = [many.add(first, box) for box in (BOX, (BOX[0] - 25, *BOX[1:]))]
    moved = frame(right, down)
    moved[ROW, COLUMN - 30] = 210
    boxes = [result.box for result in many.update(moved).values()]
    assert calls == [NEAR]
    assert [box.left for box in boxes] == [BOX[0] + right, BOX[0] - 30]
    gone = frame(right, down)  # the second one's
    statuses = {target: result.status.value for target, result in many.update(gone).items()}
    assert list(statuses) == targets
    assert statuses[targets[0]] == "TRACKING"
    assert calls == [NEAR, NEAR, WHOLE]
    many.close()


@given(st.floats(-20.0, 100.0), st.floats(-20.0, 80.0), st.floats(8.0, 150.0), st.sampled_from(["gray", "bgr", "bands"]))
def test_the_near_patch_is_the_middle_of_the_whole_one(x, y, side, kind):
    rng = np.random.default_rng(0)
    channels = {"gray": 1, "bgr": 3, "bands": 5}[kind]
    pixels = rng.integers(0, 255, (60, 80, channels), dtype=np.uint8)
    crops = [HostCrop(63, channels), HostCrop(31, channels, whole=63)]
    if kind == "bands":
        planes = [np.ascontiguousarray(pixels[:, :, band]) for band in range(channels)]
        tone = band_tone(planes, np.zeros(channels, dtype=np.float32), np.ones(channels, dtype=np.float32))
        whole, near = (crop.bands(planes, (x, y), side, band_fill(planes), tone) for crop in crops)
    else:
        layout, shown = (BGR8, pixels) if kind == "bgr" else (GRAY8, np.ascontiguousarray(pixels[:, :, 0]))
        whole, near = (crop(shown, layout, (x, y), side, frame_fill(shown)) for crop in crops)
    assert near.shape == (1, channels, 31, 31)
    np.testing.assert_allclose(near, whole[:, :, 16:47, 16:47], atol=0.01)
