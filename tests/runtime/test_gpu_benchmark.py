"""The GPU benchmark: it says in one line that there is no GPU; over a recording one it measures and writes everything."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from recording_cuda import Machine, RecordedTensorRt
from tiny_frame_graphs import FORM, frame_bundle

from trackctl.export.initial import initial_model
from trackctl.runtime.engines.cuda import gpu_answers
from trackctl.runtime.geometry import Box
from trackctl.runtime.tracker import Tracker
from trackctl.training.engine import torch_engines

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/gpu.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_it_says_so_in_one_line(tmp_path):
    if gpu_answers():
        pytest.skip("there is a GPU")
    command = [sys.executable, str(SCRIPT), "any.trk", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("nothing measured: ")
    assert (done.stderr.count("\n"), done.stdout) == (1, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("integrated", [False, True])
def test_every_number_is_measured_and_written(benchmark, monkeypatch, tmp_path, capsys, integrated):
    machine = Machine(monkeypatch, integrated=integrated)
    bundle = frame_bundle(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu.py", str(bundle.path), "--frames", "10", "--out", str(tmp_path / "out")])
    benchmark.main()
    report = json.loads((tmp_path / "out/gpu_recorded_gpu_frames.json").read_text())
    assert (report["gpu"], report["bundle"], report["frame"]) == ("Recorded GPU (8.9)", "frames.trk", "80x64 gray8")
    rows = {row["engine"]: row for row in report["engines"]}
    assert list(rows) == ["tensorrt", "tensorrt_rtx", "onnxruntime_cuda"]
    row = rows["tensorrt"]
    assert row["name"] == "tensorrt cuda-graph" + " mapped" * integrated
    for name in ("update_ms", "engine_ms", "bare_ms", "no_graph", *(["copied"] if integrated else [])):
        assert 0 < row[name]["p50"] <= row[name]["p95"] <= row[name]["p99"]
    assert (row["grown_bytes"], row["grown_blocks"]) == (0, 0)
    assert row["overhead_us"] == pytest.approx(1000 * (row["update_ms"]["p50"] - row["bare_ms"]["p50"]), abs=0.2)
    # The stand-in computes with the library that is compared with.
    assert row["parity"]["mean step IoU"] == 1.0
    assert row["parity"]["largest cls difference"] == 0.0
    # This one cannot run here, says why and stops nothing.
    assert "ONNX Runtime" in rows["onnxruntime_cuda"]["reason"] or "parity" in rows["onnxruntime_cuda"]
    assert machine.cuda.live == {}
    text = (tmp_path / "out/gpu_recorded_gpu_frames.md").read_text()
    assert text in capsys.readouterr().out
    assert "| tensorrt cuda-graph" in text
    assert f"{row['overhead_us']:g}" in text


def test_memory_that_grows_shows(benchmark, monkeypatch, tmp_path):
    machine = Machine(monkeypatch)
    bundle = frame_bundle(tmp_path)
    execute = machine.cuda.launch

    def leaking(graph, stream):
        machine.cuda.allocate(100)
        execute(graph, stream)

    monkeypatch.setattr(machine.cuda, "launch", leaking)
    footage = benchmark.rendered(FORM)
    row = benchmark.timed(bundle, "tensorrt", machine.cuda, FORM, footage, 5, graph=True)
    # One GPU, asked by both engines.
    assert (row["grown_bytes"], row["grown_blocks"]) == (500, 10)


def test_an_engine_that_refuses_the_gpu_is_listed_with_its_reason(benchmark, monkeypatch, tmp_path):
    machine = Machine(monkeypatch)
    machine.library = RecordedTensorRt(machine.cuda, "runtime")
    report = benchmark.measure_bundle(frame_bundle(tmp_path), machine.cuda, 5, None)
    row = report["engines"][1]
    assert row["engine"] == "tensorrt_rtx"
    assert row["reason"].startswith("tensorrt_rtx cannot start on Recorded GPU (8.9): no kernel for this GPU")
    assert row["reason"] in benchmark.markdown(report)


@pytest.mark.parametrize("half", [False, True])
def test_pytorch_goes_from_frames_to_the_trackers_boxes(benchmark, half):
    """On the CPU, beside the Tracker that crops with OpenCV."""
    model = initial_model("nanotrack-v1")
    form = ((96, 128), "gray8")
    footage = benchmark.rendered(form)
    clip = [frame.pixels for frame in footage.source]
    loop = benchmark.TorchLoop(model, half, form, footage.box, clip[0], "cpu")
    loop.begin(loop.ways()["eager"]())
    tracker = Tracker(*torch_engines(model), crop=model.crop, channels=model.channels)
    tracker.init(clip[0], footage.box)
    found, expected = loop.update(clip[1]), tracker.update(clip[1])
    assert Box.from_centre(*found[:4]) == pytest.approx(expected.box, abs=1.0 if half else 0.1)
    assert found[4:] == [128, 96]
