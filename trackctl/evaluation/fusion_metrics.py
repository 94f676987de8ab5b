"""How much a fused image holds, and how much of it comes from its sources: measures on grey levels and histograms.

Each is given as its source defines it. Where the figures of fusion papers come from code that computes something else, a second
function says what. That code is the MATLAB collection most papers use (Tang et al., "Image-Fusion"); in it whole-number images
meet whole-number arithmetic, which in MATLAB stops at 0 and at 255.

Images: (H, W) uint8, of one size, H and W >= 2.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.geometry import Float64Array

Uint8Array = NDArray[np.uint8]
LEVELS = 256


def entropy(image: Uint8Array) -> float:
    """EN: the entropy of the histogram, bit."""
    return _bits(np.bincount(image.ravel(), minlength=LEVELS))


def standard_deviation(image: Uint8Array) -> float:
    """SD, grey levels."""
    return float(image.std())


def saturated_deviation(image: Uint8Array) -> float:
    """SD as in the tables of papers: of the differences from the mean, those below 0 count as 0 and squares above 255 as 255."""
    above = np.rint(np.maximum(image - image.mean(), 0.0))
    return math.sqrt(float(np.minimum(above**2, 255.0).mean()))


def spatial_frequency(image: Uint8Array) -> float:
    """SF (Eskicioglu and Fisher, 1995), grey levels; papers give it for an image in 0..1."""
    pixels = image.astype(np.float64)
    return math.sqrt(float((np.diff(pixels, axis=0) ** 2).mean() + (np.diff(pixels, axis=1) ** 2).mean()))


def average_gradient(image: Uint8Array) -> float:
    """AG: the mean of ``sqrt((dx^2 + dy^2) / 2)`` by central differences, grey levels per pixel."""
    rows, columns = np.gradient(image.astype(np.float64))
    return float(np.sqrt((rows**2 + columns**2) / 2.0).mean())


def published_average_gradient(image: Uint8Array) -> float:
    """AG as in the tables of papers: the sum is divided by (H - 1)(W - 1) though it has H W terms."""
    height, width = image.shape
    terms: float = height * width / ((height - 1) * (width - 1))
    return average_gradient(image) * terms


def mean_squared_error(ir: Uint8Array, vi: Uint8Array, fused: Uint8Array) -> float:
    """MSE: the mean of those to both sources, grey levels squared; papers give it for images in 0..1."""
    return float(np.mean([((source.astype(np.float64) - fused) ** 2).mean() for source in (ir, vi)]))


def peak_signal_to_noise(mse: float) -> float:
    """PSNR of a mean squared error, dB with the peak 255; infinite for 0.

    Papers give an error of images in 0..1 to it, which adds ``20 log10 255`` = 48.13 dB.
    """
    return 10.0 * math.log10(255.0**2 / mse) if mse > 0.0 else math.inf


def mutual_information(ir: Uint8Array, vi: Uint8Array, fused: Uint8Array) -> float:
    """MI: the mutual information of the fused image with each source, summed (Qu et al., 2002), bit."""
    return sum(entropy(source) + entropy(fused) - _joint_entropy(source, fused) for source in (ir, vi))


def saturated_mutual_information(ir: Uint8Array, vi: Uint8Array, fused: Uint8Array) -> float:
    """MI as in the tables of papers: in the joint histogram, and only there, level 255 counts as 254."""
    top = np.uint8(LEVELS - 2)
    capped = np.minimum(fused, top)
    joint = sum(_joint_entropy(np.minimum(source, top), capped) for source in (ir, vi))
    return entropy(ir) + entropy(vi) + 2.0 * entropy(fused) - joint


def correlation(ir: Uint8Array, vi: Uint8Array, fused: Uint8Array) -> float:
    """CC: the mean of Pearson's correlation with each source, -1..1."""
    return (_pearson(ir, fused) + _pearson(vi, fused)) / 2.0


def difference_correlation(ir: Uint8Array, vi: Uint8Array, fused: Uint8Array) -> float:
    """SCD: the sum of the correlations of differences (Aslantas and Bendes, 2015), -2..2."""
    heat, light, both = (image.astype(np.float64) for image in (ir, vi, fused))
    return _pearson(both - light, heat) + _pearson(both - heat, light)


def _joint_entropy(first: Uint8Array, second: Uint8Array) -> float:
    return _bits(np.bincount(first.astype(np.int64).ravel() * LEVELS + second.ravel(), minlength=LEVELS**2))


def _bits(counts: NDArray[np.int64]) -> float:
    shares: Float64Array = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _pearson(first: Uint8Array | Float64Array, second: Uint8Array | Float64Array) -> float:
    """Pearson's correlation; 0 if one of the two is constant."""
    a, b = first - first.mean(), second - second.mean()
    scale = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0.0 else 0.0
