"""LRRNet: an infrared and a visible image fused into one.

Source: LRRNet (Li et al., TPAMI 2023) and its public weights. Each image is coded by a branch of its own; the first half of the
code is its low-rank part, the second its sparse part; the decoder brings each part of each image to one channel, fuses the two
images part by part and adds the parts.

Shapes: B batch, M code channels (256). Images (B, 1, H, W) float32, registered, H and W >= 2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from trackctl.runtime.errors import InputError
from trackctl.training.lrr import LRRBranch, reflected_conv

Extractor = Literal["lrr", "conv8", "dense"]
Fusion = Literal["cat", "add"]

CODE = 256
PARTS = ("ir_low", "ir_sparse", "vi_low", "vi_sparse")
# Keeps the normalisation of a constant image finite (the authors' value).
EPSILON = 1e-5

# The authors' names and ours, as patterns. Their first network argument is the infrared image.
_RENAMED = (
    (r"^get_ls1\.", "ir."),
    (r"^get_ls2\.", "vi."),
    (r"\.lamj$", ".theta"),
    (r"\.lamz$", ".lam"),
    (r"\.conv_W00\.conv2d\.", ".c0."),
    (r"\.lrrblock(\d+)\.conv_Wdz\.conv2d\.", r".c1.\1."),
    (r"\.lrrblock(\d+)\.conv_Wdtz\.conv2d\.", r".c2.\1."),
    (r"^decoder\.conv_ReZx\.conv2d\.", "ir_low."),
    (r"^decoder\.conv_ReUx\.conv2d\.", "ir_sparse."),
    (r"^decoder\.conv_ReZy\.conv2d\.", "vi_low."),
    (r"^decoder\.conv_ReUy\.conv2d\.", "vi_sparse."),
    (r"^decoder\.conv_ReL\.conv2d\.", "fuse_low."),
    (r"^decoder\.conv_ReH\.conv2d\.", "fuse_sparse."),
)


def min_max(image: Tensor) -> Tensor:
    """Each image of a batch brought to 0..1 by its own extremes: ``(x - min) / (max - min + 1e-5)``; a constant one becomes 0."""
    low, high = image.amin(dim=(1, 2, 3), keepdim=True), image.amax(dim=(1, 2, 3), keepdim=True)
    return (image - low) / (high - low + EPSILON)


class Conv8(nn.Sequential):
    """Eight convolutions without an activation, which the paper compares with: (B, 1, H, W) -> (B, M, H, W)."""

    def __init__(self, code: int = CODE) -> None:
        super().__init__(*(reflected_conv(code if index else 1, code) for index in range(8)))


class DenseBlock(nn.Module):
    """Two convolutions, each beside its input, and a 1x1 back to the input's width.

    Args:
        width: channels in.
        last: leave the concatenation as it is. The 1x1 is kept unused, as in the authors' network and in its parameter count.
    """

    def __init__(self, width: int, *, last: bool) -> None:
        super().__init__()
        growth = width // 2
        self.first = reflected_conv(width, growth)
        self.second = reflected_conv(width + growth, growth)
        self.transition = reflected_conv(width + 2 * growth, width, kernel=1)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W), or twice as wide after the last block."""
        x = torch.cat((x, self.first(x)), dim=1)
        x = torch.cat((x, self.second(x)), dim=1)
        return x if self.last else self.transition(x)


class Dense(nn.Sequential):
    """Densely connected convolutions, which the paper compares with: (B, 1, H, W) -> (B, M, H, W)."""

    def __init__(self, code: int = CODE, blocks: int = 4) -> None:
        width = code // 2
        super().__init__(reflected_conv(1, width), *(DenseBlock(width, last=index == blocks - 1) for index in range(blocks)))


def _extractor(kind: Extractor, blocks: int) -> nn.Module:
    if kind == "lrr":
        return LRRBranch(in_channels=1, code=CODE, blocks=blocks)
    return Conv8() if kind == "conv8" else Dense(blocks=blocks)


class LRRNet(nn.Module):
    """The fusion network.

    Args:
        blocks: unrolled steps of each branch; the paper publishes 2, 4 (its choice), 6 and 8. ``conv8`` has no such number.
        fusion: whether the decoder sees the two images side by side or their sum.
        extractor: what codes an image.

    Raises:
        InputError: an unknown variant, or fewer than one block.
    """

    def __init__(self, *, blocks: int = 4, fusion: Fusion = "cat", extractor: Extractor = "lrr") -> None:
        super().__init__()
        for what, got, known in (("fusion", fusion, Fusion), ("extractor", extractor, Extractor)):
            if got not in get_args(known):
                raise InputError(f"got the {what} {got!r}, expected one of {', '.join(get_args(known))}")
        if blocks < 1:
            raise InputError(f"got {blocks} blocks, expected 1 or more")
        self.fusion = fusion
        self.ir, self.vi = _extractor(extractor, blocks), _extractor(extractor, blocks)
        self.ir_low, self.ir_sparse, self.vi_low, self.vi_sparse = (reflected_conv(CODE // 2, 1) for _ in PARTS)
        images = 2 if fusion == "cat" else 1
        self.fuse_low, self.fuse_sparse = reflected_conv(images, 1), reflected_conv(images, 1)

    def forward(self, ir: Tensor, vi: Tensor) -> Tensor:
        """The fused image (B, 1, H, W), of any range, of two images (B, 1, H, W) in 0..1."""
        ir_low, ir_sparse = self.ir(ir).chunk(2, dim=1)
        low, sparse = self.ir_low(ir_low), self.ir_sparse(ir_sparse)
        vi_low, vi_sparse = self.vi(vi).chunk(2, dim=1)
        return self.decode((low, self.vi_low(vi_low)), (sparse, self.vi_sparse(vi_sparse)))

    def decode(self, low: tuple[Tensor, Tensor], sparse: tuple[Tensor, Tensor]) -> Tensor:
        """The fused image of the low-rank and the sparse parts, each (infrared, visible) of (B, 1, H, W)."""
        if self.fusion == "cat":
            fused: Tensor = self.fuse_low(torch.cat(low, dim=1)) + self.fuse_sparse(torch.cat(sparse, dim=1))
        else:
            fused = self.fuse_low(low[0] + low[1]) + self.fuse_sparse(sparse[0] + sparse[1])
        return fused

    def fuse(self, ir: Tensor, vi: Tensor) -> Tensor:
        """The fused picture (B, 1, H, W) in 0..255 of two pictures (B, 1, H, W) in 0..255 (or any other range)."""
        return 255.0 * min_max(self(min_max(ir), min_max(vi)))

    def map_keys(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The authors' tensors under this model's names; names that nobody knows stay, so that loading reports them."""
        return {_own_name(key): _own_shape(key, tensor) for key, tensor in tensors.items()}


def _own_name(key: str) -> str:
    for theirs, own in _RENAMED:
        key = re.sub(theirs, own, key)
    return key


def _own_shape(key: str, tensor: Tensor) -> Tensor:
    """Thresholds (1, M) become (M,), weights of the previous code (1, 1) a scalar."""
    if key.endswith(".lamj"):
        return tensor.flatten()
    return tensor.reshape(()) if key.endswith(".lamz") and tensor.numel() == 1 else tensor
