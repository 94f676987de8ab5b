"""DCFFNet: depthwise correlation with the template at two stages inside the search backbone, then at its end.

"Staged depthwise correlation and feature fusion for Siamese object tracking". The template's branch has the same weights and no
correlation.

Shapes: B batch, N cells (search; template), C channels. Stride 3, then 6, without pooling.
    conv1 7x7 stride 3 padding 5, conv2, conv3 3x3     N = 87; 44    C = 64     x1, z1
    fusion of x1 with z1
    block2 (3 bottlenecks), block3 (4, stride 2)       N = 44; 22    C = 512    x2, z2
    fusion of x2 with z2
    conv4, conv5, conv6 3x3, the last without ReLU     N = 44; 22    C = 256    x3, z3
    correlation of x3 with the central 20 x 20 of z3   N = 25        C = 256    -> head -> cls (B, 2, 25, 25), loc (B, 4, 25, 25)
The paper prints the sizes of search maps alone. Neither one convolution nor three turn 255 into 87 cells with paddings of at most
half a kernel; stride 3 with a padding of (k + 3) / 2 does. The rest follows from ResNet-50. What the paper leaves open is a
constructor argument marked [ours].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import CropSpec
from trackctl.training.anchors import centred_boxes
from trackctl.training.backbones import conv_bn
from trackctl.training.backbones.resnet import Bottleneck
from trackctl.training.car import CARHead, car_losses
from trackctl.training.correlation import Lowering, depthwise_correlation
from trackctl.training.decode import DecodeSpec, PointDecode
from trackctl.training.model import TrackerModel
from trackctl.training.neck import centre_crop

STRIDE, CELLS = 6, 25
# Cell v of either branch looks at pixel 6 v - 2. The kernel begins at the template's cell 1, pixel 4; the target is at 63.
# Response r therefore puts it at pixel (6 r - 2) + (63 - 4) = 57 + 6 r of the search patch, whose centre is pixel 127.
OFFSET_PX = 2.0
KERNEL_CELLS = 20
WIDTH = 256

# Inference constants of the public SiamCAR; the paper prints none.
DCFFNET_DECODE = DecodeSpec(penalty_k=0.04, window=0.44, lr=0.33)

Variant = Literal["baseline", "CF-1st", "CF-2nd", "CF-double"]
FusionNorm = Literal["mean", "none", "bn"]
FusionAlign = Literal["stretch", "pad"]

# Which template maps each row of the paper's table 3 correlates with inside the backbone.
FUSED: dict[Variant, tuple[str, ...]] = {"baseline": (), "CF-1st": ("z1",), "CF-2nd": ("z2",), "CF-double": ("z1", "z2")}
FUSED_CHANNELS = {"z1": 64, "z2": 512}


class StagedBackbone(nn.Module):
    """The three stages between which maps are fused."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv_bn(3, 64, 7, stride=3, padding=5)
        self.conv2 = conv_bn(64, 64, 3, padding=1)
        self.conv3 = conv_bn(64, 64, 3, padding=1)
        self.block2 = nn.Sequential(Bottleneck(64, 64, shortcut=1), *(Bottleneck(256, 64) for _ in range(2)))
        strided = Bottleneck(256, 128, stride=2, shortcut=1, padded=True)
        self.block3 = nn.Sequential(strided, *(Bottleneck(512, 128) for _ in range(3)))
        self.conv4 = conv_bn(512, WIDTH, 3, padding=1)
        self.conv5 = conv_bn(WIDTH, WIDTH, 3, padding=1)
        self.conv6 = conv_bn(WIDTH, WIDTH, 3, padding=1, relu=False)

    def first(self, patch: Tensor) -> Tensor:
        """(B, 64, 87 | 44, ...) of a patch (B, 3, 255 | 127, ...) in BGR 0..255."""
        return cast(Tensor, self.conv3(self.conv2(self.conv1(patch))))

    def second(self, x1: Tensor) -> Tensor:
        """(B, 512, 44 | 22, ...) of the first stage's map."""
        return cast(Tensor, self.block3(self.block2(x1)))

    def third(self, x2: Tensor) -> Tensor:
        """(B, 256, 44 | 22, ...) of the second stage's map, signed."""
        return cast(Tensor, self.conv6(self.conv5(self.conv4(x2))))


