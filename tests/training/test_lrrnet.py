"""The fusion network: its sizes, its variants, the authors' weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from trackctl.runtime.errors import InputError, WeightsError
from trackctl.training.lrrnet import LRRNet, min_max
from trackctl.training.weights import load_weights

# Of our network with the authors' weights on the input below; made once.
FROZEN = (0.1181366, 0.1623895, 0.1221979, 0.0380040, 0.0724936, 0.0984290)


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def published(shared: Path) -> Path:
    return shared / "data/weights/lrrnet_official.npz"


@pytest.mark.parametrize(("blocks", "count"), [(2, 29_744), (4, 49_204), (6, 68_664), (8, 88_124)])
def test_parameters_as_published(blocks: int, count: int) -> None:
    assert parameters(LRRNet(blocks=blocks)) == count


@pytest.mark.parametrize(("extractor", "count"), [("lrr", 22_277), ("conv8", 4_133_120), ("dense", 870_656)])
@pytest.mark.parametrize("fusion", ["cat", "add"])
def test_variants(extractor: str, count: int, fusion: str) -> None:
    model = LRRNet(extractor=extractor, fusion=fusion)
    assert parameters(model.ir) == parameters(model.vi) == count
    assert parameters(model) == 2 * count + 4 * 1_153 + 2 * (19 if fusion == "cat" else 10)
    with torch.inference_mode():
        assert model(torch.rand(1, 1, 6, 7), torch.rand(1, 1, 6, 7)).shape == (1, 1, 6, 7)


def test_the_52_tensors_map_one_to_one(published: Path) -> None:
    model = LRRNet()
    with np.load(published) as arrays:
        theirs = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    mapped = model.map_keys(theirs)
    assert len(theirs) == len(mapped) == 52
    own = model.state_dict()
    assert {key: tensor.shape for key, tensor in mapped.items()} == {key: tensor.shape for key, tensor in own.items()}
    # Every tensor of theirs has arrived under exactly one name.
    assert sorted(map(tensor_key, mapped.values())) == sorted(map(tensor_key, theirs.values()))
    assert model.map_keys(mapped) == mapped


def tensor_key(tensor: torch.Tensor) -> tuple[float, ...]:
    return tuple(tensor.flatten().tolist())


def test_output_with_the_published_weights(published: Path) -> None:
    model = LRRNet().eval()
    load_weights(model, published)
    ir, vi = (torch.from_numpy(np.random.RandomState(seed).rand(1, 1, 6, 7).astype(np.float32)) for seed in (1, 2))
    with torch.inference_mode():
        fused = model(ir, vi)[0, 0]
    np.testing.assert_allclose(fused[::5, ::3].flatten().numpy(), FROZEN, rtol=0, atol=1e-6)
    # The first branch is the infrared one: swapped, the picture is another.
    with torch.inference_mode():
        assert float((model(vi, ir)[0, 0] - fused).abs().max()) > 0.05


def test_unknown_tensors_are_reported(published: Path, tmp_path: Path) -> None:
    with np.load(published) as arrays:
        tensors = dict(arrays)
    tensors["decoder.conv_new.conv2d.bias"] = np.zeros(1, np.float32)
    np.savez(tmp_path / "more.npz", **tensors)
    with pytest.raises(WeightsError, match=r"1 unknown .*conv_new"):
        load_weights(LRRNet(), tmp_path / "more.npz")
    with pytest.raises(WeightsError, match="unknown"):
        load_weights(LRRNet(blocks=2), published)


def test_normalisation_survives_a_constant_image() -> None:
    assert torch.equal(min_max(torch.full((2, 1, 3, 3), 80.0)), torch.zeros(2, 1, 3, 3))
    images = torch.stack([torch.arange(4.0).reshape(1, 2, 2), 100.0 * torch.arange(4.0).reshape(1, 2, 2)])
    torch.testing.assert_close(min_max(images)[0], min_max(images)[1], rtol=0, atol=1e-5)
    torch.manual_seed(0)
    with torch.inference_mode():
        fused = LRRNet(blocks=1).fuse(torch.full((1, 1, 4, 4), 255.0), torch.zeros(1, 1, 4, 4))
    assert torch.isfinite(fused).all()
    assert 0.0 <= float(fused.min()) <= float(fused.max()) <= 255.0


def test_unknown_variants_are_refused() -> None:
    with pytest.raises(InputError, match="expected one of cat, add"):
        LRRNet(fusion="mean")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected one of lrr, conv8, dense"):
        LRRNet(extractor="vgg")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected 1 or more"):
        LRRNet(blocks=0)
