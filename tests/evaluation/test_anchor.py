from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trackctl.evaluation.anchor import AnchorRun, anchor_frames, frames_until_failure, read_anchor_run, score_anchors
from trackctl.evaluation.annotations import upright
from trackctl.evaluation.protocol import AnchorProtocol
from trackctl.evaluation.sequence import Sequence
from trackctl.runtime.errors import InputError

GOLDEN = Path(__file__).parent / "golden" / "vot2020_runs.json"


def sequence_of(name: str, entry: dict[str, Any], frame_hw: tuple[int, int]) -> Sequence:
    truth = np.array(entry["truth"])
    corners = truth.reshape(len(truth), 4, 2) if truth.shape[1] == 8 else None
    anchors = np.zeros(len(truth), dtype=np.int8)
    for start, direction in entry["anchors"].items():
        anchors[int(start)] = direction
    return Sequence(
        name=name,
        truth_file=Path(name),
        truth_ltwh=truth if corners is None else upright(corners),
        corners_xy=corners,
        frame_hw=frame_hw,
        anchors=anchors,
    )


def test_scores_are_those_of_the_official_toolkit(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    runs, lengths = {}, {}
    for name, entry in golden["sequences"].items():
        sequence = sequence_of(name, entry, tuple(golden["size"]))
        lengths[name] = len(sequence)
        runs[name] = []
        for start, frames in anchor_frames(sequence):
            path = tmp_path / f"{name}_{start:08d}.txt"
            boxes = entry["runs"][str(start)]
            path.write_text("\n".join(["1", *(",".join(map(str, box)) for box in boxes[1:])]))
            runs[name].append(read_anchor_run(path, sequence, frames))
    scores = score_anchors(runs, lengths, AnchorProtocol(window=tuple(golden["window"])))
    assert scores.overall == pytest.approx(golden["overall"], abs=1e-12)
    for name, entry in golden["sequences"].items():
        assert scores.sequences[name] == pytest.approx({"accuracy": entry["A"], "robustness": entry["R"]}, abs=1e-12)


def test_a_failure_is_ten_lost_frames_in_a_row_and_began_with_the_first() -> None:
    protocol = AnchorProtocol()
    overlap = np.array([0.0, *[0.5] * 5, *[0.05] * 9, 0.2, *[0.1] * 10, 0.9])
    nowhere = np.zeros(len(overlap), dtype=bool)
    assert frames_until_failure(AnchorRun(overlap=overlap, absent=nowhere), protocol) == 16
    assert frames_until_failure(AnchorRun(overlap=overlap[:20], absent=nowhere[:20]), protocol) == 20
    absent = nowhere.copy()
    absent[18] = True
    assert frames_until_failure(AnchorRun(overlap=overlap, absent=absent), protocol) == len(overlap)


def test_anchors_forward_then_backward() -> None:
    entry = {"truth": [[0, 0, 9, 9]] * 5, "anchors": {"0": 1, "4": -1, "2": 1}}
    found = [(start, frames.tolist()) for start, frames in anchor_frames(sequence_of("a", entry, (50, 50)))]
    assert found == [(0, [0, 1, 2, 3, 4]), (2, [2, 3, 4]), (4, [4, 3, 2, 1, 0])]


def test_a_sequence_without_anchors_is_an_error() -> None:
    with pytest.raises(InputError, match="'a' has no anchors"):
        anchor_frames(sequence_of("a", {"truth": [[0, 0, 9, 9]] * 5, "anchors": {}}, (50, 50)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1\n0,0,9,9\n", "line 3: got 2 lines, expected 3"),
        ("1\n0,0,9,9\n0,0,9,9\n0,0,9,9\n", "line 4: got 4 lines"),
        ("0,0,9,9\n0,0,9,9\n0,0,9,9\n", "line 1: expected 1"),
        ("1\n2\n0,0,9,9\n", "line 2: expected 1 on the first line"),
        ("1\n0,0,9\n0,0,9,9\n", "line 2: got 3 numbers"),
        ("1\n0,0,9,nan\n0,0,9,9\n", "line 2: got .*finite"),
    ],
)
def test_wrong_result_files(tmp_path: Path, text: str, words: str) -> None:
    sequence = sequence_of("a", {"truth": [[0, 0, 9, 9]] * 3, "anchors": {"0": 1}}, (50, 50))
    path = tmp_path / "a_00000000.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"a_00000000\.txt {words}"):
        read_anchor_run(path, sequence, np.arange(3))


def test_an_unknown_frame_counts_as_lost(tmp_path: Path) -> None:
    sequence = sequence_of("a", {"truth": [[5, 5, 9, 9]] * 3, "anchors": {"0": 1}}, (50, 50))
    path = tmp_path / "a_00000000.txt"
    path.write_text("1\n0\n5,5,9,9\n")
    assert read_anchor_run(path, sequence, np.arange(3)).overlap.tolist() == [0.0, 0.0, 1.0]
