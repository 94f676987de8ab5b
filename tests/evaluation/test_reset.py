from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackctl.evaluation.protocol import ResetProtocol
from trackctl.evaluation.reset import (
    FAILED,
    SKIPPED,
    STARTED,
    TRACKED,
    ResetRun,
    average_overlap,
    expected_overlap,
    fragments,
    read_reset_run,
    score_reset,
    settled,
)
from trackctl.evaluation.sequence import Sequence
from trackctl.runtime.errors import InputError

PROTOCOL = ResetProtocol(window=(3, 6))


def run(codes: str, overlap: float = 0.5) -> ResetRun:
    """A run written as letters: s started, t tracked, f failed, - skipped."""
    states = np.array([{"s": STARTED, "t": TRACKED, "f": FAILED, "-": SKIPPED}[code] for code in codes], dtype=np.int8)
    return ResetRun(states=states, overlap=np.where(states == TRACKED, overlap, np.nan))


def test_the_frames_after_each_start_do_not_count_for_the_accuracy() -> None:
    overlap = settled(run("stttttttttttf----sttttttttttttt"), 10)
    assert np.isfinite(overlap).nonzero()[0].tolist() == [10, 11, *range(27, 31)]


def test_fragments_end_at_the_next_start() -> None:
    first, second = fragments(run("stttf----sttt"), 5)
    assert (first.failed, first.overlap.tolist()) == (True, [0, 0.5, 0.5, 0.5, 0, 0, 0, 0, 0, 0])
    assert (second.failed, second.overlap.tolist()) == (False, [0, 0.5, 0.5, 0.5])
    assert (first.frames, second.frames) == (slice(0, 10), slice(9, 13))


def test_a_failure_too_late_for_a_restart_ends_no_fragment() -> None:
    (only,) = fragments(run("stttttf--"), 5)
    assert not only.failed
    assert only.overlap.tolist() == [0, 0.5, 0.5, 0.5, 0.5, 0.5, 0, 0, 0]


def test_expected_overlap_by_hand() -> None:
    # One fragment fails after three frames and counts as 0 beyond, one tracks five frames, all with overlap 0.5.
    parts = [*fragments(run("sttf----st"), 5), *fragments(run("sttttt"), 5)]
    curve = expected_overlap(parts, np.ones(3))
    two_frames = (0.5 + 0.5 + 0.5) / 3
    four_frames = ((0.5 + 0.5) / 3 + 0.5) / 2
    assert curve[:4].tolist() == pytest.approx([1.0, two_frames, 0.5, four_frames])
    assert average_overlap(curve, (2, 3)) == pytest.approx(0.5)
    assert np.isnan(average_overlap(curve[:2], (5, 9)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 1)), min_size=1, max_size=6), st.floats(0.01, 1.0))
def test_scores_are_in_range(pieces: list[tuple[int, int]], overlap: float) -> None:
    codes = "".join("s" + "t" * count + ("f----" if fails else "") for count, fails in pieces)
    if pieces[-1][1] == 0 and len(pieces) > 1:
        codes += "t"
    scores = score_reset({"a": [run(codes, overlap)]}, {"a": {}}, PROTOCOL)
    assert scores.overall["failures"] == codes.count("f")
    assert scores.overall["robustness"] == pytest.approx(100 * codes.count("f") / len(codes))
    if np.isfinite(scores.overall["accuracy"]):
        assert scores.overall["accuracy"] == pytest.approx(overlap)
    known = scores.curve[1:][np.isfinite(scores.curve[1:])]
    assert ((known >= 0) & (known <= overlap + 1e-12)).all()


def test_repetitions_are_averaged() -> None:
    steady, failing = run("s" + "t" * 20, 0.8), run("s" + "t" * 14 + "f----s", 0.4)
    scores = score_reset({"a": [steady, failing]}, {"a": {}}, PROTOCOL)
    assert scores.sequences["a"]["failures"] == 0.5
    assert scores.overall["accuracy"] == pytest.approx((5 * 0.6 + 6 * 0.8) / 11)


def test_tags_weigh_frames_and_empty_means_no_tag() -> None:
    tag = np.zeros(21, dtype=bool)
    tag[11:] = True
    runs = {"a": [run("s" + "t" * 20, 0.8)], "b": [run("s" + "t" * 20, 0.2)]}
    scores = score_reset(runs, {"a": {"occlusion": tag}, "b": {}}, PROTOCOL)
    assert scores.tags["occlusion"]["accuracy"] == pytest.approx(0.8)
    assert scores.tags["occlusion"]["eao"] == pytest.approx(0.8)
    assert scores.tags["empty"]["accuracy"] == pytest.approx((0.8 + 0.2 * 11) / 12)
    assert score_reset(runs, {"a": {}, "b": {}}, PROTOCOL).tags == {}


def test_years_without_a_window_have_no_eao() -> None:
    scores = score_reset({"a": [run("sttt")]}, {"a": {"x": np.ones(4, dtype=bool)}}, ResetProtocol())
    assert "eao" not in scores.overall
    assert "eao" not in scores.tags["x"]


def sequence(tmp_path: Path, frames: int = 4) -> Sequence:
    truth = np.tile([10.0, 10.0, 20.0, 20.0], (frames, 1))
    return Sequence(name="car", truth_file=tmp_path / "groundtruth.txt", truth_ltwh=truth, frame_hw=(100, 100))


def test_reading_boxes_polygons_and_codes(tmp_path: Path) -> None:
    path = tmp_path / "car_001.txt"
    path.write_text("1\n10,10,20,20\n10,10,30,10,30,30,10,30\n2\n")
    read = read_reset_run(path, sequence(tmp_path))
    assert read.states.tolist() == [STARTED, TRACKED, TRACKED, FAILED]
    assert read.overlap[1:3].tolist() == [1.0, 1.0]
    assert np.isnan(read.overlap[[0, 3]]).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1\n10,10,20,20\n2\n", "line 4: got 3 lines, expected 4"),
        ("1\n0\n0\n0\n0\n", "line 5: got 5 lines, expected 4"),
        ("1\n10,10,20,20\n3\n0\n", "line 3: got 3, expected 0"),
        ("10,10,20,20\n10,10,20,20\n2\n0\n", "line 1: expected 1"),
        ("1\n10,10,20\n2\n0\n", "line 2: got 3 numbers"),
        ("1\n10,10,20,nan\n2\n0\n", "line 2: got .*finite"),
        ("1\n10,10,20,20\nlost\n0\n", "line 3: got 'lost'"),
        ("", "is empty"),
    ],
)
def test_wrong_result_files(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "car_001.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"car_001\.txt {words}"):
        read_reset_run(path, sequence(tmp_path))


def test_the_size_of_the_frames_must_be_known(tmp_path: Path) -> None:
    path = tmp_path / "car_001.txt"
    path.write_text("1\n10,10,20,20\n")
    truth = np.tile([10.0, 10.0, 20.0, 20.0], (2, 1))
    with pytest.raises(InputError, match="size of the frames of 'car' is unknown"):
        read_reset_run(path, Sequence(name="car", truth_file=tmp_path / "groundtruth.txt", truth_ltwh=truth))
