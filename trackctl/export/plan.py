"""Which layers stay in float: the fewest of those that hurt most with which the drift budget holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from trackctl.calibration.sensitivity import StepDrift
from trackctl.export.layers import Layer
from trackctl.runtime.errors import InputError

Measure = Literal["auc", "step"]


@dataclass(frozen=True, kw_only=True)
class DriftBudget:
    """What may be lost against float32.

    Attributes:
        measure: ``auc`` is success AUC in closed loop, mean over the annotated clips; ``step`` is 1 - IoU of one step on the
            same inputs, mean over the recorded steps.
        most: how much of it may be lost, 0..1.
    """

    measure: Measure
    most: float

    @classmethod
    def parse(cls, text: str) -> DriftBudget:
        """The budget written as ``auc=0.01`` or ``step=0.02``.

        Raises:
            InputError: it is written otherwise.
        """
        measure, _, number = text.partition("=")
        try:
            most = float(number)
        except ValueError:
            most = -1.0
        if measure not in get_args(Measure) or not 0.0 <= most <= 1.0:
            raise InputError(f"got the budget {text!r}, expected auc=LOSS or step=LOSS with a loss from 0 to 1, such as auc=0.01")
        return cls(measure=measure, most=most)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.measure}={self.most:g}"


@dataclass(frozen=True, kw_only=True)
class LayerDrift:
    """What quantising one layer alone does."""

    layer: Layer
    drift: StepDrift


def most_hurtful(drifts: Sequence[LayerDrift]) -> list[Layer]:
    """The layers from the one that moves the boxes most; among equals the one that moves the maps most."""
    ranked = sorted(drifts, key=lambda found: (-found.drift.boxes, -found.drift.maps))
    return [found.layer for found in ranked]


def fewest(most: int, holds: Callable[[int], bool]) -> int | None:
    """The smallest count tried, 0..most, for which ``holds``; None if it holds for none that was tried.

    Tries 0, 1, 2, 4, ... and then halves the gap before the first that holds, so that ``holds`` is asked seldom. What is
    returned did hold, whether or not larger counts do.
    """
    below, count = -1, 0
    while not holds(count):
        if count == most:
            return None
        below, count = count, min(max(2 * count, 1), most)
    while count - below > 1:
        middle = (below + count) // 2
        if holds(middle):
            count = middle
        else:
            below = middle
    return count


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to lower the search graph, measured.

    Attributes:
        name: ``fp32``, ``fp16``, ``int8`` (all layers) or ``int8 mixed``.
        engine: what computed it.
        float_layers: what int8 leaves in float, from the layer that hurts most.
        drift: step by step from float32.
        auc: success AUC in closed loop by annotated clip.
        loss: mean AUC lost against float32; None without an annotated clip.
        holds: the budget holds.
        ms: median time of one search.
        against_fp16: median ratio of its time to that of fp16 run in turn.
    """

    name: str
    engine: str
    float_layers: tuple[Layer, ...]
    drift: StepDrift
    auc: Mapping[str, float]
    loss: float | None
    holds: bool
    ms: float | None = None
    against_fp16: float | None = None


# int8 has to be this much faster than fp16, or fp16 is the better answer: it drifts less and depends on no clip.
WORTH_IT = 0.95


def choose(candidates: Sequence[Candidate], *, always_int8: bool = False) -> tuple[Candidate, str]:
    """The candidate to deploy, and why in one sentence.

    Args:
        candidates: measured, with their speed: ``fp32``, ``fp16`` and int8 ones, of which the first that holds counts.
        always_int8: take int8 whenever it holds, however fast it is here.
    """
    named = {candidate.name: candidate for candidate in candidates}
    fp32, fp16 = named["fp32"], named["fp16"]
    int8 = next((candidate for candidate in candidates if candidate.name.startswith("int8") and candidate.holds), None)
    if int8 is None:
        reason = "int8 does not keep the budget, however many layers stay in float"
    else:
        kept = f" with {len(int8.float_layers)} layers in float" if int8.float_layers else ""
        reason = f"int8{kept} keeps the budget and takes {int8.against_fp16:.2f} of the time of fp16"
        if always_int8 or (int8.against_fp16 is not None and int8.against_fp16 <= WORTH_IT):
            return int8, reason
    if not fp16.holds:
        return fp32, f"{reason}, and fp16 does not keep it: float32 is better here"
    if fp32.against_fp16 is not None and fp32.against_fp16 <= 1.0:
        return fp32, f"{reason}, and fp16 is no faster than float32 ({fp32.ms:.2f} ms): float32 is better here"
    return fp16, f"{reason}: fp16 is better here"
