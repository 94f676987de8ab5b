"""Depthwise cross-correlation: ``R[b,c,o,p] = sum_ij X[b,c,o+i,p+j] K[b,c,i,j]``, valid, no flip.

Shapes: B batch, C channels, H x W search map, h x w kernel, oh = H-h+1, ow = W-w+1, M kernels per search map.
Source: SiamRPN++ (Li et al., CVPR 2019, section 3.3). Four lowerings compute the same thing, because no engine is best at all:

    conv     grouped convolution with a run-time kernel; needs an engine that accepts one (ONNX Runtime, TensorRT >= 10)
    shift    h*w shifted multiply-adds; plain element-wise ops, for small kernels
    matmul   constant gather, batched matrix product and a diagonal sum; for any kernel size, about twice the multiply-adds
    fourier  products in the frequency domain, to which and from which constant matrices lead; for large kernels
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from trackctl.runtime.errors import InputError

Lowering = Literal["conv", "shift", "matmul", "fourier"]


def depthwise_correlation(search: Tensor, kernel: Tensor, lowering: Lowering = "conv") -> Tensor:
    """The response (B, C, oh, ow) of every channel of a search map to its own kernel.

    Args:
        search: (B, C, H, W).
        kernel: (B, C, h, w) of the same dtype, h <= H and w <= W.
        lowering: how it is computed.

    Raises:
        InputError: the shapes do not fit or the lowering is unknown.
    """
    _check(search, kernel)
    if lowering == "conv":
        return _conv(search, kernel)
    if lowering == "shift":
        return _shift(search, kernel)
    if lowering == "matmul":
        return _matmul(search, kernel)
    if lowering == "fourier":
        return _fourier(search, kernel)
    raise InputError(f"got the lowering {lowering!r}, expected conv, shift, matmul or fourier")


def correlate_many(search: Tensor, kernels: Tensor) -> Tensor:
    """The responses (B, M, C, oh, ow) of one search map to M kernels per sample: the form for training.

    One grouped convolution with M outputs per group, so the search map is neither unfolded nor repeated. Forward and backward
    together took a third of the CPU time of unfolding, and of M separate convolutions (M = 8, bfloat16, one thread).

    Args:
        search: (B, C, H, W).
        kernels: (B, M, C, h, w).
    """
    _check(search, kernels[:, 0])
    batch, many, channels, h, w = kernels.shape
    groups = batch * channels
    weights = kernels.transpose(1, 2).reshape(groups * many, 1, h, w)
    response = F.conv2d(search.reshape(1, groups, *search.shape[2:]), weights, groups=groups)
    return response.reshape(batch, channels, many, *response.shape[2:]).transpose(1, 2)


def _check(search: Tensor, kernel: Tensor) -> None:
    fits = search.ndim == kernel.ndim == 4 and search.shape[:2] == kernel.shape[:2]
    if not fits or kernel.shape[2] > search.shape[2] or kernel.shape[3] > search.shape[3]:
        raise InputError(
            f"got a search map {tuple(search.shape)} and a kernel {tuple(kernel.shape)}, "
            "expected (B, C, H, W) and (B, C, h, w) with h <= H and w <= W"
        )


def _conv(search: Tensor, kernel: Tensor) -> Tensor:
    batch, channels, h, w = kernel.shape
    folded = search.reshape(1, batch * channels, *search.shape[2:])
    response = F.conv2d(folded, kernel.reshape(batch * channels, 1, h, w), groups=batch * channels)
    return response.reshape(batch, channels, *response.shape[2:])


def _shift(search: Tensor, kernel: Tensor) -> Tensor:
    h, w = kernel.shape[2:]
    oh, ow = search.shape[2] - h + 1, search.shape[3] - w + 1
    response = search[:, :, :oh, :ow] * kernel[:, :, :1, :1]
    for tap in range(1, h * w):
        i, j = divmod(tap, w)
        response = response + search[:, :, i : i + oh, j : j + ow] * kernel[:, :, i : i + 1, j : j + 1]
    return response


def _matmul(search: Tensor, kernel: Tensor) -> Tensor:
    batch, channels, height, width = search.shape
    h, w = kernel.shape[2:]
    oh, ow = height - h + 1, width - w + 1
    # A plain constant, so that the graph holds a Gather with constant indices and no Range.
    columns = torch.tensor([p + j for p in range(ow) for j in range(w)], device=search.device)
    windows = search.reshape(batch * channels, height, width).index_select(2, columns)
    windows = windows.reshape(batch * channels, height * ow, w)
    rows = torch.matmul(windows, kernel.reshape(batch * channels, h, w).transpose(1, 2))  # (BC, H*ow, h)
    # Diagonal sum over the kernel rows: in rows of H+1 the flat index i*H + (o+i) is column o of row i.
    skew = rows.reshape(batch * channels, height, ow, h).permute(0, 2, 3, 1).reshape(batch * channels, ow, h * height)
    skew = F.pad(skew, (0, h)).reshape(batch * channels, ow, h, height + 1)
    response = skew.sum(dim=2)[:, :, :oh].transpose(1, 2)  # (BC, oh, ow)
    return response.reshape(batch, channels, oh, ow)


def _fourier(search: Tensor, kernel: Tensor) -> Tensor:
    """Correlation theorem on the H x W torus; valid places do not see that it is one.

    Everything is real: with c and s the cosine and sine sums of one axis, a map has the four planes cc, cs, sc, ss. The wave
    (u, v) has the coefficient p - i q with p = cc - ss and q = cs + sc, the wave (u, -v) has p = cc + ss and q = sc - cs; they
    are multiplied by the conjugates of the kernel's.
    """
    exact = torch.promote_types(search.dtype, torch.float32)  # spectra span too many decades for float16
    search, kernel, given = search.to(exact), kernel.to(exact), search.dtype
    height, width = search.shape[2:]
    h, w = kernel.shape[2:]
    # The mean is by far the tallest coefficient of a map behind a ReLU: apart, it leaves a bfloat16 engine a third of the error.
    mean = search.mean(dim=(2, 3), keepdim=True)
    down, across = _waves(height, exact, search.device), _waves(width, exact, search.device)
    x = _coefficients(torch.matmul(down, torch.matmul(search - mean, across.T)))
    k = _coefficients(torch.matmul(down[:, :h], torch.matmul(kernel, across[:, :w].T)))
    (p, q), (p_back, q_back) = (_times_conjugate(wave_x, wave_k) for wave_x, wave_k in zip(x, k, strict=True))
    planes = torch.cat((torch.cat((p + p_back, q - q_back), dim=3), torch.cat((q + q_back, p_back - p), dim=3)), dim=2)
    up = _weighted(down, height)[:, : height - h + 1].T
    response = torch.matmul(up, torch.matmul(planes, _weighted(across, width)[:, : width - w + 1]))
    return (response + mean * kernel.sum(dim=(2, 3), keepdim=True)).to(given)


def _waves(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Cosines, then sines, of the frequencies 0 to length // 2: (2F, length)."""
    places = torch.arange(length, dtype=torch.float64, device=device)
    angle = (2.0 * math.pi / length) * torch.outer(places[: length // 2 + 1], places)
    return torch.cat((torch.cos(angle), torch.sin(angle))).to(dtype)


def _weighted(waves: Tensor, length: int) -> Tensor:
    """The waves with which coefficients become values again: every frequency stands for itself and its mirror image.

    Divided by the root of 2 besides, because the planes made of sums of both diagonals are twice too large.
    """
    frequency = torch.arange(length // 2 + 1, device=waves.device)
    single = (frequency == 0) | (2 * frequency == length)
    weight = torch.where(single, 1.0, 2.0).to(waves.dtype).repeat(2) / (length * math.sqrt(2.0))
    return waves * weight[:, None]


def _coefficients(planes: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Coefficients p and q of the waves (u, v) and of the waves (u, -v), each (B, C, F, G), of the planes (B, C, 2F, 2G)."""
    rows, columns = planes.shape[2] // 2, planes.shape[3] // 2
    cc, cs = planes[:, :, :rows, :columns], planes[:, :, :rows, columns:]
    sc, ss = planes[:, :, rows:, :columns], planes[:, :, rows:, columns:]
    return (cc - ss, cs + sc), (cc + ss, sc - cs)


def _times_conjugate(x: tuple[Tensor, Tensor], k: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Coefficients of x times the conjugate of k."""
    (p, q), (k_p, k_q) = x, k
    return k_p * p + k_q * q, k_p * q - k_q * p
