"""OpenVINO on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trackctl.runtime.contract import FRAME, SEARCH_PATCH, Array, TensorSpec, check_tensors
from trackctl.runtime.engines.cpu import CpuEngine
from trackctl.runtime.errors import EngineError, MissingDependency


def load_openvino() -> Any:
    """The package ``openvino``, imported without its telemetry.

    Importing it reports the import to a web server and writes into the user's home. With ``openvino_telemetry`` out of
    reach it falls back to its own silent stand-in.

    Raises:
        MissingDependency: it is not installed.
    """
    modules: dict[str, Any] = sys.modules
    hidden = "openvino" not in modules and "openvino_telemetry" not in modules
    if hidden:
        modules["openvino_telemetry"] = None
    try:
        import openvino
    except ImportError as error:
        raise MissingDependency("openvino", "OpenVINO", "openvino") from error
    finally:
        if hidden:
            del modules["openvino_telemetry"]
    return openvino


class OpenVinoEngine(CpuEngine):
    """A graph compiled for latency, its inputs and outputs in numpy's memory.

    An fp16 bundle is computed in bfloat16 where the CPU has it, else in float32, and so is what the search graph of an int8
    bundle leaves in float. An fp32 bundle and the template of an int8 one, which runs once
    per target, are computed in float32. OpenVINO keeps everything behind the last convolution or matrix product, which is all
    of Decode, in float32; Crop lies before them, so a graph that takes whole frames is computed in float32.
    """

    def __init__(
        self, openvino: Any, compiled: Any, name: str, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
    ) -> None:
        super().__init__(name, inputs, outputs)
        self._tensor = openvino.Tensor
        self._request = compiled.create_infer_request()
        self._index = {name: index for index, name in enumerate(inputs)}
        for index, array in enumerate(self._results.values()):
            self._request.set_output_tensor(index, self._tensor(array, shared_memory=True))

    @classmethod
    def open(
        cls,
        graph_path: Path,
        *,
        expected_inputs: Mapping[str, TensorSpec],
        expected_outputs: Mapping[str, TensorSpec],
        threads: int | None,
        precision: str,
    ) -> OpenVinoEngine:
        """The engine of an ONNX file.

        Args:
            graph_path: the file.
            expected_inputs, expected_outputs: the tensors the graph must have.
            threads: CPU threads; None leaves the number to the library.
            precision: the bundle's: ``fp32``, ``fp16`` or ``int8``.

        Raises:
            MissingDependency: ``openvino`` is not installed.
            EngineError: the file cannot be compiled or has other tensors.
        """
        openvino = load_openvino()
        try:
            core = openvino.Core()
            bfloat16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            # Always given: the default is silently half precision on some CPUs.
            half = precision == "fp16" or (precision == "int8" and SEARCH_PATCH in expected_inputs)
            hint = "bf16" if half and bfloat16 and FRAME not in expected_inputs else "f32"
            options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": hint}
            if threads is not None:
                options["INFERENCE_NUM_THREADS"] = threads
            model = core.read_model(str(graph_path))
            inputs, outputs = _specs(model.inputs), _specs(model.outputs)
            check_tensors(f"the inputs of {graph_path.name}", expected_inputs, inputs)
            check_tensors(f"the outputs of {graph_path.name}", expected_outputs, outputs)
            compiled = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot compile {graph_path}: {error}: export the bundle again") from error
        return cls(openvino, compiled, f"openvino {hint} x{threads or 'auto'}", inputs, outputs)

    def _attach(self, name: str, array: Array) -> None:
        self._request.set_input_tensor(self._index[name], self._tensor(array, shared_memory=True))

    def _compute(self) -> None:
        try:
            self._request.infer(share_outputs=True)
        except RuntimeError as error:
            raise EngineError(f"{self.name} failed: {error}") from error

    def _release(self) -> None:
        self._request = None


def _specs(ports: Any) -> dict[str, TensorSpec]:
    """The tensors in the graph's order, by which ports are addressed: compiling may add and merge names."""
    return {port.any_name: _spec(port) for port in ports}


def _spec(port: Any) -> TensorSpec:
    # A dynamic axis has no length; -1 makes the contract check name it.
    shape = tuple(axis.get_length() if axis.is_static else -1 for axis in port.get_partial_shape())
    return TensorSpec(port.get_element_type().to_dtype().name, shape)
