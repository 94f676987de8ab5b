"""ONNX Runtime's CUDA provider over fixed GPU addresses (I/O binding), in our stream and without a wait of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trackctl.runtime.bundle import Bundle
from trackctl.runtime.contract import TensorSpec, check_tensors
from trackctl.runtime.engines.cuda import Cuda
from trackctl.runtime.engines.gpu import GpuEngine
from trackctl.runtime.engines.onnxruntime import spec_of
from trackctl.runtime.engines.tensorrt import Progress
from trackctl.runtime.errors import EngineError, MissingDependency

PROVIDER = "CUDAExecutionProvider"
# Operations on shapes, which need no GPU, stay on the CPU.
FALLBACK = "CPUExecutionProvider"
DEVICE = "cuda"
ADVICE = (
    "pip uninstall onnxruntime, then pip install 'trackctl[onnxruntime-gpu]' (both bring the same folder) with CUDA and cuDNN"
)


class OnnxRuntimeCudaEngine(GpuEngine):
    """A graph in an ONNX Runtime session on the GPU.

    Args:
        cuda: the GPU.
        graph_path: the ONNX file.
        inputs, outputs: the tensors it must have.
        mapped, graph: as for :class:`GpuEngine`. The library promises capture only for graphs without a node on the CPU.

    Raises:
        MissingDependency: ``onnxruntime`` is not installed.
        EngineError: this ONNX Runtime cannot compute on the GPU; or the file cannot be loaded or has other tensors.
    """

    def __init__(
        self,
        cuda: Cuda,
        graph_path: Path,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        *,
        mapped: bool | None = None,
        graph: bool = False,
    ) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependency("onnxruntime-gpu", "ONNX Runtime on the GPU", "onnxruntime-gpu") from error
        available = onnxruntime.get_available_providers()
        if PROVIDER not in available:
            raise EngineError(f"ONNX Runtime here has the providers {available}, expected {PROVIDER}: {ADVICE}")
        self._onnxruntime = onnxruntime
        self._graph_path = graph_path
        self._session: Any = None
        self._binding: Any = None
        self._options = onnxruntime.RunOptions()
        # The one wait of a frame is ours.
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        super().__init__(cuda, "onnxruntime cuda", inputs, outputs, mapped=mapped, graph=graph)

    @classmethod
    def open(
        cls, bundle: Bundle, key: str, *, progress: Progress | None = None, mapped: bool | None = None, graph: bool = False
    ) -> OnnxRuntimeCudaEngine:
        """The engine of a bundle's graph.

        Args:
            bundle: the bundle.
            key: the graph.
            progress: unused, for there is nothing to build.
            mapped, graph: as for the class.

        Raises:
            MissingDependency: cuda-python or ONNX Runtime is not installed.
            EngineError: no GPU answers, or ONNX Runtime cannot compute on it.
        """
        entry = bundle.graph(key)
        return cls(Cuda.open(), bundle.graph_path(key), entry.inputs, entry.outputs, mapped=mapped, graph=graph)

    def _prepare(self) -> None:
        options = self._onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # TF32 would compute with ten bits what the file calls float32.
        settings = {"user_compute_stream": str(int(self._stream)), "use_tf32": "0"} if PROVIDER != FALLBACK else {}
        wanted = list(dict.fromkeys((PROVIDER, FALLBACK)))
        try:
            self._session = session = self._onnxruntime.InferenceSession(
                str(self._graph_path), options, providers=[(PROVIDER, settings), *wanted[1:]]
            )
        except Exception as error:  # its exceptions share no base class of their own
            raise EngineError(f"ONNX Runtime cannot load {self._graph_path} on the GPU: {error}: {ADVICE}") from error
        # A provider that cannot load its libraries is left out without a word.
        if session.get_providers() != wanted:
            raise EngineError(f"ONNX Runtime computes on {session.get_providers()}, expected {wanted}: {ADVICE}")
        file = self._graph_path.name
        check_tensors(f"the inputs of {file}", self.inputs, {port.name: spec_of(port) for port in session.get_inputs()})
        check_tensors(f"the outputs of {file}", self.outputs, {port.name: spec_of(port) for port in session.get_outputs()})
        self._binding = binding = session.io_binding()
        for name, spec in self.inputs.items():
            binding.bind_input(name, DEVICE, 0, np.dtype(spec.dtype), spec.shape, self._addresses[name])
        for name, spec in self.outputs.items():
            binding.bind_output(name, DEVICE, 0, np.dtype(spec.dtype), spec.shape, self._addresses[name])

    def _enqueue(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding, self._options)
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed on the GPU: {error}") from error

    def _release(self) -> None:
        self._binding = self._session = None
