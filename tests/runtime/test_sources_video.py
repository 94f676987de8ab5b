"""Video files: gray or colour, whole or damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from test_sources import collect, gray_frames, pixels_of, smooth_colour

from trackctl.runtime.errors import SourceError
from trackctl.runtime.sources import open_source


def write_video(path: Path, frames, fourcc: str, fps: float = 25.0) -> Path:
    gray = frames[0].ndim == 2
    depth = cv2.CV_16U if frames[0].dtype == np.uint16 else cv2.CV_8U
    options = [cv2.VIDEOWRITER_PROP_IS_COLOR, int(not gray), cv2.VIDEOWRITER_PROP_DEPTH, depth]
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*fourcc), fps, (width, height), options)
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def test_a_gray_video_is_gray8_and_exact(tmp_path: Path) -> None:
    frames = gray_frames(7)
    source = open_source(str(write_video(tmp_path / "a.mkv", frames, "FFV1", 20.0)))
    assert (source.count, source.fps, source.frame_hw) == (7, 20.0, (48, 64))
    np.testing.assert_array_equal(pixels_of(source), frames)


def test_a_16_bit_video_is_gray16_and_exact(tmp_path: Path) -> None:
    frames = gray_frames(7, np.uint16)
    np.testing.assert_array_equal(pixels_of(open_source(str(write_video(tmp_path / "a.mkv", frames, "FFV1")))), frames)


def test_a_colour_video_is_bgr8(tmp_path: Path) -> None:
    frames = smooth_colour()
    found = pixels_of(open_source(str(write_video(tmp_path / "a.avi", frames, "MJPG"))))
    assert len(found) == len(frames)
    assert np.abs(np.array(found, np.int16) - np.array(frames)).mean() < 8


def test_gray_pictures_in_a_colour_codec_are_gray8(tmp_path: Path) -> None:
    frames = [np.dstack([cv2.GaussianBlur(frame, (0, 0), 2)] * 3) for frame in gray_frames(6)]
    for pixels in pixels_of(open_source(str(write_video(tmp_path / "a.mp4", frames, "mp4v")))):
        assert pixels.shape == (48, 64)


def test_a_colour_video_that_starts_black_or_gray_stays_bgr8(tmp_path: Path) -> None:
    black = [np.zeros((48, 64, 3), np.uint8)] * 6
    found = pixels_of(open_source(str(write_video(tmp_path / "black.avi", black + smooth_colour(), "MJPG"))))
    assert {pixels.shape for pixels in found} == {(48, 64, 3)}
    gray = [np.dstack([frame] * 3) for frame in gray_frames(2)]
    found = pixels_of(open_source(str(write_video(tmp_path / "gray.avi", gray + smooth_colour(), "MJPG"))))
    assert {pixels.shape for pixels in found} == {(48, 64, 3)}


def test_the_video_rate_can_be_overridden(tmp_path: Path) -> None:
    path = str(write_video(tmp_path / "a.avi", smooth_colour(4), "MJPG", 30.0))
    assert [frame.timestamp_ns for frame in open_source(path)] == [0, 33_333_333, 66_666_667, 100_000_000]
    assert [frame.timestamp_ns for frame in open_source(path, fps=8)][1] == 125_000_000


def test_a_cut_off_video_delivers_what_it_has_and_says_so(tmp_path: Path) -> None:
    frames = [cv2.GaussianBlur(frame, (0, 0), 1) for frame in smooth_colour(40)]
    path = write_video(tmp_path / "a.avi", frames, "MJPG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    delivered, error = collect(open_source(str(path)))
    assert 10 < delivered < 30
    assert isinstance(error, SourceError)
    assert f"ends after {delivered} of the 40 frames" in str(error)


def test_unreadable_videos_are_refused_in_silence(tmp_path: Path) -> None:
    """In a process of its own, since FFmpeg takes its log level once per process."""
    names = ["noise.mp4", "noise.avi", "empty.mp4", "text.txt", "cut.mp4", "noname"]
    for name in names:
        (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.txt").write_text("hello")
    whole = write_video(tmp_path / "whole.mp4", smooth_colour(), "mp4v").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[:-200])
    program = (
        "import sys\n"
        "from trackctl.runtime.sources import open_source\n"
        "from trackctl.runtime.errors import SourceError\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        open_source(path)\n"
        "    except SourceError as error:\n"
        "        print(error)\n"
    )
    paths = [str(tmp_path / name) for name in names]
    environment = {key: value for key, value in os.environ.items() if key != "OPENCV_FFMPEG_LOGLEVEL"}
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, env=environment, timeout=120)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == len(names)
    for path, line in zip(paths, lines, strict=True):
        assert line.startswith(f"cannot read the video {path}")
