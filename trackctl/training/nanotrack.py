"""NanoTrack V1, V2 and V3: light Siamese trackers with public weights.

Source: HonglinChu/SiamTrackers, folder NanoTrack (Apache-2.0); there is no paper. Backbone: MobileNetV3-small (Howard et al.,
ICCV 2019, table 2) cut after stride 16; pixel-wise correlation: Alpha-Refine (Yan et al., CVPR 2021, section 3.2); squeeze and
excite: Hu et al., CVPR 2018. Module names follow the authors' checkpoints, which therefore load strictly.

Shapes: B batch, C backbone channels (48, V3: 96), N response cells per side (16, V3: 15). Template patch (B, 3, 127, 127) ->
features (B, C, 8, 8); search patch (B, 3, 255, 255) -> features (B, C, 16, 16); cls (B, 2, N, N) logits, background then target;
loc (B, 4, N, N) distances left, top, right, bottom in patch px. Patches are BGR 0..255, without mean or scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trackctl.runtime.errors import WeightsError
from trackctl.runtime.geometry import CropSpec
from trackctl.training.correlation import depthwise_correlation
from trackctl.training.decode import MAX_LOG_SIZE, DecodeSpec, PointDecode
from trackctl.training.model import TrackerModel

STRIDE = 16
TEMPLATE_CELLS = 8
# The pixel-wise correlation has one output channel per template cell.
CORRELATION_CHANNELS = TEMPLATE_CELLS * TEMPLATE_CELLS


class Stage(NamedTuple):
    """One inverted residual of the backbone: kernel side, channels in, expanded and out, squeeze width (0 = none)."""

    kernel: int
    width_in: int
    expand: int
    width_out: int
    squeeze: int
    hard_swish: bool
    stride: int


# MobileNetV3-small, Howard et al., table 2, as far as the authors keep it.
STAGES = (
    Stage(3, 16, 16, 16, 8, False, 2),
    Stage(3, 16, 72, 24, 0, False, 2),
    Stage(3, 24, 88, 24, 0, False, 1),
    Stage(5, 24, 96, 40, 24, True, 2),
    Stage(5, 40, 240, 40, 64, True, 1),
    Stage(5, 40, 240, 40, 64, True, 1),
    Stage(5, 40, 120, 48, 32, True, 1),
    Stage(5, 48, 144, 48, 40, True, 1),
)
STAGES_V3 = (*STAGES, Stage(5, 48, 288, 96, 72, True, 1))


class SqueezeExcite(nn.Module):
    """Channels weighted by a hard-sigmoid gate of their global mean; same shape."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Hardsigmoid())

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) weighted."""
        gate: Tensor = self.fc(features.mean(dim=(2, 3)))  # (B, C)
        return features * gate[:, :, None, None]


class InvertedResidual(nn.Module):
    """Expand, depth-wise convolve, project; with the input added where the shape is kept."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        activation = nn.Hardswish if stage.hard_swish else nn.ReLU
        squeeze = SqueezeExcite(stage.expand, stage.squeeze) if stage.squeeze else nn.Identity()
        depthwise = nn.Conv2d(
            stage.expand,
            stage.expand,
            stage.kernel,
            stage.stride,
            stage.kernel // 2,
            groups=stage.expand,
            bias=False,
        )
        project = [nn.Conv2d(stage.expand, stage.width_out, 1, bias=False), nn.BatchNorm2d(stage.width_out)]
        middle: list[nn.Module] = [depthwise, nn.BatchNorm2d(stage.expand)]
        if stage.expand == stage.width_in:
            # Without an expansion the squeeze follows the activation; with one it precedes it.
            self.conv = nn.Sequential(*middle, activation(), squeeze, *project)
        else:
            expand = [nn.Conv2d(stage.width_in, stage.expand, 1, bias=False), nn.BatchNorm2d(stage.expand), activation()]
            self.conv = nn.Sequential(*expand, *middle, squeeze, activation(), *project)
        self.residual = stage.stride == 1 and stage.width_in == stage.width_out

    def forward(self, features: Tensor) -> Tensor:
        """(B, width_out, H / stride, W / stride)."""
        convolved: Tensor = self.conv(features)
        return features + convolved if self.residual else convolved


