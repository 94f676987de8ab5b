"""Patch graphs compute what the model computes, in the form that every engine reads."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import InferenceSession
from tiny_tracker import TinyTracker
from torch import nn

from trackctl.export.graphs import anonymous, export_patch_graph, fold_batch_norm
from trackctl.training.engine import SEARCH_OUTPUTS, example_inputs
from trackctl.training.model import SearchGraph
from trackctl.training.zoo import build

LIGHT = ("dcfg-edge", "nanotrack-v1", "nanotrack-v2", "nanotrack-v3")
FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def ports(values) -> dict[str, tuple[int, tuple[int, ...]]]:
    return {v.name: (v.type.tensor_type.elem_type, tuple(d.dim_value for d in v.type.tensor_type.shape.dim)) for v in values}


def batch_norms(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]


def test_folding_leaves_only_the_norms_that_no_convolution_feeds(tiny):
    folded = fold_batch_norm(tiny)
    assert batch_norms(folded) == ["after_correlation.0", "after_correlation.1"]
    assert len(batch_norms(tiny)) == 9  # the original keeps its own


def test_folding_changes_nothing_that_can_be_seen(tiny, feeds):
    inputs = [torch.from_numpy(array) for array in feeds[0].values()]
    with torch.inference_mode():
        expected, got = (SearchGraph(model)(*inputs) for model in (tiny, fold_batch_norm(tiny)))
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-4)


class SharedNorm(TinyTracker):
    """One BatchNorm behind two convolutions, and one convolution before two BatchNorms."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.both = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)
        self.fork, self.first, self.second = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.BatchNorm2d(16)

    def features(self, patch):
        x = super().features(patch)
        x = self.both(self.left(x)) + self.both(self.right(x))
        x = self.fork(x)
        return self.first(x) + self.second(x)


def test_a_norm_that_cannot_be_folded_stays():
    left = {"both", "first", "second", "after_correlation.0", "after_correlation.1"}
    assert set(batch_norms(fold_batch_norm(SharedNorm()))) == left


@pytest.mark.parametrize("name", LIGHT)
def test_no_norm_is_left_in_a_light_model(name):
    assert batch_norms(fold_batch_norm(build(name))) == []


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_border_is_the_contract(tiny, graphs, precision):
    template, search = graphs[precision, "template"], graphs[precision, "search"]
    memory = {"z_cls": (FLOAT, (1, 16, 7, 7)), "z_loc": (FLOAT, (1, 16, 7, 7))}
    assert ports(template.graph.input) == {"template": (FLOAT, (1, 3, 127, 127))}
    assert ports(template.graph.output) == memory
    assert ports(search.graph.input) == {"search": (FLOAT, (1, 3, 255, 255)), "state": (FLOAT, (1, 6)), **memory}
    assert ports(search.graph.output) == {
        "next_state": (FLOAT, (1, 6)),
        "score": (FLOAT, (1, 1)),
        "quality": (FLOAT, (1, 3)),
        "cls": (FLOAT, (1, 2, 25, 25)),
        "loc": (FLOAT, (1, 4, 25, 25)),
    }
    for graph in (template, search):
        assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 18)]
        assert graph.ir_version == 9


def test_only_the_correlations_keep_their_norms(graphs):
    for (_, role), graph in graphs.items():
        constants = {tensor.name for tensor in graph.graph.initializer}
        producer = {name: node for node in graph.graph.node for name in node.output}
        norms = [node for node in graph.graph.node if node.op_type == "BatchNormalization"]
        assert len(norms) == (2 if role == "search" else 0)
        assert not any(producer[node.input[0]].input[1] in constants for node in norms)


