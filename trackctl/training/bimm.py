"""BIMM: which bands explain the others, and the three-band composites that follow from it.

"BCR-Net: band and context refinement network for hyperspectral object tracking", band importance modelling module. A cube's
bands are expressed by each other, X ~ W X with the pixels of band i in row i of X; W is predicted by a small U-Net and one
refinement step, and the column sums of W rank the bands.

Shapes: B batch, C bands, K features per band (1, 2, 4, 8 on levels 0 to 3), P pixels, G = C // 3 composites.
    cube (B, C, H, W) -> E_l (B, K C, H / 2^l, W / 2^l) -> D_0 (B, C, H, W) -> g (B, C) -> W (B, C, C) -> importance (B, C)
Channels are band-major (c K + k), so that C groups keep the bands apart. Equation numbers are the paper's. Everything here is
float32 whatever the rest of the model computes in: a rounded sum would change the order of the bands.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trackctl.runtime.errors import InputError
from trackctl.training.backbones import conv_bn

FEATURES = (1, 2, 4, 8)  # K of the levels [ours]
REDUCTION = 4  # of the channel attention [ours]
BANDS_PER_COMPOSITE = 3
# Added to every importance, so that a matrix of zeros means equal weights; far below one unit in the last place otherwise.
IMPORTANCE_FLOOR = 1e-12
# Of the highest importance, taken off per band before sorting: equal bands keep their order on every engine.
TIE = 1e-6

Importance = Literal["column", "row", "both"]
Gate = Literal["decoder", "encoder", "both"]
Part = Literal["CEM", "SEM", "SDUB", "SGRM", "refine"]
Order = Literal["ranked", "sequential", "random"]


def one_of(name: str, value: str, choices: Any) -> None:
    """Return if the value is one of a Literal's.

    Raises:
        InputError: it is not.
    """
    if value not in get_args(choices):
        raise InputError(f"got {name} {value!r}, expected one of {', '.join(get_args(choices))}")


class SpatialEnhance(nn.Module):
    """Positions weighted by a sigmoid gate of their highest and mean channel (SEM, equation 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as ``x``."""
        pooled = torch.cat((x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)), dim=1)
        return x * torch.sigmoid(self.conv(pooled))


class ChannelEnhance(nn.Module):
    """Channels weighted by a softplus gate of their mean and highest value (CEM, equation 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // REDUCTION)
        self.fc = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as ``x``."""
        gate = F.softplus(self.fc(x.mean(dim=(2, 3))) + self.fc(x.amax(dim=(2, 3))))  # (B, C)
        return x * gate[:, :, None, None]


class BandConv(nn.Module):
    """3-D convolution over bands, rows and columns with batch normalisation and ReLU, computed as one 2-D convolution.

    The bands are channels, so the kernel (outputs, inputs, 3, 3, 3) is a band of blocks in one of (outputs C, inputs C, 3, 3).
    On a CPU that is four times faster on the first level, and every engine has it.

    Args:
        bands: C.
        inputs: K of the input.
        outputs: K of the output.
        stride: of rows and columns.
    """

    neighbours: Tensor

    def __init__(self, bands: int, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.bands, self.stride = bands, stride
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3, 3))
        nn.init.kaiming_normal_(self.weight, mode="fan_in", nonlinearity="relu")
        self.norm = nn.BatchNorm3d(outputs)
        offsets = [torch.diag_embed(torch.ones(bands - abs(offset)), offset=offset) for offset in (-1, 0, 1)]
        self.register_buffer("neighbours", torch.stack(offsets, dim=2), persistent=False)  # (C, C, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, outputs C, h', w') of (B, inputs C, h, w), both band-major."""
        outputs, inputs = self.weight.shape[:2]
        norm, bias = self.norm, None
        weight: Tensor = self.weight
        if not self.training:
            mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
            scale = norm.weight * torch.rsqrt(variance + norm.eps)
            weight = weight * scale[:, None, None, None, None]
            bias = (norm.bias - mean * scale).repeat(self.bands)
        blocks = torch.matmul(self.neighbours, weight.permute(2, 0, 1, 3, 4).flatten(1))  # (C, C, outputs inputs 9)
        blocks = blocks.reshape(self.bands, self.bands, outputs, inputs, 3, 3)
        kernel = blocks.transpose(1, 2).reshape(self.bands * outputs, self.bands * inputs, 3, 3)
        x = F.conv2d(x, kernel, bias, stride=self.stride, padding=1)
        if self.training:
            volume = x.reshape(-1, self.bands, outputs, *x.shape[2:]).transpose(1, 2)  # (B, K, C, h', w')
            x = norm(volume).transpose(1, 2).flatten(1, 2)
        return F.relu(x)


class EncoderLevel(nn.Sequential):
    """3-D convolution, then SEM and CEM (equation 4).

    Args:
        bands: C.
        inputs: K of the level before.
        outputs: K of this level.
        stride: of rows and columns.
        without: parts left out.
    """

    def __init__(self, bands: int, inputs: int, outputs: int, *, stride: int, without: Collection[Part]) -> None:
        spatial = () if "SEM" in without else (SpatialEnhance(),)
        channel = () if "CEM" in without else (ChannelEnhance(outputs * bands),)
        super().__init__(BandConv(bands, inputs, outputs, stride=stride), *spatial, *channel)


class Upsample(nn.Module):
    """Bilinear enlargement, separable convolution, shuffle over the bands, 1x1 (SDUB, equation 5).

    Args:
        bands: C.
        inputs: K of the level below.
        outputs: K of the level above.
        plain: enlargement and 1x1 alone.
    """

    def __init__(self, bands: int, inputs: int, outputs: int, *, plain: bool) -> None:
        super().__init__()
        self.bands = bands
        channels = inputs * bands
        self.separable: nn.Module | None = None
        if not plain:
            self.separable = nn.Sequential(
                conv_bn(channels, channels, 3, padding=1, groups=channels, relu=False), conv_bn(channels, channels, 1)
            )
        self.out = nn.Conv2d(channels, outputs * bands, 1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, outputs C, *size) of (B, inputs C, h, w)."""
        x = F.interpolate(x, size, mode="bilinear", align_corners=False)
        if self.separable is not None:
            x = self.separable(x)
            batch, channels, *cells = x.shape
            x = x.reshape(batch, self.bands, channels // self.bands, *cells).transpose(1, 2).flatten(1, 2)
        return cast(Tensor, self.out(x))


class Refine(nn.Module):
    """Decoder features weighted by what encoder and decoder see together (SGRM, equations 6 and 7).

    Args:
        bands: C.
        features: K.
        gate: what the gate multiplies: the decoder's features, the encoder's [ours], or their sum [ours].
    """

    def __init__(self, bands: int, features: int, gate: Gate) -> None:
        super().__init__()
        channels = features * bands
        self.gate = gate
        self.encoder = conv_bn(channels, channels, 3, padding=1, groups=bands, relu=False)
        self.decoder = conv_bn(channels, channels, 3, padding=1, groups=bands, relu=False)
        self.out = conv_bn(channels, 1, 1, relu=False)

    def forward(self, encoder: Tensor, decoder: Tensor) -> Tensor:
        """The refined features, same shape as both arguments."""
        weight = torch.sigmoid(self.out(F.relu(self.encoder(encoder) + self.decoder(decoder))))  # (B, 1, h, w)
        gated = {"decoder": decoder, "encoder": encoder, "both": encoder + decoder}[self.gate]
        return weight * gated


class BIMM(nn.Module):
    """The band matrix W of a cube (equations 4 to 10).

    Args:
        bands: C, at least 3.
        gate: see :class:`Refine`.
        without: parts left out, for ablation: attention, the separable convolution, the gate (features are then added) or the
            refinement step (W = W0).
    """

    off_diagonal: Tensor

    def __init__(self, bands: int, *, gate: Gate = "decoder", without: Collection[Part] = ()) -> None:
        super().__init__()
        one_of("gate", gate, Gate)
        for part in without:
            one_of("part", part, Part)
        if bands < BANDS_PER_COMPOSITE:
            raise InputError(f"got {bands} bands, expected at least {BANDS_PER_COMPOSITE}, which is one composite")
        self.bands = bands
        self.encoder = nn.ModuleList(
            EncoderLevel(bands, inputs, outputs, stride=1 if level == 0 else 2, without=without)
            for level, (inputs, outputs) in enumerate(zip((1, *FEATURES), FEATURES, strict=False))
        )
        steps = list(zip(FEATURES[:0:-1], FEATURES[-2::-1], strict=True))  # (8, 4), (4, 2), (2, 1)
        self.up = nn.ModuleList(Upsample(bands, inputs, outputs, plain="SDUB" in without) for inputs, outputs in steps)
        self.refine = nn.ModuleList(Refine(bands, outputs, gate) for _, outputs in steps if "SGRM" not in without)
        self.step: nn.Sequential | None = None
        if "refine" not in without:
            last = nn.Linear(2 * bands, bands)
            # A fresh network leaves W0 as it is.
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.step = nn.Sequential(nn.Linear(bands, 2 * bands), nn.ReLU(), last)
        self.register_buffer("off_diagonal", 1.0 - torch.eye(bands), persistent=False)

    def encode(self, cube: Tensor) -> list[Tensor]:
        """E_0 to E_3, (B, K C, H / 2^l, W / 2^l) each."""
        levels = [cube]
        for level in self.encoder:
            levels.append(level(levels[-1]))
        return levels[1:]

    def decode(self, levels: list[Tensor]) -> Tensor:
        """D_0 (B, C, H, W), signed (equation 8)."""
        decoded = levels[-1]
        for index, up in enumerate(self.up):
            skip = levels[-2 - index]
            enlarged = up(decoded, skip.shape[2:])
            decoded = self.refine[index](skip, enlarged) if self.refine else skip + enlarged
        return decoded

    def forward(self, cube: Tensor) -> Tensor:
        """W (B, C, C) >= 0 with a diagonal of exact zeros, for a cube (B, C, H, W) in 0..1.

        The factor 1 / (C - 1) is [ours]: it starts the rows of W at a sum near ln 2 rather than near 10, and cannot change the
        order of the bands.
        """
        pooled = self.decode(self.encode(cube)).mean(dim=(2, 3))  # (B, C)
        outer = pooled[:, :, None] * pooled[:, None, :]
        start = self.off_diagonal * F.softplus(outer) / (self.bands - 1)  # (B, C, C), equation 9
        return start if self.step is None else self.off_diagonal * F.relu(start - self.step(start))


def reconstruction(matrix: Tensor, cube: Tensor) -> Tensor:
    """Mean square of X - W X over all entries: the self-expression part of equation 18.

    Args:
        matrix: W (B, C, C).
        cube: (B, C, H, W) in 0..1.
    """
    pixels = cube.flatten(2)  # (B, C, P)
    return (pixels - torch.matmul(matrix, pixels)).square().mean()


def band_importance(matrix: Tensor, kind: Importance = "column") -> Tensor:
    """How much each band explains the others, (B, C) > 0 (equation 11).

    Args:
        matrix: W (B, C, C).
        kind: sums of the columns, of the rows, or the mean of both. Rows mostly measure how bright a band is.
    """
    columns, rows = matrix.sum(dim=1), matrix.sum(dim=2)
    return {"column": columns, "row": rows, "both": (columns + rows) / 2}[kind] + IMPORTANCE_FLOOR


class BandGroups(nn.Module):
    """Composites of three bands and their weights, from the importance of the bands (equation 12).

    Args:
        bands: C.
        groups: G; the bands ranked below 3 G are dropped.
        order: by importance, the lower band first on ties; or, for ablation, as they are or a random order drawn once.
        weighted: whether a composite counts as much as its bands, or all alike.
        seed: of the random order.
    """

    handicap: Tensor
    numbers: Tensor
    order: Tensor | None

    def __init__(self, bands: int, groups: int, *, order: Order = "ranked", weighted: bool = True, seed: int = 0) -> None:
        super().__init__()
        one_of("order", order, Order)
        if not 0 < groups <= bands // BANDS_PER_COMPOSITE:
            raise InputError(f"got {groups} composites of {bands} bands, expected 1 to {bands // BANDS_PER_COMPOSITE}")
        self.bands, self.groups, self.weighted = bands, groups, weighted
        self.register_buffer("handicap", TIE * torch.arange(bands), persistent=False)
        self.register_buffer("numbers", torch.arange(bands), persistent=False)
        drawn = torch.randperm(bands, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("order", {"ranked": None, "sequential": torch.arange(bands), "random": drawn}[order])

    def ranking(self, importance: Tensor) -> Tensor:
        """The bands (B, C), int64, in the order in which they fill the composites."""
        if self.order is not None:
            return self.order.expand(importance.shape[0], -1)
        highest = importance.amax(dim=1, keepdim=True)
        return torch.topk(importance - highest * self.handicap, self.bands, dim=1).indices

    def forward(self, importance: Tensor) -> tuple[Tensor, Tensor]:
        """One-hot selection (B, 3 G, C) and weights (B, G) that sum to 1; gradients reach the weights alone.

        Args:
            importance: (B, C) > 0.
        """
        used = self.ranking(importance)[:, : self.groups * BANDS_PER_COMPOSITE]  # (B, 3 G)
        select = (used[:, :, None] == self.numbers).to(importance.dtype)  # (B, 3 G, C)
        counted = importance if self.weighted else torch.ones_like(importance)
        each = torch.matmul(select, counted[:, :, None]).reshape(-1, self.groups, BANDS_PER_COMPOSITE).sum(dim=2)
        return select, each / each.sum(dim=1, keepdim=True)


def composites(cube: Tensor, select: Tensor) -> Tensor:
    """Three-band composites (B G, 3, H, W), composite within sample, of a cube (B, C, H, W).

    Args:
        cube: any scale.
        select: (B, 3 G, C) one-hot. A product rather than a gather, so that the selection can be an input of a static graph.
    """
    height, width = cube.shape[2:]
    return torch.matmul(select.to(cube.dtype), cube.flatten(2)).reshape(-1, BANDS_PER_COMPOSITE, height, width)
