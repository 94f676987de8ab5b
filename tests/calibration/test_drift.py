"""Drift is nothing between equals, and the known amount between trackers that differ by a known amount."""

from __future__ import annotations

import numpy as np
import pytest
from blob_tracker import CROP, SIDE, Blob, blob_engines
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trackctl.calibration.drift import Difference, measure_drift
from trackctl.runtime.errors import InputError

FINITE = hnp.arrays(np.float32, 5, elements=st.floats(-1e6, 1e6, width=32))


def test_equals_do_not_drift():
    drift = measure_drift(blob_engines(), blob_engines(), Blob().footage(), crop=CROP)
    assert drift.frames == 8
    assert drift.step_iou == drift.step_iou_min == drift.loop_iou == drift.loop_iou_min == 1.0
    assert list(drift.tensors) == ["level", "next_state", "score", "quality", "cls", "loc"]
    assert all(difference == Difference(0.0, 0.0) for difference in drift.tensors.values())
    assert drift.auc == drift.reference_auc
    assert drift.auc > 0.85


def test_a_tracker_that_is_one_pixel_off_is_one_pixel_off():
    drift = measure_drift(blob_engines(), blob_engines(shift_px=1.0), Blob().footage(), crop=CROP)
    overlap = (SIDE - 1) / (SIDE + 1)
    assert drift.step_iou == pytest.approx(overlap, abs=0.01)
    assert drift.step_iou_min == pytest.approx(overlap, abs=0.01)
    # The blob is found afresh in each frame, so that the error does not add up.
    assert drift.loop_iou == pytest.approx(overlap, abs=0.03)
    assert drift.tensors["next_state"].absolute == pytest.approx(1.0, abs=1e-3)
    assert drift.tensors["cls"] == Difference(0.0, 0.0)
    assert drift.auc < drift.reference_auc


def test_a_step_that_is_not_finite_overlaps_nothing_and_the_box_stands():
    drift = measure_drift(blob_engines(), blob_engines(shift_px=np.nan), Blob().footage(), crop=CROP)
    assert drift.step_iou == 0.0
    assert drift.tensors["next_state"].mixed == np.inf
    assert drift.loop_iou_min == 0.0  # the blob has left the first box
    assert drift.auc < drift.reference_auc


def test_each_search_gets_its_own_template():
    drift = measure_drift(blob_engines(), blob_engines(gain=1.5), Blob().footage(), crop=CROP)
    level = drift.tensors["level"].absolute
    assert level > 1.0
    assert drift.tensors["cls"].absolute == pytest.approx(level)
    assert drift.tensors["level"].mixed == pytest.approx(level / (1.0 + 2.0 * level))
    assert drift.loop_iou == 1.0


def test_without_annotation_there_is_no_auc():
    footage = Blob().footage()
    drift = measure_drift(blob_engines(), blob_engines(), type(footage)(source=footage.source, box=footage.box), crop=CROP)
    assert (drift.reference_auc, drift.auc) == (None, None)


def test_an_annotation_may_be_shorter_than_the_clip_and_have_gaps():
    footage = Blob().footage()
    truth = footage.truth_ltwh[:5].copy()
    truth[2] = np.nan
    shorter = type(footage)(source=footage.source, box=footage.box, truth_ltwh=truth)
    assert measure_drift(blob_engines(), blob_engines(), shorter, crop=CROP).auc > 0.85


def test_a_single_frame_is_refused():
    with pytest.raises(InputError, match="blob has fewer than two frames, expected a clip to compare on"):
        measure_drift(blob_engines(), blob_engines(), Blob(1).footage(), crop=CROP)


@settings(max_examples=50, deadline=None)
@given(FINITE, FINITE)
def test_differences_are_largest_and_bounded(a, b):
    difference = Difference()
    difference.add(a, b)
    assert difference.absolute == np.abs(a.astype(np.float64) - b).max()
    assert 0.0 <= difference.mixed <= difference.absolute
    before = (difference.absolute, difference.mixed)
    difference.add(a, a)
    assert (difference.absolute, difference.mixed) == before


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_infinitely_wrong(broken):
    good, bad = np.array([1.0, 2.0], dtype=np.float32), np.array([1.0, broken], dtype=np.float32)
    for pair in ((good, bad), (bad, good)):
        difference = Difference()
        difference.add(*pair)
        assert difference.absolute == difference.mixed == np.inf
