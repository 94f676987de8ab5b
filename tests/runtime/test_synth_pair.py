"""Clips of pairs with known boxes, and the trouble of their cameras."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from trackctl.runtime.errors import SourceError
from trackctl.runtime.sources import open_source
from trackctl.runtime.sources.synth_pair import RISE_FRAMES, Span, SynthPair, SynthPairSpec
from trackctl.runtime.sources.weather import COVERED_LEVEL, TROUBLES, troubled


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One pair: the same blobs in grey and in colour, negative."""
    folder = tmp_path_factory.mktemp("pairs")
    scene = cv2.GaussianBlur(np.random.default_rng(2).integers(0, 255, (240, 320)).astype(np.float32), (0, 0), 5.0)
    scene = cv2.normalize(scene, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    for name, picture in (("ir", scene), ("vi", np.dstack([255 - scene] * 3))):
        (folder / name).mkdir()
        cv2.imwrite(str(folder / name / "01.png"), picture)
    return folder


def test_the_rendered_clip_has_four_planes_and_plays_again() -> None:
    with open_source("synth:pair?frames=12&size=160x128&seed=4") as source:
        frames, again = list(source), list(source)
        boxes = source.boxes_ltwh  # type: ignore[attr-defined]
    assert len(frames) == 12 and frames[0].pixels.shape == (128, 160, 4) and boxes.shape == (12, 4)
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(frames, again, strict=True))
    # The colours are no copy of the heat.
    blue, thermal = frames[0].pixels[:, :, 0].astype(float).ravel(), frames[0].pixels[:, :, 3].astype(float).ravel()
    assert abs(np.corrcoef(blue, thermal)[0, 1]) < 0.98 and np.ptp(frames[0].pixels[:, :, :3], axis=2).max() > 20


def test_the_box_follows_the_thing_in_the_picture(pictures: Path) -> None:
    clip = SynthPair(SynthPairSpec(frames=30, size=(160, 128), pictures=pictures, seed=1))
    first = clip.render(0)[:, :, 3]
    left, top, width, height = clip.boxes_ltwh[0]
    patch = first[round(top) : round(top + height), round(left) : round(left + width)]
    moved = []
    for index in range(1, 30):
        x, y, w, h = clip.boxes_ltwh[index]
        assert 0 < x + w / 2 < 160 and 0 < y + h / 2 < 128
        seen = clip.render(index)[:, :, 3]
        around = seen[max(0, int(y)) : int(y + h) + 1, max(0, int(x)) : int(x + w) + 1]
        if around.shape[0] > h - 2 and around.shape[1] > w - 2:
            shown = cv2.resize(around, patch.shape[::-1]).astype(float)
            moved.append(np.corrcoef(shown.ravel(), patch.astype(float).ravel())[0, 1])
    assert len(moved) > 10 and np.median(moved) > 0.9
    assert np.ptp(clip.boxes_ltwh[:, 0]) > 10.0
    np.testing.assert_array_equal(clip.render(3)[:, :, 0], clip.render(3)[:, :, 2])


def test_trouble_comes_to_one_camera_and_goes() -> None:
    plain = SynthPair(SynthPairSpec(frames=30, size=(96, 80)))
    ill = SynthPair(
        SynthPairSpec(
            frames=30, size=(96, 80), dark=Span("visible", 4, 18), blank=Span("thermal", 20, 25), fog=Span("thermal", 2, 12)
        )
    )
    assert np.array_equal(ill.render(1), plain.render(1)) and np.array_equal(ill.render(29), plain.render(29))
    dark, before = ill.render(4 + RISE_FRAMES), plain.render(4 + RISE_FRAMES)
    assert dark[:, :, :3].mean() < 0.1 * before[:, :, :3].mean()
    assert dark[:, :, 3].std() < 0.3 * before[:, :, 3].std()
    covered = ill.render(22)
    assert (covered[:, :, 3] == COVERED_LEVEL).all()
    assert np.array_equal(covered[:, :, :3], plain.render(22)[:, :, :3])
    assert ill.in_trouble(22) == ("thermal",) and ill.in_trouble(29) == () and set(ill.in_trouble(8)) == {"visible", "thermal"}
    assert ill.render(4)[:, :, :3].mean() > ill.render(5)[:, :, :3].mean() > dark[:, :, :3].mean()


@pytest.mark.parametrize("trouble", TROUBLES)
def test_no_strength_changes_nothing(trouble: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    assert troubled(pixels, trouble, 0.0, np.random.default_rng(0)) is pixels  # type: ignore[arg-type]
    weak, strong = (troubled(pixels, trouble, s, np.random.default_rng(0)).astype(float).std() for s in (0.3, 1.0))  # type: ignore[arg-type]
    assert strong <= weak < pixels.std()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("?dark=40-50", "dark=visible:40-69"),
        ("?fog=thermal:0-5", "seen in frame 0"),
        ("?frame=3", "do you mean frames"),
        ("?frames=3&frames=4", "twice"),
        ("?size=10x10", "64x64"),
        ("frames=3", "question mark"),
        ("?pictures=/nowhere", "holds 0 images"),
    ],
)
def test_mistakes_are_named(options: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(f"synth:pair{options}")
