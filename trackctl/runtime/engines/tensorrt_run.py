"""TensorRT and TensorRT-RTX, the running side: an engine over fixed addresses, one CUDA graph launch per frame."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trackctl.runtime.atomic import write_whole
from trackctl.runtime.bundle import Bundle
from trackctl.runtime.contract import TensorSpec, check_tensors
from trackctl.runtime.engines.cuda import Cuda
from trackctl.runtime.engines.engine_cache import build_into_cache, engine_path, read_sound
from trackctl.runtime.engines.gpu import GpuEngine
from trackctl.runtime.engines.tensorrt import Progress, join_reasons, load_library, make_logger
from trackctl.runtime.errors import EngineError

KERNELS_SUFFIX = ".kernels"


class PlanError(EngineError):
    """The library refuses an engine file; building it anew may help."""


class TensorRtEngine(GpuEngine):
    """An engine file in an execution context.

    Args:
        cuda: the GPU.
        library: the module of ``tensorrt`` or ``tensorrt_rtx``.
        kind: which of the two.
        plan: the engine file's bytes.
        inputs, outputs: the tensors it must have.
        kernels: file of the kernels that TensorRT-RTX compiled on this GPU, read if it is there and written back.
        mapped, graph: as for :class:`GpuEngine`.

    Raises:
        PlanError: the library refuses the plan, or it has other tensors.
        EngineError: CUDA or the library failed; nothing stays allocated.
    """

    def __init__(
        self,
        cuda: Cuda,
        library: Any,
        kind: str,
        plan: bytes,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        *,
        kernels: Path | None = None,
        mapped: bool | None = None,
        graph: bool = True,
    ) -> None:
        self._trt, self._kind, self._plan = library, kind, plan
        self._logger = make_logger(library)
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._kernels: Any = None
        self._kernels_file = kernels
        super().__init__(cuda, kind, inputs, outputs, mapped=mapped, graph=graph)
        self._plan = b""
        self._save_kernels()

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        key: str,
        kind: str,
        *,
        progress: Progress | None = None,
        mapped: bool | None = None,
        graph: bool = True,
    ) -> TensorRtEngine:
        """The engine of a bundle's graph, from the bundle's cache; built first if the cache has none that is sound and accepted.

        Args:
            bundle: the bundle.
            key: the graph.
            kind: ``tensorrt`` or ``tensorrt_rtx``.
            progress: told of the builder's steps, from its threads; not called if nothing has to be built.
            mapped, graph: as for :class:`GpuEngine`.

        Raises:
            MissingDependency: cuda-python is not installed.
            EngineError: no GPU answers; or the library is missing, refuses the graph or does not run on this GPU.
        """
        cuda = Cuda.open()
        library = load_library(kind)
        entry = bundle.graph(key)
        path = engine_path(bundle, key, kind, library, cuda)

        def load(plan: bytes) -> TensorRtEngine:
            kernels = path.with_suffix(KERNELS_SUFFIX)
            return cls(cuda, library, kind, plan, entry.inputs, entry.outputs, kernels=kernels, mapped=mapped, graph=graph)

        plan = read_sound(path)
        if plan is not None:
            with contextlib.suppress(PlanError):
                return load(plan)
        build_into_cache(bundle, key, kind, cuda, progress)
        plan = read_sound(path)
        if plan is None:
            raise EngineError(f"{path} changed while it was read: is the disk full, or another program cleaning it? try again")
        return load(plan)

    # No local variable holds an object of the library: a traceback would keep it alive beyond the memory it works on.

    def _prepare(self) -> None:
        trt = self._trt
        try:
            self._runtime = trt.Runtime(self._logger)
        except (TypeError, RuntimeError) as error:  # what the bindings make of a runtime that did not come to be
            raise EngineError(f"{self._kind} cannot start on {self._cuda.gpu}: {self._reasons()}") from error
        self._engine = self._runtime.deserialize_cuda_engine(self._plan)
        if self._engine is None:
            raise PlanError(f"{self._kind} cannot load the engine on {self._cuda.gpu}: {self._reasons()}")
        found: dict[Any, dict[str, TensorSpec]] = {trt.TensorIOMode.INPUT: {}, trt.TensorIOMode.OUTPUT: {}}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            dtype = np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))).name
            found[self._engine.get_tensor_mode(name)][name] = TensorSpec(dtype, tuple(self._engine.get_tensor_shape(name)))
        try:
            check_tensors("the engine's inputs", self.inputs, found[trt.TensorIOMode.INPUT])
            check_tensors("the engine's outputs", self.outputs, found[trt.TensorIOMode.OUTPUT])
        except EngineError as error:
            raise PlanError(str(error)) from error
        self._create_context()
        if self._context is None:
            raise EngineError(f"{self._kind} cannot make an execution context on {self._cuda.gpu}: {self._reasons()}")
        for name, address in self._addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise EngineError(f"{self._kind} refuses an address for {name!r}: {self._reasons()}")

    def _create_context(self) -> None:
        # TensorRT 10.3 has no runtime configuration; of those that have, only TensorRT-RTX keeps compiled kernels.
        settings: Any = self._engine.create_runtime_config() if hasattr(self._engine, "create_runtime_config") else None
        if self._kernels_file is None or not hasattr(settings, "create_runtime_cache"):
            self._context = self._engine.create_execution_context()
            return
        self._kernels = settings.create_runtime_cache()
        with contextlib.suppress(OSError):
            # Kernels of another GPU, driver or version are refused by the library, which then compiles its own.
            self._kernels.deserialize(self._kernels_file.read_bytes())
        settings.set_runtime_cache(self._kernels)
        self._context = self._engine.create_execution_context(settings)

    def _save_kernels(self) -> None:
        if self._kernels is None or self._kernels_file is None:
            return
        with contextlib.suppress(OSError):
            content = bytes(memoryview(self._kernels.serialize()))
            if not self._kernels_file.exists() or self._kernels_file.read_bytes() != content:
                write_whole(self._kernels_file, content)

    def _capturable(self) -> bool:
        # Asked of TensorRT-RTX, which may want to compile a kernel in the middle.
        if not hasattr(self._context, "is_stream_capturable"):
            return True
        return bool(self._context.is_stream_capturable(int(self._stream)))

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(int(self._stream)):
            raise EngineError(f"{self._kind} failed: {self._reasons()}")

    def _release(self) -> None:
        # The library wants its objects freed before those they came from.
        self._context = self._kernels = None
        self._engine = None
        self._runtime = None

    def _reasons(self) -> str:
        return join_reasons(self._logger.reasons)
