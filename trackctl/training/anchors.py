"""Training targets of anchor heads: which anchors are positive, which negative, and where the target is.

Shapes: B batch, K = A * N * N anchors in the order anchor, row, column; P and Q sampled positives and negatives.
Source: SiamRPN++'s public code (IoU > 0.6 positive, < 0.3 negative, 16 and 48 sampled; negative pairs give 16 negatives within
3 cells of the distractor).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class AnchorSampling:
    """Thresholds and numbers of sampled anchors.

    Attributes:
        positive_iou: anchors above it are positive.
        negative_iou: anchors below it are negative.
        positives: most positives sampled per pair.
        negatives: most negatives sampled per pair.
        distractors: most negatives sampled per negative pair.
        window: half side in cells of the square round the distractor's centre where those are sampled.
        force_best: whether a target that no anchor reaches makes the best anchor positive. [ours] The papers are silent, and
            with False such a pair trains on negatives alone, so tiny, huge and long targets would never be learnt.
    """

    positive_iou: float = 0.6
    negative_iou: float = 0.3
    positives: int = 16
    negatives: int = 48
    distractors: int = 16
    window: int = 3
    force_best: bool = True


@dataclass(frozen=True)
class AnchorTargets:
    """Sampled anchors of a batch.

    Attributes:
        positive: int64 (B, P) anchor indices; positive_mask: float32 (B, P), 0 where the place is unused.
        negative: int64 (B, Q) and negative_mask: float32 (B, Q), likewise.
        boxes: float32 (B, 4) target centre x, y relative to the patch centre, width, height, patch px.
    """

    positive: Tensor
    positive_mask: Tensor
    negative: Tensor
    negative_mask: Tensor
    boxes: Tensor


def centred_boxes(boxes_xyxy: Tensor, patch_size: int) -> Tensor:
    """Boxes (B, 4) as centre x, y relative to the patch centre, width, height, from left, top, right, bottom in patch px."""
    left_top, right_bottom = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    return torch.cat(((left_top + right_bottom) / 2 - patch_size / 2, right_bottom - left_top), dim=1)


def overlap_areas(a: Tensor, b: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Areas of intersection, union and common hull of paired boxes with centre x, y, width, height along ``dim``."""
    a_centre, a_size = a.chunk(2, dim)
    b_centre, b_size = b.chunk(2, dim)
    a_low, a_high = a_centre - a_size / 2, a_centre + a_size / 2
    b_low, b_high = b_centre - b_size / 2, b_centre + b_size / 2
    inter = torch.clamp(torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low), min=0.0).prod(dim)
    hull = (torch.maximum(a_high, b_high) - torch.minimum(a_low, b_low)).prod(dim)
    return inter, a_size.prod(dim) + b_size.prod(dim) - inter, hull


def paired_iou(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Intersection over union, in [0, 1], of boxes of positive size as in :func:`overlap_areas`; differentiable."""
    inter, union, _ = overlap_areas(a, b, dim)
    return inter / union


def anchor_targets(
    anchors: Tensor,
    boxes: Tensor,
    positive: Tensor,
    *,
    stride: float,
    sampling: AnchorSampling,
    generator: torch.Generator | None = None,
) -> AnchorTargets:
    """Sampled anchors for a batch of pairs.

    Args:
        anchors: float32 (1, 4, K) centre x, y relative to the patch centre, width, height, patch px.
        boxes: float32 (B, 4) in the same form; for a negative pair the distractor's.
        positive: bool (B,): whether the search patch shows the template's target.
        stride: px between cells.
        sampling: thresholds and numbers.
        generator: source of the random choice; the global one if None.
    """
    target = boxes[:, :, None]  # (B, 4, 1)
    iou = paired_iou(anchors, target, 1)  # (B, K)
    shown = positive[:, None]
    is_positive = (iou > sampling.positive_iou) & shown
    distance = (anchors[:, :2] - target[:, :2]).abs()  # (B, 2, K)
    if sampling.force_best:
        # All anchors round a tiny target have the same IoU: the nearest one is the best.
        best = (iou - 1e-6 * distance.square().sum(dim=1)).argmax(dim=1, keepdim=True)
        missed = shown & ~is_positive.any(dim=1, keepdim=True)
        is_positive = is_positive.scatter(1, best, missed | is_positive.gather(1, best))
    near = (distance <= (sampling.window + 0.5) * stride).all(dim=1)  # (B, K)
    is_negative = torch.where(shown, (iou < sampling.negative_iou) & ~is_positive, near)
    draw = torch.rand(iou.shape, generator=generator, device=iou.device)
    positives, positive_mask = sample_places(is_positive, draw, sampling.positives)
    negatives, negative_mask = sample_places(is_negative, draw, sampling.negatives)
    few = torch.arange(sampling.negatives, device=iou.device) < sampling.distractors
    negative_mask = negative_mask * (shown | few)
    return AnchorTargets(positives, positive_mask, negatives, negative_mask, boxes)


def sample_places(candidate: Tensor, draw: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Indices (B, most) of random candidates and the mask (B, most) of the places used, which come first."""
    value, index = torch.where(candidate, draw, -1.0).topk(most, dim=1)
    return index, (value >= 0).to(torch.float32)
