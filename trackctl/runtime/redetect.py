"""Where to look for a target that was missed: a few search windows per frame, outwards from where it was last seen.

The tracker goes to what it finds there if that is believable and its own window was empty at some time since. If it never was,
what is in it may be the target, changed; then only what scores as the target usually does is better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Box


@dataclass(frozen=True, kw_only=True)
class Redetection:
    """How a missing target is looked for. All numbers are [ours]; how they were chosen: benchmarks/absence.py.

    Attributes:
        windows: search windows per frame beside the tracker's own.
        after: consecutive frames in which nothing like the target was in the tracker's own window before the search begins.
        step: distance of neighbouring windows as a share of a window's side; half of it is how far the network reaches.
        near: rings of windows round the place where the target was last seen that are looked at from the first.
        speed: rings that the target may get further away in a frame.

    Raises:
        InputError: a number is out of range.
    """

    windows: int = 8
    after: int = 5
    step: float = 0.5
    near: int = 2
    speed: float = 0.1

    def __post_init__(self) -> None:
        if self.windows < 1 or self.after < 1 or self.near < 1 or not 0.0 < self.step <= 1.0 or self.speed < 0.0:
            raise InputError(
                f"got windows {self.windows}, after {self.after}, near {self.near}, step {self.step} and speed {self.speed}, "
                "expected 1 or more, 0 < step <= 1 and a speed of 0 or more"
            )


class Sweep:
    """Gives the centres of search windows, frame after frame; made anew for each absence.

    Args:
        spec: how to look.
        last: where the target was last seen.
        side_px: side of a search window, frame px.
        frame_hw: height and width of the frame, px.
    """

    def __init__(self, spec: Redetection, last: Box, side_px: float, frame_hw: tuple[float, float]) -> None:
        self._spec = spec
        centre_x, centre_y = last.centre_xy
        step = spec.step * side_px
        height, width = frame_hw
        columns = range(-math.ceil(centre_x / step), math.ceil((width - centre_x) / step) + 1)
        rows = range(-math.ceil(centre_y / step), math.ceil((height - centre_y) / step) + 1)
        cells = sorted(((column, row) for column in columns for row in rows if column or row), key=_ring)
        self._rings = [_ring(cell)[0] for cell in cells]
        self._places = [
            (min(max(centre_x + column * step, 0.0), width), min(max(centre_y + row * step, 0.0), height))
            for column, row in cells
        ]
        self._frames = 0
        self._at = 0

    def __len__(self) -> int:
        """Number of places in the whole frame."""
        return len(self._places)

    def next(self) -> list[tuple[float, float]]:
        """Centres of the windows to search in this frame, ring after ring; from the start again once all in reach were seen."""
        reach = self._spec.near + self._spec.speed * self._frames
        self._frames += 1
        if self._at >= len(self._places) or self._rings[self._at] > reach:
            self._at = 0
        chosen = self._places[self._at : self._at + self._spec.windows]
        self._at += len(chosen)
        return chosen


def _ring(cell: tuple[int, int]) -> tuple[int, float]:
    """Number of the square ring round the middle, then the angle on it."""
    return max(abs(cell[0]), abs(cell[1])), math.atan2(cell[1], cell[0])
