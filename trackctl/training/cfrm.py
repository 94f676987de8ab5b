"""CFRM: every cell refined by what the whole map shows.

"BCR-Net: band and context refinement network for hyperspectral object tracking", context feature refinement module: a
non-local sum over positions (Wang et al., CVPR 2018), weighted per channel by a gate of the pooled map, added to the input.

Shapes: B batch, C width, d attention width, n x n cells, N = n n positions, M positions attended to.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ATTENTION_WIDTH = 32  # d [ours]


class CFRM(nn.Module):
    """Context refinement of one level (equation 13).

    The value projection starts at zero, so a fresh module changes nothing.

    Args:
        width: C.
        attention: d. [ours]
        pool: side in cells of the squares whose means are attended to; 1, single cells, is the paper's form. [ours]
    """

    def __init__(self, width: int, *, attention: int = ATTENTION_WIDTH, pool: int = 1) -> None:
        super().__init__()
        self.pool = pool
        self.scale = 1.0 / math.sqrt(attention)
        self.query = nn.Conv2d(width, attention, 1)
        self.key = nn.Conv2d(width, attention, 1)
        self.value = nn.Conv2d(width, width, 1)
        self.gate = nn.Conv2d(2 * width, width, 1)
        for parameter in self.value.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, n, n) refined."""
        query = self.query(x).flatten(2).transpose(1, 2) * self.scale  # (B, N, d)
        seen = F.avg_pool2d(x, self.pool, ceil_mode=True, count_include_pad=False) if self.pool > 1 else x
        attention = torch.softmax(torch.matmul(query, self.key(seen).flatten(2)), dim=2)  # (B, N, M)
        context = torch.matmul(seen.flatten(2), attention.transpose(1, 2)).reshape(x.shape)  # (B, C, n, n)
        pooled = torch.cat((x.mean(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)), dim=1)  # (B, 2 C, 1, 1)
        refinement: Tensor = torch.sigmoid(self.gate(pooled)) * self.value(context)
        return x + refinement
