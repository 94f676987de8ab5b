"""Folders of images, one file per frame."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from trackctl.runtime.contract import Array
from trackctl.runtime.errors import SourceError
from trackctl.runtime.quiet import quiet_opencv
from trackctl.runtime.sources import DEFAULT_FPS, Recording

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")


class Images(Recording):
    """Image files in the given order: uint8 gray, uint8 colour (as BGR, without alpha) or uint16 gray.

    Args:
        paths: the files, at least one.
        fps: None means 25.
        loop: play without end.
    """

    def __init__(self, paths: Sequence[Path], *, fps: float | None = None, loop: bool = False) -> None:
        self._paths = list(paths)
        name = str(self._paths[0] if len(self._paths) == 1 else self._paths[0].parent)
        rate = DEFAULT_FPS if fps is None else fps
        super().__init__(name, read_image(self._paths[0]), count=len(self._paths), fps=rate, loop=loop)

    @classmethod
    def folder(cls, folder: Path, *, fps: float | None = None, loop: bool = False) -> Images:
        """The images of a folder in natural order (2 before 10), or those of its ``img`` (OTB, HOT) when it has none itself.

        Raises:
            SourceError: there are no images.
        """
        paths = list_images(folder) or (list_images(folder / "img") if (folder / "img").is_dir() else [])
        if not paths:
            others = sorted(child.name for child in folder.iterdir() if child.is_dir() and list_images(child))
            hint = f"give one of its folders {', '.join(others)}" if others else "check the path"
            raise SourceError(f"the folder {folder} holds no images, expected files that end in {', '.join(SUFFIXES)}: {hint}")
        return cls(paths, fps=fps, loop=loop)

    def _pixels(self) -> Iterator[Array]:
        return map(read_image, self._paths)

    def _label(self, index: int) -> str:
        return f"frame {index} ({self._paths[index].name})"


def list_images(folder: Path) -> list[Path]:
    """The image files of a folder in natural order; hidden files do not count."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    return sorted(files, key=lambda path: natural(path.name))


def natural(name: str) -> tuple[list[str | int], str]:
    """A key by which file names sort as people count: 2 before 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.lower())], name


def read_image(path: Path) -> Array:
    """The pixels of an image file: (H, W) uint8 or uint16, (H, W, 3) BGR, or what else the file holds.

    Raises:
        SourceError: the file cannot be read or is damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read the image {path}: {error.strerror}") from error
    pixels = None
    if _is_whole(data):
        with quiet_opencv():
            try:
                pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
            except cv2.error:
                pixels = None
    if pixels is None:
        raise SourceError(f"cannot read the image {path}: it is damaged, cut off or not an image: copy it again or remove it")
    return np.ascontiguousarray(pixels[..., :3]) if pixels.ndim == 3 and pixels.shape[2] == 4 else pixels


def _is_whole(data: bytes) -> bool:
    """Whether a JPEG or PNG has its end: decoders may fill a missing part with gray, and libpng writes to stderr."""
    if data.startswith(b"\x89PNG"):
        return b"IEND" in data
    if not data.startswith(b"\xff\xd8"):
        return len(data) > 0
    # The end mark must follow the image's own scan, not that of a thumbnail inside an earlier segment (ITU-T T.81, annex B).
    position = 2
    while data[position : position + 1] == b"\xff" and data[position + 1 : position + 2] != b"\xda":
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return data.find(b"\xff\xd9", position) >= 0
