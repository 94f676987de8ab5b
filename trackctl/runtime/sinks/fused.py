"""Fused pictures as a video."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.errors import InputError
from trackctl.runtime.quiet import quiet_opencv

# Codecs per container, best first.
CODECS = {".mp4": ("mp4v", "avc1"), ".mkv": ("mp4v", "avc1", "FFV1"), ".avi": ("MJPG", "XVID", "mp4v")}


class FusedVideo:
    """A video of pictures. A context manager; the file is complete after ``close``.

    Encoders want even sizes: an odd row or column is repeated.

    Args:
        path: .mp4, .mkv or .avi.
        fps: frames per second at which it plays.

    Raises:
        InputError: the suffix is another, or (from ``write``) it cannot be written.
    """

    def __init__(self, path: Path, fps: float) -> None:
        if path.suffix.lower() not in CODECS:
            raise InputError(f"got the video {path}, expected a name that ends in one of {', '.join(CODECS)}")
        self._path, self._fps = path, fps
        self._writer: cv2.VideoWriter | None = None

    def write(self, picture: NDArray[np.uint8]) -> None:
        """Append one picture, (H, W, 3) BGR."""
        height, width = picture.shape[:2]
        shown = cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        if self._writer is None:
            self._writer = self._open(shown.shape[1], shown.shape[0])
        self._writer.write(shown)

    def _open(self, width: int, height: int) -> cv2.VideoWriter:
        for codec in CODECS[self._path.suffix.lower()]:
            with quiet_opencv():
                writer = cv2.VideoWriter(str(self._path), cv2.VideoWriter.fourcc(*codec), self._fps, (width, height))
            if writer.isOpened():
                return writer
        raise InputError(f"cannot write {self._path}: no such folder, or no codec in this OpenCV: give another path")

    def close(self) -> None:
        """Write the file's index. May be called twice."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None

    def __enter__(self) -> FusedVideo:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
