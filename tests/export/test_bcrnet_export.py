"""The graphs of BCR-Net: both sortings, every precision, the rule for ties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import InferenceSession
from torch import Tensor, nn

from trackctl.export.graphs import export_module, export_patch_graph, fold_batch_norm
from trackctl.export.int8 import quantise, quantised_convolutions
from trackctl.export.precision import half_core
from trackctl.runtime.contract import PREVIOUS, RATE
from trackctl.runtime.engines.tensorrt import build_engine
from trackctl.training.backbones.edge import EdgeBackbone
from trackctl.training.bcrnet import BCRNet
from trackctl.training.bimm import BandGroups
from trackctl.training.engine import SEARCH_OUTPUTS, example_inputs
from trackctl.training.model import SearchGraph, TemplateGraph, patch_contrast

STATE = np.array([[320.0, 256.0, 60.0, 40.0, 640.0, 512.0]], dtype=np.float32)
# What engines cannot have in a static graph, or can have only at the cost of speed.
UNWANTED = {"GatherND", "ScatterND", "If", "Loop", "Range", "NonZero", "Einsum", "BatchNormalization"}


def small(bands: int, sorting: str) -> BCRNet:
    """With statistics and weights that give every band an importance of its own and every map a spread."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        backbone = EdgeBackbone(stem=(8, 8, 16), dilations=(1,))
        model = BCRNet(backbone=backbone, bands=bands, width=16, sorting=sorting, attention_pool=2)  # type: ignore[arg-type]
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                module.momentum = 1.0
                module.weight.data.uniform_(0.5, 1.5)
        for name, value in model.named_parameters():
            if "value" in name or "step" in name or name.endswith("up.2.out.weight"):
                value.data.normal_(0.0, 0.3)
        template, search = (torch.from_numpy(patch(bands, side)) for side in (127, 255))
        with torch.no_grad():
            model.train().search(search.expand(2, -1, -1, -1), model.template(template.expand(2, -1, -1, -1)))
    return model.eval()


def patch(bands: int, side: int, seed: int = 0) -> np.ndarray:
    """Coarse noise whose bands have contrasts of their own."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (1, bands, side // 8 + 1, side // 8 + 1)) * rng.uniform(0.3, 1.0, (1, bands, 1, 1))
    return np.repeat(np.repeat(coarse, 8, axis=2), 8, axis=3)[:, :, :side, :side].astype(np.float32)


@pytest.fixture(scope="module", params=["template", "per_frame"])
def sorting(request) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(sorting) -> BCRNet:
    return fold_batch_norm(small(16, sorting))


@pytest.fixture(scope="module")
def graphs(model) -> dict[str, onnx.ModelProto]:
    return {role: export_patch_graph(model, role) for role in ("template", "search")}


@pytest.fixture(scope="module")
def half(model) -> BCRNet:
    return half_core(model)


@pytest.fixture(scope="module")
def half_graphs(half) -> dict[str, onnx.ModelProto]:
    return {role: export_patch_graph(half, role) for role in ("template", "search")}


def ports(values) -> dict[str, tuple[int, ...]]:
    return {value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim) for value in values}


def run(graph: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = {tensor.name for tensor in session.get_inputs()}
    names = [tensor.name for tensor in session.get_outputs()]
    return dict(zip(names, session.run(None, {name: feeds[name] for name in wanted}), strict=True))


def test_band_order_and_weights_come_from_the_template_graph(model, graphs, sorting):
    levels = {"z_levels": (5, 16, 7, 7), "band_importance": (1, 16)}
    ranking = {"band_select": (15, 16), "branch_weight": (1, 5)}
    kernels = {"z_cls": (5, 16, 5, 5), "z_loc": (5, 16, 5, 5)}
    assert ports(graphs["template"].graph.output) == kernels | ranking | levels
    assert ports(graphs["template"].graph.input) == {
        "template": (1, 16, 127, 127),
        RATE: (1, 1),
        **{PREVIOUS + name: shape for name, shape in (levels | ranking).items()},
    }
    memory = kernels | (ranking if sorting == "template" else {})
    assert ports(graphs["search"].graph.input) == {"search": (1, 16, 255, 255), "state": (1, 6), **memory}
    assert ports(graphs["search"].graph.output)["cls"] == (1, 2, 25, 25)
    operators = {role: {node.op_type for node in graph.graph.node} for role, graph in graphs.items()}
    assert not (operators["template"] | operators["search"]) & UNWANTED
    # The band matrix leaves the frame's path where the template's order is kept.
    assert ("TopK" in operators["search"]) == (sorting == "per_frame")
    assert "TopK" in operators["template"]


def test_the_graphs_compute_what_the_model_computes(model, graphs):
    feeds = {"template": patch(16, 127), "search": patch(16, 255, seed=1), "state": STATE}
    first, _ = example_inputs(model)
    feeds |= {name: tensor.numpy() for name, tensor in first.items() if name != "template"}
    for rate in (1.0, 0.1):
        feeds[RATE] = np.array([[rate]], dtype=np.float32)
        kept = [torch.from_numpy(feeds[PREVIOUS + name]) for name in model.kept_names]
        with torch.inference_mode():
            made = TemplateGraph(model)(torch.from_numpy(feeds["template"]), torch.from_numpy(feeds[RATE]), *kept)
            memory = [dict(zip(model.template_outputs, made, strict=True))[name] for name in model.memory_names]
            wanted = SearchGraph(model)(torch.from_numpy(feeds["search"]), torch.from_numpy(STATE), *memory)
        got = run(graphs["template"], feeds)
        for name, tensor in zip(model.template_outputs, made, strict=True):
            assert got[name].dtype == np.float32
            np.testing.assert_allclose(got[name], tensor.numpy(), rtol=1e-4, atol=1e-4, err_msg=name)
        found = run(graphs["search"], feeds | got)
        for name, tensor in zip(SEARCH_OUTPUTS, wanted, strict=True):
            np.testing.assert_allclose(found[name], tensor.numpy(), rtol=1e-4, atol=1e-4, err_msg=name)
        # The second time an update with another patch and what the first one gave.
        feeds["template"] = patch(16, 127, seed=2)
        feeds |= {PREVIOUS + name: got[name] for name in model.kept_names}
    selected = got["band_select"].argmax(axis=1)
    assert selected.tolist() != sorted(selected.tolist()), "the bands are in their order: nothing was sorted"
    assert np.ptp(got["branch_weight"]) > 1e-3


def test_a_patch_is_blank_only_if_every_band_is(model, graphs):
    feeds = {"template": patch(16, 127), "search": patch(16, 255, seed=1), "state": STATE, RATE: np.ones((1, 1), np.float32)}
    first, _ = example_inputs(model)
    feeds = {name: tensor.numpy() for name, tensor in first.items()} | feeds
    feeds |= run(graphs["template"], feeds)
    for shown in (16, 15, 1, 0):
        feeds["search"][:, : 16 - shown] = 7.0
        found = run(graphs["search"], feeds)
        highest = feeds["search"][0, :, ::4, ::4].reshape(16, -1).std(axis=1).max()
        assert found["quality"][0, 2] == pytest.approx(highest, rel=1e-4, abs=1e-4)
        eager = patch_contrast(torch.from_numpy(feeds["search"]), model.contrast_planes)
        assert eager.item() == pytest.approx(highest, rel=1e-4, abs=1e-4)
        assert (found["score"].item() > 0.0) == (shown > 0)
        assert np.array_equal(found["next_state"], STATE) == (shown == 0)


class Ranking(nn.Module):
    """importance -> selection and weights."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.groups = BandGroups(bands, bands // 3)

    def forward(self, importance: Tensor) -> tuple[Tensor, Tensor]:
        chosen: tuple[Tensor, Tensor] = self.groups(importance)
        return chosen


