"""Frames of two cameras brought together by the time they were taken."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trackctl.runtime.contract import Array
from trackctl.runtime.errors import InputError
from trackctl.runtime.frame import Frame

Side = Literal["visible", "thermal"]
VISIBLE: Side = "visible"
THERMAL: Side = "thermal"
# Planes of a pair (H, W, 4).
PLANES: dict[str, slice] = {VISIBLE: slice(0, 3), THERMAL: slice(3, 4)}

# A camera that is late by this many of its periods has dropped a frame; [ours].
DROPPED = 1.5
# Frames of the other camera are held this many periods for a leading one that is slow to arrive.
HELD_PERIODS = 8


@dataclass(frozen=True)
class Together:
    """The two cameras at one moment.

    Attributes:
        visible, thermal: their frames; None for a camera that gave none near enough, never both.
        timestamp_ns: of the leading camera's frame, or of the one that is there, on the visible camera's clock.
    """

    visible: Frame | None
    thermal: Frame | None
    timestamp_ns: int


def flattened(pixels: Array, missing: Sequence[str], levels: Sequence[float]) -> Array:
    """A copy of a pair (H, W, 4) in which the planes of the missing cameras have one level each.

    Args:
        missing: ``visible``, ``thermal``.
        levels: of the four planes; those that fill the outside of the frame, so that a window that reaches out stays flat.
    """
    flat: Array = pixels.copy()
    for camera in missing:
        planes = PLANES[camera]
        flat[:, :, planes] = np.asarray(levels[planes])
    return flat


class Pairing:
    """Nearest-time pairing of two streams that are fed frame by frame.

    The leading camera, which should be the slower one, sets the pace: each of its frames is given out with the other camera's
    nearest frame, if that is within the tolerance. While the leading camera is silent for longer than ``DROPPED`` periods, the
    other one goes on alone at its pace. A frame is decided when the other camera's next frame is there, so a pair is late by at
    most one period.

    Args:
        lead: the camera that sets the pace.
        period_ns: time between two of its frames.
        tolerance_ns: largest difference in time within a pair.
        offset_ns: what the thermal camera's clock shows more than the visible one's.

    Raises:
        InputError: a time is out of range.
    """

    def __init__(self, *, lead: Side, period_ns: int, tolerance_ns: int, offset_ns: int = 0) -> None:
        if period_ns <= 0 or tolerance_ns < 0:
            raise InputError(
                f"got a period of {period_ns} ns and a tolerance of {tolerance_ns} ns, expected a period above 0 and a tolerance "
                "of 0 or more"
            )
        self._lead = lead
        self._period_ns, self._tolerance_ns, self._offset_ns = period_ns, tolerance_ns, offset_ns
        self._waiting: deque[tuple[int, Frame]] = deque()  # frames of the leading camera that are not decided
        self._others: deque[tuple[int, Frame]] = deque()  # in order of time; what may still be the nearest
        self._last_lead_ns: int | None = None
        self._last_out_ns: int | None = None

    def add(self, side: Side, frame: Frame) -> Iterator[Together]:
        """What is decided by one more frame, in order of time; each camera's own frames must come in order."""
        time_ns = frame.timestamp_ns - (self._offset_ns if side == THERMAL else 0)
        if side == self._lead:
            self._waiting.append((time_ns, frame))
            self._last_lead_ns = time_ns
            # The other camera is silent if a whole tolerance has passed since a frame that still waits for it.
            yield from self._decided(lambda waiting_ns: time_ns - waiting_ns > self._tolerance_ns)
        else:
            if self._last_lead_ns is None:
                self._last_lead_ns = time_ns  # the leading camera is awaited from now on
            self._others.append((time_ns, frame))
            while self._others[0][0] < time_ns - self._tolerance_ns - HELD_PERIODS * self._period_ns:
                self._others.popleft()
            yield from self._decided(lambda waiting_ns: time_ns >= waiting_ns)
            yield from self._alone(time_ns, frame)

    def end(self) -> Iterator[Together]:
        """What is left when both streams have ended."""
        yield from self._decided(lambda _: True)

    def _decided(self, is_ripe: Callable[[int], bool]) -> Iterator[Together]:
        while self._waiting and is_ripe(self._waiting[0][0]):
            time_ns, frame = self._waiting.popleft()
            nearest = min(self._others, key=lambda other: abs(other[0] - time_ns), default=None)
            while len(self._others) > 1 and self._others[1][0] <= time_ns:
                self._others.popleft()
            near = nearest is not None and abs(nearest[0] - time_ns) <= self._tolerance_ns
            yield self._together(frame, nearest[1] if nearest is not None and near else None, time_ns)

    def _alone(self, time_ns: int, frame: Frame) -> Iterator[Together]:
        silent = self._last_lead_ns is not None and time_ns - self._last_lead_ns > DROPPED * self._period_ns
        # Paced like the leading camera, which the other one may outrun; half a period allows for jitter.
        due = self._last_out_ns is None or time_ns - self._last_out_ns > self._period_ns / 2
        if silent and due and not self._waiting:
            yield self._together(None, frame, time_ns)

    def _together(self, leading: Frame | None, other: Frame | None, time_ns: int) -> Together:
        self._last_out_ns = time_ns
        visible, thermal = (leading, other) if self._lead == VISIBLE else (other, leading)
        return Together(visible, thermal, time_ns)