class CorrelationFusion(nn.Module):
    """A search map plus its depthwise correlation with the template's, resized to it (the paper's CF module).

    Args:
        channels: C.
        norm: what is done about a response that is a sum over the whole kernel: its mean, nothing as printed (float16 then
            overflows), or the mean and a batch normalisation. [ours]
        align: ``stretch`` resizes the response as published, which enlarges it about the centre; ``pad`` puts every response
            where its kernel was centred, with zeros round them. [ours]
    """

    def __init__(self, channels: int, norm: FusionNorm, align: FusionAlign) -> None:
        super().__init__()
        self.scaled, self.align = norm != "none", align
        self.norm: nn.Module = nn.BatchNorm2d(channels) if norm == "bn" else nn.Identity()

    def kernel(self, template: Tensor) -> Tensor:
        """The kernel (B, C, m, m) for a template map: the mean is taken here, before there is a sum that could overflow."""
        return template / (template.shape[2] * template.shape[3]) if self.scaled else template

    def forward(self, search: Tensor, kernel: Tensor, lowering: Lowering) -> Tensor:
        """The fused map, same shape as ``search`` (B, C, n, n); the kernel's side m must be even and m - 1 < n."""
        response = self.norm(depthwise_correlation(search, kernel, lowering))  # (B, C, n - m + 1, n - m + 1)
        if self.align == "stretch":
            return search + F.interpolate(response, size=search.shape[2:], mode="bilinear", align_corners=False)
        # Response r belongs to place r + (m - 1) / 2, between two cells, each of which gets half of it per axis.
        margin = kernel.shape[2] // 2
        return search + F.avg_pool2d(F.pad(response, (margin,) * 4), 2, stride=1)


