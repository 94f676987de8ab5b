"""The light backbone: size, cost, where its cells look, and that it starts with sane activations."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from trackctl.training.backbones.edge import EdgeBackbone
from trackctl.training.dcfg import dcfg_edge


@pytest.mark.parametrize(("side", "cells"), [(127, 15), (255, 31)])
def test_one_level_of_stride_8(side: int, cells: int) -> None:
    backbone = EdgeBackbone().eval()
    (level,) = backbone(torch.rand(2, 3, side, side) * 255)
    assert level.shape == (2, *backbone.channels, cells, cells)


def test_a_cell_sees_111_pixels_centred_on_7_plus_8u() -> None:
    torch.manual_seed(0)
    backbone = EdgeBackbone().eval()
    patch = (torch.rand(1, 3, 255, 255) * 255).requires_grad_()
    (level,) = backbone(patch)
    for row, column in ((15, 15), (12, 17)):
        (gradient,) = torch.autograd.grad(level[0, :, row, column].sum(), patch, retain_graph=True)
        seen = gradient[0].abs().sum(dim=0)
        for cell, profile in ((row, seen.sum(dim=1)), (column, seen.sum(dim=0))):
            pixels = profile.nonzero().flatten()
            assert (int(pixels[0]), int(pixels[-1])) == (7 + 8 * cell - 55, 7 + 8 * cell + 55)


def test_every_convolution_is_dense_3x3() -> None:
    convolutions = [module for module in EdgeBackbone().modules() if isinstance(module, nn.Conv2d)]
    assert [(conv.kernel_size, conv.groups) for conv in convolutions] == [((3, 3), 1)] * 7


def test_activations_start_near_unit_size() -> None:
    torch.manual_seed(0)
    backbone = EdgeBackbone().train()
    (level,) = backbone(torch.rand(4, 3, 127, 127) * 255)
    assert 0.3 < float(level.detach().std()) < 3.0


def test_whole_model_fits_the_edge() -> None:
    model = dcfg_edge().eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == 594_094
    megabytes = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()) / 1e6
    assert megabytes < 4.0
    with torch.inference_mode():
        memory = model.template(torch.zeros(1, 3, 127, 127))
        with FlopCounterMode(display=False) as counter:
            model.search(torch.zeros(1, 3, 255, 255), memory)
    # The counter counts a multiply-add as two.
    assert counter.get_total_flops() / 2 == 346_411_440
