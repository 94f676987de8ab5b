"""Photometric changes of patches: what each does, that nothing else changes, and that the same seed does the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trackctl.training.augment import (
    Augment,
    AugmentSpec,
    Gray,
    coarsen,
    compress,
    motion_blur,
    occlude,
    overlay_text,
    paste,
)

OFF = {name: 0.0 for name in AugmentSpec.__dataclass_fields__ if name != "largest_noise"}
BOX = np.array([90.0, 100.0, 150.0, 140.0])

# Built once: the bank of noise takes a moment.
DEFAULT, NOTHING = Augment(AugmentSpec()), Augment(AugmentSpec(**OFF))


def patch(side: int, seed: int = 0) -> Gray:
    """Smooth, so that blur and compression change little."""
    rows, columns = np.mgrid[:side, :side].astype(np.float64)
    phase = np.random.default_rng(seed).uniform(0, 6, 2)
    return (127 + 60 * np.sin(rows / 23 + phase[0]) + 50 * np.cos(columns / 31 + phase[1])).astype(np.uint8)


def flat(side: int, level: int = 120) -> Gray:
    return np.full((side, side), level, np.uint8)


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.tuples(*[st.floats(-80.0, 340.0)] * 2),
    st.tuples(*[st.floats(1.0, 300.0)] * 2),
)
def test_shape_dtype_and_arguments_stay(seed: int, corner: tuple[float, float], size: tuple[float, float]) -> None:
    """Also for boxes that reach beyond the patch or lie outside."""
    box = np.array([*corner, corner[0] + size[0], corner[1] + size[1]])
    template, search = patch(127), patch(255)
    before = template.copy(), search.copy()
    changed = DEFAULT(template, search, box, seeded(seed))
    again = DEFAULT(template, search, box, seeded(seed))
    assert [each.shape for each in changed] == [(127, 127), (255, 255)]
    assert all(each.dtype == np.uint8 for each in changed)
    assert all(np.array_equal(a, b) for a, b in zip(changed, again, strict=True))
    assert np.array_equal(template, before[0]) and np.array_equal(search, before[1])


def test_seeds_differ_and_no_option_means_no_change() -> None:
    results = {DEFAULT(patch(127), patch(255), BOX, seeded(seed))[1].tobytes() for seed in range(20)}
    assert len(results) == 20
    for before, after in zip((patch(127), patch(255)), NOTHING(patch(127), patch(255), BOX, seeded()), strict=True):
        # The table of levels truncates.
        assert np.abs(after.astype(int) - before).max() <= 1


def test_both_patches_invert_together() -> None:
    inverting = Augment(AugmentSpec(**(OFF | {"invert": 0.5})))
    inverted = []
    for seed in range(40):
        template, search = inverting(patch(127), patch(255), BOX, seeded(seed))
        flipped = [
            bool(np.corrcoef(before.ravel(), after.ravel())[0, 1] < 0)
            for before, after in ((patch(127), template), (patch(255), search))
        ]
        assert flipped[0] == flipped[1]
        inverted.append(flipped[0])
    assert 8 < sum(inverted) < 32


def test_gamma_is_shared_and_drift_is_not() -> None:
    same = Augment(AugmentSpec(**(OFF | {"gamma": 0.5})))
    own = Augment(AugmentSpec(**(OFF | {"drift": 0.3, "offset": 10.0})))
    shared, drifted = [], []
    for seed in range(30):
        template, search = same(flat(127), flat(255), BOX, seeded(seed))
        shared.append(int(template[0, 0]))
        assert template[0, 0] == search[0, 0]
        template, search = own(flat(127), flat(255), BOX, seeded(seed))
        drifted.append(int(template[0, 0]) - int(search[0, 0]))
    assert np.std(shared) > 10 and np.std(drifted) > 10


def test_probabilities_are_kept() -> None:
    noisy = Augment(AugmentSpec(**(OFF | {"stripes": 0.3})))
    changed = sum(bool(noisy(flat(15), flat(15), BOX, seeded(seed))[0].std() > 0) for seed in range(300))
    assert 60 < changed < 120


@pytest.mark.parametrize(("strength", "grain"), [(4.0, 1.0), (10.0, 1.0), (10.0, 2.0), (10.0, 4.0)])
def test_noise_has_its_strength_and_grain(strength: float, grain: float) -> None:
    noise = NOTHING.add_noise(flat(255), strength, grain, seeded()).astype(np.float64) - 120
    assert abs(noise.mean()) < 0.1 * strength
    neighbours = float(np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1])
    if grain == 1.0:
        assert noise.std() == pytest.approx(strength, rel=0.05) and abs(neighbours) < 0.05
    else:
        assert 0.5 * strength < noise.std() < strength and neighbours > 0.3


def test_stripes_run_along_rows_or_columns() -> None:
    directions = set()
    for seed in range(20):
        change = NOTHING.add_stripes(flat(127), 5.0, seeded(seed)).astype(int) - 120
        along_columns, along_rows = bool((change == change[:1]).all()), bool((change == change[:, :1]).all())
        assert along_columns != along_rows
        assert float(change[0].std() if along_columns else change[:, 0].std()) == pytest.approx(5.0, rel=0.35)
        directions.add(along_columns)
    assert directions == {True, False}


def test_noise_saturates_instead_of_wrapping() -> None:
    for level in (0, 255):
        noisy = NOTHING.add_noise(flat(127, level), 10.0, 1.0, seeded())
        assert np.abs(noisy.astype(int) - level).max() < 60


@pytest.mark.parametrize("share", [0.25, 0.5, 0.7, 1.0])
def test_a_coarse_patch_keeps_its_content(share: float) -> None:
    checker = (np.indices((128, 128)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert np.abs(coarsen(patch(127), share).astype(int) - patch(127)).mean() < 4
    assert (coarsen(checker, share).std() < checker.std() / 2) == (share < 1.0)


@pytest.mark.parametrize("angle", [0.0, 0.7, np.pi / 2, 2.5])
def test_motion_smears_along_its_direction(angle: float) -> None:
    point = np.zeros((61, 61), np.uint8)
    point[30, 30] = 255
    rows, columns = motion_blur(point, 11.0, angle).nonzero()
    spread = np.array([np.cos(angle), np.sin(angle)]) * 11
    assert np.ptp(columns) == pytest.approx(abs(spread[0]), abs=1.0) and np.ptp(rows) == pytest.approx(abs(spread[1]), abs=1.0)
    assert columns.mean() == pytest.approx(30, abs=0.5) and rows.mean() == pytest.approx(30, abs=0.5)
    assert np.array_equal(motion_blur(flat(61), 11.0, angle), flat(61))


def test_compression_stays_near_and_gets_worse_with_lower_quality() -> None:
    def error(quality: int) -> float:
        return float(np.abs(compress(patch(255), quality).astype(int) - patch(255)).mean())

    assert error(90) < error(15) < 6


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 180), st.integers(0, 180), st.integers(8, 70), st.integers(8, 70))
def test_occluders_hide_half_of_the_target_at_most(seed: int, left: int, top: int, width: int, height: int) -> None:
    box = np.array([left, top, left + width, top + height], np.float64)
    counting = np.arange(255 * 255, dtype=np.uint32).reshape(255, 255)
    hidden = occlude(counting, box, seeded(seed))  # type: ignore[arg-type]  # any dtype: here each pixel is unique
    changed = (hidden != counting)[top : top + height, left : left + width]
    # A row or column more than half: corners are cut to whole pixels.
    assert changed.any(axis=0).sum() <= width / 2 + 1 or changed.any(axis=1).sum() <= height / 2 + 1
    assert len(np.unique(hidden[hidden != counting])) <= 1


def test_occluders_touch_the_target_often() -> None:
    left, top, right, bottom = BOX.astype(int)
    ramp: NDArray[np.uint8] = patch(255)
    hits = sum(bool((occlude(ramp, BOX, seeded(seed)) != ramp)[top:bottom, left:right].any()) for seed in range(60))
    assert hits > 40


def test_text_covers_little_and_is_black_or_white() -> None:
    shares = []
    for seed in range(40):
        written = overlay_text(flat(255), seeded(seed))
        # Black or white; edges may be smoothed.
        assert int(written.min()) == 120 or int(written.max()) == 120
        shares.append(float((written != 120).mean()))
    assert float(np.mean(shares)) > 0.001 and max(shares) < 0.15


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.floats(-90.0, 345.0),
    st.floats(-90.0, 345.0),
    st.floats(0.0, 1.0, allow_subnormal=False),
)
def test_a_pasted_object_stays_within_its_ellipse(h: int, w: int, x: float, y: float, strength: float) -> None:
    search, thing = flat(255, 50), np.full((h, w), 200, np.uint8)
    pasted = paste(search, thing, (x, y), strength)
    assert pasted.shape == search.shape and pasted.dtype == np.uint8 and np.array_equal(search, flat(255, 50))
    rows, columns = (pasted != 50).nonzero()
    across, down = (columns + 0.5 - x) / (w / 2), (rows + 0.5 - y) / (h / 2)
    # The place is rounded to whole pixels.
    slack = np.hypot(0.5 / (w / 2), 0.5 / (h / 2))
    assert bool((np.hypot(across, down) <= 1.0 + slack + 1e-6).all())
    assert int(pasted.min()) >= 50 and int(pasted.max()) <= 50 + np.ceil(strength * 150)


def test_the_middle_of_a_pasted_object_has_its_strength() -> None:
    pasted = paste(flat(101, 50), np.full((21, 31), 200, np.uint8), (50.5, 50.5), 0.8)
    assert pasted[50, 50] == 50 + 0.8 * 150
    assert np.array_equal(paste(flat(101, 50), np.full((21, 31), 200, np.uint8), (500.0, 50.0), 1.0), flat(101, 50))
