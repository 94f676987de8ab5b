"""Where to look for a target that is LOST: a few search windows per frame, no further than it may have moved by now.

Some go where the frame looks as the target did, the others outwards, ring after ring. The tracker goes to what it finds there if
that is believable and its own window was empty at some time since. If it never was, what is in it may be the target, changed;
then, for a while, only what scores as the target usually does is better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from trackctl.runtime.appearance import Appearance
from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Box, CropSpec
from trackctl.runtime.view import View


@dataclass(frozen=True, kw_only=True)
class Redetection:
    """How a missing target is looked for. All numbers are [ours]; how they were chosen: benchmarks/absence.py.

    Attributes:
        windows: search windows per frame beside the tracker's own.
        alike: how many of them go where the frame looks most like the target.
        step: distance of neighbouring windows as a share of a window's side; half of it is how far the network reaches.
        near: how far the target may be from where it was last seen at once, in steps.
        speed: steps that it may get further away in a frame.
        patience: frames after which what is in the tracker's own window is the target no more, whatever it was.
        renew: TRACKING frames between two looks at what the target looks like.

    Raises:
        InputError: a number is out of range.
    """

    windows: int = 8
    alike: int = 2
    step: float = 0.5
    near: float = 1.0
    speed: float = 0.05
    patience: int = 50
    renew: int = 10

    def __post_init__(self) -> None:
        if min(self.windows, self.patience, self.renew) < 1 or not 0 <= self.alike <= self.windows:
            raise InputError(
                f"got windows {self.windows}, alike {self.alike}, patience {self.patience} and renew {self.renew}, "
                "expected 1 or more, and of the windows none to all alike"
            )
        if not 0.0 < self.step <= 1.0 or self.near < 1.0 or self.speed < 0.0:
            raise InputError(
                f"got step {self.step}, near {self.near} and speed {self.speed}, "
                "expected 0 < step <= 1, 1 or more, and a speed of 0 or more"
            )


class Redetector:
    """Remembers where a target was last seen and what it looked like, and says where to look for it while it is missing.

    Args:
        spec: how to look.
        crop: how large a search window is.
        view: of the camera.

    Attributes:
        last: where the target was last seen.
        gone: whether the tracker's own window was empty at some time since, or it is long ago.
    """

    def __init__(self, spec: Redetection, crop: CropSpec, view: View) -> None:
        self._spec, self._crop, self._view = spec, crop, view
        self.last = Box(0.0, 0.0, 0.0, 0.0)
        self.gone = False
        self._appearance: Appearance | None = None
        self._seen = 0
        self._away = 0
        self._sweep: Sweep | None = None

    def start(self, target: Box) -> None:
        """A new target, in the newest frame."""
        self._seen = 0
        self.sight(target)
        self._appearance = self._view.appearance(target)

    def sight(self, target: Box) -> None:
        """The target is TRACKING in the newest frame."""
        self.last, self.gone = target, False
        self._away = 0
        self._sweep = None
        self._seen += 1
        if self._seen % self._spec.renew == 0:
            self._appearance = self._view.appearance(target)

    def miss(self, *, empty: bool) -> None:
        """The target is not TRACKING in the newest frame; ``empty`` if the tracker's own window showed nothing."""
        self._away += 1
        self.gone = self.gone or empty or self._away > self._spec.patience

    def places(self) -> list[tuple[float, float]]:
        """Centres of the windows in which to look for the target in the newest frame."""
        step_px = self._spec.step * self._crop.search_side_px(self.last.width, self.last.height)
        reach = self._spec.near + self._spec.speed * self._away
        if self._sweep is None:
            self._sweep = Sweep(self.last.centre_xy, step_px, self._view.frame_hw)
        alike = self._view.places_like(self._appearance, self._spec.alike, self.last.centre_xy, reach * step_px)
        return alike + self._sweep.next(self._spec.windows - len(alike), reach)


class Sweep:
    """Places ring by ring outwards; made anew for each absence.

    Args:
        centre_xy: where to begin.
        step_px: distance of neighbouring places.
        frame_hw: height and width of the frame, px; places beyond it are moved to its border.
    """

    def __init__(self, centre_xy: tuple[float, float], step_px: float, frame_hw: tuple[float, float]) -> None:
        centre_x, centre_y = centre_xy
        height, width = frame_hw
        columns = range(-math.ceil(centre_x / step_px), math.ceil((width - centre_x) / step_px) + 1)
        rows = range(-math.ceil(centre_y / step_px), math.ceil((height - centre_y) / step_px) + 1)
        cells = sorted(((column, row) for column in columns for row in rows), key=_ring)
        self._rings = [_ring(cell)[0] for cell in cells]
        self._places = [
            (min(max(centre_x + column * step_px, 0.0), width), min(max(centre_y + row * step_px, 0.0), height))
            for column, row in cells
        ]
        self._at = 0

    def __len__(self) -> int:
        """Number of places in the whole frame."""
        return len(self._places)

    def next(self, count: int, reach: float) -> list[tuple[float, float]]:
        """The next places, ``count`` at most; from the start again once all were seen that are ``reach`` steps away or less."""
        if self._at >= len(self._places) or self._rings[self._at] > reach:
            self._at = 0
        chosen = self._places[self._at : self._at + count]
        self._at += len(chosen)
        return chosen


def _ring(cell: tuple[int, int]) -> tuple[int, float]:
    """Number of the square ring round the middle, then the angle on it."""
    return max(abs(cell[0]), abs(cell[1])), math.atan2(cell[1], cell[0])
