"""ResNet-50 of stride 8: size, shapes, dilations and where its cells look."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trackctl.training.backbones.resnet import ResNet50


@pytest.fixture(scope="module")
def backbone() -> ResNet50:
    torch.manual_seed(0)
    return ResNet50().eval()


def levels_of(backbone: nn.Module, patch: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        levels: list[Tensor] = backbone(patch)
    return levels


def test_parameter_count(backbone: ResNet50) -> None:
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 45_528_128


@pytest.mark.parametrize(("side", "cells"), [(127, 15), (255, 31)])
def test_levels(backbone: ResNet50, side: int, cells: int) -> None:
    levels = levels_of(backbone, torch.rand(1, 3, side, side) * 255)
    assert [tuple(level.shape) for level in levels] == [(1, channels, cells, cells) for channels in (512, 1024, 2048)]
    assert all(level.isfinite().all() for level in levels)


def test_dilation_of_every_block(backbone: ResNet50) -> None:
    """The first block of a dilated stage, and its shortcut, has half the stage's dilation."""
    found = {
        name: [block.spatial[0].dilation[0] for block in getattr(backbone, name)]  # type: ignore[union-attr]
        for name in ("layer1", "layer2", "layer3", "layer4")
    }
    assert found == {"layer1": [1] * 3, "layer2": [1] * 4, "layer3": [1] + [2] * 5, "layer4": [2, 4, 4]}
    shortcuts = [getattr(backbone, name)[0].shortcut[0] for name in found]
    assert [(conv.kernel_size[0], conv.stride[0], conv.padding[0], conv.dilation[0]) for conv in shortcuts] == [
        (1, 1, 0, 1),
        (3, 2, 0, 1),
        (3, 1, 1, 1),
        (3, 1, 2, 2),
    ]


def test_the_middle_cell_looks_at_the_middle_pixel() -> None:
    """With mirror-symmetric kernels a mirrored patch gives mirrored maps: cell u and cell n-1-u look at p and N-1-p."""
    torch.manual_seed(1)
    backbone = ResNet50().eval()
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.add_(module.weight.data.flip(3)).mul_(0.5)
    patch = torch.rand(1, 3, 127, 127) * 255
    for level, mirrored in zip(levels_of(backbone, patch), levels_of(backbone, patch.flip(3)), strict=True):
        torch.testing.assert_close(mirrored.flip(3), level, rtol=1e-4, atol=1e-4 * float(level.max()))
        assert float(level.std()) > 0