class NanoBackbone(nn.Module):
    """Features of stride 16."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        self.features = nn.Sequential(stem, *(InvertedResidual(stage) for stage in stages))

    def forward(self, patch: Tensor) -> Tensor:
        """(B, 3, 127, 127) -> (B, C, 8, 8); (B, 3, 255, 255) -> (B, C, 16, 16)."""
        features: Tensor = self.features(patch)
        return features


class ChannelAttention(nn.Module):
    """Channels weighted by a sigmoid gate of their global mean; same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels, 1)
        self.fc2 = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) weighted."""
        pooled = features.mean(dim=(2, 3), keepdim=True)  # (B, C, 1, 1)
        return features * torch.sigmoid(self.fc2(torch.relu(self.fc1(pooled))))


def projection(channels: int) -> nn.Sequential:
    """A 1x1 convolution with batch normalisation and no activation; same shape."""
    return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))


class PixelCorrelation(nn.Module):
    """Every search cell against every template cell (Yan et al., CVPR 2021), then channel attention.

    Args:
        project: channels of the projections before the correlation; 0 for none (V1).
        shrink: end with the 2x2 convolution that turns 16 cells into 15 (V3).
    """

    def __init__(self, *, project: int = 0, shrink: bool = False) -> None:
        super().__init__()
        self.conv_kernel = projection(project) if project else nn.Identity()
        self.conv_search = projection(project) if project else nn.Identity()
        self.CA_layer = ChannelAttention(CORRELATION_CHANNELS)
        width = CORRELATION_CHANNELS
        self.conv = (
            nn.Sequential(
                nn.Conv2d(width, width, 2, groups=width, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU6(),
                nn.Conv2d(width, width, 1),
                nn.BatchNorm2d(width),
            )
            if shrink
            else nn.Identity()
        )

    def kernel(self, template: Tensor) -> Tensor:
        """Template features (B, C, 8, 8) as one row of C weights per template cell, row-major: (B, 64, C)."""
        projected: Tensor = self.conv_kernel(template)
        return projected.flatten(2).transpose(1, 2)

    def forward(self, kernel: Tensor, search: Tensor) -> Tensor:
        """Kernel (B, 64, C) and search features (B, C, 16, 16) -> (B, 64, N, N)."""
        projected: Tensor = self.conv_search(search)
        response = torch.matmul(kernel, projected.flatten(2))  # (B, 64, 256)
        response = response.reshape(-1, CORRELATION_CHANNELS, *projected.shape[2:])  # (B, 64, 16, 16)
        result: Tensor = self.conv(self.CA_layer(response))
        return result


class CentreCorrelation(nn.Module):
    """Channel by channel correlation with the central 4x4 of the template, padding 1: 16 cells become 15."""

    CENTRE = slice(2, 6)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_kernel = projection(channels)
        self.conv_search = projection(channels)

    def kernel(self, template: Tensor) -> Tensor:
        """Template features (B, C, 8, 8) -> (B, C, 4, 4)."""
        projected: Tensor = self.conv_kernel(template[:, :, self.CENTRE, self.CENTRE])
        return projected

    def forward(self, kernel: Tensor, search: Tensor) -> Tensor:
        """Kernel (B, C, 4, 4) and search features (B, C, 16, 16) -> (B, C, 15, 15)."""
        projected = F.pad(self.conv_search(search), (1, 1, 1, 1))  # (B, C, 18, 18)
        return depthwise_correlation(projected, kernel)


def separable_tower(widths: Sequence[int], kernels: Sequence[int]) -> nn.Sequential:
    """Units of depth-wise kxk, point-wise 1x1, batch normalisation, ReLU6: the towers of V1 and V2."""
    units: list[nn.Module] = []
    for width_in, width_out, kernel in zip(widths[:-1], widths[1:], kernels, strict=True):
        units += [
            nn.Conv2d(width_in, width_in, kernel, padding=kernel // 2, groups=width_in, bias=False),
            nn.Conv2d(width_in, width_out, 1, bias=False),
            nn.BatchNorm2d(width_out),
            nn.ReLU6(),
        ]
    return nn.Sequential(*units)


def linear_tower(width: int, count: int) -> nn.Sequential:
    """Units of depth-wise 3x3, batch normalisation, ReLU6, point-wise 1x1, batch normalisation: the towers of V3."""
    units: list[nn.Module] = []
    for _ in range(count):
        units += [
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(),
            nn.Conv2d(width, width, 1, bias=False),
            nn.BatchNorm2d(width),
        ]
    return nn.Sequential(*units)


def prediction(width: int, channels: int) -> nn.Sequential:
    """The last 1x1 convolution of a branch (a Sequential of one, as the authors name it)."""
    return nn.Sequential(nn.Conv2d(width, channels, 1))


def distances(raw: Tensor) -> Tensor:
    """Distances in patch px from raw values. V1 would emit 2e5 px off the target, which fp16 cannot hold."""
    return torch.exp(torch.clamp(raw, max=MAX_LOG_SIZE))


class HeadV1(nn.Module):
    """One correlation for both branches."""

    memory_names: ClassVar[tuple[str, ...]] = ("kernel",)

    def __init__(self) -> None:
        super().__init__()
        self.corr_pw = PixelCorrelation()
        self.cls_tower = separable_tower((64, 128, 128, 128), (5, 5, 3))
        self.bbox_tower = separable_tower((64, 96, 96, 96, 96), (3, 3, 5, 5))
        self.cls_logits = prediction(128, 2)
        self.bbox_pred = prediction(96, 4)

    def template(self, features: Tensor) -> tuple[Tensor, ...]:
        """The kernel (B, 64, 48)."""
        return (self.corr_pw.kernel(features),)

    def forward(self, features: Tensor, memory: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps cls (B, 2, 16, 16), loc (B, 4, 16, 16)."""
        response = self.corr_pw(memory[0], features)  # (B, 64, 16, 16)
        return self.cls_logits(self.cls_tower(response)), distances(self.bbox_pred(self.bbox_tower(response)))


