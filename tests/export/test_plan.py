"""Layers, the graph with some of them in float, the search for the fewest, and the choice."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime import InferenceSession

from trackctl.calibration.sensitivity import StepDrift
from trackctl.export.int8 import quantise, quantised_convolutions
from trackctl.export.layers import Layer, layers_of, with_float
from trackctl.export.plan import Candidate, DriftBudget, LayerDrift, choose, fewest, most_hurtful
from trackctl.export.plan_report import sensitivity_chart
from trackctl.runtime.errors import InputError


@pytest.fixture(scope="module")
def search(graphs) -> onnx.ModelProto:
    return graphs["fp32", "search"]


@pytest.fixture(scope="module")
def quantised(search, feeds) -> onnx.ModelProto:
    return quantise(search, feeds)


def layer(name: str, work: int = 1) -> Layer:
    return Layer(name=name, convolutions=(name,), multiply_adds=work)


def drift(boxes: float, maps: float = 0.0) -> StepDrift:
    return StepDrift(boxes=boxes, worst=boxes, maps=maps)


def test_layers_are_called_as_in_the_model_and_know_their_work(search):
    layers = layers_of(search)
    assert [found.name for found in layers] == ["dense", "residual", "neck", "heads.0.0", "heads.1.0"]
    assert [found.multiply_adds for found in layers] == [
        64 * 64 * 8 * 16 * 9,
        32 * 32 * 16 * 16 * 9,
        32 * 32 * 16 * 16,
        *[25 * 25 * 16 * 16] * 2,
    ]
    assert [name for found in layers for name in found.convolutions] == quantised_convolutions(search)


def test_many_convolutions_are_taken_block_by_block(search):
    blocks = layers_of(search, most=2)
    assert sum(found.multiply_adds for found in blocks) == sum(found.multiply_adds for found in layers_of(search))
    assert {name for found in blocks for name in found.convolutions} == set(quantised_convolutions(search))


def test_all_layers_in_float_is_the_float_graph(search, quantised, feeds):
    mixed = with_float(quantised, search, layers_of(search))
    assert not [node for node in mixed.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(mixed.graph.initializer) == len(search.graph.initializer)
    run = [InferenceSession(graph.SerializeToString()).run(["cls", "loc"], feeds[0]) for graph in (search, mixed)]
    for one, other in zip(*run, strict=True):
        np.testing.assert_array_equal(one, other)


def test_no_layer_in_float_is_the_int8_graph(search, quantised):
    same = with_float(quantised, search, [])
    assert list(same.graph.node) == list(quantised.graph.node)
    assert list(same.graph.initializer) == list(quantised.graph.initializer)


def test_one_layer_in_float_leaves_the_others_in_int8(search, quantised):
    first, *others = layers_of(search)
    before = quantised.SerializeToString(deterministic=True)
    mixed = with_float(quantised, search, [first])
    producers = {name: node.op_type for node in mixed.graph.node for name in node.output}
    weights = {node.name: producers.get(node.input[1], "constant") for node in mixed.graph.node if node.op_type == "Conv"}
    assert weights[first.convolutions[0]] == "constant"
    assert {weights[name] for found in others for name in found.convolutions} == {"DequantizeLinear"}
    assert quantised.SerializeToString(deterministic=True) == before


def test_a_budget_is_read_and_written():
    assert DriftBudget.parse("auc=0.01") == DriftBudget(measure="auc", most=0.01)
    assert str(DriftBudget.parse("step=0.020")) == "step=0.02"


@pytest.mark.parametrize("text", ["", "auc", "auc=", "auc=-0.1", "iou=0.1", "step=2", "auc=nan"])
def test_another_budget_is_refused(text):
    with pytest.raises(InputError, match="expected auc=LOSS or step=LOSS"):
        DriftBudget.parse(text)


def test_the_layer_that_moves_the_boxes_comes_first_then_the_one_that_moves_the_maps():
    found = [("a", 0.0, 0.1), ("b", 0.2, 0.0), ("c", 0.0, 0.3), ("d", 0.1, 0.0)]
    drifts = [LayerDrift(layer=layer(name), drift=drift(boxes, maps)) for name, boxes, maps in found]
    assert [ranked.name for ranked in most_hurtful(drifts)] == ["b", "d", "c", "a"]


@given(st.integers(0, 60), st.integers(0, 70))
def test_the_fewest_are_found_where_more_is_never_worse(most, least):
    asked = []
    count = fewest(most, lambda count: asked.append(count) or count >= least)
    assert count == (least if least <= most else None)
    assert len(asked) == len(set(asked)) <= 14


@given(st.sets(st.integers(0, 20)))
def test_what_is_returned_did_hold(holding):
    count = fewest(20, holding.__contains__)
    assert count is None or count in holding


def candidate(name: str, *, holds: bool = True, ratio: float = 1.0, kept: int = 0) -> Candidate:
    return Candidate(
        name=name,
        engine="e",
        float_layers=tuple(layer(str(number)) for number in range(kept)),
        drift=drift(0.0),
        auc={},
        loss=None,
        holds=holds,
        ms=ratio,
        against_fp16=ratio,
    )


@pytest.mark.parametrize(
    ("candidates", "always", "chosen", "why"),
    [
        ([("int8", True, 0.7, 0)], False, "int8", "int8 keeps the budget and takes 0.70 of the time of fp16"),
        ([("int8", False, 0.7, 0), ("int8 mixed", True, 0.8, 2)], False, "int8 mixed", "int8 with 2 layers in float keeps"),
        ([("int8", True, 0.99, 0)], False, "fp16", "takes 0.99 of the time of fp16: fp16 is better here"),
        ([("int8", True, 0.99, 0)], True, "int8", "takes 0.99 of the time of fp16"),
        ([("int8", False, 0.7, 0)], True, "fp16", "int8 does not keep the budget, however many layers stay in float: fp16"),
    ],
)
def test_the_choice_says_why(candidates, always, chosen, why):
    floats = [candidate("fp32", ratio=1.9), candidate("fp16")]
    made = [candidate(name, holds=holds, ratio=ratio, kept=kept) for name, holds, ratio, kept in candidates]
    found, reason = choose([*floats, *made], always_int8=always)
    assert found.name == chosen
    assert why in reason


def test_float32_is_chosen_where_fp16_drifts_or_gains_nothing():
    slow = candidate("int8", holds=False)
    found, why = choose([candidate("fp32", ratio=1.9), candidate("fp16", holds=False), slow])
    assert found.name == "fp32"
    assert "fp16 does not keep it" in why
    found, why = choose([candidate("fp32", ratio=0.9), candidate("fp16"), slow])
    assert found.name == "fp32"
    assert "no faster than float32" in why


def test_the_picture_is_an_svg_with_a_row_per_layer():
    import xml.etree.ElementTree as ET

    kept, other = layer("heads.<0>"), layer("neck")
    drifts = [LayerDrift(layer=kept, drift=drift(0.2, 0.1)), LayerDrift(layer=other, drift=drift(0.0))]
    root = ET.fromstring(sensitivity_chart(drifts, [kept]))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"heads.<0>", "neck", "0.2000", "0.0000"} <= set(texts)
    bars = list(root.iter("{http://www.w3.org/2000/svg}rect"))[-2:]
    assert float(bars[0].get("width")) > 100 * float(bars[1].get("width"))
    assert bars[0].get("fill") != bars[1].get("fill")
