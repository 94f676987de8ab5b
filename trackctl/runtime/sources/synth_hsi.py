"""An honest substitute for hyperspectral video: a scene without spectra, lifted to many bands. For tests, demos and measuring.

    synth:hsi?frames=120&size=320x256&seed=0&bands=16&target=vehicle&luminance=equal&form=mosaic&depth=10&spectra=CUBE.mat
    synth:hsi?clip=FOLDER_OR_VIDEO&boxes=FILE.txt&bands=25

Each pixel is luminance x the mixture of the spectra of the materials that it shows, with crosstalk between neighbouring bands,
shot and read noise. The scene is rendered, or a real annotated clip (``boxes``: left, top, width, height per line). Materials
are clusters of brightness (rendered) or colour (clip); each has a spectrum mixed from smooth random curves, or from pixels of
the real cube ``spectra``. With ``luminance=equal`` the target differs from what is behind it in its spectrum alone: a rendered
one has the background's luminance at every pixel, that of a clip the mean and deviation of its surroundings. A mosaic samples
all bands at the same place, unlike a real one. All numbers are [ours].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from trackctl.runtime.contract import Array
from trackctl.runtime.errors import SourceError
from trackctl.runtime.geometry import Box, Float64Array
from trackctl.runtime.sensor import LEAST_BANDS, Float32Array, Sensor, mosaic_of
from trackctl.runtime.sources import DEFAULT_FPS, Recording
from trackctl.runtime.sources.options import matched, rendered_options
from trackctl.runtime.sources.spectra import band_centres, material_spectra
from trackctl.runtime.sources.synth_scene import TARGETS

LUMINANCES, FORMS = ("natural", "equal"), ("cube", "mosaic")
# Patterns by number of bands; 15 is the 4 x 4 mosaic whose last position shows nothing.
MOSAICS = {15: 4, 16: 4, 25: 5}

# Share of the full scale that a spectrum's mean reaches at luminance 1: leaves room for its peaks.
EXPOSURE = 0.4
# Deviation of the noise in units of that mean: sqrt(READ**2 + SHOT**2 * signal).
READ, SHOT = 0.006, 0.02


@dataclass(frozen=True, kw_only=True)
class SynthHsiSpec:
    """What to make.

    Attributes:
        frames: number of frames; a clip may end earlier.
        size: width and height of the rendered cube, px.
        seed: of the scene, the spectra and the noise.
        bands: number of bands.
        target: what is rendered: ``vehicle``, ``person`` or ``drone``.
        luminance: ``natural``, or ``equal`` for a target that differs from its background in its spectrum alone.
        form: ``cube`` (H, W, bands) or ``mosaic``.
        depth: bits of the counts, 8 (uint8) to 16 (uint16).
        spectra: a cube with wavelengths to take spectra from; None for random ones.
        clip: video or folder of images to lift; None renders a scene.
        boxes: the clip's annotation.
    """

    frames: int = 120
    size: tuple[int, int] = (320, 256)
    seed: int = 0
    bands: int = 16
    target: str = "vehicle"
    luminance: str = "natural"
    form: str = "cube"
    depth: int = 8
    spectra: Path | None = None
    clip: Path | None = None
    boxes: Path | None = None

    def __post_init__(self) -> None:
        width, height = self.size
        if self.frames < 1:
            raise SourceError(f"synth:hsi: got frames={self.frames}, expected at least 1")
        if not (64 <= width <= 2048 and 64 <= height <= 2048):
            raise SourceError(f"synth:hsi: got size={width}x{height}, expected 64x64 to 2048x2048")
        if not LEAST_BANDS <= self.bands <= 256:
            raise SourceError(f"synth:hsi: got bands={self.bands}, expected {LEAST_BANDS} to 256")
        if not 8 <= self.depth <= 16:
            raise SourceError(f"synth:hsi: got depth={self.depth}, expected 8 to 16")
        for name, known in (("target", TARGETS), ("luminance", LUMINANCES), ("form", FORMS)):
            if getattr(self, name) not in known:
                raise SourceError(f"synth:hsi: got {name}={getattr(self, name)}, expected one of {', '.join(known)}")
        if self.form == "mosaic" and self.bands not in MOSAICS:
            raise SourceError(f"synth:hsi: got a mosaic of {self.bands} bands, expected one of {', '.join(map(str, MOSAICS))}")
        if (self.clip is None) != (self.boxes is None):
            raise SourceError("synth:hsi: got one of clip and boxes, expected both: the target's boxes tell where it is")

    @classmethod
    def parse(cls, text: str) -> SynthHsiSpec:
        """The spec written as ``?frames=120&bands=16``; what is not named keeps its default.

        Raises:
            SourceError: an option is unknown, given twice or malformed.
        """
        options = rendered_options(text, [field.name for field in fields(cls)], "synth:hsi", "?bands=16")
        values = {name: _parse_value(name, value) for name, value in options.items()}
        return cls(**values)  # type: ignore[arg-type]


def _parse_value(name: str, value: str) -> object:
    if name in ("target", "luminance", "form"):
        return value
    if name in ("spectra", "clip", "boxes"):
        return Path(value).expanduser()
    form, example = (r"(\d+)x(\d+)", "320x256") if name == "size" else (r"(\d+)", "16")
    match = matched("synth:hsi", name, value, form, example)
    numbers = tuple(int(group) for group in match.groups())
    return numbers if name == "size" else numbers[0]


class Scene(Protocol):
    """What is lifted.

    Attributes:
        boxes_ltwh: (N, 4) the target in each frame.
        materials: how many there are, the target's last.
    """

    boxes_ltwh: Float64Array
    materials: int

    def layers(self) -> Iterator[tuple[Float32Array, Float32Array]]:
        """Per frame the luminance (H, W) in 0..1 and the share of each material (H, W, materials), which sum to 1."""


def noise_field(rng: np.random.Generator) -> Float32Array:
    """Normal noise; entered at another place for each frame, it is 20 times cheaper than new noise."""
    return rng.standard_normal(1 << 20, dtype=np.float32)


class Lift:
    """Turns luminance and materials into counts of a sensor with bands.

    Args:
        noise: of :func:`noise_field`.
        spectra: (materials, bands), mean 1 each.
        depth: bits of the counts.
    """

    def __init__(self, noise: Float32Array, spectra: Float64Array, depth: int = 8) -> None:
        self.spectra = spectra.astype(np.float32)
        self._top = 2**depth - 1
        self._dtype = np.uint8 if depth == 8 else np.uint16
        self._noise = noise

    def radiance(self, luminance: Float32Array, shares: Float32Array) -> Float32Array:
        """(H, W, bands) without noise; its mean over the bands is the luminance."""
        seen: Float32Array = (shares.reshape(-1, shares.shape[2]) @ self.spectra).reshape(*luminance.shape, -1)
        seen *= luminance[:, :, None]
        return seen

    def __call__(self, luminance: Float32Array, shares: Float32Array, entry: np.random.Generator) -> Array:
        """Counts (H, W, bands) with noise; ``entry`` says which."""
        signal = self.radiance(luminance, shares)
        start = int(entry.integers(len(self._noise)))
        noise = np.take(self._noise, np.arange(start, start + signal.size), mode="wrap").reshape(signal.shape)
        signal += noise * np.sqrt(np.float32(READ**2) + np.float32(SHOT**2) * signal)
        signal *= np.float32(EXPOSURE * self._top)
        return np.clip(np.rint(signal, out=signal), 0, self._top).astype(self._dtype)


class SynthHsi(Recording):
    """The made clip. Frame k depends on the spec and k alone, so that it can be played again.

    Args:
        spec: what to make.
        fps: None means 25.
        loop: play without end.

    Attributes:
        spec: as given.
        boxes_ltwh: float64 (N, 4), the target in cube pixels; NaN where it is not annotated.
    """

    def __init__(self, spec: SynthHsiSpec, *, fps: float | None = None, loop: bool = False) -> None:
        from trackctl.runtime.sources.hsi_scenes import ClipScene, RenderedScene

        self.spec = spec
        self._scene: Scene
        if spec.clip is not None and spec.boxes is not None:
            self._scene = ClipScene(spec.clip, spec.boxes, spec.frames, spec.seed, equal=spec.luminance == "equal")
        else:
            rng = np.random.default_rng([spec.seed, TARGETS.index(spec.target)])
            self._scene = RenderedScene(rng, spec.size, spec.target, spec.frames, equal=spec.luminance == "equal")
        rng = np.random.default_rng([spec.seed, 1])
        spectra = material_spectra(rng, self._scene.materials, spec.bands, spec.spectra)
        self._lift = Lift(noise_field(rng), spectra, spec.depth)
        self.boxes_ltwh = self._scene.boxes_ltwh[: spec.frames]
        centres = tuple(band_centres(spec.bands).round(3).tolist())
        pattern = MOSAICS[spec.bands] if spec.form == "mosaic" else None
        positions = spec.bands if pattern is None else pattern**2
        dead = tuple(range(spec.bands, positions))
        centres += tuple(centres[-1] for _ in dead)
        sensor = Sensor(positions=positions, pattern=pattern, dead=dead, wavelengths_nm=centres)
        self._pattern = pattern
        name = f"synth:hsi {spec.target if spec.clip is None else spec.clip.name}, {spec.bands} bands, seed {spec.seed}"
        rate = DEFAULT_FPS if fps is None else fps
        super().__init__(name, next(self._pixels()), count=len(self.boxes_ltwh), fps=rate, loop=loop, sensor=sensor)

    @property
    def initial_box(self) -> Box:
        """The target's box in frame 0."""
        return Box(*self.boxes_ltwh[0].tolist())

    def _pixels(self) -> Iterator[Array]:
        for index, (luminance, shares) in enumerate(islice(self._scene.layers(), len(self.boxes_ltwh))):
            cube = self._lift(luminance, shares, np.random.default_rng([self.spec.seed, 2, index]))
            yield cube if self._pattern is None else mosaic_of(cube, self._pattern)
