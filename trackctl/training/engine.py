"""A PyTorch model behind the Engine seam, so that it runs through the same Tracker as its exported graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from trackctl.runtime.contract import (
    CLS,
    LOC,
    PREVIOUS,
    QUALITY_OUT,
    RATE,
    SCORE,
    SEARCH_PATCH,
    STATE,
    STATE_IN,
    STATE_OUT,
    TEMPLATE_PATCH,
    Array,
    TensorSpec,
)
from trackctl.runtime.engine import FunctionEngine
from trackctl.training.model import SearchGraph, TemplateGraph, TrackerModel

SEARCH_OUTPUTS = (STATE_OUT, SCORE, QUALITY_OUT, CLS, LOC)


def example_inputs(model: TrackerModel) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Mid-grey inputs of the template and of the search patch graph, by name in the graphs' order, float32, batch 1."""
    sizes = model.crop.template_size, model.crop.search_size
    template, search = (torch.full((1, model.channels, size, size), 127.0) for size in sizes)
    with torch.inference_mode():
        made = TemplateGraph(model).eval()(template)
    named = dict(zip(model.template_outputs, made, strict=True))
    update = {RATE: torch.ones(1, 1)} if model.kept_names else {}
    update |= {PREVIOUS + name: torch.zeros_like(named[name]) for name in model.kept_names}
    memory = {name: named[name] for name in model.memory_names}
    return {TEMPLATE_PATCH: template, **update}, {SEARCH_PATCH: search, STATE_IN: torch.full((1, len(STATE)), 64.0), **memory}


def torch_engines(model: TrackerModel) -> tuple[FunctionEngine, FunctionEngine]:
    """Engines of the model's template and search patch graphs, on the CPU; the model is put in evaluation mode."""
    template, search = example_inputs(model.eval())
    return (
        module_engine(TemplateGraph(model), template, model.template_outputs, "pytorch template"),
        module_engine(SearchGraph(model), search, SEARCH_OUTPUTS, "pytorch"),
    )


def module_engine(graph: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], name: str) -> FunctionEngine:
    """An engine around a module.

    Args:
        graph: takes the inputs by position and returns a tensor per output.
        inputs: example inputs by name; they fix shapes and dtypes.
        outputs: names of the outputs.
        name: of the engine.
    """

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        with torch.inference_mode():
            results = graph(*(torch.from_numpy(np.require(feeds[key], requirements="W")) for key in inputs))
        return {key: result.numpy() for key, result in zip(outputs, results, strict=True)}

    examples = run({key: tensor.numpy() for key, tensor in inputs.items()})
    return FunctionEngine(run, _specs({key: tensor.numpy() for key, tensor in inputs.items()}), _specs(examples), name=name)


def _specs(arrays: Mapping[str, Array]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(str(array.dtype), array.shape) for name, array in arrays.items()}
