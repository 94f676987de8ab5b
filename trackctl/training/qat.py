"""Training with the rounding of int8, so that the int8 bundle loses less.

The layers that :mod:`trackctl.export.int8` quantises round their weights (per output channel) and their input (per tensor) as the
engine will: symmetric, zero point 0. The gradient passes the rounding unchanged where nothing was clipped (Bengio et al.,
Estimating or propagating gradients through stochastic neurons, 2013, section 4; Jacob et al., CVPR 2018, section 3).

A scale per output channel commutes with the batch normalisation that is folded into the weights at export, so the rounding here
is the one of the folded weights. Layers that the template shares with the search round in both.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from trackctl.training.engine import example_inputs
from trackctl.training.model import TrackerModel

LEVELS = 127
# Share of a batch's largest value in the range of the activations. [ours]
RANGE_RATE = 0.05
LEAST = 1e-8


class FakeQuantConv2d(nn.Conv2d):
    """A convolution that computes in float what int8 would give; the same names and parameters as the one it replaces.

    Args:
        conv: whose parameters it takes over.

    Attributes:
        peak: moving average of the input's largest magnitude; 0 until the first batch. Not saved with the weights.
    """

    peak: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            cast(Any, conv.kernel_size),
            stride=cast(Any, conv.stride),
            padding=cast(Any, conv.padding),
            dilation=cast(Any, conv.dilation),
            groups=conv.groups,
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
            device="meta",
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.register_buffer("peak", torch.zeros((), device=conv.weight.device), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """As a convolution."""
        x = input.float()
        if self.training:
            with torch.no_grad():
                largest = x.abs().amax()
                self.peak.copy_(torch.where(self.peak > 0, self.peak.lerp(largest, RANGE_RATE), largest))
        zero = torch.zeros((), dtype=torch.int32, device=x.device)
        step = (self.peak / LEVELS).clamp(min=LEAST)
        rounded = torch.fake_quantize_per_tensor_affine(x, step, zero, -LEVELS, LEVELS)
        weight = self.weight.float()
        steps = (weight.detach().abs().amax(dim=(1, 2, 3)) / LEVELS).clamp(min=LEAST)
        zeros = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
        weight = torch.fake_quantize_per_channel_affine(weight, steps, zeros, 0, -LEVELS, LEVELS)
        convolved: Tensor = self._conv_forward(rounded, weight, self.bias)
        return convolved


def quantised_layers(model: TrackerModel) -> list[str]:
    """Names of the convolutions that int8 quantises: those of the search but its first, its last and the depthwise ones."""
    template, search = example_inputs(model)
    was_training = model.training
    model.eval()
    called: set[nn.Module] = set()
    hooks = [
        module.register_forward_hook(lambda module, *_: called.add(module))
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        with torch.no_grad():
            memory = model.template(next(iter(template.values())))
        called.clear()
        patch, *_ = search.values()
        with torch.enable_grad():
            outputs = model.search(patch, [tensor.detach() for tensor in memory])
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    last = {id(weight) for output in outputs for weight in _last_weights(output)}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
        and module in called
        and id(module.weight) not in last
        and module.weight.shape[1] > max(model.channels, 1)
    ]


def _last_weights(output: Tensor) -> list[Tensor]:
    """Weights of the convolutions met first on every path back from a tensor."""
    found, seen, pending = [], set(), [output.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().startswith("ConvolutionBackward"):
            source = node.next_functions[1][0]
            if source is not None and hasattr(source, "variable"):
                found.append(cast(Tensor, source.variable))
        else:
            pending.extend(parent for parent, _ in node.next_functions)
    return found


def fake_quantise(model: TrackerModel) -> list[str]:
    """Replace, in place, the layers that int8 quantises by ones that round; their names. Parameters keep names and identity."""
    names = quantised_layers(model)
    for name in names:
        parent = model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], FakeQuantConv2d(cast(nn.Conv2d, model.get_submodule(name))))
    return names


def ranges(model: nn.Module) -> dict[str, Tensor]:
    """The ranges of activations by layer; empty without fake quantisation."""
    return {name: module.peak for name, module in model.named_modules() if isinstance(module, FakeQuantConv2d)}
