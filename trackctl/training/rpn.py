"""The SiamRPN++ head: depthwise correlation of template kernels with search features, per level, then a weighted sum of levels.

Shapes: B batch, L levels, C width, A anchors, template 7 -> 5 cells, search 31 -> 29 cells, response 25 cells.
Source: SiamRPN++ (Li et al., CVPR 2019, sections 3.2 and 3.3) and its public code.
Channel layout: cls t*A + a with t = background, foreground; loc d*A + a with d = dx, dy, dw, dh.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from trackctl.training.backbones import conv_bn


class RPNBranch(nn.Module):
    """One output (cls or loc) of one level: a convolution on either side of the correlation and two 1x1 after it."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.template = conv_bn(width, width, 3)
        self.search = conv_bn(width, width, 3)
        self.hidden = conv_bn(width, width, 1)
        self.out = nn.Conv2d(width, outputs, 1)
        # Starts at p = 1/2 and box = anchor.
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(cast(Tensor, self.out.bias))

    def forward(self, response: Tensor) -> Tensor:
        """Raw maps (B, outputs, 25, 25) for a response (B, C, 25, 25)."""
        return cast(Tensor, self.out(self.hidden(response)))


class RPNHead(nn.Module):
    """Both outputs of all levels.

    The three steps are separate so that the search side runs once for any number of kernels.

    Args:
        levels: L.
        width: C.
        anchors: A.
    """

    def __init__(self, *, levels: int, width: int, anchors: int) -> None:
        super().__init__()
        self.cls = nn.ModuleList(RPNBranch(width, 2 * anchors) for _ in range(levels))
        self.loc = nn.ModuleList(RPNBranch(width, 4 * anchors) for _ in range(levels))
        if levels > 1:
            self.cls_weight = nn.Parameter(torch.ones(levels))
            self.loc_weight = nn.Parameter(torch.ones(levels))

    @property
    def branches(self) -> tuple[list[RPNBranch], list[RPNBranch]]:
        """The branches of cls and of loc, one per level."""
        return cast(list[RPNBranch], list(self.cls)), cast(list[RPNBranch], list(self.loc))

    def template(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Correlation kernels (B, C, 5, 5) of cls and loc for template levels (B, C, 7, 7)."""
        cls, loc = self.branches
        return (
            [branch.template(level) for branch, level in zip(cls, levels, strict=True)],
            [branch.template(level) for branch, level in zip(loc, levels, strict=True)],
        )

    def search(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Search features (B, C, 29, 29) of cls and loc for search levels (B, C, 31, 31)."""
        cls, loc = self.branches
        return (
            [branch.search(level) for branch, level in zip(cls, levels, strict=True)],
            [branch.search(level) for branch, level in zip(loc, levels, strict=True)],
        )

    def forward(self, cls: Sequence[Tensor], loc: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Raw maps (B, 2A, 25, 25) and (B, 4A, 25, 25) for the responses (B, C, 25, 25) of each level."""
        cls_branches, loc_branches = self.branches
        cls_maps = [branch(response) for branch, response in zip(cls_branches, cls, strict=True)]
        loc_maps = [branch(response) for branch, response in zip(loc_branches, loc, strict=True)]
        if len(cls_maps) == 1:
            return cls_maps[0], loc_maps[0]
        return _fuse(cls_maps, self.cls_weight), _fuse(loc_maps, self.loc_weight)


def _fuse(maps: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Weighted sum of levels (SiamRPN++, equation 2, with softmaxed weights as in its public code)."""
    shares = torch.softmax(weight, dim=0)
    fused = maps[0] * shares[0]
    for level in range(1, len(maps)):
        fused = fused + maps[level] * shares[level]
    return fused
