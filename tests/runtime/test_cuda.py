"""The one class that talks to cuda-python, against the real module's names and signatures; no GPU is needed."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from trackctl.runtime.engines import cuda as module
from trackctl.runtime.engines.cuda import Cuda, gpu_answers
from trackctl.runtime.errors import EngineError, MissingDependency

runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")

ROOT = Path(__file__).resolve().parents[2]
SUCCESS = runtime.cudaError_t.cudaSuccess
# What each function hands out beside the status; all others nothing.
VALUES = {
    "cudaGetDeviceCount": 1,
    "cudaDriverGetVersion": 13020,
    "cudaGetDeviceProperties": SimpleNamespace(name=b"Some GPU", major=8, minor=9, integrated=0),
    "cudaMalloc": 0x1000,
    "cudaHostAlloc": 0x2000,
    "cudaHostGetDevicePointer": 0x3000,
    "cudaStreamCreateWithFlags": "stream",
    "cudaStreamEndCapture": "graph",
    "cudaGraphInstantiate": "executable",
    "cudaEventCreateWithFlags": "event",
    "cudaGetErrorString": b"out of memory",
}


class Module:
    """Checks every call against the signature of the real function, records it and succeeds, but for ``failing``."""

    def __init__(self, failing="", values=None):
        self.calls, self.failing, self.values = [], failing, VALUES | (values or {})

    def __getattr__(self, name):
        real = getattr(runtime, name)
        if isinstance(real, (int, type)):
            return real

        def call(*arguments):
            inspect.signature(real).bind(*arguments)
            self.calls.append((name, *arguments))
            if name == self.failing:
                return (runtime.cudaError_t.cudaErrorMemoryAllocation, *([None] if name in self.values else []))
            if name == "cudaMemGetInfo":
                return SUCCESS, 5, 9
            return (SUCCESS, self.values[name]) if name in self.values else (SUCCESS,)

        return call

    def names(self):
        return [name for name, *_ in self.calls]


@pytest.fixture
def gpu():
    recorded = Module()
    opened = Cuda(recorded)
    recorded.calls.clear()
    return opened, recorded


def test_every_name_of_the_cuda_runtime_exists():
    tree = ast.parse(Path(module.__file__).read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("cuda")}
    enums = {"cudaMemcpyDefault": "cudaMemcpyKind", "cudaSuccess": "cudaError_t"}
    enums["cudaStreamCaptureModeThreadLocal"] = "cudaStreamCaptureMode"
    assert len(used) > 20
    missing = {name for name in used if not hasattr(getattr(runtime, enums[name]) if name in enums else runtime, name)}
    assert not missing


def test_what_the_gpu_is(gpu):
    cuda, _ = gpu
    assert (cuda.gpu, cuda.driver, cuda.integrated) == ("Some GPU (8.9)", "13.2", False)
    orin = SimpleNamespace(name="Orin", major=8, minor=7, integrated=1)
    jetson = Cuda(Module(values={"cudaGetDeviceProperties": orin, "cudaDriverGetVersion": 12060}))
    assert (jetson.gpu, jetson.driver, jetson.integrated) == ("Orin (8.7)", "12.6", True)
    assert not {"name", "major", "minor", "integrated"} - set(dir(runtime.cudaDeviceProp()))


def test_memory(gpu):
    cuda, recorded = gpu
    assert cuda.allocate(64) == 0x1000
    assert cuda.allocate_host(64, mapped=False) == (0x2000, 0)
    assert cuda.allocate_host(64, mapped=True) == (0x2000, 0x3000)
    assert cuda.allocations == 3
    cuda.free(0x1000)
    cuda.free_host(0x2000)
    assert cuda.free_bytes() == 5
    assert recorded.calls == [
        ("cudaMalloc", 64),
        ("cudaHostAlloc", 64, runtime.cudaHostAllocDefault),
        ("cudaHostAlloc", 64, runtime.cudaHostAllocMapped),
        ("cudaHostGetDevicePointer", 0x2000, 0),
        ("cudaFree", 0x1000),
        ("cudaFreeHost", 0x2000),
        ("cudaMemGetInfo",),
    ]


def test_work(gpu):
    cuda, recorded = gpu
    stream = cuda.create_stream()
    cuda.copy(1, 2, 3, stream)
    cuda.copy_rows(1, 2, 80, 64, 48, stream)
    cuda.clear(1, 2, stream)
    cuda.wait_for(stream, 7)
    cuda.synchronize(stream)
    cuda.destroy_stream(stream)
    either = runtime.cudaMemcpyKind.cudaMemcpyDefault
    assert recorded.calls == [
        ("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking),
        ("cudaMemcpyAsync", 1, 2, 3, either, "stream"),
        ("cudaMemcpy2DAsync", 1, 64, 2, 80, 64, 48, either, "stream"),
        ("cudaMemsetAsync", 1, 0, 2, "stream"),
        ("cudaEventCreateWithFlags", runtime.cudaEventDisableTiming),
        ("cudaEventRecord", "event", 7),
        ("cudaStreamWaitEvent", "stream", "event", 0),
        ("cudaEventDestroy", "event"),
        ("cudaStreamSynchronize", "stream"),
        ("cudaStreamDestroy", "stream"),
    ]


def test_a_graph(gpu):
    cuda, recorded = gpu
    graph = cuda.capture("stream", lambda: cuda.clear(1, 2, "stream"))
    cuda.launch(graph, "stream")
    cuda.destroy_graph(graph)
    assert recorded.names() == [
        "cudaStreamBeginCapture",
        "cudaMemsetAsync",
        "cudaStreamEndCapture",
        "cudaGraphInstantiate",
        "cudaGraphDestroy",
        "cudaGraphLaunch",
        "cudaGraphExecDestroy",
    ]
    assert recorded.calls[-2] == ("cudaGraphLaunch", "executable", "stream")


def test_a_capture_that_breaks_off_leaves_the_stream_usable(gpu):
    cuda, recorded = gpu

    def work():
        raise EngineError("the library refuses")

    with pytest.raises(EngineError, match="the library refuses"):
        cuda.capture("stream", work)
    assert recorded.names() == ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphDestroy"]


@pytest.mark.parametrize(
    ("failing", "use", "cleaned"),
    [
        ("cudaHostGetDevicePointer", lambda cuda: cuda.allocate_host(8, mapped=True), "cudaFreeHost"),
        ("cudaGraphInstantiate", lambda cuda: cuda.capture("stream", lambda: None), "cudaGraphDestroy"),
        ("cudaEventRecord", lambda cuda: cuda.wait_for("stream", 1), "cudaEventDestroy"),
        ("cudaStreamWaitEvent", lambda cuda: cuda.wait_for("stream", 1), "cudaEventDestroy"),
        ("cudaMalloc", lambda cuda: cuda.allocate(8), None),
        ("cudaGraphLaunch", lambda cuda: cuda.launch("graph", "stream"), None),
        ("cudaMemcpyAsync", lambda cuda: cuda.copy(1, 2, 3, "stream"), None),
    ],
)
def test_a_failure_says_what_was_wanted_and_why_and_leaves_nothing(gpu, failing, use, cleaned):
    cuda, recorded = gpu
    recorded.failing = failing
    with pytest.raises(EngineError, match=r"CUDA cannot .*: out of memory \(2\)"):
        use(cuda)
    names = [name for name in recorded.names() if name != "cudaGetErrorString"]
    assert names[-1] == (cleaned or failing)


@pytest.mark.parametrize("values", [{"cudaGetDeviceCount": 0}, {}])
def test_a_machine_without_a_gpu_says_so_in_one_line(values):
    with pytest.raises(EngineError, match=r"no GPU answers: .*: install NVIDIA's driver \(nvidia-smi must work\)") as caught:
        Cuda(Module(failing="" if values else "cudaGetDeviceCount", values=values))
    assert "\n" not in str(caught.value)


def test_older_cuda_python_fails_to_find_its_functions_without_a_driver():
    def missing():
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    with pytest.raises(EngineError, match=r"no GPU answers: Failed to dlopen libcuda\.so\.1: install"):
        Cuda(SimpleNamespace(cudaGetDeviceCount=missing))


def test_the_real_module_answers_or_says_why_not():
    if gpu_answers():
        cuda = Cuda.open()
        assert cuda.gpu
        assert cuda.free_bytes() > 0
    else:
        with pytest.raises(EngineError, match="no GPU answers: "):
            Cuda.open()


def test_without_cuda_python_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(MissingDependency, match=r"pip install 'trackctl\[gpu\]'"):
        Cuda.open()
    assert not gpu_answers()


def test_the_runtime_imports_no_gpu_library_before_an_engine_is_opened():
    libraries = ("cuda", "tensorrt", "tensorrt_rtx_bindings", "onnxruntime")
    script = f"import sys, trackctl.runtime.tracker; print([name for name in {libraries} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
