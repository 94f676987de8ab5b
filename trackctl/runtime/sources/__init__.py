"""Where frames come from: one class per kind, one URI scheme each.

``open_source`` turns a URI into a :class:`Source`; the modules beside this one hold the kinds.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import TypeVar
from urllib.parse import unquote

from trackctl.runtime.contract import Array
from trackctl.runtime.errors import FrameError, SourceError
from trackctl.runtime.frame import Frame, layout_of
from trackctl.runtime.sensor import LEAST_BANDS, Sensor

# What a folder of images or a stack is played at when nobody says.
DEFAULT_FPS = 25.0

AnySource = TypeVar("AnySource", bound="Source")


class Source(ABC):
    """Frames of one camera or recording. A context manager and an iterable of :class:`Frame`; each frame owns its pixels.

    Attributes:
        name: what it is, for messages and reports.
        fps: frames per second.
        frame_hw: height and width of every frame, pixels.
        count: number of frames, or None when nobody knows (a camera, a looped recording).
        live: frames come whether they are awaited or not, so that only the newest is worth having.
        skipped: frames that came and were not delivered.
    """

    name: str
    fps: float
    frame_hw: tuple[int, int]
    count: int | None = None
    live: bool = False
    skipped: int = 0

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """The frames in the order of their time.

        Raises:
            SourceError, FrameError: a frame cannot be read or differs from the first; all before it were delivered.
        """

    def close(self) -> None:  # noqa: B027 (a recording holds nothing open between frames)
        """Release the device or file. May be called twice."""

    def __enter__(self: AnySource) -> AnySource:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Recording(Source):
    """A source that can be played again from its start. Subclasses give its pixels.

    Args:
        name: for messages.
        first: pixels of the first frame; all others must have its shape and dtype.
        count: number of frames, None when unknown.
        fps: frames per second.
        loop: play without end.
        sensor: which pixel is which band; None: another camera, or a cube whose channels are its bands.

    Raises:
        FrameError: the first frame has no layout that trackctl knows.
        SourceError: ``fps`` is not a positive number.
    """

    def __init__(
        self, name: str, first: Array, *, count: int | None, fps: float, loop: bool, sensor: Sensor | None = None
    ) -> None:
        if sensor is None and first.ndim == 3 and first.shape[2] >= LEAST_BANDS:
            sensor = Sensor(positions=first.shape[2])
        try:
            layout_of(first, sensor)
        except FrameError as error:
            raise FrameError(f"{name}: {error}") from error
        if not (math.isfinite(fps) and fps > 0.0):
            raise SourceError(f"{name}: got {fps} frames per second, expected a positive number: give another fps")
        self.name = name
        self.fps = float(fps)
        self.frame_hw = (first.shape[0], first.shape[1]) if sensor is None else sensor.hw(first)
        self.count = None if loop else count
        self.sensor = sensor
        self._loop = loop
        self._form = (first.shape, first.dtype)

    @abstractmethod
    def _pixels(self) -> Iterator[Array]:
        """The frames' pixels from the start, each an array of its own."""

    def _label(self, index: int) -> str:
        """How messages name a frame."""
        return f"frame {index}"

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        while True:
            for number, pixels in enumerate(self._pixels()):
                if (pixels.shape, pixels.dtype) != self._form:
                    shape, dtype = self._form
                    raise FrameError(
                        f"{self.name}: {self._label(number)} is {pixels.shape} {pixels.dtype}, expected {shape} {dtype} "
                        "as the first frame: split the recording where its form changes"
                    )
                yield Frame(pixels, round(index * 1e9 / self.fps), index, self.sensor)
                index += 1
            if not self._loop:
                return


def _open_path(path: Path, fps: float | None, loop: bool) -> Source:
    from trackctl.runtime.sources.images import SUFFIXES, Images
    from trackctl.runtime.sources.stacks import NpyStack, TiffStack
    from trackctl.runtime.sources.video import VideoFile

    if path.is_dir():
        return Images.folder(path, fps=fps, loop=loop)
    if not path.is_file():
        raise SourceError(f"got {str(path)!r}, which is neither a file nor a folder: check the path")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return NpyStack(path, fps=fps, loop=loop)
    if suffix in (".tif", ".tiff"):
        return TiffStack(path, fps=fps, loop=loop)
    if suffix in SUFFIXES:
        return Images([path], fps=fps, loop=loop)
    return VideoFile(path, fps=fps, loop=loop)


