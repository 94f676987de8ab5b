"""The soft threshold and the unrolled branch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trackctl.training.lrr import LRRBranch, shrink

FINITE = st.floats(-4.0, 4.0, allow_nan=False, width=32)


@settings(deadline=None)
@given(st.lists(FINITE, min_size=1, max_size=8), st.floats(-1.0, 1.0, width=32))
def test_shrink_is_its_definition_for_thresholds_of_any_sign(values: list[float], theta: float) -> None:
    x = np.array(values, dtype=np.float32)
    got = shrink(torch.from_numpy(x)[None, None, None], torch.tensor([theta])).numpy().ravel()
    np.testing.assert_array_equal(got, np.sign(x) * np.maximum(np.abs(x) - np.float32(theta), 0.0))


def test_a_negative_threshold_pushes_away_from_zero_and_leaves_zero() -> None:
    x = torch.tensor([-0.001, 0.0, 0.001]).reshape(1, 1, 1, 3)
    got = shrink(x, torch.tensor([-0.5])).flatten()
    torch.testing.assert_close(got, torch.tensor([-0.501, 0.0, 0.501]))


def test_the_threshold_learns() -> None:
    theta = torch.tensor([0.5, 0.5, -0.1], requires_grad=True)
    x = torch.tensor([2.0, 0.1, -1.0]).reshape(1, 3, 1, 1)
    shrink(x, theta).sum().backward()
    # Beyond the threshold the output moves against it, within it not at all.
    assert theta.grad is not None
    assert theta.grad.tolist() == [-1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("inputs", "code", "blocks", "parameters"), [(1, 256, 4, 22_277), (1, 256, 2, 12_547), (256, 64, 4, 1_328_513)]
)
def test_parameters_as_published(inputs: int, code: int, blocks: int, parameters: int) -> None:
    assert sum(p.numel() for p in LRRBranch(inputs, code, blocks).parameters()) == parameters


def test_a_branch_is_its_recursion() -> None:
    torch.manual_seed(0)
    branch = LRRBranch(in_channels=3, code=8, blocks=2)
    x = torch.randn(2, 3, 5, 2)
    z = shrink(branch.c0(x), branch.theta)
    for c1, c2 in zip(branch.c1, branch.c2, strict=True):
        z = shrink(c2(x - c1(z)) + branch.lam * z, branch.theta)
    got = branch(x)
    assert got.shape == (2, 8, 5, 2)
    torch.testing.assert_close(got, z, rtol=0, atol=0)
    # The padding reflects: a constant picture has a constant code.
    flat = branch(torch.full((1, 3, 4, 6), 0.7))
    torch.testing.assert_close(flat, flat[:, :, :1, :1].expand_as(flat))
