"""Pairs of hyperspectral cubes, made of grey ones.

Recordings of clear licence are lacking, so a cube is imitated: grey levels stand for materials, and each material has a random
smooth spectrum, the same in template and search. Bands then differ in what they separate, and a band matrix can rank them. [ours]

Shapes: S patch side, C bands. A pair is (C, S, S) uint8.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.geometry import CropSpec
from trackctl.training.augment import Augment, AugmentSpec, Gray
from trackctl.training.data.store import FrameStore
from trackctl.training.pairs import Pairs, PairSpec


@dataclass(frozen=True, kw_only=True)
class BandSpec:
    """How spectra vary.

    Attributes:
        materials: grey levels with a spectrum of their own; those between are mixtures.
        knots: independent points of a spectrum.
        spread: standard deviation of a spectrum's logarithm.
        noise: largest standard deviation of the noise of a band, grey levels.
    """

    materials: int = 5
    knots: int = 5
    spread: float = 0.35
    noise: float = 6.0


class BandAugment(Augment):
    """Changes grey pairs into cubes.

    Args:
        spec: probabilities and strengths of what happens to the grey patches before.
        bands: number of bands.
        spectra: how spectra vary.
    """

    def __init__(self, spec: AugmentSpec, bands: int, spectra: BandSpec) -> None:
        super().__init__(spec)
        self.bands, self.spectra = bands, spectra

    def __call__(
        self, template: Gray, search: Gray, box_xyxy: NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[Gray, Gray]:
        """The cubes (C, S, S); arguments as in :class:`Augment`."""
        template, search = super().__call__(template, search, box_xyxy, rng)
        curves = spectral_curves(self.spectra, self.bands, rng)
        strength = self.spectra.noise * rng.random() ** 2
        first, second = (
            np.stack([self.add_noise(cv2.LUT(patch, curve), strength, 1.0, rng) for curve in curves])
            for patch in (template, search)
        )
        return first, second


def spectral_curves(spec: BandSpec, bands: int, rng: np.random.Generator) -> Gray:
    """A table (C, 256) uint8: the level of every band for every grey level."""
    logs = spec.spread * rng.standard_normal((spec.materials, spec.knots))
    at_bands = np.linspace(0.0, spec.knots - 1.0, bands)
    smooth = np.stack([np.interp(at_bands, np.arange(spec.knots), row) for row in logs], axis=1)  # (C, materials)
    at_levels = np.linspace(0.0, spec.materials - 1.0, 256)
    mixed = np.stack([np.interp(at_levels, np.arange(spec.materials), row) for row in smooth])  # (C, 256)
    levels: Gray = np.clip(np.arange(256.0) * np.exp(mixed), 0.0, 255.0).astype(np.uint8)
    return levels


class PairsBands(Pairs):
    """Draws pair number i as cubes; ``template`` and ``search`` are (C, S, S) uint8.

    Args and errors as in :class:`Pairs`; ``bands`` is their number, ``spectra`` says how they vary.
    """

    def __init__(
        self,
        store: FrameStore,
        spec: PairSpec,
        crop: CropSpec,
        *,
        bands: int,
        seed: int,
        held_out: frozenset[str] = frozenset(),
        spectra: BandSpec | None = None,
    ) -> None:
        super().__init__(store, spec, crop, seed=seed, held_out=held_out)
        self.augment = BandAugment(spec.augment, bands, spectra or BandSpec())
