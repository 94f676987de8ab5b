"""Graphs of pairs: parity with PyTorch and NVIDIA's builder, on the light backbone."""

from __future__ import annotations

import numpy as np
import pytest

from trackctl.calibration.footage import Footage
from trackctl.export.frame_graph import FrameFormat
from trackctl.export.graphs import export_patch_graph, fold_batch_norm
from trackctl.export.int8 import quantise
from trackctl.export.pipeline import export_model
from trackctl.export.precision import half_core
from trackctl.export.verify import PATCH_CUT
from trackctl.runtime.engines.tensorrt import build_engine
from trackctl.runtime.sources.synth_pair import Span, SynthPair, SynthPairSpec
from trackctl.runtime.tracker import TemplateUpdate, Tracker
from trackctl.training.engine import example_inputs
from trackctl.training.zoo import load

# It holds everything that dfat-edge does, and more.
NAME = "dfat-lrr-edge"


def clip() -> SynthPair:
    return SynthPair(SynthPairSpec(frames=8, size=(160, 128), blank=Span("visible", 2, 7)))


@pytest.mark.slow
def test_both_cuts_agree_with_the_model_also_without_a_camera(tmp_path) -> None:
    source = clip()
    form = FrameFormat(frame_hw=(128, 160), layout="pair8")
    made = export_model(
        load(NAME), NAME, out=tmp_path, frames=[form], footage=Footage(source=source, box=source.initial_box, frames=5), threads=1
    )
    assert made.report is not None and not made.report.failures
    assert len(made.report.cuts) == 2
    tensors = made.report.cuts[PATCH_CUT].tensors
    assert {"z_cls", "zf_rgb", "zf_ir", "cls", "loc"} <= set(tensors)
    assert all(difference.mixed < 1e-4 for difference in tensors.values())
    assert made.bundle.manifest.channels == 4
    update = TemplateUpdate(every=2, above=0.0)
    with Tracker.open(made.bundle.path, engine="onnxruntime", threads=1, template_update=update) as tracker:
        tracker.init(next(iter(source)), source.initial_box)
        assert all(np.isfinite(tracker.update(frame).box).all() for frame in list(source)[1:])


@pytest.mark.slow
def test_every_precision_is_built(tmp_path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    model = fold_batch_norm(load(NAME))
    _, search = example_inputs(model)
    feed = {key: tensor.numpy() for key, tensor in search.items()}
    feed["search"] = np.random.default_rng(0).uniform(0, 255, feed["search"].shape).astype(np.float32)
    single, half = export_patch_graph(model, "search"), half_core(model)
    graphs = {
        "fp32.search": single,
        "int8.search": quantise(single, [feed], method="minmax"),
        "fp32.template": export_patch_graph(model, "template"),
        "fp16.search": export_patch_graph(half, "search"),
        "fp16.template": export_patch_graph(half, "template"),
    }
    for file, graph in graphs.items():
        path = tmp_path / f"{file}.onnx"
        path.write_bytes(graph.SerializeToString())
        assert build_engine("tensorrt_rtx", path, path.with_suffix(".engine")).size_bytes > 10_000
