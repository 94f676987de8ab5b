"""Int8 graphs: which convolutions are quantised, in which form, and how near they stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime import InferenceSession

from trackctl.export.int8 import last_convolutions, quantise, quantised_convolutions
from trackctl.runtime.errors import InputError

FLOAT, INT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT8


@pytest.fixture(scope="module")
def quantised(graphs, feeds) -> onnx.ModelProto:
    return quantise(graphs["fp32", "search"], feeds)


def channels_of(graph: onnx.ModelProto, names) -> list[tuple[int, ...]]:
    """Weight shapes of the convolutions of those names."""
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    return [weights[node.input[1]] for node in graph.graph.node if node.name in names]


def test_the_last_convolution_of_each_head_is_found_from_its_output(graphs):
    search = graphs["fp32", "search"]
    assert channels_of(search, last_convolutions(search, "cls")) == [(2, 16, 1, 1)]
    assert channels_of(search, last_convolutions(search, "loc")) == [(4, 16, 1, 1)]


def test_stem_depthwise_correlation_and_last_convolutions_are_left_alone(graphs):
    search = graphs["fp32", "search"]
    dense, residual, neck, head = (16, 8, 3, 3), (16, 16, 3, 3), (16, 16, 1, 1), (16, 16, 1, 1)
    assert channels_of(search, quantised_convolutions(search)) == [dense, residual, neck, head, head]
    assert sum(node.op_type == "Conv" for node in search.graph.node) == 11


def test_every_pair_is_symmetric_int8(quantised):
    constants = {tensor.name: tensor for tensor in quantised.graph.initializer}
    pairs = [node for node in quantised.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for node in pairs:
        scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input[1:])
        assert zero.dtype == np.int8
        assert not zero.any()
        assert scale.dtype == np.float32
        assert (scale > 0).all()
    assert {entry.domain for entry in quantised.opset_import} == {""}
    assert {entry.version for entry in quantised.opset_import} == {18}


def test_a_quantised_convolution_reads_pairs_and_keeps_its_float_bias(graphs, quantised):
    names = set(quantised_convolutions(graphs["fp32", "search"]))
    constants = {tensor.name: tensor for tensor in quantised.graph.initializer}
    producer = {name: node for node in quantised.graph.node for name in node.output}
    for node in quantised.graph.node:
        if node.op_type != "Conv":
            continue
        dequantised = [producer[name].op_type == "DequantizeLinear" for name in node.input[:2] if name in producer]
        assert (dequantised == [True, True]) == (node.name in names)
        if node.name in names:
            data, weights = (producer[name] for name in node.input[:2])
            assert producer[data.input[0]].op_type == "QuantizeLinear"
            assert constants[weights.input[0]].data_type == INT8
            assert tuple(constants[weights.input[1]].dims) == (constants[weights.input[0]].dims[0],)  # per channel
            assert constants[node.input[2]].data_type == FLOAT


def test_quantising_leaves_its_argument_alone_and_is_repeatable(graphs, feeds, quantised):
    graph = graphs["fp32", "search"]
    before = graph.SerializeToString(deterministic=True)
    again = quantise(graph, feeds)
    assert graph.SerializeToString(deterministic=True) == before
    assert again.SerializeToString(deterministic=True) == quantised.SerializeToString(deterministic=True)


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_each_method_stays_near_the_float_graph(graphs, feeds, method, capfd):
    graph = quantise(graphs["fp32", "search"], feeds, method=method)
    assert capfd.readouterr() == ("", "")
    sessions = [InferenceSession(model.SerializeToString()) for model in (graphs["fp32", "search"], graph)]
    for feed in feeds:
        (cls, loc), (cls8, loc8) = (session.run(["cls", "loc"], feed) for session in sessions)
        assert 0.0 < np.abs(cls8 - cls).max() < 0.1 * np.abs(cls).max()
        assert np.abs(loc8 / loc - 1.0).max() < 0.25


def test_ranges_come_from_the_feeds(graphs, feeds, quantised):
    """The same graph with darker patches has a smaller input scale."""
    dark = [{**feed, "search": feed["search"] * 0.25 + 96.0} for feed in feeds]
    scales = [
        {
            tensor.name: float(numpy_helper.to_array(tensor))
            for tensor in model.graph.initializer
            if tensor.name.endswith("_scale") and not tensor.dims
        }
        for model in (quantised, quantise(graphs["fp32", "search"], dark))
    ]
    assert scales[0].keys() == scales[1].keys()
    assert len(scales[0]) == 5
    first = next(iter(scales[0]))
    assert scales[1][first] < 0.7 * scales[0][first]


def test_nothing_to_calibrate_on_is_refused(graphs):
    with pytest.raises(InputError, match="got no calibration inputs"):
        quantise(graphs["fp32", "search"], [])


def test_an_unknown_method_is_refused(graphs, feeds):
    with pytest.raises(InputError, match="got the calibration method 'kl', expected one of minmax, entropy, percentile"):
        quantise(graphs["fp32", "search"], feeds, method="kl")
