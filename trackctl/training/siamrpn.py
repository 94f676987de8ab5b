"""SiamRPN++: a shared backbone, depthwise correlation and an anchor head on several levels.

Shapes: B batch, L levels, C width, A = 5 anchors, M kernels per search patch (training).
    template (B, 3, 127, 127) -> levels (B, C, 15, 15) -> centre (B, C, 7, 7) -> kernels (B, C, 5, 5)
    search   (B, 3, 255, 255) -> levels (B, C, 31, 31) -> features (B, C, 29, 29)
    response (B, C, 25, 25)   -> cls (B, 2A, 25, 25), loc (B, 4A, 25, 25)

Source: SiamRPN++ (Li et al., CVPR 2019) and its public code (STVIR/pysot); the code is our own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trackctl.runtime.geometry import CropSpec
from trackctl.training.anchors import AnchorSampling, AnchorTargets, anchor_targets, centred_boxes
from trackctl.training.backbones import Backbone
from trackctl.training.backbones.resnet import ResNet50
from trackctl.training.correlation import Lowering, correlate_many, depthwise_correlation
from trackctl.training.decode import AnchorDecode, DecodeSpec
from trackctl.training.losses import balanced_cross_entropy, delta_l1
from trackctl.training.model import TrackerModel
from trackctl.training.neck import Neck, centre_crop
from trackctl.training.rpn import RPNHead

CELLS, STRIDE = 25, 8

# Inference constants of the public SiamRPN++ with ResNet-50 (its VOT defaults).
SIAMRPN_DECODE = DecodeSpec(penalty_k=0.05, window=0.42, lr=0.38)


class SiamRPN(TrackerModel):
    """SiamRPN++ over any backbone of this project.

    Args:
        backbone: levels of stride 8.
        width: C.
        decode: inference constants.
        sampling: which anchors train.
        loc_weight: weight of the box loss against the class loss.
        lowering: how ``search`` computes the correlation; may be set at any time before export. Training does not use it.
    """

    memory_names = ("z_cls", "z_loc")

    def __init__(
        self,
        *,
        backbone: Backbone,
        width: int = 256,
        decode: DecodeSpec = SIAMRPN_DECODE,
        sampling: AnchorSampling | None = None,
        loc_weight: float = 1.2,
        lowering: Lowering = "conv",
    ) -> None:
        super().__init__()
        self.crop = CropSpec()
        self.backbone = backbone
        self.neck = Neck(backbone.channels, width)
        self.decode: AnchorDecode = AnchorDecode(self.crop, decode, cells=CELLS, stride=STRIDE)
        self.rpn = RPNHead(levels=len(backbone.channels), width=width, anchors=self.decode.anchors)
        self.sampling = sampling or AnchorSampling()
        self.loc_weight = loc_weight
        self.lowering: Lowering = lowering

    def levels(self, patch: Tensor) -> list[Tensor]:
        """Levels (B, C, n, n) of a patch: n = 15 for the template, 31 for the search."""
        adjusted: list[Tensor] = self.neck(self.backbone(patch))
        return adjusted

    def template_levels(self, patch: Tensor) -> list[Tensor]:
        """Levels (B, C, 15, 15) from which the kernels are made."""
        return self.levels(patch)

    def template(self, patch: Tensor) -> tuple[Tensor, ...]:
        """z_cls and z_loc, each (B * L, C, 5, 5), level within sample; (L, C, 5, 5) for one patch."""
        cls, loc = self.rpn.template([centre_crop(level) for level in self.template_levels(patch)])
        return torch.stack(cls, dim=1).flatten(0, 1), torch.stack(loc, dim=1).flatten(0, 1)

    def search(self, patch: Tensor, memory: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Raw maps cls (B, 2A, 25, 25) and loc (B, 4A, 25, 25)."""
        cls, loc = self.rpn.search(self.levels(patch))
        z_cls, z_loc = memory
        return self._maps(self._correlate(cls, z_cls), self._correlate(loc, z_loc))

    def _correlate(self, features: Sequence[Tensor], kernels: Tensor) -> list[Tensor]:
        step = len(features)
        return [depthwise_correlation(feature, kernels[level::step], self.lowering) for level, feature in enumerate(features)]

    def _maps(self, cls: Sequence[Tensor], loc: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        maps: tuple[Tensor, Tensor] = self.rpn(cls, loc)
        return maps

    def maps_of_many(self, features: tuple[list[Tensor], list[Tensor]], centres: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Raw maps (B * M, ...), template within sample, of M templates per search patch.

        Args:
            features: what ``rpn.search`` returned, computed once.
            centres: per level (B, M, C, 7, 7).
        """
        many = centres[0].shape[1]
        kernels = self.rpn.template([centre.flatten(0, 1) for centre in centres])
        cls, loc = (
            [
                correlate_many(feature, kernel.reshape(-1, many, *kernel.shape[1:])).flatten(0, 1)
                for feature, kernel in zip(branch, kernel_levels, strict=True)
            ]
            for branch, kernel_levels in zip(features, kernels, strict=True)
        )
        return self._maps(cls, loc)

    def targets(self, boxes_xyxy: Tensor, positive: Tensor, generator: torch.Generator | None) -> AnchorTargets:
        """Sampled anchors for target boxes (B, 4) in search patch px."""
        boxes = centred_boxes(boxes_xyxy.float(), self.crop.search_size)
        return anchor_targets(self.decode.boxes, boxes, positive, stride=STRIDE, sampling=self.sampling, generator=generator)

    def losses(
        self,
        template: Tensor,
        search: Tensor,
        boxes_xyxy: Tensor,
        positive: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Scalar losses ``cls``, ``loc`` and their weighted sum ``total``.

        Args:
            template: (B, 3, 127, 127) in 0..255.
            search: (B, 3, 255, 255) in 0..255.
            boxes_xyxy: (B, 4) the target's left, top, right, bottom in search patch px; a distractor's for a negative pair.
            positive: bool (B,): whether the search patch shows the template's target.
            generator: source of the random choice of anchors; the global one if None.
        """
        targets = self.targets(boxes_xyxy, positive, generator)
        centres = [centre_crop(level)[:, None] for level in self.template_levels(template)]
        cls, loc = self.maps_of_many(self.rpn.search(self.levels(search)), centres)
        cls_loss = balanced_cross_entropy(cls, targets)
        loc_loss = delta_l1(loc, self.decode.boxes, targets)
        return {"total": cls_loss + self.loc_weight * loc_loss, "cls": cls_loss, "loc": loc_loss}


def siamrpn_r50() -> SiamRPN:
    """SiamRPN++ with ResNet-50 and three levels of 256 channels."""
    return SiamRPN(backbone=ResNet50(), width=256)
