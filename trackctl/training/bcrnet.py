"""BCR-Net: a hyperspectral cube tracked as several three-band composites, weighted by the importance of their bands.

"BCR-Net: band and context refinement network for hyperspectral object tracking". The bands are ranked by a band matrix
(bimm.py), three by three they pass a frozen RGB backbone as one batch, every map is refined by its context (cfrm.py), and the
box-adaptive heads (siamban.py) of all composites are fused by the composites' weights.

Shapes: B batch, C bands, G composites, L levels, W width.
    template (B, C, 127, 127) -> composites (B G, 3, 127, 127) -> levels (B G, W, 15, 15) -> centre (B G, W, 7, 7)
    search   (B, C, 255, 255) -> composites (B G, 3, 255, 255) -> levels (B G, W, 31, 31)
    response (B G, W, 25, 25) -> fused cls (B, 2, 25, 25), loc (B, 4, 25, 25)
Equation numbers are the paper's. What it leaves open is a constructor argument marked [ours].
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trackctl.runtime.geometry import CropSpec
from trackctl.runtime.sensor import LEAST_BANDS
from trackctl.training.anchors import AnchorTargets, centred_boxes
from trackctl.training.backbones import Backbone
from trackctl.training.backbones.edge import EdgeBackbone
from trackctl.training.backbones.resnet import ResNet50
from trackctl.training.bimm import (
    BANDS_PER_COMPOSITE,
    BIMM,
    BandGroups,
    Gate,
    Importance,
    Part,
    band_importance,
    composites,
    one_of,
    reconstruction,
)
from trackctl.training.cfrm import ATTENTION_WIDTH, CFRM
from trackctl.training.correlation import Lowering, depthwise_correlation
from trackctl.training.decode import DecodeSpec, PointDecode
from trackctl.training.losses import balanced_cross_entropy
from trackctl.training.model import TrackerModel
from trackctl.training.neck import Neck, centre_crop
from trackctl.training.siamban import BANHead, PointSampling, distance_loss, point_targets

CELLS, STRIDE = 25, 8

# Patches arrive in 0..255, the band matrix is made for 0..1.
FULL_SCALE = 255.0

# Keeps the logarithm of a probability finite; far below what a score is printed with.
LEAST_PROBABILITY = 1e-12

# Inference constants of SiamBAN's public code for OTB, whose protocol hyperspectral benchmarks use.
SIAMBAN_DECODE = DecodeSpec(penalty_k=0.0205, window=0.3851, lr=0.4730)

Variant = Literal["base", "group", "fusion", "cfrm", "full", "random_group", "single_composite"]
Sorting = Literal["template", "per_frame"]

# Which variants rank the bands, weigh the composites, and refine by context.
RANKING: tuple[Variant, ...] = ("group", "fusion", "full", "random_group", "single_composite")
WEIGHTED: tuple[Variant, ...] = ("fusion", "full", "random_group", "single_composite")
REFINING: tuple[Variant, ...] = ("cfrm", "full", "random_group", "single_composite")


class BandRanking(nn.Module):
    """From a patch to the selection of bands and the weights of the composites; float32 whatever the Core's precision.

    Args:
        bands: C.
        variant: see :class:`BCRNet`.
        importance: see :func:`trackctl.training.bimm.band_importance`.
        gate: see :class:`trackctl.training.bimm.Refine`.
        without: see :class:`trackctl.training.bimm.BIMM`.
        seed: of the random order.
    """

    def __init__(
        self, bands: int, *, variant: Variant, importance: Importance, gate: Gate, without: Collection[Part], seed: int
    ) -> None:
        super().__init__()
        self.kind = importance
        self.bimm = BIMM(bands, gate=gate, without=without) if variant in RANKING else None
        self.groups = BandGroups(
            bands,
            1 if variant == "single_composite" else bands // BANDS_PER_COMPOSITE,
            order="random" if variant == "random_group" else "ranked" if variant in RANKING else "sequential",
            weighted=variant in WEIGHTED,
            seed=seed,
        )

    def matrix(self, patch: Tensor) -> Tensor | None:
        """W (B, C, C) of a patch (B, C, N, N) in 0..255; None without BIMM."""
        return None if self.bimm is None else self.bimm(patch.float() / FULL_SCALE)

    def importance(self, patch: Tensor) -> Tensor:
        """(B, C) > 0; all 1 without BIMM."""
        matrix = self.matrix(patch)
        return torch.ones_like(patch[:, :, 0, 0], dtype=torch.float32) if matrix is None else band_importance(matrix, self.kind)

    def forward(self, importance: Tensor) -> tuple[Tensor, Tensor]:
        """Selection (B, 3 G, C) and weights (B, G): see :class:`trackctl.training.bimm.BandGroups`."""
        chosen: tuple[Tensor, Tensor] = self.groups(importance)
        return chosen


class BCRNet(TrackerModel):
    """BCR-Net over any backbone of this project.

    Args:
        backbone: levels of stride 8.
        bands: C, at least 3; C - 3 (C // 3) bands of least importance are dropped.
        width: W.
        decode: inference constants.
        sampling: which points train.
        lowering: see :class:`trackctl.training.siamrpn.SiamRPN`; training uses it as well.
        variant: row of the ablation: ``base`` neighbouring bands, equal weights, no CFRM; ``group`` ranked bands; ``fusion``
            these and weighted composites; ``cfrm`` base with CFRM; ``full`` all; ``random_group`` full with a random order;
            ``single_composite`` full with the three best bands alone.
        sorting: ``per_frame`` ranks the bands of every search patch anew, as the paper does; ``template`` keeps the template's
            order and weights, so that the search graph has no band matrix and a composite always meets its own bands. [ours]
        importance: which sums of the band matrix rank the bands. [ours] The paper is silent.
        gate: what the gate of the band matrix's decoder multiplies. [ours]
        without: parts of BIMM left out.
        attention: width of CFRM's attention. [ours]
        attention_pool: see :class:`trackctl.training.cfrm.CFRM`. [ours]
        reconstruction_weight: lambda_3 of equation 18. [ours]
        frozen: whether the backbone keeps its weights, as in the paper.
        seed: of the random order.
    """

    kept_names = ("band_select", "branch_weight", "band_importance", "z_levels")
    float32_parts = ("decode", "ranking")

    def __init__(
        self,
        *,
        backbone: Backbone,
        bands: int = 16,
        width: int = 256,
        decode: DecodeSpec = SIAMBAN_DECODE,
        sampling: PointSampling | None = None,
        lowering: Lowering = "conv",
        variant: Variant = "full",
        sorting: Sorting = "template",
        importance: Importance = "column",
        gate: Gate = "decoder",
        without: Collection[Part] = (),
        attention: int = ATTENTION_WIDTH,
        attention_pool: int = 1,
        reconstruction_weight: float = 1.0,
        frozen: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("variant", variant, Variant),
            ("sorting", sorting, Sorting),
            ("importance", importance, Importance),
        ):
            one_of(name, value, choices)
        self.crop = CropSpec()
        self.channels = bands
        if bands >= LEAST_BANDS:
            self.contrast_planes = ()
        self.decode: PointDecode = PointDecode(self.crop, decode, cells=CELLS, stride=STRIDE)
        self.backbone = backbone.requires_grad_(not frozen)
        self.neck = Neck(backbone.channels, width)
        contexts = (CFRM(width, attention=attention, pool=attention_pool) for _ in backbone.channels)
        self.cfrm = nn.ModuleList(contexts if variant in REFINING else ())
        self.ban = BANHead(levels=len(backbone.channels), width=width)
        self.ranking = BandRanking(bands, variant=variant, importance=importance, gate=gate, without=without, seed=seed)
        self.sampling = sampling or PointSampling()
        self.lowering: Lowering = lowering
        self.sorting, self.frozen, self.reconstruction_weight = sorting, frozen, reconstruction_weight
        self.memory_names = ("z_cls", "z_loc")
        if sorting == "template":
            self.memory_names += ("band_select", "branch_weight")

    @property
    def branches(self) -> int:
        """G."""
        return self.ranking.groups.groups

    def levels(self, patch: Tensor, select: Tensor) -> list[Tensor]:
        """Refined levels (B G, W, n, n), composite within sample, of a patch (B, C, N, N)."""
        adjusted: list[Tensor] = self.neck(self.backbone(composites(patch, select)))
        return [refine(level) for refine, level in zip(self.cfrm, adjusted, strict=True)] if self.cfrm else adjusted

    def centres(self, patch: Tensor, select: Tensor) -> Tensor:
        """The template's centre cells (B G L, W, 7, 7): level within composite within sample."""
        return torch.stack([centre_crop(level) for level in self.levels(patch, select)], dim=1).flatten(0, 1)

    def kernels(self, centres: Tensor) -> tuple[Tensor, Tensor]:
        """z_cls and z_loc (B G L, W, 5, 5) of what :meth:`centres` returned."""
        step = len(self.neck.levels)
        cls, loc = self.ban.template([centres[level::step] for level in range(step)])
        return torch.stack(cls, dim=1).flatten(0, 1), torch.stack(loc, dim=1).flatten(0, 1)

    def template(self, patch: Tensor) -> tuple[Tensor, ...]:
        """z_cls and z_loc (B G L, W, 5, 5), level within composite within sample.

        With ``sorting="template"`` also band_select (B 3 G, C), a row with a single 1 per band used, and branch_weight (B, G).
        """
        return self.refresh(patch)[: len(self.memory_names)]

    def refresh(self, patch: Tensor, kept: Sequence[Tensor] | None = None, rate: Tensor | None = None) -> tuple[Tensor, ...]:
        """z_cls, z_loc and what is kept: the ranking, which stays the first one, and z_levels (B G L, W, 7, 7), blended.

        Features of different bands cannot be blended, so an update takes the bands that the first template chose. The paper
        speaks of an update without a rule. [ours] band_importance (B, C) is for people; nothing is computed from it.
        """
        importance = self.ranking.importance(patch)
        select, weight = self.ranking(importance)
        ranked = [select.flatten(0, 1), weight, importance]
        if kept is not None and rate is not None:
            first = rate >= 1.0
            ranked = [torch.where(first, new, old.float()) for new, old in zip(ranked, kept[:-1], strict=True)]
        centres = self.centres(patch, self._unfolded(ranked[0], patch))
        if kept is not None and rate is not None:
            centres = (1.0 - rate) * kept[-1] + rate * centres
        return *self.kernels(centres), *ranked, centres

    def _unfolded(self, band_select: Tensor, patch: Tensor) -> Tensor:
        return band_select.reshape(patch.shape[0], -1, self.channels)  # (B, 3 G, C)

    def search(self, patch: Tensor, memory: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Fused maps: cls (B, 2, 25, 25) log-probabilities, loc (B, 4, 25, 25) distances in patch px (equation 20)."""
        if self.sorting == "template":
            select, weight = self._unfolded(memory[2], patch), memory[3]
        else:
            select, weight = self.ranking(self.ranking.importance(patch))
        return fuse(*self.branch_maps(patch, select, memory[0], memory[1]), weight)

    def branch_maps(self, patch: Tensor, select: Tensor, z_cls: Tensor, z_loc: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B G, 2, 25, 25) and distances (B G, 4, 25, 25) of every composite (equation 19)."""
        cls, loc = self.ban.search(self.levels(patch, select))
        maps: tuple[Tensor, Tensor] = self.ban(self._correlate(cls, z_cls), self._correlate(loc, z_loc))
        return maps

    def _correlate(self, features: Sequence[Tensor], kernels: Tensor) -> list[Tensor]:
        step = len(features)
        return [depthwise_correlation(feature, kernels[level::step], self.lowering) for level, feature in enumerate(features)]

    def targets(self, boxes_xyxy: Tensor, positive: Tensor, generator: torch.Generator | None) -> AnchorTargets:
        """Sampled points for target boxes (B, 4) in search patch px."""
        boxes = centred_boxes(boxes_xyxy.float(), self.crop.search_size)
        return point_targets(self.decode.points, boxes, positive, sampling=self.sampling, generator=generator)

    def losses(
        self,
        template: Tensor,
        search: Tensor,
        boxes_xyxy: Tensor,
        positive: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Scalar losses: ``total = cls + loc + lambda_3 * rec`` (equation 18); ``cls`` and ``loc`` are weighted over composites.

        What inference does not compute is not trained: with ``per_frame`` sorting the weights are the search's, ``rec`` is of
        both patches, and ``reordered``, which is no loss, is the share of pairs whose patches fill the composites differently;
        with ``template`` sorting weights and ``rec`` are the template's alone, which halves the cost of a step. [ours]
        The weights pass their gradient to the band matrix; the choice of bands has none.

        Arguments as in :meth:`trackctl.training.siamrpn.SiamRPN.losses`, patches with C bands. A frozen backbone is put in
        evaluation mode.
        """
        if self.frozen:
            self.backbone.eval()
        targets = self.targets(boxes_xyxy, positive, generator)
        parts: dict[str, Tensor] = {}
        # Sums over a whole cube, and an order that bfloat16 would change.
        with torch.autocast(template.device.type, enabled=False):
            z_select, weight, error = self._ranked(template)
            x_select = z_select
            if self.sorting == "per_frame":
                x_select, weight, x_error = self._ranked(search)
                error = error + x_error
                parts["reordered"] = (z_select != x_select).any(dim=(1, 2)).float().mean()
        cls, loc = self.branch_maps(search, x_select, *self.kernels(self.centres(template, z_select)))
        weighted = _weighted(targets, weight)
        parts["cls"] = balanced_cross_entropy(cls, weighted)
        parts["loc"] = distance_loss(loc, self.decode.points, weighted)
        total = parts["cls"] + parts["loc"]
        if self.ranking.bimm is not None:
            parts["rec"] = error
            total = total + self.reconstruction_weight * error
        return {"total": total, **parts}

    def _ranked(self, patch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Selection (B, 3 G, C), weights (B, G) and the error of reconstruction, 0 without BIMM."""
        matrix = self.ranking.matrix(patch)
        if matrix is None:
            return *self.ranking(self.ranking.importance(patch)), patch.new_zeros(())
        return *self.ranking(band_importance(matrix, self.ranking.kind)), reconstruction(matrix, patch.float() / FULL_SCALE)


def fuse(cls: Tensor, loc: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The maps of all composites as one (equation 20), float32.

    Args:
        cls: (B G, 2, n, n) logits.
        loc: (B G, 4, n, n) distances.
        weight: (B, G) > 0 in any scale.

    Returns:
        Log-probabilities (B, 2, n, n), whose softmax is the weighted mean of the composites' softmaxes, so that they are decoded
        like any other class maps; and mean distances (B, 4, n, n).
    """
    batch, groups = weight.shape
    shares = (weight.float() / weight.float().sum(dim=1, keepdim=True))[:, :, None, None, None]  # (B, G, 1, 1, 1)
    both = torch.softmax(cls.float(), dim=1), loc.float()
    probability, distances = ((maps.reshape(batch, groups, *maps.shape[1:]) * shares).sum(dim=1) for maps in both)
    return torch.log(torch.clamp(probability, min=LEAST_PROBABILITY)), distances


def _weighted(targets: AnchorTargets, weight: Tensor) -> AnchorTargets:
    """The targets of maps (B G, ...), each counted as much as its composite's weight (B, G)."""
    repeated = [getattr(targets, name).repeat_interleave(weight.shape[1], dim=0) for name in AnchorTargets.__annotations__]
    positive, positive_mask, negative, negative_mask, boxes = repeated
    each = weight.reshape(-1, 1)
    return AnchorTargets(positive, positive_mask * each, negative, negative_mask * each, boxes)


def bcrnet_r50(**options: Any) -> BCRNet:
    """BCR-Net as in the paper: ResNet-50, three levels of 256 channels. ``options`` are arguments of :class:`BCRNet`."""
    return BCRNet(backbone=ResNet50(), width=256, **options)


def bcrnet_edge(*, attention_pool: int = 2, **options: Any) -> BCRNet:
    """BCR-Net on the light backbone: one level of 96 channels.

    [ours] Its cells attend to squares of four, which takes a quarter off the time of a frame.

    Args:
        attention_pool: as of :class:`BCRNet`.
        options: further arguments of :class:`BCRNet`.
    """
    return BCRNet(backbone=EdgeBackbone(), width=96, attention_pool=attention_pool, **options)
