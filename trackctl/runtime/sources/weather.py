"""What takes the sight of one camera of a pair: darkness, fog, a covered lens."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Trouble = Literal["dark", "fog", "blank"]
TROUBLES: tuple[Trouble, ...] = ("dark", "fog", "blank")

# All [ours], grey levels: what is left of the light in the dark, the fog's own level, a covered lens, and the noise of gain.
LEAST_LIGHT, FOG_LEVEL, FOG_BLUR_SHARE, COVERED_LEVEL, NOISE = 0.04, 190.0, 0.012, 16, 2.5

Uint8Array = NDArray[np.uint8]


def troubled(pixels: Uint8Array, trouble: Trouble, strength: float, rng: np.random.Generator) -> Uint8Array:
    """The pixels as the camera delivers them in trouble, same shape.

    Args:
        pixels: (H, W) or (H, W, 3) uint8.
        trouble: ``dark`` leaves a small share of the light, ``fog`` a blurred rest of the contrast, ``blank`` nothing at all.
        strength: 0 (none) to 1; ``blank`` is whole at any strength above 0.
        rng: source of the noise.
    """
    if strength <= 0.0:
        return pixels
    if trouble == "blank":
        return np.full_like(pixels, COVERED_LEVEL)
    if trouble == "dark":
        light = LEAST_LIGHT**strength  # even steps of exposure
        seen = pixels * np.float32(light)
    else:
        sigma = FOG_BLUR_SHARE * strength * max(pixels.shape[:2])
        veil = 0.95 * strength
        seen = cv2.GaussianBlur(pixels, (0, 0), max(sigma, 0.3)) * np.float32(1.0 - veil) + np.float32(veil * FOG_LEVEL)
    noise = rng.standard_normal(pixels.shape[:2], dtype=np.float32) * np.float32(NOISE * strength)
    seen = seen + (noise if pixels.ndim == 2 else noise[:, :, None])
    levels: Uint8Array = np.clip(np.rint(seen), 0, 255).astype(np.uint8)
    return levels
