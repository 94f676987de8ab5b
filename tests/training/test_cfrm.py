"""The context refinement module."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from trackctl.training.cfrm import CFRM


def woken(width: int, **options: int) -> CFRM:
    torch.manual_seed(0)
    model = CFRM(width, **options)
    torch.nn.init.normal_(model.value.weight, std=0.3)
    torch.nn.init.normal_(model.value.bias, std=0.3)
    return model.eval()


def test_parameter_count_of_the_paper_width() -> None:
    assert sum(parameter.numel() for parameter in CFRM(256).parameters()) == 213_568


@pytest.mark.parametrize("pool", [1, 2])
def test_a_fresh_module_is_the_identity_and_can_learn(pool: int) -> None:
    model, x = CFRM(16, pool=pool), torch.randn(2, 16, 15, 15)
    refined = model(x)
    assert torch.equal(refined, x)
    refined.square().sum().backward()
    assert model.value.weight.grad is not None and model.value.weight.grad.any()


def test_it_is_equation_13() -> None:
    """Cell by cell, in float64."""
    model, x = woken(6, attention=4).double(), torch.randn(1, 6, 3, 4, dtype=torch.float64)
    cells = x[0].flatten(1).T  # (N, C)

    def linear(layer: torch.nn.Conv2d, rows: torch.Tensor) -> torch.Tensor:
        return rows @ layer.weight[:, :, 0, 0].T + layer.bias

    gate = torch.sigmoid(linear(model.gate, torch.cat((cells.mean(0), cells.max(0).values))))
    query, key = linear(model.query, cells), linear(model.key, cells)
    wanted = []
    for j in range(len(cells)):
        scores = torch.stack([query[j] @ key[m] / math.sqrt(4) for m in range(len(cells))])
        context = (torch.softmax(scores, 0)[:, None] * cells).sum(0)
        wanted.append(cells[j] + gate * linear(model.value, context))
    got = model(x)[0].flatten(1).T
    torch.testing.assert_close(got, torch.stack(wanted), rtol=1e-9, atol=1e-9)


def test_a_pooled_module_attends_to_means_of_whole_squares() -> None:
    model = woken(6, pool=2)
    # 2x2 blocks of one value: every mean is the value itself, four times fewer of them give the same softmax mean.
    x = F.interpolate(torch.randn(1, 6, 4, 4), 8, mode="nearest")
    pooled = model(x)
    model.pool = 1
    torch.testing.assert_close(pooled, model(x), rtol=1e-4, atol=1e-5)
    model.pool = 2
    odd = torch.full((1, 6, 5, 5), 3.0)  # squares at the border hold fewer cells, and their mean is no smaller
    refined = model(odd)
    torch.testing.assert_close(refined, refined[:, :, :1, :1].expand_as(refined))
    model.pool = 1
    torch.testing.assert_close(refined, model(odd), rtol=1e-4, atol=1e-5)
