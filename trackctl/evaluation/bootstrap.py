"""Intervals for means over sequences, by resampling the sequences.

Efron and Tibshirani, An introduction to the bootstrap, 1993: the percentile interval, section 13.3. All trackers are resampled
with the same draws, so that what makes a sequence hard for all of them cancels in their differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Float64Array

# Draws held in memory at a time, times sequences.
_CHUNK = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number and the bounds of its interval; NaN where it is undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How intervals are found.

    Attributes:
        draws: number of resampled sets of sequences.
        confidence: share of draws inside an interval.
        seed: of the draws.

    Raises:
        InputError: a number makes no sense.
    """

    draws: int = 10_000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draws < 100 or not 0.0 < self.confidence < 1.0 or self.seed < 0:
            raise InputError(
                f"got {self.draws} draws, confidence {self.confidence} and seed {self.seed}, expected 100 draws or more, "
                "a confidence between 0 and 1 and a seed of 0 or more"
            )

    def means(self, values: Float64Array, weights: Float64Array) -> Float64Array:
        """Weighted means over resampled sequences, (draws, K); NaN where a draw has no weight.

        Args:
            values: (S, K) of each sequence, K numbers that belong together; not modified. What has no weight may be anything.
            weights: (S, K) 0 or more.
        """
        count = len(values)
        rng = np.random.default_rng(self.seed)
        products = np.where(weights > 0.0, values, 0.0) * weights
        parts = []
        step = max(1, _CHUNK // count)
        for start in range(0, self.draws, step):
            # How often each sequence is drawn when as many are drawn as there are.
            times = rng.multinomial(count, np.full(count, 1.0 / count), size=min(step, self.draws - start)).astype(np.float64)
            parts.append(_ratio(times @ products, times @ weights))
        return np.concatenate(parts)

    def interval(self, value: float, means: Float64Array) -> Interval:
        """The percentile interval of means (draws,) about the number that the whole set gives."""
        known = means[np.isfinite(means)]
        if not known.size or not np.isfinite(value):
            return Interval(value=value, low=float("nan"), high=float("nan"))
        tail = 50.0 * (1.0 - self.confidence)
        low, high = np.percentile(known, (tail, 100.0 - tail)).tolist()
        return Interval(value=value, low=low, high=high)


def weighted_means(values: Float64Array, weights: Float64Array) -> list[float]:
    """The means over all sequences: (S, K) values and weights to K numbers."""
    sums = (np.where(weights > 0.0, values, 0.0) * weights).sum(axis=0)
    means: list[float] = _ratio(sums, weights.sum(axis=0)).tolist()
    return means


def _ratio(sums: Float64Array, weights: Float64Array) -> Float64Array:
    ratio: Float64Array = np.divide(sums, weights, out=np.full(sums.shape, np.nan), where=weights > 0.0)
    return ratio


def columns(rows: Sequence[dict[str, tuple[float, float]]], names: Sequence[str]) -> tuple[Float64Array, Float64Array]:
    """Values and weights, (S, K) each, from one ``sequence -> (value, weight)`` per tracker; a missing one weighs nothing."""
    table = np.array([[row.get(name, (0.0, 0.0)) for row in rows] for name in names], dtype=np.float64)  # (S, K, 2)
    return table[..., 0], table[..., 1]
