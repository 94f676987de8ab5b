from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from trackctl.evaluation.datasets import open_dataset
from trackctl.evaluation.protocol import PROTOCOLS, OpeProtocol
from trackctl.evaluation.results import find_results, read_result
from trackctl.evaluation.scoring import protocol_for, score_results
from trackctl.evaluation.sequence import ResultFormat, Sequence
from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Box


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("0,0,9,9\n")
    return folder


def found(folder: Path, *names: str) -> dict[str, list[str]]:
    return {name: [str(path.relative_to(folder)) for path in paths] for name, paths in find_results(folder, names).items()}


def test_results_by_name_in_any_layout(tmp_path: Path) -> None:
    touch(tmp_path, "car.txt", "Jogging_1.txt", "GOT-10k_Val_000001/GOT-10k_Val_000001_001.txt", "baseline/bag/bag_001.txt")
    touch(tmp_path, "car_time.txt", "times/car_time.txt", "GOT-10k_Val_000001/GOT-10k_Val_000001_time.txt")
    assert found(tmp_path, "Car", "Jogging-1", "GOT-10k_Val_000001", "bag") == {
        "Car": ["car.txt"],
        "Jogging-1": ["Jogging_1.txt"],
        "GOT-10k_Val_000001": ["GOT-10k_Val_000001/GOT-10k_Val_000001_001.txt"],
        "bag": ["baseline/bag/bag_001.txt"],
    }


def test_repetitions_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "bag/bag_002.txt", "bag/bag_001.txt", "bag/bag_015.txt")
    assert found(tmp_path, "bag")["bag"] == ["bag/bag_001.txt", "bag/bag_002.txt", "bag/bag_015.txt"]


def test_the_trackers_name_may_precede_that_of_the_sequence(tmp_path: Path) -> None:
    touch(tmp_path, "JMMAC_234_final_car.txt", "JMMAC_234_final_bluecar.txt")
    assert found(tmp_path, "car", "bluecar") == {"car": ["JMMAC_234_final_car.txt"], "bluecar": ["JMMAC_234_final_bluecar.txt"]}


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.txt")
    with pytest.raises(InputError, match=r"no result for 4 of 5 sequences \(b, c, d, \.\.\.\), expected b\.txt or b_001\.txt"):
        find_results(tmp_path, ["a", "b", "c", "d", "e"])
    with pytest.raises(InputError, match="there is no folder"):
        find_results(tmp_path / "nothing", ["a"])


def test_results_of_two_trackers_are_not_mixed(tmp_path: Path) -> None:
    touch(tmp_path, "ours/car.txt", "theirs/car.txt")
    with pytest.raises(InputError, match=r"several results for 'car'.*give the folder of one tracker"):
        find_results(tmp_path, ["car"])


def sequence(frames: int) -> Sequence:
    truth = np.tile([10.0, 20.0, 30.0, 40.0], (frames, 1))
    return Sequence(name="car", truth_file=Path("groundtruth.txt"), truth_ltwh=truth)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,2,3,4\n1,2,3,4\n", "line 3: the result is shorter than the annotation: got 2 boxes, expected 3 as in groundtruth"),
        ("1,2,3,4\n" * 4, "line 4: the result is longer than the annotation: got 4 boxes, expected 3"),
        ("1,2,3,4\n1,2,NaN,4\n1,2,3,4\n", "line 2: got .*finite"),
        ("1,2,3,4\n1,2,3\n1,2,3,4\n", "line 2: got 3 numbers"),
        ("1,2,3,4\n1,2,three,4\n1,2,3,4\n", "line 2: got 'three'"),
        ("", "is empty"),
    ],
)
def test_a_wrong_result_is_an_error_that_names_file_and_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "car.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"car\.txt {words}"):
        read_result(path, sequence(3), ResultFormat())


@pytest.mark.parametrize("one_based", [True, False])
def test_results_are_written_and_read_in_the_data_sets_convention(tmp_path: Path, one_based: bool) -> None:
    form = ResultFormat(one_based=one_based, folders=True, delimiter=" ")
    path = form.path(tmp_path, "car")
    assert path == tmp_path / "car" / "car_001.txt"
    path.parent.mkdir()
    path.write_text(form.line(Box(9.5, 19.25, 30.0, 40.0)) + "\n")
    assert path.read_text().startswith("10.5000 20.2500" if one_based else "9.5000 19.2500")
    assert read_result(path, sequence(1), form).tolist() == [[9.5, 19.25, 30.0, 40.0]]


def annotated(folder: Path) -> Path:
    for name, count in (("a", 4), ("b", 2)):
        (folder / "annos").mkdir(exist_ok=True)
        (folder / "annos" / f"{name}.txt").write_text("11,21,30,40\n" * count)
        (folder / "results").mkdir(exist_ok=True)
        (folder / "results" / f"{name}.txt").write_text("11,21,30,40\n" + "26,21,30,40\n" * (count - 1))
    return folder


def test_scores_of_a_folder(tmp_path: Path) -> None:
    dataset = open_dataset(f"otb:{annotated(tmp_path) / 'annos'}")
    seen: list[tuple[str, int, int]] = []
    scores = score_results(tmp_path / "results", dataset, on_progress=lambda *step: seen.append(step))
    assert seen == [("a", 1, 2), ("b", 2, 2)]
    assert scores.frames == 6
    assert scores.overall["ao"] == pytest.approx(((1 + 3 / 3) / 4 + (1 + 1 / 3) / 2) / 2)
    assert scores.overall["precision"] == 1.0
    assert set(scores.sequences) == {"a", "b"}


def test_scores_as_json_are_plain_and_stable(tmp_path: Path) -> None:
    dataset = open_dataset(f"otb:{annotated(tmp_path) / 'annos'}")
    first, second = (json.dumps(score_results(tmp_path / "results", dataset).to_json(), allow_nan=False) for _ in range(2))
    assert first == second
    data = json.loads(first)
    assert data["protocol"]["name"] == "OpeProtocol"
    assert len(data["plots"]["success"]["x"]) == 21


def test_several_repetitions_count_with_all_their_frames(tmp_path: Path) -> None:
    (tmp_path / "annos").mkdir()
    (tmp_path / "annos" / "a.txt").write_text("11,21,30,40\n" * 3)
    (tmp_path / "results" / "a").mkdir(parents=True)
    (tmp_path / "results" / "a" / "a_001.txt").write_text("11,21,30,40\n" * 3)
    (tmp_path / "results" / "a" / "a_002.txt").write_text("11,21,30,40\n" + "900,21,30,40\n" * 2)
    scores = score_results(tmp_path / "results", open_dataset(f"got10k:{tmp_path / 'annos'}"))
    assert scores.overall["ao"] == 0.5


def test_protocols_by_name(tmp_path: Path) -> None:
    dataset = open_dataset(f"otb:{annotated(tmp_path) / 'annos'}")
    assert protocol_for(dataset) == PROTOCOLS["otb"]
    plus_one = protocol_for(dataset, "plus-one")
    assert isinstance(plus_one, OpeProtocol)
    assert plus_one.plus_one
    shifted = (31 - 15) / (31 + 15)
    expected = ((1 + 3 * shifted) / 4 + (1 + shifted) / 2) / 2
    assert score_results(tmp_path / "results", dataset, protocol=plus_one).overall["ao"] == pytest.approx(expected)
    with pytest.raises(InputError, match="do you mean got10k"):
        protocol_for(dataset, "got-10k")
