"""The host crop of frames with bands, and what the tracker does with them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackctl.runtime.contract import QUALITY_OUT, SCORE, SEARCH_PATCH, STATE_IN, STATE_OUT, TEMPLATE_PATCH, TensorSpec
from trackctl.runtime.crop import HostCrop, band_fill, band_tone
from trackctl.runtime.engine import FunctionEngine
from trackctl.runtime.errors import FrameError
from trackctl.runtime.frame import GRAY8, Frame
from trackctl.runtime.geometry import CropSpec
from trackctl.runtime.sensor import KNOWN, Sensor, mosaic_of
from trackctl.runtime.tracker import Tracker


@settings(max_examples=40, deadline=None)
@given(
    bands=st.integers(5, 18),
    x=st.floats(-0.5, 1.5),
    y=st.floats(-0.5, 1.5),
    side=st.floats(2.0, 120.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_band_is_cropped_as_a_gray_frame_is(bands: int, x: float, y: float, side: float, seed: int) -> None:
    cube = np.random.default_rng(seed).integers(0, 256, (41, 53, bands), dtype=np.uint8)
    planes = Sensor(positions=bands).planes(cube)
    centre, fill = (x * 53, y * 41), band_fill(planes)
    low, high = np.zeros(bands, np.float32), np.full(bands, 255.0, np.float32)
    patch = HostCrop(127, bands).bands(planes, centre, side, fill, (low, high))
    assert patch.shape == (1, bands, 127, 127)
    gray = HostCrop(127, 1)
    for band in range(bands):
        alone = gray(np.ascontiguousarray(planes[band]), GRAY8, centre, side, fill[band : band + 1])
        np.testing.assert_allclose(patch[0, band], alone[0, 0], atol=1e-3)


def test_a_mosaic_and_its_cube_give_the_same_patch() -> None:
    cube = np.random.default_rng(1).integers(0, 1024, (40, 50, 25), dtype=np.uint16)
    patches = []
    for pixels, sensor in ((cube, Sensor(positions=25)), (mosaic_of(cube, 5), KNOWN["nir25"])):
        planes = sensor.planes(pixels)
        tone = band_tone(planes, sensor.band_dark, sensor.band_gain)
        patches.append(HostCrop(255, 25).bands(planes, (20.3, 11.0), 33.0, band_fill(planes), tone).copy())
    np.testing.assert_array_equal(*patches)


def test_the_tone_corrects_each_band_and_keeps_their_proportions() -> None:
    rng = np.random.default_rng(2)
    light = rng.uniform(0.0, 1000.0, (30, 30, 6))
    dark, gain = rng.uniform(10, 60, 6).astype(np.float32), rng.uniform(0.5, 2.0, 6).astype(np.float32)
    planes = [np.rint(light[:, :, band] / gain[band] + dark[band]).astype(np.uint16) for band in range(6)]
    low, high = band_tone(planes, dark, gain)
    levels = np.dstack([(plane - low[band]) * 255.0 / (high[band] - low[band]) for band, plane in enumerate(planes)])
    top = np.percentile(light, 99.9)
    np.testing.assert_allclose(levels, light * 255.0 / top, atol=0.5)


def test_a_black_first_frame_has_a_tone() -> None:
    low, high = band_tone([np.zeros((4, 4), np.uint8)] * 5, np.zeros(5, np.float32), np.ones(5, np.float32))
    assert (high > low).all()


def standing_tracker(channels: int) -> tuple[Tracker, list[np.ndarray]]:
    """A tracker that leaves the box where it is, and the patches it was given."""
    state, seen = TensorSpec("float32", (1, 6)), []
    score, quality = np.ones((1, 1), np.float32), np.full((1, 3), 50.0, np.float32)

    def template(feeds):
        seen.append(feeds[TEMPLATE_PATCH].copy())
        return {}

    def search(feeds):
        seen.append(feeds[SEARCH_PATCH].copy())
        return {STATE_OUT: feeds[STATE_IN], SCORE: score, QUALITY_OUT: quality}

    spec = CropSpec()
    patches = [TensorSpec("float32", (1, channels, size, size)) for size in (spec.template_size, spec.search_size)]
    outputs = {STATE_OUT: state, SCORE: TensorSpec("float32", (1, 1)), QUALITY_OUT: TensorSpec("float32", (1, 3))}
    engines = (
        FunctionEngine(template, {TEMPLATE_PATCH: patches[0]}, {}),
        FunctionEngine(search, {SEARCH_PATCH: patches[1], STATE_IN: state}, outputs),
    )
    return Tracker(*engines, crop=spec, channels=channels), seen


def frame(index: int, sensor: Sensor | None = KNOWN["vis16"], scale: int = 1) -> Frame:
    cube = np.random.default_rng(index).integers(0, 250, (48, 64, 16), dtype=np.uint16) * scale
    return Frame(mosaic_of(cube, 4), index, index, sensor)


def test_boxes_on_mosaics_are_in_cells_and_the_scale_is_the_first_frames() -> None:
    tracker, seen = standing_tracker(16)
    tracker.init(frame(0), (20, 10, 12, 16))
    assert tracker.update(frame(1, scale=4)).box == (20.0, 10.0, 12.0, 16.0)
    tracker.update(frame(1))
    assert seen[1].max() == 255.0
    assert np.median(seen[1]) == pytest.approx(min(255.0, 4 * np.median(seen[2])), rel=0.02)
    with pytest.raises(FrameError, match="as in init"):
        tracker.update(frame(2, KNOWN["rednir15"]))


def test_a_repeated_mosaic_is_not_tracked() -> None:
    tracker, _ = standing_tracker(16)
    tracker.init(frame(0), (20, 10, 12, 16))
    assert tracker.update(frame(0)).score == 0.0
    assert tracker.update(frame(1)).score == 1.0


def test_a_bare_cube_needs_no_sensor() -> None:
    tracker, seen = standing_tracker(200)
    cubes = np.random.default_rng(0).integers(0, 250, (2, 30, 40, 200), dtype=np.uint8)
    tracker.init(cubes[0], (10, 10, 8, 8))
    assert tracker.update(cubes[1]).score == 1.0
    assert seen[1].shape == (1, 200, 255, 255)


@pytest.mark.parametrize(
    ("channels", "pixels"),
    [(25, frame(0)), (16, frame(0, KNOWN["rednir15"])), (3, frame(0)), (16, np.zeros((48, 64), np.uint8))],
)
def test_another_number_of_bands_than_the_bundles_is_refused(channels: int, pixels: object) -> None:
    tracker, _ = standing_tracker(channels)
    with pytest.raises(FrameError, match=r"got a \w+ frame of (\d+|no) bands, expected (\d+|none) for this tracker"):
        tracker.init(pixels, (10, 10, 8, 8))  # type: ignore[arg-type]
