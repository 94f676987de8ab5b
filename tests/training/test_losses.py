"""Sampled anchors and the losses on them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trackctl.runtime.geometry import CropSpec, iou
from trackctl.training.anchors import AnchorSampling, AnchorTargets, anchor_targets, centred_boxes, overlap_areas, paired_iou
from trackctl.training.decode import AnchorDecode, DecodeSpec
from trackctl.training.losses import balanced_cross_entropy, delta_l1, diversity, masked_mean, overlap_l1, paired_giou

STRIDE = 8.0
DECODE = AnchorDecode(CropSpec(), DecodeSpec(penalty_k=0.0, window=0.0, lr=1.0), cells=25)
ANCHORS = DECODE.boxes  # (1, 4, 3125)


def targets_of(boxes: list[list[float]], positive: list[bool], *, seed: int = 0, **options: object) -> AnchorTargets:
    return anchor_targets(
        ANCHORS,
        centred_boxes(torch.tensor(boxes), 255),
        torch.tensor(positive),
        stride=STRIDE,
        sampling=AnchorSampling(**options),  # type: ignore[arg-type]
        generator=torch.Generator().manual_seed(seed),
    )


def overlaps(boxes_xyxy: list[float], index: Tensor) -> Tensor:
    """IoU of a box with the anchors chosen, by the float64 geometry of the run time."""
    anchors = ANCHORS[0].T.double().numpy()
    ltwh = anchors.copy()
    ltwh[:, :2] += 127.5 - anchors[:, 2:] / 2
    left, top, right, bottom = boxes_xyxy
    return torch.from_numpy(iou(ltwh, [left, top, right - left, bottom - top]))[index]


box_strategy = st.tuples(st.floats(20, 235), st.floats(20, 235), st.floats(4, 250), st.floats(4, 250)).map(
    lambda b: [b[0] - b[2] / 2, b[1] - b[3] / 2, b[0] + b[2] / 2, b[1] + b[3] / 2]
)


@settings(max_examples=30, deadline=None)
@given(box=box_strategy, force=st.booleans(), seed=st.integers(0, 99))
def test_sampled_anchors_of_a_positive_pair(box: list[float], force: bool, seed: int) -> None:
    targets = targets_of([box], [True], seed=seed, force_best=force)
    positive = targets.positive[targets.positive_mask > 0]
    negative = targets.negative[targets.negative_mask > 0]
    every = overlaps(box, torch.arange(ANCHORS.shape[2]))
    # An anchor within rounding of the threshold may fall on either side.
    certain = int((every > 0.6 + 1e-5).sum())
    if certain:
        assert min(certain, 16) <= len(positive) <= 16
        assert (overlaps(box, positive) > 0.6 - 1e-5).all()
    elif not (every > 0.6 - 1e-5).any():
        assert len(positive) == int(force)
        if force:
            assert float(overlaps(box, positive)) >= float(every.max()) - 5e-3
    assert 0 < len(negative) <= 48
    assert (overlaps(box, negative) < 0.3 + 1e-5).all()
    chosen = torch.cat((positive, negative))
    assert len(chosen.unique()) == len(chosen)


@settings(max_examples=20, deadline=None)
@given(box=box_strategy)
def test_a_negative_pair_gives_negatives_round_the_distractor(box: list[float]) -> None:
    targets = targets_of([box], [False])
    assert float(targets.positive_mask.sum()) == 0
    negative = targets.negative[targets.negative_mask > 0]
    assert 0 < len(negative) <= 16
    centre = torch.tensor([(box[0] + box[2]) / 2 - 127.5, (box[1] + box[3]) / 2 - 127.5])[:, None]
    assert ((ANCHORS[0, :2, negative] - centre).abs() <= 3.5 * 8 + 1e-3).all()


def test_the_choice_is_random_but_seeded() -> None:
    box = [[80.0, 80.0, 175.0, 175.0]]
    first, again, other = (targets_of(box, [True], seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.negative, again.negative) and torch.equal(first.positive, again.positive)
    assert not torch.equal(first.negative, other.negative)


def test_the_anchor_that_is_the_target_has_no_error() -> None:
    """Cell 12 is the pixel centre 127.5 in continuous patch coordinates; anchor 2 is 64 x 64."""
    targets = targets_of([[95.5, 95.5, 159.5, 159.5]], [True], positive_iou=0.99)
    assert targets.positive[targets.positive_mask > 0].tolist() == [2 * 625 + 12 * 25 + 12]
    assert float(delta_l1(torch.zeros(1, 20, 25, 25), ANCHORS, targets)) == 0.0


def test_a_tiny_target_gets_the_nearest_anchor_or_none() -> None:
    box = [150.0, 90.0, 156.0, 96.0]
    forced = targets_of([box], [True])
    (index,) = forced.positive[forced.positive_mask > 0].tolist()
    x, y = ANCHORS[0, :2, index].tolist()
    assert max(abs(x - (153 - 127.5)), abs(y - (93 - 127.5))) <= 4.0
    assert index not in forced.negative[forced.negative_mask > 0].tolist()
    assert float(targets_of([box], [True], force_best=False).positive_mask.sum()) == 0


@settings(max_examples=40, deadline=None)
@given(a=box_strategy, b=box_strategy)
def test_overlaps_are_those_of_the_run_time(a: list[float], b: list[float]) -> None:
    def ltwh(box: list[float]) -> list[float]:
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    first, second = (centred_boxes(torch.tensor([box], dtype=torch.float64), 255) for box in (a, b))
    wanted = float(iou(ltwh(a), ltwh(b)))
    assert float(paired_iou(first, second, 1)) == pytest.approx(wanted, abs=1e-9)
    generalised = float(paired_giou(first, second, 1))
    assert -1 < generalised <= wanted + 1e-9
    inter, union, hull = (float(area) for area in overlap_areas(first, second, 1))
    assert 0 <= inter <= union + 1e-6 and union <= hull + 1e-6


def test_generalised_iou_of_two_squares_side_by_side() -> None:
    """Two unit squares with a gap of one: no overlap, union 2, hull 3."""
    a, b = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[2.0, 0.0, 1.0, 1.0]])
    assert float(paired_giou(a, b, 1)) == pytest.approx(-1 / 3)
    assert float(paired_giou(a, a, 1)) == pytest.approx(1.0)


def test_cross_entropy_weighs_positives_and_negatives_alike() -> None:
    targets = targets_of([[60.0, 70.0, 140.0, 160.0]] * 2, [True, False])
    assert float(balanced_cross_entropy(torch.zeros(2, 10, 25, 25), targets)) == pytest.approx(math.log(2))
    sure = torch.zeros(2, 2, 3125)
    sure[:, 0] = 20.0
    for pair in range(2):
        chosen = targets.positive[pair][targets.positive_mask[pair] > 0]
        sure[pair, 0, chosen], sure[pair, 1, chosen] = 0.0, 20.0
    assert float(balanced_cross_entropy(sure.reshape(2, 10, 25, 25), targets)) < 1e-6
    # All negatives wrong by a margin of 2, all positives undecided.
    wrong = torch.zeros(2, 2, 3125)
    wrong[:, 1] = 2.0
    for pair in range(2):
        wrong[pair, :, targets.positive[pair][targets.positive_mask[pair] > 0]] = 0.0
    wanted = 0.5 * math.log(2) + 0.5 * math.log(1 + math.exp(2))
    assert float(balanced_cross_entropy(wrong.reshape(2, 10, 25, 25), targets)) == pytest.approx(wanted, rel=1e-5)


def test_box_losses_of_known_errors() -> None:
    """One positive: anchor 2 (64 x 64) at the centre, the target 64 x 32 around a point 8 px to the right."""
    targets = targets_of([[103.5, 111.5, 167.5, 143.5]], [True], positives=1)
    targets.positive[0, 0], targets.positive_mask[0, 0] = 2 * 625 + 12 * 25 + 12, 1.0
    wanted = 8 / 64 + math.log(2)
    assert float(delta_l1(torch.zeros(1, 20, 25, 25), ANCHORS, targets)) == pytest.approx(wanted, rel=1e-5)
    ratio = 56 * 32 / (64 * 64 + 64 * 32 - 56 * 32)
    loss = overlap_l1(ANCHORS, targets, overlap="iou", overlap_weight=2.0, l1_weight=5.0, patch_size=255)
    assert float(loss) == pytest.approx(2 * (1 - ratio) + 5 * (8 + 32) / 255, rel=1e-5)


def test_without_positives_every_loss_is_an_exact_zero_with_a_graph() -> None:
    targets = targets_of([[100.0, 100.0, 106.0, 106.0]], [True], force_best=False)
    loc = torch.randn(1, 20, 25, 25, requires_grad=True)
    _, boxes = DECODE.candidates(torch.zeros(1, 10, 25, 25), loc)
    for loss in (
        delta_l1(loc, ANCHORS, targets),
        overlap_l1(boxes, targets, overlap="giou", overlap_weight=2.0, l1_weight=5.0, patch_size=255),
    ):
        assert float(loss.detach()) == 0.0
        (gradient,) = torch.autograd.grad(loss, loc, retain_graph=True)
        assert not gradient.any()
    assert float(masked_mean(torch.ones(3), torch.zeros(3))) == 0.0


def test_bfloat16_maps_give_float32_losses() -> None:
    targets = targets_of([[60.0, 70.0, 140.0, 160.0]], [True])
    cls, loc = torch.randn(1, 10, 25, 25).bfloat16(), torch.randn(1, 20, 25, 25).bfloat16()
    for loss in (balanced_cross_entropy(cls, targets), delta_l1(loc, ANCHORS, targets)):
        assert loss.dtype == torch.float32 and loss.isfinite()


@pytest.mark.parametrize("count", [2, 8, 16])
def test_diversity_runs_from_0_to_n_times_n_minus_1(count: int) -> None:
    one = torch.randn(2, 1, 4, 15, 15)
    assert float(diversity(one.expand(-1, count, -1, -1, -1))) == pytest.approx(count * (count - 1), rel=1e-3)
    basis, _ = torch.linalg.qr(torch.cat((torch.ones(225, 1), torch.randn(225, count)), dim=1))
    maps = basis[:, 1:].T.reshape(1, count, 1, 15, 15) * 10  # orthonormal and of zero mean
    assert float(diversity(maps.expand(-1, -1, 3, -1, -1))) == pytest.approx(0.0, abs=1e-6)


def test_diversity_ignores_scale_offset_and_sign() -> None:
    maps = torch.randn(3, 4, 2, 15, 15)
    changed = maps * torch.tensor([1.0, -2.0, 0.5, 3.0])[:, None, None, None] + 7.0
    assert float(diversity(changed)) == pytest.approx(float(diversity(maps)), rel=1e-3)


def test_diversity_of_constant_and_single_maps() -> None:
    maps = torch.ones(2, 3, 4, 15, 15, requires_grad=True)
    loss = diversity(maps)
    (gradient,) = torch.autograd.grad(loss, maps)
    assert loss.isfinite() and gradient.isfinite().all()
    assert float(diversity(torch.randn(2, 1, 4, 15, 15))) == 0.0
    with torch.autocast("cpu", torch.bfloat16):
        assert diversity(torch.randn(2, 3, 4, 15, 15).bfloat16()).dtype == torch.float32
