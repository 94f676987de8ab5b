"""LRRNet in a form that moves less memory, for export; the same function as :class:`trackctl.training.lrrnet.LRRNet`.

The code Z has 256 channels, everything else has one. So all that is done to Z is done pixel by pixel, and neighbours meet in maps
of few channels:

* ``C1 * Z`` is a 1x1 convolution to nine taps, which are padded by reflection and then added up with their shifts. Reflecting
  the taps is reflecting Z, at a thirtieth of the memory.
* ``h(x) = x - clip(x, -theta, theta)`` for theta >= 0, which engines join with the step before into one pass over Z. The few
  channels with a negative theta go through the definition of h, beside the others.
* One branch ends in its two one-channel parts before the other begins, so one Z is alive at a time.

Shapes: B batch, M code channels, T = 9 taps. Images (B, 1, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trackctl.training.lrr import LRRBranch, shrink
from trackctl.training.lrrnet import LRRNet

# Maps (B, C, H, W) to (B, C, H + 2, W + 2) with the neighbours that a 3x3 convolution is to see.
Reflect = Callable[[Tensor], Tensor]

TAPS = 9


def reflect_border(maps: Tensor) -> Tensor:
    """The maps with a reflected border of one pixel."""
    return F.pad(maps, (1, 1, 1, 1), mode="reflect")


def fixed_conv(weight: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    """A convolution without padding that holds these values."""
    outputs, inputs, height, width = weight.shape
    conv = nn.Conv2d(inputs, outputs, (height, width), bias=bias is not None)
    conv.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return conv


def shift_sum(biases: Tensor) -> nn.Conv2d:
    """The convolution that adds up the shifted taps of K maps: (B, K T, H + 2, W + 2) -> (B, K, H, W)."""
    count = biases.shape[0]
    one_hot = torch.zeros(count, count, TAPS, TAPS)
    one_hot[range(count), range(count)] = torch.eye(TAPS)
    return fixed_conv(one_hot.reshape(count, count * TAPS, 3, 3), biases)


def tap_weights(conv: nn.Conv2d) -> Tensor:
    """The weights (1, N, 3, 3) of a convolution to one map as those of a 1x1 convolution to its taps, (T, N, 1, 1)."""
    return conv.weight.detach()[0].flatten(1).T[:, :, None, None]


class LeanCode(nn.Module):
    """Some channels of a branch's code, from step to step.

    Args:
        branch: the branch.
        readers: the decoder's convolutions of the first and the second half of the code.
        kept: (M,) bool, its channels. The others are 0 throughout where ``definition`` is False, and left out where it is True:
            widths that are a multiple of the vector length are faster.
        definition: threshold by the definition, which holds for thresholds of any sign.
    """

    theta: Tensor
    lam: Tensor

    def __init__(self, branch: LRRBranch, readers: Sequence[nn.Conv2d], kept: Tensor, *, definition: bool) -> None:
        super().__init__()
        self.definition = definition
        chosen = torch.nonzero(kept).flatten() if definition else torch.arange(len(kept))
        mask = kept[chosen].float()

        def spread(conv: nn.Conv2d) -> nn.Conv2d:
            bias = cast(Tensor, conv.bias)
            return fixed_conv(conv.weight[chosen] * mask[:, None, None, None], bias[chosen] * mask)

        def taps(weights: Tensor) -> nn.Conv2d:
            return fixed_conv(weights[:, chosen])

        self.first = spread(branch.c0)
        self.steps = nn.ModuleList(spread(cast(nn.Conv2d, conv)) for conv in branch.c2)
        self.read = nn.ModuleList(taps(tap_weights(cast(nn.Conv2d, conv))) for conv in branch.c1)
        low, sparse = (F.pad(tap_weights(conv), (0, 0, 0, 0, *sides)) for conv, sides in zip(readers, _halves(kept), strict=True))
        self.read_parts = taps(torch.cat((low, sparse)))  # (2 T, M, 1, 1)
        self.register_buffer("theta", branch.theta.detach()[chosen, None, None] * mask[:, None, None])
        self.register_buffer("lam", branch.lam.detach().clone())

    def threshold(self, x: Tensor) -> Tensor:
        """The threshold h of (B, M, H, W)."""
        if self.definition:
            return shrink(x, self.theta[:, 0, 0])
        return x - torch.maximum(torch.minimum(x, self.theta), -self.theta)


def _halves(channels: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    """How many channels lie before and after the first and the second half."""
    half = len(channels) // 2
    return (0, len(channels) - half), (half, 0)


class LeanBranch(nn.Module):
    """An LRR branch of one input channel with the convolutions of the decoder that read its code.

    Args:
        branch: the branch.
        low, sparse: what reads the first and the second half of the code.
    """

    def __init__(self, branch: LRRBranch, low: nn.Conv2d, sparse: nn.Conv2d) -> None:
        super().__init__()
        readers = (low, sparse)
        negative = branch.theta.detach() < 0.0
        self.codes = nn.ModuleList([LeanCode(branch, readers, ~negative, definition=False)])
        if bool(negative.any()):
            self.codes.append(LeanCode(branch, readers, negative, definition=True))
        self.residuals = nn.ModuleList(shift_sum(cast(Tensor, cast(nn.Conv2d, conv).bias)) for conv in branch.c1)
        self.parts = shift_sum(torch.cat([cast(Tensor, conv.bias) for conv in readers]))

    def forward(self, x: Tensor, reflect: Reflect) -> Tensor:
        """The low-rank and the sparse part (B, 2, H, W) of an image (B, 1, H, W)."""
        groups = [cast(LeanCode, group) for group in self.codes]
        seen = reflect(x)
        codes = [group.threshold(group.first(seen)) for group in groups]
        for step, residual in enumerate(self.residuals):
            taps = _total(group.read[step](code) for group, code in zip(groups, codes, strict=True))  # (B, T, H, W)
            seen = reflect(x - residual(reflect(taps)))
            codes = [
                group.threshold(group.steps[step](seen) + group.lam * code) for group, code in zip(groups, codes, strict=True)
            ]
        taps = _total(group.read_parts(code) for group, code in zip(groups, codes, strict=True))  # (B, 2 T, H, W)
        parts: Tensor = self.parts(reflect(taps))
        return parts


def _total(maps: Iterable[Tensor]) -> Tensor:
    first, *others = maps
    for other in others:
        first = first + other
    return first


class LeanFusion(nn.Module):
    """The fusion network without its normalisations.

    Args:
        model: with the ``lrr`` extractor.
    """

    def __init__(self, model: LRRNet) -> None:
        super().__init__()
        self.ir = LeanBranch(cast(LRRBranch, model.ir), model.ir_low, model.ir_sparse)
        self.vi = LeanBranch(cast(LRRBranch, model.vi), model.vi_low, model.vi_sparse)
        low, sparse = model.fuse_low, model.fuse_sparse
        # The parts come as infrared low, sparse, visible low, sparse; "add" weighs both images alike.
        weights = torch.stack([low.weight[:, 0], sparse.weight[:, 0], low.weight[:, -1], sparse.weight[:, -1]], dim=1)
        self.decode = fixed_conv(weights, cast(Tensor, low.bias) + cast(Tensor, sparse.bias))

    def forward(self, ir: Tensor, vi: Tensor, reflect: Reflect = reflect_border) -> Tensor:
        """The fused image (B, 1, H, W), of any range, of two images (B, 1, H, W) in 0..1."""
        fused: Tensor = self.decode(reflect(torch.cat((self.ir(ir, reflect), self.vi(vi, reflect)), dim=1)))
        return fused
