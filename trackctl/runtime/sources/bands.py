"""Hyperspectral recordings: snapshot mosaics, raw video and cubes.

    mosaic:FOLDER?sensor=vis16          PNG or TIFF mosaics, one per frame (the HOT challenge); a .npy stack, a multi-page TIFF
    mosaic:FILE.raw?sensor=CAMERA.toml  frames back to back without header; the description says their size and depth
    cubes:FOLDER?sensor=CAMERA.toml     ENVI (.hdr), TIFF (a page per band), MATLAB or .npy cubes, one per frame
    cubes:FILE                          one cube, or a .npy stack (N, H, W, bands)

``sensor`` is a name of ``trackctl.runtime.sensor.KNOWN`` or a TOML file; without it, ``sensor.toml`` beside the frames is read.
``view=luminance`` gives every band the mean of all, ``view=pca`` the first three principal components as a colour picture,
``view=colour`` a false-colour picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from trackctl.runtime.contract import Array
from trackctl.runtime.errors import FrameError, SourceError
from trackctl.runtime.false_colour import FalseColour, Luminance, PrincipalComponents
from trackctl.runtime.frame import Frame
from trackctl.runtime.sensor import KNOWN, Sensor, read_sensor
from trackctl.runtime.sources import DEFAULT_FPS, Recording, Source, open_source
from trackctl.runtime.sources.options import read_options

SENSOR_FILE = "sensor.toml"
VIEWS: dict[str, Callable[[Sensor], Callable[[Array], Array]]] = {
    "luminance": Luminance,
    "pca": PrincipalComponents,
    "colour": FalseColour,
}
_RAW_SUFFIXES = (".raw", ".bin", ".dat")


class Sensed(Source):
    """A recording of raw frames as a sensor's frames.

    Args:
        source: gray frames for a mosaic, cubes for a sensor without pattern.
        sensor: which pixel is which band.

    Raises:
        FrameError: the first frame is not one of the sensor.
    """

    def __init__(self, source: Source, sensor: Sensor) -> None:
        self.name, self.fps, self.count = source.name, source.fps, source.count
        self._source, self.sensor = source, sensor
        first = next(iter(source)).pixels
        try:
            sensor.check(first)
        except FrameError as error:
            raise FrameError(f"{source.name}: {error}") from error
        self.frame_hw = sensor.hw(first)

    def __iter__(self) -> Iterator[Frame]:
        return (replace(frame, sensor=self.sensor) for frame in self._source)

    def close(self) -> None:
        """Release the recording."""
        self._source.close()


class Viewed(Source):
    """A hyperspectral recording as pictures or cubes of another kind; boxes stay as they are.

    Args:
        source: frames with a sensor.
        sensor: of the source.
        view: one of :data:`VIEWS`.
    """

    def __init__(self, source: Source, sensor: Sensor, view: str) -> None:
        if view not in VIEWS:
            raise SourceError(f"got view={view}, expected one of {', '.join(VIEWS)}")
        self.name, self.fps, self.count, self.frame_hw = f"{source.name} ({view})", source.fps, source.count, source.frame_hw
        self._source, self._sensor, self._view = source, sensor, view
        for name in ("boxes_ltwh", "initial_box"):
            if hasattr(source, name):
                setattr(self, name, getattr(source, name))

    def __iter__(self) -> Iterator[Frame]:
        convert = VIEWS[self._view](self._sensor)
        return (Frame(convert(frame.pixels), frame.timestamp_ns, frame.index) for frame in self._source)

    def close(self) -> None:
        """Release the recording."""
        self._source.close()


class RawVideo(Recording):
    """Frames back to back in one file, without header.

    Args:
        path: the file.
        sensor: with ``frame_wh`` and ``bits``.
        fps: None means 25.
        loop: play without end.

    Raises:
        SourceError: the description lacks the size, or the file does not hold whole frames.
    """

    def __init__(self, path: Path, sensor: Sensor, *, fps: float | None = None, loop: bool = False) -> None:
        if sensor.frame_wh is None:
            raise SourceError(f"cannot read the raw video {path}: its sensor's description has no width and height: add them")
        width, height = sensor.frame_wh
        self._path, self._dtype = path, np.dtype(np.uint8 if sensor.bits <= 8 else "<u2")
        self._hw = (height, width)
        frame_bytes, size = width * height * self._dtype.itemsize, path.stat().st_size
        if size == 0 or size % frame_bytes:
            raise SourceError(
                f"got the raw video {path} of {size} bytes, expected a multiple of {frame_bytes} for {width} x {height} pixels "
                f"with {sensor.bits} bits: check width, height and bits of its sensor"
            )
        first = np.fromfile(path, dtype=self._dtype, count=width * height).reshape(self._hw)
        rate = DEFAULT_FPS if fps is None else fps
        super().__init__(str(path), first, count=size // frame_bytes, fps=rate, loop=loop, sensor=sensor)
        self._frames = size // frame_bytes

    def _pixels(self) -> Iterator[Array]:
        with self._path.open("rb") as file:
            for _ in range(self._frames):
                pixels: Array = np.empty(self._hw, dtype=self._dtype)
                if file.readinto(pixels.data.cast("B")) < pixels.nbytes:
                    raise SourceError(f"the raw video {self._path} became shorter while it was read: copy it again")
                yield pixels


def open_mosaic(rest: str, *, fps: float | None, loop: bool) -> Source:
    """The source behind ``mosaic:``."""
    path, options = split_options(rest, ("sensor", "view"))
    sensor = _sensor(path, options)
    if sensor is None:
        raise SourceError(
            f"got the mosaic {path} without its sensor, expected ?sensor= one of {', '.join(KNOWN)} or a TOML file, "
            f"or {SENSOR_FILE} beside the frames"
        )
    if sensor.pattern is None:
        raise SourceError(
            f"got the mosaic {path} with a sensor without pattern, expected pattern = 4 or 5: or is it cubes:{path}?"
        )
    if path.suffix.lower() in _RAW_SUFFIXES:
        source: Source = RawVideo(path, sensor, fps=fps, loop=loop)
    else:
        source = Sensed(open_source(f"file:{path}", fps=fps, loop=loop), sensor)
    return Viewed(source, sensor, options["view"]) if "view" in options else source


def open_cubes(rest: str, *, fps: float | None, loop: bool) -> Source:
    """The source behind ``cubes:``."""
    from trackctl.runtime.sources.cubes import Cubes, list_cubes

    path, options = split_options(rest, ("sensor", "view"))
    described = _described(path, options)
    if path.suffix.lower() == ".npy" and np.load(path, mmap_mode="r", allow_pickle=False).ndim == 4:
        from trackctl.runtime.sources.stacks import NpyStack

        stack = NpyStack(path, fps=fps, loop=loop)
        bands = next(iter(stack)).pixels.shape[-1]
        sensor = Sensor(positions=bands) if described is None else read_sensor(described, positions=bands)
        source: Source = Sensed(stack, sensor)
    else:
        cubes = Cubes(list_cubes(path), described, fps=fps, loop=loop)
        source, sensor = cubes, cubes.description
    return Viewed(source, sensor, options["view"]) if "view" in options else source


def split_options(rest: str, known: tuple[str, ...]) -> tuple[Path, dict[str, str]]:
    """The path and the options of ``PATH?NAME=VALUE&...``.

    Raises:
        SourceError: the path is missing, or an option is unknown or given twice.
    """
    name, _, query = rest.partition("?")
    path = Path(name).expanduser()
    if not name or not path.exists():
        raise SourceError(f"got {name!r}, which is neither a file nor a folder: check the path")
    return path, read_options(query, known, name)


def _described(path: Path, options: dict[str, str]) -> str | None:
    """What describes the sensor: the option, or the file beside the frames."""
    if "sensor" in options:
        return options["sensor"]
    folder = path if path.is_dir() else path.parent
    beside = folder / SENSOR_FILE
    return str(beside) if beside.is_file() else None


def _sensor(path: Path, options: dict[str, str]) -> Sensor | None:
    described = _described(path, options)
    return None if described is None else read_sensor(described)
