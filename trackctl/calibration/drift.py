"""How far one pair of engines tracks from another: tensor by tensor, step by step and in closed loop.

A closed loop magnifies: the state moves the crop, the crop moves the maps, and an argmax between two equal cells may fall either
way, so that rounding alone parts two runs of one model. Therefore each step is also compared on its own: the candidate gets
exactly the inputs that the reference met.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from trackctl.calibration.footage import Footage
from trackctl.calibration.record import Tap
from trackctl.evaluation.ope import agreement, curves, summary
from trackctl.evaluation.protocol import OpeProtocol
from trackctl.runtime.contract import STATE_OUT, Array
from trackctl.runtime.engine import Engine, Engines
from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Box, CropSpec, Float64Array, boxes_array, iou
from trackctl.runtime.tracker import Tracker


@dataclass
class Difference:
    """Largest difference of one tensor over a clip.

    Attributes:
        absolute: in the tensor's own unit.
        mixed: divided by 1 + the largest magnitude in the reference: absolute for small tensors, relative for large ones. Not
            element by element, because where large terms cancel a value near zero carries the rounding of the large ones.
    """

    absolute: float = 0.0
    mixed: float = 0.0

    def add(self, reference: Array, candidate: Array) -> None:
        """Take one more pair of tensors of equal shape. A value that is not finite in one alone counts as infinite."""
        a, b = reference.astype(np.float64), candidate.astype(np.float64)
        with np.errstate(invalid="ignore"):
            apart = np.where(a == b, 0.0, np.abs(b - a))
        apart[np.isnan(apart)] = np.inf
        largest = float(apart.max())
        self.absolute = max(self.absolute, largest)
        self.mixed = max(self.mixed, largest / (1.0 + float(np.abs(a[np.isfinite(a)]).max(initial=0.0))))


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How far a candidate tracks from a reference.

    Attributes:
        frames: frames tracked, without the first.
        tensors: per graph output (memory, then those of the search graph), on the same inputs.
        step_iou: mean IoU of the next boxes on the same inputs; ``step_iou_min`` the smallest.
        loop_iou: mean IoU of the boxes when each follows its own; ``loop_iou_min`` the smallest.
        reference_auc, auc: success AUC in closed loop against the annotation (OTB protocol); None without one.
    """

    frames: int
    tensors: Mapping[str, Difference]
    step_iou: float
    step_iou_min: float
    loop_iou: float
    loop_iou_min: float
    reference_auc: float | None = None
    auc: float | None = None


@dataclass
class _Steps:
    """Collects what the two search engines answer to the same inputs."""

    candidate: Engine
    tensors: dict[str, Difference] = field(default_factory=dict)
    ious: list[float] = field(default_factory=list)

    def search(self, feeds: Mapping[str, Array], reference: Mapping[str, Array]) -> None:
        candidate = self.candidate.run(feeds)
        self.compare(reference, candidate)
        self.ious.append(step_iou(reference[STATE_OUT], candidate[STATE_OUT]))

    def compare(self, reference: Mapping[str, Array], candidate: Mapping[str, Array]) -> None:
        for name, tensor in reference.items():
            self.tensors.setdefault(name, Difference()).add(tensor, candidate[name])


def measure_drift(reference: Engines, candidate: Engines, footage: Footage, *, crop: CropSpec, channels: int = 3) -> Drift:
    """How far the candidate tracks from the reference through the footage.

    Args:
        reference, candidate: engines of the same cut with the same inputs and outputs; stay open.
        footage: frames, first box and, for the AUC, the annotation.
        crop: crop constants.
        channels: channels of the patches.

    Raises:
        InputError: the footage has fewer than two frames.
    """
    steps = _Steps(candidate.search)
    memories: list[dict[str, Array]] = []

    def keep(_: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        memories.append({name: tensor.copy() for name, tensor in outputs.items()})

    trackers = (
        Tracker(Tap(reference.template, keep), Tap(reference.search, steps.search), crop=crop, channels=channels),
        Tracker(Tap(candidate.template, keep), candidate.search, crop=crop, channels=channels),
    )
    boxes: tuple[list[Box], list[Box]] = ([footage.box], [footage.box])
    for position, frame in enumerate(footage):
        for tracker, path in zip(trackers, boxes, strict=True):
            if position == 0:
                tracker.init(frame, footage.box)
            else:
                path.append(tracker.update(frame).box)
        if position == 0:
            steps.compare(*memories)
    if not steps.ious:
        raise InputError(f"{footage.name} has fewer than two frames, expected a clip to compare on: give a longer one")
    paths = [boxes_array(path) for path in boxes]
    overlap = iou(*paths)[1:]
    aucs = [success_auc(path, footage.truth_ltwh) for path in paths]
    return Drift(
        frames=len(overlap),
        tensors=steps.tensors,
        step_iou=float(np.mean(steps.ious)),
        step_iou_min=min(steps.ious),
        loop_iou=float(overlap.mean()),
        loop_iou_min=float(overlap.min()),
        reference_auc=aucs[0],
        auc=aucs[1],
    )


def step_iou(reference: Array, candidate: Array) -> float:
    """IoU, 0..1, of the boxes of two states (1, 6); 0 where one is not finite."""
    return float(iou(_box(reference), _box(candidate))[0])


def _box(state: Array) -> Float64Array:
    return _finite(boxes_array([Box.from_centre(*state[0, :4].tolist())]))


def _finite(boxes_ltwh: Float64Array) -> Float64Array:
    """The boxes with those that are not finite made empty, so that they overlap nothing."""
    return np.where(np.isfinite(boxes_ltwh).all(axis=1, keepdims=True), boxes_ltwh, 0.0)


def success_auc(boxes_ltwh: Float64Array, truth_ltwh: Float64Array | None) -> float | None:
    """Success AUC, 0..1, of boxes (N, 4) against an annotation, over the frames that both have; None without one."""
    if truth_ltwh is None:
        return None
    known = min(len(boxes_ltwh), len(truth_ltwh))
    protocol = OpeProtocol()
    frames = agreement(truth_ltwh[:known], boxes_ltwh[:known], protocol)
    return summary(frames, curves(frames, protocol), protocol)["auc"]
