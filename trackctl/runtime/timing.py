"""Percentiles of durations in memory that does not grow with the number of frames."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# Bounds of the histogram: 100 ns to 1000 s in buckets 1 % wide, 2,315 counters per stage.
_SHORTEST_NS = 100.0
_LONGEST_NS = 1e12
_LOG_WIDTH = math.log(1.01)
_BUCKETS = math.ceil(math.log(_LONGEST_NS / _SHORTEST_NS) / _LOG_WIDTH)


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    """The typical and the worst durations of one stage, milliseconds; within 0.5 % of the exact order statistics."""

    p50_ms: float
    p95_ms: float
    p99_ms: float


class Durations:
    """A histogram of durations with logarithmic buckets: bounded memory, bounded relative error, no randomness."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BUCKETS, dtype=np.int64)
        self._total = 0
        self._shortest = math.inf
        self._longest = -math.inf

    def __len__(self) -> int:
        return self._total

    def add(self, duration_ns: int) -> None:
        """Count one duration in nanoseconds; below 100 ns counts as 100 ns."""
        value = min(max(float(duration_ns), _SHORTEST_NS), _LONGEST_NS)
        bucket = min(int(math.log(value / _SHORTEST_NS) / _LOG_WIDTH), _BUCKETS - 1)
        self._counts[bucket] += 1
        self._total += 1
        self._shortest = min(self._shortest, value)
        self._longest = max(self._longest, value)

    def percentile_ns(self, percent: float) -> float:
        """The nearest-rank percentile (the smallest duration that ``percent`` % of all do not exceed), NaN when empty."""
        if self._total == 0:
            return math.nan
        rank = max(1, math.ceil(percent / 100.0 * self._total))
        bucket = int(np.searchsorted(np.cumsum(self._counts), rank))
        middle = _SHORTEST_NS * math.exp((bucket + 0.5) * _LOG_WIDTH)
        return min(max(middle, self._shortest), self._longest)


class StageTimes:
    """Durations per stage, in the order in which the stages first appear."""

    def __init__(self) -> None:
        self._stages: dict[str, Durations] = {}

    def add(self, stage: str, duration_ns: int) -> None:
        """Count one duration of a stage, nanoseconds."""
        durations = self._stages.get(stage)
        if durations is None:
            durations = self._stages[stage] = Durations()
        durations.add(duration_ns)

    def summary(self) -> Mapping[str, Percentiles]:
        """p50, p95 and p99 of each stage, milliseconds."""
        return {
            stage: Percentiles(
                p50_ms=durations.percentile_ns(50) / 1e6,
                p95_ms=durations.percentile_ns(95) / 1e6,
                p99_ms=durations.percentile_ns(99) / 1e6,
            )
            for stage, durations in self._stages.items()
        }
