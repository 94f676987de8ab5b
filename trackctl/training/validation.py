"""How well a model in training tracks: the one-pass evaluation of a few sequences through the tracker that is deployed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trackctl.evaluation.datasets import open_dataset
from trackctl.evaluation.follow import give, play
from trackctl.evaluation.ope import agreement, score_ope
from trackctl.evaluation.protocol import OpeProtocol
from trackctl.evaluation.sequence import Sequence as Annotated
from trackctl.runtime.errors import InputError
from trackctl.runtime.loop import TracksFrames
from trackctl.runtime.tracker import Tracker
from trackctl.training.engine import torch_engines
from trackctl.training.model import TrackerModel


def sequences_of(dataset: str, names: Sequence[str] = ()) -> tuple[Annotated, ...]:
    """The sequences of a data set, or those named.

    Args:
        dataset: ``KIND:PATH``.
        names: all if empty.

    Raises:
        InputError: there is no such data set or sequence.
    """
    known = {sequence.name: sequence for sequence in open_dataset(dataset).sequences}
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"got the sequence {unknown[0]!r}, expected one of {', '.join(known)}: correct the name")
    return tuple(known[name] for name in names) if names else tuple(known.values())


def track(tracker: TracksFrames, sequence: Annotated, frames: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The boxes (N, 4) left, top, width, height of a tracker on the first N <= ``frames`` frames; the first is the annotation."""
    numbers = np.arange(min(frames, len(sequence)))
    boxes = []
    for number, frame in enumerate(play(sequence, numbers)):
        if number:
            boxes.append(tuple(tracker.update(frame).box))
        else:
            boxes.append(tuple(give(tracker, sequence, 0, frame)))
    return np.array(boxes, dtype=np.float64)


def success(model: TrackerModel, sequences: Sequence[Annotated], frames: int) -> dict[str, float]:
    """Area under the success plot, 0..1: ``auc``, the mean over the sequences, then ``auc/NAME`` of each.

    Args:
        model: left in evaluation mode.
        sequences: with their images.
        frames: most frames of each.
    """
    protocol = OpeProtocol()
    agreed = {}
    for sequence in sequences:
        template, search = torch_engines(model)
        with Tracker(template, search, crop=model.crop, channels=model.channels, confidence=model.confidence) as tracker:
            boxes = track(tracker, sequence, frames)
        agreed[sequence.name] = agreement(sequence.truth_ltwh[: len(boxes)], boxes, protocol)
    scores = score_ope(agreed, {}, protocol)
    each = {f"auc/{name}": row["auc"] for name, row in scores.sequences.items()}
    return {"auc": scores.overall["auc"], **each}
