"""Stand-ins for a GPU: a Cuda over the host's memory that records what it is asked, a TensorRT that computes with ONNX Runtime.

Work given to a stream is done when the stream is waited for, never before, as on the worst of GPUs; the work of a graph when the
graph was launched. So a missing wait, a wrong address or an early release shows in the numbers.
"""

from __future__ import annotations

import bisect
import ctypes
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime

from trackctl.runtime import select
from trackctl.runtime.device_frame import device_frame
from trackctl.runtime.engines import engine_cache, tensorrt_run
from trackctl.runtime.engines.tensorrt import Built
from trackctl.runtime.errors import EngineError


class Stream:
    """Its number is what CUDA would hand out as an address."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pending: list[Callable[[], None]] = []
        self.captured: list[Callable[[], None]] | None = None

    def __int__(self) -> int:
        return self.number


class RecordingCuda:
    """The interface of :class:`trackctl.runtime.engines.cuda.Cuda`.

    Attributes:
        calls: names of the methods called, in order.
        live: what was allocated or created and not given back: memory by address, streams and graphs by themselves.
        fail_at: the number of the call that fails as CUDA would; None: none does.
    """

    def __init__(self, *, integrated: bool = False, fail_at: int | None = None) -> None:
        self.gpu, self.driver, self.integrated = "Recorded GPU (8.9)", "13.2", integrated
        self.allocations = 0
        self.calls: list[str] = []
        self.live: dict[Any, Any] = {}
        self.fail_at = fail_at
        self.copied: list[int] = []
        self._streams: dict[int, Stream] = {}

    def _record(self, name: str) -> None:
        self.calls.append(name)
        if self.fail_at is not None and len(self.calls) == self.fail_at:
            raise EngineError(f"CUDA cannot {name}: recorded failure")

    def _block(self, size_bytes: int) -> int:
        # Aligned as cudaMalloc does, and full of what no test expects.
        block = np.full(size_bytes + 256, 0xA5, dtype=np.uint8)
        address = (block.ctypes.data + 255) // 256 * 256
        self.live[address] = (block, size_bytes)
        self.allocations += 1
        return address

    def _submit(self, stream: Any, work: Callable[[], None]) -> None:
        queue = self.stream(stream)
        (queue.pending if queue.captured is None else queue.captured).append(work)

    def stream(self, stream: Any) -> Stream:
        """The stream with this number, which must not have been destroyed."""
        found = self._streams[int(stream)]
        assert found in self.live, "a stream is used after it was destroyed"
        return found

    def owner(self, address: int, size_bytes: int) -> bool:
        """Whether these bytes lie within one live allocation."""
        starts = sorted(key for key in self.live if isinstance(key, int))
        place = bisect.bisect_right(starts, address) - 1
        return place >= 0 and address + size_bytes <= starts[place] + self.live[starts[place]][1]

    def allocate(self, size_bytes: int) -> int:
        self._record("allocate")
        return self._block(size_bytes)

    def free(self, address: int) -> None:
        self._record("free")
        del self.live[address]

    def allocate_host(self, size_bytes: int, *, mapped: bool) -> tuple[int, int]:
        self._record("allocate_host")
        address = self._block(size_bytes)
        return address, address if mapped else 0

    def free_host(self, address: int) -> None:
        self._record("free_host")
        del self.live[address]

    def free_bytes(self) -> int:
        return (1 << 30) - sum(entry[1] for entry in self.live.values() if isinstance(entry, tuple))

    def create_stream(self) -> Stream:
        self._record("create_stream")
        stream = Stream(0x7F00 + len(self._streams))
        self._streams[stream.number] = stream
        self.live[stream] = "stream"
        return stream

    def destroy_stream(self, stream: Stream) -> None:
        self._record("destroy_stream")
        assert stream.captured is None, "a stream is destroyed while it is capturing"
        del self.live[stream]

    def synchronize(self, stream: Any) -> None:
        self._record("synchronize")
        queue = self.stream(stream)
        assert queue.captured is None, "a stream cannot be waited for while it is capturing"
        pending, queue.pending = queue.pending, []
        for work in pending:
            work()

    def copy(self, to: int, source: int, size_bytes: int, stream: Any) -> None:
        self._record("copy")
        assert self.owner(to, size_bytes) or self.owner(source, size_bytes), "neither end of a copy is allocated"
        self.copied.append(size_bytes)
        self._submit(stream, lambda: ctypes.memmove(to, source, size_bytes) and None)

    def copy_rows(self, to: int, source: int, pitch_bytes: int, row_bytes: int, rows: int, stream: Any) -> None:
        self._record("copy_rows")
        assert self.owner(to, row_bytes * rows)

        def work() -> None:
            for row in range(rows):
                ctypes.memmove(to + row * row_bytes, source + row * pitch_bytes, row_bytes)

        self._submit(stream, work)

    def clear(self, address: int, size_bytes: int, stream: Any) -> None:
        self._record("clear")
        assert self.owner(address, size_bytes)
        self._submit(stream, lambda: ctypes.memset(address, 0, size_bytes) and None)

    def wait_for(self, stream: Any, other: Any) -> None:
        self._record(f"wait_for {other}")

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        self._record("capture")
        queue = self.stream(stream)
        assert not queue.pending, "a graph is captured before the stream has been waited for"
        queue.captured = []
        try:
            work()
            graph = types.SimpleNamespace(work=queue.captured)
        finally:
            queue.captured = None
        self.live[id(graph)] = (graph, 0)
        return graph

    def launch(self, graph: Any, stream: Any) -> None:
        self._record("launch")
        assert id(graph) in self.live, "a graph is launched after it was destroyed"
        self.stream(stream).pending.extend(graph.work)

    def destroy_graph(self, graph: Any) -> None:
        self._record("destroy_graph")
        del self.live[id(graph)]

    def execute(self, stream: Any, work: Callable[[], None]) -> None:
        """What a library gives to a stream."""
        self._record("execute")
        self._submit(stream, work)


MAGIC = b"PLAN"
NP_OF = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}


class RecordedTensorRt(types.ModuleType):
    """The names of ``tensorrt`` that running needs; a plan is ``MAGIC`` and an ONNX file.

    Attributes:
        made, dropped: names of the runtimes, engines and contexts that came to be and that went, in order.
        refuse: name of the step that fails: ``runtime``, ``context``, ``address`` or ``execute``.
    """

    __version__ = "10.3.0"

    def __init__(self, cuda: RecordingCuda, refuse: str = "") -> None:
        super().__init__("tensorrt")
        library = self
        self.cuda, self.refuse = cuda, refuse
        self.made: list[str] = []
        self.dropped: list[str] = []
        self.TensorIOMode = types.SimpleNamespace(INPUT="in", OUTPUT="out")

        class ILogger:
            Severity = types.SimpleNamespace(ERROR="error", INTERNAL_ERROR="internal")

            def log(self, severity: str, message: str) -> None: ...

        self.ILogger = ILogger

        class Tracked:
            def __init__(self, name: str) -> None:
                self._name = name
                library.made.append(name)

            def __del__(self) -> None:
                library.dropped.append(self._name)

        class Context(Tracked):
            def __init__(self, session: Any, ports: dict[str, tuple[str, Any, tuple[int, ...]]]) -> None:
                super().__init__("context")
                self._binding, self._session, self._ports = session.io_binding(), session, ports

            def set_tensor_address(self, name: str, address: int) -> bool:
                if library.refuse == "address":
                    return False
                mode, dtype, shape = self._ports[name]
                assert library.cuda.owner(address, int(np.prod(shape)) * np.dtype(dtype).itemsize)
                assert address % 256 == 0
                bind = self._binding.bind_input if mode == "in" else self._binding.bind_output
                bind(name, "cpu", 0, dtype, shape, address)
                return True

            def execute_async_v3(self, stream: int) -> bool:
                if library.refuse == "execute":
                    return False
                binding, session = self._binding, self._session
                library.cuda.execute(stream, lambda: session.run_with_iobinding(binding))
                return True

        class Engine(Tracked):
            def __init__(self, session: Any) -> None:
                super().__init__("engine")
                self._session = session
                self._ports = {port.name: ("in", NP_OF[port.type], tuple(port.shape)) for port in session.get_inputs()}
                self._ports |= {port.name: ("out", NP_OF[port.type], tuple(port.shape)) for port in session.get_outputs()}
                self.num_io_tensors = len(self._ports)

            def get_tensor_name(self, index: int) -> str:
                return list(self._ports)[index]

            def get_tensor_mode(self, name: str) -> str:
                return self._ports[name][0]

            def get_tensor_dtype(self, name: str) -> Any:
                return self._ports[name][1]

            def get_tensor_shape(self, name: str) -> tuple[int, ...]:
                return self._ports[name][2]

            def create_execution_context(self) -> Any:
                return None if library.refuse == "context" else Context(self._session, self._ports)

        class Runtime(Tracked):
            def __new__(cls, logger: Any) -> Any:
                if library.refuse == "runtime":
                    logger.log("error", "no kernel for this GPU")
                    raise TypeError("factory function returned nullptr")
                return super().__new__(cls)

            def __init__(self, logger: Any) -> None:
                super().__init__("runtime")
                self._logger = logger

            def deserialize_cuda_engine(self, plan: bytes) -> Any:
                if not plan.startswith(MAGIC):
                    self._logger.log("error", "magicTag does not match")
                    return None
                return Engine(onnxruntime.InferenceSession(plan[len(MAGIC) :], providers=["CPUExecutionProvider"]))

        self.Runtime = Runtime

    @staticmethod
    def nptype(dtype: Any) -> Any:
        return dtype


class Machine:
    """A GPU, a TensorRT for it, and a count of what was built."""

    def __init__(self, monkeypatch, **gpu):
        self.cuda = RecordingCuda(**gpu)
        self.library = RecordedTensorRt(self.cuda)
        self.built = []
        self.corrupt = False
        monkeypatch.setattr(tensorrt_run.Cuda, "open", lambda: self.cuda)
        monkeypatch.setattr(select, "gpu_answers", lambda: True)
        for module in (tensorrt_run, engine_cache, select):
            monkeypatch.setattr(module, "load_library", lambda kind: self.library)
        monkeypatch.setattr(engine_cache, "build_engine", self.build)

    def build(self, kind, graph_path, out_path, *, timing_cache, progress):
        out_path.parent.mkdir(exist_ok=True)
        out_path.write_bytes((b"junk" if self.corrupt else MAGIC) + graph_path.read_bytes())
        timing_cache.write_bytes(b"timings")
        if progress is not None:
            progress("building", 1, 1)
        self.built.append((kind, graph_path.name, timing_cache.name))
        return Built(path=out_path, version=self.library.__version__, seconds=0.0, size_bytes=out_path.stat().st_size)


def on_gpu(pixels, **changes):
    """Pixels as a CUDA library would offer them; over the recording GPU the host's memory is the GPU's."""
    interface = {
        "shape": pixels.shape,
        "typestr": "|u1",
        "data": (pixels.ctypes.data, False),
        "strides": None if pixels.flags.c_contiguous else pixels.strides,
        "version": 3,
        "stream": None,
    }
    frame = types.SimpleNamespace(
        shape=pixels.shape, dtype=pixels.dtype, __cuda_array_interface__=interface | changes, owner=pixels
    )
    return device_frame(frame)
