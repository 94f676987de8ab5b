"""What this machine can do for trackctl: each library is not only looked for but put to work."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from trackctl.runtime.contract import TensorSpec
from trackctl.runtime.engine import Engine
from trackctl.runtime.engines import tensorrt
from trackctl.runtime.engines.cuda import Cuda
from trackctl.runtime.engines.onnxruntime_cuda import ADVICE as ONNXRUNTIME_ADVICE
from trackctl.runtime.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine
from trackctl.runtime.engines.tensorrt_run import TensorRtEngine
from trackctl.runtime.errors import MissingDependency, TrackctlError
from trackctl.runtime.processor import Processor
from trackctl.runtime.quiet import quiet_opencv
from trackctl.runtime.select import ONNXRUNTIME_CUDA, OPENERS, cache_folder, installed, version

State = Literal["ok", "missing", "warning"]

# An ONNX model of opset 17: y = x + x, float32 (1, 4).
DOUBLING_ONNX = bytes.fromhex(
    "08083a3d0a0e0a01780a017812017922034164641201675a130a0178120e0a0c080112080a0208010a02080462130a0179120e0a0c080112080a"
    "0208010a02080442040a001011"
)
DOUBLING_TENSOR = TensorSpec("float32", (1, 4))

# Instruction sets that decide how fast half precision and int8 are, in Linux's spelling: x86, then ARM.
FAST_FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
FAST_FEATURES_ARM = ("asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve")

VIDEO_FORMATS = (("mp4v", ".mp4"), ("MJPG", ".avi"), ("FFV1", ".mkv"))


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: what.
        state: ``ok``; ``missing`` for what is not there; ``warning`` for what is there and does not do its work.
        detail: what was found.
        advice: how to mend or get it; empty if there is nothing to do.
    """

    name: str
    state: State
    detail: str
    advice: str = ""


def report(root: Path = Path("/")) -> list[Check]:
    """All checks, in the order in which people read them.

    Args:
        root: the folder that holds ``proc``, ``sys`` and ``etc``.
    """
    driver = gpu_driver(root)
    return [
        Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        Check("numpy", "ok", np.__version__),
        Check("opencv", "ok", cv2.__version__),
        video_writing(),
        processor(root),
        *(cpu_engine(kind) for kind in OPENERS),
        driver,
        cuda(driver),
        *(tensorrt_engine(kind, driver) for kind in tensorrt.PACKAGES),
        onnxruntime_cuda(driver),
        jetson(root),
        torch(),
        cache(),
    ]


def processor(root: Path) -> Check:
    """The CPU and which of the fast instruction sets it has."""
    cpu = Processor.read(root)
    fast = [name for name in (*FAST_FEATURES, *FAST_FEATURES_ARM) if name in cpu.features]
    detail = f"{cpu.model}, {cpu.cores} cores ({cpu.cpus} threads), {' '.join(fast) or 'no vector instructions known'}"
    return Check("cpu", "ok" if fast else "warning", detail, "" if fast else "expect a few frames per second: use a GPU")


def cpu_engine(kind: str) -> Check:
    """Whether a CPU engine computes."""
    if not installed(kind):
        return Check(kind, "missing", "not installed", f"pip install 'trackctl[{kind}]'")

    def compute(graph: Path) -> str:
        x, y = {"x": DOUBLING_TENSOR}, {"y": DOUBLING_TENSOR}
        engine = OPENERS[kind](graph, expected_inputs=x, expected_outputs=y, threads=1, precision="fp32")
        _check_doubling(engine)
        engine.close()
        return f"{version(kind)}, computes"

    return _put_to_work(kind, compute, f"pip install --force-reinstall {kind}")


def tensorrt_engine(kind: str, driver: Check) -> Check:
    """Whether TensorRT or TensorRT-RTX builds an engine, and where a GPU answers, whether it computes with it."""
    if not any(installed(package) for package in tensorrt.PACKAGES[kind]):
        return Check(kind, "missing", "not installed", tensorrt.ADVICE[kind])

    def build(graph: Path) -> str:
        built = tensorrt.build_engine(kind, graph, graph.with_suffix(".engine"))
        if driver.state != "ok":
            return f"{built.version}, builds engines"
        doubled, library = {"y": DOUBLING_TENSOR}, tensorrt.load_library(kind)
        with TensorRtEngine(Cuda.open(), library, kind, built.path.read_bytes(), {"x": DOUBLING_TENSOR}, doubled) as engine:
            _check_doubling(engine)
        return f"{built.version}, builds engines and computes"

    check = _put_to_work(kind, build, tensorrt.ADVICE[kind])
    if check.state == "ok" and driver.state != "ok":
        return Check(kind, "warning", f"{check.detail}, but no GPU here runs them", "run the engines on the device")
    return check


