"""The training loop: it learns, it resumes bit for bit, its shares are batches of their own, and it says what is wrong."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Box, CropSpec
from trackctl.training.backbones.edge import EdgeBackbone
from trackctl.training.data.store import FrameStore, Shot, write_store
from trackctl.training.dcfg import DCFG
from trackctl.training.loop import (
    BEST_FILE,
    STATE_FILE,
    MovingAverage,
    PairBatches,
    PairSource,
    Report,
    Training,
    TrainSpec,
)
from trackctl.training.pairs import Pair, Pairs, PairSpec
from trackctl.training.processes import Group
from trackctl.training.schedule import Part, Phase, Schedule
from trackctl.training.weights import load_weights


def schedule(steps: int = 6, rate: float = 1.5e-3, **options: object) -> Schedule:
    return Schedule(phases=(Phase(steps=steps, rate=rate),), **options)  # type: ignore[arg-type]


SPEC = TrainSpec(schedule=schedule(), batch=2, fine_every=2, bf16=False, save_every=3, log_every=2)


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


@pytest.fixture(scope="module")
def batches(pairs: Pairs) -> PairBatches:
    return PairBatches(pairs)


class Repeated:
    """The first few pairs again and again."""

    def __init__(self, pairs: PairSource, count: int) -> None:
        self.pairs, self.count = pairs, count

    def __getitem__(self, number: int, /) -> Pair:
        return self.pairs[number % self.count]


# Learning


def test_one_batch_is_learnt_by_heart(pairs: Pairs, tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, schedule=schedule(60, 1e-2), batch=4, fine_every=6)
    training = Training(spec, seeded_tiny(), PairBatches(Repeated(pairs, 4)), tmp_path)
    curve = [training.advance() for _ in range(spec.steps)]
    assert all(np.isfinite(value) for parts in curve for value in parts.values())
    assert curve[-1]["cls"] < 0.1 * curve[0]["cls"]
    assert curve[-1]["loc"] < 0.25 * curve[0]["loc"]
    assert curve[54]["fine"] < 0.4 * curve[0]["fine"]


def test_fine_maps_count_in_every_few_steps(batches: PairBatches, tmp_path: Path) -> None:
    training = Training(dataclasses.replace(SPEC, fine_every=3), seeded_tiny(), batches, tmp_path)
    assert ["fine" in training.advance() for _ in range(4)] == [True, False, False, True]


def test_a_batch_is_its_pairs(pairs: Pairs) -> None:
    template, search, boxes, positive = PairBatches(pairs).batch(5, 3)
    assert template.shape == (3, 3, 127, 127) and search.shape == (3, 3, 255, 255)
    assert template.dtype == search.dtype == boxes.dtype == torch.float32 and positive.dtype == torch.bool
    for row, number in enumerate((5, 6, 7)):
        pair = pairs[number]
        for channel in range(3):
            assert np.array_equal(search[row, channel].numpy(), pair.search.astype(np.float32))
            assert np.array_equal(template[row, channel].numpy(), pair.template.astype(np.float32))
        assert boxes[row].tolist() == pytest.approx(pair.box_xyxy.tolist(), rel=1e-6)
        assert bool(positive[row]) == pair.positive


def test_cubes_keep_their_channels() -> None:
    cube = np.arange(5 * 4 * 4, dtype=np.uint8).reshape(5, 4, 4)
    template, search, *_ = PairBatches([Pair(cube, cube[:, :3, :3], np.zeros(4), True)] * 2).batch(0, 2)
    assert template.shape == (2, 5, 4, 4) and np.array_equal(search[1].numpy(), cube[:, :3, :3].astype(np.float32))


def test_steps_take_the_pairs_in_order(pairs: Pairs, tmp_path: Path) -> None:
    asked: list[tuple[int, int]] = []

    class Spy:
        def batch(self, first: int, count: int) -> tuple[torch.Tensor, ...]:
            asked.append((first, count))
            return PairBatches(pairs).batch(first, count)

    training = Training(dataclasses.replace(SPEC, batch=4, shares=2), seeded_tiny(), Spy(), tmp_path)
    for _ in range(3):
        training.advance()
    assert asked == [(0, 2), (2, 2), (4, 2), (6, 2), (8, 2), (10, 2)]


def test_what_is_frozen_stays(batches: PairBatches, tmp_path: Path) -> None:
    parts = (Part(prefix="backbone", rate=0.1, frozen=0.5), Part(prefix="backbone.stem", rate=0.0))
    model = seeded_tiny()
    begin = {name: value.clone() for name, value in model.state_dict().items()}

    def changed() -> set[str]:
        names = {name for name, value in model.state_dict().items() if not torch.equal(value, begin[name])}
        return {".".join(name.split(".")[:2]) for name in names}

    training = Training(dataclasses.replace(SPEC, schedule=schedule(4, parts=parts)), model, batches, tmp_path)
    training.advance(), training.advance()
    assert not any(name.startswith("backbone") for name in changed()) and "neck.levels" in changed()
    training.advance()
    assert "backbone.blocks" in changed() and "backbone.stem" not in changed()


def test_norms_can_keep_their_statistics(batches: PairBatches, tmp_path: Path) -> None:
    model = seeded_tiny()
    begin = {name: value.clone() for name, value in model.state_dict().items() if "running" in name}
    Training(dataclasses.replace(SPEC, freeze_norm=True), model, batches, tmp_path).advance()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in begin.items())


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
def test_a_killed_run_resumes_bit_for_bit(batches: PairBatches, tmp_path: Path, bf16: bool) -> None:
    spec = dataclasses.replace(SPEC, bf16=bf16, batch=4, shares=2)
    whole = Training(spec, seeded_tiny(), batches, tmp_path / "whole")
    curve = [whole.advance() for _ in range(spec.steps)]
    whole.save()

    killed = Training(spec, seeded_tiny(), batches, tmp_path / "killed")
    for _ in range(3):
        killed.advance()
    killed.save()
    killed.advance()  # lost
    (tmp_path / "killed" / f"{STATE_FILE}.partial").write_bytes(b"killed while writing")
    resumed = Training(spec, seeded_tiny(1), batches, tmp_path / "killed")
    assert resumed.step == 3
    assert [resumed.advance() for _ in range(3)] == curve[3:]
    resumed.save()
    last = f"step-{spec.steps:06d}.safetensors"
    assert (tmp_path / "whole" / last).read_bytes() == (tmp_path / "killed" / last).read_bytes()


def test_a_run_writes_its_checkpoints_and_reports(batches: PairBatches, tmp_path: Path) -> None:
    said: list[Report] = []
    Training(SPEC, seeded_tiny(), batches, tmp_path / "out", report=said.append).run()
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [STATE_FILE, "step-000003.safetensors", "step-000006.safetensors"]
    assert [(report.step, report.steps) for report in said] == [(2, 6), (4, 6), (6, 6)]
    assert {"per_second", "total", "cls", "loc", "fine", "outside", "div", "grad", "rate"} == said[-1].scalars.keys()
    # A finished run is left alone; a longer one goes on.
    before = (tmp_path / "out" / STATE_FILE).read_bytes()
    Training(SPEC, seeded_tiny(), batches, tmp_path / "out").run()
    assert (tmp_path / "out" / STATE_FILE).read_bytes() == before
    longer = Training(dataclasses.replace(SPEC, schedule=schedule(7)), seeded_tiny(), batches, tmp_path / "out")
    assert longer.step == 6
    with pytest.raises(InputError, match=r"got 5 steps, but .*out holds a run of 6"):
        Training(dataclasses.replace(SPEC, schedule=schedule(5)), seeded_tiny(), batches, tmp_path / "out")
    # The checkpoint is a weights file of the model.
    model = seeded_tiny(3)
    load_weights(model, tmp_path / "out" / "step-000006.safetensors")
    saved = load_file(tmp_path / "out" / "step-000006.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items() if "num_batches" not in name)


def test_the_best_checkpoint_is_kept(batches: PairBatches, tmp_path: Path) -> None:
    scores = iter((0.5, 0.3, 0.6, 0.1))
    spec = dataclasses.replace(SPEC, save_every=1)
    said: list[Report] = []

    def judged(steps: int) -> Training:
        part = dataclasses.replace(spec, schedule=schedule(steps))
        return Training(part, seeded_tiny(), batches, tmp_path, report=said.append, validate=lambda _: {"auc": next(scores)})

    judged(2).run()
    assert (tmp_path / BEST_FILE).read_bytes() == (tmp_path / "step-000001.safetensors").read_bytes()
    judged(4).run()  # goes on, and remembers the best
    assert (tmp_path / BEST_FILE).read_bytes() == (tmp_path / "step-000003.safetensors").read_bytes()
    assert [report.scalars["auc"] for report in said if "auc" in report.scalars] == [0.5, 0.3, 0.6, 0.1]


def test_a_wrapped_model_is_saved_alone(batches: PairBatches, tmp_path: Path) -> None:
    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.extra = seeded_tiny(), nn.Parameter(torch.ones(()))

        def losses(self, *batch: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
            return {"total": self.extra * self.model.losses(*batch, generator=generator)["total"]}

    stage = Stage()
    training = Training(dataclasses.replace(SPEC, fine_every=1), stage, batches, tmp_path, kept=stage.model)
    training.advance()
    training.save()
    load_weights(seeded_tiny(1), tmp_path / "step-000001.safetensors")
    assert stage.extra.item() != 1.0


def test_only_rank_0_writes(batches: PairBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Group, "add_up", lambda self, tensors: None)
    said: list[Report] = []
    spec = dataclasses.replace(SPEC, schedule=schedule(2), shares=2, save_every=1)
    Training(spec, seeded_tiny(), batches, tmp_path / "out", Group(rank=1, size=2), report=said.append).run()
    assert not (tmp_path / "out").exists() and not said


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut"])
def test_a_damaged_state_is_refused(batches: PairBatches, tmp_path: Path, content: bytes) -> None:
    (tmp_path / STATE_FILE).write_bytes(content)
    with pytest.raises(InputError, match=r"cannot resume from .*last\.pt .*delete it to start anew"):
        Training(SPEC, seeded_tiny(), batches, tmp_path)


def test_a_state_of_another_model_is_refused(batches: PairBatches, tmp_path: Path) -> None:
    Training(SPEC, seeded_tiny(), batches, tmp_path).save()
    wider = DCFG(backbone=EdgeBackbone(stem=(8, 8, 24), dilations=(1,)), width=16, groups=2)
    with pytest.raises(InputError, match=r"cannot resume from .*last\.pt"):
        Training(SPEC, wider, batches, tmp_path)


def test_a_gradient_that_is_not_finite_ends_the_run(batches: PairBatches, tmp_path: Path) -> None:
    model = seeded_tiny()
    next(model.neck.parameters()).data.fill_(float("nan"))
    training = Training(SPEC, model, batches, tmp_path)
    with pytest.raises(InputError, match=r"got a gradient of norm nan in step 0, expected a finite one: lower the rate"):
        training.advance()
    assert training.step == 0 and not list(tmp_path.iterdir())


# Shares


def test_shares_are_batches_of_their_own(batches: PairBatches, tmp_path: Path) -> None:
    # Without clipping: the optimiser's first moment is then linear in the gradients, so a sum in place of a mean would show.
    spec = dataclasses.replace(SPEC, schedule=schedule(1), batch=4, shares=2, clip=0.0)
    training = Training(spec, seeded_tiny(), batches, tmp_path)
    losses = training.advance()
    state = training.optimizer.state_dict()["state"]

    models = [seeded_tiny().train() for _ in range(2)]
    wanted, parts = [], []
    for share, model in enumerate(models):
        generator = torch.Generator().manual_seed(share)
        parts.append(model.losses(*batches.batch(2 * share, 2), generator=generator))
        parts[-1]["total"].backward()  # type: ignore[no-untyped-call]
    for first, second in zip(*(model.parameters() for model in models), strict=True):
        assert first.grad is not None and second.grad is not None
        wanted.append((first.grad + second.grad) / 2)
    for number, gradient in enumerate(wanted):
        # AdamW's first moment after one step is a tenth of the gradient.
        torch.testing.assert_close(state[number]["exp_avg"], 0.1 * gradient, rtol=1e-4, atol=1e-7)
    assert losses["total"] == pytest.approx(sum(part["total"].item() for part in parts) / 2)
    for name, value in training.model.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(value, sum(model.state_dict()[name] for model in models) / 2)


def test_shares_must_suit_batch_and_processes(batches: PairBatches, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got 3 shares for 2 processes, expected a multiple of 2: set shares"):
        Training(dataclasses.replace(SPEC, batch=6, shares=3), seeded_tiny(), batches, tmp_path, Group(rank=0, size=2))


def test_a_system_without_fine_maps_says_so(batches: PairBatches, tmp_path: Path) -> None:
    class Plain(nn.Linear):
        def losses(self, *batch: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
            return {"total": self.weight.sum()}

    with pytest.raises(InputError, match="got fine_every 2, expected 1: Plain has no losses of fine maps"):
        Training(SPEC, Plain(1, 1), batches, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": -4}, "got batch -4, expected a positive number"),
        ({"shares": 0}, "got shares 0"),
        ({"log_every": 0}, "got log_every 0"),
        ({"seed": -1}, "got seed -1"),
        ({"average": 1.0}, "got average 1, expected 0 or more and less than 1"),
        ({"clip": -math.inf}, "clip -inf"),
        ({"batch": 5, "shares": 2}, "got a batch of 5 in 2 shares, expected a multiple of 2"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(SPEC, **options)  # type: ignore[arg-type]
