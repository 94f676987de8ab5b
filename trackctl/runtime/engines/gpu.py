"""What the GPU engines share: memory allocated once, one copy in, one graph launch, one copy out and one wait per frame.

    host    [state | tone | box ... | frame]  --copy-->  the same block on the GPU
    GPU     the graph's work, over addresses that never change; the memory stays there from one ``bind`` to the next
    host    [next_state | score | quality]  <--copy--  the same block on the GPU

The state crosses with the frame, 24 bytes in the same copy, because the Tracker decides whether it is kept. The raw maps stay on
the GPU until somebody reads them. Where CPU and GPU share the memory chips (Jetson) both blocks are mapped and the copies vanish.
"""

from __future__ import annotations

import ctypes
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from trackctl.runtime.contract import (
    BOX,
    FRAME,
    RATE,
    SEARCH_PATCH,
    STATE_IN,
    TEMPLATE_PATCH,
    TONE,
    Array,
    TensorSpec,
)
from trackctl.runtime.device_frame import DeviceFrame
from trackctl.runtime.engine import EngineContext
from trackctl.runtime.engines.cuda import Cuda, Handle
from trackctl.runtime.errors import EngineError, FrameError

# Inputs that come with every run; all others are memory. The small ones first, so that a frame that is on the GPU already
# leaves them in one piece.
LIVE = (STATE_IN, TONE, BOX, RATE, TEMPLATE_PATCH, SEARCH_PATCH, FRAME)
# Outputs up to this size come back with every run.
READ_BACK_BYTES = 4096
# What cudaMalloc gives and TensorRT asks of every tensor's address, bytes.
ALIGNMENT = 256
# A box in the middle of a frame, for runs before there is a target: zeros would divide by a width of zero.
STATE_FOR_WARM_UP = (320.0, 256.0, 40.0, 30.0, 640.0, 512.0)
BOX_FOR_WARM_UP = (300.0, 240.0, 40.0, 30.0)


class Exchange:
    """Tensors side by side in page-locked host memory and on the GPU, so that one copy moves them all.

    Args:
        cuda: the GPU.
        specs: the tensors, in their order in the block.
        mapped: whether the GPU uses the host memory itself; then there is nothing to copy.
        resources: frees the memory.

    Attributes:
        host: the block on the host, uint8.
        views: its tensors.
        addresses: where the GPU finds them.
        offsets: where they begin, bytes.
    """

    def __init__(self, cuda: Cuda, specs: Mapping[str, TensorSpec], *, mapped: bool, resources: ExitStack) -> None:
        self.offsets: dict[str, int] = {}
        end = 0
        for name, spec in specs.items():
            self.offsets[name] = end = math.ceil(end / ALIGNMENT) * ALIGNMENT
            end += size_bytes(spec)
        self._cuda, self._mapped = cuda, mapped
        self._size = max(end, 1)
        self._host, self._device = cuda.allocate_host(self._size, mapped=mapped)
        resources.callback(cuda.free_host, self._host)
        if not mapped:
            self._device = cuda.allocate(self._size)
            resources.callback(cuda.free, self._device)
        self.host = np.ctypeslib.as_array((ctypes.c_uint8 * self._size).from_address(self._host))
        self.host[:] = 0
        self.views = views(self.host, specs, self.offsets)
        self.addresses = {name: self._device + offset for name, offset in self.offsets.items()}

    def send(self, stream: Handle, size: int | None = None) -> None:
        """Enqueue the copy of the first ``size`` bytes, or of all, to the GPU."""
        size = self._size if size is None else size
        if size and not self._mapped:
            self._cuda.copy(self._device, self._host, size, stream)

    def fetch(self, stream: Handle) -> None:
        """Enqueue the copy to the host."""
        if not self._mapped:
            self._cuda.copy(self._host, self._device, self._size, stream)


