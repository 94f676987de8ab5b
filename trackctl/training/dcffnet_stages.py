"""The two training stages of DCFFNet: what each optimises and what it leaves alone.

Both wrap the same model, so that the second begins where the first ended, and have the ``losses`` of any model here.

Shapes: B batch, K = 23 * 23 responses in row-major order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trackctl.training.anchors import centred_boxes
from trackctl.training.dcffnet import STRIDE, DCFFNet
from trackctl.training.losses import masked_mean

CELLS = 23
# Response r lays the template's cell 0, pixel -2, on the search patch's cell r, pixel 6 r - 2. The target, at pixel 63 of the
# template, is then at pixel 63 + 6 r; 127 is the search patch's centre.
FIRST_PX = 63.0 - 127.0

# What the second stage trains: the last two convolutions of the backbone, and the head.
TRAINED = ("backbone.conv5", "backbone.conv6", "head")


class PretrainingStage(nn.Module):
    """The first stage: one score per place from the full correlation of the last maps, as in SiamFC.

    Source: the paper's equation 1 and SiamFC (Bertinetto et al., ECCV workshops 2016, section 2.2).

    Args:
        model: trained but for its head, which has no part in this.
        radius_px: places so near to the target are positive, search patch px. [ours]
        scale: of the score, a sum over 22 * 22 * 256 products. [ours]
    """

    points: Tensor

    def __init__(self, model: DCFFNet, *, radius_px: float = 16.0, scale: float = 1e-3) -> None:
        super().__init__()
        self.model, self.radius_px, self.scale = model, radius_px, scale
        self.bias = nn.Parameter(torch.zeros(()))
        grid = FIRST_PX + STRIDE * torch.arange(CELLS, dtype=torch.float32)
        points = torch.stack((grid.repeat(CELLS), grid.repeat_interleave(CELLS)))[None]  # (1, 2, K)
        self.register_buffer("points", points, persistent=False)

    def scores(self, template: Tensor, search: Tensor) -> Tensor:
        """Logits (B, K) that the target is at each of ``points`` (x, y relative to the search patch's centre, px)."""
        kernels, z3 = self.model.template_features(template)
        x3 = self.model.search_features(search, kernels)
        batch = x3.shape[0]
        response = F.conv2d(x3.reshape(1, -1, *x3.shape[2:]), z3, groups=batch)  # (1, B, 23, 23)
        return self.scale * response.reshape(batch, -1).float() + self.bias

    def losses(
        self,
        template: Tensor,
        search: Tensor,
        boxes_xyxy: Tensor,
        positive: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """The logistic loss ``total``, in which positives and negatives weigh one half each; arguments as in DCFFNet."""
        centre = centred_boxes(boxes_xyxy.float(), self.model.crop.search_size)[:, :2, None]
        near = (self.points - centre).square().sum(dim=1) <= self.radius_px**2  # (B, K)
        mask = (near & positive[:, None]).to(torch.float32)
        loss = F.binary_cross_entropy_with_logits(self.scores(template, search), mask, reduction="none")
        return {"total": 0.5 * masked_mean(loss, mask) + 0.5 * masked_mean(loss, 1.0 - mask)}


class TrackingStage(nn.Module):
    """The second stage: the last two convolutions and the head learn to find the box.

    The rest keeps its weights and its batch statistics. Those of the model given are frozen for good.

    Args:
        model: as the first stage left it.
    """

    def __init__(self, model: DCFFNet) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        for name in TRAINED:
            model.get_submodule(name).requires_grad_(True)

    def train(self, mode: bool = True) -> TrackingStage:
        """Training mode for what is trained, evaluation mode for the rest."""
        super().train(False)
        for name in TRAINED:
            self.model.get_submodule(name).train(mode)
        self.training = mode
        return self

    def losses(
        self,
        template: Tensor,
        search: Tensor,
        boxes_xyxy: Tensor,
        positive: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Scalar losses ``cls``, ``loc`` and their sum ``total``; arguments as in DCFFNet."""
        return self.model.losses(template, search, boxes_xyxy, positive, generator=generator)
