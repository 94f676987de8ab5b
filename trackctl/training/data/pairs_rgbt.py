"""Pairs of registered visible and thermal patches, made of grey ones.

Registered recordings of clear licence are hard to come by, so the two cameras are imitated: each shows the same patch through a
random tone curve of its own, the visible one also through random colours, and each with its own noise, blur and occlusions. In a
share of the pairs one camera sees little or nothing. [ours]

Shapes: S patch side. A pair is (4, S, S) uint8: blue, green, red, thermal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.geometry import CropSpec
from trackctl.runtime.sources.weather import TROUBLES, troubled
from trackctl.training.augment import Augment, AugmentSpec, Gray
from trackctl.training.data.store import FrameStore
from trackctl.training.pairs import Pairs, PairSpec


@dataclass(frozen=True, kw_only=True)
class CameraSpec:
    """How the two cameras differ.

    Attributes:
        knots: points of each tone curve.
        bend: standard deviation of the points from the straight line, share of the full range.
        invert: probability that a camera shows the scene's negative.
        tint: standard deviation of the logarithm of the gain of each colour.
        trouble: probability that one of the cameras is in trouble in the search patch.
        least: smallest strength of the trouble.
    """

    knots: int = 6
    bend: float = 0.16
    invert: float = 0.4
    tint: float = 0.2
    trouble: float = 0.5
    least: float = 0.4


class PairAugment(Augment):
    """Changes grey pairs into pairs of two cameras.

    Args:
        spec: probabilities and strengths for each camera.
        cameras: how they differ.
    """

    def __init__(self, spec: AugmentSpec, cameras: CameraSpec) -> None:
        super().__init__(replace(spec, invert=cameras.invert))
        self.cameras = cameras

    def __call__(
        self, template: Gray, search: Gray, box_xyxy: NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[Gray, Gray]:
        """The patches (4, S, S); arguments as in :class:`Augment`."""
        cameras = self.cameras
        shown = [self._camera(template, search, box_xyxy, rng) for _ in range(2)]
        gains = np.exp(cameras.tint * rng.standard_normal(3))
        visible = [_coloured(patch, gains) for patch in shown[0]]
        thermal = list(shown[1])
        if rng.random() < cameras.trouble:
            trouble = TROUBLES[int(rng.integers(len(TROUBLES)))]
            strength = rng.uniform(cameras.least, 1.0)
            if rng.random() < 0.5:
                visible[1] = troubled(visible[1], trouble, strength, rng)
            else:
                thermal[1] = troubled(thermal[1], trouble, strength, rng)
        first, second = (np.concatenate((v.transpose(2, 0, 1), t[None])) for v, t in zip(visible, thermal, strict=True))
        return first, second

    def _camera(self, template: Gray, search: Gray, box_xyxy: NDArray[np.float64], rng: np.random.Generator) -> tuple[Gray, Gray]:
        curve = tone_curve(self.cameras, rng)
        return super().__call__(cv2.LUT(template, curve), cv2.LUT(search, curve), box_xyxy, rng)


def tone_curve(spec: CameraSpec, rng: np.random.Generator) -> Gray:
    """A smooth curve (256,) uint8 near the straight one, not always rising: two kinds of light agree on edges, not on levels."""
    at = np.linspace(0.0, 255.0, spec.knots)
    levels = at + 255.0 * spec.bend * rng.standard_normal(spec.knots)
    curve = np.interp(np.arange(256.0), at, levels)
    smooth = cv2.GaussianBlur(curve[None], (0, 0), 256.0 / spec.knots / 3.0)[0]
    table: Gray = np.clip(smooth, 0.0, 255.0).astype(np.uint8)
    return table


def _coloured(patch: Gray, gains: NDArray[np.float64]) -> Gray:
    """(S, S, 3) of (S, S)."""
    colour: Gray = np.clip(patch[:, :, None] * gains.astype(np.float32), 0.0, 255.0).astype(np.uint8)
    return colour


class PairsRGBT(Pairs):
    """Draws pair number i of two cameras; ``template`` and ``search`` are (4, S, S) uint8.

    Args and errors as in :class:`Pairs`; ``cameras`` says how the two cameras differ.
    """

    def __init__(
        self,
        store: FrameStore,
        spec: PairSpec,
        crop: CropSpec,
        *,
        seed: int,
        held_out: frozenset[str] = frozenset(),
        cameras: CameraSpec | None = None,
    ) -> None:
        super().__init__(store, spec, crop, seed=seed, held_out=held_out)
        self.augment = PairAugment(spec.augment, cameras or CameraSpec())
