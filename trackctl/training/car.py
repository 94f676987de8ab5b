"""The head of SiamCAR without its centre-ness branch, the labels of its points and their losses.

Shapes: B batch, C width, N response cells per side, K = N * N points in row-major order.
    response (B, C, N, N) -> cls (B, 2, N, N) logits, background then target; loc (B, 4, N, N) left, top, right, bottom, patch px
Source: SiamCAR (Guo et al., CVPR 2020, section 3.2) and its public code; the code is our own.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from trackctl.training.decode import MAX_LOG_SIZE
from trackctl.training.losses import masked_mean
from trackctl.training.siamban import distance_iou

DEPTH, NORM_GROUPS = 4, 32
# Focal loss's prior (Lin et al., ICCV 2017, section 4.1) as in the public code: both logits get its bias, which softmax ignores.
PRIOR = 0.01


def tower(width: int) -> nn.Sequential:
    """Convolutions 3x3 with group normalisation and ReLU; same shape."""
    layers: list[nn.Module] = []
    for _ in range(DEPTH):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(NORM_GROUPS, width), nn.ReLU()]
    return nn.Sequential(*layers)


class CARHead(nn.Module):
    """A tower and a convolution for each of cls and loc.

    Args:
        width: C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cls_tower, self.loc_tower = tower(width), tower(width)
        self.cls = nn.Conv2d(width, 2, 3, padding=1)
        self.loc = nn.Conv2d(width, 4, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(cast(Tensor, module.bias))
        nn.init.constant_(cast(Tensor, self.cls.bias), -math.log((1.0 - PRIOR) / PRIOR))

    def forward(self, response: Tensor) -> tuple[Tensor, Tensor]:
        """Raw maps cls (B, 2, N, N) and loc (B, 4, N, N), the latter float32 and > 0."""
        # exp in float32: a unit in the last place of a float16 logit is 0.4 % of a distance as it is.
        raw = self.loc(self.loc_tower(response)).float()
        return self.cls(self.cls_tower(response)), torch.exp(torch.clamp(raw, max=MAX_LOG_SIZE))


def side_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Distances left, top, right, bottom (B, 4, K) from every point to the box's sides, negative outside of them, patch px.

    Args:
        points: (1, 2, K) relative to the patch centre, patch px.
        boxes: (B, 4) centre x, y relative to the patch centre, width, height, patch px.
    """
    centre, half = boxes[:, :2, None], boxes[:, 2:, None] / 2
    return torch.cat((points - (centre - half), (centre + half) - points), dim=1)


def inside(distances: Tensor, boxes: Tensor, shrink: float) -> Tensor:
    """Which points (B, K) lie strictly inside the box shrunk about its centre.

    Args:
        distances: (B, 4, K) as :func:`side_distances` returns.
        boxes: (B, 4) likewise.
        shrink: 0 for the whole box to 1 for none of it; 0.6 is SiamCAR's own.
    """
    margin = shrink * boxes[:, 2:, None] / 2  # (B, 2, 1)
    return (distances > margin.repeat(1, 2, 1)).all(dim=1)


def car_losses(
    cls: Tensor, loc: Tensor, points: Tensor, boxes: Tensor, positive: Tensor, *, shrink: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Class loss and box loss of all points, float32; both exact zeros with a graph where nothing is to be learnt.

    The first is half the mean cross entropy of the positives plus half that of the negatives, the second the mean of -ln IoU over
    the positives (UnitBox: Yu et al., ACM MM 2016, section 3.1).

    Args:
        cls, loc: raw maps.
        points: (1, 2, K) relative to the patch centre, patch px.
        boxes: (B, 4) centre x, y relative to the patch centre, width, height, patch px.
        positive: bool (B,): whether the search patch shows the template's target; without it all points are negative.
        shrink: see :func:`inside`.
    """
    wanted = side_distances(points, boxes)
    is_positive = inside(wanted, boxes, shrink) & positive[:, None]  # (B, K)
    mask = is_positive.to(torch.float32)
    log_p = torch.log_softmax(cls.flatten(2).float(), dim=1)  # (B, 2, K)
    cls_loss = -0.5 * masked_mean(log_p[:, 1], mask) - 0.5 * masked_mean(log_p[:, 0], 1.0 - mask)
    # Outside of the box distances are negative and the logarithm is not defined, mask or not.
    overlap = distance_iou(loc.flatten(2).float(), wanted.clamp(min=0.0))
    return cls_loss, masked_mean(-torch.log(overlap), mask)
