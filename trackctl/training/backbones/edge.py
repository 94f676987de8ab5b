"""The light backbone: dense 3x3 convolutions, the form that int8 kernels of CPUs and tensor cores run best.

Shapes: B batch, N patch side (127 or 255), n cells (15 or 31).

    stem    3 -> 16 -> 32 -> 64, three valid 3x3 convolutions of stride 2    255 -> 127 -> 63 -> 31
    blocks  two residual blocks of 64 channels, dilation 1 then 2            receptive field 15 -> 47 -> 111 px

[ours] The papers use ResNet-50 only; widths, depth and the fixed input affine are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from trackctl.training.backbones import Backbone, conv_bn

# Grey levels 0..255 become -2..1.98: zero mean and unit spread for typical frames, exact in fp16.
GREY_MEAN, GREY_SPREAD = 128.0, 64.0


class ResidualBlock(nn.Module):
    """Two dense 3x3 convolutions round an identity shortcut (He et al., CVPR 2016, figure 2)."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.first = conv_bn(channels, channels, 3, padding=dilation, dilation=dilation)
        self.second = conv_bn(channels, channels, 3, padding=dilation, dilation=dilation, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as ``x``."""
        return F.relu(x + self.second(self.first(x)))


class EdgeBackbone(Backbone):
    """One level of stride 8.

    Args:
        stem: channels after each of the three strided convolutions.
        dilations: one residual block for each.
    """

    def __init__(self, *, stem: Sequence[int] = (16, 32, 64), dilations: Sequence[int] = (1, 2)) -> None:
        super().__init__()
        widths = (3, *stem)
        self.stem = nn.Sequential(*(conv_bn(a, b, 3, stride=2) for a, b in zip(widths, stem, strict=False)))
        self.blocks = nn.Sequential(*(ResidualBlock(stem[-1], dilation) for dilation in dilations))
        self.channels = (stem[-1],)

    def forward(self, patch: Tensor) -> list[Tensor]:
        """One level (B, 64, n, n) of a patch (B, 3, N, N) in 0..255."""
        x = (patch - GREY_MEAN) * (1.0 / GREY_SPREAD)
        return [self.blocks(self.stem(x))]  # (B, 64, n, n)
