"""Graphs that several test files need, exported once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
import torch
from tiny_tracker import TinyTracker, tiny_tracker

from trackctl.calibration.footage import Footage
from trackctl.export.graphs import export_patch_graph, fold_batch_norm
from trackctl.export.precision import half_core
from trackctl.runtime.sources.synth import Synth, SynthSpec


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """A tracker this small loses more by waking threads than it gains."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny() -> TinyTracker:
    return tiny_tracker()


@pytest.fixture(scope="session")
def graphs(tiny) -> dict[tuple[str, str], onnx.ModelProto]:
    """By precision and role."""
    folded = fold_batch_norm(tiny)
    models = {"fp32": folded, "fp16": half_core(folded)}
    return {(name, role): export_patch_graph(model, role) for name, model in models.items() for role in ("template", "search")}


@pytest.fixture(scope="session")
def footage() -> Footage:
    source = Synth(SynthSpec(frames=12, size=(320, 256)))
    return Footage(source=source, box=source.initial_box, truth_ltwh=source.boxes_ltwh)


@pytest.fixture(scope="session")
def feeds(graphs) -> list[dict[str, np.ndarray]]:
    """Inputs of the search graph: blurred noise and the memory of another patch of it."""
    import cv2
    from onnxruntime import InferenceSession

    rng = np.random.default_rng(0)
    template = InferenceSession(graphs["fp32", "template"].SerializeToString())

    def patch(size: int) -> np.ndarray:
        gray = cv2.GaussianBlur(rng.uniform(0, 255, (size, size)).astype(np.float32), (0, 0), 3.0)
        gray = cv2.normalize(gray, None, 0.0, 255.0, cv2.NORM_MINMAX)
        return np.repeat(gray[None, None], 3, axis=1)

    state = np.array([[160.0, 128.0, 40.0, 30.0, 320.0, 256.0]], dtype=np.float32)
    memories = [dict(zip(("z_cls", "z_loc"), template.run(None, {"template": patch(127)}), strict=True)) for _ in range(4)]
    return [{"search": patch(255), "state": state, **memory} for memory in memories]
