"""The exported fusion graphs against the PyTorch network, and the published pictures."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trackctl.export.fusion import TILE_PX, even_tile, export_frame_fusion, export_tile_fusion, halo_px, write_fusion
from trackctl.export.lean_fusion import LeanFusion
from trackctl.runtime.engines.tensorrt import build_engine
from trackctl.runtime.errors import EngineError, InputError
from trackctl.runtime.fusion import Fuser, tile_spans
from trackctl.runtime.fusion_bundle import FUSED, IR, ROWS, VI, FusionBundle
from trackctl.training.lrrnet import LRRNet


def seeded(**options: object) -> LRRNet:
    """A small network with some negative thresholds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LRRNet(**options).eval()
    with torch.no_grad():
        model.ir.theta[[3, 200]] *= -0.01
    return model


def images(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(height * width)
    smooth = [cv2.GaussianBlur(rng.uniform(0, 255, (height, width)), (0, 0), 2.0) for _ in range(2)]
    return tuple(cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8) for image in smooth)


def eager(model: LRRNet, ir: np.ndarray, vi: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model.fuse(*(torch.from_numpy(image.astype(np.float32))[None, None] for image in (ir, vi)))[0, 0].numpy()


@pytest.mark.parametrize("fusion", ["cat", "add"])
@pytest.mark.parametrize("blocks", [1, 4])
def test_the_lean_form_is_the_same_function(fusion: str, blocks: int) -> None:
    model = seeded(blocks=blocks, fusion=fusion)
    lean = LeanFusion(model)
    ir, vi = torch.rand(2, 1, 9, 6), torch.rand(2, 1, 9, 6)
    with torch.inference_mode():
        torch.testing.assert_close(lean(ir, vi), model(ir, vi), rtol=0, atol=2e-5)
    # Codes of thresholds below 0 go their own way: two channels, and none in the other branch.
    assert [len(branch.codes) for branch in (lean.ir, lean.vi)] == [2, 1]
    assert lean.ir.codes[1].first.weight.shape[0] == 2


def test_the_graph_of_whole_pictures_takes_any_size() -> None:
    model = seeded(blocks=1)
    graph = export_frame_fusion(model)
    assert [value.name for value in graph.graph.input] == [IR, VI]
    assert {value.type.tensor_type.elem_type for value in (*graph.graph.input, *graph.graph.output)} == {onnx.TensorProto.FLOAT}
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for height, width in ((21, 33), (40, 18)):
        ir, vi = images(height, width)
        feeds = {IR: ir.astype(np.float32)[None, None], VI: vi.astype(np.float32)[None, None]}
        got = session.run([FUSED], feeds)[0][0, 0]
        np.testing.assert_allclose(got, eager(model, ir, vi), rtol=0, atol=0.05)
        assert got.min() == 0.0
        assert 254.9 < got.max() <= 255.0


def test_half_precision_lies_between_float_normalisations() -> None:
    graph = export_frame_fusion(seeded(blocks=1), (16, 20), precision="fp16").graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    produced = {name: node.op_type for node in graph.node for name in node.output}
    extremes = [node.input[0] for node in graph.node if node.op_type in ("ReduceMin", "ReduceMax")]
    assert len(extremes) == 6
    assert all(types.get(name, onnx.TensorProto.FLOAT) == onnx.TensorProto.FLOAT for name in extremes)
    convolutions = [name for name, kind in produced.items() if kind == "Conv"]
    assert convolutions
    assert all(types[name] == onnx.TensorProto.FLOAT16 for name in convolutions)


def test_one_code_is_alive_at_a_time_and_none_is_padded() -> None:
    graph = export_tile_fusion(seeded(blocks=2), (40, 48)).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.value_info, *graph.input)}
    sources: dict[str, set[str]] = defaultdict(set, {name: {name} for name in (IR, VI, ROWS)})
    wide: list[set[str]] = []
    for node in graph.node:
        found = set().union(*(sources[name] for name in node.input))
        for name in node.output:
            sources[name] = found
            if shapes.get(name, [0, 0])[1:2] == [256]:
                wide.append(found & {IR, VI})
                assert node.op_type not in ("Pad", "Gather")
    # All codes of the infrared picture come before the first of the visible one, and none depends on both.
    first_vi = wide.index({VI})
    assert set(map(frozenset, wide[:first_vi])) == {frozenset({IR})}
    assert set(map(frozenset, wide[first_vi:])) == {frozenset({VI})}


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_tiles_on_the_engines_give_the_pictures_of_pytorch(tmp_path: Path, engine: str) -> None:
    model = seeded(blocks=1)
    graph = export_tile_fusion(model, (32, 40)).SerializeToString()
    FusionBundle.write(tmp_path, graph, tile_hw=(32, 40), halo_px=halo_px(model), precision="fp32", provenance={})
    with Fuser.open(tmp_path, engine=engine, threads=1) as fuser:
        for height, width in ((32, 40), (70, 61), (11, 90), (2, 3)):
            ir, vi = images(height, width)
            off = np.abs(fuser.fuse(ir, vi).astype(int) - eager(model, ir, vi).astype(np.uint8))
            assert off.max() <= 1
            assert (off == 0).mean() > 0.98


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 1500), st.integers(2, 1500))
def test_even_tiles_are_small_and_waste_little(height: int, width: int) -> None:
    tile = even_tile((height, width), 11)
    assert tile[0] * tile[1] <= TILE_PX
    assert min(tile) > 22
    counts = [len(list(tile_spans(size, side, 11))) for size, side in zip((height, width), tile, strict=True)]
    if min(height, width) >= 200:
        assert counts[0] * counts[1] * tile[0] * tile[1] < 1.5 * height * width


