"""Untrained models are sane enough to be exported."""

from __future__ import annotations

import pytest
import torch

from trackctl.export.initial import initial_model
from trackctl.training.engine import example_inputs
from trackctl.training.model import SearchGraph
from trackctl.training.zoo import build


@pytest.mark.parametrize("name", ["dcfg-edge", "nanotrack-v1", "nanotrack-v2", "nanotrack-v3", "siamrpn-r50"])
def test_its_maps_fit_half_precision(name):
    model = initial_model(name)
    _, inputs = example_inputs(model)
    generator = torch.Generator().manual_seed(1)
    inputs["search"] = torch.rand(inputs["search"].shape, generator=generator) * 255.0
    with torch.inference_mode():
        *_, cls, loc = SearchGraph(model)(*inputs.values())
    assert not model.training
    assert 0.0 < float(cls.std()) < 100.0
    assert float(loc.abs().max()) < 1000.0


def test_it_is_the_same_each_time_and_has_the_zoos_weights():
    first, second, plain = initial_model("nanotrack-v1"), initial_model("nanotrack-v1"), build("nanotrack-v1")
    states = [model.state_dict() for model in (first, second, plain)]
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name])
        assert torch.equal(tensor, states[2][name]) == ("running" not in name and "num_batches" not in name)
    momenta = [[m.momentum for m in model.modules() if hasattr(m, "momentum")] for model in (first, plain)]
    assert momenta[0] == momenta[1]
