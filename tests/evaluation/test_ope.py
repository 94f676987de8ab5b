from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trackctl.evaluation.ope import Agreement, agreement, curves, score_ope, summary, thresholds
from trackctl.evaluation.protocol import PROTOCOLS, OpeProtocol
from trackctl.runtime.errors import InputError

PLAIN = OpeProtocol()
VARIANTS = [protocol for protocol in PROTOCOLS.values() if isinstance(protocol, OpeProtocol)]

coordinates = st.floats(-300, 900, allow_nan=False).map(lambda value: round(value, 2))
sizes = st.floats(0, 400, allow_nan=False).map(lambda value: round(value, 2))
tables = st.integers(1, 12).flatmap(
    lambda count: st.tuples(
        arrays(np.float64, (count, 2), elements=coordinates),
        arrays(np.float64, (count, 2), elements=sizes),
        arrays(np.float64, (count, 2), elements=coordinates),
        arrays(np.float64, (count, 2), elements=sizes),
        arrays(np.bool_, (count,)),
    )
)


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, dtype=np.float64)


def score(truth: np.ndarray, result: np.ndarray, protocol: OpeProtocol = PLAIN) -> dict[str, float]:
    frames = agreement(truth, result, protocol, frame_hw=(480, 640))
    return summary(frames, curves(frames, protocol), protocol)


@settings(max_examples=100, deadline=None)
@given(tables, st.sampled_from(VARIANTS))
def test_any_boxes_give_scores_in_range_and_stay_as_they_were(
    table: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray], protocol: OpeProtocol
) -> None:
    left_top, width_height, result_left_top, result_size, absent = table
    truth = np.concatenate([left_top, width_height], axis=1)
    result = np.concatenate([result_left_top, result_size], axis=1)
    truth[absent] = np.nan
    truth[0] = [10, 10, 20, 20]
    infrared = truth + np.array([1.0, 1.0, 0.0, 0.0])
    before = [truth.copy(), result.copy(), infrared.copy()]
    for array in (truth, result, infrared):
        array.setflags(write=False)
    frames = agreement(truth, result, protocol, infrared_ltwh=infrared, frame_hw=(480, 640))
    for array, copy in zip((truth, result, infrared), before, strict=True):
        assert np.array_equal(array, copy, equal_nan=True)
    if not len(frames):
        assert protocol.first_frame == "skip"
        return
    plots = curves(frames, protocol)
    for plot in plots.values():
        assert ((plot >= 0) & (plot <= 1)).all()
    assert (np.diff(plots["success"]) <= 0).all()
    assert (np.diff(plots["precision"]) >= 0).all()
    assert all(0.0 <= value <= 1.0 for value in summary(frames, plots, protocol).values())


