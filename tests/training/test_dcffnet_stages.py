"""The two training stages of DCFFNet."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from trackctl.training.dcffnet import DCFFNet
from trackctl.training.dcffnet_stages import PretrainingStage, TrackingStage

CENTRED = torch.tensor([[97.5, 97.5, 157.5, 157.5]])
SHOWN = torch.tensor([True])


def model(variant: str = "CF-double") -> DCFFNet:
    torch.manual_seed(0)
    return DCFFNet(variant=variant)  # type: ignore[arg-type]


def patches(batch: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.rand(batch, 3, side, side, generator=generator) * 255 for side in (127, 255))  # type: ignore[return-value]


class KnownMaps(nn.Module):
    """Stands for a model whose last maps are given."""

    def __init__(self, z3: Tensor, x3: Tensor) -> None:
        super().__init__()
        self.z3, self.x3, self.crop = z3, x3, DCFFNet(variant="baseline").crop

    def template_features(self, patch: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        return (), self.z3

    def search_features(self, patch: Tensor, kernels: tuple[Tensor, ...]) -> Tensor:
        return self.x3


def known(batch: int = 1, scale: float = 1.0) -> PretrainingStage:
    generator = torch.Generator().manual_seed(5)
    z3, x3 = (scale * torch.randn(batch, 256, side, side, generator=generator) for side in (22, 44))
    return PretrainingStage(KnownMaps(z3, x3))  # type: ignore[arg-type]


def test_scores_are_the_full_correlation_scaled_and_shifted() -> None:
    stage = known(batch=2)
    with torch.no_grad():
        stage.bias.fill_(0.25)
        scores = stage.scores(*patches(2)).reshape(2, 23, 23)
    z3, x3 = stage.model.z3, stage.model.x3
    for sample, row, column in ((0, 0, 0), (1, 22, 22), (1, 4, 17)):
        wanted = (x3[sample, :, row : row + 22, column : column + 22] * z3[sample]).sum() * 1e-3 + 0.25
        assert float(scores[sample, row, column]) == pytest.approx(float(wanted), abs=1e-4)


def test_places_are_those_of_the_spatial_arithmetic() -> None:
    points = known().points.reshape(2, 23, 23) + 127.0
    assert torch.equal(points[0, 0], 63.0 + 6.0 * torch.arange(23)) and torch.equal(points[1, :, 0], points[0, 0])
    assert float(points[0, 0, 11]) == 129.0


@pytest.mark.parametrize("shift", [(0.0, 0.0), (10.0, -25.0)])
def test_places_within_the_radius_are_positive_and_both_halves_weigh_the_same(shift: tuple[float, float]) -> None:
    stage = known(scale=0.0)  # undecided everywhere
    seen: list[Tensor] = []
    plain = stage.scores

    def kept(template: Tensor, search: Tensor) -> Tensor:
        seen.append(plain(template, search).requires_grad_())
        return seen[0]

    stage.scores = kept  # type: ignore[method-assign]
    loss = stage.losses(*patches(), CENTRED + torch.tensor([*shift, *shift]), SHOWN)["total"]
    assert float(loss.detach()) == pytest.approx(math.log(2))
    (gradient,) = torch.autograd.grad(loss, seen[0])
    wanted = [(63 + 6 * (k % 23) - 127 - shift[0]) ** 2 + (63 + 6 * (k // 23) - 127 - shift[1]) ** 2 <= 256 for k in range(529)]
    assert (gradient[0] < 0).tolist() == wanted and 15 < sum(wanted) < 30
    assert float(gradient[gradient < 0].sum()) == pytest.approx(-0.25)
    assert float(gradient[gradient > 0].sum()) == pytest.approx(0.25)


def test_a_pair_without_the_target_has_negatives_alone() -> None:
    loss = known(scale=0.0).losses(*patches(), CENTRED, torch.tensor([False]))["total"]
    assert float(loss.detach()) == pytest.approx(math.log(2) / 2)


def test_pretraining_reaches_the_whole_backbone_and_leaves_the_head() -> None:
    stage = PretrainingStage(model()).train()
    stage.losses(*patches(2), CENTRED.expand(2, 4), torch.tensor([True, False]))["total"].backward()  # type: ignore[no-untyped-call]
    idle = {name for name, value in stage.named_parameters() if value.grad is None or not value.grad.any()}
    assert idle == {name for name, _ in stage.named_parameters() if name.startswith("model.head.")}


def test_a_tracking_step_changes_the_last_two_convolutions_and_the_head_alone() -> None:
    stage = TrackingStage(model()).train()
    before = {name: value.clone() for name, value in stage.model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in stage.parameters() if p.requires_grad], lr=0.1, momentum=0.9, weight_decay=5e-4)
    parts = stage.losses(*patches(2), CENTRED.expand(2, 4), torch.tensor([True, False]))
    assert set(parts) == {"total", "cls", "loc"}
    parts["total"].backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    changed = {name for name, value in stage.model.state_dict().items() if not torch.equal(value, before[name])}
    # Buffers of batch normalisation too: they are in the state.
    assert changed == {name for name in before if name.startswith(("backbone.conv5.", "backbone.conv6.", "head."))}
    assert "backbone.conv6.1.running_mean" in changed


def test_the_tracking_stage_is_wholly_in_evaluation_mode_when_told() -> None:
    stage = TrackingStage(model("CF-1st"))
    assert not any(module.training for module in stage.train().model.backbone.block3.modules())
    assert stage.training and stage.model.head.training and stage.model.backbone.conv5[1].training
    assert not stage.model.fusions.training and not any(module.training for module in stage.eval().modules())
