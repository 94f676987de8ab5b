"""Keeps OpenCV and FFmpeg from writing to stderr while trackctl asks them whether they can open something."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cv2


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """A block in which OpenCV logs nothing; the failure it hides is for the caller to report.

    FFmpeg reads its level once, when OpenCV first touches it; a level that the user set in ``OPENCV_FFMPEG_LOGLEVEL`` stays.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    # OpenCV 4 has the function at its top, OpenCV 5 in its logging module; both return the level before.
    set_level: Callable[[int], int] = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
    level = set_level(0)
    try:
        yield
    finally:
        set_level(level)
