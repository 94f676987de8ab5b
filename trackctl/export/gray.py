"""A tracker of colour patches as one of grey patches: the same boxes for a third of the crop and of the first convolution."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from trackctl.runtime.errors import ExportError
from trackctl.training.engine import example_inputs
from trackctl.training.model import SearchGraph, TrackerModel

COLOUR_CHANNELS = 3


def gray_model(model: TrackerModel) -> TrackerModel:
    """A copy in evaluation mode that takes patches (B, 1, N, N).

    A grey patch shown to the model is one plane three times over, so the convolution that reads it may as well read one plane
    through the sum of its three kernels. Whatever stands before that convolution treats all planes alike.

    Raises:
        ExportError: the model does not take colour patches, or does not begin with one convolution.
    """
    gray = copy.deepcopy(model).eval()
    readers: set[nn.Conv2d] = set()

    def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d) and module.in_channels == COLOUR_CHANNELS and module.groups == 1:
            readers.add(module)

    handles = [module.register_forward_hook(watch) for module in gray.modules() if isinstance(module, nn.Conv2d)]
    with torch.inference_mode():
        _, search = example_inputs(gray)
        SearchGraph(gray)(*search.values())
    for handle in handles:
        handle.remove()
    if gray.channels != COLOUR_CHANNELS or len(readers) != 1:
        raise ExportError(
            f"got a model of {gray.channels} channels whose patch enters {len(readers)} convolutions of three channels, "
            "expected three channels and one such convolution: export it without gray"
        )
    (first,) = readers
    first.weight = nn.Parameter(first.weight.detach().sum(dim=1, keepdim=True))
    first.in_channels = 1
    gray.channels = 1
    return gray
