"""The fusion loss on known values, and a training that learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from trackctl.runtime.errors import InputError
from trackctl.training.lrrnet import LRRNet
from trackctl.training.lrrnet_losses import FusionLoss, FusionWeights, VggFeatures, gram
from trackctl.training.lrrnet_training import FusionSchedule, train_fusion
from trackctl.training.weights import load_weights


@pytest.fixture(scope="module")
def vgg() -> VggFeatures:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VggFeatures().eval()


def picture(seed: int, side: int = 16) -> torch.Tensor:
    return 255.0 * torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(seed))


def test_features_are_those_of_the_four_depths(vgg: VggFeatures) -> None:
    features = vgg(picture(0))
    assert [tuple(f.shape[1:]) for f in features] == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
    assert all(float(f.min()) >= 0.0 for f in features)
    assert len(list(vgg.parameters())) == 20
    assert not any(p.requires_grad for p in vgg.parameters())


def test_torchvisions_file_fits(vgg: VggFeatures, tmp_path: Path) -> None:
    state = {key: tensor.numpy() for key, tensor in vgg.state_dict().items()}
    assert {"features.0.weight", "features.21.bias"} <= state.keys()
    rest = {"features.24.weight": np.zeros((2, 2), np.float32), "classifier.6.bias": np.zeros(3, np.float32)}
    np.savez(tmp_path / "vgg16.npz", **state, **rest)
    other = VggFeatures()
    load_weights(other, tmp_path / "vgg16.npz")
    for key, tensor in other.state_dict().items():
        torch.testing.assert_close(tensor, vgg.state_dict()[key], rtol=0, atol=0)


def test_gram_of_constant_channels() -> None:
    features = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1).expand(1, 3, 4, 5)
    values = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [3.0, 6.0, 9.0]]) * 20 / (3 * 20)
    torch.testing.assert_close(gram(features), values[None])


def test_equal_images_leave_the_middle_term_alone(vgg: VggFeatures) -> None:
    image = picture(1)
    losses = FusionLoss(vgg)(image, image, image)
    assert [float(losses[name]) for name in ("pixel", "shallow", "deep")] == [0.0, 0.0, 0.0]
    # Its target is 3.0 + 0.5 times the features.
    _, second, third, _ = vgg(image)
    wanted = 0.01 * 2.5**2 * second.square().mean() + 0.5 * 2.5**2 * third.square().mean()
    torch.testing.assert_close(losses["middle"], wanted)
    torch.testing.assert_close(losses["total"], losses["middle"])


def test_each_term_is_its_mean(vgg: VggFeatures) -> None:
    fused, ir, vi = picture(1), picture(2), picture(3)
    losses = FusionLoss(vgg, FusionWeights(pixel=10.0, deep=1500.0))(fused, ir, vi)
    torch.testing.assert_close(losses["pixel"], 10.0 * (fused - vi).square().mean())
    torch.testing.assert_close(losses["shallow"], 1.5 * (vgg(fused)[0] - vgg(vi)[0]).square().mean())
    torch.testing.assert_close(losses["deep"], 1500.0 * (gram(vgg(fused)[3]) - gram(vgg(ir)[3])).square().mean())
    torch.testing.assert_close(losses["total"], sum(losses[n] for n in ("pixel", "shallow", "middle", "deep")))


def test_a_tiny_crop_is_learnt(vgg: VggFeatures) -> None:
    rng = np.random.default_rng(0)
    pairs = [tuple(rng.integers(0, 256, (2, 20, 24), dtype=np.uint8)) for _ in range(2)]
    torch.manual_seed(0)
    model = LRRNet(blocks=1)
    steps: list[int] = []
    schedule = FusionSchedule(lr=1e-2, weight_decay=0.0, batch=2, epochs=15, side_px=16)
    totals = train_fusion(model, FusionLoss(vgg), pairs, schedule, on_step=lambda step, losses: steps.append(step))
    assert steps == list(range(1, 16))
    assert totals[-1] < 0.7 * totals[0]
    assert not model.training


def test_the_authors_schedule_is_the_default() -> None:
    schedule = FusionSchedule()
    assert (schedule.lr, schedule.weight_decay, schedule.batch, schedule.epochs, schedule.side_px) == (1e-5, 0.9, 8, 4, 128)


def test_too_few_pairs_are_refused(vgg: VggFeatures) -> None:
    with pytest.raises(InputError, match="got 1 pairs, expected 8 or more"):
        train_fusion(LRRNet(blocks=1), FusionLoss(vgg), [(np.zeros((8, 8), np.uint8),) * 2])
