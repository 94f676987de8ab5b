"""A tracker of a few thousand weights with everything that export must cope with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trackctl.runtime.geometry import CropSpec
from trackctl.training.correlation import depthwise_correlation
from trackctl.training.decode import DecodeSpec, PointDecode
from trackctl.training.model import TrackerModel


def conv_bn_relu(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class TinyTracker(TrackerModel):
    """Stem, dense, depthwise and residual convolutions; one correlation with a run-time kernel per branch."""

    memory_names = ("z_cls", "z_loc")

    def __init__(self) -> None:
        super().__init__()
        self.crop = CropSpec()
        self.stem = conv_bn_relu(3, 8, 3, 2)
        self.dense = conv_bn_relu(8, 16, 3, 2)
        self.depthwise = conv_bn_relu(16, 16, 3, 2, groups=16)
        self.residual = conv_bn_relu(16, 16, 3)
        self.neck = nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16))
        self.after_correlation = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(2))
        self.heads = nn.ModuleList(nn.Sequential(conv_bn_relu(16, 16, 1), nn.Conv2d(16, out, 1)) for out in (2, 4))
        self.decode = PointDecode(self.crop, DecodeSpec(penalty_k=0.05, window=0.4, lr=0.3), cells=25, stride=8)

    def features(self, patch: Tensor) -> Tensor:
        x = self.depthwise(self.dense(self.stem((patch - 128.0) / 64.0)))
        x = self.neck(x + self.residual(x))
        return x[:, :, : x.shape[2] - 1, : x.shape[3] - 1]  # 15 x 15 and 31 x 31

    def template(self, patch: Tensor) -> tuple[Tensor, ...]:
        kernel = self.features(patch)[:, :, 4:11, 4:11] / 49.0
        return kernel, kernel.flip(1)

    def search(self, patch: Tensor, memory: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        features = self.features(patch)
        cls, loc = (
            head(norm(depthwise_correlation(features, kernel)))
            for head, norm, kernel in zip(self.heads, self.after_correlation, memory, strict=True)
        )
        return cls, torch.exp(torch.clamp(loc + 3.0, max=6.5))


def tiny_tracker() -> TinyTracker:
    """With running statistics that are not the identity, so that folding them matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TinyTracker().train()
        with torch.no_grad():
            for _ in range(8):
                template, search = (torch.nn.functional.interpolate(torch.rand(2, 3, 9, 9), n) * 255 for n in (127, 255))
                model.search(search, model.template(template))
    return model.eval()
