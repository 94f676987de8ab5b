"""The neck: every backbone level brought to one width, and the template's centre crop.

Shapes: B batch, L levels, C width, n cells.
Source: SiamRPN++ (Li et al., CVPR 2019, section 3.2) and its public code: 1x1 convolution and BN, no ReLU; 15 -> 7 centre crop.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from trackctl.training.backbones import conv_bn

TEMPLATE_CELLS = 7


class Neck(nn.Module):
    """1x1 convolution and BN per level.

    Args:
        channels: channels of each level.
        width: C.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(conv_bn(inputs, width, 1, relu=False) for inputs in channels)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Levels (B, C, n, n), signed."""
        return [adjust(level) for adjust, level in zip(self.levels, levels, strict=True)]


def centre_crop(feature: Tensor, cells: int = TEMPLATE_CELLS) -> Tensor:
    """The central (..., cells, cells) of a map (..., n, n); a static slice in the graph."""
    start = (feature.shape[-1] - cells) // 2
    return feature[..., start : start + cells, start : start + cells]
