"""The training loop: pairs in, averaged weights out.

    python -m trackctl.training.loop --data DATA --cache CACHE --out OUT

AdamW, warm-up, constant rate, linear decay at the end (Hu et al., MiniCPM, 2024, section 4): until the decay begins a run does
not depend on its length, so it can be resumed with another one. What is kept is a moving average of the weights.

One process per core, each with its share of the batch and one thread: faster on a CPU than threads that wait for each other in
every layer. The gradients are averaged once per step; batch normalisation sees a process's share. The same seed, batch and number
of processes give the same weights on the same machine.
"""

from __future__ import annotations

import argparse
import pickle
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn

from trackctl.runtime.errors import InputError, TrackctlError
from trackctl.training.data.sources import read_all
from trackctl.training.data.store import INDEX_FILE, FrameStore, write_store
from trackctl.training.dcfg import DCFG, dcfg_edge
from trackctl.training.pairs import HELD_OUT, Pair, Pairs, PairSpec

STATE_FILE = "last.pt"
MEETING_FILE = "meeting"


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """How long and how fast. All values are [ours]; the defaults made the shipped weights.

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
        save_every: steps between checkpoints.
        log_every: steps between lines of the log.

    Raises:
        InputError: a count is not positive, or the processes cannot share the batch evenly.
    """

    steps: int = 3200
    batch: int = 32
    processes: int = 2
    seed: int = 0
    rate: float = 1.5e-3
    warm_up: int = 150
    decay: float = 0.3
    weight_decay: float = 1e-2
    clip: float = 20.0
    average: float = 0.998
    fine_every: int = 3
    bf16: bool = True
    save_every: int = 150
    log_every: int = 20

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "processes", "rate", "fine_every", "save_every", "log_every"):
            if getattr(self, name) <= 0:
                raise InputError(f"got {name} {getattr(self, name)}, expected a positive number")
        if self.seed < 0:
            raise InputError(f"got seed {self.seed}, expected 0 or more")
        if self.batch % self.processes:
            raise InputError(
                f"got a batch of {self.batch} for {self.processes} processes, expected a multiple of {self.processes}"
            )

    @property
    def share(self) -> int:
        """Pairs per step of one process."""
        return self.batch // self.processes


class PairSource(Protocol):
    """Pairs by number, such as :class:`Pairs`."""

    def __getitem__(self, number: int, /) -> Pair:
        """Pair ``number`` >= 0, always the same."""


def learning_rate(step: int, spec: TrainSpec) -> float:
    """The rate at a step, 0 <= step < spec.steps."""
    rise = (step + 1) / spec.warm_up if spec.warm_up else 1.0
    fall = (spec.steps - step) / max(1.0, spec.decay * spec.steps)
    return spec.rate * min(1.0, rise, fall)


