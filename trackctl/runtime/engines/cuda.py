"""The CUDA runtime of the machine's first GPU: memory, streams, graphs. The only module that talks to cuda-python.

``CUDA_VISIBLE_DEVICES`` chooses which GPU is the first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from trackctl.runtime.errors import EngineError, MissingDependency

# What cuda-python hands out for a stream, an event or a graph.
Handle = Any

ADVICE = (
    "install NVIDIA's driver (nvidia-smi must work) and a cuda-bindings no newer than it (on JetPack 6 'cuda-bindings<13'), "
    "or track on the CPU"
)


class Cuda:
    """One GPU. Every method raises EngineError with CUDA's own reason.

    Args:
        runtime: the module ``cuda.bindings.runtime``.

    Attributes:
        gpu: the GPU's name and compute capability, such as ``NVIDIA GeForce RTX 4090 (8.9)``.
        driver: the newest CUDA version that the driver supports, such as ``13.2``.
        integrated: whether GPU and CPU share the memory chips, as on a Jetson.
        allocations: how many blocks of memory were asked for since :meth:`open`.
    """

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self.allocations = 0
        try:
            count = self._value(runtime.cudaGetDeviceCount(), "find a GPU")
        except (EngineError, RuntimeError) as error:  # older cuda-python cannot even look for functions without a driver
            raise EngineError(f"no GPU answers: {error}: {ADVICE}") from error
        if count < 1:
            raise EngineError(f"no GPU answers: the driver sees none: {ADVICE}")
        facts = self._value(runtime.cudaGetDeviceProperties(0), "read the GPU's properties")
        name = facts.name.decode() if isinstance(facts.name, bytes) else str(facts.name)
        version = self._value(runtime.cudaDriverGetVersion(), "read the driver's version")
        self.gpu = f"{name} ({facts.major}.{facts.minor})"
        self.driver = f"{version // 1000}.{version % 1000 // 10}"
        self.integrated = bool(facts.integrated)

    @classmethod
    def open(cls) -> Cuda:
        """The first GPU.

        Raises:
            MissingDependency: ``cuda-bindings`` is not installed.
            EngineError: no GPU or no driver; in one line.
        """
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise MissingDependency("cuda-bindings", "running engines on an NVIDIA GPU", "gpu") from error
        return cls(runtime)

    def allocate(self, size_bytes: int) -> int:
        """The address of fresh device memory; free it with :meth:`free`."""
        self.allocations += 1
        return int(self._value(self._runtime.cudaMalloc(size_bytes), f"allocate {size_bytes} bytes of GPU memory"))

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._check(self._runtime.cudaFree(address), "free GPU memory")

    def allocate_host(self, size_bytes: int, *, mapped: bool) -> tuple[int, int]:
        """Page-locked host memory, cached by the CPU; free it with :meth:`free_host`.

        Args:
            size_bytes: how much.
            mapped: whether the GPU shall reach it by itself.

        Returns:
            Its address for the CPU and, if mapped, the one for the GPU, else 0.
        """
        runtime = self._runtime
        self.allocations += 1
        flags = runtime.cudaHostAllocMapped if mapped else runtime.cudaHostAllocDefault
        address = int(self._value(runtime.cudaHostAlloc(size_bytes, flags), f"allocate {size_bytes} bytes of page-locked memory"))
        if not mapped:
            return address, 0
        try:
            return address, int(self._value(runtime.cudaHostGetDevicePointer(address, 0), "map host memory into the GPU"))
        except BaseException:
            self.free_host(address)
            raise

    def free_host(self, address: int) -> None:
        """Give page-locked memory back."""
        self._check(self._runtime.cudaFreeHost(address), "free page-locked memory")

    def free_bytes(self) -> int:
        """Device memory that nobody uses, in bytes."""
        status, free, _ = self._runtime.cudaMemGetInfo()
        self._check((status,), "ask for the free GPU memory")
        return int(free)

    def create_stream(self) -> Handle:
        """A stream that does not wait for the default stream; end it with :meth:`destroy_stream`."""
        runtime = self._runtime
        return self._value(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking), "create a stream")

    def destroy_stream(self, stream: Handle) -> None:
        """End a stream."""
        self._check(self._runtime.cudaStreamDestroy(stream), "destroy a stream")

    def synchronize(self, stream: Handle) -> None:
        """Return when all work of a stream is done."""
        self._check(self._runtime.cudaStreamSynchronize(stream), "wait for the GPU")

    def copy(self, to: int, source: int, size_bytes: int, stream: Handle) -> None:
        """Enqueue a copy between any two memories."""
        runtime = self._runtime
        done = runtime.cudaMemcpyAsync(to, source, size_bytes, runtime.cudaMemcpyKind.cudaMemcpyDefault, stream)
        self._check(done, f"copy {size_bytes} bytes")

    def copy_rows(self, to: int, source: int, pitch_bytes: int, row_bytes: int, rows: int, stream: Handle) -> None:
        """Enqueue a copy of rows that lie ``pitch_bytes`` apart to where they shall lie without gaps."""
        runtime = self._runtime
        kind = runtime.cudaMemcpyKind.cudaMemcpyDefault
        done = runtime.cudaMemcpy2DAsync(to, row_bytes, source, pitch_bytes, row_bytes, rows, kind, stream)
        self._check(done, f"copy {rows} rows of {row_bytes} bytes")

    def clear(self, address: int, size_bytes: int, stream: Handle) -> None:
        """Enqueue zeros."""
        self._check(self._runtime.cudaMemsetAsync(address, 0, size_bytes, stream), f"clear {size_bytes} bytes")

    def wait_for(self, stream: Handle, other: Handle) -> None:
        """Make a stream wait, on the GPU, for the work that another stream has been given so far."""
        runtime = self._runtime
        event = self._value(runtime.cudaEventCreateWithFlags(runtime.cudaEventDisableTiming), "create an event")
        try:
            self._check(runtime.cudaEventRecord(event, other), "record an event")
            self._check(runtime.cudaStreamWaitEvent(stream, event, 0), "wait for an event")
        finally:
            # CUDA keeps the event until the wait is over.
            self._check(runtime.cudaEventDestroy(event), "destroy an event")

    def capture(self, stream: Handle, work: Callable[[], None]) -> Handle:
        """The graph of what ``work`` enqueues on a stream, nothing of it carried out; end it with :meth:`destroy_graph`."""
        runtime = self._runtime
        # Other threads, a camera's say, may go on allocating.
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._check(runtime.cudaStreamBeginCapture(stream, mode), "begin a graph")
        try:
            work()
        except BaseException:
            # A stream that is still capturing can neither wait nor be destroyed.
            with contextlib.suppress(EngineError):
                runtime.cudaGraphDestroy(self._value(runtime.cudaStreamEndCapture(stream), "end a broken graph"))
            raise
        graph = self._value(runtime.cudaStreamEndCapture(stream), "end a graph")
        try:
            return self._value(runtime.cudaGraphInstantiate(graph, 0), "instantiate a graph")
        finally:
            self._check(runtime.cudaGraphDestroy(graph), "destroy a captured graph")

    def launch(self, graph: Handle, stream: Handle) -> None:
        """Enqueue a graph."""
        self._check(self._runtime.cudaGraphLaunch(graph, stream), "launch a graph")

    def destroy_graph(self, graph: Handle) -> None:
        """End a graph."""
        self._check(self._runtime.cudaGraphExecDestroy(graph), "destroy a graph")

    def _check(self, returned: tuple[Any, ...], what: str) -> None:
        status = returned[0]
        if status != self._runtime.cudaError_t.cudaSuccess:
            reason = self._runtime.cudaGetErrorString(status)[1]
            text = reason.decode() if isinstance(reason, bytes) else str(reason)
            raise EngineError(f"CUDA cannot {what}: {text} ({int(status)})")

    def _value(self, returned: tuple[Any, Any], what: str) -> Any:
        self._check(returned, what)
        return returned[1]


def gpu_answers() -> bool:
    """Whether cuda-python is installed and a GPU answers."""
    try:
        Cuda.open()
    except (EngineError, MissingDependency):
        return False
    return True
