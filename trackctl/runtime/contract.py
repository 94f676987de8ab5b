"""The constants shared by the host and the graphs: tensor names, the state vector, the quality vector.

They travel in every bundle's manifest; this module is where both sides take them from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.errors import EngineError

Array = NDArray[np.generic]

# State: float32 (1, 6). Box centre and size, then the frame's size, all in frame pixels.
STATE = ("centre_x", "centre_y", "width", "height", "frame_width", "frame_height")

# Quality: float32 (1, 3).
#   psr       peak-to-sidelobe ratio of the response: (peak - mean) / std of the cells away from the peak
#   second    highest foreground probability away from the peak, 0..1
#   contrast  standard deviation of the search patch, grey levels 0..255 scale
QUALITY = ("psr", "second", "contrast")

# A search patch flatter than this (grey levels, standard deviation) shows no target: a covered lens, a black frame.
BLANK_CONTRAST = 0.5

# Patch graphs.     template: TEMPLATE_PATCH [, RATE, PREVIOUS...] -> memory... [, kept...]
#                   search:   SEARCH_PATCH, STATE_IN, memory... -> STATE_OUT, SCORE, QUALITY_OUT, CLS, LOC
# Frame graphs.     template: FRAME, BOX [, TONE] [, RATE, PREVIOUS...] -> STATE_OUT, FILL, memory... [, kept...]
#                   search:   FRAME, STATE_IN, FILL [, TONE], memory... -> as the patch graph
TEMPLATE_PATCH = "template"  # float32 (1, C, 127, 127), 0..255
SEARCH_PATCH = "search"  # float32 (1, C, 255, 255), 0..255
FRAME = "frame"  # uint8: (H, W) gray8, (H, W, 3) bgr8, (H, W, 4) pair8, (H, W, 2) gray16 as little-endian low, high plane
BOX = "box"  # float32 (1, 4): left, top, width, height
FILL = "fill"  # float32 (1, C): the first frame's mean per channel, which fills the outside of the frame
TONE = "tone"  # float32 (1, 2): sensor counts mapped to 0 and 255 (gray16 only)
# A template that can be updated takes back what it gave: its kept tensors under PREVIOUS + name, blended at RATE.
RATE = "rate"  # float32 (1, 1): weight of the new features; 1 forgets the previous ones, as the first frame must
PREVIOUS = "previous."
STATE_IN = "state"
STATE_OUT = "next_state"
SCORE = "score"  # float32 (1, 1): foreground probability at the chosen cell, 0..1
QUALITY_OUT = "quality"  # float32 (1, 3), see QUALITY
CLS = "cls"  # float32 (1, 2A, N, N) raw class maps
LOC = "loc"  # float32 (1, 4A, N, N) raw box maps


@dataclass(frozen=True)
class TensorSpec:
    """Dtype (numpy name such as ``float32``) and static shape of one graph input or output."""

    dtype: str
    shape: tuple[int, ...]


def check_tensors(
    what: str, expected: Mapping[str, TensorSpec], got: Mapping[str, TensorSpec], *, extra_ok: bool = False
) -> None:
    """Return if ``got`` has the tensors of ``expected`` with the same dtypes and shapes.

    Raises:
        EngineError: naming the first tensor that differs.
    """
    for name, spec in expected.items():
        if name not in got:
            raise EngineError(f"{what} has no tensor {name!r}, it has {sorted(got)}: export the bundle again")
        if got[name] != spec:
            raise EngineError(
                f"{what}: tensor {name!r} is {got[name].dtype}{list(got[name].shape)}, "
                f"expected {spec.dtype}{list(spec.shape)}: export the bundle again"
            )
    if not extra_ok and (unknown := sorted(set(got) - set(expected))):
        raise EngineError(f"{what} has the unexpected tensors {unknown}, expected {sorted(expected)}: export the bundle again")
