"""Footage in another frame format."""

from __future__ import annotations

import numpy as np
import pytest

from trackctl.calibration.footage import Footage
from trackctl.export.conform import conform
from trackctl.export.frame_graph import FrameFormat
from trackctl.runtime.frame import BGR8, GRAY8, GRAY16, LAYOUTS, PAIR8, layout_of
from trackctl.runtime.geometry import Box
from trackctl.runtime.sources.stacks import NpyStack
from trackctl.runtime.sources.synth import Synth, SynthSpec

SHAPES = {GRAY8: (2, 60, 80), BGR8: (2, 60, 80, 3), GRAY16: (2, 60, 80), PAIR8: (2, 60, 80, 4)}


def gradient(layout: str) -> np.ndarray:
    """Darker on the left, brighter on the right, in the middle half of the sensor's range."""
    top = 2**16 - 1 if layout == GRAY16 else 255
    ramp = np.linspace(0.25, 0.75, 80) * top
    shape = SHAPES[layout]
    ramp = ramp[:, None] if layout in (BGR8, PAIR8) else ramp
    return np.broadcast_to(ramp, shape).astype(np.uint16 if layout == GRAY16 else np.uint8)


BANDED = ("mosaic4c16u8", "mosaic5c25u16", "cube9u16")


@pytest.mark.parametrize("own", [GRAY16, PAIR8])
@pytest.mark.parametrize("wanted", [*BANDED, GRAY8])
@pytest.mark.parametrize("between", BANDED)
def test_bands_are_made_and_unmade(tmp_path, own, between, wanted):
    path = tmp_path / "clip.npy"
    np.save(path, gradient(own))
    footage = Footage(source=NpyStack(path), box=Box(8.0, 6.0, 16.0, 12.0))
    banded = conform(footage, FrameFormat(frame_hw=(120, 240), layout=between))
    shown = conform(banded, FrameFormat(frame_hw=(60, 80), layout=wanted))
    assert conform(shown, FrameFormat(frame_hw=(60, 80), layout=wanted)) is shown
    frames = list(shown)
    assert len(frames) == 2
    for frame in frames:
        assert frame.hw == (60, 80)
        assert layout_of(frame.pixels, frame.sensor) == wanted
        planes = [frame.pixels] if frame.sensor is None else frame.sensor.planes(frame.pixels)
        rows = np.stack([plane[30].astype(float) for plane in planes])
        assert (np.diff(rows, axis=1) >= 0).all()
        assert rows[-1, -1] > 2 * rows[-1, 0]
        assert (rows[0] < rows[-1]).all() or frame.sensor is None
    assert shown.box == footage.box


@pytest.mark.parametrize("own", LAYOUTS)
@pytest.mark.parametrize("wanted", LAYOUTS)
def test_every_layout_becomes_every_other(tmp_path, own, wanted):
    path = tmp_path / "clip.npy"
    np.save(path, gradient(own))
    truth = np.array([[8.0, 6.0, 16.0, 12.0], [np.nan] * 4])
    footage = Footage(source=NpyStack(path), box=Box(8.0, 6.0, 16.0, 12.0), truth_ltwh=truth)
    shown = conform(footage, FrameFormat(frame_hw=(120, 240), layout=wanted))
    frames = list(shown)
    assert [frame.index for frame in frames] == [0, 1]
    for frame in frames:
        assert frame.hw == shown.source.frame_hw == (120, 240)
        assert layout_of(frame.pixels) == wanted
        row = frame.pixels.reshape(120, 240, -1)[60, :, 0].astype(float)
        assert row[-1] - row[0] > 0.4 * 255
        assert (np.diff(row) >= 0).all()
    assert shown.box == Box(24.0, 12.0, 48.0, 24.0)
    np.testing.assert_array_equal(shown.truth_ltwh, [[24.0, 12.0, 48.0, 24.0], [np.nan] * 4])
    np.testing.assert_array_equal(truth[0], [8.0, 6.0, 16.0, 12.0])


def test_footage_that_fits_is_left_alone():
    source = Synth(SynthSpec(frames=2, size=(128, 96)))
    footage = Footage(source=source, box=source.initial_box)
    assert conform(footage, FrameFormat(frame_hw=(96, 128))) is footage
