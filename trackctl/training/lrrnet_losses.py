"""The fusion loss of LRRNet: pixels, and features of VGG-16 at four depths.

Source: LRRNet (Li et al., TPAMI 2023), section 3.4, with the constants of its public code. The paper writes squared norms, its
constants are for means. VGG-16: Simonyan and Zisserman, ICLR 2015; its ImageNet weights come from a file of the user's.

Shapes: B batch. Images (B, 1, H, W) float32 in 0..255, H and W >= 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trackctl.training.lrrnet import LRRNet

# Channels of the convolutions up to relu4_3; 0 is a pooling.
_LAYERS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512)
# Where relu1_2, relu2_2, relu3_3 and relu4_3 lie in torchvision's numbering.
TAPS = (3, 8, 15, 22)


class VggFeatures(nn.Module):
    """VGG-16 up to relu4_3, frozen; parameters are named as in torchvision, of whose checkpoint the rest is left out."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width in _LAYERS:
            if width:
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
                inputs = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features (B, 64, H, W), (B, 128, H / 2, W / 2), (B, 256, H / 4, W / 4) and (B, 512, H / 8, W / 8).

        The grey levels 0..255 enter as they are, in all three channels: the authors subtract no mean.
        """
        found = []
        x = image.expand(-1, 3, -1, -1)
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in TAPS:
                found.append(x)
        return found

    def map_keys(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without the layers behind relu4_3 and the classifier."""
        layers = [f"features.{index}." for index in range(TAPS[-1] + 1, 31)]
        return {key: tensor for key, tensor in tensors.items() if not key.startswith(("classifier.", *layers))}


def gram(features: Tensor) -> Tensor:
    """The products of all pairs of channels over the number of values: (B, C, H, W) -> (B, C, C)."""
    flat = features.flatten(2)
    return torch.matmul(flat, flat.transpose(1, 2)) / (flat.shape[1] * flat.shape[2])


@dataclass(frozen=True, kw_only=True)
class FusionWeights:
    """The constants of the loss; those of the authors' public weights.

    Attributes:
        pixel: gamma1, of the difference to the visible image. 0 in an ablation.
        shallow: gamma2, of that of relu1_2; 0.1 to 2.5 in the paper's table 1.
        middle: beta of relu2_2 and relu3_3.
        deep: gamma4, of the Gram matrices of relu4_3; 0, 1500, 2000 and 2500 in the paper.
        infrared: w_ir, by which the middle target holds the infrared features; 1 to 6 in the paper.
        visible: w_vi, the same of the visible ones.
    """

    pixel: float = 10.0
    shallow: float = 1.5
    middle: tuple[float, float] = (0.01, 0.5)
    deep: float = 2000.0
    infrared: float = 3.0
    visible: float = 0.5


class FusionLoss(nn.Module):
    """The loss of a fused image against its sources.

    Args:
        vgg: with trained weights.
        weights: constants.
    """

    def __init__(self, vgg: VggFeatures, weights: FusionWeights | None = None) -> None:
        super().__init__()
        self.vgg = vgg
        self.weights = weights or FusionWeights()

    def forward(self, fused: Tensor, ir: Tensor, vi: Tensor) -> dict[str, Tensor]:
        """Scalars ``total = pixel + shallow + middle + deep`` (equation 13) and its four parts, already weighted."""
        weights = self.weights
        with torch.no_grad():
            seen_ir, seen_vi = self.vgg(ir), self.vgg(vi)
        seen = self.vgg(fused)
        middle = [
            beta * F.mse_loss(seen[level], weights.infrared * seen_ir[level] + weights.visible * seen_vi[level])
            for level, beta in zip((1, 2), weights.middle, strict=True)
        ]
        parts = {
            "pixel": weights.pixel * F.mse_loss(fused, vi),
            "shallow": weights.shallow * F.mse_loss(seen[0], seen_vi[0]),
            "middle": middle[0] + middle[1],
            "deep": weights.deep * F.mse_loss(gram(seen[3]), gram(seen_ir[3])),
        }
        return {"total": torch.stack(list(parts.values())).sum(), **parts}


def fusion_losses(model: LRRNet, loss: FusionLoss, ir: Tensor, vi: Tensor) -> dict[str, Tensor]:
    """The losses of what the model makes of pairs (B, 1, H, W) in 0..255; see :class:`FusionLoss`."""
    losses: dict[str, Tensor] = loss(model.fuse(ir, vi), ir, vi)
    return losses
