"""Rendered pairs: repeatable, annotated truthfully, and the same in batches and alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from trackctl.runtime.geometry import CropSpec
from trackctl.training.data.render import Renderer, draw
from trackctl.training.data.scene import GONE, OBJECTS, RenderSpec, draw_scene
from trackctl.training.data.shapes import KINDS, PHASES, SIDE, stamps

# The target alone, in high contrast, without anything that a sensor adds.
CLEAN = RenderSpec(
    height_px=(40.0, 120.0), contrast=(80.0, 100.0), negatives=0.0, rivals=0.0, occlusion=0.0, invert=0.0, noise=0.0, halo=0.0
)


def test_a_pair_is_determined_by_seed_and_number() -> None:
    first, again, other = Renderer(CropSpec(), seed=3)[7], Renderer(CropSpec(), seed=3)[7], Renderer(CropSpec(), seed=4)[7]
    assert np.array_equal(first.search, again.search) and np.array_equal(first.box_xyxy, again.box_xyxy)
    assert not np.array_equal(first.search, other.search)
    assert first.template.shape == (127, 127) and first.search.shape == (255, 255) and first.search.dtype == np.uint8


def test_a_batch_is_its_pairs() -> None:
    renderer = Renderer(CropSpec())
    template, search, boxes, positive = renderer.batch(range(4))
    for row in range(4):
        pair = renderer[row]
        # Smoothing sums over as many taps as the widest of the batch needs.
        for alone, together in ((pair.template, template[row, 0]), (pair.search, search[row, 0])):
            assert np.abs(alone.astype(int) - together.numpy().astype(int)).max() <= 1
        assert np.array_equal(boxes[row].numpy(), pair.box_xyxy) and bool(positive[row]) == pair.positive


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_renders_the_same() -> None:
    renderer = Renderer(CropSpec())
    for ours, theirs in zip(renderer.batch(range(8)), renderer.batch(range(8), "cuda"), strict=True):
        assert (ours.double() - theirs.cpu().double()).abs().quantile(0.999) <= 1


def test_the_box_encloses_the_target() -> None:
    """What differs from the same scene without its target lies in the box and fills it, but for the looseness of boxes."""
    tried = 0
    for number in range(16):
        scene = draw_scene(number, CLEAN, CropSpec(), "grey", 0)
        x0, y0, x1, y1 = scene.box_xyxy
        if min(x0, y0) < 8 or max(x1, y1) > 247:
            continue
        tried += 1
        shown = draw([scene], 1, 255, torch.device("cpu"))[0, 0].int()
        scene.views[1].objects[0] = (0, GONE)
        without = draw([scene], 1, 255, torch.device("cpu"))[0, 0].int()
        rows, columns = np.nonzero((shown - without).abs().numpy() > 12)
        assert columns.min() >= x0 - 3 and columns.max() <= x1 + 3 and rows.min() >= y0 - 3 and rows.max() <= y1 + 3
        covered = np.array([np.ptp(columns) / (x1 - x0), np.ptp(rows) / (y1 - y0)])
        assert (covered > 0.7).all()
    assert tried >= 5


def test_shares_of_what_is_shown() -> None:
    spec = RenderSpec(negatives=0.3, rivals=0.5, occlusion=0.4)
    scenes = [draw_scene(number, spec, CropSpec(), "grey", 0) for number in range(400)]
    assert np.mean([scene.positive for scene in scenes]) == pytest.approx(0.7, abs=0.08)
    rivals = [sum(not np.isnan(place).any() for _, place in scene.views[1].objects[1:]) for scene in scenes]
    assert np.mean(rivals) == pytest.approx(0.5 * (OBJECTS - 1), abs=0.25)
    covered = [not np.isnan(scene.views[1].occluders[0]).any() for scene in scenes]
    assert np.mean(covered) == pytest.approx(0.4, abs=0.1)
    assert all(np.isnan(place).all() for scene in scenes for place in scene.views[0].occluders)
    # The target is in reach of the search.
    centres = np.array([(scene.box_xyxy[:2] + scene.box_xyxy[2:]) / 2 - 127.5 for scene in scenes])
    assert np.abs(centres).max() < 64 + 40 and np.abs(centres).max() > 40


def test_two_cameras_see_one_scene() -> None:
    pair = Renderer(CropSpec(), CLEAN, camera="rgbt")[1]
    assert pair.template.shape == (4, 127, 127) and pair.search.shape == (4, 255, 255)
    grey = Renderer(CropSpec(), dataclasses.replace(CLEAN), camera="grey")[1]
    assert grey.search.shape == (255, 255)
    assert not np.array_equal(pair.search[0], pair.search[3])


def test_stamps_cover_their_outline() -> None:
    drawn = stamps()
    assert len(drawn) == len(KINDS) * PHASES
    for stamp in drawn:
        cover = stamp.layers[0]
        assert cover.shape == (SIDE, SIDE) and cover.min() >= 0.0 and cover.max() == 1.0
        rows, columns = np.nonzero(cover > 0.5)
        hull = (stamp.outline_xy + 0.5) * SIDE
        assert hull[:, 0].min() == pytest.approx(columns.min(), abs=2) and hull[:, 0].max() == pytest.approx(
            columns.max() + 1, abs=2
        )
        assert hull[:, 1].min() == pytest.approx(rows.min(), abs=2) and hull[:, 1].max() == pytest.approx(rows.max() + 1, abs=2)
