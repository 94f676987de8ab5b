"""The doctor looks at this machine and at made-up ones."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator
from recording_cuda import RecordingCuda

from trackctl.runtime import doctor
from trackctl.runtime.doctor import (
    DOUBLING_ONNX,
    Check,
    cache,
    cpu_engine,
    cuda,
    gpu_driver,
    jetson,
    onnxruntime_cuda,
    report,
    tensorrt_engine,
)
from trackctl.runtime.engines.cuda import gpu_answers
from trackctl.runtime.errors import EngineError, MissingDependency
from trackctl.runtime.select import OPENERS


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKCTL_CACHE_DIR", str(tmp_path / "cache"))


def test_the_built_in_graph_doubles():
    model = onnx.load_model_from_string(DOUBLING_ONNX)
    onnx.checker.check_model(model, full_check=True)
    values = np.array([[1, 2, 3, 4]], dtype=np.float32)
    np.testing.assert_array_equal(ReferenceEvaluator(model).run(None, {"x": values})[0], 2 * values)


def test_the_report_covers_this_machine():
    checks = {check.name: check for check in report()}
    assert list(checks)[:5] == ["python", "numpy", "opencv", "video", "cpu"]
    assert {
        "openvino",
        "onnxruntime",
        "gpu driver",
        "cuda-python",
        "tensorrt",
        "tensorrt_rtx",
        "onnxruntime_cuda",
        "jetson",
        "torch",
        "cache",
    } <= set(checks)
    assert checks["python"].detail.startswith(".".join(map(str, sys.version_info[:3])))
    assert checks["numpy"].detail == np.__version__
    assert checks["opencv"].detail == cv2.__version__
    for name in OPENERS:
        assert checks[name].state == "ok"
        assert checks[name].detail.endswith("computes")
    assert checks["video"].state == "ok"
    assert "mp4v in .mp4" in checks["video"].detail
    assert checks["cache"].state == "ok"
    for check in checks.values():
        assert check.state in ("ok", "missing", "warning")
        assert check.detail
        assert "\n" not in check.detail + check.advice
        if check.state == "warning":
            assert check.advice, f"{check.name} tells a problem but no way out"


def test_an_engine_that_is_not_installed_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(doctor, "installed", lambda kind: False)
    assert cpu_engine("openvino") == Check("openvino", "missing", "not installed", "pip install 'trackctl[openvino]'")
    missing = tensorrt_engine("tensorrt", Check("gpu driver", "ok", "any"))
    assert missing.state == "missing"
    assert "JetPack" in missing.advice


def test_an_engine_that_does_not_compute_is_not_ok(monkeypatch):
    def broken(path, **options):
        raise EngineError("the library lost a file")

    monkeypatch.setitem(OPENERS, "onnxruntime", broken)
    check = cpu_engine("onnxruntime")
    assert check.state == "warning"
    assert "installed but does not work: the library lost a file" in check.detail


def test_a_jetson_is_recognised(tmp_path):
    assert jetson(tmp_path).state == "missing"
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n# more\n")
    assert jetson(tmp_path) == Check("jetson", "ok", "R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic")


@pytest.fixture
def no_nvidia_smi(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def test_the_driver_is_found_without_nvidia_smi(no_nvidia_smi):
    root = no_nvidia_smi
    assert gpu_driver(root).state == "missing"
    (root / "etc").mkdir()
    (root / "etc/nv_tegra_release").write_text("# R35\n")
    assert gpu_driver(root) == Check("gpu driver", "ok", "the Jetson's own")
    (root / "proc/driver/nvidia").mkdir(parents=True)
    (root / "proc/driver/nvidia/version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06\nGCC\n")
    assert "580.65.06" in gpu_driver(root).detail


@pytest.mark.parametrize(
    ("script", "state", "detail"),
    [
        (
            "echo 'NVIDIA RTX A2000, 580.65.06'; echo 'NVIDIA T4, 580.65.06'",
            "ok",
            "NVIDIA RTX A2000, 580.65.06; NVIDIA T4, 580.65.06",
        ),
        ('echo "couldn\'t communicate with the NVIDIA driver"; exit 9', "warning", "couldn't communicate with the NVIDIA driver"),
    ],
)
def test_nvidia_smi_is_believed(no_nvidia_smi, script, state, detail):
    smi = no_nvidia_smi / "bin/nvidia-smi"
    smi.write_text(f"#!/bin/sh\n{script}\n")
    smi.chmod(0o755)
    check = gpu_driver(no_nvidia_smi)
    assert (check.state, check.detail) == (state, detail)


def test_tensorrt_rtx_builds_but_needs_a_gpu_to_run():
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    without = tensorrt_engine("tensorrt_rtx", Check("gpu driver", "missing", "none"))
    assert without.state == "warning"
    assert without.detail.endswith("builds engines, but no GPU here runs them")
    if not gpu_answers():
        # A driver that is loaded and reaches no GPU: building works, computing says why not.
        without = tensorrt_engine("tensorrt_rtx", Check("gpu driver", "ok", "some"))
        assert without.state == "warning"
        assert "no GPU answers" in without.detail + without.advice


def test_the_gpu_is_asked_through_cuda_python(monkeypatch):
    monkeypatch.setattr(doctor.Cuda, "open", lambda: RecordingCuda())
    driver = Check("gpu driver", "ok", "some")
    assert cuda(driver) == Check("cuda-python", "ok", "Recorded GPU (8.9), CUDA 13.2, 1.0 GiB free")
    monkeypatch.setattr(doctor.Cuda, "open", lambda: RecordingCuda(integrated=True))
    assert cuda(driver).detail.endswith("shares its memory with the CPU")

    def none():
        raise EngineError("no GPU answers: the driver is too old (35): update it")

    monkeypatch.setattr(doctor.Cuda, "open", none)
    assert cuda(driver) == Check("cuda-python", "warning", "no GPU answers: the driver is too old (35)", "update it")
    assert cuda(Check("gpu driver", "missing", "none")).state == "missing"

    def not_installed():
        raise MissingDependency("cuda-bindings", "the GPU", "gpu")

    monkeypatch.setattr(doctor.Cuda, "open", not_installed)
    assert cuda(driver).state == "warning"
    assert "trackctl[gpu]" in cuda(Check("gpu driver", "missing", "none")).advice


def test_onnx_runtime_on_the_gpu_is_put_to_work_where_there_is_one(monkeypatch):
    assert onnxruntime_cuda(Check("gpu driver", "missing", "none")).state == "missing"
    monkeypatch.setattr(doctor.Cuda, "open", lambda: RecordingCuda())
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    check = onnxruntime_cuda(Check("gpu driver", "ok", "some"))
    assert check.state == "warning"
    assert "expected CUDAExecutionProvider" in check.detail


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("TRACKCTL_CACHE_DIR", str(tmp_path / "file/below"))
    check = cache()
    assert check.state == "warning"
    assert "TRACKCTL_CACHE_DIR" in check.advice


def test_a_codec_that_does_not_exist_writes_no_video():
    assert doctor.writes_video("MJPG", ".avi")
    assert not doctor.writes_video("ZZZZ", ".mp4")
