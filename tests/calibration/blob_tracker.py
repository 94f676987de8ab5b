"""A tracker without a network: the target is what is bright. Two FunctionEngines with the tensors of the contract."""

from __future__ import annotations

import itertools

import numpy as np

from trackctl.calibration.footage import Footage
from trackctl.runtime.contract import TensorSpec
from trackctl.runtime.engine import Engines, FunctionEngine
from trackctl.runtime.frame import Frame
from trackctl.runtime.geometry import Box, CropSpec
from trackctl.runtime.sources import Source

CROP = CropSpec()
SIDE = 16


class Blob(Source):
    """A bright square on black that moves by (3, 2) px a frame."""

    def __init__(self, count: int = 9) -> None:
        self.name, self.fps, self.frame_hw, self.count = "clips/blob/img", 25.0, (120, 160), count

    def box(self, index: int) -> Box:
        return Box(20.0 + 3 * index, 30.0 + 2 * index, SIDE, SIDE)

    def __iter__(self):
        for index in itertools.count() if self.count is None else range(self.count):
            pixels = np.zeros(self.frame_hw, dtype=np.uint8)
            left, top = int(self.box(index).left), int(self.box(index).top)
            pixels[top : top + SIDE, left : left + SIDE] = 200
            yield Frame(pixels, index * 40_000_000, index)

    def footage(self, frames: int | None = None) -> Footage:
        truth = np.array([self.box(index) for index in range(self.count)])
        return Footage(source=self, box=self.box(0), truth_ltwh=truth, frames=frames)


def blob_engines(*, shift_px: float = 0.0, gain: float = 1.0) -> Engines:
    """Engines that find the bright blob; ``shift_px`` misplaces it, ``gain`` scales the memory."""
    specs = {
        "template": TensorSpec("float32", (1, 3, 127, 127)),
        "search": TensorSpec("float32", (1, 3, 255, 255)),
        "state": TensorSpec("float32", (1, 6)),
        "level": TensorSpec("float32", (1, 1)),
    }
    outputs = {"next_state": (1, 6), "score": (1, 1), "quality": (1, 3), "cls": (1, 2, 1, 1), "loc": (1, 4, 1, 1)}

    def template(feeds):
        return {"level": feeds["template"].mean(axis=(1, 2, 3))[:, None] * np.float32(gain)}

    def search(feeds):
        patch, state = feeds["search"][0, 0], feeds["state"]
        scale = 127.0 / CROP.template_side_px(float(state[0, 2]), float(state[0, 3]))
        rows, columns = np.nonzero(patch > 100.0)
        found = np.array([columns.mean(), rows.mean()]) if len(rows) else np.full(2, 127.0)
        centre = (found + 0.5 - 127.5) / scale
        moved = state.copy()
        moved[0, :2] += centre + np.array([shift_px, 0.0])
        cls = np.array([[0.0, float(feeds["level"][0, 0])]]).reshape(1, 2, 1, 1)
        results = (moved, [[0.9]], [[9.0, 0.1, patch.std()]], cls, np.ones((1, 4, 1, 1)))
        return {name: np.array(value, dtype=np.float32) for name, value in zip(outputs, results, strict=True)}

    made = {name: TensorSpec("float32", shape) for name, shape in outputs.items()}
    return Engines(
        FunctionEngine(template, {"template": specs["template"]}, {"level": specs["level"]}),
        FunctionEngine(search, {name: specs[name] for name in ("search", "state", "level")}, made),
    )
