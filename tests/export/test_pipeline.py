"""From a model to a bundle that tracks."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from trackctl.export import pipeline
from trackctl.export.frame_graph import FrameFormat
from trackctl.export.initial import initial_model
from trackctl.export.pipeline import Calibration, build_engines, export, export_model, model_of
from trackctl.export.verify import Report
from trackctl.runtime.bundle import Bundle
from trackctl.runtime.engines.onnxruntime import OnnxRuntimeEngine
from trackctl.runtime.errors import ExportError, InputError, WeightsError
from trackctl.runtime.geometry import iou
from trackctl.runtime.tracker import Tracker

FRAMES = (FrameFormat(frame_hw=(256, 320)),)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def exported(tiny, footage, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    calibration = Calibration(footage=footage, limit=4)
    return export_model(
        tiny, "tiny", out=out, precision="int8", frames=FRAMES, calibration=calibration, footage=footage, threads=1, force=True
    )


def test_the_bundle_is_whole(exported):
    bundle = Bundle.open(exported.bundle.path)
    assert bundle.path.name == "tiny-int8.trk"
    manifest = bundle.manifest
    assert manifest == exported.bundle.manifest
    assert sorted(manifest.graphs) == ["search", "search.frame.320x256.gray8", "template", "template.frame.320x256.gray8"]
    assert (manifest.system, manifest.precision, manifest.memory) == ("tiny", "int8", ("z_cls", "z_loc"))
    assert manifest.decode["penalty_k"] == 0.05
    assert manifest.decode["cells"] == 25
    assert bundle.report() == exported.report.to_json()


def test_int8_is_measured(exported):
    """Random weights make maps without a clear peak, so that a step may choose another cell."""
    patch = exported.report.cuts["patch"]
    assert patch.step_iou > 0.8
    assert 1e-3 < patch.tensors["cls"].mixed < 1.0
    assert patch.tensors["z_cls"].mixed < 1e-5  # the template stays in float32


def test_provenance_names_the_calibration(exported):
    provenance = exported.bundle.manifest.provenance
    assert provenance["calibration"] == "synth:vehicle, seed 0"
    frames = [int(frame) for frame in provenance["calibration_frames"].split()]
    assert len(frames) == 4
    assert frames == sorted(set(frames) & set(range(1, 12)))
    assert provenance["calibration_method"] == "minmax"
    assert {"torch", "onnx", "trackctl"} <= provenance.keys()


def test_the_same_export_gives_the_same_files(tiny, footage, exported, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.onnx.export", torch.onnx.export.__wrapped__)  # not what is kept of the first time
    calibration = Calibration(footage=footage, limit=4)
    again = export_model(
        tiny,
        "tiny",
        out=tmp_path,
        precision="int8",
        frames=FRAMES,
        calibration=calibration,
        footage=footage,
        threads=1,
        force=True,
    )
    assert contents(again.bundle.path) == contents(exported.bundle.path)


def test_both_cuts_of_the_bundle_track(exported, footage):
    bundle = exported.bundle
    boxes = {}
    for cut, suffix in (("patch", ""), ("frame", ".frame.320x256.gray8")):
        entries = {role: bundle.graph(role + suffix) for role in ("template", "search")}
        engines = [
            OnnxRuntimeEngine.open(
                bundle.graph_path(role + suffix),
                expected_inputs=entry.inputs,
                expected_outputs=entry.outputs,
                threads=1,
                precision="int8",
            )
            for role, entry in entries.items()
        ]
        with Tracker(*engines, crop=bundle.manifest.crop) as tracker:
            frames = list(footage)[:4]
            tracker.init(frames[0], footage.box)
            boxes[cut] = [tracker.update(frame).box for frame in frames[1:]]
    assert np.isfinite(boxes["patch"]).all()
    assert iou(boxes["patch"], boxes["frame"]).min() > 0.9


def test_a_bundle_that_does_not_track_like_its_model_is_not_written(tiny, footage, tmp_path, monkeypatch):
    def failing(*_, **__) -> Report:
        return Report(precision="fp32", engine="e", footage="f", cuts={}, failures=("patch: cls differs by 1",))

    monkeypatch.setattr(pipeline, "verify", failing)
    with pytest.raises(ExportError, match="tiny in fp32 does not track like its model: patch: cls differs by 1: see --force"):
        export_model(tiny, "tiny", out=tmp_path, footage=footage)
    assert not list(tmp_path.iterdir())
    forced = export_model(tiny, "tiny", out=tmp_path, footage=footage, force=True)
    assert forced.bundle.report()["failures"] == ["patch: cls differs by 1"]


def test_int8_without_calibration_is_refused(tiny, tmp_path):
    with pytest.raises(InputError, match="int8 without a clip to calibrate on"):
        export_model(tiny, "tiny", out=tmp_path, precision="int8")


def test_an_unknown_precision_is_refused(tiny, tmp_path):
    with pytest.raises(InputError, match="got the precision 'bf16', expected one of fp32, fp16, int8"):
        export_model(tiny, "tiny", out=tmp_path, precision="bf16")


@pytest.mark.slow
def test_a_model_of_the_zoo_without_weights_is_exported_as_it_is(tmp_path):
    told = []
    exported = export("nanotrack-v1", out=tmp_path, frames=(), engines=("tensorrt",), progress=told.append)
    assert exported.untrained
    assert exported.bundle.manifest.provenance["weights"] == "initial"
    assert told[0] == "building nanotrack-v1 with its initial weights"
    # The PC has no TensorRT proper.
    assert exported.engines == ()
    assert len(exported.advice) == 1
    assert exported.advice[0].startswith("tensorrt is not installed here")
    weights = model_of(exported.bundle).state_dict()
    assert all((weights[name] == tensor).all() for name, tensor in initial_model("nanotrack-v1").state_dict().items())


@pytest.mark.slow
def test_real_weights_travel_as_a_checksum(tmp_path, shared):
    file = shared / "data/weights/nanotrack_v3.npz"
    exported = export("nanotrack-v3", out=tmp_path, weights=file, frames=())
    assert not exported.untrained
    provenance = exported.bundle.manifest.provenance
    assert provenance["weights"] == "nanotrack_v3.npz"
    assert provenance["weights_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert str(tmp_path) not in (exported.bundle.path / "manifest.json").read_text()
    assert model_of(exported.bundle, file).version == "nanotrack-v3"
    other = shared / "data/weights/nanotrack_v2.npz"
    with pytest.raises(WeightsError, match=r"got the weights nanotrack_v2\.npz with the checksum .* of nanotrack_v3\.npz"):
        model_of(exported.bundle, other)


def test_engines_are_built_into_the_cache(exported):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    told = []
    built, advice = build_engines(exported.bundle, ["tensorrt_rtx"], told.append)
    assert advice == ()
    keys = sorted(exported.bundle.manifest.graphs)
    assert sorted(told) == [f"building the tensorrt_rtx engine of {key}" for key in keys]
    assert sorted(made.path.name.split(".tensorrt_rtx.")[0] for made in built) == keys
    assert all(made.path.parent == exported.bundle.path / "engines" for made in built)
    Bundle.open(exported.bundle.path)  # the cache does not disturb it
