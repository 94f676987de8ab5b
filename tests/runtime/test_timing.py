"""Percentiles of durations in bounded memory."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackctl.runtime.timing import Durations, StageTimes


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(100, 10**12), min_size=1, max_size=80), st.floats(0.0, 100.0))
def test_percentiles_are_within_half_a_percent_of_the_exact_ones(durations_ns: list[int], percent: float) -> None:
    histogram = Durations()
    for duration_ns in durations_ns:
        histogram.add(duration_ns)
    exact = np.percentile(durations_ns, percent, method="inverted_cdf")
    assert histogram.percentile_ns(percent) == pytest.approx(float(exact), rel=0.00501)
    assert len(histogram) == len(durations_ns)


@pytest.mark.parametrize("duration_ns, counted", [(-5, 100.0), (0, 100.0), (99, 100.0), (10**15, 1e12)])
def test_durations_beyond_the_histogram_count_at_its_ends(duration_ns: int, counted: float) -> None:
    histogram = Durations()
    histogram.add(duration_ns)
    assert histogram.percentile_ns(50) == counted


def test_without_durations_there_is_no_percentile() -> None:
    assert math.isnan(Durations().percentile_ns(50))
    assert StageTimes().summary() == {}


def test_memory_does_not_grow() -> None:
    histogram = Durations()
    histogram.add(1000)

    def size() -> int:
        return sum(sys.getsizeof(value) + getattr(value, "nbytes", 0) for value in vars(histogram).values())

    before = size()
    for duration_ns in np.random.default_rng(0).integers(1, 10**9, 20_000).tolist():
        histogram.add(duration_ns)
    assert len(histogram) == 20_001
    assert size() == before


def test_stages_keep_their_order_and_units() -> None:
    times = StageTimes()
    for _ in range(100):
        times.add("read", 2_000_000)
        times.add("crop", 500_000)
    times.add("crop", 90_000_000)
    summary = times.summary()
    assert list(summary) == ["read", "crop"]
    assert summary["read"].p50_ms == summary["read"].p99_ms == pytest.approx(2.0, rel=0.005)
    assert summary["crop"].p50_ms == pytest.approx(0.5, rel=0.005)
    assert summary["crop"].p99_ms == pytest.approx(0.5, rel=0.005)
