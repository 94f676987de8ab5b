"""Training pairs from rendered hyperspectral scenes, in which the target often differs from its background in its spectrum alone.

The scenes are those of ``synth:hsi``; the patches are cut by the deployed crop. A pair is determined by the seed and its number.

Shapes: C bands, Z template side, X search side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.contract import Array
from trackctl.runtime.crop import HostCrop, band_fill, band_tone, frame_fill
from trackctl.runtime.errors import InputError
from trackctl.runtime.false_colour import Luminance, PrincipalComponents
from trackctl.runtime.frame import BGR8
from trackctl.runtime.geometry import Box, CropSpec
from trackctl.runtime.sensor import Float32Array, Sensor
from trackctl.runtime.sources.hsi_scenes import Stage
from trackctl.runtime.sources.spectra import material_spectra
from trackctl.runtime.sources.synth_hsi import Lift, noise_field
from trackctl.runtime.sources.synth_scene import TARGETS
from trackctl.training.pairs import Pair

View = Literal["bands", "luminance", "pca"]

# Every so many-th pixel of the template's frame measures its mean and its scale.
_SAMPLE = 4


@dataclass(frozen=True, kw_only=True)
class SpectralSpec:
    """How pairs are drawn. All values are [ours]; shifts are in patch px and as in :class:`trackctl.training.pairs.PairSpec`.

    Attributes:
        bands: C.
        view: ``bands``; for comparison ``luminance`` (C channels, each the mean of all) and ``pca`` (3 channels).
        equal: share of the pairs whose target has the background's luminance.
        negatives: share of pairs whose search shows an object of the same shape and another spectrum.
        worlds: different worlds.
        size: width and height of the frames, px.
        search_shift, template_shift: largest offset of the target from the patch centre.
        search_scale: smallest and largest factor of the target's size in the search patch.
        spectra: a cube with wavelengths to take spectra from; None for random ones.

    Raises:
        InputError: there is no such view.
    """

    bands: int = 16
    view: View = "bands"
    equal: float = 0.7
    negatives: float = 0.2
    worlds: int = 32
    size: tuple[int, int] = (320, 256)
    search_shift: float = 64.0
    template_shift: float = 4.0
    search_scale: tuple[float, float] = (0.75, 1.33)
    spectra: Path | None = None

    def __post_init__(self) -> None:
        if self.view not in get_args(View):
            raise InputError(f"got the view {self.view!r}, expected one of {', '.join(get_args(View))}")


class SpectralPairs:
    """Draws pair number i, for any i: template (C, Z, Z) and search (C, X, X) uint8.

    Args:
        spec: how pairs are drawn.
        crop: crop constants, those of the deployed tracker.
        seed: of all choices, >= 0.
    """

    def __init__(self, spec: SpectralSpec, crop: CropSpec, *, seed: int) -> None:
        self.spec, self.crop, self.seed = spec, crop, seed
        self._channels = 3 if spec.view == "pca" else spec.bands
        self._sensor = Sensor(positions=spec.bands)
        self._noise = noise_field(np.random.default_rng((seed, spec.worlds)))
        # The worlds take a third of a second each, and are made when they are first drawn.
        self._stage = lru_cache(maxsize=None)(self._make_stage)

    def _make_stage(self, number: int) -> Stage:
        return Stage(np.random.default_rng((self.seed, 1, number)), self.spec.size, TARGETS[number % len(TARGETS)])

    def __getitem__(self, number: int) -> Pair:
        """Pair ``number`` >= 0, the same for the same seed."""
        rng = np.random.default_rng((self.seed, 0, number))
        spec = self.spec
        stage = self._stage(int(rng.integers(spec.worlds)))
        equal, positive = bool(rng.random() < spec.equal), bool(rng.random() >= spec.negatives)
        width, height = spec.size
        spectra = material_spectra(rng, stage.materials, spec.bands, spec.spectra)
        # Materials of another scene lend their target's spectrum to what is shown in place of the target.
        other = spectra if positive else np.concatenate((spectra[:-1], material_spectra(rng, 2, spec.bands, spec.spectra)[1:]))
        camera = rng.uniform(-1.0, 1.0, 3) * (0.25 * width, 0.08 * height, 1.0)
        tall = float(np.exp(rng.uniform(np.log(0.07), np.log(0.32)))) * height
        phase = int(rng.integers(16))
        looks = []
        for materials, drift in ((spectra, 0.0), (other, 1.0)):
            centre = rng.uniform(0.12, 0.88, 2) * spec.size
            own_height = tall * float(np.exp(drift * rng.uniform(-0.25, 0.25)))
            own_phase = phase + int(drift * rng.integers(16))
            own_camera = camera + drift * rng.normal(0.0, 1.0, 3) * (8.0, 4.0, 0.3)
            layers = stage.look(own_camera, own_phase, centre, own_height, equal=equal)
            box = Box(*stage.sprites[own_phase % 16].box_ltwh(centre, own_height).tolist())
            looks.append((layers, Lift(self._noise, materials), box))
        (layers, lift, box), _ = looks
        sample = lift(np.ascontiguousarray(layers[0][::_SAMPLE, ::_SAMPLE]), layers[1][::_SAMPLE, ::_SAMPLE], rng)
        cut = _Cut(self.spec.view, self._sensor, sample, self._channels)
        patches = []
        for (layers, lift, box), size, role in zip(looks, (self.crop.template_size, self.crop.search_size), (0, 1), strict=True):
            low, high = np.log(spec.search_scale) if role else (-0.05, 0.05)
            scale = float(np.exp(rng.uniform(low, high)))
            side = self.crop.template_side_px(box.width, box.height) * size / self.crop.template_size / scale
            # Half of the search patches near the centre, half anywhere within reach (SiamRPN++, section 3.1).
            reach = spec.search_shift * (0.375 if rng.random() < 0.5 else 1.0) if role else spec.template_shift
            shift = rng.uniform(-reach, reach, 2) * side / size
            centre_xy = (box.centre_xy[0] - shift[0], box.centre_xy[1] - shift[1])
            patches.append(cut(layers, lift, rng, centre_xy, side, size))
        corner = np.array(centre_xy) - side / 2
        edges = np.array([box.left, box.top, box.left + box.width, box.top + box.height])
        box_xyxy = (edges - np.tile(corner, 2)) * (size / side)
        return Pair(patches[0], patches[1], box_xyxy, positive)


class _Cut:
    """Lifts the window of a patch and crops it as the tracker does, on the scale of the template's frame."""

    def __init__(self, view: View, sensor: Sensor, sample: Array, channels: int) -> None:
        self._convert: Callable[[Array], Array] | None = None
        if view != "bands":
            self._convert = PrincipalComponents(sensor) if view == "pca" else Luminance(sensor)
            sample = self._convert(sample)
        self._sensor, self._channels, self._colour = sensor, channels, view == "pca"
        if self._colour:
            self._fill = frame_fill(sample)
        else:
            planes = sensor.planes(sample)
            self._fill, self._tone = band_fill(planes), band_tone(planes, sensor.band_dark, sensor.band_gain)

    def __call__(
        self,
        layers: tuple[Float32Array, Float32Array],
        lift: Lift,
        rng: np.random.Generator,
        centre_xy: tuple[float, float],
        side_px: float,
        size: int,
    ) -> NDArray[np.uint8]:
        luminance, shares = layers
        limits = luminance.shape[1], luminance.shape[0]
        low = [min(max(0, int(centre - side_px / 2) - 2), limit - 1) for centre, limit in zip(centre_xy, limits, strict=True)]
        high = [
            max(first + 1, min(limit, int(c + side_px / 2) + 3)) for c, limit, first in zip(centre_xy, limits, low, strict=True)
        ]
        window = np.s_[low[1] : high[1], low[0] : high[0]]
        pixels = lift(np.ascontiguousarray(luminance[window]), shares[window], rng)
        if self._convert is not None:
            pixels = self._convert(pixels)
        inside = (centre_xy[0] - low[0], centre_xy[1] - low[1])
        crop = HostCrop(size, self._channels)
        if self._colour:
            patch = crop(pixels, BGR8, inside, side_px, self._fill)
        else:
            patch = crop.bands(self._sensor.planes(pixels), inside, side_px, self._fill, self._tone)
        levels: NDArray[np.uint8] = np.rint(patch[0]).astype(np.uint8)
        return levels
