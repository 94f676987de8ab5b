"""The homography of two cameras: from points, from boards, on file."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from trackctl.runtime.errors import InputError
from trackctl.runtime.rig import Rig, board_points, distances, rig_picture

TRUE = np.array([[2.05, 0.06, -30.0], [-0.04, 2.0, 12.0], [2e-5, -3e-5, 1.0]])
SIZES = {"thermal_wh": (320, 256), "visible_wh": (640, 512)}


def points(count: int = 20, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    thermal = rng.uniform((10, 10), (310, 246), (count, 2))
    visible = cv2.perspectiveTransform(thermal[None], TRUE)[0]
    return thermal, visible + noise * rng.standard_normal(visible.shape)


def test_exact_points_give_the_exact_homography() -> None:
    thermal, visible = points(4)
    rig, kept = Rig.fit(thermal, visible, **SIZES)
    assert kept.all() and rig.points == 4 and rig.error_px < 1e-3
    assert distances(rig.homography, *points(50)).max() < 1e-3


def test_the_error_is_that_of_the_points_and_mistakes_are_left_out() -> None:
    thermal, visible = points(40, noise=0.5)
    visible[3] += 60.0
    rig, kept = Rig.fit(thermal, visible, **SIZES)
    assert not kept[3] and kept.sum() == rig.points >= 36
    assert rig.error_px == pytest.approx(np.sqrt(np.mean(distances(rig.homography, thermal[kept], visible[kept]) ** 2)))
    assert 0.3 < rig.error_px < 1.0  # 0.5 px in x and in y
    assert distances(rig.homography, *points(200)).max() < 2.0


@pytest.mark.parametrize(("inverted", "circles"), [(False, False), (True, False), (True, True)])
def test_a_board_that_both_cameras_see(inverted: bool, circles: bool) -> None:
    board = np.full((512, 640), 200, np.uint8)
    if circles:
        for row in range(4):
            for column in range(5):
                cv2.circle(board, (180 + 60 * column, 140 + 60 * row), 18, 30, cv2.FILLED, cv2.LINE_AA)
        inner = (5, 4)
    else:
        for row in range(6):
            for column in range(8):
                if (row + column) % 2:
                    board[120 + 40 * row : 160 + 40 * row, 160 + 40 * column : 200 + 40 * column] = 20
        inner = (7, 5)
    visible = cv2.GaussianBlur(board, (0, 0), 1.0)
    thermal = cv2.warpPerspective(visible, np.linalg.inv(TRUE), (320, 256), borderValue=(200,))
    thermal = 255 - thermal if inverted else thermal
    found = board_points(visible, thermal, inner, circles=circles)
    assert found is not None
    rig, kept = Rig.fit(*found, **SIZES)
    assert kept.all() and rig.points == inner[0] * inner[1]
    assert rig.error_px < 0.5 and distances(rig.homography, *points(50)).max() < 3.0  # most of them beside the board
    shown = rig_picture(rig, visible, thermal, *found)
    assert shown.shape == (512, 640, 3)
    assert board_points(visible, np.zeros_like(thermal), inner, circles=circles) is None


def test_a_warped_picture_lies_over_the_other() -> None:
    rig = Rig(SIZES["visible_wh"], SIZES["thermal_wh"], TRUE)
    scene = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 255, (512, 640)).astype(np.float32), (0, 0), 8.0)
    scene = cv2.normalize(scene, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    thermal = cv2.warpPerspective(scene, np.linalg.inv(TRUE), SIZES["thermal_wh"])
    warped = rig.warp(thermal, 7.0)
    assert warped.shape == (512, 640)
    middle = slice(60, 440), slice(60, 540)
    assert np.abs(warped[middle].astype(float) - scene[middle]).mean() < 2.0


def test_the_same_cameras_in_another_mode() -> None:
    rig = Rig(SIZES["visible_wh"], SIZES["thermal_wh"], TRUE, error_px=0.8)
    half = rig.scaled(visible_wh=(320, 256), thermal_wh=(640, 512))
    thermal, visible = points()
    # Positions of pixel centres: 2 p + 0.5 in a picture twice as large.
    apart = distances(half.homography, 2.0 * thermal + 0.5, (visible - 0.5) / 2.0)
    assert apart.max() < 1e-6 and half.error_px == pytest.approx(0.4)
    with pytest.raises(InputError, match="same shape"):
        rig.scaled(visible_wh=(640, 360), thermal_wh=(320, 256))


def test_a_rig_is_kept_on_file(tmp_path: Path) -> None:
    rig, _ = Rig.fit(*points(10, noise=0.2), **SIZES)
    rig.save(tmp_path / "rig.json")
    held = Rig.load(tmp_path / "rig.json")
    np.testing.assert_array_equal(held.homography, rig.homography)
    assert (held.visible_wh, held.thermal_wh, held.error_px, held.points) == (
        rig.visible_wh,
        rig.thermal_wh,
        rig.error_px,
        rig.points,
    )
    with pytest.raises(InputError, match="make one with trackctl rig"):
        Rig.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text('{"visible_wh": [3]}')
    with pytest.raises(InputError, match="is no rig"):
        Rig.load(tmp_path / "bad.json")


def test_points_that_say_too_little_are_refused() -> None:
    line = np.stack((np.arange(6.0), 2.0 * np.arange(6.0)), axis=1)
    with pytest.raises(InputError, match="on a line"):
        Rig.fit(line, line, **SIZES)
    with pytest.raises(InputError, match="4 or more"):
        Rig.fit(line[:3], line[:3], **SIZES)
    with pytest.raises(InputError, match="inverted"):
        Rig((4, 4), (4, 4), np.zeros((3, 3)))


def test_the_command(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from trackctl.cli import app

    thermal, visible = points(12)
    np.savetxt(tmp_path / "points.txt", np.hstack((thermal, visible)))
    cv2.imwrite(str(tmp_path / "v.png"), np.zeros((512, 640, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "t.png"), np.zeros((256, 320), np.uint16))
    options = ["--visible", str(tmp_path / "v.png"), "--thermal", str(tmp_path / "t.png")]
    picture = tmp_path / "over.png"
    command = ["rig", str(tmp_path / "rig.json"), *options, "--points", str(tmp_path / "points.txt"), "--picture", str(picture)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "12 of 12 points agree" in result.output
    np.testing.assert_allclose(Rig.load(tmp_path / "rig.json").homography, TRUE, rtol=1e-5, atol=1e-6)
    assert cv2.imread(str(picture)).shape == (512, 640, 3)
    refused = CliRunner().invoke(app, ["rig", str(tmp_path / "r.json"), *options])
    assert isinstance(refused.exception, InputError) and "--points" in str(refused.exception)
    blank = CliRunner().invoke(app, ["rig", str(tmp_path / "r.json"), *options, "--board", "7x5"])
    assert isinstance(blank.exception, InputError) and "found no board" in str(blank.exception)
