"""Pairs of two sources in one, and pairs as pictures to fuse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trackctl.training.loop import PairSource
from trackctl.training.pairs import Pair

FUSION_PX = 128


class MixedPairs:
    """Pair number i of either of two sources.

    Args:
        stored: the one source.
        rendered: the other.
        share: of the pairs that come from the other, 0..1.
        seed: of the choice.
    """

    def __init__(self, stored: PairSource, rendered: PairSource, *, share: float, seed: int) -> None:
        self.stored, self.rendered, self.share, self.seed = stored, rendered, share, seed

    def __getitem__(self, number: int, /) -> Pair:
        """Pair ``number`` >= 0, the same for the same seed."""
        draw = np.random.default_rng((self.seed, number, 2)).random()
        return (self.rendered if draw < self.share else self.stored)[number]


@dataclass(frozen=True)
class ImageBatches:
    """Registered pictures as the arguments of a fusion network's ``losses``: the middles of the search patches."""

    pairs: PairSource

    def batch(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Infrared and visible (B, 1, 128, 128) float32 in 0..255; the visible one is the mean of its colours."""
        patches = torch.from_numpy(np.stack([self.pairs[number].search for number in range(first, first + count)])).float()
        start = (patches.shape[-1] - FUSION_PX) // 2
        middle = patches[..., start : start + FUSION_PX, start : start + FUSION_PX]  # (B, 4, 128, 128)
        return middle[:, 3:4], middle[:, :3].mean(dim=1, keepdim=True)
