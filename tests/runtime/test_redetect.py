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
from trackctl.runtime.frame import Frame
from trackctl.runtime.geometry import Box, iou
from trackctl.runtime.redetect import Redetection, Redetector, Sweep
from trackctl.runtime.sensor import KNOWN
from trackctl.runtime.tracker import Tracker
from trackctl.runtime.view import View


def search_engine() -> FunctionEngine:
    return FunctionEngine(find, {"search": TensorSpec("float32", (1, 3, 255, 255)), "state": STATE, "kernel": HALF}, {})


def searching(redetection: Redetection | None) -> Tracker:
    template = FunctionEngine(learn, {"template": TensorSpec("float32", (1, 3, 127, 127))}, {"kernel": HALF})
    return Tracker(
        template, search_engine(), crop=CROP, redetection=redetection, confidence=ConfidenceSpec(sure_score=0.8, doubted_after=6)
    )


@given(x=st.floats(0, 640), y=st.floats(0, 480), step_px=st.floats(20, 200), windows=st.integers(1, 7))
def test_a_whole_turn_looks_at_every_place_of_the_frame(x, y, step_px, windows) -> None:
    sweep = Sweep((x, y), step_px, (480, 640))
    centres: list[tuple[float, float]] = []
    while len(centres) < len(sweep):
        centres += sweep.next(windows, reach=100.0)
    assert len(centres) == len(sweep)
    assert centres[0] == (x, y)  # the tracker's own window may have gone astray
    grid = np.stack(np.meshgrid(np.linspace(0, 640, 9), np.linspace(0, 480, 7)), axis=-1).reshape(-1, 2)
    apart = np.abs(grid[:, None] - np.array(centres)[None]).max(axis=2).min(axis=1)
    assert apart.max() <= step_px / 2 + 1e-6
    assert sweep.next(windows, reach=100.0)[0] == (x, y)


def test_it_looks_near_first_and_further_as_time_goes_by() -> None:
    sweep = Sweep((320, 240), 30.0, (480, 640))
    turns = [np.array(sweep.next(8, reach)) - (320, 240) for reach in (1.0, 1.4, 1.9, 2.5, 2.5, 3.5, 3.5)]
    furthest = [np.abs(turn).max() / 30 for turn in turns]
    # A turn is finished with the places that come next; then it begins anew, or goes further if the reach allows.
    assert furthest == [1, 2, 1, 2, 2, 3, 3]


def test_a_target_that_comes_back_elsewhere_is_found_only_by_looking_elsewhere() -> None:
    found = {}
    for redetection in (None, Redetection()):
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


@pytest.mark.parametrize(("score", "lost_on"), [(0.5, 4), (0.1, 2)])  # something unlike it, and nothing
def test_it_stays_with_what_is_in_its_window_until_that_is_lost(score, lost_on) -> None:
    searches = []

    def unsure(feeds):
        searches.append(1)
        quality = np.array([[9.0, 0.0, 9.0]], np.float32)
        return {"next_state": feeds["state"].copy(), "score": np.array([[score]], np.float32), "quality": quality}

    template = FunctionEngine(learn, {"template": TensorSpec("float32", (1, 3, 127, 127))}, {"kernel": HALF})
    confidence = ConfidenceSpec(sure_score=0.8, lost_score=0.3, lost_after=2, doubted_after=4)
    engine = FunctionEngine(unsure, search_engine().inputs, {})
    tracker = Tracker(template, engine, crop=CROP, redetection=Redetection(), confidence=confidence)
    frame, box = scene(0)
    tracker.init(frame, box)
    for index in range(1, 6):
        searches.clear()
        status = tracker.update(scene(index)[0]).status
        assert (status is Status.LOST) == (index >= lost_on)
        assert len(searches) == (1 + Redetection().windows if status is Status.LOST else 1)


