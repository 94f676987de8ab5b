"""The training loop: pairs in, averaged weights out.

    python -m trackctl.training.loop --data DATA --cache CACHE --out OUT --steps 3000 --seed 0

AdamW, warm-up, constant rate, linear decay at the end (Hu et al., MiniCPM, 2024, section 4): until the decay begins a run does not
depend on its length, so it can be resumed with another one. What is kept is a moving average of the weights.

One process per core, each with its share of the batch and one thread: faster on a CPU than threads that wait for each other in
every layer. The gradients are averaged once per step. The same seed, batch and number of processes give the same weights.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, distributed

from trackctl.training.data.sources import read_all
from trackctl.training.data.store import INDEX_FILE, FrameStore, write_store
from trackctl.training.dcfg import DCFG, dcfg_edge
from trackctl.training.pairs import HELD_OUT, Pairs, PairSpec

STATE_FILE = "last.pt"


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """How long and how fast. All values are [ours].

    Attributes:
        steps: optimiser steps.
        batch: pairs per step over all processes.
        processes: one per core.
        seed: of the weights, the pairs and the sampled anchors.
        rate: highest learning rate.
        warm_up: steps of linear warm-up.
        decay: share of the steps, at the end, over which the rate falls to zero.
        weight_decay: of AdamW.
        clip: largest norm of the gradient.
        average: decay of the moving average of the weights.
        fine_every: the losses of the fine maps, which double the cost of a step, count in every so many-th step.
        bf16: whether convolutions run in bfloat16.
        save_every: steps between checkpoints. log_every: steps between lines of the log.
    """

    steps: int
    batch: int = 48
    processes: int = 2
    seed: int = 0
    rate: float = 2e-3
    warm_up: int = 150
    decay: float = 0.3
    weight_decay: float = 1e-2
    clip: float = 20.0
    average: float = 0.998
    fine_every: int = 3
    bf16: bool = True
    save_every: int = 150
    log_every: int = 20


def learning_rate(step: int, spec: TrainSpec) -> float:
    """The rate at a step, 0 <= step < spec.steps."""
    rise = (step + 1) / spec.warm_up if spec.warm_up else 1.0
    fall = (spec.steps - step) / max(1.0, spec.decay * spec.steps)
    return spec.rate * min(1.0, rise, fall)


def batch_of(pairs: Pairs, first: int, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pairs ``first`` to ``first + count - 1``: template and search (B, 3, N, N) float32, boxes (B, 4), positive (B,)."""
    chosen = [pairs[number] for number in range(first, first + count)]
    template = torch.from_numpy(np.stack([pair.template for pair in chosen]))[:, None].float()  # (B, 1, N, N)
    search = torch.from_numpy(np.stack([pair.search for pair in chosen]))[:, None].float()
    boxes = torch.from_numpy(np.stack([pair.box_xyxy for pair in chosen])).float()
    positive = torch.tensor([pair.positive for pair in chosen])
    return template.expand(-1, 3, -1, -1), search.expand(-1, 3, -1, -1), boxes, positive


