"""RGB-T sequences as pairs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from trackctl.evaluation.datasets import open_dataset
from trackctl.evaluation.follow import play
from trackctl.evaluation.sequence import Clip, Sequence
from trackctl.runtime.errors import InputError


def write(folder: Path, frames: int = 4) -> None:
    rng = np.random.default_rng(0)
    for name, shape in (("visible", (40, 48, 3)), ("infrared", (40, 48))):
        (folder / "walk" / name).mkdir(parents=True)
        for index in range(frames):
            pixels = rng.integers(0, 255, shape, dtype=np.uint8)
            cv2.imwrite(str(folder / "walk" / name / f"{index + 1:05d}.png"), pixels)
    np.savetxt(folder / "walk" / "visible.txt", [[5, 6, 10, 12]] * frames, fmt="%d", delimiter=",")
    np.savetxt(folder / "walk" / "infrared.txt", [[5, 6, 10, 12]] * frames, fmt="%d", delimiter=",")


def test_a_pair_sequence_plays_both_cameras_in_any_order(tmp_path: Path) -> None:
    write(tmp_path)
    sequence = open_dataset(f"rgbt234:{tmp_path}").sequences[0]
    paired = sequence.paired()
    frames = list(play(paired, np.array([2, 1, 3])))
    for frame, number in zip(frames, (3, 2, 4), strict=True):
        visible = cv2.imread(str(tmp_path / "walk" / "visible" / f"{number:05d}.png"))
        thermal = cv2.imread(str(tmp_path / "walk" / "infrared" / f"{number:05d}.png"), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(frame.pixels, np.dstack((visible, thermal)))
    assert next(iter(play(sequence, np.array([0])))).pixels.shape == (40, 48, 3)
    assert paired.size_hw() == (40, 48)


def test_a_sequence_of_one_camera_is_refused(tmp_path: Path) -> None:
    clip = Clip(paths=(tmp_path,), frames=2)
    sequence = Sequence(name="a", truth_file=tmp_path / "a.txt", truth_ltwh=np.ones((2, 4)), clip=clip)
    with pytest.raises(InputError, match="RGB-T data set"):
        sequence.paired()
