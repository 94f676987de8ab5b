"""TRACKING, UNCERTAIN or LOST, from the quality numbers of each frame.

The score alone cannot tell: a network asked for the best match always finds one. Three more witnesses are heard: the
peak-to-sidelobe ratio (a real target makes one sharp peak), the second peak (a rival that looks as good) and the contrast of
the search patch (a covered lens shows nothing). A frame that repeats the last one bit for bit carries no evidence either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum

from trackctl.runtime.contract import BLANK_CONTRAST
from trackctl.runtime.errors import InputError


class Status(str, Enum):
    """How far the box can be believed."""

    TRACKING = "TRACKING"
    UNCERTAIN = "UNCERTAIN"
    LOST = "LOST"


@dataclass(frozen=True, kw_only=True)
class ConfidenceSpec:
    """Thresholds of one tracker; they travel in its manifest.

    Attributes:
        sure_score: a frame with at least this score (0..1) can be TRACKING.
        lost_score: a frame below this score shows no target.
        sure_psr: least peak-to-sidelobe ratio of a TRACKING frame.
        rival: most that the second peak may reach, as a share of the score, in a TRACKING frame.
        lost_after: consecutive frames without a target before UNCERTAIN becomes LOST.
        found_after: consecutive sure frames before LOST becomes TRACKING again.
    """

    sure_score: float = 0.6
    lost_score: float = 0.3
    sure_psr: float = 5.0
    rival: float = 0.9
    lost_after: float = 5
    found_after: float = 3

    @classmethod
    def from_mapping(cls, values: Mapping[str, float]) -> ConfidenceSpec:
        """The thresholds of a manifest; missing ones keep their defaults.

        Raises:
            InputError: a key is not a threshold.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise InputError(f"got the confidence thresholds {unknown}, expected some of {sorted(known)}: correct the manifest")
        return cls(**values)


class Confidence:
    """Judges one frame after the other; remembers only how long the target has been gone or back."""

    def __init__(self, spec: ConfidenceSpec) -> None:
        self._spec = spec
        self._status = Status.TRACKING
        self._gone = 0
        self._back = 0

    def judge(self, score: float, psr: float, second: float, contrast: float, *, repeated: bool) -> Status:
        """The status after a frame.

        Args:
            score: foreground probability of the chosen cell, 0..1.
            psr: peak-to-sidelobe ratio.
            second: highest probability off the peak, 0..1.
            contrast: standard deviation of the search patch, grey levels.
            repeated: the frame equals the one before bit for bit.
        """
        spec = self._spec
        blank = repeated or contrast <= BLANK_CONTRAST
        gone = blank or score < spec.lost_score
        sure = not gone and score >= spec.sure_score and psr >= spec.sure_psr and second <= spec.rival * score
        self._gone = self._gone + 1 if gone else 0
        self._back = self._back + 1 if sure else 0
        if self._gone >= spec.lost_after:
            self._status = Status.LOST
        elif self._status is Status.LOST:
            if self._back >= spec.found_after:
                self._status = Status.TRACKING
        else:
            self._status = Status.TRACKING if sure else Status.UNCERTAIN
        return self._status