class MovingAverage:
    """A moving average of a model's floating-point state; the rest is copied.

    Args:
        model: whose state it starts from.
        decay: weight of the past, approached from below so that the first steps are soon forgotten.
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def update(self, model: torch.nn.Module, step: int) -> None:
        """Take in the model's state after a step, counted from 0."""
        decay = min(self.decay, (1.0 + step) / (10.0 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1.0 - decay)
            else:
                self.state[name].copy_(value)


class Training:
    """One process's part of a training run.

    Args:
        spec: how long and how fast.
        pairs: what is learnt from.
        out: folder of the checkpoints ``step-NNNNNN.safetensors`` (averaged weights) and of the state to resume from.
        rank: number of this process; 0 writes the files.
    """

    def __init__(self, spec: TrainSpec, pairs: Pairs, out: Path, rank: int = 0) -> None:
        self.spec, self.pairs, self.out, self.rank = spec, pairs, out, rank
        torch.manual_seed(spec.seed)
        self.model: DCFG = dcfg_edge()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=spec.rate, weight_decay=spec.weight_decay)
        self.average = MovingAverage(self.model, spec.average)
        self.step = 0
        if (out / STATE_FILE).is_file():
            self._resume()

    def run(self) -> None:
        """Train to the last step."""
        started, first = time.monotonic(), self.step
        recent: dict[str, deque[float]] = {}
        while self.step < self.spec.steps:
            for name, value in self.advance().items():
                recent.setdefault(name, deque(maxlen=self.spec.log_every)).append(value)
            if self.rank == 0 and self.step % self.spec.log_every == 0:
                speed = (self.step - first) * self.spec.batch / (time.monotonic() - started)
                parts = "  ".join(f"{name} {sum(values) / len(values):.3f}" for name, values in recent.items())
                print(f"step {self.step}  {speed:.1f} pairs/s  {parts}", flush=True)
            if self.rank == 0 and (self.step % self.spec.save_every == 0 or self.step == self.spec.steps):
                self.save()

    def advance(self) -> dict[str, float]:
        """Take one step; the loss parts of this process's share and the norm of the gradient."""
        spec = self.spec
        share = spec.batch // spec.processes
        template, search, boxes, positive = batch_of(self.pairs, self.step * spec.batch + self.rank * share, share)
        generator = torch.Generator().manual_seed((spec.seed * 1_000_003 + self.step) * spec.processes + self.rank)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, spec)
        self.model.train()
        self.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=spec.bf16):
            parts = self.model.losses(
                template, search, boxes, positive, generator=generator, with_fine=self.step % spec.fine_every == 0
            )
        parts["total"].backward()  # type: ignore[no-untyped-call]
        if spec.processes > 1:
            average_gradients(self.model)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), spec.clip)
        self.optimizer.step()
        self.average.update(self.model, self.step)
        self.step += 1
        return {name: part.item() for name, part in parts.items() if name != "total"} | {"grad": norm.item()}

    def save(self) -> None:
        """Write the averaged weights, and the whole state for resuming."""
        self.out.mkdir(parents=True, exist_ok=True)
        save_file(self.average.state, self.out / f"step-{self.step:06d}.safetensors")
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state,
            "optimizer": self.optimizer.state_dict(),
        }
        partial = self.out / f"{STATE_FILE}.partial"
        torch.save(state, partial)
        partial.replace(self.out / STATE_FILE)

    def _resume(self) -> None:
        state = torch.load(self.out / STATE_FILE, weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.average.state = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])


def average_gradients(model: torch.nn.Module) -> None:
    """Replace every gradient by its mean over the processes."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def work(rank: int, spec: TrainSpec, cache: Path, out: Path) -> None:
    """Run process ``rank`` of a training run on the frame store in ``cache``."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if spec.processes > 1:
        meeting = distributed.FileStore(str(out / "meeting"), spec.processes)
        distributed.init_process_group("gloo", store=meeting, rank=rank, world_size=spec.processes)
    model_crop = dcfg_edge().crop
    pairs = Pairs(FrameStore(cache), PairSpec(), model_crop, seed=spec.seed, held_out=HELD_OUT)
    Training(spec, pairs, out, rank).run()
    if spec.processes > 1:
        distributed.destroy_process_group()


def train(spec: TrainSpec, data: Path, cache: Path, out: Path) -> Path:
    """The file of the averaged weights after the last step.

    Args:
        spec: how long and how fast.
        data: folder of the training sets; read only if the cache is empty.
        cache: folder of the frame store, filled if it is empty.
        out: folder of the checkpoints; an interrupted run in it is resumed.
    """
    if not (cache / INDEX_FILE).is_file():
        write_store(cache, read_all(data))
    out.mkdir(parents=True, exist_ok=True)
    (out / "meeting").unlink(missing_ok=True)
    if spec.processes > 1:
        torch.multiprocessing.spawn(work, (spec, cache, out), nprocs=spec.processes)  # type: ignore[no-untyped-call]
    else:
        work(0, spec, cache, out)
    return out / f"step-{spec.steps:06d}.safetensors"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the default tracker from the command line."""
    parser = argparse.ArgumentParser(prog="python -m trackctl.training.loop", description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with ir_video, hit_uav, seek, davis")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the decoded frames, 3 GB")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoints")
    for name, default in asdict(TrainSpec(steps=3000)).items():
        if not isinstance(default, bool):
            parser.add_argument("--" + name.replace("_", "-"), type=type(default), default=default)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    options = vars(parser.parse_args(arguments))
    data, cache, out = options.pop("data"), options.pop("cache"), options.pop("out")
    print(train(TrainSpec(**options), data, cache, out))


if __name__ == "__main__":
    main()
