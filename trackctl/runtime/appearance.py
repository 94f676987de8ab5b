"""Where in the whole frame something looks as the target did: normalised cross-correlation of small pictures.

A search window sees little of the frame when the target is small. This looks at all of it in about the time of one search, far
less surely; the search graph has the last word on what is found.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from trackctl.runtime.contract import Array
from trackctl.runtime.crop import Float32Array

# Side of the target's small picture, px [ours]; how it was chosen: benchmarks/appearance.py.
SIDE = 10


class Appearance:
    """The look of a target, from the square that its template shows.

    Args:
        patch: (N, N) float32, that square.
        side_px: its side in the frame, px.
    """

    def __init__(self, patch: Float32Array, side_px: float) -> None:
        self._look = cv2.resize(patch, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        self._side_px = side_px

    def places(self, picture: Array, count: int, around_xy: tuple[float, float], within_px: float) -> list[tuple[float, float]]:
        """Centres of what looks most like the target, the most alike first, half its square or more apart.

        Args:
            picture: (H, W) uint8, uint16 or float32, the whole frame.
            count: the most there may be.
            around_xy, within_px: none is further from there, across or down.
        """
        margin = within_px + self._side_px / 2
        (left, right), (top, bottom) = (
            (max(0, math.floor(centre - margin)), min(limit, math.ceil(centre + margin)))
            for centre, limit in zip(around_xy, picture.shape[::-1], strict=True)
        )
        seen = picture[top:bottom, left:right]
        if not seen.size or count < 1:
            return []
        height, width = (max(SIDE, round(side * SIDE / self._side_px)) for side in seen.shape)
        # In float32 before it is made smaller, or faint targets would be rounded away.
        small = cv2.resize(seen.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        likeness = cv2.matchTemplate(small, self._look, cv2.TM_CCOEFF_NORMED)
        scale_x, scale_y = seen.shape[1] / width, seen.shape[0] / height
        found: list[tuple[float, float]] = []
        while len(found) < count:
            _, peak, _, (x, y) = cv2.minMaxLoc(likeness)
            if not peak > 0.0:
                break
            found.append((left + (x + SIDE / 2) * scale_x, top + (y + SIDE / 2) * scale_y))
            likeness[max(0, y - SIDE // 2) : y + SIDE // 2 + 1, max(0, x - SIDE // 2) : x + SIDE // 2 + 1] = -1.0
        return found