def build(hw: tuple[int, int], precision: str, workspace_mib: int, folder: Path, **options: object) -> int:
    """Size of the engine of whole pictures, bytes."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    path = folder / "fusion.onnx"
    path.write_bytes(export_frame_fusion(seeded(**options), hw, precision=precision).SerializeToString())
    return build_engine("tensorrt_rtx", path, folder / "fusion.engine", workspace_mib=workspace_mib).size_bytes


def test_a_workspace_that_is_too_small_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"OutOfMemory.*: give it a workspace of more than 8 MiB$"):
        build((96, 128), "fp32", 8, tmp_path, blocks=1)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "workspace_mib"), [("fp32", 2048), ("fp16", 1024)])
def test_whole_pictures_of_a_camera_are_built(tmp_path: Path, precision: str, workspace_mib: int) -> None:
    assert build((512, 640), precision, workspace_mib, tmp_path) > 1_000_000


def test_models_without_branches_have_no_tiles() -> None:
    model = LRRNet(extractor="dense")
    with pytest.raises(InputError, match="expected the extractor 'lrr'"):
        export_tile_fusion(model, (40, 40))
    with pytest.raises(InputError, match="expected one of fp32, fp16"):
        export_frame_fusion(seeded(blocks=1), (8, 8), precision="int8")  # type: ignore[arg-type]


def entropy(image: np.ndarray) -> float:
    shares = np.bincount(image.ravel(), minlength=256) / image.size
    return float(-(shares[shares > 0] * np.log2(shares[shares > 0])).sum())


@pytest.mark.parametrize("names", [["11"], pytest.param([f"{i:02d}" for i in range(1, 22)], marks=pytest.mark.slow)])
def test_the_published_pictures_come_out(shared: Path, tmp_path: Path, names: list[str]) -> None:
    write_fusion(tmp_path, LRRNet(), shared / "data/weights/lrrnet_official.npz", frame_hw=(300, 396))
    entropies = []
    with Fuser.open(tmp_path, engine="openvino", threads=1) as fuser:
        for name in names:
            ir, vi, published = (
                cv2.imread(str(shared / f"data/fusion/tno21/{kind}/{name}.png"), cv2.IMREAD_GRAYSCALE)
                for kind in ("ir", "vi", "lrrnet_official")
            )
            fused = fuser.fuse(ir, vi)
            off = np.abs(fused.astype(int) - published)
            assert (off == 0).mean() >= 0.99, name
            assert off.max() <= 2, name
            entropies.append(entropy(fused))
            assert abs(entropies[-1] - entropy(published)) < 1e-3
    if len(names) == 21:
        assert abs(float(np.mean(entropies)) - 6.83845) < 1e-3
