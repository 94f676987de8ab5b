"""ONNX Runtime over fixed addresses: its real I/O binding, on the CPU provider over the recording GPU's memory."""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime
import pytest
from recording_cuda import RecordingCuda, on_gpu
from tiny_frame_graphs import (
    FRAME_SEARCH_INPUTS,
    FRAME_SEARCH_OUTPUTS,
    FRAME_TEMPLATE_INPUTS,
    frame_memory,
    frame_search_reference,
    frame_state,
    frames,
    save_frame_search,
)

from trackctl.runtime.engines import onnxruntime_cuda
from trackctl.runtime.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine
from trackctl.runtime.errors import EngineError, MissingDependency


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    path = tmp_path_factory.mktemp("frames") / "search.onnx"
    save_frame_search(path)
    return path


@pytest.fixture
def on_the_host(monkeypatch):
    monkeypatch.setattr(onnxruntime_cuda, "PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(onnxruntime_cuda, "DEVICE", "cpu")


class Cuda(RecordingCuda):
    """ONNX Runtime on the CPU computes at once, so what was given to the stream before must be done by then."""

    def settle(self, stream):
        queue = self.stream(stream)
        pending, queue.pending = queue.pending, []
        for work in pending:
            work()


class Engine(OnnxRuntimeCudaEngine):
    def _enqueue(self):
        self._cuda.settle(self._stream)
        super()._enqueue()


@pytest.mark.parametrize("integrated", [False, True])
def test_the_numbers_are_those_of_the_graph(on_the_host, graph, integrated):
    cuda = Cuda(integrated=integrated)
    with Engine(cuda, graph, FRAME_SEARCH_INPUTS, FRAME_SEARCH_OUTPUTS) as engine:
        assert engine.name == "onnxruntime cuda" + " mapped" * integrated
        engine.bind(frame_memory())
        allocated = cuda.allocations
        cuda.calls.clear()
        for pixels in frames(3):
            got = engine.run({"frame": pixels, "state": frame_state()})
            for name, values in frame_search_reference(
                graph.read_bytes(), {"frame": pixels, "state": frame_state(), **frame_memory()}
            ).items():
                np.testing.assert_array_equal(got[name], values)
        assert cuda.allocations == allocated
        cuda.calls.clear()
        engine.run({"frame": on_gpu(pixels), "state": frame_state()})
        assert cuda.calls == ["copy_rows", "synchronize"] if integrated else ["copy_rows", "copy", "copy", "synchronize"]
    assert cuda.live == {}


def test_an_onnx_runtime_without_the_provider_says_how_to_get_it(graph):
    if onnxruntime_cuda.PROVIDER in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    cuda = RecordingCuda()
    with pytest.raises(EngineError, match=r"has the providers .*expected CUDAExecutionProvider: pip uninstall onnxruntime, then"):
        OnnxRuntimeCudaEngine(cuda, graph, FRAME_SEARCH_INPUTS, FRAME_SEARCH_OUTPUTS)
    assert cuda.live == {}


def test_a_provider_that_cannot_load_is_an_error(monkeypatch, graph):
    """The library lists it, leaves it out without a word and computes on the CPU."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, options, providers: real(path, options, providers=providers[1:])
    )
    cuda = RecordingCuda()
    with pytest.raises(EngineError, match=r"computes on \['CPUExecutionProvider'\], expected \['CUDAExecutionProvider', 'CPU"):
        OnnxRuntimeCudaEngine(cuda, graph, FRAME_SEARCH_INPUTS, FRAME_SEARCH_OUTPUTS)
    assert cuda.live == {}


def test_the_stream_and_full_precision_are_asked_for(monkeypatch, graph):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    asked = []

    def session(path, options, providers):
        asked.extend(providers)
        raise RuntimeError("stop here")

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    cuda = RecordingCuda()
    with pytest.raises(EngineError, match=r"cannot load .* on the GPU: stop here"):
        OnnxRuntimeCudaEngine(cuda, graph, FRAME_SEARCH_INPUTS, FRAME_SEARCH_OUTPUTS)
    settings = {"user_compute_stream": str(0x7F00), "use_tf32": "0"}
    assert asked == [("CUDAExecutionProvider", settings), "CPUExecutionProvider"]
    assert cuda.live == {}


def test_other_tensors_and_broken_files_are_refused(on_the_host, graph, tmp_path):
    cuda = Cuda()
    with pytest.raises(EngineError, match=r"the inputs of search\.onnx has no tensor 'box'"):
        Engine(cuda, graph, FRAME_TEMPLATE_INPUTS, FRAME_SEARCH_OUTPUTS)
    (tmp_path / "broken.onnx").write_bytes(b"junk")
    with pytest.raises(EngineError, match=r"cannot load .*broken\.onnx"):
        Engine(cuda, tmp_path / "broken.onnx", FRAME_SEARCH_INPUTS, FRAME_SEARCH_OUTPUTS)
    assert cuda.live == {}


def test_without_onnx_runtime_the_extra_is_named(monkeypatch, graph):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependency, match=r"trackctl\[onnxruntime-gpu\]"):
        OnnxRuntimeCudaEngine(RecordingCuda(), graph, FRAME_SEARCH_INPUTS, FRAME_SEARCH_OUTPUTS)
