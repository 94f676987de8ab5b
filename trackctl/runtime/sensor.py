"""How a hyperspectral sensor delivers its bands: which position of the mosaic or plane of the cube is which band.

A description is a small TOML file; ``[...]`` are lists with one value per position, in the sensor's own order:

    pattern = 4             # a snapshot mosaic of 4 x 4 positions; left out for cubes
    bands = 16              # positions; pattern * pattern by itself, or as many as the cube has
    order = [3, 0, 1, ...]  # positions in the order of the bands; all in the sensor's order by itself
    dead = [15]             # positions that show nothing
    at_nm = [460, 500, ...] # instead of order: the positions nearest to these wavelengths
    wavelengths_nm = [...]  # centre of each position
    dark = 64               # counts without light, one for all or a list
    gain = [...]            # factor of the counts above dark, one for all or a list
    width = 2048            # raw video alone: size of its frames in pixels, and
    height = 1088
    bits = 10               # whether a pixel is one byte (up to 8) or two, little-endian (up to 16)

Position p of a mosaic lies at row p // pattern, column p % pattern of each cell: the order of the HOT challenge's ``X2Cube``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.contract import Array
from trackctl.runtime.errors import FrameError, InputError

Float32Array = NDArray[np.float32]

PATTERNS = (4, 5)
# Fewer would be gray, colour or a pair.
LEAST_BANDS = 5


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """A sensor with bands. Lists have one value per position; ``dark`` and ``gain`` may have one for all.

    Attributes:
        positions: bands that it delivers, dead ones included.
        pattern: side of the mosaic's cell, px; None for cubes (H, W, positions).
        order: positions in the order of the bands; empty for all as they come.
        dead: positions that are left out.
        wavelengths_nm: centre of each position; empty when unknown.
        dark: counts without light.
        gain: factor of the counts above dark, > 0.
        frame_wh: width and height of the frames of a raw video, px.
        bits: depth of a raw video's pixels.

    Raises:
        InputError: the values contradict each other.
    """

    positions: int
    pattern: int | None = None
    order: tuple[int, ...] = ()
    dead: tuple[int, ...] = ()
    wavelengths_nm: tuple[float, ...] = ()
    dark: tuple[float, ...] = (0.0,)
    gain: tuple[float, ...] = (1.0,)
    frame_wh: tuple[int, int] | None = None
    bits: int = 16

    def __post_init__(self) -> None:
        if self.pattern is not None and (self.pattern not in PATTERNS or self.positions != self.pattern**2):
            raise InputError(
                f"got a mosaic with pattern {self.pattern} and {self.positions} bands, expected a pattern of "
                f"{' or '.join(map(str, PATTERNS))} with its square of bands"
            )
        for name in ("order", "dead"):
            listed = getattr(self, name)
            if len(set(listed)) < len(listed) or any(not 0 <= position < self.positions for position in listed):
                raise InputError(f"got {name} {list(listed)}, expected different positions of 0 to {self.positions - 1}")
        if self.wavelengths_nm and len(self.wavelengths_nm) != self.positions:
            raise InputError(
                f"got {len(self.wavelengths_nm)} wavelengths for {self.positions} bands, expected one for each, also dead ones"
            )
        for name in ("dark", "gain"):
            if len(getattr(self, name)) not in (1, self.positions):
                raise InputError(f"got {len(getattr(self, name))} values of {name}, expected 1 or {self.positions}")
        values = (*self.dark, *self.gain, *self.wavelengths_nm)
        if not all(math.isfinite(value) for value in values) or min(*self.gain, *self.wavelengths_nm, 1.0) <= 0.0:
            raise InputError("got a dark, gain or wavelength that is not finite or a gain or wavelength of 0 or less")
        if not 1 <= self.bits <= 16:
            raise InputError(f"got bits {self.bits}, expected 1 to 16")
        if len(self.bands) < LEAST_BANDS:
            raise InputError(f"got {len(self.bands)} bands that are not dead, expected at least {LEAST_BANDS}")

    @cached_property
    def bands(self) -> tuple[int, ...]:
        """The position of each band that is used, in their order."""
        return tuple(position for position in self.order or range(self.positions) if position not in self.dead)

    @property
    def count(self) -> int:
        """Bands that are used."""
        return len(self.bands)

    @property
    def band_nm(self) -> tuple[float, ...]:
        """Centre of each band that is used; empty when unknown."""
        return tuple(self.wavelengths_nm[position] for position in self.bands) if self.wavelengths_nm else ()

    @cached_property
    def band_dark(self) -> Float32Array:
        """(count,) counts without light of each band that is used."""
        return np.broadcast_to(np.array(self.dark, dtype=np.float32), self.positions)[list(self.bands)]

    @cached_property
    def band_gain(self) -> Float32Array:
        """(count,) factor of each band that is used."""
        return np.broadcast_to(np.array(self.gain, dtype=np.float32), self.positions)[list(self.bands)]

    @property
    def in_order(self) -> bool:
        """Whether the bands are the first positions in their order, as frame graphs read them."""
        return self.bands == tuple(range(self.count)) and (self.pattern is not None or self.count == self.positions)

    def hw(self, pixels: Array) -> tuple[int, int]:
        """Height and width of the cube, px: for a mosaic its cells. Boxes are in these pixels."""
        cell = self.pattern or 1
        return pixels.shape[0] // cell, pixels.shape[1] // cell

    def check(self, pixels: Array) -> None:
        """Return if the frame is one of this sensor.

        Raises:
            FrameError: it has another shape or dtype, or a mosaic is cut within a cell.
        """
        if pixels.dtype not in (np.uint8, np.uint16):
            raise FrameError(f"got bands of {pixels.dtype}, expected uint8 or uint16: convert them first")
        if self.pattern is None:
            if pixels.ndim != 3 or pixels.shape[2] != self.positions or 0 in pixels.shape:
                raise FrameError(
                    f"got a frame of shape {pixels.shape}, expected a cube (H, W, {self.positions}) as its sensor is described: "
                    "mend bands in the description or take another one"
                )
            return
        if pixels.ndim != 2 or 0 in pixels.shape:
            raise FrameError(f"got a frame of shape {pixels.shape}, expected a mosaic (H, W): is it a false-colour picture?")
        height, width = pixels.shape
        if height % self.pattern or width % self.pattern:
            raise FrameError(
                f"got a mosaic of {width} x {height} px, expected multiples of its pattern {self.pattern}: "
                "read out whole cells, or cut the frame to them"
            )

    def planes(self, pixels: Array) -> list[Array]:
        """A view (H, W) of each band that is used; nothing is copied."""
        if self.pattern is None:
            return [pixels[:, :, position] for position in self.bands]
        cell = self.pattern
        return [pixels[position // cell :: cell, position % cell :: cell] for position in self.bands]

    def described(self, positions: int, wavelengths_nm: Sequence[float]) -> Sensor:
        """This sensor of cubes with what a cube's own file says, where the description says nothing.

        Raises:
            InputError: the cube has another number of bands.
        """
        if positions != self.positions:
            raise InputError(f"got a cube of {positions} bands, expected {self.positions} as its sensor is described")
        return self if self.wavelengths_nm else replace(self, wavelengths_nm=tuple(map(float, wavelengths_nm)))


def mosaic_of(cube: Array, pattern: int) -> Array:
    """The mosaic (H p, W p) whose cells of p x p pixels hold the bands of a cube (H, W, up to p * p); missing ones are 0."""
    height, width, bands = cube.shape
    cells = np.zeros((height, pattern, width, pattern), dtype=cube.dtype)
    for band in range(bands):
        cells[:, band // pattern, :, band % pattern] = cube[:, :, band]
    return cells.reshape(height * pattern, width * pattern)


# Sensors of the HOT challenge: 16 visible bands, 25 near-infrared ones, 15 from red on, whose last position shows nothing.
KNOWN: dict[str, Sensor] = {
    "vis16": Sensor(positions=16, pattern=4),
    "nir25": Sensor(positions=25, pattern=5),
    "rednir15": Sensor(positions=16, pattern=4, dead=(15,)),
}

_KEYS = (
    *(field.name for field in fields(Sensor) if field.name not in ("positions", "frame_wh")),
    *("bands", "at_nm", "width", "height"),
)


def read_sensor(text: str, *, positions: int | None = None, wavelengths_nm: Sequence[float] = ()) -> Sensor:
    """The sensor that a name of :data:`KNOWN` or the path of a TOML file describes (see the head of this module).

    Args:
        text: name or path.
        positions: bands that the data has, where the description need not say it.
        wavelengths_nm: those that the data carries along; the description's own come first.

    Raises:
        InputError: there is no such sensor, or the description is malformed or does not fit the data.
    """
    path = Path(text).expanduser()
    if text in KNOWN:
        return KNOWN[text] if positions is None else KNOWN[text].described(positions, wavelengths_nm)
    if not path.is_file():
        raise InputError(f"got the sensor {text!r}, expected one of {', '.join(KNOWN)} or a TOML file that describes one")
    given = _parse(path)
    unknown = sorted(set(given) - set(_KEYS))
    if unknown:
        near = get_close_matches(unknown[0], _KEYS, n=1, cutoff=0.0)[0]
        raise InputError(f"{path}: there is no key {unknown[0]!r}, do you mean {near}? Known: {', '.join(_KEYS)}")
    count = given.pop("bands", given["pattern"] ** 2 if isinstance(given.get("pattern"), int) else positions)
    if count is None:
        raise InputError(f"{path} does not say how many bands there are, expected pattern (4 or 5) or bands: add one")
    if positions is not None and positions != count:
        raise InputError(f"{path} describes {count} bands, the data has {positions}: take the description of its sensor")
    size = given.pop("width", None), given.pop("height", None)
    targets = given.pop("at_nm", None)
    try:
        values: dict[str, Any] = {name: _value(name, value) for name, value in given.items()}
        values.setdefault("wavelengths_nm", tuple(map(float, wavelengths_nm)))
        if size != (None, None):
            values["frame_wh"] = (_whole(size[0]), _whole(size[1]))
        sensor = Sensor(positions=_whole(count), **values)
        if targets is not None:
            sensor = replace(sensor, order=nearest(sensor, _numbers("at_nm", targets)))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return sensor


def nearest(sensor: Sensor, targets_nm: Sequence[float]) -> tuple[int, ...]:
    """The position nearest to each wavelength, dead ones left out.

    Raises:
        InputError: the wavelengths of the sensor are unknown, or two targets share a position.
    """
    if not sensor.wavelengths_nm:
        raise InputError("got at_nm, but neither the description nor the data has a wavelength list: add wavelengths_nm")
    centres = np.array(sensor.wavelengths_nm)
    centres[list(sensor.dead)] = np.inf
    found = tuple(int(np.abs(centres - target).argmin()) for target in targets_nm)
    if len(set(found)) < len(found):
        raise InputError(f"got at_nm {list(targets_nm)}, of which several are nearest to one band: take fewer or others")
    return found


def _parse(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the sensor description {path}: {error}") from error
    return table


def _value(name: str, value: object) -> object:
    if name in ("bits", "pattern"):
        return _whole(value)
    return _positions(name, value) if name in ("order", "dead") else _numbers(name, value)


def _positions(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or any(isinstance(item, bool) or not isinstance(item, int) for item in value):
        raise InputError(f"got {name} = {value}, expected a list of whole numbers")
    return tuple(value)


def _numbers(name: str, value: object) -> tuple[float, ...]:
    listed = [value] if name in ("dark", "gain") and not isinstance(value, list) else value
    if not isinstance(listed, list) or any(isinstance(item, bool) or not isinstance(item, int | float) for item in listed):
        raise InputError(f"got {name} = {value}, expected a list of numbers")
    return tuple(map(float, listed))


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"got {value} for bands, pattern, width, height or bits, expected a positive whole number")
    return value
