"""Hyperspectral cubes, one file per frame: ENVI, TIFF with a page per band, MATLAB, NumPy."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trackctl.runtime.contract import Array
from trackctl.runtime.errors import MissingDependency, SourceError
from trackctl.runtime.sensor import LEAST_BANDS, Sensor, read_sensor
from trackctl.runtime.sources import DEFAULT_FPS, Recording

SUFFIXES = (".hdr", ".tif", ".tiff", ".mat", ".npy")
# A cube of reflectances becomes counts with room above the first frame's largest value.
_FLOAT_TOP = 16384.0

Wavelengths = tuple[float, ...]


class Cubes(Recording):
    """Cube files in the given order; their wavelengths go into :attr:`description`.

    uint8 and uint16 stay as they are, other integers become uint16 counts, floats counts on a scale that the first cube sets.

    Args:
        paths: at least one.
        described: name or TOML file of the sensor; None takes what the files say.
        fps: None means 25.
        loop: play without end.

    Attributes:
        description: the sensor.

    Raises:
        MissingDependency: the package that reads such files is not installed.
        SourceError: a file is damaged or holds no cube.
        InputError: the description does not fit the cubes.
    """

    def __init__(self, paths: Sequence[Path], described: str | None, *, fps: float | None = None, loop: bool = False) -> None:
        self._paths = list(paths)
        cube, wavelengths_nm = read_cube(self._paths[0])
        bands = cube.shape[2]
        if described is None:
            self.description = Sensor(positions=bands, wavelengths_nm=wavelengths_nm)
        else:
            self.description = read_sensor(described, positions=bands, wavelengths_nm=wavelengths_nm)
        largest = float(np.nanmax(cube)) if cube.dtype.kind == "f" else 1.0
        self._scale = _FLOAT_TOP / largest if np.isfinite(largest) and largest > 0.0 else 1.0
        name = str(self._paths[0] if len(self._paths) == 1 else self._paths[0].parent)
        rate = DEFAULT_FPS if fps is None else fps
        first = self._counts(cube)
        super().__init__(name, first, count=len(self._paths), fps=rate, loop=loop, sensor=self.description)

    def _pixels(self) -> Iterator[Array]:
        return (self._counts(read_cube(path)[0]) for path in self._paths)

    def _label(self, index: int) -> str:
        return f"frame {index} ({self._paths[index].name})"

    def _counts(self, cube: Array) -> Array:
        if cube.dtype in (np.uint8, np.uint16):
            return np.ascontiguousarray(cube, dtype=cube.dtype.newbyteorder("="))
        values = np.nan_to_num(cube.astype(np.float64) * (self._scale if cube.dtype.kind == "f" else 1.0))
        return np.clip(np.rint(values), 0, 65535).astype(np.uint16)


def list_cubes(path: Path) -> list[Path]:
    """The cube files of a folder in natural order, or the file itself.

    Raises:
        SourceError: there is none.
    """
    from trackctl.runtime.sources.images import natural

    if path.is_dir():
        found = [child for child in path.iterdir() if child.suffix.lower() in SUFFIXES and not child.name.startswith(".")]
        if not found:
            raise SourceError(
                f"the folder {path} holds no cubes, expected files that end in {', '.join(SUFFIXES)}: check the path"
            )
        return sorted(found, key=lambda child: natural(child.name))
    if path.suffix.lower() not in SUFFIXES:
        raise SourceError(f"got the cube {path}, expected a file that ends in {', '.join(SUFFIXES)}; of ENVI its .hdr")
    return [path]


def read_cube(path: Path) -> tuple[Array, Wavelengths]:
    """The values (H, W, bands) of a file and its wavelengths in nm, empty where it has none.

    Raises:
        MissingDependency: the package that reads it is not installed.
        SourceError: it cannot be read or holds no cube.
    """
    reader = {".hdr": _read_envi, ".mat": _read_matlab, ".npy": _read_npy}.get(path.suffix.lower(), _read_tiff)
    try:
        cube, wavelengths_nm = reader(path)
    except (MissingDependency, SourceError):
        raise
    except Exception as error:  # each package raises its own
        raise SourceError(f"cannot read the cube {path}: {error}: copy it again") from error
    if cube.ndim != 3 or cube.shape[2] < LEAST_BANDS or 0 in cube.shape or cube.dtype.kind not in "uif":
        raise SourceError(
            f"got the cube {path} of shape {cube.shape} {cube.dtype}, expected (H, W, {LEAST_BANDS} or more bands) of numbers"
        )
    return cube, wavelengths_nm if len(wavelengths_nm) == cube.shape[2] else ()


def _read_envi(path: Path) -> tuple[Array, Wavelengths]:
    try:
        from spectral.io import envi
    except ImportError as error:
        raise MissingDependency("spectral", f"Reading the ENVI cube {path.name}", "hyperspectral") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = envi.open(str(path))
    values = image.open_memmap(interleave="bip")
    unit = str(image.metadata.get("wavelength units", "")).lower()
    factor = 1000.0 if unit.startswith(("micro", "um", "µm")) else 1.0
    centres = tuple(round(factor * float(centre), 6) for centre in image.bands.centers or ())
    return np.array(values, dtype=values.dtype.newbyteorder("=")), centres


def _read_matlab(path: Path) -> tuple[Array, Wavelengths]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise MissingDependency("scipy", f"Reading the MATLAB cube {path.name}", "hyperspectral") from error
    try:
        held: dict[str, Any] = loadmat(path)
    except NotImplementedError as error:
        raise SourceError(f"got {path} in MATLAB's format 7.3, expected 7 or older: save it with -v7") from error
    cubes = {name: value for name, value in held.items() if isinstance(value, np.ndarray) and value.ndim == 3}
    if not cubes:
        raise SourceError(
            f"{path} holds no array of three dimensions, it holds {sorted(set(held) - {'__header__'})}: check the file"
        )
    cube: Array = max(cubes.values(), key=lambda value: value.size)
    lists = (np.ravel(value) for name, value in held.items() if name.lower().startswith(("wav", "lambda", "bands_nm")))
    centres = next((tuple(map(float, value)) for value in lists if len(value) == cube.shape[2]), ())
    return np.ascontiguousarray(cube, dtype=cube.dtype.newbyteorder("=")), centres


def _read_npy(path: Path) -> tuple[Array, Wavelengths]:
    return np.load(path, allow_pickle=False), ()


def _read_tiff(path: Path) -> tuple[Array, Wavelengths]:
    try:
        import tifffile
    except ImportError as error:
        raise MissingDependency("tifffile", f"Reading the TIFF cube {path.name}", "tiff") from error
    with tifffile.TiffFile(path) as tiff:
        pages = [page.asarray() for page in tiff.pages]
    # Either a page per band, or all bands in the samples of one page.
    return (pages[0] if len(pages) == 1 else np.dstack(pages)), ()
