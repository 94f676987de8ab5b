"""The seam between the tracker and whatever computes a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import NamedTuple, Protocol, runtime_checkable

from trackctl.runtime.contract import Array, TensorSpec
from trackctl.runtime.errors import EngineError


@runtime_checkable
class Engine(Protocol):
    """One loaded graph. Shapes and dtypes are checked once, at load; ``bind`` and ``run`` trust their caller.

    Attributes:
        name: what computes it, for reports, such as ``openvino bf16 x2``.
        inputs, outputs: the graph's tensors.
    """

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]

    def bind(self, tensors: Mapping[str, Array]) -> None:
        """Keep these inputs (the memory) for all following runs. The engine copies them."""

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """The outputs for the inputs that are not bound. The arrays returned may be overwritten by the next run."""

    def close(self) -> None:
        """Release the engine's memory. May be called twice."""


@runtime_checkable
class FrameBuffered(Protocol):
    """An engine on a GPU: it can be given frames that lie there, and sends others from a buffer of its own."""

    @property
    def frame_buffer(self) -> Array | None:
        """(H, W...) uint8, from which the next frame is sent; a frame written there is not copied on the host once more.

        Gone when the engine is closed, changed by a run with a frame that lies elsewhere. None if the graph takes patches.
        """


class Engines(NamedTuple):
    """What one tracker computes with.

    Attributes:
        template: of the template graph.
        search: of the search graph.
        near: of the search graph of the patch's middle; None: the whole window is searched always.
    """

    template: Engine
    search: Engine
    near: Engine | None = None

    def close(self) -> None:
        """Release all of them."""
        for engine in filter(None, self):
            engine.close()


class EngineContext:
    """Gives an engine ``with`` support."""

    def __enter__(self) -> EngineContext:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release the engine's memory."""


class FunctionEngine(EngineContext):
    """An engine around a callable, so that a PyTorch model runs through the same Tracker as a deployed engine."""

    def __init__(
        self,
        function: Callable[[Mapping[str, Array]], Mapping[str, Array]],
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        *,
        name: str = "function",
    ) -> None:
        self.name = name
        self.inputs: Mapping[str, TensorSpec] = dict(inputs)
        self.outputs: Mapping[str, TensorSpec] = dict(outputs)
        self._function: Callable[[Mapping[str, Array]], Mapping[str, Array]] | None = function
        self._bound: dict[str, Array] = {}

    def bind(self, tensors: Mapping[str, Array]) -> None:
        """Keep copies of these inputs for all following runs."""
        self._bound.update({name: tensor.copy() for name, tensor in tensors.items()})

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """The callable's outputs for the bound tensors and ``feeds``.

        Raises:
            EngineError: the engine is closed.
        """
        if self._function is None:
            raise EngineError(f"the engine {self.name!r} is closed: open the tracker again")
        return self._function({**self._bound, **feeds})

    def close(self) -> None:
        """Drop the callable and the bound tensors."""
        self._function = None
        self._bound.clear()