def onnxruntime_cuda(driver: Check) -> Check:
    """Whether ONNX Runtime computes on the GPU."""
    if driver.state != "ok":
        return Check(ONNXRUNTIME_CUDA, "missing", "no GPU here", "only machines with an NVIDIA GPU need it")

    def compute(graph: Path) -> str:
        with OnnxRuntimeCudaEngine(Cuda.open(), graph, {"x": DOUBLING_TENSOR}, {"y": DOUBLING_TENSOR}) as engine:
            _check_doubling(engine)
        return f"{version('onnxruntime')}, computes"

    return _put_to_work(ONNXRUNTIME_CUDA, compute, ONNXRUNTIME_ADVICE)


def cuda(driver: Check) -> Check:
    """Whether cuda-python reaches the GPU."""
    name = "cuda-python"
    try:
        gpu = Cuda.open()
    except MissingDependency:
        state: State = "warning" if driver.state == "ok" else "missing"
        return Check(name, state, "not installed", "the engines on an NVIDIA GPU need it: pip install 'trackctl[gpu]'")
    except TrackctlError as error:
        detail, _, advice = str(error).rpartition(": ")
        return Check(name, "warning" if driver.state == "ok" else "missing", detail, advice)
    memory = "shares its memory with the CPU" if gpu.integrated else f"{gpu.free_bytes() / 2**30:.1f} GiB free"
    return Check(name, "ok", f"{gpu.gpu}, CUDA {gpu.driver}, {memory}")


def _check_doubling(engine: Engine) -> None:
    values = np.array([[1, 2, 3, 4]], dtype=np.float32)
    got = engine.run({"x": values})["y"].tolist()
    if got != (2 * values).tolist():
        raise TrackctlError(f"it computes {got} for twice {values.tolist()}")


def _put_to_work(kind: str, work: Callable[[Path], str], advice: str) -> Check:
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder, "doubling.onnx")
        graph.write_bytes(DOUBLING_ONNX)
        try:
            return Check(kind, "ok", work(graph))
        except TrackctlError as error:
            return Check(kind, "warning", f"installed but does not work: {error}", advice)


def gpu_driver(root: Path) -> Check:
    """The NVIDIA driver and the GPUs it sees."""
    name = "gpu driver"
    advice = "install NVIDIA's driver, or track on the CPU"
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return Check(name, "warning", f"nvidia-smi does not answer: {error}", "restart the machine")
        said = "; ".join((done.stdout or done.stderr).split("\n")).strip("; ")
        return Check(name, "ok", said) if done.returncode == 0 else Check(name, "warning", said, advice)
    if first := _first_line(root / "proc/driver/nvidia/version"):
        return Check(name, "ok", first)
    if jetson(root).state == "ok":
        return Check(name, "ok", "the Jetson's own")
    return Check(name, "missing", "no NVIDIA driver is loaded", advice)


def jetson(root: Path) -> Check:
    """The Jetson's Linux release."""
    first = _first_line(root / "etc/nv_tegra_release")
    return Check("jetson", "ok", first.strip("# ")) if first else Check("jetson", "missing", "this is no Jetson")


def _first_line(path: Path) -> str:
    try:
        return path.read_text(errors="replace").partition("\n")[0]
    except OSError:
        return ""


def torch() -> Check:
    """PyTorch, which only training and export need; not imported, because that takes seconds."""
    try:
        return Check("torch", "ok", importlib.metadata.version("torch"))
    except importlib.metadata.PackageNotFoundError:
        return Check("torch", "missing", "not installed", "only training and export need it: pip install 'trackctl[export]'")


def cache() -> Check:
    """Whether measurements can be remembered."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return Check("cache", "ok", f"{folder} is writable")
    except OSError as error:
        advice = "set TRACKCTL_CACHE_DIR to a folder you may write, or engines are measured anew at each start"
        return Check("cache", "warning", f"{folder} cannot be written ({error.strerror})", advice)


def video_writing() -> Check:
    """The video formats that OpenCV writes so that it can read them again."""
    good = [f"{codec} in {suffix}" for codec, suffix in VIDEO_FORMATS if writes_video(codec, suffix)]
    if good:
        return Check("video", "ok", f"writes {', '.join(good)}")
    return Check("video", "warning", "OpenCV writes no video", "pip install --force-reinstall opencv-python-headless")


def writes_video(codec: str, suffix: str) -> bool:
    """Whether two frames written with a codec are two frames when read."""
    with tempfile.TemporaryDirectory() as folder, quiet_opencv():
        path = str(Path(folder, f"probe{suffix}"))
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*codec), 25.0, (64, 48))
        for level in (50, 200):
            writer.write(np.full((48, 64, 3), level, dtype=np.uint8))
        writer.release()
        reader = cv2.VideoCapture(path)
        frames = [reader.read()[0] for _ in range(3)]
        reader.release()
    return frames == [True, True, False]