def test_some_windows_go_where_the_frame_looks_as_the_target_did_as_far_away_as_it_may_be() -> None:
    view = View(CROP, 1)
    ground = np.random.RandomState(0).randint(80, 120, (240, 320)).astype(np.uint8)
    target = np.random.RandomState(1).randint(0, 256, (12, 12)).astype(np.uint8)

    def shown(*corners_xy: tuple[int, int]) -> np.ndarray:
        frame = ground.copy()
        for x, y in corners_xy:
            frame[y : y + 12, x : x + 12] = target
        return frame

    box = Box(100, 100, 12, 12)
    view.start(shown((100, 100)), search_engine())
    spec = Redetection(alike=3, near=4, speed=0.0, renew=2)
    redetector = Redetector(spec, CROP, view)
    redetector.start(box)
    step_px = spec.step * CROP.search_side_px(12, 12)
    near, far = (150, 120), (250, 200)
    for empty in (True, False):
        view.advance(shown(near, far))
        redetector.miss(empty=empty)
    places = redetector.places()
    assert len(places) == spec.windows
    assert redetector.gone
    np.testing.assert_allclose(places[0], (156, 126), atol=2)
    assert np.abs(np.subtract(places, box.centre_xy)).max() <= 4 * step_px + 12
    assert np.abs(np.subtract(places, (256, 206))).max(axis=1).min() > 30

    view.advance(shown(near))
    redetector.sight(Box(*near, 12, 12))
    assert (redetector.last, redetector.gone) == (Box(*near, 12, 12), False)
    for index in range(spec.patience + 1):
        assert not redetector.gone, index
        redetector.miss(empty=False)
    assert redetector.gone


def planes(pixels: np.ndarray, count: int) -> np.ndarray:
    """A cube or a picture whose planes show the same in other strengths."""
    return np.stack([(pixels * (0.5 + 0.5 * plane / count)).astype(pixels.dtype) for plane in range(count)], axis=2)


def mosaic(pixels: np.ndarray) -> Frame:
    """A raw 4x4 mosaic, each cell of which is a pixel."""
    return Frame(pixels.repeat(4, axis=0).repeat(4, axis=1), 0, 0, KNOWN["vis16"])


@pytest.mark.parametrize(
    ("form", "channels"),
    [
        (lambda pixels: pixels, 1), (lambda pixels: pixels, 3), (lambda pixels: pixels.astype(np.uint16) * 40 + 3000, 1),
        (lambda pixels: planes(pixels, 3), 1), (lambda pixels: planes(pixels, 3), 3), (lambda pixels: planes(pixels, 4), 4),
        (lambda pixels: planes(pixels, 8), 8), (mosaic, 16),
    ],
    ids=["gray", "gray to 3", "gray16", "bgr to gray", "bgr", "pair", "cube", "mosaic"],
)  # fmt: skip
def test_the_look_is_found_in_the_frames_of_every_camera(form, channels) -> None:
    rng = np.random.default_rng(3)
    target = rng.integers(0, 256, (4, 4), dtype=np.uint8).repeat(4, axis=0).repeat(4, axis=1)

    def shown(x: int, y: int) -> object:
        pixels = np.random.default_rng(x).integers(90, 110, (120, 160), dtype=np.uint8)
        pixels[y : y + 16, x : x + 16] = target
        return form(pixels)

    view = View(CROP, channels)
    view.start(shown(30, 40), search_engine())
    look = view.appearance(Box(30, 40, 16, 16))
    view.advance(shown(110, 70))
    (place,) = view.places_like(look, 1, (80.0, 60.0), 200.0)
    np.testing.assert_allclose(place, (118, 78), atol=4)
    assert view.places_like(look, 0, (80.0, 60.0), 200.0) == []
    assert view.places_like(None, 1, (80.0, 60.0), 200.0) == []


def test_the_longer_it_is_missed_the_further_away_it_may_be() -> None:
    view = View(CROP, 1)
    view.start(np.full((480, 640), 9, np.uint8), search_engine())
    different = []
    for waits in (0, 60):
        redetector = Redetector(Redetection(alike=0, windows=8, speed=0.1), CROP, view)
        redetector.start(Box.from_centre(320, 240, 10, 10))
        for _ in range(waits):
            redetector.miss(empty=False)
        different.append(len({place for _ in range(3) for place in redetector.places()}))
    assert different == [16, 24]  # what is near is looked at again; or further and further


@pytest.mark.parametrize(
    "change",
    [
        {"windows": 0}, {"renew": 0}, {"patience": 0}, {"alike": 9}, {"alike": -1},
        {"near": 0.5}, {"step": 0.0}, {"step": 1.5}, {"speed": -1.0},
    ],
)  # fmt: skip
def test_impossible_sweeps_are_refused(change) -> None:
    with pytest.raises(InputError, match=r"got (windows|step) .* expected"):
        Redetection(**change)
