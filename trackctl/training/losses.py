"""Losses of anchor heads, on sampled anchors only.

Shapes: B batch, K anchors, P and Q sampled positives and negatives, N fine-grained maps.
All are float32 whatever the autocast. Without positives each is an exact 0 that keeps its graph.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from trackctl.training.anchors import AnchorTargets, overlap_areas, paired_iou

Overlap = Literal["iou", "giou"]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values whose mask is 1; an exact 0 with a graph if there is none."""
    return (values * mask).sum() / mask.sum().clamp(min=1.0)


def _pick(maps: Tensor, index: Tensor) -> Tensor:
    """The values (B, D, P) of maps (B, D, K) at the anchors (B, P), float32."""
    return maps.gather(2, index[:, None].expand(-1, maps.shape[1], -1)).float()


def balanced_cross_entropy(cls: Tensor, targets: AnchorTargets) -> Tensor:
    """Half the mean cross entropy of the positives plus half that of the negatives (SiamRPN++'s public code).

    Args:
        cls: (B, 2A, n, n) raw class maps.
        targets: sampled anchors.
    """
    logits = cls.reshape(cls.shape[0], 2, -1)
    positive = torch.log_softmax(_pick(logits, targets.positive), dim=1)[:, 1]  # (B, P)
    negative = torch.log_softmax(_pick(logits, targets.negative), dim=1)[:, 0]  # (B, Q)
    return -0.5 * masked_mean(positive, targets.positive_mask) - 0.5 * masked_mean(negative, targets.negative_mask)


def delta_l1(loc: Tensor, anchors: Tensor, targets: AnchorTargets) -> Tensor:
    """L1 of the four anchor deltas: summed over them, averaged over a pair's positives, then over the batch.

    Source: SiamRPN++'s public code; deltas of Faster R-CNN (Ren et al., 2015, equation 2).

    Args:
        loc: (B, 4A, n, n) raw box maps.
        anchors: (1, 4, K).
        targets: sampled anchors.
    """
    delta = _pick(loc.reshape(loc.shape[0], 4, -1), targets.positive)  # (B, 4, P)
    anchor = _pick(anchors.expand(loc.shape[0], -1, -1), targets.positive)
    target = targets.boxes[:, :, None]
    wanted = torch.cat(((target[:, :2] - anchor[:, :2]) / anchor[:, 2:], torch.log(target[:, 2:] / anchor[:, 2:])), dim=1)
    mask = targets.positive_mask
    per_pair = ((delta - wanted).abs().sum(dim=1) * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)
    return per_pair.mean()


def paired_giou(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Generalised IoU, in (-1, 1], of paired boxes (Rezatofighi et al., CVPR 2019, algorithm 1)."""
    inter, union, hull = overlap_areas(a, b, dim)
    return inter / union - (hull - union) / hull


def overlap_l1(
    boxes: Tensor, targets: AnchorTargets, *, overlap: Overlap, overlap_weight: float, l1_weight: float, patch_size: int
) -> Tensor:
    """Mean over the positives of ``overlap_weight (1 - IoU) + l1_weight L1`` (DCFG, equation 12).

    L1 is the sum over centre x, y, width, height in units of the patch side, as TransT does (Chen et al., CVPR 2021).

    Args:
        boxes: (B, 4, K) predicted centre x, y relative to the patch centre, width, height, patch px.
        targets: sampled anchors.
        overlap: plain or generalised IoU.
        overlap_weight: lambda_G.
        l1_weight: lambda_1.
        patch_size: side of the search patch, px.
    """
    chosen = _pick(boxes, targets.positive)  # (B, 4, P)
    wanted = targets.boxes[:, :, None].expand_as(chosen)
    ratio = paired_iou(chosen, wanted, 1) if overlap == "iou" else paired_giou(chosen, wanted, 1)
    l1 = (chosen - wanted).abs().sum(dim=1) / patch_size
    return masked_mean(overlap_weight * (1.0 - ratio) + l1_weight * l1, targets.positive_mask)


def diversity(maps: Tensor) -> Tensor:
    """Squared Frobenius norm of the maps' correlation matrix without its diagonal, mean over the batch (DCFG, equation 13).

    0 for uncorrelated maps, N (N - 1) for identical ones. Pearson correlation over positions; the variance gets 1e-6 inside
    the square root, so constant maps have a finite gradient.

    Args:
        maps: (B, N, C, n, n); each is first averaged over its channels.
    """
    with torch.autocast(maps.device.type, enabled=False):
        flat = maps.float().mean(dim=2).flatten(2)  # (B, N, n*n)
        centred = flat - flat.mean(dim=2, keepdim=True)
        unit = centred / torch.sqrt(centred.square().sum(dim=2, keepdim=True) + 1e-6 * flat.shape[2])
        correlation = torch.matmul(unit, unit.transpose(1, 2))  # (B, N, N)
        off_diagonal = 1.0 - torch.eye(maps.shape[1], device=maps.device)
        return (correlation * off_diagonal).square().sum(dim=(1, 2)).mean()
