"""The rendered clip: repeatable, believable and true to its own boxes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tracker import correlation_tracker

from trackctl.runtime.errors import SourceError
from trackctl.runtime.geometry import iou
from trackctl.runtime.sources import open_source
from trackctl.runtime.sources.synth import Synth, SynthSpec
from trackctl.runtime.sources.synth_scene import TARGETS, Sprite, draw_target


def synth(**options: object) -> Synth:
    return Synth(SynthSpec(**{"size": (320, 256), "frames": 40, **options}))


@pytest.mark.parametrize("depth, dtype", [(8, np.uint8), (16, np.uint16)])
def test_the_same_seed_gives_the_same_frames(depth: int, dtype: type) -> None:
    one, other, third = synth(depth=depth, seed=5), synth(depth=depth, seed=5), synth(depth=depth, seed=6)
    for index in (0, 7, 39):
        assert one.render(index).dtype == dtype
        assert one.render(index).shape == (256, 320)
        np.testing.assert_array_equal(one.render(index), other.render(index))
        assert (one.render(index) != third.render(index)).mean() > 0.5
    np.testing.assert_array_equal(one.boxes_ltwh, other.boxes_ltwh)
    assert not np.array_equal(one.boxes_ltwh, third.boxes_ltwh)


def test_the_uri_names_every_option() -> None:
    uri = "synth:?frames=30&size=128x96&seed=4&depth=16&target=drone&black=3-4&freeze=6-7&leave=26-28"
    with open_source(uri, fps=50) as source:
        assert isinstance(source, Synth)
        assert source.spec == SynthSpec(
            frames=30, size=(128, 96), seed=4, depth=16, target="drone", black=(3, 4), freeze=(6, 7), leave=(26, 28)
        )
        frames = list(source)
    assert (source.count, source.fps, source.frame_hw) == (30, 50.0, (96, 128))
    assert [frame.timestamp_ns for frame in frames] == [index * 20_000_000 for index in range(30)]
    assert open_source("synth:").frame_hw == (512, 640)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(TARGETS), st.floats(0, 15 / 16), st.floats(12.0, 60.0), st.floats(60.0, 140.0), st.floats(60.0, 140.0))
def test_the_box_is_the_extent_of_what_is_drawn(target: str, phase: float, height_px: float, x: float, y: float) -> None:
    sprite = Sprite(target, phase)
    plain = np.full((200, 200), -50.0, np.float32)
    drawn = plain.copy()
    draw_target(drawn, sprite, np.array([x, y]), height_px, 0.0)
    rows, columns = np.nonzero(drawn - plain > 12.0)
    left, top, width, height = sprite.box_ltwh(np.array([x, y]), height_px)
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    # Rims thinner than a pixel (rotors, feet) fade before the box ends.
    assert found == pytest.approx((left, top, left + width, top + height), abs=1.6)


@pytest.mark.parametrize("target", TARGETS)
def test_the_target_is_warm_whole_and_changes(target: str) -> None:
    source = synth(target=target, frames=100, size=(640, 512))
    boxes = source.boxes_ltwh
    assert boxes.shape == (100, 4)
    assert np.isfinite(boxes).all()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= (640, 512)).all()
    assert tuple(source.initial_box) == tuple(boxes[0])
    heights = boxes[:, 3]
    assert heights.max() > 1.15 * heights.min()
    assert heights.min() > 8
    travel = np.linalg.norm(np.diff(boxes[:, :2] + boxes[:, 2:] / 2, axis=0), axis=1)
    assert 0.3 < travel.mean() < travel.max() < 0.06 * 640
    for index in range(0, 100, 20):
        left, top, width, height = boxes[index].round().astype(int)
        pixels = source.render(index).astype(float)
        inside = pixels[top : top + height, left : left + width]
        around = pixels[max(0, top - height) : top + 2 * height, max(0, left - width) : left + 2 * width]
        assert np.percentile(inside, 75) > around.mean() + 15
        assert inside.std() > 10


def test_the_background_moves_and_the_sensor_is_noisy() -> None:
    source = synth(frames=60)
    first, second, later = (source.render(index).astype(float) for index in (0, 1, 59))
    assert np.abs(first - second).mean() > 0.3
    assert np.abs(first - later).mean() > 3
    assert 20 < first.std() < 80
    assert np.mean((first == 0) | (first == 255)) < 0.02


def test_16_bit_frames_are_14_bit_counts_with_dead_and_hot_pixels() -> None:
    source = synth(depth=16, frames=3)
    frames = np.stack([frame.pixels for frame in source])
    assert frames.max() == 16383
    stuck = (frames == 0).all(axis=0) | (frames == 16383).all(axis=0)
    assert 0 < stuck.sum() < 0.002 * stuck.size
    assert 6500 < frames[:, ~stuck].min() < frames[:, ~stuck].max() < 9500


def test_black_freeze_and_leave() -> None:
    source = synth(frames=90, black=(10, 14), freeze=(20, 24), leave=(50, 59), seed=2)
    boxes = source.boxes_ltwh
    hidden = np.isnan(boxes).all(axis=1)
    assert hidden[10:15].all()
    assert hidden[50:60].all()
    assert not hidden[:10].any()
    assert not hidden[15:25].any()
    assert not hidden[85:].any()
    for index in range(10, 15):
        assert not source.render(index).any()
    for index in range(20, 25):
        np.testing.assert_array_equal(source.render(index), source.render(19))
        np.testing.assert_array_equal(boxes[index], boxes[19])
    assert (source.render(25) != source.render(24)).mean() > 0.3
    np.testing.assert_array_equal(source.render(85), synth(frames=90, seed=2).render(85))


@pytest.mark.parametrize("target", ["vehicle", "person"])
def test_a_correlation_tracker_follows_the_target_for_a_while(target: str) -> None:
    source = synth(frames=12, target=target, size=(640, 512))
    tracker = correlation_tracker()
    frames = list(source)
    tracker.init(frames[0], source.initial_box)
    boxes = [tracker.update(frame).box for frame in frames[1:]]
    assert iou(boxes, source.boxes_ltwh[1:]).mean() > 0.4


def test_one_frame_and_the_smallest_size() -> None:
    for target in TARGETS:
        source = synth(frames=1, size=(64, 64), target=target)
        assert [frame.pixels.shape for frame in source] == [(64, 64)]
        assert np.isfinite(source.boxes_ltwh).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ("frames", "question mark"),
        ("?frame=3", "do you mean frames"),
        ("?targt=drone", "do you mean target"),
        ("?target=plane", "Known: vehicle, person, drone"),
        ("?target=drones", "do you mean drone"),
        ("?frames=3&frames=4", "twice"),
        ("?frames=0", "at least 1"),
        ("?frames=-3", "such as frames=8"),
        ("?frames=", "such as frames=8"),
        ("?size=640", "such as size=640x512"),
        ("?size=10x10", "64x64"),
        ("?size=9999x640", "2048"),
        ("?depth=12", "8 or 16"),
        ("?seed=x", "such as seed"),
        ("?black=5", "such as black=80-89"),
        ("?black=9-5", "within 1-199"),
        ("?black=0-5", "seen in frame 0"),
        ("?freeze=100-200", "within 1-199"),
        ("?leave=10-20", "needs time to leave"),
    ],
)
def test_wrong_options_are_explained(options: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(f"synth:{options}")
