"""The box-adaptive head of SiamBAN: distances to the box's sides instead of anchors, trained on ellipses round the target.

Shapes: B batch, L levels, C width, K = 25 * 25 points in row-major order, P and Q sampled positives and negatives.
Source: SiamBAN (Chen et al., CVPR 2020, sections 3.2 to 3.4) and its public code; the code is our own.
Channel layout: cls background, foreground; loc distances left, top, right, bottom from the point, patch px.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from trackctl.training.anchors import AnchorTargets, sample_places
from trackctl.training.decode import MAX_LOG_SIZE
from trackctl.training.losses import masked_mean
from trackctl.training.rpn import RPNBranch, RPNHead

# The distance that a fresh head predicts everywhere, px: half the side of a typical target. [ours] The paper's code starts at 1.
START_PX = 32.0


class DistanceBranch(RPNBranch):
    """The loc branch of one level: ``exp(scale * raw)`` with a learned scale."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 4)
        self.scale = nn.Parameter(torch.ones(()))
        nn.init.constant_(cast(Tensor, self.out.bias), math.log(START_PX))

    def forward(self, response: Tensor) -> Tensor:
        """Distances (B, 4, 25, 25) > 0 in patch px for a response (B, C, 25, 25)."""
        return torch.exp(torch.clamp(self.scale * super().forward(response), max=MAX_LOG_SIZE))


class BANHead(RPNHead):
    """Class logits and distances of all levels; the levels are summed with softmaxed weights, distances after their exp.

    Args:
        levels: L.
        width: C.
    """

    def __init__(self, *, levels: int, width: int) -> None:
        super().__init__(levels=levels, width=width, anchors=1)
        self.loc = nn.ModuleList(DistanceBranch(width) for _ in range(levels))


@dataclass(frozen=True, kw_only=True)
class PointSampling:
    """Numbers of sampled points.

    Attributes:
        positives: most positives sampled per pair.
        negatives: most negatives sampled per pair.
        distractors: most negatives sampled per negative pair.
    """

    positives: int = 16
    negatives: int = 48
    distractors: int = 16


def ellipse_labels(points: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Which points lie within the inner and which outside of the outer ellipse, bool (B, K) each (SiamBAN, equation 5).

    The outer ellipse touches the box's sides, the inner one has half its axes.

    Args:
        points: (1, 2, K) relative to the patch centre, patch px.
        boxes: (B, 4) centre x, y relative to the patch centre, width, height, patch px.
    """
    offset = points - boxes[:, :2, None]
    distance = (offset / boxes[:, 2:, None]).square().sum(dim=1)  # (B, K): 1/4 on the outer ellipse, 1/16 on the inner
    return distance < 1.0 / 16.0, distance > 1.0 / 4.0


def point_targets(
    points: Tensor, boxes: Tensor, positive: Tensor, *, sampling: PointSampling, generator: torch.Generator | None = None
) -> AnchorTargets:
    """Sampled points for a batch of pairs. A small target between points has no positives.

    Args:
        points: float32 (1, 2, K) relative to the patch centre, patch px.
        boxes: float32 (B, 4) as in :func:`ellipse_labels`; for a negative pair the distractor's, within whose inner ellipse the
            negatives lie.
        positive: bool (B,): whether the search patch shows the template's target.
        sampling: how many.
        generator: source of the random choice; the global one if None.
    """
    inner, outside = ellipse_labels(points, boxes)
    shown = positive[:, None]
    draw = torch.rand(inner.shape, generator=generator, device=inner.device)
    positives, positive_mask = sample_places(inner & shown, draw, sampling.positives)
    negatives, negative_mask = sample_places(torch.where(shown, outside, inner), draw, sampling.negatives)
    few = torch.arange(sampling.negatives, device=inner.device) < sampling.distractors
    return AnchorTargets(positives, positive_mask, negatives, negative_mask * (shown | few), boxes)


def wanted_distances(points: Tensor, targets: AnchorTargets) -> Tensor:
    """Distances left, top, right, bottom (B, 4, P) from the sampled positive points to the target's sides, patch px."""
    chosen = points.expand(targets.positive.shape[0], -1, -1).gather(2, targets.positive[:, None].expand(-1, 2, -1))
    centre, half = targets.boxes[:, :2, None], targets.boxes[:, 2:, None] / 2
    return torch.cat((chosen - (centre - half), (centre + half) - chosen), dim=1)


def distance_iou(predicted: Tensor, wanted: Tensor) -> Tensor:
    """(intersection + 1) / (union + 1) of boxes round the same point, (B, P), as SiamBAN's public code has it.

    Args:
        predicted: (B, 4, P) distances left, top, right, bottom > 0.
        wanted: likewise.
    """
    near = torch.minimum(predicted, wanted)
    inter, own, other = ((d[:, 0] + d[:, 2]) * (d[:, 1] + d[:, 3]) for d in (near, predicted, wanted))
    return (inter + 1.0) / (own + other - inter + 1.0)


def distance_loss(loc: Tensor, points: Tensor, targets: AnchorTargets) -> Tensor:
    """Mean of 1 - IoU over the sampled positives; an exact 0 with a graph if there is none.

    Args:
        loc: (B, 4, 25, 25) distances.
        points: (1, 2, K).
        targets: sampled points.
    """
    predicted = loc.flatten(2).gather(2, targets.positive[:, None].expand(-1, 4, -1)).float()
    return masked_mean(1.0 - distance_iou(predicted, wanted_distances(points, targets)), targets.positive_mask)
