"""The near graph: the search of the middle of the window alone (what it is for: trackctl/runtime/tracker.py)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx

from trackctl.runtime.contract import SEARCH_PATCH, Array
from trackctl.training.model import TrackerModel


def near_model(model: TrackerModel) -> TrackerModel:
    """A copy that searches a patch of the same scale, smaller by ``near_margin`` response cells on each side.

    Its cells are the central ones of the model's, with their window weights; so both find the same where the convolutions are
    valid ones, and nearly the same where they are padded.
    """
    near = copy.deepcopy(model)
    near.crop = replace(model.crop, search_size=model.crop.search_size - 2 * model.near_margin * model.decode.stride)
    near.decode.keep_central(model.near_margin)
    near.near_margin = 0
    return near


def near_feeds(graph: onnx.ModelProto, feeds: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
    """What the near graph would have met where the search graph met ``feeds``."""
    patch = next(value for value in graph.graph.input if value.name == SEARCH_PATCH)
    search_size = patch.type.tensor_type.shape.dim[-1].dim_value
    return [{**feed, SEARCH_PATCH: middle(feed[SEARCH_PATCH], search_size)} for feed in feeds]


def middle(patch: Array, size: int) -> Array:
    """The central (..., size, size) of a patch, a copy."""
    margin = (patch.shape[-1] - size) // 2
    cut: Array = patch[..., margin : margin + size, margin : margin + size].copy()
    return cut
