"""The training loop: batches in, averaged weights out.

A batch is cut into shares. Each share has its own batch normalisation, sampled anchors and loss; gradients and running statistics
are the means over the shares. Processes take the shares in turn, so a run's curve depends on the number of shares and not on the
number of processes, and a small GPU can train a large batch share by share. Synchronised batch normalisation, the usual
alternative, would wait for all processes twice in every layer.

What is kept is a moving average of the weights. The same seed, batch and shares give the same weights on the same machine, also
when the run was killed and resumed.
"""

from __future__ import annotations

import inspect
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, Dataset

from trackctl.runtime.errors import InputError
from trackctl.training.pairs import Pair
from trackctl.training.processes import Group
from trackctl.training.qat import FakeQuantConv2d, ranges
from trackctl.training.schedule import Schedule

STATE_FILE, BEST_FILE = "last.pt", "best.safetensors"


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """How a system trains. What a paper or its public code prints is in the recipes; the defaults here are [ours].

    Attributes:
        schedule: optimiser and rates.
        batch: pairs per step over all shares.
        shares: parts of the batch with batch normalisation of their own; a multiple of the number of processes.
        seed: of the weights, the pairs and the sampled anchors.
        clip: largest norm of the gradient; 0 clips nothing.
        average: decay of the moving average of the weights; 0 keeps the last weights.
        bf16: whether convolutions run in bfloat16.
        freeze_norm: batch normalisations keep the statistics they have, for fine-tuning.
        qat: train with the rounding of int8 (:mod:`trackctl.training.qat`).
        fine_every: DCFG's losses of the fine maps, which double the cost of a step, count in every so many-th step.
        save_every: steps between checkpoints.
        log_every: steps between reports.

    Raises:
        InputError: a count is not positive, or the shares are not equal.
    """

    schedule: Schedule
    batch: int = 32
    shares: int = 1
    seed: int = 0
    clip: float = 10.0
    average: float = 0.998
    bf16: bool = True
    freeze_norm: bool = False
    qat: bool = False
    fine_every: int = 1
    save_every: int = 500
    log_every: int = 20

    def __post_init__(self) -> None:
        for name in ("batch", "shares", "fine_every", "save_every", "log_every"):
            if getattr(self, name) <= 0:
                raise InputError(f"got {name} {getattr(self, name)}, expected a positive number")
        if self.seed < 0 or self.clip < 0:
            raise InputError(f"got seed {self.seed} and clip {self.clip:g}, expected 0 or more")
        if not 0 <= self.average < 1:
            raise InputError(f"got average {self.average:g}, expected 0 or more and less than 1")
        if self.batch % self.shares:
            raise InputError(f"got a batch of {self.batch} in {self.shares} shares, expected a multiple of {self.shares}")

    @property
    def share(self) -> int:
        """Pairs of one share."""
        return self.batch // self.shares

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.schedule.steps(self.batch)


class Source(Protocol):
    """What is learnt from, by number."""

    def batch(self, first: int, count: int) -> tuple[Tensor, ...]:
        """Examples ``first`` to ``first + count - 1``, always the same: the arguments of the system's ``losses``."""


class PairSource(Protocol):
    """Pairs by number, such as :class:`trackctl.training.pairs.Pairs`."""

    def __getitem__(self, number: int, /) -> Pair:
        """Pair ``number`` >= 0, always the same."""