def batch_of(pairs: PairSource, first: int, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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
        model: what is trained, with its initial weights.
        pairs: what is learnt from.
        out: folder of the checkpoints ``step-NNNNNN.safetensors`` (averaged weights) and of the state to resume from. The run
            begins with that state if there is one; give the options it began with, of which only ``steps`` may differ.
        rank: number of this process; 0 writes the files.

    Raises:
        InputError: the state is damaged, of another model or past the last step.
    """

    def __init__(self, spec: TrainSpec, model: DCFG, pairs: PairSource, out: Path, rank: int = 0) -> None:
        self.spec, self.model, self.pairs, self.out, self.rank = spec, model, pairs, out, rank
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
        """Take one step; the loss parts of this process's share and the norm of the gradient.

        Raises:
            InputError: the gradient is not finite; the weights are left as they were.
        """
        spec = self.spec
        template, search, boxes, positive = batch_of(self.pairs, self.step * spec.batch + self.rank * spec.share, spec.share)
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
        if not torch.isfinite(norm):
            raise InputError(f"got a gradient of norm {norm.item()} in step {self.step}, expected a finite one: lower the rate")
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
        file = self.out / STATE_FILE
        try:
            state = torch.load(file, weights_only=True)
            self.step = state["step"]
            self.model.load_state_dict(state["model"])
            self.average.state = state["average"]
            self.optimizer.load_state_dict(state["optimizer"])
        except (OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"cannot resume from {file} ({reason}): give another folder, or delete it to start anew") from error
        if self.step > self.spec.steps:
            raise InputError(
                f"got {self.spec.steps} steps, but {self.out} holds a run of {self.step}: give more or another folder"
            )


def average_gradients(model: torch.nn.Module) -> None:
    """Replace every gradient by its mean over the processes."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, mean in zip(gradients, torch.split(flat, [gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def prepare(rank: int, spec: TrainSpec, build: Callable[[], DCFG], cache: Path, out: Path) -> Training:
    """The part of process ``rank``: the model as built from the seed, pairs of the frame store in ``cache``."""
    torch.manual_seed(spec.seed)
    model = build()
    pairs = Pairs(FrameStore(cache), PairSpec(), model.crop, seed=spec.seed, held_out=HELD_OUT)
    return Training(spec, model, pairs, out, rank)


def work(rank: int, spec: TrainSpec, build: Callable[[], DCFG], cache: Path, out: Path) -> None:
    """Run process ``rank``; arguments as in :func:`prepare`."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if spec.processes > 1:
        meeting = (out / MEETING_FILE).resolve().as_uri()
        distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=spec.processes)
    prepare(rank, spec, build, cache, out).run()
    if spec.processes > 1:
        distributed.destroy_process_group()


def train(spec: TrainSpec, build: Callable[[], DCFG], *, data: Path, cache: Path, out: Path) -> Path:
    """The file of the averaged weights after the last step.

    Args:
        spec: how long and how fast.
        build: makes the model; a function of a module, so that every process can call it.
        data: folder of the training sets; read only if the cache is empty.
        cache: folder of the frame store, filled if it is empty.
        out: folder of the checkpoints; an interrupted run in it is resumed (see :class:`Training`).

    Raises:
        InputError: a set, the cache or the state to resume from is missing or damaged.
    """
    if not (cache / INDEX_FILE).is_file():
        write_store(cache, read_all(data))
    # What is wrong with the cache or the state is said here in one line; from a process it would come as a traceback.
    prepare(0, spec, build, cache, out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MEETING_FILE).unlink(missing_ok=True)
    if spec.processes > 1:
        spawn(work, (spec, build, cache, out), nprocs=spec.processes)  # type: ignore[no-untyped-call]
    else:
        work(0, spec, build, cache, out)
    return out / f"step-{spec.steps:06d}.safetensors"


def _parser() -> argparse.ArgumentParser:
    defaults = TrainSpec()
    parser = argparse.ArgumentParser(
        prog="python -m trackctl.training.loop",
        description="Train the default tracker. The same command again resumes an interrupted run.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    folders = parser.add_argument_group("folders")
    for name, text in (
        ("--data", "training sets; read only while the cache is empty"),
        ("--cache", "decoded frames, about 3 GB, made on the first run"),
        ("--out", "checkpoints, the last of which is the result"),
    ):
        folders.add_argument(name, type=Path, required=True, default=argparse.SUPPRESS, help=text)
    parser.add_argument("--steps", type=int, default=defaults.steps, help="optimiser steps; may differ when resuming")
    parser.add_argument("--batch", type=int, default=defaults.batch, help="pairs per step over all processes")
    parser.add_argument("--processes", type=int, default=defaults.processes, help="one per core")
    parser.add_argument("--rate", type=float, default=defaults.rate, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of the weights, pairs and sampled anchors")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=defaults.bf16, help="bfloat16 convolutions")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the default tracker from the command line; a TrackctlError is one line on stderr and exit code 2."""
    options = vars(_parser().parse_args(arguments))
    data, cache, out = options.pop("data"), options.pop("cache"), options.pop("out")
    try:
        print(train(TrainSpec(**options), dcfg_edge, data=data, cache=cache, out=out))
    except TrackctlError as error:
        print(f"trackctl: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
