"""The zoo: every name builds, and builds the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trackctl.runtime.errors import InputError, WeightsError
from trackctl.training import zoo
from trackctl.training.model import TrackerModel
from trackctl.training.weights import save_weights

LIGHT = (
    "bcrnet-edge",
    "bcrnet-edge-25",
    "dcfg-edge",
    "dfat-edge",
    "dfat-lrr-edge",
    "nanotrack-v1",
    "nanotrack-v2",
    "nanotrack-v3",
)
HEAVY = (
    "bcrnet-r50",
    "dcffnet",
    "dcffnet-baseline",
    "dcffnet-cf1",
    "dcffnet-cf2",
    "dcfg-r50",
    "dfat-r50",
    "dfat-lrr-r50",
    "siamrpn-r50",
)


def test_the_names_are_known_here() -> None:
    assert set(zoo.MODELS) == {*LIGHT, *HEAVY}
    assert zoo.DEFAULT_MODEL in zoo.MODELS
    assert zoo.MODELS[zoo.DEFAULT_MODEL].weights == "dcfg-edge.safetensors"


@pytest.mark.parametrize("name", [*LIGHT, *(pytest.param(name, marks=pytest.mark.slow) for name in HEAVY)])
def test_every_model_tracks_a_patch(name: str) -> None:
    model = zoo.build(name)
    assert isinstance(model, TrackerModel)
    assert not any(module.training for module in model.modules())
    with torch.inference_mode():
        memory = model.template(torch.full((1, model.channels, model.crop.template_size, model.crop.template_size), 90.0))
        cls, loc = model.search(torch.full((1, model.channels, model.crop.search_size, model.crop.search_size), 90.0), memory)
        state, score, _, _ = model.decode(cls, loc, torch.tensor([[200.0, 100.0, 40.0, 30.0, 640.0, 512.0]]))
    assert len(memory) == len(model.memory_names)
    assert cls.shape[1] * 2 == loc.shape[1]
    assert torch.isfinite(state).all() and 0 <= score.item() <= 1


@pytest.mark.parametrize("name", LIGHT)
def test_the_same_name_twice_is_the_same_model(name: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = zoo.build(name).state_dict()
    assert torch.equal(torch.get_rng_state(), before), "the global random state was disturbed"
    torch.manual_seed(6)
    second = zoo.build(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("typed", "near"), [("nanotrak-v3", "nanotrack-v3"), ("dcfg", "dcfg-r50"), ("siamrpn_r50", "siamrpn-r50")]
)
def test_an_unknown_name_gets_the_nearest(typed: str, near: str) -> None:
    for function in (zoo.build, zoo.load, zoo.entry, zoo.weights_path):
        with pytest.raises(InputError, match=f"did you mean {near}") as caught:
            function(typed)
        assert typed in str(caught.value)


def test_a_name_like_no_other_gets_the_list() -> None:
    with pytest.raises(InputError, match="expected one of dcfg-edge, dcfg-r50"):
        zoo.build("zzz")


def test_weights_are_those_given_before_those_shipped(tmp_path: Path) -> None:
    model = zoo.build("nanotrack-v1")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    path = tmp_path / "mine.safetensors"
    save_weights(model, path, {"system": "nanotrack-v1"})
    loaded = zoo.load("nanotrack-v1", path)
    assert not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_a_model_without_shipped_weights_says_where_they_are() -> None:
    with pytest.raises(WeightsError, match=r"Apache-2\.0"):
        zoo.load("nanotrack-v3")


def test_shipped_weights_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "PACKAGED_WEIGHTS", tmp_path)
    with pytest.raises(WeightsError, match=r"dcfg-edge\.safetensors of dcfg-edge are missing"):
        zoo.load(zoo.DEFAULT_MODEL)


def test_shipped_weights_are_found_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "PACKAGED_WEIGHTS", tmp_path)
    model = zoo.build("dcfg-edge")
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    save_weights(model, tmp_path / "dcfg-edge.safetensors", {"system": "dcfg-edge"})
    assert zoo.weights_path("dcfg-edge") == tmp_path / "dcfg-edge.safetensors"
    loaded = zoo.load("dcfg-edge")
    assert torch.equal(next(loaded.parameters()), next(model.parameters()))
