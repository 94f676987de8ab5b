"""Half precision as a property of the model, so that the exported graph is explicitly typed."""

from __future__ import annotations

import copy

from trackctl.training.model import TrackerModel


def half_core(model: TrackerModel) -> TrackerModel:
    """A copy whose Core computes in float16; Decode stays float32, and so do the graphs' inputs and outputs.

    So do the other parts that the model names in ``float32_parts``.

    Fold BatchNorm first: folded in float32, its running variance cannot overflow.
    """
    half = copy.deepcopy(model).half()
    for name in model.float32_parts:
        setattr(half, name, copy.deepcopy(getattr(model, name)))
    return half
