"""Error bars, and what may be said with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rendered import make_bundle, make_otb

from trackctl.evaluation.bootstrap import Resampling, columns, weighted_means
from trackctl.evaluation.compare import compare
from trackctl.evaluation.run import evaluate
from trackctl.runtime.errors import InputError

NAMES = [f"s{number:02d}" for number in range(40)]


def entry(name: str, aucs: np.ndarray, milliseconds: float = 10.0) -> dict[str, Any]:
    shares = {"auc": {key: [value, 1.0] for key, value in zip(NAMES, aucs.tolist(), strict=True)}}
    return {
        "name": name,
        "system": "tiny",
        "precision": "fp32",
        "engine": "openvino",
        "scores": {"sequences": {key: {} for key in NAMES}},
        "shares": shares,
        "realtime": None,
        "speed": {"p50_ms": 9.0, "p99_ms": 20.0, "update_ms": {key: [milliseconds, 100.0] for key in NAMES}},
    }


def write(path: Path, *entries: dict[str, Any], **changes: Any) -> Path:
    about = {"dataset": "otb", "frames": 4000, "protocol": {"name": "OpeProtocol"}}
    path.write_text(json.dumps({**about, **changes, "bundles": entries}))
    return path


@pytest.fixture
def hard() -> np.ndarray:
    """Sequences that differ far more than trackers do."""
    return np.random.default_rng(0).uniform(0.1, 0.9, len(NAMES))


def test_the_interval_of_a_mean_is_that_of_the_central_limit_theorem() -> None:
    values = np.random.default_rng(1).normal(0.6, 0.1, (400, 1))
    resampling = Resampling()
    interval = resampling.interval(values.mean(), resampling.means(values, np.ones_like(values))[:, 0])
    half = 1.96 * values.std() / np.sqrt(400)
    assert (interval.low, interval.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05 * half)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        values = rng.normal(0.5, 0.2, (60, 1))
        resampling = Resampling(draws=400, confidence=0.9)
        interval = resampling.interval(float(values.mean()), resampling.means(values, np.ones_like(values))[:, 0])
        covered += interval.low <= 0.5 <= interval.high
    assert 0.84 <= covered / 300 <= 0.95


@given(st.integers(0, 2**31), st.floats(-1.0, 1.0), st.floats(0.1, 10.0))
@settings(max_examples=25, deadline=None)
def test_means_follow_shifts_and_scales_and_leave_the_input_alone(seed: int, shift: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    values, weights = rng.random((7, 2)), rng.integers(0, 4, (7, 2)).astype(float) + 0.5
    kept = values.copy(), weights.copy()
    resampling = Resampling(draws=100, seed=seed)
    means = resampling.means(values, weights)
    np.testing.assert_array_equal(means, resampling.means(values, weights))
    np.testing.assert_allclose(resampling.means(scale * values + shift, weights), scale * means + shift, atol=1e-9)
    np.testing.assert_allclose(resampling.means(values, scale * weights), means, atol=1e-9)
    assert (means >= values.min(axis=0) - 1e-12).all() and (means <= values.max(axis=0) + 1e-12).all()
    np.testing.assert_array_equal(values, kept[0])
    np.testing.assert_array_equal(weights, kept[1])


def test_what_has_no_weight_does_not_count() -> None:
    values, weights = columns([{"a": (0.5, 2.0), "b": (1.0, 1.0)}, {"a": (0.25, 1.0)}], ["a", "b"])
    assert weighted_means(values, weights) == pytest.approx([2 / 3, 0.25])
    values[1, 1] = np.nan
    means = Resampling(draws=200).means(values, weights)
    # When only b is drawn, the second tracker has nothing to say.
    assert np.isnan(means[:, 1]).any() and set(means[np.isfinite(means[:, 1]), 1]) == {0.25}


def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).random((50, 2))
    whole = Resampling(draws=500).means(values, np.ones_like(values))
    monkeypatch.setattr("trackctl.evaluation.bootstrap._CHUNK", 50 * 7)
    np.testing.assert_allclose(whole, Resampling(draws=500).means(values, np.ones_like(values)), rtol=1e-12)


def test_pairing_shows_a_small_difference(tmp_path: Path, hard: np.ndarray) -> None:
    noise = np.random.default_rng(4).normal(0.0, 0.004, len(NAMES))
    report = write(tmp_path / "scores.json", entry("fp32", hard), entry("int8", hard - 0.005 + noise), entry("bad", hard - 0.1))
    comparison = compare([report], margin=0.01)
    first, int8, bad = comparison.rows
    # Each score alone is uncertain by 0.07, the difference by 0.001.
    assert first.scores["auc"].high - first.scores["auc"].low > 0.1
    change = int8.differences["auc"]
    assert change.value == pytest.approx((noise - 0.005).mean()) and change.high - change.low < 0.004
    assert first.differences == {} and first.verdicts == {}
    assert int8.verdicts == {"auc": "not worse"} and bad.verdicts == {"auc": "worse"}
    assert compare([report], margin=0.005).rows[1].verdicts == {"auc": "undecided"}
    assert "int8: auc not worse than fp32 by more than 0.01" in comparison.statements()[0]
    assert comparison.to_json() == compare([report], margin=0.01).to_json()


def test_speed_is_weighted_by_updates(tmp_path: Path, hard: np.ndarray) -> None:
    report = write(tmp_path / "scores.json", entry("slow", hard, 20.0), entry("fast", hard, 5.0))
    slow, fast = compare([report]).rows
    assert (slow.scores["fps"].value, fast.scores["fps"].value) == pytest.approx((50.0, 200.0))
    assert fast.differences["fps"].low == pytest.approx(150.0) and "fps" not in fast.verdicts


def test_less_is_better_for_failures(tmp_path: Path, hard: np.ndarray) -> None:
    entries = [entry("first", hard), entry("more", hard), entry("fewer", hard)]
    for one, offset in zip(entries, (0.0, 0.5, -0.5), strict=True):
        one["shares"] = {"robustness": {key: [value + offset, 100.0] for key, value in zip(NAMES, hard.tolist(), strict=True)}}
    report = write(tmp_path / "scores.json", *entries, protocol={"name": "ResetProtocol"})
    assert [row.verdicts.get("robustness") for row in compare([report]).rows] == [None, "worse", "not worse"]
    other = write(tmp_path / "anchors.json", *entries, protocol={"name": "AnchorProtocol"})
    assert [row.verdicts.get("robustness") for row in compare([other]).rows] == [None, "not worse", "worse"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"dataset": "lasot"}, "differ in dataset"), ({"protocol": {"name": "other"}}, "differ in protocol")],
)
def test_reports_of_other_kinds(tmp_path: Path, hard: np.ndarray, changes: dict[str, Any], message: str) -> None:
    one, other = write(tmp_path / "a.json", entry("a", hard)), write(tmp_path / "b.json", entry("b", hard), **changes)
    with pytest.raises(InputError, match=message):
        compare([one, other])


def test_reports_that_do_not_do(tmp_path: Path, hard: np.ndarray) -> None:
    one = write(tmp_path / "a.json", entry("a", hard))
    with pytest.raises(InputError, match="got 1 bundles, expected two"):
        compare([one])
    with pytest.raises(InputError, match="cannot read"):
        compare([one, tmp_path / "missing"])
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(InputError, match="cannot read"):
        compare([one, tmp_path / "list.json"])
    with pytest.raises(InputError, match="is no report"):
        compare([one, write(tmp_path / "empty.json")])
    fewer = entry("b", hard)
    fewer["scores"]["sequences"].pop("s00")
    with pytest.raises(InputError, match="different sequences"):
        compare([one, write(tmp_path / "fewer.json", fewer)])
    with pytest.raises(InputError, match="margin -1"):
        compare([one, one], margin=-1)
    with pytest.raises(InputError, match="got 1 draws"):
        Resampling(draws=1)


def test_what_eval_writes_is_what_compare_reads(tmp_path: Path) -> None:
    dataset = make_otb(tmp_path / "otb")
    for name in ("a", "b"):
        evaluate([make_bundle(tmp_path / name, f"{name}.trk").path], dataset, tmp_path / f"out-{name}", realtime_fps=1e-3)
    comparison = compare([tmp_path / "out-a", tmp_path / "out-b" / "scores.json"])
    assert [row.name for row in comparison.rows] == ["a.trk", "b.trk"] and comparison.sequences == 4
    # The same graphs twice: no difference, for any score of either camera.
    second = comparison.rows[1]
    assert set(second.verdicts) == {"auc", "precision", "real-time auc", "real-time precision"}
    assert {(value.low, value.value, value.high) for score, value in second.differences.items() if score != "fps"} == {(0, 0, 0)}
    assert set(second.verdicts.values()) == {"not worse"}
    json.dumps(comparison.to_json(), allow_nan=False)
