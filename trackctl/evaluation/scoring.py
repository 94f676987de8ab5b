"""Scores of result files, without any tracker."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from trackctl.evaluation.anchor import anchor_frames, read_anchor_run, score_anchors
from trackctl.evaluation.ope import Agreement, agreement, score_ope, thresholds
from trackctl.evaluation.protocol import PROTOCOLS, AnchorProtocol, OpeProtocol, Protocol, ResetProtocol
from trackctl.evaluation.reset import read_reset_run, score_reset
from trackctl.evaluation.results import find_results, read_result
from trackctl.evaluation.sequence import DataSet, Sequence
from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Float64Array

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A curve over a threshold or a length; x and y (K,)."""

    x: Float64Array
    y: Float64Array


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of one tracker on one data set.

    Attributes:
        kind: of the data set.
        protocol: how they were computed.
        frames: annotated frames.
        overall: name -> number; see ``ope.summary``, ``ResetScores`` and ``AnchorScores``.
        plots: name -> curve.
        sequences: the numbers of each sequence.
        attributes: the numbers for each attribute of sequences or tag of frames.
    """

    kind: str
    protocol: Protocol
    frames: int
    overall: dict[str, float]
    plots: dict[str, Plot] = field(default_factory=dict)
    sequences: dict[str, dict[str, float]] = field(default_factory=dict)
    attributes: dict[str, dict[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, lists and strings; what is undefined (NaN) becomes null."""
        return {
            "dataset": self.kind,
            "protocol": {"name": type(self.protocol).__name__, **asdict(self.protocol)},
            "frames": self.frames,
            "overall": _plain(self.overall),
            "plots": {name: {"x": _numbers(plot.x), "y": _numbers(plot.y)} for name, plot in self.plots.items()},
            "sequences": {name: _plain(row) for name, row in self.sequences.items()},
            "attributes": {name: _plain(row) for name, row in self.attributes.items()},
        }


def _plain(row: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in row.items()}


def _numbers(values: Float64Array) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def protocol_for(dataset: DataSet, name: str | None = None) -> Protocol:
    """The protocol called ``name``, or the data set's own.

    Raises:
        InputError: there is none of this name.
    """
    name = name or dataset.protocol
    if name not in PROTOCOLS:
        near = get_close_matches(name, PROTOCOLS, n=1, cutoff=0.0)[0]
        raise InputError(f"got the protocol {name!r}, do you mean {near}? Known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def score_results(
    results: Path, dataset: DataSet, *, protocol: Protocol | None = None, on_progress: OnProgress | None = None
) -> Scores:
    """The scores of the result files in a folder.

    Args:
        results: a folder with one file per sequence (and repetition, or anchor) in the data set's own format.
        dataset: what they are compared with.
        protocol: another way of scoring than the data set's own.
        on_progress: called with a sequence's name, how many are done, and how many there are.

    Raises:
        InputError: naming the file and line that is missing, malformed, not finite, too short or too long.
    """
    protocol = protocol or protocol_for(dataset)
    if isinstance(protocol, OpeProtocol):
        return _score_ope(results, dataset, protocol, on_progress)
    if isinstance(protocol, ResetProtocol):
        return _score_reset(results, dataset, protocol, on_progress)
    return _score_anchors(results, dataset, protocol, on_progress)


def _score_ope(results: Path, dataset: DataSet, protocol: OpeProtocol, on_progress: OnProgress | None) -> Scores:
    files = find_results(results, [sequence.name for sequence in dataset.sequences])
    frames: dict[str, Agreement] = {}
    for sequence in _each(dataset, on_progress):
        boxes = [read_result(path, sequence, dataset.results) for path in files[sequence.name]]
        frames[sequence.name] = sequence_agreement(sequence, boxes, protocol)
    return ope_scores(dataset, frames, protocol)


def sequence_agreement(sequence: Sequence, repetitions: list[Float64Array], protocol: OpeProtocol) -> Agreement:
    """How the boxes of a sequence's repetitions agree with its annotation, one repetition after the other."""
    frame_hw = sequence.size_hw() if protocol.clip and (sequence.frame_hw or sequence.clip) else None
    parts = [
        agreement(sequence.truth_ltwh, boxes, protocol, infrared_ltwh=sequence.infrared_ltwh, frame_hw=frame_hw)
        for boxes in repetitions
    ]
    return Agreement(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in ("overlap", "error_px", "error_norm")}
    )


def ope_scores(dataset: DataSet, frames: Mapping[str, Agreement], protocol: OpeProtocol) -> Scores:
    """The scores of one-pass results that were compared already."""
    scores = score_ope(frames, {sequence.name: sequence.attributes for sequence in dataset.sequences}, protocol)
    axes = thresholds(protocol)
    return Scores(
        kind=dataset.kind,
        protocol=protocol,
        frames=sum(len(sequence) for sequence in dataset.sequences),
        overall=scores.overall,
        plots={name: Plot(x=axes[name], y=plot) for name, plot in scores.plots.items()},
        sequences=scores.sequences,
        attributes=scores.attributes,
    )


def _score_reset(results: Path, dataset: DataSet, protocol: ResetProtocol, on_progress: OnProgress | None) -> Scores:
    files = find_results(results, [sequence.name for sequence in dataset.sequences])
    runs = {
        sequence.name: [read_reset_run(path, sequence) for path in files[sequence.name]]
        for sequence in _each(dataset, on_progress)
    }
    scores = score_reset(runs, {sequence.name: sequence.tags for sequence in dataset.sequences}, protocol)
    return Scores(
        kind=dataset.kind,
        protocol=protocol,
        frames=sum(len(sequence) for sequence in dataset.sequences),
        overall=scores.overall,
        plots={"expected_overlap": Plot(x=np.arange(1.0, len(scores.curve) + 1.0), y=scores.curve)},
        sequences=scores.sequences,
        attributes=scores.tags,
    )


def _score_anchors(results: Path, dataset: DataSet, protocol: AnchorProtocol, on_progress: OnProgress | None) -> Scores:
    anchors = {sequence.name: anchor_frames(sequence) for sequence in dataset.sequences}
    names = [f"{name}_{start:08d}" for name, starts in anchors.items() for start, _ in starts]
    files = find_results(results, names)
    runs = {
        sequence.name: [
            read_anchor_run(files[f"{sequence.name}_{start:08d}"][0], sequence, frames)
            for start, frames in anchors[sequence.name]
        ]
        for sequence in _each(dataset, on_progress)
    }
    scores = score_anchors(runs, {sequence.name: len(sequence) for sequence in dataset.sequences}, protocol)
    return Scores(
        kind=dataset.kind,
        protocol=protocol,
        frames=sum(len(sequence) for sequence in dataset.sequences),
        overall=scores.overall,
        plots={"expected_overlap": Plot(x=np.arange(0.0, len(scores.curve)), y=scores.curve)},
        sequences=scores.sequences,
    )


def _each(dataset: DataSet, on_progress: OnProgress | None) -> Iterator[Sequence]:
    """The sequences; says after each how far the loop is."""
    for done, sequence in enumerate(dataset.sequences, start=1):
        yield sequence
        if on_progress is not None:
            on_progress(sequence.name, done, len(dataset.sequences))
