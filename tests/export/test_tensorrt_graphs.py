"""NVIDIA's own parser and builder take every graph that is exported, in every precision and for both cuts."""

from __future__ import annotations

import numpy as np
import pytest

from trackctl.export.frame_graph import FrameFormat, export_frame_graph
from trackctl.export.graphs import export_patch_graph, fold_batch_norm
from trackctl.export.initial import initial_model
from trackctl.export.int8 import quantise
from trackctl.export.near import near_feeds, near_model
from trackctl.export.precision import half_core
from trackctl.runtime.engines.tensorrt import build_engine
from trackctl.training.engine import example_inputs
from trackctl.training.zoo import MODELS

# What the cameras send, by the channels of a model's patches.
FORMS = {
    1: FrameFormat(frame_hw=(512, 640)),
    3: FrameFormat(frame_hw=(512, 640)),
    4: FrameFormat(frame_hw=(512, 640), layout="pair8"),
    16: FrameFormat(frame_hw=(272, 512), layout="mosaic4c16u8"),
    25: FrameFormat(frame_hw=(217, 409), layout="mosaic5c25u8"),
}


@pytest.fixture(scope="module", autouse=True)
def rtx():
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")


def all_graphs(name: str):
    """Graphs by file name, patch cut and frame cut; the template of an int8 bundle is that of fp32."""
    model = fold_batch_norm(initial_model(name))
    _, search = example_inputs(model)
    feed = {key: tensor.numpy() for key, tensor in search.items()}
    feed["search"] = np.random.default_rng(0).uniform(0, 255, feed["search"].shape).astype(np.float32)
    single = export_patch_graph(model, "search")
    yield from both_cuts("fp32", "search", single, model)
    yield from both_cuts("int8", "search", quantise(single, [feed], method="minmax"), model)
    yield from both_cuts("fp32", "template", export_patch_graph(model, "template"), model)
    half = half_core(model)
    for role in ("template", "search"):
        yield from both_cuts("fp16", role, export_patch_graph(half, role), model)
    if model.near_margin:
        near = export_patch_graph(near_model(model), "search")
        yield "fp32.near", near
        yield "int8.near", quantise(near, near_feeds(near, [feed]), method="minmax")
        yield "fp16.near", export_patch_graph(near_model(half), "search")


def both_cuts(precision: str, role: str, graph, model):
    yield f"{precision}.{role}", graph
    yield f"{precision}.{role}.frame", export_frame_graph(graph, role, model.crop, FORMS[model.channels])


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_graph_is_built(name, tmp_path):
    built = []
    for file, graph in all_graphs(name):
        path = tmp_path / f"{file}.onnx"
        path.write_bytes(graph.SerializeToString())
        assert build_engine("tensorrt_rtx", path, path.with_suffix(".engine")).size_bytes > 10_000
        path.unlink()
        path.with_suffix(".engine").unlink()
        built.append(file)
    assert len(built) == (13 if "fp32.near" in built else 10)


@pytest.mark.parametrize("layout", ["bgr8", "gray16"])
def test_every_layout_is_built(graphs, tiny, tmp_path, layout):
    for role in ("template", "search"):
        form = FrameFormat(frame_hw=(96, 128), layout=layout)
        path = tmp_path / f"{role}.onnx"
        path.write_bytes(export_frame_graph(graphs["fp16", role], role, tiny.crop, form).SerializeToString())
        assert build_engine("tensorrt_rtx", path, path.with_suffix(".engine")).size_bytes > 10_000
