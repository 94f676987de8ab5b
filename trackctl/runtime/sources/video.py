"""Video files, through OpenCV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from trackctl.runtime.contract import BLANK_CONTRAST, Array
from trackctl.runtime.errors import SourceError
from trackctl.runtime.quiet import quiet_opencv
from trackctl.runtime.sources import DEFAULT_FPS, Recording

# FFmpeg's codes of its pixel formats gray and gray16le, as CAP_PROP_CODEC_PIXEL_FORMAT reports them.
_CODEC_GRAY8 = int.from_bytes(b"Y800", "little")
_CODEC_GRAY16 = int.from_bytes(b"Y1\x00\x10", "little")


class VideoFile(Recording):
    """A video. Its first frames decide, for the whole stream, whether it is gray8 or bgr8; a 16-bit gray codec gives gray16.

    Args:
        path: the file.
        fps: None takes the file's own.
        loop: play without end.
        probe_frames: how many of the first frames must be gray for the video to count as gray.
        gray_tolerance: most that two channels of a gray video may differ, grey levels: encoders leave a tint of up to 3.
        complete: share of the announced frames that must be there; frame counts of some containers are estimates.

    Raises:
        SourceError: it is not a readable video.
    """

    def __init__(
        self,
        path: Path,
        *,
        fps: float | None = None,
        loop: bool = False,
        probe_frames: int = 5,
        gray_tolerance: int = 4,
        complete: float = 0.9,
    ) -> None:
        self._path = path
        self._complete = complete
        with self._open() as capture:
            codec = int(capture.get(cv2.CAP_PROP_CODEC_PIXEL_FORMAT))
            announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            own_fps = capture.get(cv2.CAP_PROP_FPS)
            frames = list(islice(_decoded(capture, gray=False), probe_frames))
        if not frames:
            raise SourceError(f"cannot read the video {path}: no frame can be decoded: copy it again or re-encode it with ffmpeg")
        self._gray = codec == _CODEC_GRAY8 or _is_gray(frames, gray_tolerance)
        self._announced = max(announced, 0)
        first = cv2.cvtColor(frames[0], cv2.COLOR_BGR2GRAY) if self._gray and frames[0].ndim == 3 else frames[0]
        # Containers without a rate report 0 or their time base.
        known = own_fps if 0.0 < own_fps <= 1000.0 else DEFAULT_FPS
        super().__init__(str(path), first, count=self._announced or None, fps=known if fps is None else fps, loop=loop)

    def _pixels(self) -> Iterator[Array]:
        delivered = 0
        with self._open() as capture:
            for pixels in _decoded(capture, gray=self._gray):
                yield pixels
                delivered += 1
        if delivered < self._complete * self._announced:
            raise SourceError(
                f"the video {self._path} ends after {delivered} of the {self._announced} frames it announces: "
                "it is cut off or damaged, copy it again"
            )

    @contextmanager
    def _open(self) -> Iterator[cv2.VideoCapture]:
        with quiet_opencv():
            capture = cv2.VideoCapture(str(self._path))
        try:
            if not capture.isOpened():
                raise SourceError(
                    f"cannot read the video {self._path}: it is no video or damaged, or OpenCV lacks its codec: "
                    "check it with ffprobe"
                )
            if int(capture.get(cv2.CAP_PROP_CODEC_PIXEL_FORMAT)) == _CODEC_GRAY16:
                capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
            yield capture
        finally:
            capture.release()


def _decoded(capture: cv2.VideoCapture, *, gray: bool) -> Iterator[Array]:
    while True:
        got, pixels = capture.read()
        if not got:
            return
        yield cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY) if gray and pixels.ndim == 3 else pixels


def _is_gray(frames: list[Array], tolerance: int) -> bool:
    """Whether no frame has a tint and at least one shows something: a colour film that fades in from black is no gray one."""
    shows = False
    for pixels in frames:
        if pixels.ndim != 3:
            return False
        blue, green, red = cv2.split(pixels)
        if max(cv2.norm(blue, green, cv2.NORM_INF), cv2.norm(green, red, cv2.NORM_INF)) > tolerance:
            return False
        shows = shows or float(np.std(green)) > BLANK_CONTRAST
    return shows
