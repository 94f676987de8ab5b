"""The learned low-rank representation: an unrolled sparse code of an image or of feature maps.

Source: LRRNet (Li et al., TPAMI 2023), section 3: ISTA on ``|X - D Z|`` and a sparse Z, with convolutions for products with D.
Shapes: B batch, C input channels, M code channels. All sizes are kept; reflection needs H, W >= 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def shrink(x: Tensor, theta: Tensor) -> Tensor:
    """The soft threshold ``sign(x) max(|x| - theta, 0)``, same shape.

    A negative theta, which trained weights do hold, pushes away from 0; it is not clamped, and ``shrink(0) = 0`` even then.

    Args:
        x: (B, M, H, W).
        theta: (M,), one threshold per channel.
    """
    return torch.sign(x) * torch.relu(torch.abs(x) - theta[:, None, None])


def reflected_conv(inputs: int, outputs: int, kernel: int = 3) -> nn.Conv2d:
    """A convolution with bias that keeps the size by reflection, the only kind that the paper uses."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, padding_mode="reflect")


class LRRBranch(nn.Module):
    """The code Z of an input X: ``Z_0 = h(C0 X)``, then per block ``Z_t = h(C2_t (X - C1_t Z_{t-1}) + lam Z_{t-1})``.

    h is :func:`shrink`; theta and lam are shared by all steps.

    Args:
        in_channels: C.
        code: M.
        blocks: steps after the first.
    """

    def __init__(self, in_channels: int = 1, code: int = 256, blocks: int = 4) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.rand(code))
        self.lam = nn.Parameter(torch.rand(()))
        self.c0 = reflected_conv(in_channels, code)
        self.c1 = nn.ModuleList(reflected_conv(code, in_channels) for _ in range(blocks))
        self.c2 = nn.ModuleList(reflected_conv(in_channels, code) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, M, H, W), signed."""
        code = shrink(self.c0(x), self.theta)
        for c1, c2 in zip(self.c1, self.c2, strict=True):
            code = shrink(c2(x - c1(code)) + self.lam * code, self.theta)
        return code
