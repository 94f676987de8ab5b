"""The training loop: it learns, it resumes bit for bit, its processes agree, and it says what is wrong with its folders."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_data import write_training_folder
from torch import nn

from trackctl.runtime.errors import InputError, SourceError
from trackctl.runtime.geometry import Box, CropSpec
from trackctl.training.backbones.edge import EdgeBackbone
from trackctl.training.data.store import FrameStore, Shot, write_store
from trackctl.training.dcfg import DCFG
from trackctl.training.loop import (
    STATE_FILE,
    MovingAverage,
    PairSource,
    Training,
    TrainSpec,
    batch_of,
    learning_rate,
    main,
    prepare,
    train,
)
from trackctl.training.pairs import Pair, Pairs, PairSpec
from trackctl.training.weights import load_weights

SPEC = TrainSpec(steps=6, batch=2, processes=1, warm_up=2, fine_every=2, bf16=False, save_every=3, log_every=2)


def tiny() -> DCFG:
    return DCFG(backbone=EdgeBackbone(stem=(8, 8, 16), dilations=(1,)), width=16, groups=2)


def seeded_tiny(seed: int = 0) -> DCFG:
    torch.manual_seed(seed)
    return tiny()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The loop sets the number of threads of its process; other tests get theirs back."""
    threads, cv_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    cv2.setNumThreads(cv_threads)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of one bright target that crosses a noisy frame."""
    folder = tmp_path_factory.mktemp("cache")
    generator = np.random.default_rng(0)
    shots = []
    for number in range(6):
        pixels = generator.normal(90, 10, (160, 200)).clip(0, 255).astype(np.uint8)
        left, top = 40 + 12 * number, 60
        pixels[top : top + 24, left : left + 32] = 230
        shots.append(Shot("ir_video", "clip", pixels, (("target", Box(left, top, 32, 24)),)))
    write_store(folder, shots)
    return folder


@pytest.fixture(scope="module")
def pairs(cache: Path) -> Pairs:
    return Pairs(FrameStore(cache), PairSpec(), CropSpec(), seed=0)


class Repeated:
    """The first few pairs again and again."""

    def __init__(self, pairs: PairSource, count: int) -> None:
        self.pairs, self.count = pairs, count

    def __getitem__(self, number: int, /) -> Pair:
        return self.pairs[number % self.count]


# Learning


def test_one_batch_is_learnt_by_heart(pairs: Pairs, tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, steps=60, batch=4, rate=1e-2, fine_every=6)
    training = Training(spec, seeded_tiny(), Repeated(pairs, 4), tmp_path)
    curve = [training.advance() for _ in range(spec.steps)]
    assert all(np.isfinite(value) for parts in curve for value in parts.values())
    assert curve[-1]["cls"] < 0.1 * curve[0]["cls"]
    assert curve[-1]["loc"] < 0.25 * curve[0]["loc"]
    assert curve[54]["fine"] < 0.4 * curve[0]["fine"]


def test_fine_maps_count_in_every_few_steps(pairs: Pairs, tmp_path: Path) -> None:
    training = Training(dataclasses.replace(SPEC, fine_every=3), seeded_tiny(), pairs, tmp_path)
    assert ["fine" in training.advance() for _ in range(4)] == [True, False, False, True]


def test_a_batch_is_its_pairs(pairs: Pairs) -> None:
    template, search, boxes, positive = batch_of(pairs, 5, 3)
    assert template.shape == (3, 3, 127, 127) and search.shape == (3, 3, 255, 255)
    assert template.dtype == search.dtype == boxes.dtype == torch.float32 and positive.dtype == torch.bool
    for row, number in enumerate((5, 6, 7)):
        pair = pairs[number]
        for channel in range(3):
            assert np.array_equal(search[row, channel].numpy(), pair.search.astype(np.float32))
            assert np.array_equal(template[row, channel].numpy(), pair.template.astype(np.float32))
        assert boxes[row].tolist() == pytest.approx(pair.box_xyxy.tolist(), rel=1e-6)
        assert bool(positive[row]) == pair.positive


def test_the_rate_rises_stays_and_falls() -> None:
    spec = TrainSpec(steps=100, rate=1.0, warm_up=10, decay=0.3)
    rates = [learning_rate(step, spec) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(rates[10:71]) == {1.0}
    assert rates[70:] == pytest.approx([(100 - step) / 30 for step in range(70, 100)])
    # Until the decay begins the length of the run does not matter.
    longer = dataclasses.replace(spec, steps=1000)
    assert [learning_rate(step, longer) for step in range(71)] == rates[:71]
    assert learning_rate(0, dataclasses.replace(spec, warm_up=0)) == 1.0


def test_the_moving_average_of_weights() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    model[0].weight.data.fill_(1.0)
    average = MovingAverage(model, 0.5)
    model[0].weight.data.fill_(3.0)
    average.update(model, 0)  # the past weighs 1 / 10
    assert float(average.state["0.weight"]) == pytest.approx(0.1 * 1 + 0.9 * 3)
    model[0].weight.data.fill_(0.0)
    model(torch.randn(4, 1))
    average.update(model, 10**6)
    assert float(average.state["0.weight"]) == pytest.approx(1.4)
    assert int(average.state["1.num_batches_tracked"]) == 1


# Resuming


@pytest.mark.parametrize("bf16", [False, True])
def test_a_killed_run_resumes_bit_for_bit(pairs: Pairs, tmp_path: Path, bf16: bool) -> None:
    spec = dataclasses.replace(SPEC, bf16=bf16)
    whole = Training(spec, seeded_tiny(), pairs, tmp_path / "whole")
    curve = [whole.advance() for _ in range(spec.steps)]
    whole.save()

    killed = Training(spec, seeded_tiny(), pairs, tmp_path / "killed")
    for _ in range(3):
        killed.advance()
    killed.save()
    killed.advance()  # lost
    (tmp_path / "killed" / f"{STATE_FILE}.partial").write_bytes(b"killed while writing")
    resumed = Training(spec, seeded_tiny(1), pairs, tmp_path / "killed")
    assert resumed.step == 3
    assert [resumed.advance() for _ in range(3)] == curve[3:]
    resumed.save()
    last = f"step-{spec.steps:06d}.safetensors"
    assert (tmp_path / "whole" / last).read_bytes() == (tmp_path / "killed" / last).read_bytes()


def test_a_run_writes_its_checkpoints_and_its_log(pairs: Pairs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = Training(SPEC, seeded_tiny(), pairs, tmp_path / "out")
    training.run()
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [STATE_FILE, "step-000003.safetensors", "step-000006.safetensors"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["2", "4", "6"]
    assert all(f" {name} " in lines[-1] for name in ("pairs/s", "cls", "loc", "fine", "outside", "div", "grad"))
    # A finished run is left alone; a longer one goes on.
    before = (tmp_path / "out" / STATE_FILE).read_bytes()
    Training(SPEC, seeded_tiny(), pairs, tmp_path / "out").run()
    assert (tmp_path / "out" / STATE_FILE).read_bytes() == before
    longer = Training(dataclasses.replace(SPEC, steps=7), seeded_tiny(), pairs, tmp_path / "out")
    assert longer.step == 6
    with pytest.raises(InputError, match=r"got 5 steps, but .*out holds a run of 6"):
        Training(dataclasses.replace(SPEC, steps=5), seeded_tiny(), pairs, tmp_path / "out")
    # The checkpoint is a weights file of the model.
    model = seeded_tiny(3)
    load_weights(model, tmp_path / "out" / "step-000006.safetensors")
    saved = load_file(tmp_path / "out" / "step-000006.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items() if "num_batches" not in name)


def test_only_rank_0_writes(pairs: Pairs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Training(dataclasses.replace(SPEC, steps=2, save_every=1), seeded_tiny(), pairs, tmp_path / "out", rank=1).run()
    assert not (tmp_path / "out").exists() and capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut"])
def test_a_damaged_state_is_refused(pairs: Pairs, tmp_path: Path, content: bytes) -> None:
    (tmp_path / STATE_FILE).write_bytes(content)
    with pytest.raises(InputError, match=r"cannot resume from .*last\.pt .*delete it to start anew"):
        Training(SPEC, seeded_tiny(), pairs, tmp_path)


def test_a_state_of_another_model_is_refused(pairs: Pairs, tmp_path: Path) -> None:
    Training(SPEC, seeded_tiny(), pairs, tmp_path).save()
    wider = DCFG(backbone=EdgeBackbone(stem=(8, 8, 24), dilations=(1,)), width=16, groups=2)
    with pytest.raises(InputError, match=r"cannot resume from .*last\.pt"):
        Training(SPEC, wider, pairs, tmp_path)


def test_a_gradient_that_is_not_finite_ends_the_run(pairs: Pairs, tmp_path: Path) -> None:
    model = seeded_tiny()
    next(model.neck.parameters()).data.fill_(float("nan"))
    training = Training(SPEC, model, pairs, tmp_path)
    with pytest.raises(InputError, match=r"got a gradient of norm nan in step 0, expected a finite one: lower the rate"):
        training.advance()
    assert training.step == 0 and not list(tmp_path.iterdir())


# Processes


@pytest.mark.slow
def test_two_processes_take_the_mean_of_their_gradients(cache: Path, tmp_path: Path) -> None:
    # Without clipping: the optimiser's first moment is then linear in the gradients, so a sum in place of a mean would show.
    spec = dataclasses.replace(SPEC, steps=2, batch=4, processes=2, warm_up=0, clip=1e9)
    train(spec, tiny, data=tmp_path / "unread", cache=cache, out=tmp_path / "two")
    got = torch.load(tmp_path / "two" / STATE_FILE, weights_only=True)["optimizer"]["state"]

    # The same in one process, share after share; batch normalisation sees a share at a time.
    model = prepare(0, spec, tiny, cache, tmp_path / "one").model.train()
    pairs = Pairs(FrameStore(cache), PairSpec(), CropSpec(), seed=spec.seed)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=spec.weight_decay)
    for step in range(spec.steps):
        optimizer.param_groups[0]["lr"] = learning_rate(step, spec)
        optimizer.zero_grad()
        for rank in range(2):
            generator = torch.Generator().manual_seed(step * 2 + rank)
            share = batch_of(pairs, 4 * step + 2 * rank, 2)
            parts = model.losses(*share, generator=generator, with_fine=step % spec.fine_every == 0)
            (parts["total"] / 2).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    wanted = optimizer.state_dict()["state"]
    assert got.keys() == wanted.keys()
    for number, moments in wanted.items():
        scale = float(moments["exp_avg"].abs().max())
        torch.testing.assert_close(got[number]["exp_avg"], moments["exp_avg"], rtol=0.0, atol=1e-3 * scale + 1e-7)


# Folders and options


@pytest.mark.slow
def test_the_command_trains_from_folder_to_weights(tmp_path: Path) -> None:
    write_training_folder(tmp_path / "data")
    folders = [f"--{name}={tmp_path / name}" for name in ("data", "cache", "out")]
    command = [sys.executable, "-m", "trackctl.training.loop", *folders, "--steps=1", "--batch=2", "--processes=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "out" / "step-000001.safetensors")
    assert (tmp_path / "out" / "step-000001.safetensors").is_file()


def test_bad_folders_are_one_line_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    def fails(**folders: Path) -> str:
        given = {name: tmp_path / name for name in ("data", "cache", "out")} | folders
        with pytest.raises(SystemExit) as stopped:
            main([f"--{name}={path}" for name, path in given.items()])
        assert stopped.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert fails().startswith(f"trackctl: got no folder {tmp_path / 'data'}, expected one with ir_video, hit_uav, seek, davis")
    (tmp_path / "data").mkdir()
    assert "without ir_video, hit_uav, seek, davis" in fails()
    assert not (tmp_path / "cache").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / STATE_FILE).write_bytes(b"no checkpoint")
    assert "cannot resume from" in fails(cache=cache)


def test_the_data_is_not_read_again(cache: Path, tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, steps=1)
    with pytest.raises(SourceError):
        train(spec, tiny, data=tmp_path / "nowhere", cache=tmp_path / "empty", out=tmp_path / "out")
    result = train(spec, tiny, data=tmp_path / "nowhere", cache=cache, out=tmp_path / "out")
    assert result.is_file() and result.name == "step-000001.safetensors"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "got steps 0, expected a positive number"),
        ({"batch": -4}, "got batch -4"),
        ({"processes": 0}, "got processes 0"),
        ({"rate": 0.0}, r"got rate 0\.0"),
        ({"log_every": 0}, "got log_every 0"),
        ({"seed": -1}, "got seed -1, expected 0 or more"),
        ({"batch": 5, "processes": 2}, "got a batch of 5 for 2 processes, expected a multiple of 2"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainSpec(**options)  # type: ignore[arg-type]


def test_help_names_every_option_and_default(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0 and "None" not in text
    for option in ("--data DATA", "--cache CACHE", "--out OUT", "--steps STEPS", "(default: 3200)", "(default: 0.0015)"):
        assert option in text
