"""Sinks: what is on disk, also after an error or a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from trackctl.runtime.confidence import Status
from trackctl.runtime.errors import FrameError, InputError
from trackctl.runtime.frame import Frame
from trackctl.runtime.geometry import Box
from trackctl.runtime.sinks.jsonl import JsonLinesSink
from trackctl.runtime.sinks.video import VideoSink, annotate, annotate_targets
from trackctl.runtime.tracker import Result

COLOURS = {Status.TRACKING: (96, 230, 64), Status.UNCERTAIN: (0, 190, 255), Status.LOST: (80, 70, 255)}


def frame_of(index: int = 0, pixels: np.ndarray | None = None) -> Frame:
    if pixels is None:
        pixels = np.full((240, 320), (60 + index) % 256, np.uint8)
    return Frame(pixels, index * 40_000_000, index)


BOX = Box(100, 80, 60, 40)


def result_of(box: Box = BOX, status: Status = Status.TRACKING, score: float = 0.875) -> Result:
    return Result(box, score, status, {"psr": 7.25, "second": 0.5}, {"crop": 123_456, "update": 1_500_000})


def played(path: Path) -> list[np.ndarray]:
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        got, pixels = capture.read()
        if not got:
            return frames
        frames.append(pixels)


# JSON lines


def test_one_line_per_frame(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("what was here before")
    with JsonLinesSink(path) as sink:
        sink.write(frame_of(3), result_of(Box(1.23456, 2, np.float64(30.00049), 40)))
        # Readable before the sink is closed.
        assert len(path.read_text().splitlines()) == 1
        sink.write(frame_of(4), result_of(status=Status.LOST, score=np.float32(0.1)))
    lines = path.read_text().splitlines()
    assert json.loads(lines[0]) == {
        "frame": 3,
        "t_ns": 120_000_000,
        "box": [1.235, 2.0, 30.0, 40.0],
        "score": 0.875,
        "status": "TRACKING",
        "quality": {"psr": 7.25, "second": 0.5},
        "ms": {"crop": 0.1235, "update": 1.5},
    }
    second = json.loads(lines[1])
    assert (second["frame"], second["status"], second["score"]) == (4, "LOST", 0.1)
    assert path.read_bytes().endswith(b"}\n")


def test_one_line_per_frame_and_target(tmp_path: Path) -> None:
    single, several = tmp_path / "single.jsonl", tmp_path / "several.jsonl"
    results = {0: result_of(), 3: result_of(Box(1, 2, 3, 4), Status.LOST, 0.1)}
    with JsonLinesSink(several) as sink:
        sink.write_targets(frame_of(5), results)
    with JsonLinesSink(single) as sink:
        for result in results.values():
            sink.write(frame_of(5), result)
    lines, alone = ([json.loads(line) for line in path.read_text().splitlines()] for path in (several, single))
    assert [(line["frame"], line.pop("target")) for line in lines] == [(5, 0), (5, 3)]
    assert lines == alone


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with JsonLinesSink(path) as sink:
        sink.write(frame_of(), Result(Box(np.nan, 1, 2, np.inf), float("nan"), Status.LOST, {"psr": float("-inf")}, {}))
    record = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert record["box"] == [None, 1.0, 2.0, None]
    assert record["score"] is None
    assert record["quality"] == {"psr": None}


def test_a_killed_process_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    program = (
        "import sys\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from test_sinks import JsonLinesSink, frame_of, result_of\n"
        "sink = JsonLinesSink(sys.argv[1])\n"
        "index = 0\n"
        "while True:\n"
        "    sink.write(frame_of(index), result_of())\n"
        "    index += 1\n"
        "    if index == 500:\n"
        "        print('many', flush=True)\n"
    )
    command = [sys.executable, "-c", program, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"many\n"
        process.send_signal(signal.SIGKILL)
    data = path.read_bytes()
    assert data.endswith(b"\n")
    assert [json.loads(line)["frame"] for line in data.splitlines()] == list(range(data.count(b"\n")))
    assert data.count(b"\n") >= 500


@pytest.mark.parametrize("make", [JsonLinesSink, lambda path: VideoSink(path, 25)], ids=["jsonl", "video"])
def test_a_path_that_cannot_be_written_is_refused_at_once(tmp_path: Path, make) -> None:
    (tmp_path / "folder.mp4").mkdir()
    for path in (tmp_path / "none" / "out.mp4", tmp_path / "folder.mp4"):
        with pytest.raises(InputError, match=r"cannot write .*: give a path") as caught:
            make(path)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_reported() -> None:
    with JsonLinesSink("/dev/full") as sink, pytest.raises(InputError, match="No space left"):
        sink.write(frame_of(), result_of())


# Video


@pytest.mark.parametrize("suffix", [".mp4", ".MP4", ".mkv", ".avi"])
@pytest.mark.parametrize("hw", [(240, 320), (241, 321), (60, 81)])
def test_the_video_plays_with_all_frames_and_every_pixel(tmp_path: Path, suffix: str, hw: tuple[int, int]) -> None:
    path = tmp_path / f"out{suffix}"
    with VideoSink(path, 12.5) as sink:
        for index in range(6):
            sink.write(frame_of(index, np.full(hw, 40 + 20 * index, np.uint8)), result_of(Box(10, 10, 12, 8)))
    frames = played(path)
    assert len(frames) == 6
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == pytest.approx(12.5, abs=0.01)
    scale = 4 if hw[0] < 240 else 1
    height, width = frames[0].shape[:2]
    assert scale * hw[0] < height < scale * hw[0] + 40
    assert width - scale * hw[1] in (0, 1)
    for index, pixels in enumerate(frames):
        assert np.median(pixels[: scale * hw[0]]) == pytest.approx(40 + 20 * index, abs=4)


@pytest.mark.parametrize("fps", [8.7, 29.97, 30000 / 1001, 1000 / 37, 59.94, 120.0, 333.333])
def test_all_rates_of_cameras_can_be_written(tmp_path: Path, fps: float) -> None:
    with VideoSink(tmp_path / "out.mp4", fps) as sink:
        for index in range(2):
            sink.write(frame_of(index), result_of())
    assert cv2.VideoCapture(str(tmp_path / "out.mp4")).get(cv2.CAP_PROP_FPS) == pytest.approx(fps, rel=2e-3)


@pytest.mark.parametrize(
    "pixels, level",
    [
        (np.full((240, 320, 3), (200, 40, 90), np.uint8), (200, 40, 90)),
        (np.full((240, 320), 77, np.uint8), (77, 77, 77)),
        (np.full((240, 320, 1), 77, np.uint8), (77, 77, 77)),
        (np.tile(np.array([7000, 7000, 9000, 9000], np.uint16), (240, 80)), None),
    ],
    ids=["bgr8", "gray8", "trailing axis", "gray16"],
)
def test_every_layout_is_shown(tmp_path: Path, pixels: np.ndarray, level: tuple[int, int, int] | None) -> None:
    path = tmp_path / "out.avi"
    before = pixels.copy()
    with VideoSink(path, 25) as sink:
        sink.write(frame_of(0, pixels), result_of())
    np.testing.assert_array_equal(pixels, before)
    (shown,) = played(path)
    if level is None:
        assert np.percentile(shown[:240], 10) < 20
        assert np.percentile(shown[:240], 90) > 235
    else:
        assert np.median(shown[:240], axis=(0, 1)) == pytest.approx(level, abs=6)


@pytest.mark.parametrize("status", list(Status))
@pytest.mark.parametrize("scale", [1, 3])
def test_the_box_is_drawn_round_the_target_in_the_colour_of_its_status(status: Status, scale: int) -> None:
    picture = np.full((240 * scale, 320 * scale, 3), 128, np.uint8)
    drawn = annotate(picture.copy(), result_of(Box(100, 80, 60, 40), status), 12, scale=scale)
    changed = (drawn[: 240 * scale] != 128).any(axis=2)
    inside = changed[80 * scale : 120 * scale, 100 * scale : 160 * scale]
    assert not inside.any()
    rows, columns = np.nonzero(changed)
    margin = 5
    assert rows.min() >= 80 * scale - margin
    assert rows.max() < 120 * scale + margin
    assert columns.min() >= 100 * scale - margin
    assert columns.max() < 160 * scale + margin
    colours = {tuple(pixel) for pixel in drawn[changed.nonzero()].tolist()}
    assert COLOURS[status] in colours
    assert not {colour for other, colour in COLOURS.items() if other is not status} & colours
    # Only a LOST box is open in the middle of its sides.
    above = changed[80 * scale - margin : 80 * scale, 130 * scale]
    assert above.any() == (status is not Status.LOST)


def test_the_caption_is_below_the_picture_and_readable() -> None:
    picture = np.full((512, 640, 3), 200, np.uint8)
    drawn = annotate(picture.copy(), result_of(Box(300, 300, 20, 20)), 1234)
    np.testing.assert_array_equal(drawn[:280], picture[:280])
    caption = drawn[512:].astype(int)
    assert caption.shape[0] >= 24
    ink_columns = np.nonzero((caption.max(axis=2) > 150).any(axis=0))[0]
    ink_rows = np.nonzero((caption.max(axis=2) > 150).any(axis=1))[0]
    assert ink_rows.max() - ink_rows.min() >= 10
    assert ink_columns.min() < 30
    assert ink_columns.max() > 610
    other = annotate(picture.copy(), result_of(Box(300, 300, 20, 20), score=0.125), 1234)
    assert (other != drawn).any()
    assert (other[:512] == drawn[:512]).all()


def test_line_width_grows_with_the_picture() -> None:
    def widths(side: int) -> int:
        drawn = annotate(np.full((side, side, 3), 128, np.uint8), result_of(Box(side / 4, side / 4, side / 2, side / 2)), 0)
        return int((drawn[side // 2, : side // 2] == COLOURS[Status.TRACKING]).all(axis=1).sum())

    assert 1 <= widths(256) < widths(720) < widths(2160)


@pytest.mark.parametrize(
    "box",
    [
        Box(np.nan, 0, 10, 10),
        Box(0, 0, np.inf, 10),
        Box(-1e9, -1e9, 2e9, 2e9),
        Box(1e300, 0, 1, 1),
        Box(-5, -5, 400, 300),
        Box(3, 3, 0, 0),
        Box(319, 239, 30, 30),
    ],
)
@pytest.mark.parametrize("status", [Status.TRACKING, Status.LOST])
def test_any_box_can_be_drawn(box: Box, status: Status) -> None:
    drawn = annotate(np.zeros((240, 320, 3), np.uint8), result_of(box, status), 0)
    assert drawn.shape[0] % 2 == drawn.shape[1] % 2 == 0


def test_every_target_has_its_box_its_number_and_its_share_of_the_caption() -> None:
    picture = np.full((480, 640, 3), 128, np.uint8)
    boxes = {0: Box(100, 80, 60, 40), 7: Box(400, 300, 60, 40)}
    results = {
        0: result_of(boxes[0]),
        7: result_of(boxes[7], Status.LOST),
    }
    drawn = annotate_targets(picture.copy(), results, 12)
    for target, other in ((0, 7), (7, 0)):
        alone = annotate_targets(picture.copy(), {target: results[target]}, 12)
        box = boxes[target]
        near = np.s_[int(box.top) - 40 : int(box.top) + 60, int(box.left) - 30 : int(box.left) + 90]
        np.testing.assert_array_equal(drawn[near], alone[near])
        colours = {tuple(pixel) for pixel in drawn[near].reshape(-1, 3).tolist()}
        assert COLOURS[results[target].status] in colours
        assert COLOURS[results[other].status] not in colours
        # The number is over the box, and another target has another one.
        label = np.s_[int(box.top) - 24 : int(box.top) - 4, int(box.left) - 2 : int(box.left) + 40]
        renamed = annotate_targets(picture.copy(), {8: results[target]}, 12)
        assert (drawn[label] != 128).any() and (drawn[label] != renamed[label]).any()
    caption = drawn[480:].reshape(-1, 3).tolist()
    assert list(COLOURS[Status.TRACKING]) in caption and list(COLOURS[Status.LOST]) in caption
    assert list(COLOURS[Status.UNCERTAIN]) not in caption


@pytest.mark.parametrize("left, top", [(-900, -900), (2, 2), (315, 2), (2, 235), (315, 235), (900, 900), (np.nan, 3)])
def test_the_number_of_a_box_at_the_edge_is_in_the_picture(left: float, top: float) -> None:
    picture = np.full((240, 320, 3), 128, np.uint8)
    result = result_of(Box(left, top, 3, 3), Status.LOST)
    inked = (annotate_targets(picture.copy(), {6: result}, 0) != annotate(picture.copy(), result, 0))[:240].any(axis=2)
    if np.isnan(left):
        assert not inked.any()
    else:
        assert inked.sum() > 30
        assert not inked[[0, 1, -2, -1]].any() and not inked[:, [0, 1, -2, -1]].any()


@pytest.mark.parametrize(
    "pixels", [np.full((240, 320), 77, np.uint8), np.full((120, 160, 4), 77, np.uint8)], ids=["gray8", "pair8"]
)
def test_a_video_of_several_targets(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "out.avi"
    with VideoSink(path, 25) as sink:
        for index in range(3):
            sink.write_targets(frame_of(index, pixels), {0: result_of(), 1: result_of(Box(20, 20, 30, 30), Status.LOST)})
    shown = played(path)
    assert len(shown) == 3
    assert shown[0].shape[1] == (320 if pixels.ndim == 2 else 640)


def test_an_error_leaves_a_readable_video(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with pytest.raises(ZeroDivisionError), VideoSink(path, 25) as sink:
        for index in range(5):
            sink.write(frame_of(index), result_of())
        1 / 0  # noqa: B018
    assert len(played(path)) == 5
    sink.close()


def test_a_frame_of_another_size_is_refused_and_the_rest_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoSink(path, 25) as sink:
        sink.write(frame_of(0), result_of())
        with pytest.raises(FrameError, match=r"got a frame of \(120, 320\)"):
            sink.write(frame_of(1, np.zeros((120, 320), np.uint8)), result_of())
    assert len(played(path)) == 1


@pytest.mark.parametrize("name", ["out.gif", "out", "out.webm"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"\.mp4, \.mkv, \.avi"):
        VideoSink(tmp_path / name, 25)


@pytest.mark.parametrize("fps", [0.0, -5.0, float("nan"), float("inf"), 5000.0])
def test_an_impossible_rate_is_refused(tmp_path: Path, fps: float) -> None:
    with pytest.raises(InputError, match="frames per second"):
        VideoSink(tmp_path / "out.mp4", fps)
    assert not (tmp_path / "out.mp4").exists()


def test_a_size_that_no_codec_takes_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with VideoSink(tmp_path / "out.mp4", 25) as sink, pytest.raises(InputError, match="none of the codecs") as caught:
        sink.write(frame_of(0, np.zeros((240, 20_000), np.uint8)), result_of())
    assert "\n" not in str(caught.value)
    assert "VIDEOIO" not in capfd.readouterr().err
