"""Spectra of materials for made hyperspectral clips: smooth random curves, or those of the pixels of a real cube."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from trackctl.runtime.errors import SourceError
from trackctl.runtime.geometry import Float64Array
from trackctl.runtime.sources.cubes import read_cube

# First and last band centre, nm: the ranges of the visible and near-infrared snapshot sensors; others span both. [ours]
RANGES_NM = {16: (460.0, 600.0), 15: (600.0, 850.0), 25: (665.0, 960.0)}
OTHER_RANGE_NM = (460.0, 960.0)

# Share of a band's light that its neighbours on either side receive. [ours]
CROSSTALK = 0.08
# Least spectral angle between target and any background material, radians. [ours]
LEAST_ANGLE = 0.2
ENDMEMBERS = 24
_CANDIDATES = 400


def band_centres(bands: int) -> Float64Array:
    """Wavelengths (bands,) of an evenly spaced sensor, nm."""
    return np.linspace(*RANGES_NM.get(bands, OTHER_RANGE_NM), bands)


def crosstalk(bands: int) -> Float64Array:
    """(bands, bands) what each band sees of each; rows sum to 1."""
    mixing = np.eye(bands) + CROSSTALK * (np.eye(bands, k=1) + np.eye(bands, k=-1))
    matrix: Float64Array = mixing / mixing.sum(axis=1, keepdims=True)
    return matrix


def random_spectra(rng: np.random.Generator, count: int, bands: int) -> Float64Array:
    """Smooth reflectances (count, bands) > 0: bumps of several widths, and an edge in half of them."""
    across = np.linspace(0.0, 1.0, bands)
    centres, widths = rng.uniform(-0.1, 1.1, (count, 3, 1)), rng.uniform(0.08, 0.35, (count, 3, 1))
    heights = rng.uniform(0.0, 1.0, (count, 3, 1))
    bumps = (heights * np.exp(-0.5 * ((across - centres) / widths) ** 2)).sum(axis=1)
    edge = rng.uniform(0.0, 1.2, (count, 1)) / (1.0 + np.exp(-(across - rng.uniform(0.2, 0.8, (count, 1))) / 0.06))
    spectra: Float64Array = 0.12 + bumps + edge * (rng.random((count, 1)) < 0.5)
    return spectra


@lru_cache(maxsize=4)
def cube_spectra(path: Path, bands: int) -> Float64Array:
    """Spectra (ENDMEMBERS or fewer, bands) of pixels of a real cube, chosen to be far apart, resampled to the band centres.

    Each further one is the pixel with the largest spectral angle to its nearest so far.

    Raises:
        SourceError: the cube has no wavelength list, or does not reach over the bands.
    """
    cube, wavelengths_nm = read_cube(path)
    if not wavelengths_nm:
        raise SourceError(f"the cube {path} has no wavelength list, expected one to take spectra from: add it to the file")
    centres = band_centres(bands)
    if min(wavelengths_nm) > centres[0] or max(wavelengths_nm) < centres[-1]:
        raise SourceError(
            f"the cube {path} spans {min(wavelengths_nm):.0f} to {max(wavelengths_nm):.0f} nm, "
            f"expected {centres[0]:.0f} to {centres[-1]:.0f} nm: take another one"
        )
    pixels = cube.reshape(-1, cube.shape[2])[:: max(1, cube.shape[0] * cube.shape[1] // _CANDIDATES)]
    spectra = np.stack([np.interp(centres, wavelengths_nm, pixel) for pixel in pixels.astype(np.float64)])
    # Noise around zero is no reflectance: darkest pixels are left out.
    spectra = spectra[spectra.mean(axis=1) > 0.1 * spectra.mean()]
    spectra = np.maximum(spectra, 0.02 * spectra.mean())
    angle = np.arccos(np.clip(_unit(spectra) @ _unit(spectra).T, -1.0, 1.0))
    chosen = [int(np.argmin(angle.mean(axis=1)))]
    while len(chosen) < min(ENDMEMBERS, len(spectra)):
        chosen.append(int(np.argmax(angle[chosen].min(axis=0))))
    found: Float64Array = spectra[chosen]
    found.setflags(write=False)
    return found


def material_spectra(rng: np.random.Generator, materials: int, bands: int, path: Path | None = None) -> Float64Array:
    """What a sensor sees of each material (materials, bands), crosstalk included, mean 1; the last is the target's.

    Each is a mixture of two or three endmembers. The target's is the first of a few draws that differs from all others by
    :data:`LEAST_ANGLE`, or the one that differs most.
    """
    endmembers = random_spectra(rng, ENDMEMBERS, bands) if path is None else cube_spectra(path, bands)
    seen = endmembers / endmembers.mean(axis=1, keepdims=True) @ crosstalk(bands).T
    background = np.stack([_mixture(rng, seen) for _ in range(materials - 1)])
    best, widest = background[0], -1.0
    for _ in range(16):
        candidate = _mixture(rng, seen)
        angle = float(np.arccos(np.clip(_unit(background) @ _unit(candidate[None]).T, -1.0, 1.0)).min())
        if angle > widest:
            best, widest = candidate, angle
        if widest >= LEAST_ANGLE:
            break
    return np.concatenate((background, best[None]))


def _mixture(rng: np.random.Generator, endmembers: Float64Array) -> Float64Array:
    parts = rng.choice(len(endmembers), int(rng.integers(2, 4)), replace=False)
    mixed = rng.dirichlet(np.full(len(parts), 0.6)) @ endmembers[parts]
    unit: Float64Array = mixed / mixed.mean()
    return unit


def _unit(spectra: Float64Array) -> Float64Array:
    unit: Float64Array = spectra / np.linalg.norm(spectra, axis=1, keepdims=True)
    return unit
