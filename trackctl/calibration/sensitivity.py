"""How much a change of the search graph moves its answers, step by step over recorded inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trackctl.calibration.drift import step_iou
from trackctl.runtime.contract import CLS, LOC, STATE_OUT, Array
from trackctl.runtime.engine import Engine

# What is compared of each step.
_COMPARED = (STATE_OUT, CLS, LOC)

Step = Mapping[str, Array]


@dataclass(frozen=True, kw_only=True)
class StepDrift:
    """How far one step of a candidate is from the reference's on the same inputs.

    Attributes:
        boxes: 1 - IoU of the next boxes, mean over the steps, 0..1.
        worst: 1 - IoU of the step that differs most.
        maps: RMS difference of ``cls`` and ``loc`` by the RMS of the reference, the larger of both. Boxes answer in jumps,
            when an argmax falls another way; this is what drives them there.
    """

    boxes: float
    worst: float
    maps: float


def steps(engine: Engine, feeds: Sequence[Mapping[str, Array]]) -> list[Step]:
    """Copies of what an engine answers to each of the inputs: ``next_state``, ``cls`` and ``loc``."""
    answers: list[Step] = []
    for feed in feeds:
        outputs = engine.run(feed)
        answers.append({name: outputs[name].copy() for name in _COMPARED})
    return answers


def step_drift(reference: Sequence[Step], candidate: Sequence[Step]) -> StepDrift:
    """How far the candidate's steps are from the reference's on the same inputs; at least one step."""
    apart = [1.0 - step_iou(one[STATE_OUT], other[STATE_OUT]) for one, other in zip(reference, candidate, strict=True)]
    noise = [
        _rms(
            np.stack(
                [
                    other[name].astype(np.float64) - one[name].astype(np.float64)
                    for one, other in zip(reference, candidate, strict=True)
                ]
            )
        )
        / _rms(np.stack([one[name] for one in reference]))
        for name in (CLS, LOC)
    ]
    return StepDrift(boxes=float(np.mean(apart)), worst=max(apart), maps=max(noise))


def _rms(values: Array) -> float:
    """Root of the mean square, never quite 0."""
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)) + np.finfo(np.float32).tiny))
