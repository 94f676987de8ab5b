"""Loose boxes shrunk to the target."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data import noise

from trackctl.runtime.geometry import Box, iou
from trackctl.training.data.tighten import FALLBACK, target_extent, tighten


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(6, 40),
    height=st.integers(6, 40),
    pads=st.tuples(*[st.integers(0, 4)] * 4),
    contrast=st.sampled_from([-60, 60, 120]),
    seed=st.integers(0, 99),
)
def test_a_target_before_the_sky_is_found_within_its_loose_box(
    width: int, height: int, pads: tuple[int, int, int, int], contrast: int, seed: int
) -> None:
    pixels = noise(160, 160, seed, spread=2.0)
    left, top = 60, 50
    pixels[top : top + height, left : left + width] = 100 + contrast
    before_x, before_y, after_x, after_y = pads
    box = Box(left - before_x, top - before_y, width + before_x + after_x, height + before_y + after_y)
    extent = target_extent(pixels, box)
    assert extent is not None
    found = np.array([box.left, box.top, box.left, box.top]) + np.array(extent) * np.array([box.width, box.height] * 2)
    # The margin for blur is 0.6 px; the box itself is never exceeded.
    assert np.abs(found - [left, top, left + width, top + height]).max() <= 0.6 + 1e-9
    assert min(extent) >= 0.0 and max(extent) <= 1.0


def test_what_does_not_stand_out_is_not_measured() -> None:
    flat = np.full((60, 60), 100, np.uint8)
    assert target_extent(flat, Box(20, 20, 15, 15)) is None
    assert target_extent(flat, Box(20, 20, 3, 15)) is None
    assert target_extent(flat, Box(-30, 20, 20, 20)) is None
    assert target_extent(flat, Box(0, 0, 60, 60)) is None  # no ring outside
    speck = flat.copy()
    speck[27, 27] = 250
    assert target_extent(speck, Box(20, 20, 15, 15)) is None


def test_a_track_is_steadied_and_absence_kept() -> None:
    frames = [noise(80, 80, k) for k in range(9)]
    for k, pixels in enumerate(frames):
        # In frame 4 a glint hides the extent.
        pixels[30:40, 30:50] = 230
        if k == 4:
            pixels[28:42, 26:54] = 230
    loose: list[Box | None] = [Box(25, 27, 30, 16)] * 9
    loose[7] = None
    tight = tighten(frames, loose)
    assert tight[7] is None and tight[4] == tight[3]
    assert tight[0] is not None and float(iou(tight[0], (30, 30, 20, 10))) > 0.8


def test_a_track_that_cannot_be_measured_shrinks_by_a_fixed_share() -> None:
    flat = [np.full((60, 60), 90, np.uint8)] * 4
    (box, *_) = tighten(flat, [Box(20, 20, 10, 20)] * 4)
    assert box is not None
    assert box.centre_xy == pytest.approx((25, 30)) and box[2:] == pytest.approx((10 * FALLBACK, 20 * FALLBACK))
