"""Patch graphs: a model's template and search functions as self-contained ONNX files.

The graphs are static (batch 1, or one search for several targets), opset 18, IR 9, float32 at the border whatever the Core's
precision, and byte for byte the same each time: nothing of the machine that wrote them stays inside.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import onnx
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.fusion import fuse_conv_bn_weights

from trackctl.training.engine import SEARCH_OUTPUTS, example_inputs
from trackctl.training.model import SearchGraph, TemplateGraph, TrackerModel

Role = Literal["template", "search"]

# TensorRT 10.0 (JetPack 6) reads opset 9..20; quantisation above 19 would write types that it cannot read.
OPSET = 18
IR_VERSION = 9


def fold_batch_norm(model: TrackerModel) -> TrackerModel:
    """A copy of the model in evaluation mode with every BatchNorm folded into the convolution that feeds it.

    The pairs are found by running the model once and watching which convolution's output each BatchNorm receives. A BatchNorm
    that is fed by something else, or by several convolutions, stays.
    """
    folded = copy.deepcopy(model).eval()
    feeders: dict[nn.BatchNorm2d, set[nn.Conv2d | None]] = {}
    readers: dict[nn.Conv2d, set[nn.BatchNorm2d]] = {}
    for conv, norm in _observed_pairs(folded):
        feeders.setdefault(norm, set()).add(conv)
        if conv is not None:
            readers.setdefault(conv, set()).add(norm)
    for name, norm in list(folded.named_modules(remove_duplicate=False)):
        sources = feeders.get(norm, set()) if isinstance(norm, nn.BatchNorm2d) else set()
        if len(sources) != 1 or (conv := next(iter(sources))) is None or len(readers[conv]) != 1:
            continue
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        parent, _, leaf = name.rpartition(".")
        setattr(folded.get_submodule(parent), leaf, nn.Identity())
    return folded


def _observed_pairs(model: TrackerModel) -> list[tuple[nn.Conv2d | None, nn.BatchNorm2d]]:
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # keeps the tensors alive, so that an id names one tensor only
    pairs: list[tuple[nn.Conv2d | None, nn.BatchNorm2d]] = []

    def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            made[id(output)] = (module, output)
        elif isinstance(module, nn.BatchNorm2d):
            conv, _ = made.get(id(inputs[0]), (None, None))
            pairs.append((conv, module))

    handles = [
        module.register_forward_hook(watch) for module in model.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)
    ]
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():  # who feeds whom is all that is asked
        _, search = example_inputs(model)
        SearchGraph(model)(*search.values())
    for handle in handles:
        handle.remove()
    return pairs


def export_patch_graph(model: TrackerModel, role: Role, *, targets: int = 1) -> onnx.ModelProto:
    """The checked ONNX graph of one role: Core and Decode, static shapes, weights inside.

    template: ``template`` [, ``rate``, previous...] -> memory [, kept...].
    search: ``search``, ``state``, memory -> ``next_state``, ``score``, ``quality``, ``cls``, ``loc``.

    Args:
        model: see :func:`fold_batch_norm` and :func:`trackctl.export.precision.half_core`; exported in evaluation mode.
        role: which of the two functions.
        targets: batch of the search graph; every input has as many times the rows of one target's.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):  # shapes alone matter, and half precision is slow on a CPU
        shown = example_inputs(model.eval())
    template, search = ({name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in part.items()} for part in shown)
    if role == "template":
        return export_module(TemplateGraph(model), template, model.template_outputs)
    batched = {name: torch.cat([tensor] * targets) for name, tensor in search.items()}
    return export_module(SearchGraph(model), batched, SEARCH_OUTPUTS)


def export_module(
    module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], *, dynamic_shapes: Any = None
) -> onnx.ModelProto:
    """The checked, anonymous ONNX graph of a module for inputs of exactly these names, shapes and dtypes.

    ``dynamic_shapes`` leaves axes open, as in ``torch.export``.
    """
    with _quiet_exporter(), torch.inference_mode():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            dynamic_shapes=dynamic_shapes,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    return anonymous(program.model_proto)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    # The exporter reports missing torchvision through its logger and trips over its own deprecations.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*treespec.*")
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch|onnxscript|onnx_ir|copyreg")
            yield
    finally:
        logger.setLevel(level)


def anonymous(model: onnx.ModelProto) -> onnx.ModelProto:
    """The checked model as opset 18, IR 9 and without anything that tells where or how it was made; the argument is changed.

    Raises:
        onnx.checker.ValidationError: the graph is not valid ONNX.
    """
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version, model.domain, model.doc_string = "trackctl", "", "", ""
    graph = model.graph
    graph.name = "trackctl"
    graph.doc_string = ""
    clear: Callable[[object], None] = _clear_notes
    for owner in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        clear(owner)
    onnx.checker.check_model(model, full_check=True)
    return model


def _clear_notes(owner: object) -> None:
    for field in ("metadata_props", "doc_string"):
        if hasattr(owner, field):
            owner.ClearField(field)  # type: ignore[attr-defined]