class DCFFNet(TrackerModel):
    """DCFFNet and its ablations.

    Args:
        variant: row of the paper's table 3: ``baseline`` has no fusion, ``CF-double`` is the system.
        cf_norm: see :class:`CorrelationFusion`.
        cf_align: see :class:`CorrelationFusion`.
        pos_shrink: which points are positive, see :func:`trackctl.training.car.inside`; 0 is the paper's whole box. [ours]
        decode: inference constants. [ours]
        lowering: of all correlations; may be set at any time before export. None is what was measured to be best
            (benchmarks/results/dcffnet_lowerings.md): ``fourier`` in PyTorch, whose training step takes a fifth of the time of
            ``conv``, and ``conv`` in exported graphs.
    """

    def __init__(
        self,
        *,
        variant: Variant = "CF-double",
        cf_norm: FusionNorm = "mean",
        cf_align: FusionAlign = "stretch",
        pos_shrink: float = 0.0,
        decode: DecodeSpec = DCFFNET_DECODE,
        lowering: Lowering | None = None,
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("variant", variant, Variant),
            ("cf_norm", cf_norm, FusionNorm),
            ("cf_align", cf_align, FusionAlign),
        ):
            if value not in get_args(choices):
                raise InputError(f"got {name} {value!r}, expected one of {', '.join(get_args(choices))}")
        if not 0.0 <= pos_shrink < 1.0:
            raise InputError(f"got pos_shrink {pos_shrink:g}, expected 0 (the whole box) up to, not including, 1")
        self.crop = CropSpec()
        self.decode: PointDecode = PointDecode(self.crop, decode, cells=CELLS, stride=STRIDE, offset_px=OFFSET_PX)
        self.backbone = StagedBackbone()
        self.fusions = nn.ModuleDict(
            {name: CorrelationFusion(FUSED_CHANNELS[name], cf_norm, cf_align) for name in FUSED[variant]}
        )
        self.memory_names = (*FUSED[variant], "z3")
        self.head = CARHead(WIDTH)
        self.variant, self.pos_shrink = variant, pos_shrink
        self.lowering: Lowering | None = lowering

    def template_features(self, patch: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """The fusions' kernels, (B, 64, 44, 44) and (B, 512, 22, 22) as the variant has them, and z3 (B, 256, 22, 22)."""
        z1 = self.backbone.first(patch)
        z2 = self.backbone.second(z1)
        maps = {"z1": z1, "z2": z2}
        return tuple(self._fusion(name).kernel(maps[name]) for name in self.fusions), self.backbone.third(z2)

    def search_features(self, patch: Tensor, kernels: Sequence[Tensor]) -> Tensor:
        """x3 (B, 256, 44, 44) of a search patch, fused with these kernels."""
        given = dict(zip(self.fusions, kernels, strict=True))
        x1 = self._fused("z1", self.backbone.first(patch), given)
        x2 = self._fused("z2", self.backbone.second(x1), given)
        return self.backbone.third(x2)

    def _fused(self, name: str, search: Tensor, kernels: dict[str, Tensor]) -> Tensor:
        return cast(Tensor, self._fusion(name)(search, kernels[name], self._lowering)) if name in kernels else search

    @property
    def _lowering(self) -> Lowering:
        return self.lowering or ("conv" if torch.compiler.is_exporting() else "fourier")

    def _fusion(self, name: str) -> CorrelationFusion:
        return cast(CorrelationFusion, self.fusions[name])

    def template(self, patch: Tensor) -> tuple[Tensor, ...]:
        """z1 (B, 64, 44, 44) and z2 (B, 512, 22, 22) as the variant has them, then z3 (B, 256, 20, 20), divided by their cells.

        The centre of z3 is ours: it makes the response as large as the one that SiamCAR's head is made for.
        """
        kernels, z3 = self.template_features(patch)
        return *kernels, centre_crop(z3, KERNEL_CELLS) / (KERNEL_CELLS * KERNEL_CELLS)

    def search(self, patch: Tensor, memory: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Raw maps cls (B, 2, 25, 25) and loc (B, 4, 25, 25)."""
        *kernels, z3 = memory
        response = depthwise_correlation(self.search_features(patch, kernels), z3, self._lowering)  # (B, 256, 25, 25)
        maps: tuple[Tensor, Tensor] = self.head(response)
        return maps

    def losses(
        self,
        template: Tensor,
        search: Tensor,
        boxes_xyxy: Tensor,
        positive: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Scalar losses ``cls``, ``loc`` and their sum ``total``: the objective of the second training stage.

        Args:
            template: (B, 3, 127, 127) in 0..255.
            search: (B, 3, 255, 255) in 0..255.
            boxes_xyxy: (B, 4) the target's left, top, right, bottom in search patch px.
            positive: bool (B,): whether the search patch shows the template's target.
            generator: not used, since nothing is drawn.
        """
        cls, loc = self.search(search, self.template(template))
        boxes = centred_boxes(boxes_xyxy.float(), self.crop.search_size)
        cls_loss, loc_loss = car_losses(cls, loc, self.decode.points, boxes, positive, shrink=self.pos_shrink)
        return {"total": cls_loss + loc_loss, "cls": cls_loss, "loc": loc_loss}


def dcffnet(**options: Any) -> DCFFNet:
    """DCFFNet as published: fusion at both stages. ``options`` are arguments of :class:`DCFFNet`."""
    return DCFFNet(**options)


def dcffnet_baseline() -> DCFFNet:
    """The paper's baseline: no fusion."""
    return DCFFNet(variant="baseline")


def dcffnet_cf1() -> DCFFNet:
    """The ablation with the fusion of the first stage alone."""
    return DCFFNet(variant="CF-1st")


def dcffnet_cf2() -> DCFFNet:
    """The ablation with the fusion of the second stage alone."""
    return DCFFNet(variant="CF-2nd")
