"""Backbones, and the convolution block that they and the heads are made of.

Every backbone here has the same geometry: no padding in the strided layers, so that 127 -> 15 and 255 -> 31 cells of stride 8
and the centre of cell u lies on pixel 7 + 8u, the same for template and search.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn


class Backbone(nn.Module):
    """Base of the backbones.

    Attributes:
        channels: channels of each level that ``forward`` returns.
    """

    channels: tuple[int, ...]

    @abstractmethod
    def forward(self, patch: Tensor) -> list[Tensor]:
        """Levels (B, channels[l], n, n) of a patch (B, 3, N, N) in 0..255; n = 15 for N = 127 and 31 for N = 255."""


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    relu: bool = True,
) -> nn.Sequential:
    """Convolution without bias, batch normalisation and (with ``relu``) ReLU.

    Weights are drawn after He et al., ICCV 2015, equation 10 (fan in, so that depthwise kernels keep their variance too).
    """
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(outputs)]
    if relu:
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)
