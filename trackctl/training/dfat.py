"""DFAT: a visible and a thermal camera tracked by one shared network and joined at the decision, with a fused third branch.

Source: DFAT (Zhangyong Tang et al., winner of VOT2020-RGBT) and its public code for the two branches and their fusion; LRRNet
(Li et al., TPAMI 2023, section 5) for the third. The code is our own; what they leave open is marked [ours].

Shapes: B batch, M modalities, K branches (rgb, ir, fusion), L levels, C width, A anchors.
    patch (B, 4, N, N) blue, green, red, thermal -> M patches (B, 3, N, N), one batch for the backbone
    template levels (M, B, C, 7, 7)  -> kernels (K * B * L, C, 5, 5): branch, then level
    search levels   (M, B, C, 31, 31) -> maps of K branches -> cls (B, 2A, 25, 25), loc (B, 4A, 25, 25)

A camera may be missing: a flat patch (covered lens, dropped frame). Its branch, and the fused one with it, is then left out
inside the graphs, and its template is kept as it was. [ours]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trackctl.runtime.contract import BLANK_CONTRAST
from trackctl.runtime.errors import InputError
from trackctl.training.anchors import AnchorSampling
from trackctl.training.backbones import Backbone
from trackctl.training.backbones.edge import EdgeBackbone
from trackctl.training.backbones.resnet import ResNet50
from trackctl.training.correlation import Lowering
from trackctl.training.dcfg import EDGE_DECODE
from trackctl.training.decode import DecodeSpec
from trackctl.training.feature_fusion import (
    PAPER_TARGETS,
    SINGLE_TARGET,
    LevelTarget,
    LowRankFusion,
    ResidualFusion,
    resemblance,
)
from trackctl.training.losses import balanced_cross_entropy, delta_l1
from trackctl.training.model import plane_contrast
from trackctl.training.neck import centre_crop
from trackctl.training.rpn import RPNHead
from trackctl.training.siamrpn import SiamRPN

RGB, IR, FUSION = "rgb", "ir", "fusion"
# Planes of a patch, and the one whose contrast tells whether the camera shows anything.
PLANES = {RGB: slice(0, 3), IR: slice(3, 4)}
CONTRAST_PLANE = {RGB: 1, IR: 3}

Variant = Literal["rgb", "ir", "dfat", "dfat+lrr", "dfat+rfn", "fusion_only"]
BRANCHES: dict[str, tuple[str, ...]] = {
    "rgb": (RGB,),
    "ir": (IR,),
    "dfat": (RGB, IR),
    "dfat+lrr": (RGB, IR, FUSION),
    "dfat+rfn": (RGB, IR, FUSION),
    "fusion_only": (FUSION,),
}

# Inference constants of DFAT's public code.
DFAT_DECODE = DecodeSpec(penalty_k=0.10, window=0.41, lr=0.32)


class DFAT(SiamRPN):
    """SiamRPN++ over two registered cameras.

    Args:
        backbone: levels of stride 8.
        width: C.
        decode: inference constants.
        sampling: which anchors train.
        lowering: see :class:`SiamRPN`.
        variant: which branches there are: one camera alone (``rgb``, ``ir``), both (``dfat``), both and the fused one by low-rank
            (``dfat+lrr``) or residual fusion (``dfat+rfn``), or the fused one by low-rank fusion alone (``fusion_only``).
        code, blocks: of :class:`LowRankFusion`.
        fusion_rpn: whether the fused branch shares the head of the others or has its own.
        targets: what the fused maps shall resemble; one per level.
        resemblance_weight: of that loss; 0.1 in DFAT's training of the residual fusion.
        logit_scale: factor on the fused class maps, 0.5 in DFAT's public code, where it acts as a temperature of the softmax.
        equalise: shift the thermal patch to the visible one's mean, as DFAT does.

    Raises:
        InputError: an option has another value, or the targets do not fit the levels.
    """

    channels = 4

    def __init__(
        self,
        *,
        backbone: Backbone,
        width: int = 256,
        decode: DecodeSpec = DFAT_DECODE,
        sampling: AnchorSampling | None = None,
        lowering: Lowering = "conv",
        variant: Variant = "dfat",
        code: int = 64,
        blocks: int = 4,
        fusion_rpn: Literal["shared", "own"] = "shared",
        targets: Sequence[LevelTarget] = PAPER_TARGETS,
        resemblance_weight: float = 0.1,
        logit_scale: float = 0.5,
        equalise: bool = True,
    ) -> None:
        super().__init__(backbone=backbone, width=width, decode=decode, sampling=sampling, lowering=lowering)
        if variant not in BRANCHES or fusion_rpn not in ("shared", "own"):
            raise InputError(
                f"got variant {variant!r} and fusion_rpn {fusion_rpn!r}, expected one of {', '.join(BRANCHES)} and shared or own"
            )
        levels = len(backbone.channels)
        self.branches = BRANCHES[variant]
        fused = FUSION in self.branches
        if fused and len(targets) != levels:
            raise InputError(f"got {len(targets)} level targets for {levels} levels, expected one per level: give targets")
        self.modalities = (RGB, IR) if fused else self.branches
        self.kept_names = tuple(f"zf_{modality}" for modality in self.modalities)
        self.contrast_planes = tuple(CONTRAST_PLANE[modality] for modality in self.modalities)
        self.level_targets, self.resemblance_weight = tuple(targets), resemblance_weight
        self.logit_scale, self.equalise = logit_scale, equalise

        def module() -> nn.Module:
            return ResidualFusion(width) if variant == "dfat+rfn" else LowRankFusion(width, code=code, blocks=blocks)

        self.fusion = nn.ModuleList(module() for _ in range(levels if fused else 0))
        own = fused and fusion_rpn == "own"
        self.fusion_rpn = RPNHead(levels=levels, width=width, anchors=self.decode.anchors) if own else None
        # DFAT trains its fusion modules on a frozen tracker.
        self.frozen: tuple[nn.Module, ...] = (self.backbone, self.neck, self.rpn) if fused else ()
        for part in self.frozen:
            part.requires_grad_(False)

    @property
    def heads(self) -> list[tuple[RPNHead, slice]]:
        """The heads and which of the branches each of them serves."""
        if self.fusion_rpn is None:
            return [(self.rpn, slice(None))]
        own = [(self.fusion_rpn, slice(-1, None))]
        return own if len(self.branches) == 1 else [(self.rpn, slice(0, -1)), *own]

    def modal_patches(self, patch: Tensor) -> tuple[list[Tensor], Tensor]:
        """Per modality a patch (B, 3, N, N), and which of them show anything (M, B), 1 or 0, float32."""
        exact = patch.float()  # means and deviations over a patch do not fit float16
        contrasts = torch.stack([plane_contrast(exact, plane)[:, 0] for plane in self.contrast_planes])
        seen = (contrasts > BLANK_CONTRAST).float()  # (M, B)
        planes = [exact[:, PLANES[modality]] for modality in self.modalities]
        if self.equalise and len(planes) == 2:
            rgb, ir = (part.mean(dim=(1, 2, 3), keepdim=True) for part in planes)
            # A missing camera has no mean to be shifted to.
            planes[1] = planes[1] + (rgb - ir) * seen.prod(dim=0)[:, None, None, None]
        sides = patch.shape[2:]
        return [part.expand(-1, 3, *sides).to(patch.dtype) for part in planes], seen

    def modal_levels(self, patch: Tensor) -> tuple[list[Tensor], Tensor]:
        """Per level the maps (M, B, C, n, n) of a patch (B, 4, N, N), and which modalities show anything (M, B)."""
        patches, seen = self.modal_patches(patch)
        levels = self.levels(torch.cat(patches))
        return [level.reshape(len(patches), -1, *level.shape[1:]) for level in levels], seen

    def with_fusion(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Per level the maps (K, B, C, n, n) of all branches."""
        if FUSION not in self.branches:
            return list(levels)
        fused = [joint[None] for joint in self._fused(levels)]
        if len(self.branches) == 1:
            return fused
        return [torch.cat((level, joint)) for level, joint in zip(levels, fused, strict=True)]

    def _fused(self, levels: Sequence[Tensor]) -> list[Tensor]:
        return [module(level[0], level[1]) for module, level in zip(self.fusion, levels, strict=True)]

    def branch_presence(self, modal: Tensor) -> Tensor:
        """(K, B) of (M, B): the fused branch needs both modalities."""
        if FUSION not in self.branches:
            return modal
        both = modal.prod(dim=0, keepdim=True)
        return both if len(self.branches) == 1 else torch.cat((modal, both))

    def template(self, patch: Tensor) -> tuple[Tensor, ...]:
        """z_cls and z_loc, each (K * B * L, C, 5, 5)."""
        return self.refresh(patch)[:2]

    def refresh(self, patch: Tensor, kept: Sequence[Tensor] | None = None, rate: Tensor | None = None) -> tuple[Tensor, ...]:
        """z_cls, z_loc and per modality the neck's features (B * L, C, 7, 7), blended ``(1 - rate) kept + rate new``.

        A modality that shows nothing is not learnt from; one that never showed anything keeps features and kernels of zeros, by
        which ``search`` knows it. [ours]
        """
        levels, seen = self.modal_levels(patch)
        fresh = torch.stack([centre_crop(level) for level in levels], dim=2)  # (M, B, L, C, 7, 7)
        share = _over(seen.to(fresh.dtype), fresh)
        if kept is None or rate is None:
            features = fresh * share
        else:
            before = torch.stack([part.reshape(fresh.shape[1:]) for part in kept])
            share = share * torch.where(_over(_holds(before), fresh), rate.reshape(()), torch.ones_like(share))
            features = (1.0 - share) * before + share * fresh
        known = self.branch_presence(_holds(features).to(fresh.dtype))
        branches = self.with_fusion(features.unbind(2))
        cls, loc = (
            torch.cat(parts) for parts in zip(*(self._kernels(head, branches, at) for head, at in self.heads), strict=True)
        )
        return (cls * _over(known, cls)).flatten(0, 2), (loc * _over(known, loc)).flatten(0, 2), *features.flatten(1, 2)

    def _kernels(self, head: RPNHead, branches: Sequence[Tensor], at: slice) -> list[Tensor]:
        """Kernels of cls and of loc (k, B, L, C, 5, 5) of the branches that a head serves."""
        chosen = [level[at] for level in branches]
        made = head.template([level.flatten(0, 1) for level in chosen])
        return [_split(torch.stack(levels, dim=1), chosen[0].shape[1]) for levels in made]

    def search(self, patch: Tensor, memory: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Raw maps cls (B, 2A, 25, 25) and loc (B, 4A, 25, 25), float32: the decision of all branches."""
        levels, seen = self.modal_levels(patch)
        branches = self.with_fusion(levels)
        z_cls, z_loc = (_split(_split(kernels, len(levels)), patch.shape[0]) for kernels in memory)
        present = self.branch_presence(seen) * _holds(z_cls).float()
        maps = []
        for head, at in self.heads:
            cls, loc = head.search([level[at].flatten(0, 1) for level in branches])
            made = head(self._correlate(cls, z_cls[at].flatten(0, 2)), self._correlate(loc, z_loc[at].flatten(0, 2)))
            maps.append([_split(part.float(), patch.shape[0]) for part in made])
        cls_maps, loc_maps = (torch.cat(parts) for parts in zip(*maps, strict=True))
        return self.decide(cls_maps, loc_maps, present)

    def decide(self, cls: Tensor, loc: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Decision fusion: cls (B, 2A, n, n) and loc (B, 4A, n, n) of the branches' maps (K, B, ...).

        A branch counts if any of its foreground logits is positive, and if none has any they all count: the gate of DFAT's public
        code, there for two branches, for three [ours]. Those that count do so alike.

        Args:
            cls, loc: raw maps, float32.
            present: (K, B), 1 or 0; absent branches do not count, unless all are absent. [ours]
        """
        if len(cls) == 1:
            return cls[0], loc[0]
        foreground = cls[:, :, cls.shape[2] // 2 :].flatten(2)
        sure = (foreground.amax(dim=2) > 0.0).float()
        there = _or_all(present, torch.ones_like(present))
        weight = _or_all(sure * there, there)
        return self.logit_scale * _weighted_mean(cls, weight), _weighted_mean(loc, there)

    def losses(
        self,
        template: Tensor,
        search: Tensor,
        boxes_xyxy: Tensor,
        positive: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Scalar losses ``cls``, ``loc`` and ``total``, and with a fused branch ``alike``.

        Without a fused branch the network trains on every modality for itself, as in DFAT. With one, only the fusion modules (and
        the head, if they have their own) train: ``cls + 1.2 loc`` of the fused branch and 0.1 of the resemblance in template and
        search. Arguments as in :meth:`SiamRPN.losses`, patches (B, 4, N, N).
        """
        if FUSION not in self.branches:
            patches = [torch.cat(self.modal_patches(patch)[0]) for patch in (template, search)]
            many = len(self.modalities)
            boxes, shown = boxes_xyxy.repeat(many, 1), positive.repeat(many)
            return super().losses(patches[0], patches[1], boxes, shown, generator=generator)
        head = self.fusion_rpn or self.rpn
        with _evaluating(self.frozen):
            with torch.no_grad():
                templates = [centre_crop(level) for level in self.modal_levels(template)[0]]
                searches = self.modal_levels(search)[0]
            fused = [self._fused(levels) for levels in (templates, searches)]
            cls, loc = (
                self._correlate(features, torch.stack(kernels, dim=1).flatten(0, 1))
                for features, kernels in zip(head.search(fused[1]), head.template(fused[0]), strict=True)
            )
            cls, loc = head(cls, loc)
        targets = self.targets(boxes_xyxy, positive, generator)
        cls_loss, loc_loss = balanced_cross_entropy(cls, targets), delta_l1(loc, self.decode.boxes, targets)
        alike = resemblance(fused[0], templates, self.level_targets) + resemblance(fused[1], searches, self.level_targets)
        total = cls_loss + self.loc_weight * loc_loss + self.resemblance_weight * alike
        return {"total": total, "cls": cls_loss, "loc": loc_loss, "alike": alike}


def _holds(parts: Tensor) -> Tensor:
    """Whether the tensors (P, B, L, C, h, w) hold anything but zeros, (P, B)."""
    return parts.abs().amax(dim=(2, 3, 4, 5)) > 0.0


def _split(parts: Tensor, many: int) -> Tensor:
    """(P * many, ...) as (P, many, ...)."""
    return parts.reshape(-1, many, *parts.shape[1:])


def _over(flags: Tensor, parts: Tensor) -> Tensor:
    """Flags (P, B) in the shape in which they multiply (P, B, ...)."""
    return flags.reshape(*flags.shape, *(1 for _ in parts.shape[2:]))


def _or_all(chosen: Tensor, otherwise: Tensor) -> Tensor:
    """The choice (K, B) of branches, or the other one for samples that chose none."""
    return torch.where(chosen.sum(dim=0, keepdim=True) > 0.0, chosen, otherwise)


def _weighted_mean(maps: Tensor, weight: Tensor) -> Tensor:
    """The mean (B, ...) over the branches of maps (K, B, ...) with weights (K, B)."""
    shares = _over(weight, maps)
    return (maps * shares).sum(dim=0) / shares.sum(dim=0)


@contextmanager
def _evaluating(parts: Sequence[nn.Module]) -> Iterator[None]:
    """Within it the parts are in evaluation mode."""
    before = [part.training for part in parts]
    for part in parts:
        part.eval()
    try:
        yield
    finally:
        for part, training in zip(parts, before, strict=True):
            part.train(training)


def dfat_r50(**options: Any) -> DFAT:
    """DFAT with ResNet-50 and three levels of 256 channels. ``options`` are arguments of :class:`DFAT`."""
    return DFAT(backbone=ResNet50(), width=256, **options)


def dfat_lrr_r50(**options: Any) -> DFAT:
    """DFAT and the low-rank fusion branch as in LRRNet's tracking experiments. ``options`` are arguments of :class:`DFAT`."""
    return dfat_r50(variant="dfat+lrr", **options)


# [ours] A camera in the dark shall not shift the other one's grey levels.
EDGE_OPTIONS: dict[str, Any] = {"equalise": False, "decode": EDGE_DECODE}


def dfat_edge(**options: Any) -> DFAT:
    """DFAT on the light backbone: one level of 96 channels. ``options`` are arguments of :class:`DFAT`."""
    return DFAT(backbone=EdgeBackbone(), width=96, **{**EDGE_OPTIONS, **options})


def dfat_lrr_edge(**options: Any) -> DFAT:
    """DFAT and a small low-rank fusion branch on the light backbone. ``options`` are arguments of :class:`DFAT`."""
    return dfat_edge(**{"variant": "dfat+lrr", "code": 24, "blocks": 2, "targets": SINGLE_TARGET, **options})