class Results(Mapping[str, Array]):
    """The outputs of the last run. Large ones are read from the GPU when they are asked for."""

    def __init__(self, names: Mapping[str, TensorSpec], small: Mapping[str, Array], read: Callable[[str], Array]) -> None:
        self._names, self._small, self._read = names, small, read

    def __getitem__(self, name: str) -> Array:
        return self._small[name] if name in self._small else self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class GpuEngine(EngineContext):
    """An engine whose library runs on fixed GPU addresses in a CUDA stream.

    Args:
        cuda: the GPU.
        name: what computes it, for reports; how it runs is added.
        inputs, outputs: the graph's tensors.
        mapped: whether frames and results lie in memory that CPU and GPU share; None: where the GPU is integrated.
        graph: whether to launch a captured CUDA graph rather than each operation.

    Attributes:
        name: such as ``tensorrt cuda-graph``.
        inputs, outputs: the graph's tensors.

    Raises:
        EngineError: CUDA or the library failed; nothing stays allocated.
    """

    def __init__(
        self,
        cuda: Cuda,
        name: str,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        *,
        mapped: bool | None = None,
        graph: bool = True,
    ) -> None:
        self.inputs: Mapping[str, TensorSpec] = dict(inputs)
        self.outputs: Mapping[str, TensorSpec] = dict(outputs)
        self._cuda = cuda
        self._closed = False
        self._graph: Handle = None
        self._device_graph: Handle = None
        self._bare_graph: Handle = None
        self._missing = set(inputs)
        mapped = cuda.integrated if mapped is None else mapped
        with ExitStack() as resources:
            self._stream = cuda.create_stream()
            resources.callback(cuda.destroy_stream, self._stream)
            live = {key: inputs[key] for key in LIVE if key in inputs}
            small = {key: spec for key, spec in outputs.items() if size_bytes(spec) <= READ_BACK_BYTES}
            self._in = Exchange(cuda, live, mapped=mapped, resources=resources)
            self._out = Exchange(cuda, small, mapped=mapped, resources=resources)
            self._addresses = {**self._in.addresses, **self._out.addresses}
            for key, spec in {**inputs, **outputs}.items():
                if key not in self._addresses:
                    self._addresses[key] = cuda.allocate(size_bytes(spec))
                    resources.callback(cuda.free, self._addresses[key])
            # Copies in ordinary memory: what a caller keeps stays readable when the page-locked block is gone.
            self._kept = np.zeros_like(self._out.host)
            self._results = Results(self.outputs, views(self._kept, small, self._out.offsets), self._read)
            resources.callback(self._release)
            self._prepare()
            self._warm_up()
            if graph and self._capturable():
                self._graph = cuda.capture(self._stream, self._frame)
                resources.callback(cuda.destroy_graph, self._graph)
                if FRAME in inputs:
                    self._device_graph = cuda.capture(self._stream, self._frame_on_device)
                    resources.callback(cuda.destroy_graph, self._device_graph)
            self._resources = resources.pop_all()
        how = [word for word, so in (("cuda-graph", self._graph is not None), ("mapped", mapped)) if so]
        self.name = " ".join([name, *how])

    def __enter__(self) -> GpuEngine:
        return self

    @abstractmethod
    def _prepare(self) -> None:
        """Make the library ready to run over ``_addresses`` in ``_stream``."""

    @abstractmethod
    def _enqueue(self) -> None:
        """Give the graph's work to the stream."""

    @abstractmethod
    def _release(self) -> None:
        """Let the library free what it holds. Called once, also when ``_prepare`` failed."""

    def _capturable(self) -> bool:
        """Whether the library's work can become part of a CUDA graph."""
        return True

    @property
    def allocations(self) -> int:
        """How many blocks of memory, on the GPU and page-locked, were asked for since it was opened, without the library's."""
        return self._cuda.allocations

    @property
    def frame_buffer(self) -> Array | None:
        """The page-locked array from which the next frame is sent, (H, W...) uint8; None if the graph takes no frames."""
        return self._in.views.get(FRAME)

    def bind(self, tensors: Mapping[str, Array]) -> None:
        """Put these inputs on the GPU for all following runs.

        Raises:
            EngineError: the engine is closed, or a tensor is unknown, misshapen or of another dtype.
        """
        self._check_open()
        held = [self._feed(name, array) for name, array in tensors.items()]
        self._cuda.synchronize(self._stream)
        del held

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """The outputs for ``feeds`` and the bound inputs; the next run overwrites them.

        A frame may be a :class:`DeviceFrame`: it is then copied within the GPU.

        Raises:
            EngineError: as ``bind``; or an input was never given; or the library failed.
            FrameError: a frame on the GPU cannot be read there.
        """
        self._check_open()
        held = [self._feed(name, array) for name, array in feeds.items()]
        if self._missing:
            raise EngineError(
                f"{self.name} got no {', '.join(sorted(self._missing))}: bind or feed every input before the first run"
            )
        on_device = isinstance(feeds.get(FRAME), DeviceFrame)
        if self._graph is None:
            (self._frame_on_device if on_device else self._frame)()
        else:
            self._cuda.launch(self._device_graph if on_device else self._graph, self._stream)
        self._cuda.synchronize(self._stream)
        del held
        np.copyto(self._kept, self._out.host)
        return self._results

    def compute(self) -> None:
        """Run the library's own work on what the inputs hold, with a wait and without any copy: the bare engine, to be timed.

        As one graph launch if ``run`` is one; the first call captures it.

        Raises:
            EngineError: the engine is closed or the library failed.
        """
        self._check_open()
        if self._graph is None:
            self._enqueue()
        else:
            if self._bare_graph is None:
                self._bare_graph = self._cuda.capture(self._stream, self._enqueue)
                self._resources.callback(self._cuda.destroy_graph, self._bare_graph)
            self._cuda.launch(self._bare_graph, self._stream)
        self._cuda.synchronize(self._stream)

    def close(self) -> None:
        """Free everything; the small outputs of the last run stay readable. May be called twice."""
        if not self._closed:
            self._closed = True
            self._resources.close()

    def __del__(self) -> None:
        # An engine nobody closed would keep its GPU memory for the life of the process.
        if hasattr(self, "_resources"):
            with suppress(Exception):
                self.close()

    def _frame(self) -> None:
        self._in.send(self._stream)
        self._enqueue()
        self._out.fetch(self._stream)

    def _frame_on_device(self) -> None:
        self._in.send(self._stream, self._in.offsets[FRAME])
        self._enqueue()
        self._out.fetch(self._stream)

    def _feed(self, name: str, array: Any) -> Any:
        """Put one input in its place; what must live until the stream has waited."""
        spec = self.inputs.get(name)
        if spec is None:
            raise EngineError(f"{self.name} got the unknown input {name!r}, expected {sorted(self.inputs)}")
        if isinstance(array, DeviceFrame):
            self._missing.discard(name)
            return self._feed_device_frame(name, spec, array)
        if array.shape != spec.shape or array.dtype != spec.dtype:
            got = f"{array.dtype}{list(array.shape)}"
            raise EngineError(f"{self.name} got {name!r} as {got}, expected {spec.dtype}{list(spec.shape)}")
        self._missing.discard(name)
        view = self._in.views.get(name)
        if view is None:
            array = np.ascontiguousarray(array)
            self._cuda.copy(self._addresses[name], array.ctypes.data, array.nbytes, self._stream)
        elif array.__array_interface__["data"][0] != view.__array_interface__["data"][0]:
            np.copyto(view, array)
        return array

    def _feed_device_frame(self, name: str, spec: TensorSpec, frame: DeviceFrame) -> Any:
        if name != FRAME or frame.spec != spec:
            got = f"{frame.dtype}{list(frame.shape)}"
            raise FrameError(f"got {name!r} on the GPU as {got}, expected {spec.dtype}{list(spec.shape)} for {FRAME!r}")
        pixels = frame.borrow(int(self._stream))
        if pixels.producer is not None:
            self._cuda.wait_for(self._stream, pixels.producer)
        rows = frame.shape[0]
        self._cuda.copy_rows(self._addresses[name], pixels.address, pixels.pitch_bytes, frame.row_bytes, rows, self._stream)
        return pixels

    def _read(self, name: str) -> Array:
        spec = self.outputs.get(name)
        if spec is None:
            raise KeyError(name)
        self._check_open()
        array: Array = np.empty(spec.shape, spec.dtype)
        self._cuda.copy(array.ctypes.data, self._addresses[name], array.nbytes, self._stream)
        self._cuda.synchronize(self._stream)
        return array

    def _warm_up(self) -> None:
        """One run, in which libraries allocate and compile what they need, on values that no operation chokes on."""
        for name, values in ((STATE_IN, STATE_FOR_WARM_UP), (BOX, BOX_FOR_WARM_UP), (RATE, (1.0,))):
            if name in self._in.views:
                self._in.views[name][...] = np.array(values, dtype=np.float32)
        if TONE in self._in.views:
            tone = self._in.views[TONE]
            # The levels of black come before those of white.
            tone[...] = np.linspace(0.0, 65535.0, tone.size).reshape(tone.shape)
        for name, spec in self.inputs.items():
            if name not in self._in.views:
                self._cuda.clear(self._addresses[name], size_bytes(spec), self._stream)
        self._frame()
        self._cuda.synchronize(self._stream)

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError(f"the engine {self.name!r} is closed: open the tracker again")


def size_bytes(spec: TensorSpec) -> int:
    """Bytes of a tensor."""
    return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize


def views(block: Array, specs: Mapping[str, TensorSpec], offsets: Mapping[str, int]) -> dict[str, Array]:
    """The tensors that lie in a uint8 block."""
    return {
        name: block[offsets[name] : offsets[name] + size_bytes(spec)].view(spec.dtype).reshape(spec.shape)
        for name, spec in specs.items()
    }
