"""The Tracker over FunctionEngines that compute normalised cross-correlation: a real tracker without a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
import pytest

import trackctl
from trackctl.runtime.contract import Array, TensorSpec
from trackctl.runtime.engine import FunctionEngine
from trackctl.runtime.errors import BoxError, EngineError, FrameError, InputError
from trackctl.runtime.geometry import Box, CropSpec, iou
from trackctl.runtime.tracker import Status, Tracker

CROP = CropSpec()
HALF = TensorSpec("float32", (1, 63, 63))
STATE = TensorSpec("float32", (1, 6))


def learn(feeds: Mapping[str, Array]) -> dict[str, Array]:
    return {"kernel": feeds["template"][0, :1, 32:95, 32:95].copy()}


def find(feeds: Mapping[str, Array]) -> dict[str, Array]:
    state: Any = feeds["state"].copy()
    patch: Any = feeds["search"][0, 0]
    contrast = float(patch[::4, ::4].std())
    response = cv2.matchTemplate(patch, feeds["kernel"][0], cv2.TM_CCOEFF_NORMED) if contrast > 0.5 else np.zeros((193, 193))
    _, peak, _, (x, y) = cv2.minMaxLoc(response)
    if contrast > 0.5:
        side = CROP.search_side_px(float(state[0, 2]), float(state[0, 3]))
        state[0, :2] += (np.array([x, y]) + 31.5 - 127.5) * side / 255
    quality = np.array([[20.0 if peak > 0.5 else 0.0, 0.0, contrast]], np.float32)
    return {"next_state": state, "score": np.array([[max(peak, 0.0)]], np.float32), "quality": quality}


def correlation_tracker(find: Callable[[Mapping[str, Array]], dict[str, Array]] = find) -> Tracker:
    template = FunctionEngine(learn, {"template": TensorSpec("float32", (1, 3, 127, 127))}, {"kernel": HALF})
    search = FunctionEngine(find, {"search": TensorSpec("float32", (1, 3, 255, 255)), "state": STATE, "kernel": HALF}, {})
    return Tracker(template, search, crop=CROP)


def scene(index: int, dtype: type = np.uint8) -> tuple[Array, Box]:
    """A textured target of 40 px that moves 3 px right and 2 px down per frame over a textured ground."""
    ground = np.kron(np.random.RandomState(7).randint(60, 110, (15, 20)), np.ones((16, 16)))
    target = np.kron(np.random.RandomState(8).randint(120, 256, (4, 4)), np.ones((10, 10)))
    x, y = 60 + 3 * index, 80 + 2 * index
    ground[y : y + 40, x : x + 40] = target
    scale = 200 if dtype is np.uint16 else 1
    return (ground * scale).astype(dtype), Box(x, y, 40, 40)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_follows_a_moving_target(dtype: type) -> None:
    tracker = correlation_tracker()
    frame, box = scene(0, dtype)
    tracker.init(frame, box)
    for index in range(1, 16):
        frame, truth = scene(index, dtype)
        result = tracker.update(frame)
        assert float(iou(result.box, truth)) > 0.8
        assert result.status is Status.TRACKING
        assert sum(value for name, value in result.stages_ns.items() if name != "update") <= result.stages_ns["update"]


def test_colour_and_gray_frames_give_the_same_boxes() -> None:
    gray, colour = correlation_tracker(), correlation_tracker()
    frame, box = scene(0)
    gray.init(frame, box)
    colour.init(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR), box)
    for index in range(1, 6):
        frame, _ = scene(index)
        assert gray.update(frame).box == colour.update(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)).box


def test_a_black_or_frozen_feed_is_never_confident_and_the_box_stands() -> None:
    tracker = correlation_tracker()
    tracker.init(*scene(0))
    frame, _ = scene(1)
    box = tracker.update(frame).box
    frozen = [tracker.update(frame) for _ in range(8)]
    black = [tracker.update(np.full_like(frame, level)) for level in (0, 1, 0, 1, 0, 1)]
    for result in frozen + black:
        assert result.status is not Status.TRACKING
        assert result.score == 0.0
        assert result.box == box
    assert frozen[-1].status is black[-1].status is Status.LOST


def test_a_state_that_is_not_finite_is_not_kept() -> None:
    broken = [False]

    def sometimes(feeds: Mapping[str, Array]) -> dict[str, Array]:
        found = find(feeds)
        return {**found, "next_state": np.full((1, 6), np.nan, np.float32)} if broken[0] else found

    tracker = correlation_tracker(sometimes)
    tracker.init(*scene(0))
    before = tracker.update(scene(1)[0]).box
    broken[0] = True
    result = tracker.update(scene(2)[0])
    assert (result.box, result.score, result.status) == (before, 0.0, Status.UNCERTAIN)
    broken[0] = False
    frame, truth = scene(3)
    assert float(iou(tracker.update(frame).box, truth)) > 0.8


def test_update_before_init() -> None:
    with pytest.raises(InputError, match="call init"):
        correlation_tracker().update(scene(0)[0])


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 10), (0, 0, -1, 10), (700, 0, 10, 10), (-20, 0, 10, 10), (np.nan, 0, 1, 1), (1, 2, 3), (1, 2, 3, 4, 5)]
)
def test_a_wrong_box_is_refused(box: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match=r"got .* expected"):
        correlation_tracker().init(scene(0)[0], box)


def test_a_frame_that_changes_mid_stream_is_refused_and_tracking_can_go_on() -> None:
    tracker = correlation_tracker()
    tracker.init(*scene(0))
    frame, truth = scene(1)
    for other in (frame[:-1], frame.astype(np.uint16), np.dstack([frame] * 3)):
        with pytest.raises(FrameError, match=r"call init\(frame, box\) again"):
            tracker.update(other)
    assert float(iou(tracker.update(frame).box, truth)) > 0.8


def test_the_caller_may_reuse_its_frame_buffer() -> None:
    tracker = correlation_tracker()
    buffer, box = scene(0)
    tracker.init(buffer, box)
    for index in range(1, 6):
        frame, truth = scene(index)
        buffer[...] = frame
        assert tracker.update(buffer).score > 0.5
        assert float(iou(tracker.update(buffer).box, truth)) > 0.8  # the second look is a repeat: the box stands


def test_views_with_strides_are_accepted() -> None:
    tracker = correlation_tracker()
    frame, box = scene(0)
    wide = np.repeat(frame, 2, axis=1)
    tracker.init(wide[:, ::2], box)
    frame, truth = scene(1)
    assert float(iou(tracker.update(np.asfortranarray(frame)).box, truth)) > 0.8


def test_a_closed_tracker_says_so() -> None:
    with correlation_tracker() as tracker:
        tracker.init(*scene(0))
    with pytest.raises(InputError, match="before init"):
        tracker.update(scene(1)[0])
    with pytest.raises(EngineError, match="closed"):
        tracker.init(*scene(0))


def test_the_public_door_is_complete() -> None:
    for name in trackctl.__all__:
        assert getattr(trackctl, name) is not None
    assert issubclass(BoxError, trackctl.TrackctlError)
    with pytest.raises(AttributeError, match="Trackr"):
        trackctl.Trackr  # noqa: B018


def test_pairs_and_single_cameras_are_not_mixed_up() -> None:
    tracker = correlation_tracker()
    frame, box = scene(0)
    with pytest.raises(FrameError, match=r"got a pair8 frame, expected gray or BGR"):
        tracker.init(np.dstack([frame] * 4), box)
    template = FunctionEngine(learn, {"template": TensorSpec("float32", (1, 4, 127, 127))}, {"kernel": HALF})
    search = FunctionEngine(find, {"search": TensorSpec("float32", (1, 4, 255, 255)), "state": STATE, "kernel": HALF}, {})
    pairs = Tracker(template, search, crop=CROP, channels=4)
    with pytest.raises(FrameError, match=r"got a gray8 frame, expected pairs"):
        pairs.init(frame, box)
    pairs.init(np.dstack([frame] * 4), box)
    frame, truth = scene(1)
    assert float(iou(pairs.update(np.dstack([frame] * 4)).box, truth)) > 0.8
