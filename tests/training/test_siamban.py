"""The box-adaptive head, its ellipse labels and its losses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trackctl.runtime.geometry import CropSpec, iou
from trackctl.training.decode import MAX_LOG_SIZE, DecodeSpec, PointDecode
from trackctl.training.losses import balanced_cross_entropy
from trackctl.training.siamban import (
    BANHead,
    DistanceBranch,
    PointSampling,
    distance_iou,
    distance_loss,
    ellipse_labels,
    point_targets,
    wanted_distances,
)

DECODE = PointDecode(CropSpec(), DecodeSpec(penalty_k=0.0, window=0.0, lr=1.0), cells=25, stride=8)
POINTS = DECODE.points  # (1, 2, 625)
SAMPLING = PointSampling()
YES, NO = torch.tensor([True]), torch.tensor([False])


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def box(*centre_and_size: float) -> Tensor:
    return torch.tensor([centre_and_size], dtype=torch.float32)


# Head


def test_parameter_counts() -> None:
    assert count(BANHead(levels=3, width=256)) == 7_484_955
    assert count(BANHead(levels=1, width=256)) == 2_494_982 + 1  # and the scale of the distances


def test_levels_are_fused_after_their_exponential() -> None:
    head = BANHead(levels=2, width=8).eval()
    responses = [torch.randn(1, 8, 25, 25) for _ in range(2)]
    with torch.inference_mode():
        head.loc[0].scale.fill_(0.5)
        head.cls_weight.copy_(torch.tensor([2.0, 1.0]))
        head.loc_weight.copy_(torch.tensor([0.25, 0.75]).log())
        cls, loc = head(responses, responses)
        raw = [branch.out(branch.hidden(response)) for branch, response in zip(head.loc, responses, strict=True)]
        torch.testing.assert_close(loc, 0.25 * torch.exp(0.5 * raw[0]) + 0.75 * torch.exp(raw[1]))
        first, second = (branch(response) for branch, response in zip(head.cls, responses, strict=True))
        share = 1 / (1 + math.exp(-1.0))
        torch.testing.assert_close(cls, share * first + (1 - share) * second)
    assert (tuple(cls.shape), tuple(loc.shape)) == ((1, 2, 25, 25), (1, 4, 25, 25))


def test_a_fresh_head_expects_a_typical_target_and_stays_bounded() -> None:
    branch = DistanceBranch(8).eval()
    with torch.inference_mode():
        distances = branch(torch.zeros(1, 8, 25, 25))
        torch.testing.assert_close(distances, torch.full_like(distances, 32.0))
        branch.scale.fill_(100.0)
        assert float(branch(torch.zeros(1, 8, 25, 25)).max()) == pytest.approx(math.exp(MAX_LOG_SIZE), rel=1e-5)


# Labels


@pytest.mark.parametrize(
    ("target", "counts"), [(box(0, 0, 64, 64), (9, 576, 40)), (box(0, 0, 20, 20), (1, 620, 4)), (box(4, 4, 20, 20), (0, 621, 4))]
)
def test_counts_of_centred_targets(target: Tensor, counts: tuple[int, int, int]) -> None:
    inner, outside = ellipse_labels(POINTS, target)
    assert (int(inner.sum()), int(outside.sum()), int((~inner & ~outside).sum())) == counts


@settings(deadline=None)
@given(st.floats(-100, 100), st.floats(-100, 100), st.floats(2, 250), st.floats(2, 250))
def test_labels_are_the_two_ellipses(x: float, y: float, width: float, height: float) -> None:
    inner, outside = ellipse_labels(POINTS.double(), box(x, y, width, height).double())
    for index in range(0, 625, 7):
        px, py = (float(value) for value in POINTS[0, :, index])
        small = (px - x) ** 2 / (width / 4) ** 2 + (py - y) ** 2 / (height / 4) ** 2
        large = (px - x) ** 2 / (width / 2) ** 2 + (py - y) ** 2 / (height / 2) ** 2
        if abs(small - 1) > 1e-4:
            assert bool(inner[0, index]) == (small < 1)
        if abs(large - 1) > 1e-4:
            assert bool(outside[0, index]) == (large > 1)


def test_sampled_points_of_a_pair() -> None:
    target = box(10, -20, 90, 120)
    targets = point_targets(POINTS, target, YES, sampling=SAMPLING, generator=torch.Generator().manual_seed(0))
    inner, outside = ellipse_labels(POINTS, target)
    assert int(inner.sum()) > 16
    assert (int(targets.positive_mask.sum()), int(targets.negative_mask.sum())) == (16, 48)
    assert inner[0, targets.positive[0]].all() and outside[0, targets.negative[0]].all()
    assert len(set(targets.positive[0].tolist())) == 16 and len(set(targets.negative[0].tolist())) == 48
    again = point_targets(POINTS, target, YES, sampling=SAMPLING, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.positive, targets.positive) and torch.equal(again.negative, targets.negative)


def test_a_negative_pair_has_negatives_within_the_distractor_alone() -> None:
    target = box(10, -20, 120, 120)
    targets = point_targets(POINTS, target, NO, sampling=SAMPLING)
    inner, _ = ellipse_labels(POINTS, target)
    used = targets.negative[0][targets.negative_mask[0] > 0]
    assert (int(targets.positive_mask.sum()), len(used)) == (0, 16)
    assert inner[0, used].all()
    few = point_targets(POINTS, box(0, 0, 64, 64), NO, sampling=SAMPLING)
    assert int(few.negative_mask.sum()) == 9


# Losses


def test_true_distances_decode_to_the_target() -> None:
    target = box(13, -7, 50, 80)
    targets = point_targets(POINTS, target, YES, sampling=SAMPLING)
    wanted = wanted_distances(POINTS, targets)
    used = targets.positive_mask[0] > 0
    assert (wanted[0, :, used] > 0).all()
    maps = torch.ones(1, 4, 625)
    maps[0, :, targets.positive[0, used]] = wanted[0, :, used]
    _, boxes = DECODE.candidates(torch.zeros(1, 2, 25, 25), maps.reshape(1, 4, 25, 25))
    torch.testing.assert_close(boxes[0][:, targets.positive[0, used]], target.T.expand(4, int(used.sum())))
    assert float(distance_loss(maps.reshape(1, 4, 25, 25), POINTS, targets)) == pytest.approx(0.0, abs=1e-6)


@settings(deadline=None)
@given(*[st.tuples(*[st.floats(1.0, 100.0)] * 4)] * 2)
def test_overlap_is_the_iou_but_for_the_added_ones(
    first: tuple[float, float, float, float], second: tuple[float, float, float, float]
) -> None:
    got = distance_iou(torch.tensor([first]).T[None].double(), torch.tensor([second]).T[None].double()).item()

    def ltwh(d: tuple[float, ...]) -> tuple[float, float, float, float]:
        return (200 - d[0], 200 - d[1], d[0] + d[2], d[1] + d[3])

    plain = float(iou(ltwh(first), ltwh(second)))
    area = min((d[0] + d[2]) * (d[1] + d[3]) for d in (first, second))
    assert plain - 1e-5 <= got <= plain + 1.0 / area + 1e-5


def test_losses_without_positives_are_an_exact_zero_with_a_graph() -> None:
    cls, loc = torch.randn(1, 2, 25, 25, requires_grad=True), torch.rand(1, 4, 25, 25, requires_grad=True)
    targets = point_targets(POINTS, box(4, 4, 10, 10), YES, sampling=SAMPLING)
    assert int(targets.positive_mask.sum()) == 0
    loss = distance_loss(loc, POINTS, targets)
    assert float(loss.detach()) == 0.0
    loss.backward()  # type: ignore[no-untyped-call]
    assert loc.grad is not None and not loc.grad.any()
    balanced_cross_entropy(cls, targets).backward()  # type: ignore[no-untyped-call]
    assert cls.grad is not None and int(cls.grad.count_nonzero()) == 2 * 48
