"""Frames stacked in one file: NumPy arrays and multi-page TIFF."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from trackctl.runtime.contract import Array
from trackctl.runtime.errors import MissingDependency, SourceError
from trackctl.runtime.sources import DEFAULT_FPS, Recording


class NpyStack(Recording):
    """A ``.npy`` array (N, H, W) uint8 or uint16, or (N, H, W, 3) uint8 BGR, mapped into memory and copied frame by frame.

    Args:
        path: the file.
        fps: None means 25.
        loop: play without end.

    Raises:
        SourceError: the file is damaged, cut off or not a stack.
        FrameError: its frames have another form.
    """

    def __init__(self, path: Path, *, fps: float | None = None, loop: bool = False) -> None:
        try:
            stack = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise SourceError(f"cannot read the stack {path}: {error}: copy it again or save it with numpy.save") from error
        if stack.ndim not in (3, 4) or 0 in stack.shape:
            raise SourceError(f"got the stack {path} of shape {stack.shape}, expected (N, H, W) or (N, H, W, 3) with N >= 1")
        self._stack: Array = stack
        rate = DEFAULT_FPS if fps is None else fps
        super().__init__(str(path), self._frame(0), count=len(stack), fps=rate, loop=loop)

    def _frame(self, index: int) -> Array:
        frame = np.array(self._stack[index], dtype=self._stack.dtype.newbyteorder("="), order="C")
        return frame[..., 0] if frame.ndim == 3 and frame.shape[2] == 1 else frame

    def _pixels(self) -> Iterator[Array]:
        return map(self._frame, range(len(self._stack)))


class TiffStack(Recording):
    """A TIFF with one frame per page: uint8 or uint16 gray, or uint8 RGB.

    Args:
        path: the file.
        fps: None means 25.
        loop: play without end.

    Raises:
        MissingDependency: the package tifffile is not installed.
        SourceError: the file is damaged or cut off.
        FrameError: its pages have another form.
    """

    def __init__(self, path: Path, *, fps: float | None = None, loop: bool = False) -> None:
        try:
            import tifffile
        except ImportError as error:
            raise MissingDependency("tifffile", f"Reading the TIFF stack {path.name}", "tiff") from error
        self._tifffile = tifffile
        self._path = path
        with self._open() as tiff:
            count = len(tiff.pages)
            first = self._page(tiff, 0)
        super().__init__(str(path), first, count=count, fps=DEFAULT_FPS if fps is None else fps, loop=loop)

    def _pixels(self) -> Iterator[Array]:
        with self._open() as tiff:
            for index in range(len(tiff.pages)):
                yield self._page(tiff, index)

    @contextmanager
    def _open(self) -> Iterator[Any]:
        complaints: list[str] = []

        def hear(record: logging.LogRecord) -> bool:
            complaints.append(record.getMessage())
            return False

        # tifffile logs that pages are missing, and goes on with those it has.
        logger = logging.getLogger("tifffile")
        logger.addFilter(hear)
        try:
            tiff = self._tifffile.TiffFile(self._path)
            len(tiff.pages)
        except Exception as error:  # tifffile raises whatever its codecs do
            raise self._damaged(str(error)) from error
        finally:
            logger.removeFilter(hear)
        with tiff:
            if any("page offset" in complaint for complaint in complaints):
                raise self._damaged(complaints[-1])
            yield tiff

    def _page(self, tiff: Any, index: int) -> Array:
        try:
            pixels: Array = tiff.pages[index].asarray()
        except Exception as error:  # tifffile raises whatever its codecs do
            raise self._damaged(f"frame {index}: {error}") from error
        # TIFF keeps RGB.
        return np.ascontiguousarray(pixels[..., ::-1] if pixels.ndim == 3 and pixels.shape[2] == 3 else pixels)

    def _damaged(self, reason: str) -> SourceError:
        return SourceError(f"cannot read the TIFF stack {self._path}: {reason}: copy it again, or save it without compression")
