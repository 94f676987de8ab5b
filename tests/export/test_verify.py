"""The proof passes for a faithful bundle and names what is wrong with another."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from trackctl.calibration.drift import Difference, Drift
from trackctl.export import verify as proof
from trackctl.export.frame_graph import FrameFormat
from trackctl.export.pipeline import export_model
from trackctl.export.verify import verify
from trackctl.runtime.bundle import Bundle

FRAMES = tuple(FrameFormat(frame_hw=(96, 128), layout=layout) for layout in ("bgr8", "gray16"))
CUTS = ["patch", "frame.128x96.bgr8", "frame.128x96.gray16"]


@pytest.fixture(scope="module")
def bundle(tiny, tmp_path_factory) -> Bundle:
    return export_model(tiny, "tiny", out=tmp_path_factory.mktemp("out"), frames=FRAMES).bundle


def test_a_faithful_bundle_passes(bundle, tiny, footage):
    told = []
    report = verify(bundle, tiny, footage, threads=1, progress=told.append)
    assert report.failures == ()
    assert list(report.cuts) == CUTS
    assert told == [f"comparing the {cut} graphs with PyTorch" for cut in CUTS]
    assert (report.precision, report.engine, report.footage) == ("fp32", "onnxruntime x1", "synth:vehicle, seed 0")
    for cut, drift in report.cuts.items():
        assert drift.frames == 11
        assert drift.step_iou > 0.9999
        assert {"z_cls", "z_loc", "next_state", "score", "quality", "cls", "loc"} <= drift.tensors.keys()
        assert ("fill" in drift.tensors) == (cut != "patch")
        assert 0.0 < drift.tensors["cls"].mixed < 1e-5
        assert drift.auc is not None
    patch = report.cuts["patch"]
    assert patch.auc == pytest.approx(patch.reference_auc, abs=0.05)
    again = verify(bundle, tiny, footage, threads=1)
    assert json.dumps(again.to_json(), allow_nan=False) == json.dumps(report.to_json(), allow_nan=False)


def test_a_damaged_graph_is_caught(bundle, tiny, footage, tmp_path):
    """One bias of one frame graph off by a hundredth."""
    key = "search.frame.128x96.gray16"
    for entry in bundle.manifest.graphs.values():
        (tmp_path / entry.file).write_bytes((bundle.path / entry.file).read_bytes())
    path = tmp_path / bundle.graph(key).file
    graph = onnx.load(path)
    bias = next(tensor for tensor in graph.graph.initializer if tensor.name.endswith("heads.0.1.bias"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.01), bias.name))
    onnx.save(graph, path)
    report = verify(Bundle(tmp_path, bundle.manifest), tiny, footage, threads=1)
    assert len(report.failures) == 1
    assert report.failures[0].startswith("frame.128x96.gray16: cls differs by ")
    assert report.failures[0].endswith("fp32 may differ by 0.0001")


def test_what_is_not_finite_is_null_in_the_report():
    report = proof.Report(precision="fp16", engine="e", footage="f", cuts={"patch": drift(maps=math.inf)}, failures=())
    assert report.to_json()["cuts"]["patch"]["tensors"]["cls"] == {"absolute": None, "mixed": None}


def drift(step_iou: float = 1.0, maps: float = 0.0, auc: float | None = None) -> Drift:
    return Drift(
        frames=9,
        tensors={name: Difference(maps, maps) for name in ("cls", "loc")},
        step_iou=step_iou,
        step_iou_min=0.5,
        loop_iou=0.5,
        loop_iou_min=0.0,
        reference_auc=None if auc is None else 0.6,
        auc=auc,
    )


@pytest.mark.parametrize(
    ("precision", "measured", "failure"),
    [
        ("fp32", drift(maps=0.9e-4), None),
        ("fp32", drift(maps=1.1e-4), "cls differs by 0.00011, fp32 may differ by 0.0001"),
        ("fp32", drift(step_iou=0.98), "one step agrees to a mean IoU of 0.9800, fp32 needs 0.99"),
        ("fp32", drift(auc=0.5), None),
        ("fp16", drift(maps=0.1, step_iou=0.981), None),
        ("fp16", drift(step_iou=0.979), "one step agrees to a mean IoU of 0.9790, fp16 needs 0.98"),
        ("int8", drift(maps=1.0, step_iou=0.901, auc=0.571), None),
        ("int8", drift(step_iou=0.899), "one step agrees to a mean IoU of 0.8990, int8 needs 0.9"),
        ("int8", drift(auc=0.569), "0.031 of success AUC is lost, int8 may lose 0.03"),
    ],
)
def test_each_precision_has_its_budget(precision, measured, failure):
    failures = proof._failures("patch", measured, precision, ("cls",))
    assert failures == ([] if failure is None else [f"patch: {failure}"])


def test_half_precision_is_measured(tiny, footage, tmp_path):
    exported = export_model(tiny, "tiny", out=tmp_path, precision="fp16", footage=footage, threads=1)
    assert exported.report is not None
    assert exported.report.failures == ()
    patch = exported.report.cuts["patch"]
    assert patch.step_iou > 0.999
    assert 1e-5 < patch.tensors["cls"].mixed < 1e-2
    assert 1e-5 < patch.tensors["z_cls"].mixed < 1e-2
