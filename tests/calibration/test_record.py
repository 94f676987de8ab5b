"""What is recorded is what the graph met."""

from __future__ import annotations

import numpy as np
import pytest
from blob_tracker import CROP, Blob, blob_engines

from trackctl.calibration.record import Tap, record
from trackctl.runtime.contract import STATE_OUT
from trackctl.runtime.errors import InputError


def test_the_recorded_inputs_are_complete_and_copies():
    engines = blob_engines()
    recorded = record(*engines[:2], Blob().footage(), crop=CROP, limit=4)
    assert recorded.source == "blob"
    assert len(recorded.frames) == len(recorded.reasons) == 4
    assert set(recorded.frames) < set(range(1, 9))
    assert all(reason.endswith(" of 4)") for reason in recorded.reasons)
    np.testing.assert_array_equal(recorded.boxes_ltwh[0], Blob().box(0))
    assert recorded.boxes_ltwh.shape == (9, 4)
    states = [feed["state"][0, :2] for feed in recorded.feeds]
    for frame, feed, state in zip(recorded.frames, recorded.feeds, states, strict=True):
        assert {name: (array.dtype, array.shape) for name, array in feed.items()} == {
            name: (np.dtype(spec.dtype), spec.shape) for name, spec in engines.search.inputs.items()
        }
        # The state on entry is the target's place in the frame before.
        np.testing.assert_allclose(state, Blob().box(frame - 1).centre_xy, atol=0.6)
    assert recorded.feeds[0]["search"] is not recorded.feeds[1]["search"]
    assert len({feed["search"].tobytes() for feed in recorded.feeds}) > 1


def test_the_engines_stay_open():
    template, search, _ = blob_engines()
    record(template, search, Blob().footage(), crop=CROP)
    assert template.run({"template": np.ones((1, 3, 127, 127), dtype=np.float32)})["level"] == 1.0


def test_a_single_frame_is_refused():
    with pytest.raises(InputError, match="blob has fewer than two frames, expected a clip to calibrate on"):
        record(*blob_engines()[:2], Blob(1).footage(), crop=CROP)


def test_a_tap_shows_each_run_and_closes_its_engine():
    _, search, _ = blob_engines()
    seen = []
    with Tap(search, lambda feeds, outputs: seen.append((sorted(feeds), sorted(outputs)))) as tap:
        assert (tap.name, tap.inputs, tap.outputs) == (search.name, search.inputs, search.outputs)
        tap.bind({"level": np.ones((1, 1), dtype=np.float32)})
        patch = np.full((1, 3, 255, 255), 200.0, dtype=np.float32)
        state = np.array([[50, 50, 16, 16, 160, 120]], dtype=np.float32)
        assert tap.run({"search": patch, "state": state})[STATE_OUT][0].tolist() == state[0].tolist()
    assert seen == [(["search", "state"], ["cls", "loc", "next_state", "quality", "score"])]
    assert list(tap.bound) == ["level"]
    with pytest.raises(Exception, match="is closed"):
        search.run({})
