"""Looking near first: the whole window is searched only where the near search is not sure, and then in the same frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackctl.runtime.confidence import ConfidenceSpec
from trackctl.runtime.contract import TensorSpec
from trackctl.runtime.engine import Engine, FunctionEngine
from trackctl.runtime.errors import EngineError
from trackctl.runtime.geometry import CropSpec
from trackctl.runtime.near import NearFirst, middle
from trackctl.runtime.tracker import Tracker

SPEC = ConfidenceSpec(near_score=0.9, sure_psr=5.0)
WHOLE, NEAR = 41, 21
STATE = np.array([[320.0, 256.0, 40.0, 30.0, 640.0, 512.0]], dtype=np.float32)


def spot_finder(side: int, calls: list[int], psr: float = 8.0) -> FunctionEngine:
    """Finds the brightest pixel of its patch, surer the brighter it is; ``gain`` is its memory."""

    def search(feeds):
        calls.append(side)
        patch = feeds["search"][0, 0] * feeds["gain"][0, 0]
        row, column = np.unravel_index(patch.argmax(), patch.shape)
        moved = feeds["state"].copy()
        moved[0, :2] += (column - side // 2, row - side // 2)
        return {
            "next_state": moved,
            "score": np.array([[patch.max()]], dtype=np.float32),
            "quality": np.array([[psr, 0.0, 9.0]], dtype=np.float32),
            "cls": patch[None, None],
        }

    inputs = {"search": TensorSpec("float32", (1, 1, side, side)), "state": TensorSpec("float32", (1, 6))}
    inputs["gain"] = TensorSpec("float32", (1, 1))
    outputs = {
        "next_state": TensorSpec("float32", (1, 6)),
        "score": TensorSpec("float32", (1, 1)),
        "quality": TensorSpec("float32", (1, 3)),
        "cls": TensorSpec("float32", (1, 1, side, side)),
    }
    return FunctionEngine(search, inputs, outputs, name=f"spots of {side}")


def patch(row: int, column: int, level: float = 1.0) -> np.ndarray:
    pixels = np.zeros((1, 1, WHOLE, WHOLE), dtype=np.float32)
    pixels[0, 0, row, column] = level
    return pixels


@pytest.fixture
def calls() -> list[int]:
    return []


@pytest.fixture
def engine(calls) -> NearFirst:
    made = NearFirst(spot_finder(NEAR, calls), spot_finder(WHOLE, calls), SPEC)
    made.bind({"gain": np.ones((1, 1), dtype=np.float32)})
    return made


def moved(outputs) -> tuple[float, float]:
    return tuple((outputs["next_state"] - STATE)[0, :2].tolist())


@given(st.integers(1, 40), st.integers(0, 20))
def test_the_middle_has_as_much_on_either_side(size, margin):
    whole = np.arange((size + 2 * margin) ** 2).reshape(1, 1, size + 2 * margin, -1)
    np.testing.assert_array_equal(
        np.pad(middle(whole, size)[0, 0], margin), np.where(border(whole[0, 0], margin), 0, whole[0, 0])
    )


def border(grid: np.ndarray, margin: int) -> np.ndarray:
    rows, columns = np.indices(grid.shape)
    side = len(grid)
    inner = [(axis >= margin) & (axis < side - margin) for axis in (rows, columns)]
    return ~(inner[0] & inner[1])


def test_it_is_an_engine_of_whole_patches(engine, calls):
    assert isinstance(engine, Engine)
    assert engine.name == f"spots of {WHOLE}"
    assert engine.inputs["search"].shape == (1, 1, WHOLE, WHOLE)
    assert list(engine.outputs) == ["next_state", "score", "quality"]  # maps have two sizes


@given(st.integers(10, 30), st.integers(10, 30))
def test_a_sure_target_in_the_middle_costs_one_near_search_and_is_where_the_whole_search_finds_it(row, column):
    calls: list[int] = []
    engine = NearFirst(spot_finder(NEAR, calls), spot_finder(WHOLE, calls), SPEC)
    engine.bind({"gain": np.ones((1, 1), dtype=np.float32)})
    for _ in range(2):
        found = engine.run({"search": patch(row, column), "state": STATE})
    assert calls == [NEAR, NEAR]
    assert moved(found) == (column - WHOLE // 2, row - WHOLE // 2)


def test_what_is_outside_the_middle_is_found_in_the_same_frame_and_near_again_after_that(engine, calls):
    found = engine.run({"search": patch(3, 37), "state": STATE})
    assert calls == [NEAR, WHOLE]
    assert moved(found) == (17.0, -17.0)
    engine.run({"search": patch(20, 20), "state": STATE})
    assert calls == [NEAR, WHOLE, NEAR]  # still the near window first: the target is TRACKING


def test_what_is_not_tracking_is_looked_for_in_the_whole_window_alone(engine, calls):
    engine.told(False)
    engine.run({"search": patch(20, 20), "state": STATE})
    assert calls == [WHOLE]


def test_a_flat_peak_is_not_sure(calls):
    engine = NearFirst(spot_finder(NEAR, calls, psr=4.9), spot_finder(WHOLE, calls), SPEC)
    engine.bind({"gain": np.ones((1, 1), dtype=np.float32)})
    engine.run({"search": patch(20, 20), "state": STATE})
    assert calls == [NEAR, WHOLE]


def test_both_know_the_target(engine):
    engine.bind({"gain": np.full((1, 1), 2.0, dtype=np.float32)})
    assert engine.run({"search": patch(20, 20, 0.5), "state": STATE})["score"] == 1.0
    engine.told(False)
    assert engine.run({"search": patch(20, 20, 0.5), "state": STATE})["score"] == 1.0


def test_the_tracker_says_whether_it_is_tracking(calls):
    """A target that fades: the near search finds it no more, then the tracker waits for two sure frames."""
    template = FunctionEngine(
        lambda _: {"gain": np.full((1, 1), 1 / 210, dtype=np.float32)},
        {"template": TensorSpec("float32", (1, 1, 21, 21))},
        {"gain": TensorSpec("float32", (1, 1))},
    )
    engine = NearFirst(spot_finder(NEAR, calls), spot_finder(WHOLE, calls), SPEC)
    crop = CropSpec(template_size=21, search_size=WHOLE)
    tracker = Tracker(template, engine, crop=crop, channels=1, confidence=replace(SPEC, found_after=2))

    def frame(level: int) -> np.ndarray:
        noise = np.random.default_rng(frames.pop()).integers(0, 8, (60, 80))
        return (noise + level).astype(np.uint8)

    frames = list(range(9))
    tracker.init(frame(200), (30.0, 20.0, 10.0, 10.0))
    found = [(tracker.update(frame(level)).status, calls.copy(), calls.clear()) for level in (200, 0, 200, 200, 200)]
    assert [(status.value, searches) for status, searches, _ in found] == [
        ("TRACKING", [NEAR]),
        ("UNCERTAIN", [NEAR, WHOLE]),
        ("UNCERTAIN", [WHOLE]),
        ("TRACKING", [WHOLE]),
        ("TRACKING", [NEAR]),
    ]


def test_closing_closes_both(engine):
    with engine:
        pass
    with pytest.raises(EngineError, match=f"the engine 'spots of {NEAR}' is closed"):
        engine.run({"search": patch(20, 20), "state": STATE})
    with pytest.raises(EngineError, match=f"the engine 'spots of {WHOLE}' is closed"):
        engine._whole.run({"search": patch(20, 20), "state": STATE})
