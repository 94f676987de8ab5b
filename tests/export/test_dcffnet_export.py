"""DCFFNet's graphs: the memory that a variant needs and no more, and the maps of the model in every precision."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnxruntime import InferenceSession

from trackctl.calibration.footage import Footage
from trackctl.export.graphs import export_patch_graph, fold_batch_norm
from trackctl.export.initial import initial_model
from trackctl.export.pipeline import Calibration, export
from trackctl.runtime.bundle import Bundle
from trackctl.runtime.sources.synth import Synth, SynthSpec

FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
MEMORY = {"z1": (1, 64, 44, 44), "z2": (1, 512, 22, 22), "z3": (1, 256, 20, 20)}
VARIANTS = {
    "dcffnet-baseline": ("z3",),
    "dcffnet-cf1": ("z1", "z3"),
    "dcffnet-cf2": ("z2", "z3"),
    "dcffnet": ("z1", "z2", "z3"),
}


@pytest.fixture(scope="module")
def clip() -> Footage:
    source = Synth(SynthSpec(frames=4, size=(320, 256)))
    return Footage(source=source, box=source.initial_box, truth_ltwh=source.boxes_ltwh)


def memory_of(bundle: Bundle) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """What the template graph gives and what the search graph takes besides patch and state."""
    template, search = bundle.graph("template"), bundle.graph("search")
    given = {name: spec.shape for name, spec in template.outputs.items()}
    taken = {name: spec.shape for name, spec in search.inputs.items() if name not in ("search", "state")}
    return given, taken


def element_types(graph: onnx.GraphProto) -> dict[str, int]:
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    return kinds | {tensor.name: tensor.data_type for tensor in graph.initializer}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision"),
    [*((name, "fp32") for name in VARIANTS), ("dcffnet", "fp16"), ("dcffnet-cf1", "fp16"), ("dcffnet", "int8")],
)
def test_every_variant_is_exported_with_what_it_needs_and_computes_what_the_model_computes(name, precision, clip, tmp_path):
    calibration = Calibration(footage=clip, limit=2) if precision == "int8" else None
    made = export(name, out=tmp_path, precision=precision, frames=(), calibration=calibration, footage=clip, threads=1)
    wanted = {key: MEMORY[key] for key in VARIANTS[name]}
    assert memory_of(made.bundle) == (wanted, wanted)
    drift = made.report.cuts["patch"]
    memory, maps = ([drift.tensors[key].mixed for key in keys] for keys in (wanted, ("cls", "loc")))
    if precision == "fp32":
        assert max(memory + maps) < 1e-4
    else:
        # int8 leaves the template in float32.
        assert max(memory) < (2e-3 if precision == "fp16" else 1e-5)
        assert 1e-4 < max(maps) < (2e-2 if precision == "fp16" else 0.3)
    assert made.report.failures == ()
    if precision == "fp16":
        graph = onnx.load(made.bundle.graph_path("search")).graph
        kinds = element_types(graph)
        assert {kinds[key] for node in graph.node if node.op_type == "Conv" for key in node.input} == {FLOAT16}


@pytest.fixture(scope="module")
def search_graph() -> onnx.ModelProto:
    return export_patch_graph(fold_batch_norm(initial_model("dcffnet")), "search")


@pytest.mark.parametrize("lowering", [None, "fourier"])
def test_the_correlations_are_run_time_convolutions_or_products_with_constant_matrices(lowering):
    """Without gathers or shapes that are computed."""
    model = initial_model("dcffnet")
    model.lowering = lowering
    graph = export_patch_graph(fold_batch_norm(model), "search").graph
    constants = {tensor.name for tensor in graph.initializer}
    nodes = graph.node
    convolved = [node for node in nodes if node.op_type == "Conv" and node.input[1] not in constants]
    products = [node for node in nodes if node.op_type == "MatMul"]
    assert (len(convolved), len(products)) == ((0, 3 * 6) if lowering else (3, 0))
    assert all(constants & set(node.input) for node in products)
    assert not {node.op_type for node in nodes} & {"Range", "Shape", "Cos", "Sin", "ScatterND", "GatherND"}
    resized = [node for node in nodes if node.op_type == "Resize"]
    assert len(resized) == 2
    for node in resized:
        options = {option.name: onnx.helper.get_attribute_value(option) for option in node.attribute}
        assert options["mode"] == b"linear"
        assert options["coordinate_transformation_mode"] in (b"half_pixel", b"pytorch_half_pixel")


def test_the_search_graph_takes_all_three_and_uses_them(search_graph):
    session = InferenceSession(search_graph.SerializeToString())
    assert [port.name for port in session.get_inputs()] == ["search", "state", "z1", "z2", "z3"]
    rng = np.random.default_rng(0)
    feeds = {"search": rng.uniform(0, 255, (1, 3, 255, 255)), "state": np.array([[160.0, 128.0, 40.0, 30.0, 320.0, 256.0]])}
    feeds |= {name: np.abs(rng.standard_normal(shape)) / (shape[2] * shape[3]) for name, shape in MEMORY.items()}
    feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
    (plain,) = session.run(["cls"], feeds)
    for name in MEMORY:
        (changed,) = session.run(["cls"], {**feeds, name: np.ascontiguousarray(feeds[name][:, ::-1])})
        assert np.abs(changed - plain).max() > 1e-3 * np.abs(plain).max(), name