def _open_file(rest: str, fps: float | None, loop: bool) -> Source:
    if not rest:
        raise SourceError("got an empty source, expected a path or a URI such as synth:")
    # file:///a%20b is a URL; file:a b is what people type.
    return _open_path(Path(unquote(rest[2:]) if rest.startswith("//") else rest).expanduser(), fps, loop)


def _open_synth(rest: str, fps: float | None, loop: bool) -> Source:
    if rest.startswith("hsi"):
        from trackctl.runtime.sources.synth_hsi import SynthHsi, SynthHsiSpec

        return SynthHsi(SynthHsiSpec.parse(rest.removeprefix("hsi")), fps=fps, loop=loop)
    if rest.startswith("pair"):
        from trackctl.runtime.sources.synth_pair import SynthPair, SynthPairSpec

        return SynthPair(SynthPairSpec.parse(rest.removeprefix("pair")), fps=fps, loop=loop)
    from trackctl.runtime.sources.synth import Synth, SynthSpec

    return Synth(SynthSpec.parse(rest), fps=fps, loop=loop)


def _open_mosaic(rest: str, fps: float | None, loop: bool) -> Source:
    from trackctl.runtime.sources.bands import open_mosaic

    return open_mosaic(rest, fps=fps, loop=loop)


def _open_cubes(rest: str, fps: float | None, loop: bool) -> Source:
    from trackctl.runtime.sources.bands import open_cubes

    return open_cubes(rest, fps=fps, loop=loop)


def _open_pair(rest: str, fps: float | None, loop: bool) -> Source:
    from trackctl.runtime.sources.pair import PairSpec, open_pair

    return open_pair(PairSpec.parse(rest), fps=fps, loop=loop)


_SCHEMES: dict[str, Callable[[str, float | None, bool], Source]] = {
    "file": _open_file,
    "synth": _open_synth,
    "mosaic": _open_mosaic,
    "cubes": _open_cubes,
    "pair": _open_pair,
}


def open_source(uri: str, *, fps: float | None = None, loop: bool = False) -> Source:
    """The source that a URI names.

    ======================  ====================================================================================
    URI                     what it is
    ======================  ====================================================================================
    ``PATH``, ``file:PATH`` a video, a folder of images (or one that holds ``img/``), an image, a ``.npy`` stack
                            (N, H, W) uint8 or uint16 or (N, H, W, 3) uint8 BGR, a multi-page TIFF
    ``mosaic:PATH?sensor=`` a snapshot mosaic: what PATH may be, or a raw video; ``cubes:PATH`` hyperspectral cubes, see
                            :mod:`trackctl.runtime.sources.bands`
    ``synth:hsi?OPTIONS``   a hyperspectral clip made from a clip without, see :mod:`trackctl.runtime.sources.synth_hsi`
    ``pair:VISIBLE,THERMAL`` two of these as registered pairs, see :mod:`trackctl.runtime.sources.pair`
    ``synth:pair?OPTIONS``  pairs with known boxes, see :mod:`trackctl.runtime.sources.synth_pair`
    ``synth:?OPTIONS``      a rendered thermal clip with known boxes, see :mod:`trackctl.runtime.sources.synth`
    ======================  ====================================================================================

    Args:
        uri: see above.
        fps: frames per second of a recording; None takes the video's own, or 25.
        loop: play a recording without end.

    Raises:
        SourceError, FrameError: it cannot be read, with what to do.
        MissingDependency: a TIFF without the package tifffile.
    """
    try:
        return _open(uri, fps, loop)
    except OSError as error:
        raise SourceError(f"cannot read {uri!r}: {error.strerror}: check the path and its permissions") from error


def _open(uri: str, fps: float | None, loop: bool) -> Source:
    # Two letters at least: C:\clip.avi is a path.
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", uri, flags=re.DOTALL)
    if match is None or Path(uri).exists():
        return _open_file(uri, fps, loop)
    scheme, rest = match[1].lower(), match[2]
    if scheme not in _SCHEMES:
        near = get_close_matches(scheme, _SCHEMES, n=1, cutoff=0.0)[0]
        raise SourceError(
            f"got the source {uri!r}, there is no scheme {scheme!r}: do you mean {near}:? Known: {sorted(_SCHEMES)}"
        )
    return _SCHEMES[scheme](rest, fps, loop)
