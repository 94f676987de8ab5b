"""TRACKING, UNCERTAIN or LOST, from the quality numbers of each frame.

The score alone cannot tell: a network asked for the best match always finds one. So a frame must be sure in absolute terms, by
its score and by how sharp the peak is (peak-to-sidelobe ratio); and once the target was missed, what is found must look as much
like it as it usually did, for a while. A blank patch (covered lens, black frame) and a frame that repeats the last one bit for
bit carry no evidence at all. How these numbers were chosen: benchmarks/absence.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum

from trackctl.runtime.contract import BLANK_CONTRAST
from trackctl.runtime.errors import InputError

# Log-odds beyond which float32 probabilities say nothing more.
MOST_LOG_ODDS = 12.0


class Status(str, Enum):
    """How far the box can be believed."""

    TRACKING = "TRACKING"
    UNCERTAIN = "UNCERTAIN"
    LOST = "LOST"


@dataclass(frozen=True, kw_only=True)
class ConfidenceSpec:
    """Thresholds of one tracker; they travel in its manifest. The defaults are [ours] and fit no tracker in particular.

    Attributes:
        sure_score: least score (0..1) of a sure frame.
        sure_psr: least peak-to-sidelobe ratio of a sure frame.
        near_score: least score of a target that is sure where it was looked for near by (``Tracker``).
        lost_score: a frame below this score shows no target; the box stands.
        rebound: how far below its usual log-odds a target that was missed may be when it is found again.
        most_score: what is above counts as this when the usual log-odds are learnt: a target that scores very high may score much
            lower after an absence.
        usual_rate: weight of a TRACKING frame in the usual log-odds, after the first frames, which all weigh alike.
        forget: share of the way down to ``sure_score`` that the usual log-odds go in each frame that is not TRACKING, so that a
            target that has changed can be found.
        lost_after: consecutive frames without a target before UNCERTAIN becomes LOST.
        doubted_after: consecutive frames with something that does not look like the target before UNCERTAIN becomes LOST.
        found_after: consecutive sure frames before a target that was missed is TRACKING again.
    """

    sure_score: float = 0.6
    sure_psr: float = 5.0
    near_score: float = 0.97
    lost_score: float = 0.3
    rebound: float = 2.0
    most_score: float = 1.0
    usual_rate: float = 0.02
    forget: float = 0.002
    lost_after: float = 5
    doubted_after: float = 30
    found_after: float = 2

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
    """Judges one frame after the other; remembers how the target usually scores and how long it has been gone or back."""

    def __init__(self, spec: ConfidenceSpec) -> None:
        self._spec = spec
        self._status = Status.TRACKING
        self._floor = log_odds(spec.sure_score)
        self._usual = self._floor
        self._learnt = 0
        self._gone = 0
        self._doubted = 0
        self._back = 0

    @property
    def status(self) -> Status:
        """The status after the last frame; TRACKING before the first."""
        return self._status

    def sure(self, score: float, psr: float) -> bool:
        """Whether that is a target in absolute terms."""
        return score >= self._spec.sure_score and psr >= self._spec.sure_psr

    def sure_near(self, score: float, psr: float) -> bool:
        """Whether a search of the middle of the window found a target beyond doubt, so that the rest need not be looked at."""
        return score >= self._spec.near_score and psr >= self._spec.sure_psr

    def believable(self, score: float, psr: float, rebound: float | None = None) -> bool:
        """Whether that is the target as it usually looks, within the rebound of the thresholds or another one."""
        return self.sure(score, psr) and self.usual(score, rebound)

    def usual(self, score: float, rebound: float | None = None) -> bool:
        """Whether the target usually scores like that, within the rebound of the thresholds or another one."""
        allowed = self._spec.rebound if rebound is None else rebound
        return log_odds(score) >= max(self._floor, self._usual - allowed)

    def judge(self, score: float, psr: float, contrast: float, *, repeated: bool) -> Status:
        """The status after a frame.

        Args:
            score: foreground probability of the chosen cell, 0..1.
            psr: peak-to-sidelobe ratio.
            contrast: standard deviation of the search patch, grey levels.
            repeated: the frame equals the one before bit for bit.
        """
        spec = self._spec
        blank = repeated or contrast <= BLANK_CONTRAST
        tracking = self._status is Status.TRACKING
        sure = not blank and (self.sure(score, psr) if tracking else self.believable(score, psr))
        self._gone = self._gone + 1 if blank or score < spec.lost_score else 0
        self._doubted = 0 if sure else self._doubted + 1
        self._back = self._back + 1 if sure else 0
        if sure and (tracking or self._back >= spec.found_after):
            self._status = Status.TRACKING
            self._learnt += 1
            self._usual += max(spec.usual_rate, 1.0 / self._learnt) * (log_odds(min(score, spec.most_score)) - self._usual)
            return self._status
        self._usual -= spec.forget * (self._usual - self._floor)
        missing = self._gone >= spec.lost_after or self._doubted >= spec.doubted_after
        self._status = Status.LOST if missing or self._status is Status.LOST else Status.UNCERTAIN
        return self._status


def log_odds(score: float) -> float:
    """``ln(p / (1 - p))`` of a probability, within +-MOST_LOG_ODDS."""
    if score <= 0.0 or score >= 1.0:
        return math.copysign(MOST_LOG_ODDS, score - 0.5)
    return min(max(math.log(score / (1.0 - score)), -MOST_LOG_ODDS), MOST_LOG_ODDS)
