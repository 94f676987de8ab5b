"""Step drift and pace: nothing between equals, the known amount between engines that differ by a known amount."""

from __future__ import annotations

import time

import numpy as np
import pytest
from blob_tracker import CROP, SIDE, Blob, blob_engines

from trackctl.calibration.record import record
from trackctl.calibration.sensitivity import step_drift, steps
from trackctl.calibration.speed import side_by_side
from trackctl.runtime.contract import TensorSpec
from trackctl.runtime.engine import FunctionEngine


def test_equals_do_not_drift():
    engines = blob_engines()
    feeds = record(*engines[:2], Blob().footage(), crop=CROP).feeds
    answers = steps(engines.search, feeds)
    assert len(answers) == len(feeds) == 8
    drift = step_drift(answers, answers)
    assert (drift.boxes, drift.worst) == (0.0, 0.0)
    assert drift.maps < 1e-6


def test_one_pixel_and_one_level_are_measured():
    engines, other = blob_engines(), blob_engines(shift_px=1.0)
    feeds = record(*engines[:2], Blob().footage(), crop=CROP).feeds
    louder = [{**feed, "level": feed["level"] * np.float32(1.25)} for feed in feeds]
    drift = step_drift(steps(engines.search, feeds), steps(other.search, louder))
    assert drift.boxes == pytest.approx(1.0 - (SIDE - 1) / (SIDE + 1), abs=0.01)
    assert drift.boxes <= drift.worst <= drift.boxes + 0.02
    assert drift.maps == pytest.approx(0.25, rel=1e-4)


def test_a_step_that_is_not_finite_is_all_lost():
    engines, other = blob_engines(), blob_engines(shift_px=np.nan)
    feeds = record(*engines[:2], Blob(3).footage(), crop=CROP).feeds
    assert step_drift(steps(engines.search, feeds), steps(other.search, feeds)).boxes == 1.0


def test_the_slower_engine_is_slower_by_the_base():
    def sleeping(seconds):
        def run(feeds):
            time.sleep(seconds)
            return {"y": feeds["x"]}

        spec = {"x": TensorSpec("float32", (1,))}
        return FunctionEngine(run, spec, {"y": spec["x"]})

    engines = {"fast": sleeping(0.001), "slow": sleeping(0.004)}
    paces = side_by_side(engines, {"x": np.zeros(1, dtype=np.float32)}, base="fast")
    assert paces["fast"].ratio == 1.0
    assert paces["slow"].ratio > 1.5
    assert paces["slow"].ms >= 4.0
