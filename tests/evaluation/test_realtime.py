"""The camera that does not wait."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackctl.evaluation.realtime import Camera
from trackctl.runtime.errors import InputError


def seen(camera: Camera) -> list[int]:
    """The frames that are tracked after the first."""
    frames, at = [], 1
    while at < len(camera.seconds):
        frames.append(at)
        at = camera.next_seen(at)
    return frames


def test_frames_that_come_during_an_update_are_not_seen() -> None:
    # At 25 fps a frame lasts 40 ms: 2.5 frames, exactly 1 frame, a hair more than 1, nothing.
    seconds = np.array([np.nan, 0.1, 0.0, 0.0, 0.04, 0.040000001, 0.0, 0.001])
    assert seen(Camera(fps=25.0, seconds=seconds)) == [1, 4, 5, 7]


def test_rates_that_binary_numbers_cannot_hold() -> None:
    # 0.1 s at 30 fps is 3 frames exactly, although 0.1 * 30 > 3 in float64.
    assert 0.1 * 30.0 >= 3.0
    assert Camera(fps=30.0, seconds=np.full(9, 0.1)).next_seen(1) == 4
    assert Camera(fps=1e9 / 7, seconds=np.full(9, 21e-9)).next_seen(0) == 3


@given(
    st.lists(st.integers(0, 400_000_000), min_size=2, max_size=40),
    st.sampled_from([5.0, 25.0, 29.97, 30.0, 50.0, 1000.0]),
)
@settings(max_examples=60, deadline=None)
def test_agrees_with_a_clock_that_is_played(durations_ns: list[int], fps: float) -> None:
    camera = Camera(fps=fps, seconds=np.array([math.nan, *durations_ns[1:]]) / 1e9)
    tracked, free_at = [], 0.0
    for index in range(1, len(durations_ns)):
        arrives = index / fps
        if arrives >= free_at - 1e-9:
            tracked.append(index)
            free_at = arrives + durations_ns[index] / 1e9
    assert seen(camera) == tracked
    assert camera.never_late() == all(duration / 1e9 <= 1 / fps + 1e-9 for duration in durations_ns[1:])


@given(st.integers(1, 500), st.floats(1.0, 100.0))
@settings(max_examples=30, deadline=None)
def test_a_faster_camera_never_shows_more_frames(milliseconds: int, fps: float) -> None:
    seconds = np.full(100, milliseconds / 1e3)
    assert len(seen(Camera(fps=2 * fps, seconds=seconds))) <= len(seen(Camera(fps=fps, seconds=seconds)))


def test_a_frame_without_a_measurement_takes_the_median() -> None:
    camera = Camera(fps=10.0, seconds=np.array([np.nan, 0.1, 0.3, 0.2, np.nan]))
    assert camera.duration(4) == 0.2
    assert Camera(fps=10.0, seconds=np.array([np.nan])).duration(0) == 0.0


@pytest.mark.parametrize("fps", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_that_is_none(fps: float) -> None:
    with pytest.raises(InputError, match="frames per second, expected a positive number"):
        Camera(fps=fps, seconds=np.zeros(3))
