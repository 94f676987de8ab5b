"""A search that looks near first: at the middle of the search window with a smaller graph, and at all of it only in need.

A target that was found moves little to the next frame. The near graph is the search graph of the patch's middle: the same
weights, the central response cells with the very window weights that they have in the whole. What it finds counts if it is sure
of it; else the whole window is searched in the same frame, so that nothing is lost but time. While the target is not TRACKING
the whole window is all that is searched.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from trackctl.runtime.confidence import ConfidenceSpec
from trackctl.runtime.contract import QUALITY, QUALITY_OUT, SCORE, SEARCH_PATCH, STATE_OUT, Array, TensorSpec
from trackctl.runtime.engine import Engine, EngineContext

_PSR = QUALITY.index("psr")


def middle(patch: Array, size: int) -> Array:
    """The central (..., size, size) of a patch, a view."""
    margin = (patch.shape[-1] - size) // 2
    return patch[..., margin : margin + size, margin : margin + size]


class NearFirst(EngineContext):
    """A search engine that asks a smaller one first, for one target or, in rows, for several.

    Its outputs are those that a tracker needs: the next state, the score and the quality; the maps have two sizes.

    Args:
        near: engine of the near graph.
        whole: engine of the search graph; both are closed with this one.
        confidence: ``near_score`` and ``sure_psr`` tell when a target is sure.

    Attributes:
        idle: (rows,) rows that nobody asks for.
    """

    def __init__(self, near: Engine, whole: Engine, confidence: ConfidenceSpec) -> None:
        self._near, self._whole, self._spec = near, whole, confidence
        self.name = whole.name
        self.inputs: Mapping[str, TensorSpec] = whole.inputs
        self.outputs: Mapping[str, TensorSpec] = {name: whole.outputs[name] for name in (STATE_OUT, SCORE, QUALITY_OUT)}
        self._patch = np.empty(near.inputs[SEARCH_PATCH].shape, dtype=np.float32)
        rows = len(self._patch)
        self.idle = np.zeros(rows, dtype=bool)
        self._tracking = np.ones(rows, dtype=bool)

    def told(self, tracking: bool, row: int = 0) -> None:
        """Whether a row's target is TRACKING; one that is not is looked for in the whole window alone."""
        self._tracking[row] = tracking

    def bind(self, tensors: Mapping[str, Array]) -> None:
        """Keep the memory of a target in both engines."""
        self._near.bind(tensors)
        self._whole.bind(tensors)

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """The outputs for a search patch and a state."""
        hopeful = self._tracking & ~self.idle
        if not hopeful.any():
            return self._whole.run(feeds)
        np.copyto(self._patch, middle(feeds[SEARCH_PATCH], self._patch.shape[-1]))
        near = self._near.run({**feeds, SEARCH_PATCH: self._patch})
        sure = hopeful & np.greater_equal(near[SCORE][:, 0], self._spec.near_score)
        sure &= np.greater_equal(near[QUALITY_OUT][:, _PSR], self._spec.sure_psr)
        if (sure | self.idle).all():
            return near
        whole = self._whole.run(feeds)
        if not sure.any():
            return whole
        return {name: np.where(sure[:, None], near[name], whole[name]) for name in self.outputs}

    def close(self) -> None:
        """Release both engines."""
        self._near.close()
        self._whole.close()
