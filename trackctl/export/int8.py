"""Int8 graphs: explicit Q/DQ pairs before the convolutions of backbone, neck and heads.

Symmetric (zero point 0), int8 weights per channel, float32 bias: what TensorRT 10.3 to 11 and TensorRT-RTX build without flags or
calibrators, and what OpenVINO turns into integer kernels. ONNX Runtime's CPU kernels want asymmetric activations: there an int8
graph is slower than its float32 one.

Left in float32:

* the correlation and its kernels: a run-time kernel has no range known beforehand;
* the last convolution of each head: its logits decide the argmax;
* the first convolution: 0..255 in 127 steps loses a bit of the image, and TensorRT 10.16 has no int8 kernel for a 3-channel
  convolution fused with what follows;
* depthwise convolutions: one weight range per channel meets one activation range for all. Measured with NanoTrack V2 on four
  clips: the mean IoU of one step with the float tracker is 0.98 without them and 0.90 to 0.93 with them, at the same speed;
* Decode, and the template graph, which runs once per target and whose kernels enter the float correlation.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from trackctl.export.graphs import OPSET, anonymous
from trackctl.runtime.contract import CLS, LOC, SEARCH_PATCH, Array
from trackctl.runtime.errors import InputError

Method = Literal["minmax", "entropy", "percentile"]

# Mean IoU of one step with the float tracker, four clips of 60 to 100 frames: NanoTrack V1, V2, V3, dcfg-edge
#   minmax 0.950 0.981 0.984 0.988   entropy 0.952 0.981 0.981 0.984   percentile 0.955 0.982 0.984 0.986
# No method is better by more than the clips differ; minmax takes a quarter of the time.
DEFAULT_METHOD: Method = "minmax"

_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


def quantise(graph: onnx.ModelProto, feeds: Sequence[Mapping[str, Array]], *, method: Method = DEFAULT_METHOD) -> onnx.ModelProto:
    """The search graph with int8 convolutions; the argument is not changed.

    Args:
        graph: float32 search patch graph with BatchNorm folded.
        feeds: inputs that the graph met while tracking (:mod:`trackctl.calibration.record`).
        method: how a tensor's range follows from the values seen.

    Raises:
        InputError: no feeds, or an unknown method.
    """
    if method not in _METHODS:
        raise InputError(f"got the calibration method {method!r}, expected one of {', '.join(get_args(Method))}")
    if not feeds:
        raise InputError("got no calibration inputs, expected at least one frame: calibrate on a clip of two frames or more")
    nodes = quantised_convolutions(graph)
    with _quiet_quantiser(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            copy.deepcopy(graph),  # the quantiser moves the weights of its argument to files
            path,
            _Feeds(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_quantize=nodes,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=_METHODS[method],
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                # Convolution, activation, Q: TensorRT and OpenVINO fuse the activation and the Q into the convolution.
                "OpTypesToExcludeOutputQuantization": ["Conv"],
                # Frame by frame, so that memory does not grow with the number of frames.
                "CalibStridedMinMax": 1,
            },
        )
        quantised = onnx.load(path)
    del quantised.opset_import[:]
    quantised.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    return anonymous(quantised)


def quantised_convolutions(graph: onnx.ModelProto) -> list[str]:
    """Names of the convolutions to quantise: see the head of this file."""
    kernels = {tensor.name: tensor for tensor in graph.graph.initializer}
    kept = last_convolutions(graph, CLS) | last_convolutions(graph, LOC)
    patch = next(value for value in graph.graph.input if value.name == SEARCH_PATCH)
    patch_channels = patch.type.tensor_type.shape.dim[1].dim_value
    return [
        node.name
        for node in graph.graph.node
        if node.op_type == "Conv"
        and node.name not in kept
        and node.input[1] in kernels
        and kernels[node.input[1]].dims[1] > max(patch_channels, 1)  # (out, in / groups, height, width)
    ]


def last_convolutions(graph: onnx.ModelProto, output: str) -> set[str]:
    """Names of the first convolutions met on every path from ``output`` back towards the inputs."""
    producer = {name: node for node in graph.graph.node for name in node.output}
    found: set[str] = set()
    seen: set[str] = set()
    pending = [output]
    while pending:
        name = pending.pop()
        node = producer.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.op_type == "Conv":
            found.add(node.name)
        else:
            pending.extend(node.input)
    return found


class _Feeds(CalibrationDataReader):  # type: ignore[misc]
    """The recorded inputs in the form that the calibrators read them."""

    def __init__(self, feeds: Sequence[Mapping[str, Array]]) -> None:
        self._feeds = feeds
        self.set_range(0, len(feeds))

    def __len__(self) -> int:
        return len(self._feeds)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Read only these frames next."""
        self._next = iter(self._feeds[start_index:end_index])

    def get_next(self) -> dict[str, Any] | None:
        """The next frame's inputs, None after the last."""
        feed = next(self._next, None)
        return None if feed is None else dict(feed)


@contextlib.contextmanager
def _quiet_quantiser() -> Iterator[None]:
    # The quantiser recommends its own preprocessing through the root logger (the graphs are already optimised) and prints.
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
