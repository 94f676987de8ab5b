"""Schedules: the published curves, what learns when, and what cannot be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trackctl.runtime.errors import InputError
from trackctl.training.schedule import Part, Phase, Schedule

SIAMRPN = Schedule(
    optimiser="sgd",
    epoch_pairs=280,
    phases=(Phase(epochs=5, rate=1e-3, to=5e-3, levels=5), Phase(epochs=15, rate=5e-3, to=5e-4, shape="log", levels=15)),
)


def test_siamrpn_learns_at_the_published_rates() -> None:
    assert SIAMRPN.steps(28) == 200
    per_epoch = [SIAMRPN.rate_at(step, 28) for step in range(0, 200, 10)]
    assert per_epoch == pytest.approx([*np.linspace(1e-3, 5e-3, 5), *np.logspace(np.log10(5e-3), np.log10(5e-4), 15)])
    # An epoch has one rate.
    assert all(SIAMRPN.rate_at(step, 28) == per_epoch[step // 10] for step in range(200))


def test_warm_up_constant_decay() -> None:
    schedule = Schedule(
        phases=(Phase(steps=10, rate=0.1, to=1.0), Phase(steps=60, rate=1.0), Phase(steps=30, rate=1.0, to=1 / 30))
    )
    rates = [schedule.rate_at(step, 1) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(rates[10:70]) == {1.0}
    assert rates[70:] == pytest.approx([(100 - step) / 30 for step in range(70, 100)])
    with pytest.raises(InputError, match="after the last one"):
        schedule.rate_at(100, 1)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=4), st.integers(4, 3000))
def test_a_stretched_schedule_has_its_steps_and_its_phases(lengths: list[int], steps: int) -> None:
    schedule = Schedule(phases=tuple(Phase(steps=length, rate=1.0 + number) for number, length in enumerate(lengths)))
    stretched = schedule.stretched(steps, 8)
    assert stretched.steps(8) == steps and min(stretched.lengths(8)) >= 1
    shares = np.cumsum(stretched.lengths(8)) / steps - np.cumsum(lengths) / sum(lengths)
    assert np.abs(shares).max() <= (len(lengths) + 1) / steps


def test_too_few_steps_for_the_phases() -> None:
    with pytest.raises(InputError, match="got 1 steps, expected at least 2, one for each phase"):
        SIAMRPN.stretched(1, 28)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 1.0}, "got a phase of 0 steps and 0 epochs"),
        ({"rate": 1.0, "steps": 1, "epochs": 1.0}, "expected one of the two above 0"),
        ({"rate": 0.0, "steps": 1}, "expected positive rates"),
        ({"rate": 1.0, "to": -1.0, "steps": 1}, "expected positive rates"),
    ],
)
def test_impossible_phases_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Phase(**options)  # type: ignore[arg-type]


def test_impossible_schedules_are_refused() -> None:
    with pytest.raises(InputError, match="without phases"):
        Schedule(phases=())
    with pytest.raises(InputError, match="got epoch_pairs 0 with a phase of epochs"):
        Schedule(phases=(Phase(epochs=1, rate=1.0),))


def network() -> nn.Sequential:
    return nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.Linear(2, 1))


def test_parts_learn_at_their_own_rates() -> None:
    model = network()
    schedule = Schedule(
        optimiser="sgd",
        phases=(Phase(steps=4, rate=0.5),),
        parts=(Part(prefix="0", rate=0.1, frozen=0.5), Part(prefix="0.0.bias", rate=0.0)),
    )
    optimizer = schedule.optimizer(model)
    rates = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    for step, awake in ((0, False), (1, False), (2, True)):
        schedule.apply(optimizer, model.train(), step, 1)
        assert rates[id(model[1].weight)]["lr"] == 0.5 and rates[id(model[0][0].weight)]["lr"] == pytest.approx(0.05)
        assert model[0][0].weight.requires_grad is awake and model[1].weight.requires_grad
        assert not model[0][0].bias.requires_grad and id(model[0][0].bias) not in rates
        assert model[0][1].training is awake and model[1].training


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)])
def test_optimisers(name: str, kind: type) -> None:
    optimizer = Schedule(optimiser=name, phases=(Phase(steps=1, rate=1.0),), weight_decay=0.9).optimizer(network())  # type: ignore[arg-type]
    assert type(optimizer) is kind and optimizer.param_groups[0]["weight_decay"] == 0.9


def test_parts_that_nothing_has_are_refused() -> None:
    schedule = Schedule(phases=(Phase(steps=1, rate=1.0),), parts=(Part(prefix="bakbone"),))
    with pytest.raises(InputError, match="got parts with the prefix 'bakbone', which no parameter of Sequential has"):
        schedule.optimizer(network())
    with pytest.raises(InputError, match="freezes all of Sequential"):
        Schedule(phases=(Phase(steps=1, rate=1.0),), parts=(Part(prefix="0", rate=0.0), Part(prefix="1", rate=0.0))).optimizer(
            network()
        )