@dataclass(frozen=True)
class PairBatches:
    """Pairs as the arguments of a tracker's ``losses``."""

    pairs: PairSource

    def batch(self, first: int, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Template and search (B, C, N, N) float32, grey repeated to three channels; boxes (B, 4) float32; positive (B,)."""
        chosen = [self.pairs[number] for number in range(first, first + count)]
        boxes = torch.from_numpy(np.stack([pair.box_xyxy for pair in chosen])).float()
        positive = torch.tensor([pair.positive for pair in chosen])
        return _channels([pair.template for pair in chosen]), _channels([pair.search for pair in chosen]), boxes, positive


def _channels(patches: Sequence[np.ndarray[Any, Any]]) -> Tensor:
    stacked = torch.from_numpy(np.stack(patches)).float()
    return stacked if stacked.ndim == 4 else stacked[:, None].expand(-1, 3, -1, -1)


class _Shares(Dataset[tuple[Tensor, ...]]):
    """The shares of all batches by number."""

    def __init__(self, source: Source, count: int) -> None:
        self.source, self.count = source, count

    def __getitem__(self, number: int) -> tuple[Tensor, ...]:
        return self.source.batch(number * self.count, self.count)


class MovingAverage:
    """A moving average of a model's floating-point state; the rest is copied.

    Args:
        model: whose state it starts from.
        decay: weight of the past, approached from below so that the first steps are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def update(self, model: nn.Module, step: int) -> None:
        """Take in the model's state after a step, counted from 0."""
        decay = min(self.decay, (1.0 + step) / (10.0 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1.0 - decay)
            else:
                self.state[name].copy_(value)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Where a run stands.

    Attributes:
        step: steps taken.
        steps: of the whole run.
        scalars: name -> mean since the last report: loss parts, ``grad`` (norm of the gradient), ``rate``, ``per_second``
            (pairs); or the scores of a validation.
    """

    step: int
    steps: int
    scalars: Mapping[str, float]


# Scores of the averaged weights by name; the first decides which checkpoint is the best.
Validate = Callable[[Mapping[str, Tensor]], Mapping[str, float]]


class Training:
    """One process's part of a training run.

    Args:
        spec: how it trains.
        model: what is trained, with its initial weights; has ``losses``.
        kept: part of the model whose averaged weights are the result; all of it if None.
        source: what is learnt from.
        out: folder of the checkpoints ``step-NNNNNN.safetensors`` (averaged weights) and of the state to resume from. The run
            begins with that state if there is one; give the options it began with, of which only the schedule's length may
            differ.
        group: this process among all.
        workers: processes that prepare batches; 0 prepares them in this one.
        report: called by rank 0.
        validate: called by rank 0 with every checkpoint but the one of step 0.

    Raises:
        InputError: the state is damaged, of another model or past the last step; processes and shares do not fit.
    """

    def __init__(
        self,
        spec: TrainSpec,
        model: nn.Module,
        source: Source,
        out: Path,
        group: Group | None = None,
        *,
        kept: nn.Module | None = None,
        workers: int = 0,
        report: Callable[[Report], None] | None = None,
        validate: Validate | None = None,
    ) -> None:
        self.group = group or Group()
        if spec.shares % self.group.size:
            raise InputError(
                f"got {spec.shares} shares for {self.group.size} processes, expected a multiple of {self.group.size}: set shares"
            )
        if spec.fine_every > 1 and "with_fine" not in inspect.signature(cast(Any, model).losses).parameters:
            raise InputError(f"got fine_every {spec.fine_every}, expected 1: {type(model).__name__} has no losses of fine maps")
        self.spec, self.model, self.source, self.out, self.workers = spec, model.to(self.group.device), source, out, workers
        self.report, self.validate = report, validate
        self.optimizer = spec.schedule.optimizer(self.model)
        self.kept = self.model if kept is None else kept
        self.average = MovingAverage(self.kept, spec.average)
        self.step, self.best = 0, float("-inf")
        if (out / STATE_FILE).is_file():
            self._resume()
        self._batches: Iterator[tuple[Tensor, ...]] | None = None

    def run(self) -> None:
        """Train to the last step."""
        since, recent = time.monotonic(), list[dict[str, float]]()
        while self.step < self.spec.steps:
            recent.append(self.advance())
            last = self.step == self.spec.steps
            if self.step % self.spec.log_every == 0 or last:
                self._tell(recent, time.monotonic() - since)
                since, recent = time.monotonic(), []
            if self.group.rank == 0 and (self.step % self.spec.save_every == 0 or last):
                self.save()

    def advance(self) -> dict[str, float]:
        """Take one step; the loss parts, the norm of the gradient and the rate.

        Raises:
            InputError: the gradient is not finite; the weights are left as they were.
        """
        spec, group = self.spec, self.group
        if self._batches is None:
            self._batches = self._shares_from(self.step)
        self.model.train()
        spec.schedule.apply(self.optimizer, self.model, self.step, spec.batch)
        if spec.freeze_norm:
            for layer in _norms(self.model):
                layer.eval()
        self.optimizer.zero_grad()
        statistics = _statistics(self.model)
        before = [value.clone() for value in statistics]
        sums = [torch.zeros_like(value) for value in statistics]
        losses: dict[str, Tensor] = {}
        for share in range(group.rank, spec.shares, group.size):
            for value, old in zip(statistics, before, strict=True):
                value.copy_(old)
            parts = self._losses(share)
            (parts["total"] / spec.shares).backward()  # type: ignore[no-untyped-call]
            for total, value in zip(sums, statistics, strict=True):
                total += value
            for name, part in parts.items():
                losses[name] = losses.get(name, 0.0) + part.detach().float()
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        group.add_up([*gradients, *sums, *losses.values()])
        for value, total in zip(statistics, sums, strict=True):
            value.copy_(total / spec.shares)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), spec.clip or float("inf"))
        if not torch.isfinite(norm):
            raise InputError(f"got a gradient of norm {norm.item()} in step {self.step}, expected a finite one: lower the rate")
        self.optimizer.step()
        self.average.update(self.kept, self.step)
        self.step += 1
        rate = spec.schedule.rate_at(self.step - 1, spec.batch)
        return {name: part.item() / spec.shares for name, part in losses.items()} | {"grad": norm.item(), "rate": rate}

    def _losses(self, share: int) -> dict[str, Tensor]:
        spec, device = self.spec, self.group.device
        share_batch = next(cast(Iterator[tuple[Tensor, ...]], self._batches))
        generator = torch.Generator(device).manual_seed((spec.seed * 1_000_003 + self.step) * spec.shares + share)
        options = {} if spec.fine_every == 1 else {"with_fine": self.step % spec.fine_every == 0}
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=spec.bf16):
            parts: dict[str, Tensor] = cast(Any, self.model).losses(
                *(tensor.to(device) for tensor in share_batch), generator=generator, **options
            )
        return parts

    def _shares_from(self, step: int) -> Iterator[tuple[Tensor, ...]]:
        spec, group = self.spec, self.group
        numbers = range(step * spec.shares + group.rank, spec.steps * spec.shares, group.size)
        # A generator of its own, or the loader would draw from the global one, which a resumed run has in another state.
        loader = DataLoader(
            _Shares(self.source, spec.share),
            batch_size=None,
            sampler=numbers,
            num_workers=self.workers,
            generator=torch.Generator(),
        )
        return iter(loader)

    def _tell(self, recent: Sequence[Mapping[str, float]], seconds: float) -> None:
        if self.report is None or self.group.rank:
            return
        # A part that counts in some steps only is averaged over those.
        names = dict.fromkeys(name for parts in recent for name in parts)
        means = {name: float(np.mean([parts[name] for parts in recent if name in parts])) for name in names}
        means["per_second"] = len(recent) * self.spec.batch / seconds
        self.report(Report(step=self.step, steps=self.spec.steps, scalars=means))

    def save(self) -> None:
        """Write the averaged weights, and the whole state for resuming; the best weights so far, if they are validated."""
        self.out.mkdir(parents=True, exist_ok=True)
        save_file(self.average.state, self.out / f"step-{self.step:06d}.safetensors")
        if self.validate is not None:
            scores = self.validate(self.average.state)
            if self.report is not None:
                self.report(Report(step=self.step, steps=self.spec.steps, scalars=scores))
            if (score := next(iter(scores.values()))) > self.best:
                self.best = score
                save_file(self.average.state, self.out / BEST_FILE)
        state = {
            "step": self.step,
            "best": self.best,
            "model": self.model.state_dict(),
            "ranges": ranges(self.model),
            "average": self.average.state,
            "optimizer": self.optimizer.state_dict(),
        }
        partial = self.out / f"{STATE_FILE}.partial"
        torch.save(state, partial)
        partial.replace(self.out / STATE_FILE)

    def _resume(self) -> None:
        file = self.out / STATE_FILE
        try:
            state = torch.load(file, weights_only=True, map_location=self.group.device)
            self.step, self.best = state["step"], state["best"]
            self.model.load_state_dict(state["model"])
            for name, value in ranges(self.model).items():
                value.copy_(state["ranges"][name])
            self.average.state = state["average"]
            self.optimizer.load_state_dict(state["optimizer"])
        except (OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"cannot resume from {file} ({reason}): give another folder, or delete it to start anew") from error
        if self.step > self.spec.steps:
            raise InputError(
                f"got {self.spec.steps} steps, but {self.out} holds a run of {self.step}: give more or another folder"
            )


def _norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def _statistics(model: nn.Module) -> list[Tensor]:
    """What a forward pass changes: running statistics of batch normalisation, and ranges of activations."""
    norms = [norm for norm in _norms(model) if norm.training and norm.track_running_stats]
    running = [value for norm in norms for value in (cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var))]
    return running + [conv.peak for conv in model.modules() if isinstance(conv, FakeQuantConv2d) and conv.training]
