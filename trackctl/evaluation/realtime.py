"""Real-time mode: frames come at the camera's rate, and those that come while the tracker works are never seen.

Rule of the VOT real-time challenges (Kristan et al., The visual object tracking VOT2017 challenge results, ICCVW 2017, section
2.4), as the official toolkit simulates it: an update's box counts for the frame it was made from; every frame that comes before
the update is over keeps that box; then the next frame to come is tracked. Initialisations are free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Float64Array


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A camera's rate together with how long the tracker takes.

    The durations are those of a run in which no frame was late. What real time makes of them is therefore the same whenever and
    wherever it is simulated.

    Attributes:
        fps: frames per second.
        seconds: (N,) measured duration of the update on each frame; NaN where there was none: the median stands in for it.

    Raises:
        InputError: ``fps`` is not positive.
    """

    fps: float
    seconds: Float64Array

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fps) and self.fps > 0.0):
            raise InputError(f"got {self.fps} frames per second, expected a positive number: give the camera's rate")

    def duration(self, index: int) -> float:
        """Seconds that the update on a frame takes; 0 if no update was ever measured."""
        value = float(self.seconds[index])
        if math.isfinite(value):
            return value
        known = self.seconds[np.isfinite(self.seconds)]
        return float(np.median(known)) if known.size else 0.0

    def next_seen(self, index: int) -> int:
        """The number of the first frame that comes when the update on frame ``index`` is over."""
        # Times are whole nanoseconds; rounding removes what the product adds beyond them.
        return index + max(1, math.ceil(round(self.duration(index) * self.fps, 9)))

    def never_late(self) -> bool:
        """Whether every update is over before the next frame comes."""
        known = np.flatnonzero(np.isfinite(self.seconds))
        return all(self.next_seen(index) == index + 1 for index in known.tolist())
