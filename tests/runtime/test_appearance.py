"""Where in a frame something looks as the target did."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackctl.runtime.appearance import Appearance

CENTRE_XY, EVERYWHERE = (160.0, 120.0), 1000.0


def scene(side: int, *corners_xy: tuple[int, int]) -> np.ndarray:
    """(240, 320) uint8: a smooth ground with the same textured square at each corner."""
    rng = np.random.default_rng(0)
    pixels = cv2.resize(rng.uniform(60, 120, (24, 32)), (320, 240), interpolation=cv2.INTER_CUBIC)
    pixels += rng.normal(0, 2, pixels.shape)
    square = cv2.resize(rng.uniform(0, 255, (4, 4)), (side, side), interpolation=cv2.INTER_NEAREST)
    for x, y in corners_xy:
        pixels[y : y + side, x : x + side] = square
    return pixels.clip(0, 255).astype(np.uint8)


def look(side: int, around: int) -> Appearance:
    """The square with so much ground on each side, as the template patch shows it."""
    x, y = 100, 90
    cut = scene(side, (x, y))[y - around : y + side + around, x - around : x + side + around]
    patch = cv2.resize(cut.astype(np.float32), (127, 127), interpolation=cv2.INTER_LINEAR)
    return Appearance(patch, side + 2 * around)


@given(st.integers(0, 280), st.integers(0, 200), st.sampled_from([8, 12, 20, 40]), st.sampled_from([0.3, 1.0, 60.0]))
def test_it_is_found_wherever_it_is_and_however_bright(x, y, side, gain):
    frame = scene(side, (x, y)) * gain + 100.0
    frame = frame.astype(np.uint16 if gain > 1 else np.float32)
    ((found_x, found_y),) = look(side, 0).places(frame, 1, CENTRE_XY, EVERYWHERE)
    assert abs(found_x - (x + side / 2)) <= 2 + side / 8
    assert abs(found_y - (y + side / 2)) <= 2 + side / 8


def test_the_most_alike_comes_first_and_each_once():
    frame = scene(16, (40, 40), (200, 150))
    frame[156:160, 200:216] = 80  # a part of it is hidden
    places = np.array(look(16, 4).places(frame, 3, CENTRE_XY, EVERYWHERE))
    np.testing.assert_allclose(places[:2], [(48, 48), (208, 158)], atol=4)
    assert len(places) == 3
    assert min(np.abs(places[a] - places[b]).max() for a, b in ((0, 1), (0, 2), (1, 2))) > 12


def test_none_is_further_away_than_allowed():
    frame = scene(16, (40, 40), (200, 150))
    ((x, y),) = look(16, 4).places(frame, 1, (180.0, 140.0), 40.0)
    np.testing.assert_allclose((x, y), (208, 158), atol=4)
    for place in look(16, 4).places(frame, 5, (180.0, 100.0), 20.0):
        assert np.abs(np.subtract(place, (180.0, 100.0))).max() <= 20.0 + 4


@pytest.mark.parametrize("around_xy", [(-500.0, 100.0), (100.0, 900.0)])
def test_nowhere_outside_the_frame(around_xy):
    assert look(16, 4).places(scene(16, (40, 40)), 3, around_xy, 30.0) == []


def test_nothing_is_like_it_in_a_flat_frame_and_none_may_be_asked_for():
    assert look(16, 4).places(np.full((240, 320), 7, np.uint8), 3, CENTRE_XY, EVERYWHERE) == []
    assert look(16, 4).places(scene(16, (40, 40)), 0, CENTRE_XY, EVERYWHERE) == []


def test_a_region_smaller_than_the_square_is_searched_all_the_same():
    frame = scene(40, (0, 0))[:30, :30]
    assert len(look(40, 0).places(frame, 1, (5.0, 5.0), 1.0)) <= 1
