"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trackctl.runtime.contract import Array, TensorSpec, check_tensors
from trackctl.runtime.engines.cpu import CpuEngine
from trackctl.runtime.errors import EngineError, MissingDependency
from trackctl.runtime.processor import Processor

PROVIDERS = ["CPUExecutionProvider"]
DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}


class OnnxRuntimeEngine(CpuEngine):
    """A graph in an ONNX Runtime session, its inputs and outputs bound to numpy's memory (IOBinding)."""

    def __init__(self, session: Any, name: str, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> None:
        super().__init__(name, inputs, outputs)
        self._session = session
        self._binding = session.io_binding()
        for output, array in self._results.items():
            self._binding.bind_ortvalue_output(output, _value(array))

    @classmethod
    def open(
        cls,
        graph_path: Path,
        *,
        expected_inputs: Mapping[str, TensorSpec],
        expected_outputs: Mapping[str, TensorSpec],
        threads: int | None,
        precision: str,
    ) -> OnnxRuntimeEngine:
        """The engine of an ONNX file.

        Args:
            graph_path: the file.
            expected_inputs, expected_outputs: the tensors the graph must have.
            threads: CPU threads; None leaves the number to the library.
            precision: the bundle's; ONNX Runtime computes what the file says, so it changes nothing here.

        Raises:
            MissingDependency: ``onnxruntime`` is not installed.
            EngineError: the file cannot be loaded or has other tensors.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependency("onnxruntime", "ONNX Runtime", "onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        # Threads that spin while they wait for the next node made two threads on two idle cores 13 to 37 % faster, and 70 %
        # slower where other programs wanted the cores. So they spin only if a core is left over, and never between frames.
        spare = threads is not None and threads < Processor.read().cores
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spare else "0")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            session = onnxruntime.InferenceSession(str(graph_path), options, providers=PROVIDERS)
        except Exception as error:  # its exceptions share no base class of their own
            raise EngineError(f"ONNX Runtime cannot load {graph_path}: {error}: export the bundle again") from error
        if session.get_providers() != PROVIDERS:
            raise EngineError(f"ONNX Runtime computes on {session.get_providers()}, expected {PROVIDERS}: reinstall onnxruntime")
        inputs = {port.name: spec_of(port) for port in session.get_inputs()}
        outputs = {port.name: spec_of(port) for port in session.get_outputs()}
        check_tensors(f"the inputs of {graph_path.name}", expected_inputs, inputs)
        check_tensors(f"the outputs of {graph_path.name}", expected_outputs, outputs)
        return cls(session, f"onnxruntime x{threads or 'auto'}", inputs, outputs)

    def _attach(self, name: str, array: Array) -> None:
        self._binding.bind_ortvalue_input(name, _value(array))

    def _compute(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise EngineError(f"{self.name} failed: {error}") from error

    def _release(self) -> None:
        self._binding = self._session = None


def _value(array: Array) -> Any:
    """An OrtValue over the array's own memory; the caller keeps the array alive."""
    import onnxruntime

    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def spec_of(port: Any) -> TensorSpec:
    """Dtype and shape of a session's input or output."""
    # A dynamic axis comes as a name; -1 makes the contract check name it.
    shape = tuple(size if isinstance(size, int) else -1 for size in port.shape)
    return TensorSpec(DTYPES.get(port.type, port.type), shape)
