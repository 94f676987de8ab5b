"""What the CPU engines share: input buffers allocated once, arrays adopted without a copy, outputs that are views."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np

from trackctl.runtime.contract import Array, TensorSpec
from trackctl.runtime.engine import EngineContext
from trackctl.runtime.errors import EngineError

# Below this a copy (0.3 us) is cheaper than handing the library a new address (2.5 us ONNX Runtime, 4.5 us OpenVINO).
COPIED_BYTES = 4096


class CpuEngine(EngineContext):
    """An engine whose library reads and writes numpy's own memory.

    A large array that comes again (the host crop's patch) is attached once and then read in place. Small, read-only and
    strided arrays are copied into buffers of the engine; so the state may be the ``next_state`` of the run before.

    Args:
        name: what computes it, for reports.
        inputs, outputs: the graph's tensors.
    """

    def __init__(self, name: str, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> None:
        self.name = name
        self.inputs: Mapping[str, TensorSpec] = dict(inputs)
        self.outputs: Mapping[str, TensorSpec] = dict(outputs)
        self._buffers: dict[str, Array] = {key: np.empty(spec.shape, spec.dtype) for key, spec in inputs.items()}
        self._results: dict[str, Array] = {key: np.empty(spec.shape, spec.dtype) for key, spec in outputs.items()}
        self._attached: dict[str, Array] = {}
        self._closed = False

    @abstractmethod
    def _attach(self, name: str, array: Array) -> None:
        """Make the library read this input from ``array`` from now on."""

    @abstractmethod
    def _compute(self) -> None:
        """Run the graph into ``_results``."""

    @abstractmethod
    def _release(self) -> None:
        """Let the library free the graph."""

    def bind(self, tensors: Mapping[str, Array]) -> None:
        """Keep copies of these inputs for all following runs.

        Raises:
            EngineError: the engine is closed, or a tensor is unknown, misshapen or of another dtype.
        """
        for name, array in tensors.items():
            self._feed(name, array, copy=True)

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """The outputs for ``feeds`` and the bound inputs; the next run overwrites them.

        Raises:
            EngineError: as ``bind``; or an input was never given; or the library failed.
        """
        for name, array in feeds.items():
            self._feed(name, array, copy=False)
        if len(self._attached) < len(self.inputs):
            missing = sorted(set(self.inputs) - set(self._attached))
            raise EngineError(f"{self.name} got no {', '.join(missing)}: bind or feed every input before the first run")
        self._compute()
        return self._results

    def _feed(self, name: str, array: Array, *, copy: bool) -> None:
        if self._closed:
            raise EngineError(f"the engine {self.name!r} is closed: open the tracker again")
        buffer = self._buffers.get(name)
        if buffer is None:
            raise EngineError(f"{self.name} got the unknown input {name!r}, expected {sorted(self.inputs)}")
        if array.shape != buffer.shape or array.dtype != buffer.dtype:
            raise EngineError(
                f"{self.name} got {name!r} as {array.dtype}{list(array.shape)}, expected {buffer.dtype}{list(buffer.shape)}"
            )
        # carray: C-contiguous, aligned and writeable, which is what the libraries can read in place.
        if copy or buffer.nbytes <= COPIED_BYTES or not array.flags.carray:
            buffer[...] = array
            array = buffer
        if self._attached.get(name) is not array:
            self._attach(name, array)
            self._attached[name] = array

    def close(self) -> None:
        """Release the library's memory; the outputs of the last run stay readable. May be called twice."""
        if not self._closed:
            self._closed = True
            self._release()
            self._attached.clear()
