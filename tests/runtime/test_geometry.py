from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackctl.runtime.errors import BoxError
from trackctl.runtime.geometry import Box, CropSpec, boxes_array, iou, patch_matrix

number = st.floats(-500, 500, allow_nan=False)
side = st.floats(0.1, 500, allow_nan=False)
boxes = st.builds(Box, number, number, side, side)


@given(boxes, boxes)
@settings(deadline=None)
def test_iou_is_symmetric_bounded_and_one_on_itself(a: Box, b: Box) -> None:
    value = float(iou(a, b))
    assert 0.0 <= value <= 1.0
    assert value == pytest.approx(float(iou(b, a)))
    assert float(iou(a, a)) == pytest.approx(1.0)


@given(boxes, number, number)
@settings(deadline=None)
def test_iou_does_not_move_with_the_frame(a: Box, dx: float, dy: float) -> None:
    b = Box(a.left + 1, a.top, a.width, a.height)
    moved = float(iou(Box(a.left + dx, a.top + dy, a.width, a.height), Box(b.left + dx, b.top + dy, b.width, b.height)))
    assert moved == pytest.approx(float(iou(a, b)), abs=1e-6)


def test_iou_leaves_its_arguments_alone_and_handles_empty_and_nan() -> None:
    a = np.array([[0.0, 0, 10, 10], [0, 0, 0, 0], [np.nan] * 4])
    b = np.array([[5.0, 0, 10, 10], [0, 0, 0, 0], [0, 0, 1, 1]])
    kept = a.copy(), b.copy()
    values = iou(a, b)
    assert values[0] == pytest.approx(1 / 3)
    assert values[1] == 0.0
    assert np.isnan(values[2])
    np.testing.assert_array_equal(a, kept[0])
    np.testing.assert_array_equal(b, kept[1])


@pytest.mark.parametrize("text", ["1,2,3", "a,b,c,d", "", "1,2,3,4,5", "1,2,0,4", "1,2,3,-4", "nan,1,2,3", "1,2,inf,4"])
def test_a_wrong_box_text_is_one_line_that_says_what_is_expected(text: str) -> None:
    with pytest.raises(BoxError, match="expected") as caught:
        Box.parse(text)
    assert "\n" not in str(caught.value)


def test_box_text_with_commas_spaces_or_tabs() -> None:
    assert Box.parse("120,80,40,30") == Box.parse("120 80\t40  30") == Box(120.0, 80.0, 40.0, 30.0)


def test_a_box_outside_the_frame_is_refused_and_one_over_the_border_is_not() -> None:
    with pytest.raises(BoxError, match="outside the frame of 640 x 512"):
        Box(640, 0, 10, 10).checked((512, 640))
    assert Box(-5, -5, 10, 10).checked((512, 640)).width == 10


def test_crop_sides() -> None:
    spec = CropSpec()
    assert spec.template_side_px(64, 64) == pytest.approx(128.0)
    assert spec.search_side_px(64, 64) == pytest.approx(128 * 255 / 127)


@given(st.floats(0, 600), st.floats(0, 500), st.floats(5, 900), st.integers(2, 300))
@settings(deadline=None)
def test_patch_corners_map_to_the_corners_of_the_square(x: float, y: float, square: float, size: int) -> None:
    matrix = patch_matrix((x, y), square, size)
    # Continuous patch edge 0 is pixel index -0.5 on both sides of the mapping.
    left_top = matrix @ np.array([-0.5, -0.5, 1.0]) + 0.5
    right_bottom = matrix @ np.array([size - 0.5, size - 0.5, 1.0]) + 0.5
    np.testing.assert_allclose(left_top, (x - square / 2, y - square / 2), atol=1e-9)
    np.testing.assert_allclose(right_bottom, (x + square / 2, y + square / 2), atol=1e-9)


def test_boxes_array_of_nothing_is_empty() -> None:
    assert boxes_array([]).shape == (0, 4)
    assert boxes_array([Box(1, 2, 3, 4)]).tolist() == [[1, 2, 3, 4]]
