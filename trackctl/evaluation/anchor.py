"""Scores of the VOT challenges since 2020: runs from anchors to the sequence's end, without restarts.

Definitions: Kristan et al., The eighth visual object tracking VOT2020 challenge results, ECCVW 2020, section 2; where the paper
leaves room, this follows the official toolkit (vot-toolkit, analyses ``multistart_*``), against which it is tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trackctl.evaluation.annotations import Rows, has_area
from trackctl.evaluation.protocol import AnchorProtocol
from trackctl.evaluation.regions import anchor_overlap
from trackctl.evaluation.reset import SKIPPED, STARTED, require_finite_lines
from trackctl.evaluation.sequence import Sequence
from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Float64Array


@dataclass(frozen=True, kw_only=True)
class AnchorRun:
    """One run from one anchor.

    Attributes:
        overlap: (M,) overlaps in the order of tracking; the first, the given box, counts as 0 as in the toolkit.
        absent: (M,) frames whose annotation is empty: they cannot be lost.
    """

    overlap: Float64Array
    absent: NDArray[np.bool_]


def anchor_frames(sequence: Sequence) -> list[tuple[int, NDArray[np.int64]]]:
    """The anchors of a sequence: index of each and the frames that its run passes, in their order; forward runs first.

    Raises:
        InputError: the sequence has no anchors.
    """
    if sequence.anchors is None or not sequence.anchors.any():
        raise InputError(
            f"{sequence.truth_file}: the sequence {sequence.name!r} has no anchors, expected the file anchor.value beside it"
        )
    forward = [(int(start), np.arange(start, len(sequence))) for start in np.flatnonzero(sequence.anchors > 0)]
    backward = [(int(start), np.arange(start, -1, -1)) for start in np.flatnonzero(sequence.anchors < 0)]
    return forward + backward


def read_anchor_run(path: Path, sequence: Sequence, frames: NDArray[np.int64]) -> AnchorRun:
    """The run that a result file of the VOT toolkit tells: the code 1, then one box (or the code 0: unknown) per frame.

    Raises:
        InputError: the file is malformed or has another length than the run.
    """
    rows = Rows.read(path)
    if len(rows.counts) != len(frames):
        line = min(len(rows.counts), len(frames)) + 1
        raise InputError(
            f"{path} line {line}: got {len(rows.counts)} lines, expected {len(frames)} from this anchor of {sequence.name!r}"
        )
    starts = np.cumsum(rows.counts) - rows.counts
    single = rows.counts == 1
    codes = rows.values[starts[single]]
    allowed = np.where(np.flatnonzero(single) == 0, STARTED, SKIPPED)
    if not single[0] or (codes != allowed).any():
        line = int(np.flatnonzero(single)[codes != allowed][0]) if single[0] else 0
        raise InputError(f"{path} line {line + 1}: expected 1 on the first line and a box or 0 (unknown) on the others")
    at = np.flatnonzero(~single)
    if (other := rows.counts[at] != 4).any():
        line = int(at[other][0])
        raise InputError(f"{path} line {line + 1}: got {rows.counts[line]} numbers, expected 4: x, y, width, height")
    boxes = rows.values[starts[at][:, None] + np.arange(4)]
    if not np.isfinite(boxes).all():
        require_finite_lines(path, at, boxes)
    truth = sequence.truth_ltwh if sequence.corners_xy is None else sequence.corners_xy
    absent = ~has_area(sequence.truth_ltwh[frames])
    overlap = np.zeros(len(frames))
    seen = at[~absent[at]]
    overlap[seen] = anchor_overlap(truth[frames[seen]], boxes[~absent[at]], sequence.size_hw())
    return AnchorRun(overlap=overlap, absent=absent)


def frames_until_failure(run: AnchorRun, protocol: AnchorProtocol) -> int:
    """How many frames are tracked before ``grace`` lost frames in a row begin; the whole run if they never do."""
    lost = (run.overlap <= protocol.failure) & ~run.absent
    in_a_row = 0
    for index, is_lost in enumerate(lost.tolist()):
        in_a_row = in_a_row + 1 if is_lost else 0
        if in_a_row == protocol.grace:
            return index + 1 - protocol.grace
    return len(lost)


@dataclass(frozen=True, kw_only=True)
class AnchorScores:
    """Scores of a tracker.

    Attributes:
        overall: ``accuracy`` (mean overlap while tracking), ``robustness`` (share of frames tracked), ``eao``, all 0..1.
        sequences: ``accuracy`` and ``robustness`` of each.
        curve: expected overlap; element i is the mean over the i frames after the start.
    """

    overall: dict[str, float]
    sequences: dict[str, dict[str, float]]
    curve: Float64Array


def score_anchors(runs: Mapping[str, list[AnchorRun]], lengths: Mapping[str, int], protocol: AnchorProtocol) -> AnchorScores:
    """The scores of one tracker.

    Args:
        runs: the runs from all anchors of every sequence.
        lengths: frames of every sequence.
        protocol: constants.
    """
    high = protocol.window[1]
    total, active = np.zeros(high), np.zeros(high)
    sequences: dict[str, dict[str, float]] = {}
    weights: list[tuple[float, float]] = []
    for name, started in runs.items():
        tracked = [frames_until_failure(run, protocol) for run in started]
        kept = [run.overlap[:count] for run, count in zip(started, tracked, strict=True)]
        overlap_sum, tracked_sum = float(sum(part.sum() for part in kept)), float(sum(tracked))
        accuracy = overlap_sum / tracked_sum if tracked_sum else 0.0
        sequences[name] = {"accuracy": accuracy, "robustness": tracked_sum / sum(len(run.overlap) for run in started)}
        # The accuracy is weighted by what was tracked, the robustness by the sequence's own length.
        weights.append((tracked_sum, float(lengths[name])))
        for run, part in zip(started, kept, strict=True):
            sums, reaches = _expected(run, part, high)
            total += sums
            active += reaches
    curve = np.divide(total, active, out=np.zeros(high), where=active > 0.0)
    tracked_weight, length_weight = np.array(weights).T
    scores = np.array([(row["accuracy"], row["robustness"]) for row in sequences.values()])
    overall = {
        "accuracy": float(scores[:, 0] @ tracked_weight / tracked_weight.sum()) if tracked_weight.any() else 0.0,
        "robustness": float(scores[:, 1] @ length_weight / length_weight.sum()),
        "eao": float(curve[protocol.window[0] : high + 1].mean()),
    }
    return AnchorScores(overall=overall, sequences=sequences, curve=curve)


def _expected(run: AnchorRun, tracked: Float64Array, high: int) -> tuple[Float64Array, Float64Array]:
    """Mean overlap over the first 1, 2, ... frames after the start, and whether this run says anything about that length."""
    length = len(run.overlap)
    overlap = np.zeros(length)
    overlap[: len(tracked)] = tracked
    sums, reaches = np.zeros(high), np.zeros(high)
    stop = min(length, high)
    sums[1:stop] = np.cumsum(overlap[1:stop]) / np.arange(1, stop)
    reaches[1:stop] = 1.0
    if len(tracked) < length:
        # The toolkit divides by one less here than above; its published numbers contain that.
        beyond = np.arange(max(length, 2), high)
        sums[beyond] = overlap[1:].sum() / (beyond - 1)
        reaches[beyond] = 1.0
    return sums, reaches
