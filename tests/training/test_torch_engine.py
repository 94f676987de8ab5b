"""A PyTorch model behind the Engine seam."""

from __future__ import annotations

import numpy as np
import torch

from trackctl.runtime.contract import TensorSpec
from trackctl.runtime.engine import Engine
from trackctl.runtime.tracker import Tracker
from trackctl.training.engine import torch_engines
from trackctl.training.model import SearchGraph
from trackctl.training.zoo import build


def test_its_tensors_are_those_of_the_contract():
    template, search = torch_engines(build("nanotrack-v3").train())
    memory = {
        "kernel_cls": TensorSpec("float32", (1, 64, 96)),
        "kernel_reg": TensorSpec("float32", (1, 64, 96)),
        "depthwise_cls": TensorSpec("float32", (1, 96, 4, 4)),
        "depthwise_reg": TensorSpec("float32", (1, 96, 4, 4)),
    }
    assert isinstance(template, Engine)
    assert template.inputs == {"template": TensorSpec("float32", (1, 3, 127, 127))}
    assert template.outputs == memory
    state = TensorSpec("float32", (1, 6))
    assert search.inputs == {"search": TensorSpec("float32", (1, 3, 255, 255)), "state": state, **memory}
    assert search.outputs == {
        "next_state": state,
        "score": TensorSpec("float32", (1, 1)),
        "quality": TensorSpec("float32", (1, 3)),
        "cls": TensorSpec("float32", (1, 2, 15, 15)),
        "loc": TensorSpec("float32", (1, 4, 15, 15)),
    }


def test_it_computes_what_the_model_computes_and_takes_read_only_arrays():
    model = build("nanotrack-v1")
    template, search = torch_engines(model)
    rng = np.random.default_rng(0)
    patch = rng.uniform(0, 255, (1, 3, 127, 127)).astype(np.float32)
    patch.setflags(write=False)
    memory = template.run({"template": patch})
    search.bind(memory)
    feeds = {"search": rng.uniform(0, 255, (1, 3, 255, 255)).astype(np.float32), "state": np.full((1, 6), 60.0, np.float32)}
    outputs = search.run(feeds)
    with torch.inference_mode():
        expected = SearchGraph(model)(*(torch.from_numpy(array) for array in (*feeds.values(), *memory.values())))
    for tensor, array in zip(expected, outputs.values(), strict=True):
        np.testing.assert_array_equal(array, tensor.numpy())


def test_it_drives_a_tracker():
    model = build("nanotrack-v2")
    frame = np.random.default_rng(0).integers(0, 255, (96, 128), dtype=np.uint8)
    with Tracker(*torch_engines(model), crop=model.crop) as tracker:
        assert tracker.engine_name == "pytorch"
        tracker.init(frame, (40, 30, 24, 18))
        assert np.isfinite(tracker.update(frame[::-1]).box).all()