@settings(max_examples=50, deadline=None)
@given(tables)
def test_shifting_everything_changes_nothing(table: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> None:
    left_top, width_height, result_left_top, result_size, _ = table
    truth = np.concatenate([left_top, width_height + 1.0], axis=1)
    result = np.concatenate([result_left_top, result_size], axis=1)
    shift = np.array([64.0, -32.0, 0.0, 0.0])
    here, there = agreement(truth, result, PLAIN), agreement(truth + shift, result + shift, PLAIN)
    assert np.allclose(here.overlap, there.overlap, atol=1e-9)
    assert np.allclose(here.error_px, there.error_px, atol=1e-9)


def test_perfect_results() -> None:
    truth = boxes((10, 20, 30, 40), (500, 400, 200, 200))
    # IoU is never above 1, the last of the 21 thresholds.
    assert score(truth, truth)["auc"] == pytest.approx(20 / 21)
    assert score(truth, truth, OpeProtocol(strict=False))["auc"] == 1.0
    assert score(truth, truth)["precision"] == 1.0


def test_strict_comparison_at_a_threshold() -> None:
    # Intersection 6, union 10: IoU 0.6 exactly.
    truth, result = boxes((0, 0, 8, 1)), boxes((2, 0, 8, 1))
    frames = agreement(truth, result, PLAIN)
    assert frames.overlap.tolist() == [0.6]
    at = thresholds(PLAIN)["success"].tolist().index(0.6)
    assert curves(frames, PLAIN)["success"][at] == 0.0
    assert curves(frames, OpeProtocol(strict=False))["success"][at] == 1.0


def test_one_more_pixel() -> None:
    frames = agreement(boxes((0, 0, 9, 9)), boxes((5, 0, 9, 9)), OpeProtocol(plus_one=True))
    assert frames.overlap[0] == pytest.approx(50 / 150)


def test_precision_counts_the_threshold_itself() -> None:
    truth = boxes((0, 0, 10, 10), (0, 0, 10, 10))
    result = boxes((12, 16, 10, 10), (12, 16.01, 10, 10))
    frames = agreement(truth, result, PLAIN)
    assert frames.error_px[0] == 20.0
    assert score(truth, result)["precision"] == 0.5


def test_normalised_precision_divides_by_the_annotated_size() -> None:
    frames = agreement(boxes((0, 0, 10, 40)), boxes((3, 16, 10, 40)), PLAIN)
    assert frames.error_norm[0] == pytest.approx(0.5)
    plots = curves(frames, PLAIN)
    assert plots["norm_precision"][-1] == 1.0
    assert plots["norm_precision"][-2] == 0.0


def test_trapezoid_and_mean_differ_by_half_the_ends() -> None:
    truth = boxes((0, 0, 10, 10))
    frames = agreement(truth, boxes((5, 0, 10, 10)), PLAIN)
    plots = curves(frames, PLAIN)
    points = plots["success"]
    assert summary(frames, plots, PLAIN)["auc"] == pytest.approx(points.mean())
    trapezoid = ((points[1:] + points[:-1]) / 2).sum() * 0.05
    assert summary(frames, plots, OpeProtocol(area="trapezoid"))["auc"] == pytest.approx(trapezoid)


def test_frames_without_target() -> None:
    truth = boxes((0, 0, 10, 10), (np.nan, np.nan, np.nan, np.nan), (0, 0, 0, 0), (0, 0, 10, 10))
    result = boxes((0, 0, 10, 10), (5, 5, 10, 10), (5, 5, 10, 10), (300, 0, 10, 10))
    skipped = score(truth, result)
    assert skipped["sr_0.5"] == 0.5
    assert skipped["precision"] == 0.5
    toolkit = score(truth, result, OpeProtocol(absent="toolkit"))
    assert toolkit["sr_0.5"] == 0.25
    assert toolkit["precision"] == 0.75
    assert toolkit["ao"] == 0.25


def test_first_frame() -> None:
    truth = boxes((0, 0, 10, 10), (0, 0, 10, 10))
    result = boxes((300, 0, 10, 10), (0, 0, 10, 10))
    assert score(truth, result)["ao"] == 0.5
    assert score(truth, result, OpeProtocol(first_frame="right"))["ao"] == 1.0
    assert score(truth, result, OpeProtocol(first_frame="skip"))["ao"] == 1.0


def test_a_box_without_area_is_replaced_by_the_last_one_that_has_one() -> None:
    truth = boxes(*[(0, 0, 10, 10)] * 4)
    result = boxes((0, 0, 10, 10), (0, 0, 0, 10), (0, 0, 10, -1), (5, 0, 10, 10))
    assert agreement(truth, result, PLAIN).overlap.tolist() == pytest.approx([1, 0, 0, 1 / 3])
    assert agreement(truth, result, OpeProtocol(repair=True)).overlap.tolist() == pytest.approx([1, 1, 1, 1 / 3])


def test_clipping_to_the_frame() -> None:
    truth, result = boxes((-50, 0, 100, 100)), boxes((0, 0, 50, 100))
    assert agreement(truth, result, PLAIN, frame_hw=(480, 640)).overlap[0] == 0.5
    assert agreement(truth, result, OpeProtocol(clip=True), frame_hw=(480, 640)).overlap[0] == 1.0
    outside = boxes((700, 10, 20, 20))
    assert agreement(outside, outside, OpeProtocol(clip=True), frame_hw=(480, 640)).overlap[0] == 0.0


def test_the_better_camera_counts() -> None:
    visible, infrared = boxes((0, 0, 10, 10), (0, 0, 10, 10)), boxes((5, 0, 10, 10), (0, 0, 10, 10))
    result = boxes((5, 0, 10, 10), (0, 0, 10, 10))
    protocol = PROTOCOLS["rgbt234"]
    assert isinstance(protocol, OpeProtocol)
    frames = agreement(visible, result, protocol, infrared_ltwh=infrared)
    assert frames.overlap.tolist() == [1.0, 1.0]
    assert frames.error_px.tolist() == [0.0, 0.0]
    assert agreement(visible, result, PLAIN, infrared_ltwh=infrared).overlap[0] == pytest.approx(1 / 3)


def test_pooled_and_mean_over_sequences() -> None:
    good = agreement(boxes(*[(0, 0, 10, 10)] * 3), boxes(*[(0, 0, 10, 10)] * 3), PLAIN)
    bad = agreement(boxes((0, 0, 10, 10)), boxes((300, 300, 10, 10)), PLAIN)
    frames = {"long": good, "short": bad}
    assert score_ope(frames, {}, PLAIN).overall["ao"] == pytest.approx(0.5)
    pooled = score_ope(frames, {}, replace(PLAIN, pooled=True))
    assert pooled.overall["ao"] == pytest.approx(0.75)
    together = Agreement(**{key: np.concatenate([getattr(good, key), getattr(bad, key)]) for key in vars(good)})
    assert pooled.plots["success"].tolist() == pytest.approx(curves(together, PLAIN)["success"].tolist())


def test_scores_by_attribute() -> None:
    good = agreement(boxes((0, 0, 10, 10)), boxes((0, 0, 10, 10)), PLAIN)
    bad = agreement(boxes((0, 0, 10, 10)), boxes((300, 300, 10, 10)), PLAIN)
    scores = score_ope({"a": good, "b": bad}, {"a": ["OCC", "FM"], "b": ["OCC"]}, PLAIN)
    assert scores.attributes["OCC"]["ao"] == pytest.approx(0.5)
    assert scores.attributes["OCC"]["sequences"] == 2
    assert scores.attributes["FM"]["ao"] == 1.0
    assert scores.sequences["b"]["ao"] == 0.0


@pytest.mark.parametrize(
    ("truth", "result", "words"),
    [
        (boxes((0, 0, 9, 9)), boxes((0, 0, 9, 9), (0, 0, 9, 9)), "same length"),
        (np.zeros((0, 4)), np.zeros((0, 4)), "same length"),
        (boxes((0, 0, 9, 9)), boxes((0, 0, np.nan, 9)), "not finite"),
        (boxes((np.nan,) * 4), boxes((0, 0, 9, 9)), "first frame"),
    ],
)
def test_wrong_input(truth: np.ndarray, result: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        agreement(truth, result, PLAIN)


def test_a_sequence_in_which_nothing_counts_is_an_error() -> None:
    one = agreement(boxes((0, 0, 9, 9)), boxes((0, 0, 9, 9)), OpeProtocol(first_frame="skip"))
    with pytest.raises(InputError, match="'only' has no frame that counts"):
        score_ope({"only": one}, {}, PLAIN)