@pytest.mark.parametrize("role", ["template", "search"])
def test_half_precision_is_typed(graphs, role):
    graph = graphs["fp16", role].graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    kinds |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert convolutions
    assert {kinds[name] for node in convolutions for name in node.input} == {FLOAT16}
    # Decode: softmax, square roots, the window.
    decode = [node for node in graph.node if node.op_type in ("Softmax", "Sqrt", "Clip") and node.output[0] in kinds]
    assert (role == "template") == (not decode)
    assert {kinds[node.output[0]] for node in decode if node.op_type != "Clip"} <= {FLOAT}
    half, full = (len(graphs[precision, role].SerializeToString()) for precision in ("fp16", "fp32"))
    assert half < full


def test_the_graph_computes_what_the_model_computes(tiny, graphs, feeds):
    template = InferenceSession(graphs["fp32", "template"].SerializeToString())
    search = InferenceSession(graphs["fp32", "search"].SerializeToString())
    patch = feeds[0]["search"][:, :, :127, :127].copy()
    with torch.inference_mode():
        memory = tiny.template(torch.from_numpy(patch))
    for expected, got in zip(memory, template.run(None, {"template": patch}), strict=True):
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=1e-4)
    for feed in feeds:
        with torch.inference_mode():
            expected = SearchGraph(tiny)(*map(torch.from_numpy, feed.values()))
        for name, a, b in zip(SEARCH_OUTPUTS, expected, search.run(None, feed), strict=True):
            np.testing.assert_allclose(b, a.numpy(), rtol=1e-4, atol=1e-4, err_msg=name)


def test_half_precision_stays_near(graphs, feeds):
    full, half = (InferenceSession(graphs[p, "search"].SerializeToString()) for p in ("fp32", "fp16"))
    for feed in feeds:
        expected, got = (dict(zip(SEARCH_OUTPUTS, session.run(None, feed), strict=True)) for session in (full, half))
        spread = np.abs(expected["cls"]).max()
        assert 0.0 < np.abs(got["cls"] - expected["cls"]).max() < 0.01 * spread
        np.testing.assert_allclose(got["loc"], expected["loc"], rtol=0.02)


def test_nothing_of_the_machine_stays_inside(graphs):
    for graph in graphs.values():
        content = graph.SerializeToString()
        for word in (b"pkg.torch", b"aten", b".py", str(Path.home()).encode(), str(Path.cwd()).encode()):
            assert word not in content
        assert (graph.producer_name, graph.producer_version) == ("trackctl", "")
        noted = [node for node in graph.graph.node if node.metadata_props or node.doc_string]
        assert not noted


@pytest.mark.slow
def test_another_process_exports_the_same_bytes(graphs):
    program = (
        "import sys, hashlib; sys.path.insert(0, sys.argv[1]); from tiny_tracker import tiny_tracker\n"
        "import torch; torch.set_num_threads(1)\n"
        "from trackctl.export.graphs import export_patch_graph, fold_batch_norm\n"
        "graph = export_patch_graph(fold_batch_norm(tiny_tracker()), 'search')\n"
        "print(hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest())"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent)]
    other = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "77"})
    assert other.stderr == ""
    own = graphs["fp32", "search"].SerializeToString(deterministic=True)
    assert other.stdout.strip() == hashlib.sha256(own).hexdigest()


def test_an_invalid_graph_is_refused(graphs):
    broken = onnx.ModelProto()
    broken.CopyFrom(graphs["fp32", "template"])
    broken.graph.node[0].input[0] = "nowhere"
    with pytest.raises(onnx.checker.ValidationError, match="nowhere"):
        anonymous(broken)


def test_export_leaves_logging_and_warnings_as_they_were(tiny, recwarn):
    import logging

    level = logging.getLogger("torch.onnx").level
    export_patch_graph(tiny, "template")
    assert logging.getLogger("torch.onnx").level == level
    assert not recwarn.list


def test_example_inputs_follow_the_graphs_order(tiny):
    template, search = example_inputs(tiny)
    assert list(template) == ["template"]
    assert list(search) == ["search", "state", "z_cls", "z_loc"]
