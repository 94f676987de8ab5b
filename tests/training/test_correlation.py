"""The four lowerings, and the form for training, against a sum written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trackctl.runtime.errors import InputError
from trackctl.training.correlation import Lowering, correlate_many, depthwise_correlation

LOWERINGS: tuple[Lowering, ...] = ("conv", "shift", "matmul", "fourier")


def written_out(search: Tensor, kernel: Tensor) -> Tensor:
    """R[b,c,o,p] = sum_ij X[b,c,o+i,p+j] K[b,c,i,j] in numpy float64."""
    x, k = search.double().numpy(), kernel.double().numpy()
    windows = np.lib.stride_tricks.sliding_window_view(x, k.shape[2:], axis=(2, 3))
    return torch.from_numpy(np.einsum("bcopij,bcij->bcop", windows, k))


def pair(shape: tuple[int, ...], kernel_hw: tuple[int, int], dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    search = torch.randn(shape, generator=generator, dtype=dtype)
    return search, torch.randn(*shape[:2], *kernel_hw, generator=generator, dtype=dtype)


@pytest.mark.parametrize("lowering", LOWERINGS)
@settings(max_examples=15, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 3),
    kernel_hw=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    extra_hw=st.tuples(st.integers(0, 7), st.integers(0, 7)),
)
def test_every_lowering_is_the_written_out_sum(
    lowering: Lowering, batch: int, channels: int, kernel_hw: tuple[int, int], extra_hw: tuple[int, int]
) -> None:
    shape = (batch, channels, kernel_hw[0] + extra_hw[0], kernel_hw[1] + extra_hw[1])
    search, kernel = pair(shape, kernel_hw, torch.float64)
    response = depthwise_correlation(search, kernel, lowering)
    assert response.shape == (batch, channels, extra_hw[0] + 1, extra_hw[1] + 1)
    torch.testing.assert_close(response, written_out(search, kernel), rtol=0, atol=1e-9)


# The shift form is for small kernels only.
@pytest.mark.parametrize(
    ("lowering", "side", "kernel_side"),
    [
        *((lowering, 29, 5) for lowering in LOWERINGS),
        *((lowering, *sides) for lowering in ("conv", "matmul", "fourier") for sides in ((44, 22), (44, 20), (87, 44))),
    ],
)
def test_float32_agrees_at_the_sizes_of_the_papers(lowering: Lowering, side: int, kernel_side: int) -> None:
    search, kernel = pair((2, 4, side, side), (kernel_side, kernel_side), torch.float32)
    wanted = written_out(search, kernel)
    error = (depthwise_correlation(search, kernel, lowering).double() - wanted).abs().max() / wanted.abs().max()
    assert error < 1e-4


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_gradients_agree(lowering: Lowering) -> None:
    search, kernel = (tensor.requires_grad_() for tensor in pair((2, 3, 9, 8), (4, 3), torch.float64))
    weight = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    wanted = torch.autograd.grad((depthwise_correlation(search, kernel) * weight).sum(), (search, kernel))
    got = torch.autograd.grad((depthwise_correlation(search, kernel, lowering) * weight).sum(), (search, kernel))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)


def test_many_kernels_are_the_kernels_one_by_one() -> None:
    search, _ = pair((3, 4, 11, 10), (5, 5), torch.float64)
    kernels = torch.randn(3, 6, 4, 5, 5, dtype=torch.float64)
    got = correlate_many(search, kernels)
    wanted = torch.stack([depthwise_correlation(search, kernels[:, m]) for m in range(6)], dim=1)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kernel_shape", [(2, 3, 9, 5), (1, 3, 5, 5), (2, 4, 5, 5), (3, 5, 5)])
def test_kernels_that_do_not_fit_are_refused(kernel_shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"got a search map \(2, 3, 8, 8\) and a kernel"):
        depthwise_correlation(torch.zeros(2, 3, 8, 8), torch.zeros(kernel_shape))


def test_an_unknown_lowering_is_refused() -> None:
    with pytest.raises(InputError, match="got the lowering 'fft', expected conv, shift, matmul or fourier"):
        depthwise_correlation(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 2, 2), "fft")  # type: ignore[arg-type]
