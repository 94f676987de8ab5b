"""A box-adaptive head that starts as an anchor head: what fits is taken, the rest gives the anchors' boxes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trackctl.runtime.errors import InputError, WeightsError
from trackctl.training.backbones.edge import EdgeBackbone
from trackctl.training.bcrnet import BCRNet
from trackctl.training.from_anchors import take_head
from trackctl.training.siamrpn import SiamRPN


def thin() -> EdgeBackbone:
    return EdgeBackbone(stem=(8, 8, 16), dilations=(1,))


@pytest.fixture
def trained() -> SiamRPN:
    """An anchor tracker whose every tensor differs from what a fresh one has."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = SiamRPN(backbone=thin(), width=16).eval()
        with torch.no_grad():
            for value in model.state_dict().values():
                if value.is_floating_point():
                    value.add_(0.05 * torch.rand_like(value))
    return model


def taken(trained: SiamRPN, bands: int = 3) -> BCRNet:
    with torch.random.fork_rng():
        torch.manual_seed(6)
        model = BCRNet(backbone=thin(), bands=bands, width=16).eval()
    take_head(model, trained)
    return model


def response() -> Tensor:
    return torch.randn(2, 16, 25, 25, generator=torch.Generator().manual_seed(1))


def test_what_fits_is_the_same(trained: SiamRPN) -> None:
    model = taken(trained)
    for name, value in trained.neck.state_dict().items():
        assert torch.equal(model.neck.state_dict()[name], value)
    own, theirs = model.ban.state_dict(), trained.rpn.state_dict()
    same = [name for name in theirs if ".out." not in name]
    assert len(same) == 2 * 3 * 6
    assert all(torch.equal(own[name], theirs[name]) for name in same)


def test_logits_are_the_mean_over_the_anchors(trained: SiamRPN) -> None:
    cls, _ = taken(trained).ban([response()], [response()])
    wanted, _ = trained.rpn([response()], [response()])
    torch.testing.assert_close(cls, wanted.unflatten(1, (2, 5)).mean(dim=2))


def test_boxes_are_those_of_the_square_anchor_to_first_order(trained: SiamRPN) -> None:
    with torch.no_grad():
        # Small deltas, where second order does not count.
        trained.rpn.loc[0].out.weight.mul_(1e-2)  # type: ignore[union-attr, operator]
        trained.rpn.loc[0].out.bias.mul_(1e-2)  # type: ignore[union-attr, operator]
    model = taken(trained)
    maps = [response()], [response()]
    _, boxes = model.decode.candidates(*model.ban(*maps))
    _, every = trained.decode.candidates(*trained.rpn(*maps))
    square = int((trained.decode.boxes[0, 2] - trained.decode.boxes[0, 3]).abs().argmin()) // 625
    wanted = every[:, :, square * 625 : (square + 1) * 625]
    anchor = trained.decode.boxes[:, :, square * 625 : (square + 1) * 625]
    moved = (wanted - anchor).abs().amax(dim=(0, 2))
    assert (moved > 0.2).all()
    assert ((boxes - wanted).abs().amax(dim=(0, 2)) < 0.1 * moved).all()


def test_another_width_or_head_is_refused(trained: SiamRPN) -> None:
    with pytest.raises(WeightsError, match="the head of SiamRPN has other levels or another width: take another tracker's"):
        take_head(BCRNet(backbone=thin(), bands=3, width=8), trained)
    with pytest.raises(InputError, match="got the head of BCRNet for BCRNet, expected one with anchors for BCRNet"):
        take_head(BCRNet(backbone=thin(), bands=3, width=16), taken(trained))
    with pytest.raises(InputError, match="got the head of SiamRPN for SiamRPN"):
        take_head(trained, trained)
