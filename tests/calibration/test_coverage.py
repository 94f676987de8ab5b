"""The frames kept cover what was met, are the same each time and say why they are there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackctl.calibration.coverage import Coverage, situation
from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import CropSpec

LABELS = st.tuples(st.sampled_from("abcd"), st.sampled_from("xyz"))


def cover(stream, limit) -> Coverage:
    coverage = Coverage(limit)
    for position, labels in enumerate(stream):
        coverage.add(position, labels, lambda position=position: {"position": np.array(position)})
    return coverage


@settings(max_examples=80, deadline=None)
@given(st.lists(LABELS, min_size=1, max_size=80), st.integers(7, 20))
def test_no_label_is_lost_while_there_is_room_for_all(stream, limit):
    coverage = cover(stream, limit)
    assert len(coverage.held) == min(len(stream), limit)
    assert set(coverage.counts()) == {label for labels in stream for label in labels}
    assert [int(held.feeds["position"]) for held in coverage.held.values()] == list(coverage.held) == sorted(coverage.held)
    assert list(cover(stream, limit).held) == list(coverage.held)


def test_a_clip_without_events_is_thinned_from_end_to_end():
    positions = list(cover([("a",)] * 100, 10).held)
    assert positions[0] == 0
    assert positions[-1] == 99
    assert max(np.diff(positions)) <= 25


def test_what_is_rare_is_kept_and_named():
    stream = [("common", "sure")] * 50 + [("common", "lost")] + [("common", "sure")] * 50
    coverage = cover(stream, 4)
    assert 50 in coverage.held
    assert coverage.reasons()[list(coverage.held).index(50)] == "lost (1 of 4)"


def test_frames_none_are_refused():
    with pytest.raises(InputError, match="got 0 calibration frames, expected 1 or more"):
        Coverage(0)


def test_a_situation_is_told_in_words():
    state = np.array([[600.0, 20.0, 20.0, 12.0, 640.0, 512.0]], dtype=np.float32)
    assert situation(state, score=0.4, contrast=9.0, crop=CropSpec()) == (
        "target of 11 to 16 px",
        "contrast of 8 to 16 levels",
        "top right of the frame",
        "window over the edge of the frame",
        "target unsure",
    )
    state[0, :4] = 320.0, 256.0, 64.0, 64.0
    told = situation(state, score=0.9, contrast=0.0, crop=CropSpec())
    assert told[0] == "target of 64 to 91 px"
    assert told[1:] == ("contrast of 0.5 to 1 levels", "middle centre of the frame", "window inside the frame", "target sure")
