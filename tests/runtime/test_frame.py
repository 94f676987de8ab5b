from __future__ import annotations

import numpy as np
import pytest

from trackctl.runtime.errors import FrameError
from trackctl.runtime.frame import BGR8, GRAY8, GRAY16, PAIR8, graph_frame, graph_frame_spec, layout_of


def test_layouts() -> None:
    assert layout_of(np.zeros((4, 5), np.uint8)) == GRAY8
    assert layout_of(np.zeros((4, 5, 1), np.uint8)) == GRAY8
    assert layout_of(np.zeros((4, 5, 3), np.uint8)) == BGR8
    assert layout_of(np.zeros((4, 5), np.uint16)) == GRAY16
    assert layout_of(np.zeros((4, 5, 4), np.uint8)) == PAIR8


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 5), np.float32),
        np.zeros((4, 5, 2), np.uint8),
        np.zeros((4, 5, 4), np.uint16),
        np.zeros((4, 5, 3), np.uint16),
        np.zeros((0, 5), np.uint8),
        np.zeros(7, np.uint8),
        [[1, 2], [3, 4]],
    ],
)
def test_other_arrays_are_refused_with_what_was_got_and_expected(pixels: object) -> None:
    with pytest.raises(FrameError, match=r"got .* expected"):
        layout_of(pixels)  # type: ignore[arg-type]


def test_sixteen_bit_counts_travel_as_two_bytes_without_a_copy() -> None:
    pixels = np.array([[0x0102, 0xFFFE]], dtype=np.uint16)
    planes = graph_frame(pixels)
    assert planes.tolist() == [[[0x02, 0x01], [0xFE, 0xFF]]]
    assert np.shares_memory(planes, pixels)
    assert planes.shape == graph_frame_spec(GRAY16, (1, 2)).shape
