"""ResNet-50 of stride 8: the last two stages dilated instead of strided, no padding where it strides.

Shapes: B batch, N patch side (127 or 255), n cells (15 or 31).

    conv1    7x7 stride 2, no padding          127 -> 61    255 -> 125     64
    pool     3x3 stride 2, padding 1            61 -> 31    125 -> 63      64
    layer1   3 bottlenecks                            31           63     256
    layer2   4, the first 3x3 stride 2, no padding    15           31     512
    layer3   6, dilation 1 then 2                     15           31    1024
    layer4   3, dilation 2 then 4                     15           31    2048

Sources: He et al., CVPR 2016, table 1; modified for tracking by SiamRPN++ (Li et al., CVPR 2019, section 3.2) and its code.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from trackctl.training.backbones import Backbone, conv_bn

EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 round a shortcut, which is a convolution where the shape changes.

    Args:
        inputs: input channels.
        width: channels of the 3x3; the output has four times as many.
        stride: 1, or 2 (without padding, unless ``padded``).
        dilation: of the 3x3.
        shortcut: kernel of the shortcut's convolution, 0 for the identity.
        padded: pad although it strides.
    """

    def __init__(
        self, inputs: int, width: int, *, stride: int = 1, dilation: int = 1, shortcut: int = 0, padded: bool = False
    ) -> None:
        super().__init__()
        outputs = width * EXPANSION
        padding = dilation if stride == 1 or padded else 0
        self.reduce = conv_bn(inputs, width, 1)
        self.spatial = conv_bn(width, width, 3, stride=stride, padding=padding, dilation=dilation)
        self.expand = conv_bn(width, outputs, 1, relu=False)
        self.shortcut: nn.Module = nn.Identity()
        if shortcut == 1:
            self.shortcut = conv_bn(inputs, outputs, 1, stride=stride, relu=False)
        elif shortcut:
            self.shortcut = conv_bn(inputs, outputs, shortcut, stride=stride, padding=padding, dilation=dilation, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4 width, n', n') of (B, inputs, n, n)."""
        return F.relu(self.expand(self.spatial(self.reduce(x))) + self.shortcut(x))


def _stage(inputs: int, width: int, blocks: int, *, stride: int = 1, dilation: int = 1, shortcut: int = 3) -> nn.Sequential:
    """A stage of dilation d, whose first block, the one with a shortcut convolution, uses d/2."""
    first = Bottleneck(inputs, width, stride=stride, dilation=max(1, dilation // 2), shortcut=shortcut)
    rest = [Bottleneck(width * EXPANSION, width, dilation=dilation) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


class ResNet50(Backbone):
    """Three levels of 512, 1024 and 2048 channels."""

    channels = (512, 1024, 2048)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv_bn(3, 64, 7, stride=2)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(64, 64, 3, shortcut=1)
        self.layer2 = _stage(256, 128, 4, stride=2)
        self.layer3 = _stage(512, 256, 6, dilation=2)
        self.layer4 = _stage(1024, 512, 3, dilation=4)

    def forward(self, patch: Tensor) -> list[Tensor]:
        """Levels conv3, conv4, conv5 (B, 512 | 1024 | 2048, n, n) of a patch (B, 3, N, N) in BGR 0..255."""
        x = self.layer1(self.pool(self.conv1(patch)))  # (B, 256, 31 | 63, ...)
        conv3 = cast(Tensor, self.layer2(x))  # (B, 512, n, n)
        conv4 = cast(Tensor, self.layer3(conv3))  # (B, 1024, n, n)
        return [conv3, conv4, cast(Tensor, self.layer4(conv4))]  # (B, 2048, n, n)
