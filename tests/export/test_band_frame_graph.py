"""Frame graphs of hyperspectral frames: what they cut is what the host cuts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession
from torch import Tensor, nn

from trackctl.export.frame_graph import FrameFormat, export_frame_graph
from trackctl.export.graphs import Role, export_module
from trackctl.runtime.contract import BOX, FILL, FRAME, STATE_IN, STATE_OUT, TONE
from trackctl.runtime.crop import HostCrop, band_fill, band_tone
from trackctl.runtime.errors import InputError
from trackctl.runtime.frame import BandLayout, graph_frame
from trackctl.runtime.geometry import Box, CropSpec

CROP = CropSpec(template_size=31, search_size=63)
TARGET = Box(20.0, 12.0, 16.0, 10.0)
HW = (40, 56)


class Same(nn.Module):
    """The patch itself, as a Core that hides nothing."""

    def forward(self, patch: Tensor) -> Tensor:
        return patch + 0.0


@pytest.mark.parametrize(("layout", "role"), [("mosaic4c15u16", "search"), ("cube9u16", "template")])
def test_the_graph_cuts_the_patch_of_the_host(layout: str, role: Role) -> None:
    banded = BandLayout.parse(layout)
    assert banded is not None
    sensor, cell = banded.sensor(), banded.pattern or 1
    shape = (HW[0] * cell, HW[1] * cell) if banded.pattern else (*HW, banded.bands)
    pixels = np.random.default_rng(0).integers(0, 200, shape).astype(np.uint8 if banded.bits == 8 else np.uint16)
    planes = sensor.planes(pixels)
    dark, gain = np.full(banded.bands, 3.0, np.float32), np.linspace(0.8, 1.2, banded.bands, dtype=np.float32)
    fill, tone = band_fill(planes), band_tone(planes, dark, gain)
    form = FrameFormat.parse(f"{HW[1]}x{HW[0]}:{layout}")
    assert FrameFormat.parse(str(form)) == form
    feeds = {FRAME: graph_frame(pixels), TONE: np.concatenate(tone)[None]}
    state = np.array([[*TARGET.centre_xy, TARGET.width, TARGET.height, HW[1], HW[0]]], dtype=np.float32)
    size, name = (31, "memory") if role == "template" else (63, "cls")
    patch = export_module(Same(), {role: torch.zeros(1, banded.bands, size, size)}, (name,))
    graph = export_frame_graph(patch, role, CROP, form)
    session = InferenceSession(graph.SerializeToString())
    names = [port.name for port in session.get_outputs()]
    own = {BOX: np.array([TARGET], np.float32)} if role == "template" else {STATE_IN: state, FILL: np.float32([fill])}
    outputs = dict(zip(names, session.run(None, feeds | own), strict=True))
    side = CROP.template_side_px(TARGET.width, TARGET.height) * size / 31
    host = HostCrop(size, banded.bands).bands(planes, TARGET.centre_xy, side, fill, tone)
    assert np.abs(outputs[name] - host).max() < 0.1
    if role == "template":
        assert outputs[FILL].tolist() == [list(fill)]
        np.testing.assert_array_equal(outputs[STATE_OUT], state)
    readers = [node.op_type for node in graph.graph.node if FRAME in node.input]
    assert readers == ["Cast"]


@pytest.mark.parametrize("text", ["64x48:mosaic4c17u8", "64x48:mosaic3c9u8", "64x48:cube4u8", "64x48:cube16u12"])
def test_another_layout_of_bands_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="mosaic4c16u8"):
        FrameFormat.parse(text)
