"""The fusion measures against published figures, well-kept libraries and what must hold."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from sewar.full_ref import vifp
from skimage.metrics import normalized_mutual_information

from trackctl.evaluation import fusion_metrics as grey
from trackctl.evaluation.fusion import evaluate_folder, mean_scores, measure, triples
from trackctl.evaluation.fusion_edges import edge_preservation, fusion_artifacts
from trackctl.evaluation.fusion_vif import information_fidelity
from trackctl.runtime.errors import FrameError, InputError

Images = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def images() -> Images:
    """Two smooth pictures with noise, and their mean."""
    rng = np.random.default_rng(0)
    ir, vi = (
        cv2.normalize(cv2.GaussianBlur(rng.normal(size=(60, 72)), (0, 0), s), None, 0, 255, cv2.NORM_MINMAX) for s in (1.0, 3.0)
    )
    return ir.astype(np.uint8), vi.astype(np.uint8), ((ir + vi) / 2).astype(np.uint8)


@pytest.mark.parametrize(
    "rows", [pytest.param([8, 12], id="two images"), pytest.param(range(1, 21), id="all", marks=pytest.mark.slow)]
)
def test_the_published_figures_come_out(shared: Path, rows: list[int]) -> None:
    folder = shared / "data/fusion/tno20"
    with (folder / "densefuse_metrics.csv").open() as file:
        published = {int(row.pop("row")): row for row in csv.DictReader(file)}
    files = triples(folder)
    for row in rows:
        scores = measure(*(cv2.imread(str(path)) for path in files[f"{row:02d}"]))
        ours = {**scores.textbook, **scores.published}
        for name, value in published[row].items():
            assert abs(ours[name] - float(value)) < 1e-8, (row, name)


def test_a_perfect_copy(images: Images) -> None:
    ir, _, _ = images
    scores = measure(ir, ir, ir)
    assert scores.textbook["MI"] == pytest.approx(2 * scores.textbook["EN"])
    assert scores.textbook["VIF"] == pytest.approx(2.0)
    assert scores.textbook["SSIM"] == pytest.approx(1.0)
    assert scores.textbook["CC"] == pytest.approx(1.0)
    # The two sigmoids of Qabf end below 1 even where everything is kept.
    assert scores.textbook["Qabf"] == pytest.approx(0.9994 / (1 + math.exp(-7.5)) * 0.9879 / (1 + math.exp(-4.4)))
    assert (scores.textbook["MSE"], scores.textbook["PSNR"]) == (0.0, math.inf)
    assert scores.textbook["Nabf"] == scores.published["Nabf"] == 0.0


def test_a_constant_image_has_no_information(images: Images) -> None:
    ir, vi, _ = images
    flat = np.full_like(ir, 90)
    textbook = measure(ir, vi, flat).textbook
    for name in ("EN", "SD", "SF", "AG", "CC", "VIF", "Nabf"):
        assert textbook[name] == pytest.approx(0.0, abs=1e-9), name
    assert textbook["MI"] == pytest.approx(0.0, abs=1e-9)
    assert all(map(math.isfinite, measure(flat, flat, ir).textbook.values()))


def test_libraries_agree(images: Images) -> None:
    ir, vi, fused = images
    assert information_fidelity(*images) == pytest.approx(vifp(ir, fused) + vifp(vi, fused), rel=1e-9)
    normalised = sum(
        (normalized_mutual_information(source, fused, bins=256) - 1.0) * grey._joint_entropy(source, fused) for source in (ir, vi)
    )
    assert grey.mutual_information(*images) == pytest.approx(normalised, rel=1e-9)
    assert grey.peak_signal_to_noise(grey.mean_squared_error(ir, ir, fused)) == pytest.approx(cv2.PSNR(ir, fused), rel=1e-6)


def test_simple_pictures_by_hand() -> None:
    stairs = np.array([[0, 3, 6], [4, 7, 10], [8, 11, 14]], np.uint8)
    assert grey.spatial_frequency(stairs) == pytest.approx(5.0)
    assert grey.average_gradient(stairs) == pytest.approx(math.sqrt(12.5))
    assert grey.published_average_gradient(stairs) == pytest.approx(math.sqrt(12.5) * 9 / 4)
    assert grey.entropy(stairs) == pytest.approx(math.log2(9))
    # The mean is 7: 1, 3, 4 and 7 above it, squares 1, 9, 16, 49.
    assert grey.saturated_deviation(stairs) == pytest.approx(math.sqrt((0 + 9 + 1 + 16 + 49) / 9))
    assert grey.standard_deviation(stairs) == pytest.approx(float(np.std(stairs)))
    assert grey.saturated_deviation(np.array([[0, 200]], np.uint8)) == pytest.approx(math.sqrt(255 / 2))


def test_level_255_counts_as_254_in_published_mutual_information(images: Images) -> None:
    ir, vi, fused = (np.minimum(image, 254) for image in images)
    assert grey.saturated_mutual_information(ir, vi, fused) == pytest.approx(grey.mutual_information(ir, vi, fused))
    fused = np.where(fused > 128, 255, 254).astype(np.uint8)
    assert grey.mutual_information(ir, vi, fused) > 0.0
    both = grey.saturated_mutual_information(ir, vi, fused) - 2 * grey.entropy(fused)
    assert both == pytest.approx(0.0, abs=1e-9)


def test_new_edges_are_artifacts(images: Images) -> None:
    ir, vi, fused = images
    checks = fused.astype(int) + 40 * (np.indices(fused.shape).sum(axis=0) // 2 % 2)
    worse = np.clip(checks, 0, 255).astype(np.uint8)
    for published in (False, True):
        assert fusion_artifacts(ir, vi, worse, published=published) > fusion_artifacts(ir, vi, fused, published=published) + 0.02
        assert edge_preservation(ir, vi, worse, published=published) < edge_preservation(ir, vi, fused, published=published)


def test_measures_leave_their_arguments_alone(images: Images) -> None:
    copies = [image.copy() for image in images]
    for image in images:
        image.setflags(write=False)
    measure(*images)
    assert all(np.array_equal(a, b) for a, b in zip(copies, images, strict=True))


@pytest.fixture
def folder(tmp_path: Path, images: Images) -> Path:
    for kind, image in zip(("ir", "vi", "mean"), images, strict=True):
        (tmp_path / kind).mkdir()
        for name in ("a", "b"):
            cv2.imwrite(str(tmp_path / kind / f"{name}.png"), image)
    return tmp_path


def test_folders_are_scored_image_by_image(folder: Path, images: Images) -> None:
    told: list[tuple[str, int, int]] = []
    scores = evaluate_folder(folder, on_progress=lambda *step: told.append(step))
    assert told == [("a", 1, 2), ("b", 2, 2)]
    assert scores["a"] == scores["b"] == measure(*images)
    assert mean_scores(scores).textbook == pytest.approx(dict(scores["a"].textbook))


def test_what_cannot_be_scored_is_refused(folder: Path, images: Images) -> None:
    (folder / "other").mkdir()
    with pytest.raises(InputError, match="expected to be told which"):
        triples(folder)
    with pytest.raises(InputError, match="expected one of mean, other"):
        triples(folder, "median")
    (folder / "ir/a.png").unlink()
    with pytest.raises(InputError, match=r"without sources: \['a'\]"):
        triples(folder, "mean")
    with pytest.raises(InputError, match="expected the folders ir, vi"):
        triples(folder / "ir")
    ir, vi, fused = images
    with pytest.raises(FrameError, match="expected one size"):
        measure(ir, vi, fused[:50])
    with pytest.raises(FrameError, match="expected 8-bit"):
        measure(ir, vi, fused.astype(np.uint16))
    with pytest.raises(InputError, match="41 px or more"):
        measure(ir[:40], vi[:40], fused[:40])
    with pytest.raises(InputError, match="at least one image"):
        mean_scores({})
