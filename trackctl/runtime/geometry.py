"""Boxes, search windows and the mapping between frame and patch. Pure float64, no pixels.

A box is (left, top, width, height) with continuous edges: a frame of W x H pixels spans [0, W] x [0, H] and the
centre of its first pixel is (0.5, 0.5).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trackctl.runtime.errors import BoxError

Float64Array = NDArray[np.float64]


class Box(NamedTuple):
    """An axis-aligned rectangle in frame pixels: left, top, width, height, continuous edges."""

    left: float
    top: float
    width: float
    height: float

    @property
    def centre_xy(self) -> tuple[float, float]:
        """Centre (x, y) in frame pixels."""
        return self.left + self.width / 2, self.top + self.height / 2

    @classmethod
    def from_centre(cls, centre_x: float, centre_y: float, width: float, height: float) -> Box:
        """The box of the given size around a centre, all in frame pixels."""
        return cls(centre_x - width / 2, centre_y - height / 2, width, height)

    @classmethod
    def parse(cls, text: str) -> Box:
        """The box written as ``left,top,width,height``.

        Raises:
            BoxError: the text is not four finite numbers or the size is not positive.
        """
        try:
            values = [float(part) for part in text.replace(",", " ").split()]
        except ValueError:
            values = []
        if len(values) != 4:
            raise BoxError(f"got the box {text!r}, expected four numbers left,top,width,height such as 120,80,40,30")
        return cls(*values).checked()

    def checked(self, frame_hw: tuple[int, int] | None = None) -> Box:
        """The same box as floats, if it is finite, of positive size and (with ``frame_hw``) overlaps the frame.

        Raises:
            BoxError: otherwise.
        """
        box = Box(*(float(value) for value in self))
        if not all(math.isfinite(value) for value in box):
            raise BoxError(f"got the box {tuple(box)}, expected four finite numbers left, top, width, height")
        if box.width <= 0 or box.height <= 0:
            raise BoxError(f"got a box of {box.width:g} x {box.height:g} px, expected a positive width and height")
        if frame_hw is not None:
            height, width = frame_hw
            outside = box.left >= width or box.top >= height or box.left + box.width <= 0 or box.top + box.height <= 0
            if outside:
                raise BoxError(
                    f"got the box {tuple(box)} outside the frame of {width} x {height} px, "
                    "expected one that overlaps it: check the order left,top,width,height"
                )
        return box


@dataclass(frozen=True, kw_only=True)
class CropSpec:
    """How patches are cut from frames (SiamFC crop, Bertinetto et al. 2016, section 2.1).

    Attributes:
        template_size: side of the template patch, px.
        search_size: side of the search patch, px.
        context: share of (w + h) added to each side of the box before taking the square root.
    """

    template_size: int = 127
    search_size: int = 255
    context: float = 0.5

    def template_side_px(self, width: float, height: float) -> float:
        """Side in frame pixels of the square that becomes the template patch."""
        margin = self.context * (width + height)
        return math.sqrt((width + margin) * (height + margin))

    def search_side_px(self, width: float, height: float) -> float:
        """Side in frame pixels of the square that becomes the search patch (same scale as the template)."""
        return self.template_side_px(width, height) * self.search_size / self.template_size


def patch_matrix(centre_xy: tuple[float, float], side_px: float, size: int) -> Float64Array:
    """The 2x3 matrix that maps patch pixel indices to frame pixel indices (half-pixel exact, unrounded).

    Args:
        centre_xy: centre of the square in frame coordinates (continuous).
        side_px: side of the square in frame pixels.
        size: side of the patch in pixels.

    Returns:
        float64 (2, 3) for ``cv2.warpAffine(..., flags=cv2.WARP_INVERSE_MAP)``.
    """
    step = side_px / size
    first = 0.5 * step - side_px / 2 - 0.5
    return np.array([[step, 0.0, centre_xy[0] + first], [0.0, step, centre_xy[1] + first]], dtype=np.float64)


def iou(boxes_a_ltwh: ArrayLike, boxes_b_ltwh: ArrayLike) -> Float64Array:
    """Intersection over union of paired boxes, in [0, 1]; 0 where the union is empty. NaN where a box has a NaN.

    Args:
        boxes_a_ltwh: (..., 4) boxes left, top, width, height. Not modified.
        boxes_b_ltwh: (..., 4), broadcast against the first.
    """
    a = np.asarray(boxes_a_ltwh, dtype=np.float64)
    b = np.asarray(boxes_b_ltwh, dtype=np.float64)
    left_top = np.maximum(a[..., :2], b[..., :2])
    right_bottom = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    inter = np.prod(np.clip(right_bottom - left_top, 0.0, None), axis=-1)
    union = np.prod(np.clip(a[..., 2:], 0.0, None), axis=-1) + np.prod(np.clip(b[..., 2:], 0.0, None), axis=-1) - inter
    ratio = np.divide(inter, union, out=np.zeros_like(union), where=union != 0)
    # The subtraction above may round to a union a hair below the intersection.
    clipped: Float64Array = np.minimum(ratio, 1.0)
    return clipped


def boxes_array(boxes: Iterable[Box]) -> Float64Array:
    """The boxes as float64 (N, 4) left, top, width, height."""
    return np.array([tuple(box) for box in boxes], dtype=np.float64).reshape(-1, 4)
