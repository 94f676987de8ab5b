"""Training of the fusion network on registered pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trackctl.runtime.errors import InputError
from trackctl.training.lrrnet import LRRNet
from trackctl.training.lrrnet_losses import FusionLoss, fusion_losses

# An infrared and a visible image, (H, W) uint8, of one size.
Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class FusionSchedule:
    """How the authors train: on 20,000 pairs of KAIST, without augmentation.

    Attributes:
        lr: of Adam.
        weight_decay: of Adam, added to the gradient. Only in the public code; the paper does not mention it.
        batch: pairs per step.
        epochs: passes over all pairs; an incomplete last batch is left out.
        side_px: what every image is resized to.
        seed: of the order.
    """

    lr: float = 1e-5
    weight_decay: float = 0.9
    batch: int = 8
    epochs: int = 4
    side_px: int = 128
    seed: int = 0


def train_fusion(
    model: LRRNet,
    loss: FusionLoss,
    pairs: Sequence[Pair],
    schedule: FusionSchedule | None = None,
    on_step: Callable[[int, dict[str, float]], object] | None = None,
) -> list[float]:
    """The total loss of every step of a training; the model is left trained, in evaluation mode, on its device.

    Args:
        model: on the same device as ``loss``.
        loss: see :class:`FusionLoss`.
        pairs: a lazily read sequence will do.
        schedule: None for the authors'.
        on_step: told of the step from 1 and the losses.

    Raises:
        InputError: there are fewer pairs than a batch holds.
    """
    schedule = schedule or FusionSchedule()
    if len(pairs) < schedule.batch:
        raise InputError(f"got {len(pairs)} pairs, expected {schedule.batch} or more: give more pairs or a smaller batch")
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay)
    order = np.random.default_rng(schedule.seed)
    totals: list[float] = []
    model.train()
    for _ in range(schedule.epochs):
        shuffled = order.permutation(len(pairs))
        for start in range(0, len(pairs) - schedule.batch + 1, schedule.batch):
            ir, vi = _batch([pairs[index] for index in shuffled[start : start + schedule.batch].tolist()], schedule.side_px)
            losses = fusion_losses(model, loss, ir.to(device), vi.to(device))
            optimizer.zero_grad()
            losses["total"].backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            totals.append(float(losses["total"].detach()))
            if on_step is not None:
                on_step(len(totals), {name: float(value.detach()) for name, value in losses.items()})
    model.eval()
    return totals


def _batch(pairs: Sequence[Pair], side_px: int) -> tuple[Tensor, Tensor]:
    """The infrared and the visible images of pairs, each (B, 1, side_px, side_px) float32 in 0..255."""
    ir, vi = (
        torch.from_numpy(np.stack([cv2.resize(pair[which], (side_px, side_px)) for pair in pairs])[:, None]).float()
        for which in (0, 1)
    )
    return ir, vi
