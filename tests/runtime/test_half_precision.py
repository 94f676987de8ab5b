"""OpenVINO computes an fp16 bundle in bfloat16 and still knows where the box is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from tiny_graphs import STATE
from torch import nn

from trackctl.export.graphs import export_patch_graph
from trackctl.runtime.contract import TensorSpec
from trackctl.runtime.engines.openvino import OpenVinoEngine, load_openvino
from trackctl.runtime.geometry import CropSpec
from trackctl.training.decode import AnchorDecode, DecodeSpec
from trackctl.training.model import SearchGraph, TrackerModel

INPUTS = {
    "search": TensorSpec("float32", (1, 3, 255, 255)),
    "state": TensorSpec("float32", (1, 6)),
    "kernel": TensorSpec("float32", (1, 16, 7, 7)),
}
OUTPUTS = ("next_state", "score", "quality", "cls", "loc")


def opened(graph, outputs):
    return OpenVinoEngine.open(graph, expected_inputs=INPUTS, expected_outputs=outputs, threads=1, precision="fp16")


def has_bfloat16() -> bool:
    return "BF16" in load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class Core(TrackerModel):
    """A convolutional tracker with SiamRPN's maps, small enough to export in seconds."""

    memory_names = ("kernel",)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.crop = CropSpec()
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 7, 4), nn.ReLU(), nn.Conv2d(16, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 16, 1))
        self.cls, self.loc = nn.Conv2d(16, 10, 1), nn.Conv2d(16, 20, 1)
        self.decode = AnchorDecode(self.crop, DecodeSpec(penalty_k=0.05, window=0.42, lr=0.38), cells=25)

    def template(self, patch):
        return (self.layers(patch / 128)[:, :, 4:11, 4:11].contiguous(),)

    def search(self, patch, memory):
        response = nn.functional.conv2d(self.layers(patch / 128), memory[0].reshape(16, 1, 7, 7), groups=16)
        return self.cls(response), self.loc(response)


@pytest.mark.slow
def test_half_precision_stops_before_decode(tmp_path):
    """A core in half precision, coordinates in float32: bfloat16 would move a box at x = 3071 by up to 8 px."""
    model = Core().eval()
    generator = torch.Generator().manual_seed(1)
    patch = torch.rand(1, 3, 255, 255, generator=generator) * 255
    with torch.inference_mode():
        memory = model.template(torch.rand(1, 3, 127, 127, generator=generator) * 255)
        expected = SearchGraph(model)(patch, torch.from_numpy(STATE), *memory)
        model.layers.half(), model.cls.half(), model.loc.half()
        graph = tmp_path / "half.onnx"
        onnx.save(export_patch_graph(model, "search"), graph)
    outputs = {name: TensorSpec("float32", tuple(tensor.shape)) for name, tensor in zip(OUTPUTS, expected, strict=True)}
    with opened(graph, outputs) as engine:
        assert engine.name == ("openvino bf16 x1" if has_bfloat16() else "openvino f32 x1")
        got = engine.run({"search": patch.numpy(), "state": STATE, "kernel": memory[0].numpy()})
    cls_error = np.abs(got["cls"] - expected[3].numpy()).max()
    assert cls_error < 0.05
    if has_bfloat16():
        assert cls_error > 1e-5  # so the Core really ran in bfloat16
    np.testing.assert_allclose(got["next_state"], expected[0].numpy(), atol=0.1)
    # The frame's size passes through Decode untouched, and 4095 needs 12 bits.
    odd = STATE.copy()
    odd[0, 4:] = 4095.0, 2161.0
    with opened(graph, outputs) as engine:
        got = engine.run({"search": patch.numpy(), "state": odd, "kernel": memory[0].numpy()})
    assert got["next_state"][0, 4:].tolist() == [4095.0, 2161.0]
