"""Which optimiser, at which rate, over which parts: the published schedules as a list of phases.

A phase runs from one rate to another, on a line or on a logarithm, at every step or in levels. Both ends belong to it, as in
``numpy.linspace`` and ``numpy.logspace``, which the public code of SiamRPN++ uses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import nn

from trackctl.runtime.errors import InputError

Optimiser = Literal["adamw", "adam", "sgd"]
Shape = Literal["linear", "log"]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of the training.

    Attributes:
        steps, epochs: its length, one of the two.
        rate: learning rate at its first step.
        to: rate at its last step; the same if None.
        shape: whether the rate moves on a line or on a logarithm.
        levels: how many constant rates it is made of, such as one per epoch; 0 moves at every step.

    Raises:
        InputError: both or neither length is given, or a rate is not positive.
    """

    steps: int = 0
    epochs: float = 0.0
    rate: float
    to: float | None = None
    shape: Shape = "linear"
    levels: int = 0

    def __post_init__(self) -> None:
        if (self.steps > 0) == (self.epochs > 0):
            raise InputError(f"got a phase of {self.steps} steps and {self.epochs:g} epochs, expected one of the two above 0")
        if self.rate <= 0 or (self.to is not None and self.to <= 0):
            raise InputError(f"got a phase from rate {self.rate} to {self.to}, expected positive rates")

    def rate_at(self, step: int, steps: int) -> float:
        """The rate at a step, 0 <= step < steps, of a phase that takes so many steps."""
        if self.to is None:
            return self.rate
        points = self.levels or steps
        point = min(points - 1, step * points // steps)
        share = point / (points - 1) if points > 1 else 0.0
        if self.shape == "log":
            return math.exp(math.log(self.rate) + share * (math.log(self.to) - math.log(self.rate)))
        return self.rate + share * (self.to - self.rate)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Parameters that learn at another rate, or only later.

    Attributes:
        prefix: of their names; where several match, the longest counts.
        rate: factor of the learning rate; 0 freezes them for good.
        frozen: share of the run, from its start, in which they are frozen: no gradient, batch normalisation by what it has.
    """

    prefix: str
    rate: float = 1.0
    frozen: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A training from the first step to the last.

    Attributes:
        optimiser: ``adamw``, ``adam`` (weight decay as a term of the loss) or ``sgd`` (with momentum).
        phases: one after the other.
        epoch_pairs: pairs that are called an epoch; only phases of epochs need it.
        momentum: of SGD.
        weight_decay: of all parameters.
        parts: what learns at another rate.

    Raises:
        InputError: there is no phase, or one of epochs without ``epoch_pairs``.
    """

    optimiser: Optimiser = "adamw"
    phases: tuple[Phase, ...]
    epoch_pairs: int = 0
    momentum: float = 0.9
    weight_decay: float = 0.0
    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        if not self.phases:
            raise InputError("got a schedule without phases, expected at least one")
        if self.epoch_pairs <= 0 and any(phase.epochs for phase in self.phases):
            raise InputError(f"got epoch_pairs {self.epoch_pairs} with a phase of epochs, expected how many pairs an epoch has")

    def lengths(self, batch: int) -> list[int]:
        """Steps of each phase, at least one, for a batch of so many pairs."""
        return [phase.steps or max(1, round(phase.epochs * self.epoch_pairs / batch)) for phase in self.phases]

    def steps(self, batch: int) -> int:
        """Steps of the whole training."""
        return sum(self.lengths(batch))

    def rate_at(self, step: int, batch: int) -> float:
        """The learning rate at a step, 0 <= step < steps."""
        for phase, length in zip(self.phases, self.lengths(batch), strict=True):
            if step < length:
                return phase.rate_at(step, length)
            step -= length
        raise InputError("got a step after the last one of the schedule, expected an earlier one")

    def stretched(self, steps: int, batch: int) -> Schedule:
        """The same course in another number of steps: every phase shortened or lengthened alike.

        Raises:
            InputError: there are fewer steps than phases.
        """
        if steps < len(self.phases):
            raise InputError(f"got {steps} steps, expected at least {len(self.phases)}, one for each phase of the schedule")
        lengths = self.lengths(batch)
        # Every phase keeps a step; the rest is shared out by length, and the ends are rounded so that nothing is lost.
        spare, whole = steps - len(lengths), sum(lengths)
        ends = [round(sum(lengths[: index + 1]) / whole * spare) + index + 1 for index in range(len(lengths))]
        new = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        phases = tuple(replace(phase, steps=count, epochs=0.0) for phase, count in zip(self.phases, new, strict=True))
        return replace(self, phases=phases)

    def part_of(self, name: str) -> Part:
        """What is said about the parameter of that name."""
        matching = [part for part in self.parts if f"{name}.".startswith(f"{part.prefix}.")]
        return max(matching, key=lambda part: len(part.prefix), default=Part(prefix=""))

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of a model, one group of parameters per factor of the rate, stored as ``factor``.

        Raises:
            InputError: a prefix of ``parts`` matches no parameter.
        """
        named = dict(model.named_parameters())
        for part in self.parts:
            if not any(f"{name}.".startswith(f"{part.prefix}.") for name in named):
                raise InputError(f"got parts with the prefix {part.prefix!r}, which no parameter of {type(model).__name__} has")
        factors: dict[float, list[nn.Parameter]] = {}
        for name, parameter in named.items():
            if parameter.requires_grad and (factor := self.part_of(name).rate) > 0:
                factors.setdefault(factor, []).append(parameter)
        groups = [{"params": parameters, "factor": factor} for factor, parameters in factors.items()]
        if not groups:
            raise InputError(f"got a schedule that freezes all of {type(model).__name__}, expected something that learns")
        makers: dict[Optimiser, Callable[[], torch.optim.Optimizer]] = {
            "adamw": lambda: torch.optim.AdamW(groups, lr=1.0, weight_decay=self.weight_decay),
            "adam": lambda: torch.optim.Adam(groups, lr=1.0, weight_decay=self.weight_decay),
            "sgd": lambda: torch.optim.SGD(groups, lr=1.0, momentum=self.momentum, weight_decay=self.weight_decay),
        }
        return makers[self.optimiser]()

    def apply(self, optimizer: torch.optim.Optimizer, model: nn.Module, step: int, batch: int) -> None:
        """Set rates and what is frozen for a step; the model must be in the mode that the step wants (its ``train()``)."""
        rate = self.rate_at(step, batch)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        if not self.parts:
            return
        done = step / self.steps(batch)
        for group_name, module in model.named_modules():
            part = self.part_of(group_name)
            if part.rate == 0 or done < part.frozen:
                module.training = False
        learning = {id(parameter) for group in optimizer.param_groups for parameter in cast(list[nn.Parameter], group["params"])}
        for name, parameter in model.named_parameters():
            if id(parameter) in learning:
                parameter.requires_grad_(done >= self.part_of(name).frozen)
            elif self.part_of(name).rate == 0:
                parameter.requires_grad_(False)
