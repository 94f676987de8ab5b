from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trackctl.evaluation.annotations import Rows, corners_of, has_area, read_boxes, read_flags, upright, write_atomically
from trackctl.runtime.errors import InputError


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "text", ["1,2,3,4\n5,6,7,8\n", "1 2 3 4\r\n5 6 7 8", "1\t2\t3\t4\t\n5, 6,\t7 8\n\n\n", "\ufeff1;2;3;4\n5;6;7;8"]
)
def test_every_delimiter_that_data_sets_use(tmp_path: Path, text: str) -> None:
    assert read_boxes(write(tmp_path / "a.txt", text)).tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("1,2,3,4\n1,2,3\n", 2, "got 3 numbers, expected 4"),
        ("1,2,3,4\n1,2,3,4,5\n", 2, "got 5 numbers"),
        ("1,2,3\n1,2,3,4,5\n", 1, "got 3 numbers"),
        ("1,2,3,4\n\n1,2,3,4\n", 2, "blank"),
        ("1,2,3,4\n1,2,x,4\n", 2, "'x'"),
        ("1,2,3,4\n1,2,3,4_0\n", 2, "'4_0'"),
        ("1,2,3,4\n1,2,nan,4\n", 2, "finite"),
        ("1,2,3,4\n1,2,inf,4\n", 2, "finite"),
        ("1,2,3,4\n1,2,3,4,5,6,7,8\n", 2, "got 8 numbers"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = write(tmp_path / "car.txt", text)
    with pytest.raises(InputError, match=rf"car\.txt line {line}") as error:
        read_boxes(path)
    assert words in str(error.value)


@pytest.mark.parametrize("text", ["", "\n\n", "  \n"])
def test_an_empty_file_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"a\.txt is empty"):
        read_boxes(write(tmp_path / "a.txt", text))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*nothing\.txt"):
        read_boxes(tmp_path / "nothing.txt")


def test_nan_is_allowed_only_where_targets_may_be_absent(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "1,2,3,4\nNaN,NaN,NaN,NaN\n")
    assert np.isnan(read_boxes(path, absent_ok=True)[1]).all()
    with pytest.raises(InputError, match="line 2"):
        read_boxes(path)


def test_polygons_become_the_upright_boxes_around_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "10,5,20,15,10,25,0,15\n")
    assert read_boxes(path).tolist() == [[0, 5, 20, 20]]


def test_flags_of_one_line_or_many_and_short_tag_files(tmp_path: Path) -> None:
    assert read_flags(write(tmp_path / "a.txt", "0,1,0\n"), 3).tolist() == [0, 1, 0]
    assert read_flags(write(tmp_path / "b.tag", "0\n1\n"), 3).tolist() == [0, 1, 0]
    with pytest.raises(InputError, match="has 4 values, expected 3"):
        read_flags(write(tmp_path / "c.txt", "0 1 0 1"), 3)


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, (7, 4), elements=st.floats(-1e4, 1e4)))
def test_numbers_survive_the_file(tmp_path_factory: pytest.TempPathFactory, boxes: np.ndarray) -> None:
    path = tmp_path_factory.mktemp("numbers") / "a.txt"
    write(path, "\n".join(",".join(repr(value) for value in row) for row in boxes.tolist()))
    assert np.array_equal(Rows.read(path).table((4,), "boxes"), boxes)


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, (5, 4), elements=st.integers(-1000, 1000).map(float)))
def test_corners_and_upright_boxes_are_inverse(boxes: np.ndarray) -> None:
    boxes[:, 2:] = np.abs(boxes[:, 2:])
    assert np.array_equal(upright(corners_of(boxes)), boxes)


def test_has_area() -> None:
    boxes = np.array([[0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 1, -1], [np.nan, 0, 1, 1], [0, 0, np.inf, 1], [-9, -9, 1, 1]])
    assert has_area(boxes).tolist() == [True, False, False, False, False, True]


def test_writing_replaces_the_whole_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_atomically(path, "one\n")
    write_atomically(path, "two\n")
    assert path.read_text() == "two\n"
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]
