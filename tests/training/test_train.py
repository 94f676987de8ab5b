"""From a recipe to weights: processes agree with one process, every recipe trains, and mistakes are one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_data import write_training_folder
from test_training_loop import cache, one_thread, schedule, tiny  # noqa: F401

from trackctl.cli import main
from trackctl.runtime.errors import InputError, WeightsError
from trackctl.training.loop import STATE_FILE, Report, TrainSpec
from trackctl.training.lrrnet_losses import VggFeatures
from trackctl.training.processes import Group
from trackctl.training.recipe import DataSpec, Recipe, ValidationSpec, load_recipe, recipe_names
from trackctl.training.systems import build_system, take_backbone, trainable
from trackctl.training.train import Job, assemble, lacking, train
from trackctl.training.weights import save_weights

SPEC = TrainSpec(schedule=schedule(3), batch=4, shares=2, fine_every=2, bf16=False, log_every=1)
RECIPE = Recipe(system="dcfg-edge", training=SPEC, data=DataSpec(rendered=0.25))


# Processes


@pytest.mark.slow
def test_two_processes_train_like_one(cache: Path, tmp_path: Path) -> None:  # noqa: F811
    said: dict[int, list[Report]] = {1: [], 2: []}
    for processes, reports in said.items():
        job = Job(recipe=RECIPE, out=tmp_path / str(processes), cache=cache, build=tiny)
        train(job, processes=processes, report=reports.append)
    for one, two in zip(said[1], said[2], strict=True):
        for name in one.scalars.keys() - {"per_second"}:
            assert two.scalars[name] == pytest.approx(one.scalars[name], rel=1e-6), name
    one, two = (torch.load(tmp_path / str(count) / STATE_FILE, weights_only=True) for count in (1, 2))
    assert one["step"] == two["step"] == 3
    for name, value in one["model"].items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(two["model"][name], value, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_torchrun_trains_the_same(cache: Path, tmp_path: Path) -> None:  # noqa: F811
    recipe = tmp_path / "small.toml"
    recipe.write_text(
        'system = "dcfg-edge"\n[training]\nbatch = 2\nshares = 2\nfine_every = 4\nbf16 = false\n'
        "[training.schedule]\nphases = [{ steps = 2, rate = 1e-3 }]\n"
    )
    alone = load_recipe(recipe)
    wanted = train(Job(recipe=alone, out=tmp_path / "one", cache=cache))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "--no-python"]
    command = [*torchrun, str(Path(sys.executable).with_name("trackctl")), "train", str(recipe)]
    done = subprocess.run(
        [*command, "--cache", str(cache), "--out", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    got = tmp_path / "two" / wanted.name
    assert str(got) in done.stdout
    one, two = (torch.load(path.with_name(STATE_FILE), weights_only=True) for path in (wanted, got))
    for name, value in one["model"].items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(two["model"][name], value, rtol=1e-6, atol=1e-7)


# Recipes

# Where a step takes a CPU core a second or more, fewer steps must do.
FEW = {"bcrnet-edge": 4, "dcffnet-a": 2, "dcffnet-b": 3}
LARGE = {"dcfg-r50": 2, "siamrpn-r50": 2, "bcrnet-r50": 2, "dfat-lrr-r50": 1, "lrrnet": 4}


def short(name: str, steps: int) -> Recipe:
    """The recipe with batches of two and rendered pairs alone, its own schedule squeezed into a few steps."""
    recipe = load_recipe(name)
    spec = replace(recipe.training, batch=2, shares=1)
    spec = replace(spec, schedule=spec.schedule.stretched(steps, spec.batch), log_every=1, save_every=steps)
    return replace(recipe, training=spec, data=replace(recipe.data, rendered=1.0))


def run_recipe(name: str, steps: int, out: Path) -> None:
    recipe = short(name, steps)
    vgg = None
    if recipe.system == "lrrnet":
        vgg = out / "vgg.safetensors"
        save_weights(VggFeatures(), vgg, {})
    said: list[Report] = []
    train(Job(recipe=recipe, out=out, backbone=vgg and str(vgg)), report=said.append)
    assert len(said) == steps and all(np.isfinite(value) for report in said for value in report.scalars.values())


@pytest.mark.parametrize("name", sorted(set(recipe_names()) - LARGE.keys()))
def test_every_recipe_trains(name: str, tmp_path: Path) -> None:
    run_recipe(name, FEW.get(name, 20), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LARGE))
def test_large_recipes_take_a_step(name: str, tmp_path: Path) -> None:
    run_recipe(name, LARGE[name], tmp_path)


def test_every_recipe_of_the_papers_is_there() -> None:
    edge = {"dcfg-edge", "bcrnet-edge", "dfat-edge", "dfat-lrr-edge"}
    assert set(recipe_names()) == edge | LARGE.keys() | {"dcffnet-a", "dcffnet-b"}


def test_lrrnet_needs_trained_features(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got no VGG-16 for the loss of lrrnet"):
        train(Job(recipe=short("lrrnet", 1), out=tmp_path))


def test_published_lengths() -> None:
    assert load_recipe("siamrpn-r50").training.steps == round(5 * 600_000 / 28) + round(15 * 600_000 / 28)
    assert load_recipe("lrrnet").training.steps == 10_000
    assert load_recipe("dcffnet-b").training.schedule.rate_at(0, 64) == 1e-2


# Mistakes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('sistem = "dcfg-edge"\n', "bad.toml: there is no 'sistem', do you mean 'system'?"),
        ('system = "dcfg-edge"\n', "bad.toml: got no training"),
        ('system = "dcfg-edge"\n[training]\nbach = 3\n', r"bad.toml training: there is no 'bach', do you mean 'batch'\?"),
        (
            'system = "x"\n[training]\nbatch = "3"\n[training.schedule]\nphases=[{steps=1, rate=1}]\n',
            "training batch: got '3', expected a value of type int",
        ),
        (
            'system = "x"\n[training]\nbatch = true\n[training.schedule]\nphases=[{steps=1, rate=1}]\n',
            "got True, expected a value of type int",
        ),
        (
            'system = "x"\n[training.schedule]\noptimiser="lion"\nphases=[{steps=1, rate=1}]\n',
            "got 'lion', expected one of adamw",
        ),
        (
            'system = "x"\n[training.schedule]\nphases=[{steps=1, rte=1}]\n',
            r"phases\[0\]: there is no 'rte', do you mean 'rate'\?",
        ),
        ('system = "x"\n[training.schedule]\nphases=[]\n', "bad.toml: got a schedule without phases"),
        ('system = "x"\n[data.pairs]\nsearch_scale=[1]\n[training.schedule]\nphases=[]\n', "got 1 values, expected 2"),
        ("system = \n", "is no TOML file"),
    ],
)
def test_mistakes_in_a_recipe(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        load_recipe(tmp_path / "bad.toml")


def test_unknown_recipes_systems_and_stages() -> None:
    with pytest.raises(InputError, match=r"got the recipe 'dcfg-egde', do you mean dcfg-edge\?"):
        load_recipe("dcfg-egde")
    with pytest.raises(InputError, match=r"cannot read .*nowhere.toml"):
        load_recipe("nowhere.toml")
    with pytest.raises(InputError, match="did you mean dcfg-edge"):
        build_system("dcfg-edgee", 0)
    with pytest.raises(InputError, match="got the stage 'b' of dcfg-edge, expected none"):
        trainable(tiny(), "dcfg-edge", "b")
    with pytest.raises(InputError, match="got the stage '' of dcffnet, expected one of pretraining, tracking"):
        trainable(tiny(), "dcffnet", "")
    with pytest.raises(InputError, match="got the system nanotrack-v2, which has no losses"):
        trainable(build_system("nanotrack-v2", 0), "nanotrack-v2", "")


def test_data_that_does_not_suit(tmp_path: Path) -> None:
    job = Job(recipe=RECIPE, out=tmp_path, build=tiny)
    with pytest.raises(InputError, match=r"got no frame store, expected one unless all pairs are rendered"):
        assemble(job, Group())
    with pytest.raises(InputError, match="got the modality 'rgbt' for dcfg-edge with 3 channels"):
        assemble(replace(job, recipe=replace(RECIPE, data=DataSpec(modality="rgbt"))), Group())
    with pytest.raises(InputError, match="got a share of 2 rendered pairs, expected 0 to 1"):
        DataSpec(rendered=2)
    with pytest.raises(InputError, match=r"got no frame store in .* and no data to make it from"):
        train(replace(job, cache=tmp_path / "empty"))


def test_a_backbone_is_taken_over(tmp_path: Path) -> None:
    donor, other = tiny(), tiny()
    save_weights(donor, tmp_path / "donor.safetensors", {})
    take_backbone(other, str(tmp_path / "donor.safetensors"))
    same = {name: torch.equal(value, donor.state_dict()[name]) for name, value in other.state_dict().items() if "weight" in name}
    assert all(equal for name, equal in same.items() if name.startswith("backbone"))
    assert not same["neck.levels.0.0.weight"]
    with pytest.raises(WeightsError, match="is not that of DCFG: give weights that have it"):
        take_backbone(tiny(), "dcfg-edge")
    with pytest.raises(WeightsError, match="which is no file"):
        take_backbone(other, str(tmp_path / "none.safetensors"))


def test_the_fused_branch_starts_from_weights_without_it(tmp_path: Path) -> None:
    base = build_system("dfat-edge", seed=5)
    save_weights(base, tmp_path / "base.safetensors", {})
    job = Job(recipe=short("dfat-lrr-edge", 4), out=tmp_path, weights=tmp_path / "base.safetensors")
    assert lacking(job) == ("fusion",)
    model, fresh = assemble(job, Group()).kept, build_system("dfat-lrr-edge", job.recipe.training.seed).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, fresh[name] if name.startswith("fusion.") else base.state_dict()[name]), name
    # What the recipe leaves frozen must be in the file.
    tensors = {name: value for name, value in load_file(tmp_path / "base.safetensors").items() if not name.startswith("rpn.")}
    save_file(tensors, tmp_path / "headless.safetensors")
    with pytest.raises(WeightsError, match=r"missing \(rpn\."):
        lacking(replace(job, weights=tmp_path / "headless.safetensors"))
    # Nor is anything dropped: the other way round does not fit.
    save_weights(model, tmp_path / "fused.safetensors", {})
    with pytest.raises(WeightsError, match=r"unknown \(fusion\."):
        lacking(replace(job, recipe=short("dfat-edge", 4), weights=tmp_path / "fused.safetensors"))


# The command


def test_the_command_says_which_parts_of_the_weights_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_weights(build_system("dfat-edge", seed=5), tmp_path / "base.safetensors", {})
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'system = "dfat-lrr-edge"\n[training]\nbatch = 2\n[training.schedule]\nphases = [{ steps = 1, rate = 1e-3 }]\n'
        '[data]\nmodality = "rgbt"\nrendered = 1.0\n'
    )
    arguments = ["trackctl", "train", recipe, "--out", tmp_path / "out", "--weights", tmp_path / "base.safetensors"]
    monkeypatch.setattr("sys.argv", list(map(str, arguments)))
    with pytest.raises(SystemExit) as ended:
        main()
    _, err = capsys.readouterr()
    assert not ended.value.code, err
    assert err.splitlines()[0] == "note: base.safetensors has no fusion: trained from the seed 0"


def test_the_command_trains_from_folder_to_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_training_folder(tmp_path / "data")
    folders = [f"--{name}={tmp_path / name}" for name in ("data", "cache", "out")]
    arguments = ["trackctl", "train", "dcfg-edge", *folders, "--steps=3", "--batch=2", "--tensorboard"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert not ended.value.code, err
    assert out.splitlines()[-1] == str(tmp_path / "out" / "step-000003.safetensors")
    assert (tmp_path / "out" / "step-000003.safetensors").is_file()
    assert "step 3 " in err and "per_second" in err
    assert len(list((tmp_path / "out" / "tensorboard").iterdir())) == 1


def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["trackctl", "train", *map(str, arguments), "--out", str(tmp_path / "out")])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "do you mean dcfg-edge" in fails("dcfg-edg")
    assert "expected a multiple of 2" in fails("dcfg-edge", "--batch", 3)
    assert "got no folder" in fails("dcfg-edge", "--cache", tmp_path / "cache", "--data", tmp_path / "data")
    assert "cannot resume from" in _with_damaged_state(tmp_path, fails)


def _with_damaged_state(folder: Path, fails: Callable[..., str]) -> str:
    (folder / "out").mkdir(exist_ok=True)
    (folder / "out" / STATE_FILE).write_bytes(b"no checkpoint")
    (folder / "r.toml").write_text(
        'system = "dcfg-edge"\n[training.schedule]\nphases = [{ steps = 1, rate = 1 }]\n[data]\nrendered = 1.0\n'
    )
    return fails(folder / "r.toml")


# Validation


def test_checkpoints_are_judged_by_tracking(tmp_path: Path) -> None:
    import cv2

    clip = tmp_path / "set" / "cross"
    clip.mkdir(parents=True)
    for number in range(4):
        pixels = np.random.default_rng(number).normal(90, 10, (120, 160)).clip(0, 255).astype(np.uint8)
        pixels[50:74, 40 + 6 * number : 72 + 6 * number] = 230
        cv2.imwrite(str(clip / f"{number + 1:04d}.png"), pixels)
    boxes = "".join(f"{40 + 6 * number},50,32,24\n" for number in range(4))
    (clip / "groundtruth.txt").write_text(boxes)
    validation = ValidationSpec(dataset=f"folder:{tmp_path / 'set'}", sequences=("cross",), frames=3)
    spec = replace(SPEC, schedule=schedule(1), batch=2, shares=1)
    recipe = Recipe(system="dcfg-edge", training=spec, data=DataSpec(rendered=1.0), validation=validation)
    said: list[Report] = []
    train(Job(recipe=recipe, out=tmp_path / "out", build=tiny), report=said.append)
    assert said[-1].scalars.keys() == {"auc", "auc/cross"} and 0 < said[-1].scalars["auc"] <= 1
    assert (tmp_path / "out" / "best.safetensors").is_file()
    with pytest.raises(InputError, match="got the sequence 'cros', expected one of cross"):
        bad = replace(recipe, validation=replace(validation, sequences=("cros",)))
        train(Job(recipe=bad, out=tmp_path / "bad", build=tiny))
