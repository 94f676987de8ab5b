"""Fake quantisation: the layers are those of the export, the rounding is int8's, and weights stay loadable."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from test_training_loop import SPEC, batches, cache, one_thread, pairs, schedule, seeded_tiny  # noqa: F401
from torch import nn

from trackctl.export.graphs import export_patch_graph, fold_batch_norm
from trackctl.export.int8 import quantised_convolutions
from trackctl.training.loop import PairBatches, Training
from trackctl.training.qat import FakeQuantConv2d, fake_quantise, quantised_layers, ranges
from trackctl.training.weights import load_weights
from trackctl.training.zoo import build


def test_rounding_is_that_of_int8() -> None:
    torch.manual_seed(0)
    conv = FakeQuantConv2d(nn.Conv2d(8, 4, 3, bias=False)).train()
    x = torch.randn(2, 8, 6, 6)
    got = conv(x)
    step = x.abs().max() / 127
    steps = conv.weight.detach().abs().amax(dim=(1, 2, 3), keepdim=True) / 127
    levels, weights = torch.round(x / step), torch.round(conv.weight.detach() / steps)
    assert levels.abs().max() == 127 and weights.abs().amax(dim=(1, 2, 3)).tolist() == [127.0] * 4
    torch.testing.assert_close(got, nn.functional.conv2d(levels * step, weights * steps), rtol=1e-4, atol=1e-5)
    # The range follows slowly while training and not at all afterwards.
    conv(10 * x)
    assert float(conv.peak) == pytest.approx(float(x.abs().max()) * (1 + 0.05 * 9), rel=1e-5)
    before = conv.peak.clone()
    conv.eval()(100 * x)
    assert torch.equal(conv.peak, before)


def test_the_gradient_passes_the_rounding_and_stops_at_the_clip() -> None:
    conv = FakeQuantConv2d(nn.Conv2d(1, 1, 1, bias=False)).eval()
    with torch.no_grad():
        conv.weight.fill_(1.0)
        conv.peak.fill_(1.0)
    x = torch.tensor([0.3, -0.9, 1.5]).reshape(1, 1, 1, 3).requires_grad_()
    conv(x).sum().backward()
    assert x.grad is not None and x.grad.flatten().tolist() == [1.0, 1.0, 0.0]
    assert conv.weight.grad is not None and float(conv.weight.grad) != 0.0


def test_the_layers_are_those_of_the_export() -> None:
    model = build("dcfg-edge")
    exported = quantised_convolutions(export_patch_graph(fold_batch_norm(model), "search"))
    assert len(quantised_layers(model)) == len(exported) > 5


def test_weights_keep_their_names() -> None:
    model, plain = seeded_tiny(), seeded_tiny()
    names = fake_quantise(model)
    assert names and all(isinstance(model.get_submodule(name), FakeQuantConv2d) for name in names)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert not any(name.startswith("backbone.stem.0") or ".template." in name or name.endswith(".out") for name in names)


def test_a_killed_run_resumes_with_its_ranges(batches: PairBatches, tmp_path: Path) -> None:  # noqa: F811
    spec = dataclasses.replace(SPEC, qat=True, batch=4, shares=2, schedule=schedule(4))

    def training(folder: str) -> Training:
        model = seeded_tiny()
        fake_quantise(model)
        return Training(spec, model, batches, tmp_path / folder)

    whole, killed = training("whole"), training("killed")
    curve = [whole.advance() for _ in range(4)]
    killed.advance(), killed.advance()
    killed.save()
    resumed = training("killed")
    assert all(float(value) > 0 for value in ranges(resumed.model).values())
    assert [resumed.advance() for _ in range(2)] == curve[2:]
    load_weights(seeded_tiny(1), tmp_path / "killed" / "step-000002.safetensors")
