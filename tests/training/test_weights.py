"""Checkpoint files: what fits is loaded exactly, what does not is refused in one line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from trackctl.runtime.errors import WeightsError
from trackctl.training import zoo
from trackctl.training.weights import load_weights, save_weights, start_from, weights_sha256


class Small(nn.Module):
    """Enough layers for weights, running statistics and a batch counter."""

    def __init__(self, seed: int = 0, width: int = 4) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(3, width, 3)
            self.norm = nn.BatchNorm2d(width)
            nn.init.normal_(self.norm.running_mean)


def arrays_of(model: nn.Module) -> dict[str, np.ndarray]:
    return {key: tensor.numpy().copy() for key, tensor in model.state_dict().items()}


def assert_same(a: nn.Module, b: nn.Module) -> None:
    for (key, tensor), other in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), key


def refused(path: Path, model: nn.Module | None = None) -> str:
    """The message, after checking that it is one line and that the model is untouched."""
    model = model or Small()
    before = arrays_of(model)
    with pytest.raises(WeightsError) as caught:
        load_weights(model, path)
    for key, array in arrays_of(model).items():
        np.testing.assert_array_equal(array, before[key])
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


def saved_npz(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(path, **arrays)
    return path


def test_saved_weights_come_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_weights(Small(1), path, {"system": "small", "epoch": "3"})
    model = Small(2)
    assert load_weights(model, path) == {"system": "small", "epoch": "3"}
    assert_same(model, Small(1))
    assert sorted(tmp_path.iterdir()) == [path]


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    metadata = {letter: letter * 2 for letter in "qwertyuiop"}
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_weights(Small(1), first, metadata)
    save_weights(Small(1), second, dict(reversed(metadata.items())))
    assert first.read_bytes() == second.read_bytes()
    assert weights_sha256(first) == hashlib.sha256(second.read_bytes()).hexdigest()
    save_weights(Small(3), second, metadata)
    assert weights_sha256(first) != weights_sha256(second)


def test_a_save_replaces_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    for seed in (1, 2):
        save_weights(Small(seed), path, {})
    model = Small(9)
    load_weights(model, path)
    assert_same(model, Small(2))


def test_arrays_of_a_checkpoint_are_loaded(tmp_path: Path) -> None:
    """With the prefix of data-parallel training, in double precision, with a batch counter."""
    arrays = {f"module.{key}": array.astype(np.float64) for key, array in arrays_of(Small(1)).items()}
    model = Small(2)
    assert load_weights(model, saved_npz(tmp_path / "w.npz", arrays)) == {}
    assert_same(model, Small(1))


def test_half_precision_weights_are_loaded(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_weights(Small(1).half(), path, {})
    model = Small(2)
    load_weights(model, path)
    assert_same(model, Small(1).half().float())


# To start a training from


def test_whole_modules_that_train_may_lack(tmp_path: Path) -> None:
    given = arrays_of(Small(1))
    path = saved_npz(tmp_path / "w.npz", {key: array for key, array in given.items() if key.startswith("conv.")})
    model, before = Small(2), arrays_of(Small(2))
    assert start_from(model, path) == ("norm",)
    for key, array in arrays_of(model).items():
        np.testing.assert_array_equal(array, (given if key.startswith("conv.") else before)[key], err_msg=key)
    assert start_from(model, saved_npz(tmp_path / "all.npz", given)) == ()
    assert_same(model, Small(1))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda arrays, model: arrays.pop("norm.bias"), r"1 missing \(norm.bias\)"),
        (lambda arrays, model: arrays.update({"extra.bias": np.ones(1)}), r"1 unknown \(extra.bias\)"),
        (lambda arrays, model: arrays.clear(), "6 missing"),
        (
            lambda arrays, model: [model.norm.requires_grad_(False)] + [arrays.pop(key) for key in list(arrays) if "norm" in key],
            "4 missing",
        ),
    ],
    ids=["partly filled", "unknown", "empty", "frozen"],
)
def test_no_other_gap_is_accepted(tmp_path: Path, spoil: Callable[..., object], says: str) -> None:
    arrays, model = arrays_of(Small(1)), Small(2)
    spoil(arrays, model)
    before = arrays_of(model)
    with pytest.raises(WeightsError, match=says):
        start_from(model, saved_npz(tmp_path / "w.npz", arrays))
    for key, array in arrays_of(model).items():
        np.testing.assert_array_equal(array, before[key])


def test_the_message_counts_and_names_what_differs(tmp_path: Path) -> None:
    arrays = arrays_of(Small())
    del arrays["conv.weight"], arrays["norm.bias"]
    arrays["norm.weight"] = np.ones((5, 2), dtype=np.float32)
    arrays |= {f"extra.{index}": np.ones(1, dtype=np.float32) for index in range(7)}
    message = refused(saved_npz(tmp_path / "w.npz", arrays))
    assert "2 missing (conv.weight, norm.bias)" in message
    assert "7 unknown (extra.0, extra.1, extra.2, ...)" in message
    assert "1 of another shape (norm.weight (5, 2) not (4,))" in message


def test_the_message_names_the_model_that_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "wide.safetensors"
    save_weights(Small(width=8), path, {"system": "small-wide"})
    message = refused(path)
    assert "which holds small-wide," in message
    assert "conv.weight (8, 3, 3, 3) not (4, 3, 3, 3)" in message


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    arrays = arrays_of(Small())
    arrays["conv.weight"][0, 0, 0, 0] = np.nan
    assert "1 not finite (conv.weight)" in refused(saved_npz(tmp_path / "w.npz", arrays))


@pytest.mark.parametrize("array", [np.array(["text"]), np.array([{"a": 1}], dtype=object), np.array([1j])])
def test_arrays_that_are_no_numbers_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    assert "w.npz" in refused(saved_npz(tmp_path / "w.npz", arrays_of(Small()) | {"conv.weight": array}))


def test_a_missing_file_a_folder_and_another_kind_are_refused(tmp_path: Path) -> None:
    assert "nowhere.npz" in refused(tmp_path / "nowhere.npz")
    assert "no file" in refused(tmp_path)
    pickled = tmp_path / "w.pth"
    torch.save(Small().state_dict(), pickled)
    assert "expected a .safetensors or .npz" in refused(pickled)
    with pytest.raises(WeightsError, match=r"nowhere\.safetensors"):
        weights_sha256(tmp_path / "nowhere.safetensors")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.0, 0.999), kind=st.sampled_from(["npz", "safetensors"]))
def test_a_truncated_file_is_refused(tmp_path: Path, share: float, kind: str) -> None:
    path = tmp_path / f"w.{kind}"
    if kind == "npz":
        saved_npz(path, arrays_of(Small()))
    else:
        save_weights(Small(), path, {"system": "small"})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "truncated" in refused(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0.0, 0.999), bit=st.integers(0, 7), kind=st.sampled_from(["npz", "safetensors"]))
def test_a_damaged_file_never_escapes_the_tree_of_errors(tmp_path: Path, place: float, bit: int, kind: str) -> None:
    path = tmp_path / f"w.{kind}"
    if kind == "npz":
        saved_npz(path, arrays_of(Small()))
    else:
        save_weights(Small(), path, {"system": "small"})
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    try:
        load_weights(Small(), path)
    except WeightsError as error:
        assert "\n" not in str(error)


def test_a_text_file_under_a_known_suffix_is_refused(tmp_path: Path) -> None:
    for suffix in ("npz", "safetensors"):
        path = tmp_path / f"w.{suffix}"
        path.write_text("not weights\n")
        assert "cannot read" in refused(path)


def test_foreign_metadata_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(Small(1).state_dict(), path, {"format": "pt"})
    model = Small(2)
    assert load_weights(model, path) == {}
    assert_same(model, Small(1))


@pytest.mark.parametrize("text", ["{", "5", "[1]"])
def test_metadata_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(Small().state_dict(), path, {"trackctl": text})
    assert "cannot read" in refused(path)


def test_output_must_be_writable_safetensors(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"ends in \.safetensors"):
        save_weights(Small(), tmp_path / "w.npz", {})
    with pytest.raises(WeightsError, match="cannot write"):
        save_weights(Small(), tmp_path / "no" / "folder" / "w.safetensors", {})


@pytest.mark.parametrize(("wanted", "held"), [(2, 3), (1, 2), (3, 1)])
def test_another_version_of_nanotrack_is_named(shared: Path, tmp_path: Path, wanted: int, held: int) -> None:
    file = shared / f"data/weights/nanotrack_v{held}.npz"
    message = refused(file, zoo.build(f"nanotrack-v{wanted}"))
    assert f"got weights of nanotrack-v{held}, expected nanotrack-v{wanted}: use the model nanotrack-v{held}" in message
    ours = tmp_path / "ours.safetensors"
    save_weights(zoo.load(f"nanotrack-v{held}", file), ours, {"system": f"nanotrack-v{held}"})
    assert f"use the model nanotrack-v{held}" in refused(ours, zoo.build(f"nanotrack-v{wanted}"))


def test_nanotrack_survives_the_change_of_format(shared: Path, tmp_path: Path) -> None:
    model = zoo.load("nanotrack-v3", shared / "data/weights/nanotrack_v3.npz")
    ours = tmp_path / "v3.safetensors"
    save_weights(model, ours, {"system": "nanotrack-v3"})
    assert_same(model, zoo.load("nanotrack-v3", ours))
