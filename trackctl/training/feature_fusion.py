"""Modules that turn the features of two registered cameras into one map per level, and the loss that ties it to both.

Shapes: B batch, C width, n cells (7 template, 31 search); the same weights serve template and search.
Sources: LRRNet (Li et al., TPAMI 2023, section 5) for the low-rank module and the loss; DFAT's residual fusion network (RFN-Nest,
Li et al., Information Fusion 2021) for comparison. What they leave open is marked [ours].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from trackctl.runtime.errors import InputError
from trackctl.training.backbones import conv_bn
from trackctl.training.lrr import LRRBranch, reflected_conv


class LowRankFusion(nn.Module):
    """A learned low-rank code per modality, a convolution back to the width of each, and one that joins the two.

    Args:
        width: C.
        code: channels of the code. [ours] 64 for 256; the paper's supplement, which gives it, cannot be had.
        blocks: steps of the code after the first. [ours] 4, as in the fusion of images.
    """

    def __init__(self, width: int, *, code: int = 64, blocks: int = 4) -> None:
        super().__init__()
        self.rgb, self.ir = (
            nn.Sequential(LRRBranch(width, code, blocks), reflected_conv(code, width)) for _ in range(2)
        )  # (B, C, n, n) -> (B, C, n, n)
        self.join = reflected_conv(2 * width, width)

    def forward(self, rgb: Tensor, ir: Tensor) -> Tensor:
        """The joint map (B, C, n, n), signed, of the two modalities' maps of that shape."""
        return cast(Tensor, self.join(torch.cat((self.rgb(rgb), self.ir(ir)), dim=1)))


class ResidualFusion(nn.Module):
    """A convolution over both maps and a residual: 1x1 per modality, then 1x1, 3x3 and 3x3 over both.

    Args:
        width: C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.initial = conv_bn(2 * width, width, 3, padding=1, relu=False)
        self.rgb, self.ir = conv_bn(width, width, 1), conv_bn(width, width, 1)
        self.residual = nn.Sequential(
            conv_bn(2 * width, width, 1), conv_bn(width, width, 3, padding=1), conv_bn(width, width, 3, padding=1, relu=False)
        )

    def forward(self, rgb: Tensor, ir: Tensor) -> Tensor:
        """The joint map (B, C, n, n), signed, of the two modalities' maps of that shape."""
        initial: Tensor = self.initial(torch.cat((rgb, ir), dim=1))
        return initial + cast(Tensor, self.residual(torch.cat((self.rgb(rgb), self.ir(ir)), dim=1)))


@dataclass(frozen=True, kw_only=True)
class LevelTarget:
    """What the joint map of one level shall resemble.

    Attributes:
        weight: of the mean squared difference.
        rgb, ir: weights of the two modalities in the target.
        gram: whether the channels' Gram matrices are compared rather than the maps.
    """

    weight: float
    rgb: float
    ir: float
    gram: bool = False


# For conv3, conv4, conv5: detail from the visible camera, shape and statistics from both. The targets are up to three times as
# large as the features that a frozen head has learnt on.
PAPER_TARGETS = (
    LevelTarget(weight=10.0, rgb=3.0, ir=0.0),
    LevelTarget(weight=2.0, rgb=1.0, ir=2.0),
    LevelTarget(weight=2000.0, rgb=1.0, ir=2.0, gram=True),
)
# [ours] A single level takes the middle one, scaled to what the frozen head knows.
SINGLE_TARGET = (LevelTarget(weight=2.0, rgb=1.0 / 3.0, ir=2.0 / 3.0),)


def gram(features: Tensor) -> Tensor:
    """The Gram matrices (B, C, C) of maps (B, C, n, n), divided by C n n (Johnson et al., ECCV 2016, equation 3)."""
    batch, channels, *cells = features.shape
    flat = features.reshape(batch, channels, -1)
    return torch.matmul(flat, flat.transpose(1, 2)) / float(channels * cells[0] * cells[1])


def resemblance(fused: Sequence[Tensor], modal: Sequence[Tensor], targets: Sequence[LevelTarget]) -> Tensor:
    """The sum over the levels of ``weight mse(fused, wr rgb + wi ir)``; of Gram matrices where the target says so.

    Args:
        fused: per level (B, C, n, n).
        modal: per level (2, B, C, n, n), visible and thermal.
        targets: one per level.

    Raises:
        InputError: the numbers of levels differ.
    """
    if not len(fused) == len(modal) == len(targets):
        raise InputError(f"got {len(targets)} level targets for {len(fused)} levels, expected one per level")
    losses = []
    for joint, (visible, thermal), target in zip(fused, modal, targets, strict=True):
        if target.gram:
            joint, visible, thermal = gram(joint.float()), gram(visible.float()), gram(thermal.float())
        wanted = target.rgb * visible + target.ir * thermal
        losses.append(target.weight * (joint - wanted).float().square().mean())
    return torch.stack(losses).sum()
