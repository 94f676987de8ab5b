"""The SiamCAR-type head: its maps, its labels, its losses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trackctl.training.car import CARHead, car_losses, inside, side_distances
from trackctl.training.decode import MAX_LOG_SIZE

SHOWN = torch.tensor([True])
GRID = torch.arange(-70.0, 75.0, 6.0)
POINTS = torch.stack((GRID.repeat(25), GRID.repeat_interleave(25)))[None]  # (1, 2, 625)
BOXES = st.tuples(st.floats(-60, 60), st.floats(-60, 60), st.floats(2, 150), st.floats(2, 150))


def head(width: int = 32) -> CARHead:
    torch.manual_seed(0)
    return CARHead(width)


def test_the_head_has_the_published_weights() -> None:
    model = CARHead(256)
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_738_566
    assert model.cls.bias.tolist() == pytest.approx([-math.log(99)] * 2)
    assert float(model.loc.weight.detach().std()) == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_distances_are_positive_float32_and_fit_float16(dtype: torch.dtype) -> None:
    model = head().to(dtype).eval()
    with torch.inference_mode():
        model.loc.weight.mul_(1e4)
        cls, loc = model(torch.randn(2, 32, 9, 9, generator=torch.Generator().manual_seed(1), dtype=dtype))
    assert (cls.shape, cls.dtype, loc.shape, loc.dtype) == ((2, 2, 9, 9), dtype, (2, 4, 9, 9), torch.float32)
    assert float(loc.max()) == pytest.approx(math.exp(MAX_LOG_SIZE)) and loc.isfinite().all() and (loc >= 0).all()


@settings(max_examples=30, deadline=None)
@given(box=BOXES, shrink=st.sampled_from([0.0, 0.3, 0.6]))
def test_a_point_is_positive_strictly_inside_the_shrunk_box(box: tuple[float, ...], shrink: float) -> None:
    boxes = torch.tensor([box])
    got = inside(side_distances(POINTS, boxes), boxes, shrink)[0]
    cx, cy, width, height = boxes[0].tolist()
    for index, (x, y) in enumerate(POINTS[0].T.tolist()):
        dx, dy = (1 - shrink) * width / 2 - abs(x - cx), (1 - shrink) * height / 2 - abs(y - cy)
        if min(abs(dx), abs(dy)) > 1e-3:  # on the edge float32 decides
            assert bool(got[index]) == (dx > 0 and dy > 0)


def test_the_edge_of_the_box_is_outside() -> None:
    boxes = torch.tensor([[-64.0, -64.0, 12.0, 12.0]])  # -70 to -58: the first point lies on the corner, the third beyond
    assert inside(side_distances(POINTS, boxes), boxes, 0.0)[0].nonzero().flatten().tolist() == [26]


def test_siamcars_own_area_is_the_central_two_fifths() -> None:
    boxes = torch.tensor([[2.0, 2.0, 100.0, 60.0]])
    chosen = POINTS[0, :, inside(side_distances(POINTS, boxes), boxes, 0.6)[0]]
    assert [float((chosen[axis] - 2.0).abs().max()) for axis in (0, 1)] == [18.0, 6.0]  # of 20 and 12


def maps(box: tuple[float, ...], batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Undecided class maps, perfect distances (1 px where there is no target) and the boxes."""
    boxes = torch.tensor([box] * batch)
    loc = side_distances(POINTS, boxes).reshape(batch, 4, 25, 25).clamp(min=1.0)
    return torch.zeros(batch, 2, 25, 25, requires_grad=True), loc.requires_grad_(), boxes


def test_perfect_distances_cost_nothing_and_an_undecided_class_ln_2() -> None:
    cls, loc, boxes = maps((2.0, -4.0, 60.0, 40.0))
    cls_loss, loc_loss = car_losses(cls, loc, POINTS, boxes, SHOWN)
    assert float(cls_loss.detach()) == pytest.approx(math.log(2))
    assert float(loc_loss.detach()) == pytest.approx(0.0, abs=1e-6)


def test_the_box_loss_is_unitbox_with_one_pixel_more() -> None:
    cls, _, boxes = maps((2.0, 2.0, 8.0, 8.0))  # one point, at the centre
    loc = torch.full((1, 4, 25, 25), 6.0, requires_grad=True)
    _, loc_loss = car_losses(cls, loc, POINTS, boxes, SHOWN)
    assert float(loc_loss.detach()) == pytest.approx(-math.log((64 + 1) / (144 + 1)))


def test_positives_and_negatives_weigh_one_half_each() -> None:
    cls, loc, boxes = maps((2.0, 2.0, 8.0, 8.0))
    cls_loss, _ = car_losses(cls, loc, POINTS, boxes, SHOWN)
    (gradient,) = torch.autograd.grad(cls_loss, cls)
    positive = gradient[0, 1].flatten() < 0
    assert positive.nonzero().flatten().tolist() == [312]
    assert float(gradient[0, 1].flatten()[positive].sum()) == pytest.approx(-0.25)
    assert float(gradient[0, 1].flatten()[~positive].sum()) == pytest.approx(0.25)


@pytest.mark.parametrize(("box", "shown"), [((2.0, 2.0, 60.0, 60.0), False), ((5.0, 5.0, 2.0, 2.0), True)])
def test_without_positives_the_box_loss_is_an_exact_zero_with_a_graph(box: tuple[float, ...], shown: bool) -> None:
    """A pair that does not show the target, and a target between the points."""
    cls, loc, boxes = maps(box)
    cls_loss, loc_loss = car_losses(cls, loc, POINTS, boxes, torch.tensor([shown]))
    assert float(loc_loss.detach()) == 0.0 and float(cls_loss.detach()) == pytest.approx(math.log(2) / 2)
    gradients = torch.autograd.grad(cls_loss + loc_loss, (cls, loc))
    assert gradients[0].isfinite().all() and not gradients[1].any()


def test_only_distances_at_positives_have_a_gradient() -> None:
    cls, loc, boxes = maps((2.0, 2.0, 30.0, 20.0), batch=2)
    _, loc_loss = car_losses(cls, loc * 1.5, POINTS, boxes, torch.tensor([True, False]))
    (gradient,) = torch.autograd.grad(loc_loss, loc)
    touched = gradient.flatten(2).abs().sum(dim=1) > 0
    assert torch.equal(touched[0], inside(side_distances(POINTS, boxes), boxes, 0.0)[0]) and not touched[1].any()
    assert gradient.isfinite().all()