@pytest.mark.parametrize("bands", [16, 31])
def test_ties_fall_to_the_lower_band_in_the_graph_too(bands):
    graph = export_module(Ranking(bands).eval(), {"importance": torch.ones(1, bands)}, ("select", "weight"))
    session = InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for _ in range(20):
        importance = rng.integers(0, 4, (1, bands)).astype(np.float32) + np.float32(1e-12)
        wanted = np.argsort(-importance[0], kind="stable")[: bands // 3 * 3]
        (select,) = session.run(["select"], {"importance": importance})
        assert select[0].argmax(axis=1).tolist() == wanted.tolist()


def test_half_precision_keeps_the_ranking_in_float32(model, graphs, half, half_graphs):
    assert {value.dtype for value in half.ranking.parameters()} == {torch.float32}
    assert {value.dtype for value in half.cfrm.parameters()} == {torch.float16}
    feeds = {"template": patch(16, 127), "search": patch(16, 255, seed=1), "state": STATE}
    feeds |= {name: tensor.numpy() for name, tensor in example_inputs(model)[0].items() if name != "template"}
    full, low = run(graphs["template"], feeds), run(half_graphs["template"], feeds)
    np.testing.assert_array_equal(low["band_select"], full["band_select"])
    np.testing.assert_allclose(low["branch_weight"], full["branch_weight"], rtol=2e-3)
    expected = run(graphs["search"], feeds | full)
    got = run(half_graphs["search"], feeds | low)
    np.testing.assert_allclose(np.exp(got["cls"]), np.exp(expected["cls"]), atol=0.02)
    np.testing.assert_allclose(got["loc"], expected["loc"], rtol=0.05)


def test_the_last_convolutions_stay_float_in_int8(model, graphs):
    graph = graphs["search"]
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    shapes = [weights[node.input[1]] for node in graph.graph.node if node.name in quantised_convolutions(graph)]
    assert shapes, "nothing is quantised"
    assert not {(2, 16, 1, 1), (4, 16, 1, 1)} & set(shapes)


def build_all(model: BCRNet, single: dict[str, onnx.ModelProto], double: dict[str, onnx.ModelProto], folder: Path) -> None:
    _, search = example_inputs(model)
    feed = {name: tensor.numpy() for name, tensor in search.items()} | {"search": patch(model.channels, 255)}
    built = {"int8.search": quantise(single["search"], [feed])}
    built |= {f"{name}.{role}": graph for name, roles in (("fp32", single), ("fp16", double)) for role, graph in roles.items()}
    for name, graph in built.items():
        path = folder / f"{name}.onnx"
        path.write_bytes(graph.SerializeToString())
        assert build_engine("tensorrt_rtx", path, path.with_suffix(".engine")).size_bytes > 10_000


@pytest.fixture
def rtx() -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")


def test_every_graph_is_built(rtx, model, graphs, half_graphs, tmp_path):
    build_all(model, graphs, half_graphs, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("bands", [15, 25, 31])
def test_every_graph_of_other_band_counts_is_built(rtx, bands, sorting, tmp_path):
    model = fold_batch_norm(small(bands, sorting))
    models = model, half_core(model)
    single, double = ({role: export_patch_graph(each, role) for role in ("template", "search")} for each in models)
    build_all(model, single, double, tmp_path)
