"""The measures of image fusion for folders of triples: what each image scores, and the mean.

Every measure that papers compute differently from its definition is given both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from trackctl.evaluation import fusion_metrics as grey
from trackctl.evaluation.fusion_edges import edge_preservation, fusion_artifacts
from trackctl.evaluation.fusion_vif import information_fidelity
from trackctl.runtime.contract import Array
from trackctl.runtime.errors import FrameError, InputError, MissingDependency
from trackctl.runtime.frame import BGR8, GRAY16, layout_of
from trackctl.runtime.sources.images import list_images, read_image

Uint8Array = NDArray[np.uint8]

INFRARED, VISIBLE = "ir", "vi"


@dataclass(frozen=True, kw_only=True)
class FusionScores:
    """The measures of one fused image.

    Attributes:
        textbook: every measure by its definition.
        published: those that the tables of papers give otherwise, as they do.
    """

    textbook: Mapping[str, float]
    published: Mapping[str, float]


def measure(ir: Array, vi: Array, fused: Array) -> FusionScores:
    """The scores of a fused image; of colour the luma counts.

    Args:
        ir, vi, fused: (H, W) uint8 or (H, W, 3) uint8 BGR, of one size, 41 px or more.

    Raises:
        FrameError: an image is not 8-bit, or the sizes differ.
        InputError: the images are too small.
        MissingDependency: ``scikit-image`` is not installed.
    """
    images = heat, light, both = _grey(ir), _grey(vi), _grey(fused)
    if len({image.shape for image in images}) > 1:
        raise FrameError(f"got images of {heat.shape}, {light.shape} and {both.shape}, expected one size: compare what was fused")
    mse = grey.mean_squared_error(*images)
    textbook = {
        "EN": grey.entropy(both),
        "SD": grey.standard_deviation(both),
        "SF": grey.spatial_frequency(both),
        "AG": grey.average_gradient(both),
        "MSE": mse,
        "PSNR": grey.peak_signal_to_noise(mse),
        "MI": grey.mutual_information(*images),
        "CC": grey.correlation(*images),
        "SCD": grey.difference_correlation(*images),
        "SSIM": _similarity(*images),
        "VIF": information_fidelity(*images),
        "Qabf": edge_preservation(*images),
        "Nabf": fusion_artifacts(*images),
    }
    published = {
        "SD": grey.saturated_deviation(both),
        "SF": textbook["SF"] / 255.0,
        "AG": grey.published_average_gradient(both),
        "MSE": mse / 255.0**2,
        "PSNR": grey.peak_signal_to_noise(mse / 255.0**2),
        "MI": grey.saturated_mutual_information(*images),
        "VIF": information_fidelity(*images, saturated=True),
        "Qabf": edge_preservation(*images, published=True),
        "Nabf": fusion_artifacts(*images, published=True),
    }
    return FusionScores(textbook=textbook, published=published)


def mean_scores(scores: Mapping[str, FusionScores]) -> FusionScores:
    """The mean of each measure over images.

    Raises:
        InputError: there is none.
    """
    if not scores:
        raise InputError("got no scores, expected at least one image")

    def mean(which: Callable[[FusionScores], Mapping[str, float]]) -> dict[str, float]:
        rows = [which(score) for score in scores.values()]
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

    return FusionScores(textbook=mean(lambda score: score.textbook), published=mean(lambda score: score.published))


def triples(folder: Path, method: str | None = None) -> dict[str, tuple[Path, Path, Path]]:
    """The infrared, the visible and the fused image file by name, of a folder with ``ir``, ``vi`` and one folder per method.

    Args:
        folder: see above; images belong together by their names without suffix.
        method: folder of the fused images; None where there is only one.

    Raises:
        InputError: folders or images are missing, or the method is not clear.
    """
    methods = sorted(child.name for child in folder.iterdir() if child.is_dir()) if folder.is_dir() else []
    others = [name for name in methods if name not in (INFRARED, VISIBLE)]
    if len(methods) - len(others) < 2 or not others:
        raise InputError(f"got {folder} with {methods}, expected the folders {INFRARED}, {VISIBLE} and one of fused images")
    if method is None and len(others) > 1:
        raise InputError(f"got {folder} with the fused images {', '.join(others)}, expected to be told which: name the method")
    chosen = method or others[0]
    if chosen not in others:
        raise InputError(f"got the method {chosen!r}, expected one of {', '.join(others)}")
    found = [{path.stem: path for path in list_images(folder / name)} for name in (INFRARED, VISIBLE, chosen)]
    names = list(found[2])
    missing = sorted({name for name in names for images in found[:2] if name not in images})
    if missing or not names:
        raise InputError(f"got {len(names)} images in {folder / chosen}, without sources: {missing[:3]}: give each its pair")
    return {name: (found[0][name], found[1][name], found[2][name]) for name in names}


def evaluate_folder(
    folder: Path, method: str | None = None, on_progress: Callable[[str, int, int], object] | None = None
) -> dict[str, FusionScores]:
    """The scores of every fused image of a folder, by name; see :func:`triples`.

    Raises:
        InputError, FrameError, MissingDependency: as :func:`triples` and :func:`measure`.
        SourceError: an image cannot be read.
    """
    files = triples(folder, method)
    scores = {}
    for done, (name, paths) in enumerate(files.items(), start=1):
        scores[name] = measure(*(read_image(path) for path in paths))
        if on_progress is not None:
            on_progress(name, done, len(files))
    return scores


def _grey(image: Array) -> Uint8Array:
    layout = layout_of(image)
    if layout == GRAY16:
        raise FrameError("got a 16-bit image, expected 8-bit: the measures are defined on 256 grey levels")
    if layout == BGR8:
        luma: Uint8Array = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        return luma
    return image.reshape(image.shape[:2]).view(np.uint8)


def _similarity(ir: Uint8Array, vi: Uint8Array, fused: Uint8Array) -> float:
    """SSIM (Wang et al., 2004: Gaussian window of 1.5 px), the mean of those with both sources."""
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise MissingDependency("scikit-image", "SSIM", "fusion") from error
    options = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(np.mean([structural_similarity(source, fused, **options) for source in (ir, vi)]))
