from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackctl.evaluation.annotations import corners_of
from trackctl.evaluation.regions import anchor_overlap, reset_overlap

GOLDEN = Path(__file__).parent / "golden" / "vot2020_overlaps.json"
FRAME_HW = (60, 80)


def test_anchor_overlap_is_that_of_the_official_toolkit() -> None:
    golden = json.loads(GOLDEN.read_text())
    corners = np.array([pair["corners"] for pair in golden["pairs"]])
    boxes = np.array([pair["box"] for pair in golden["pairs"]])
    expected = np.array([pair["overlap"] for pair in golden["pairs"]])
    assert (expected > 0).sum() > 50
    assert np.array_equal(anchor_overlap(corners, boxes, tuple(golden["frame_hw"])), expected)


def painted(corners: np.ndarray, frame_hw: tuple[int, int]) -> np.ndarray:
    """A polygon on the whole frame, pixel row by pixel row, straight from the rules of the TraX region library."""
    mask = np.zeros(frame_hw, dtype=bool)
    points = np.copysign(np.floor(np.abs(corners) + 0.5), corners)
    for y in range(frame_hw[0]):
        nodes = []
        for (x1, y1), (x0, y0) in zip(points, np.roll(points, 1, axis=0), strict=True):
            if min(y0, y1) <= y <= max(y0, y1):
                nodes.append(int(x1 + (y - y1) / (y0 - y1) * (x0 - x1)) if y0 != y1 else int(x1))
        nodes.sort()
        at = 0
        while at < len(nodes) - 1:
            if nodes[at] == nodes[at + 1] and at < len(nodes) - 2:
                at += 1
                continue
            mask[y, max(nodes[at], 0) : max(nodes[at + 1] + 1, 0)] = True
            at += 2
    return mask


def rotated(centre: tuple[float, float], size: tuple[float, float], angle: float) -> np.ndarray:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * np.array(size) / 2
    return np.round(half @ turn.T + centre, 1)


quads = st.builds(
    rotated,
    st.tuples(st.floats(-5, 85), st.floats(-5, 65)),
    st.tuples(st.floats(3, 60), st.floats(3, 60)),
    st.floats(0, 3.2),
)


@settings(max_examples=150, deadline=None)
@given(quads, quads)
def test_reset_overlap_counts_pixels(first: np.ndarray, second: np.ndarray) -> None:
    last = np.array([FRAME_HW[1] - 1, FRAME_HW[0] - 1])
    low = [np.maximum(np.floor(quad.min(axis=0)), 0) for quad in (first, second)]
    high = [np.minimum(np.ceil(quad.max(axis=0)), last) for quad in (first, second)]
    expected = 0.0
    if (np.minimum(*high) > np.maximum(*low)).all():
        origin = np.minimum(*low)
        size_hw = (FRAME_HW[0] - int(origin[1]), FRAME_HW[1] - int(origin[0]))
        a, b = (painted(np.float32(quad) - origin, size_hw) for quad in (first, second))
        expected = (a & b).sum() / max((a | b).sum(), 1)
    assert reset_overlap(first[None], second[None], FRAME_HW).tolist() == [expected]
    assert reset_overlap(second[None], first[None], FRAME_HW).tolist() == [expected]


@settings(max_examples=100, deadline=None)
@given(st.tuples(st.integers(-30, 100), st.integers(-30, 80), st.integers(1, 90), st.integers(1, 90)))
def test_a_box_across_any_border_is_clipped_to_the_frame(box: tuple[int, int, int, int]) -> None:
    left, top, width, height = box
    whole = np.array([[0.0, 0.0, 79.0, 59.0]])
    columns = max(0, min(left + width, 79) - max(left, 0) + 1)
    rows = max(0, min(top + height, 59) - max(top, 0) + 1)
    # A box that only touches the frame with its border does not overlap it.
    expected = columns * rows / (80 * 60) if columns > 1 and rows > 1 else 0.0
    got = reset_overlap(corners_of(whole), corners_of(np.array([box], dtype=float)), FRAME_HW)
    assert got[0] == pytest.approx(expected)


def test_overlap_with_itself_is_one_and_with_nothing_is_zero() -> None:
    quad = rotated((40, 30), (20, 10), 0.4)[None]
    assert reset_overlap(quad, quad, FRAME_HW).tolist() == [1.0]
    assert reset_overlap(quad, corners_of(np.array([[40.0, 30.0, 0.0, 0.0]])), FRAME_HW).tolist() == [0.0]
    assert reset_overlap(quad, corners_of(np.array([[200.0, 200.0, 9.0, 9.0]])), FRAME_HW).tolist() == [0.0]
    assert anchor_overlap(quad, np.array([[40.0, 30.0, 0.2, 0.2]]), FRAME_HW).tolist() == [0.0]


def test_a_box_of_width_w_covers_one_more_pixel_in_reset_challenges_than_in_anchor_challenges() -> None:
    truth, result = np.array([[10.0, 10.0, 10.0, 10.0]]), np.array([[15.0, 10.0, 10.0, 10.0]])
    assert reset_overlap(corners_of(truth), corners_of(result), FRAME_HW)[0] == pytest.approx(6 / 16)
    assert anchor_overlap(truth, result, FRAME_HW)[0] == pytest.approx(5 / 15)


def test_long_input_is_computed_in_parts_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    first, second = (
        np.stack([rotated(tuple(rng.uniform(10, 60, 2)), tuple(rng.uniform(5, 40, 2)), rng.uniform(0, 3)) for _ in range(50)])
        for _ in range(2)
    )
    whole = reset_overlap(first, second, FRAME_HW)
    monkeypatch.setattr("trackctl.evaluation.regions._CHUNK_ROWS", 7)
    assert np.array_equal(reset_overlap(first, second, FRAME_HW), whole)
    assert reset_overlap(first[:0], second[:0], FRAME_HW).shape == (0,)


def test_input_is_not_modified() -> None:
    first = rotated((40, 30), (20, 10), 0.4)[None]
    box = np.array([[30.3, 20.2, 20.1, 10.9]])
    for array in (first, box):
        array.setflags(write=False)
    reset_overlap(first, corners_of(box), FRAME_HW)
    anchor_overlap(first, box, FRAME_HW)