class HeadV2(nn.Module):
    """A projected correlation for each branch."""

    memory_names: ClassVar[tuple[str, ...]] = ("kernel_cls", "kernel_reg")

    def __init__(self) -> None:
        super().__init__()
        self.corr_pw_cls = PixelCorrelation(project=48)
        self.corr_pw_reg = PixelCorrelation(project=48)
        widths, kernels = (64, *[96] * 6), (3,) * 6
        self.cls_pw_tower = separable_tower(widths, kernels)
        self.bbox_pw_tower = separable_tower(widths, kernels)
        self.cls_pred = prediction(96, 2)
        self.bbox_pred = prediction(96, 4)

    def template(self, features: Tensor) -> tuple[Tensor, ...]:
        """Two kernels (B, 64, 48)."""
        return self.corr_pw_cls.kernel(features), self.corr_pw_reg.kernel(features)

    def forward(self, features: Tensor, memory: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps cls (B, 2, 16, 16), loc (B, 4, 16, 16)."""
        cls = self.cls_pred(self.cls_pw_tower(self.corr_pw_cls(memory[0], features)))
        loc = self.bbox_pred(self.bbox_pw_tower(self.corr_pw_reg(memory[1], features)))
        return cls, distances(loc)


class HeadV3(nn.Module):
    """A pixel-wise and a depth-wise correlation for each branch, side by side."""

    memory_names: ClassVar[tuple[str, ...]] = ("kernel_cls", "kernel_reg", "depthwise_cls", "depthwise_reg")

    def __init__(self) -> None:
        super().__init__()
        width = 96
        self.corr_pw_cls = PixelCorrelation(project=width, shrink=True)
        self.corr_pw_reg = PixelCorrelation(project=width, shrink=True)
        self.corr_dw_cls = CentreCorrelation(width)
        self.corr_dw_reg = CentreCorrelation(width)
        self.down_cls = prediction(CORRELATION_CHANNELS + width, width)
        self.down_reg = prediction(CORRELATION_CHANNELS + width, width)
        self.cls_tower = linear_tower(width, 6)
        self.bbox_tower = linear_tower(width, 6)
        self.cls_logits = prediction(width, 2)
        self.bbox_pred = prediction(width, 4)

    def template(self, features: Tensor) -> tuple[Tensor, ...]:
        """Two kernels (B, 64, 96) and two (B, 96, 4, 4)."""
        pixelwise = self.corr_pw_cls.kernel(features), self.corr_pw_reg.kernel(features)
        return *pixelwise, self.corr_dw_cls.kernel(features), self.corr_dw_reg.kernel(features)

    def forward(self, features: Tensor, memory: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps cls (B, 2, 15, 15), loc (B, 4, 15, 15)."""
        both_cls = torch.cat((self.corr_pw_cls(memory[0], features), self.corr_dw_cls(memory[2], features)), dim=1)
        both_reg = torch.cat((self.corr_pw_reg(memory[1], features), self.corr_dw_reg(memory[3], features)), dim=1)
        cls = self.cls_logits(self.cls_tower(self.down_cls(both_cls)))
        loc = self.bbox_pred(self.bbox_tower(self.down_reg(both_reg)))
        return cls, distances(loc)


# A key prefix that only one version's checkpoint has.
SIGNATURES = {
    "ban_head.corr_pw.": "nanotrack-v1",
    "ban_head.cls_pred.": "nanotrack-v2",
    "ban_head.corr_dw_cls.": "nanotrack-v3",
}


class NanoTrack(TrackerModel):
    """A NanoTrack of one version.

    Args:
        version: name in the zoo, compared with what a checkpoint holds.
        stages: the backbone after its stem.
        head: correlation and branches.
        cells: N of the head.
        spec: inference constants.
    """

    def __init__(
        self, *, version: str, stages: Sequence[Stage], head: HeadV1 | HeadV2 | HeadV3, cells: int, spec: DecodeSpec
    ) -> None:
        super().__init__()
        self.version = version
        self.crop = CropSpec()
        self.memory_names = head.memory_names
        self.backbone = NanoBackbone(stages)
        self.ban_head = head
        self.decode = PointDecode(self.crop, spec, cells=cells, stride=STRIDE)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # [ours] Gain 1 for patches of 0..255: PyTorch's default fades to a constant map, He's saturates the distances.
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")

    def template(self, patch: Tensor) -> tuple[Tensor, ...]:
        """The correlation kernels: see ``template`` of the head."""
        return self.ban_head.template(self.backbone(patch))

    def search(self, patch: Tensor, memory: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps cls (B, 2, N, N) and loc (B, 4, N, N)."""
        maps: tuple[Tensor, Tensor] = self.ban_head(self.backbone(patch), memory)
        return maps

    def map_keys(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The authors' tensors under this model's names: without the neck, which is never executed.

        Raises:
            WeightsError: the checkpoint is of another version.
        """
        held = next((name for prefix, name in SIGNATURES.items() if any(key.startswith(prefix) for key in tensors)), self.version)
        if held != self.version:
            raise WeightsError(f"got weights of {held}, expected {self.version}: use the model {held}")
        return {key: tensor for key, tensor in tensors.items() if not key.startswith("neck.")}


def nanotrack_v1() -> NanoTrack:
    """NanoTrack V1, constants of the authors' configuration."""
    spec = DecodeSpec(penalty_k=0.148, window=0.462, lr=0.390)
    return NanoTrack(version="nanotrack-v1", stages=STAGES, head=HeadV1(), cells=16, spec=spec)


V2_NEAR_MARGIN = 3  # [ours] a patch of 159 px; how it was chosen: benchmarks/results/near.md


def nanotrack_v2() -> NanoTrack:
    """NanoTrack V2, constants of the authors' configuration."""
    spec = DecodeSpec(penalty_k=0.150, window=0.490, lr=0.385)
    model = NanoTrack(version="nanotrack-v2", stages=STAGES, head=HeadV2(), cells=16, spec=spec)
    model.near_margin = V2_NEAR_MARGIN
    return model


def nanotrack_v3() -> NanoTrack:
    """NanoTrack V3, constants of the authors' configuration."""
    spec = DecodeSpec(penalty_k=0.138, window=0.455, lr=0.348)
    return NanoTrack(version="nanotrack-v3", stages=STAGES_V3, head=HeadV3(), cells=15, spec=spec)
