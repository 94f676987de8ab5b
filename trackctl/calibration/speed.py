"""How long engines take beside each other, in one process and in turn, so that all meet the same machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np

from trackctl.runtime.contract import Array
from trackctl.runtime.engine import Engine

ROUNDS = 40
BUDGET_NS = 20_000_000_000  # for all engines, so that large ones do not keep the user waiting


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long one engine takes.

    Attributes:
        ms: median time of one run.
        ratio: median over the rounds of its time by the base's in the same round.
    """

    ms: float
    ratio: float


def side_by_side(engines: Mapping[str, Engine], feed: Mapping[str, Array], *, base: str) -> dict[str, Pace]:
    """The pace of engines of the same inputs, by name.

    Each round runs every engine twice and counts the second run: the first finds the caches full of another's weights, which
    a tracker that runs alone does not meet.

    Args:
        engines: stay open.
        feed: all inputs.
        base: name of the engine that the others are measured by.
    """
    times_ms: dict[str, list[float]] = {name: [] for name in engines}
    for engine in engines.values():
        engine.run(feed)
    started = perf_counter_ns()
    for _ in range(ROUNDS):
        for name, engine in engines.items():
            engine.run(feed)
            before = perf_counter_ns()
            engine.run(feed)
            times_ms[name].append((perf_counter_ns() - before) / 1e6)
        if perf_counter_ns() - started > BUDGET_NS:
            break
    of_base = np.array(times_ms[base])
    return {name: Pace(ms=float(np.median(ms)), ratio=float(np.median(np.array(ms) / of_base))) for name, ms in times_ms.items()}
