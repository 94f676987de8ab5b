"""Scores of the VOT challenges until 2019: accuracy, robustness and expected average overlap of runs that restart.

Definitions: Kristan et al., A novel performance evaluation methodology for single-target trackers, PAMI 2016; the expected
average overlap: Kristan et al., The visual object tracking VOT2015 challenge results, section 3. Where they leave room (the
fragment that a late failure ends, frames that are skipped), this follows what the challenges' own toolkit does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trackctl.evaluation.annotations import Rows, corners_of, require_finite
from trackctl.evaluation.protocol import ResetProtocol
from trackctl.evaluation.regions import reset_overlap
from trackctl.evaluation.sequence import Flags, Sequence
from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Float64Array

# What a line with one number says; any other line is a region.
SKIPPED, STARTED, FAILED, TRACKED = 0, 1, 2, -1


@dataclass(frozen=True, kw_only=True)
class ResetRun:
    """One run over one sequence.

    Attributes:
        states: (N,) SKIPPED, STARTED, FAILED or TRACKED.
        overlap: (N,) overlap of the tracked frames, NaN elsewhere.
    """

    states: NDArray[np.int8]
    overlap: Float64Array


def read_reset_run(path: Path, sequence: Sequence) -> ResetRun:
    """The run that a result file of the VOT toolkit tells, compared with the annotation.

    Raises:
        InputError: the file is malformed or has another length than the annotation.
    """
    rows = Rows.read(path)
    if len(rows.counts) != len(sequence):
        line = min(len(rows.counts), len(sequence)) + 1
        raise InputError(
            f"{path} line {line}: got {len(rows.counts)} lines, expected {len(sequence)} as in {sequence.truth_file}"
        )
    starts = np.cumsum(rows.counts) - rows.counts
    states = np.full(len(sequence), TRACKED, dtype=np.int8)
    single = rows.counts == 1
    codes = rows.values[starts[single]]
    if (wrong := ~np.isin(codes, (SKIPPED, STARTED, FAILED))).any():
        line = int(np.flatnonzero(single)[wrong][0])
        raise InputError(f"{path} line {line + 1}: got {codes[wrong][0]:g}, expected 0 skipped, 1 started, 2 failed or a region")
    states[single] = codes
    if states[0] != STARTED:
        raise InputError(f"{path} line 1: expected 1, the start of the run: is this a result of the reset experiment?")
    overlap = np.full(len(sequence), np.nan)
    truth = sequence.corners_xy if sequence.corners_xy is not None else corners_of(sequence.truth_ltwh)
    annotated: Flags = np.logical_and.reduce(np.isfinite(truth), axis=(1, 2))
    size_hw = sequence.size_hw()
    for count in np.unique(rows.counts[~single]).tolist():
        at = np.flatnonzero(rows.counts == count)
        if count != 4 and (count < 6 or count % 2):
            raise InputError(
                f"{path} line {at[0] + 1}: got {count} numbers, expected 1 code, 4 of a box or 6 and more of a polygon"
            )
        table = rows.values[starts[at][:, None] + np.arange(count)]
        if not np.isfinite(table).all():
            require_finite_lines(path, at, table)
        regions = corners_of(table) if count == 4 else table.reshape(len(at), -1, 2)
        keep = annotated[at]
        overlap[at[keep]] = reset_overlap(truth[at[keep]], regions[keep], size_hw)
    return ResetRun(states=states, overlap=overlap)


def require_finite_lines(path: Path, lines: NDArray[np.int64], table: Float64Array) -> None:
    """Return if all numbers of the given lines are finite.

    Raises:
        InputError: naming the first line that has another.
    """
    whole = np.zeros((int(lines[-1]) + 1, table.shape[1]))
    whole[lines] = table
    require_finite(path, whole)


def settled(run: ResetRun, burn_in: int) -> Float64Array:
    """The overlaps that count for the accuracy: NaN within ``burn_in`` frames of a start and where nothing was tracked."""
    overlap = np.array(run.overlap)
    for start in np.flatnonzero(run.states == STARTED):
        overlap[start : start + burn_in] = np.nan
    return overlap


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """The overlaps from a start to the next start or to the sequence's end.

    Attributes:
        overlap: frame by frame, 0 where nothing was tracked; the first is the start.
        failed: it ended in a failure, so that it counts as 0 for all longer lengths.
        frames: which frames of the sequence it covers.
    """

    overlap: Float64Array
    failed: bool
    frames: slice


def fragments(run: ResetRun, skip: int) -> list[Fragment]:
    """The fragments of a run. A failure so late that no restart fits ends no fragment, as in the challenges' toolkit."""
    length = len(run.overlap)
    failures = np.flatnonzero(run.states == FAILED)
    starts = [0, *(int(frame) + skip for frame in failures if frame + skip <= length)]
    overlap = np.nan_to_num(run.overlap, nan=0.0)
    parts = [
        Fragment(overlap=overlap[begin : end + 1], failed=True, frames=slice(begin, end + 1)) for begin, end in pairwise(starts)
    ]
    last = starts[-1]
    return [*parts, Fragment(overlap=overlap[last:], failed=False, frames=slice(last, length))]


def expected_overlap(parts: list[Fragment], weights: Float64Array) -> Float64Array:
    """The expected overlap by sequence length: element i is that of sequences of i + 1 frames; NaN where no fragment reaches.

    Args:
        parts: fragments of all sequences.
        weights: (K,) of each fragment.
    """
    longest = max(len(part.overlap) for part in parts)
    overlap = np.zeros((len(parts), longest))
    reaches = np.zeros((len(parts), longest))
    for row, part in enumerate(parts):
        overlap[row, : len(part.overlap)] = part.overlap
        reaches[row, : longest if part.failed else len(part.overlap)] = weights[row]
    # The frame of the start is given, not tracked, and does not count.
    mean = np.cumsum(overlap[:, 1:], axis=1) / np.arange(1, longest)
    weight = reaches[:, 1:].sum(axis=0)
    curve = np.divide((mean * reaches[:, 1:]).sum(axis=0), weight, out=np.full(longest - 1, np.nan), where=weight > 0.0)
    return np.concatenate([[1.0], curve])


def average_overlap(curve: Float64Array, window: tuple[int, int]) -> float:
    """The expected average overlap: mean of the curve over sequence lengths ``window``, inclusive; NaN if none is reached."""
    part = curve[window[0] - 1 : window[1]]
    part = part[np.isfinite(part)]
    return float(part.mean()) if part.size else float("nan")


@dataclass(frozen=True, kw_only=True)
class ResetScores:
    """Scores of a tracker.

    Attributes:
        overall: ``accuracy`` 0..1, ``robustness`` failures per 100 frames, ``failures`` per pass over the data set, ``eao``.
        sequences: ``accuracy`` and ``failures`` of each.
        tags: ``eao`` and ``accuracy`` over frames with each tag.
        curve: expected overlap by sequence length minus one.
    """

    overall: dict[str, float]
    sequences: dict[str, dict[str, float]]
    tags: dict[str, dict[str, float]]
    curve: Float64Array


def score_reset(
    runs: Mapping[str, list[ResetRun]], tags: Mapping[str, Mapping[str, Flags]], protocol: ResetProtocol
) -> ResetScores:
    """The scores of one tracker.

    Args:
        runs: the repetitions on every sequence, all of one length per sequence.
        tags: of every sequence, (N,) flags.
        protocol: constants.
    """
    accuracy, sequences, pieces, shares, owners = [], {}, [], [], []
    failures, frames = 0.0, 0
    for name, repeated in runs.items():
        overlap = _mean_of_known(np.stack([settled(run, protocol.burn_in) for run in repeated]))
        failed = float(np.mean([(run.states == FAILED).sum() for run in repeated]))
        sequences[name] = {"accuracy": _mean(overlap), "failures": failed}
        accuracy.append(overlap)
        failures += failed
        frames += len(overlap)
        for run in repeated:
            parts = [part for part in fragments(run, protocol.skip) if len(part.overlap)]
            pieces += parts
            shares += [1.0 / len(repeated)] * len(parts)
            owners += [name] * len(parts)
    curve = expected_overlap(pieces, np.array(shares))
    overall = {"accuracy": _mean(np.concatenate(accuracy)), "robustness": 100.0 * failures / frames, "failures": failures}
    if protocol.window is not None:
        overall["eao"] = average_overlap(curve, protocol.window)
    by_tag = {}
    for tag, marked in _tagged(tags, {name: len(repeated[0].states) for name, repeated in runs.items()}).items():
        known = [overlap[marked[name]] for name, overlap in zip(runs, accuracy, strict=True)]
        by_tag[tag] = {"accuracy": _mean(np.concatenate(known))}
        weights = [share * marked[owner][part.frames].mean() for part, share, owner in zip(pieces, shares, owners, strict=True)]
        if protocol.window is not None:
            by_tag[tag]["eao"] = average_overlap(expected_overlap(pieces, np.array(weights)), protocol.window)
    return ResetScores(overall=overall, sequences=sequences, tags=by_tag, curve=curve)


def _tagged(tags: Mapping[str, Mapping[str, Flags]], lengths: Mapping[str, int]) -> dict[str, dict[str, Flags]]:
    """Tag -> sequence -> flags; with ``empty``, as the challenges call frames without any tag, when there are tags at all."""
    names = sorted({tag for flags in tags.values() for tag in flags})
    nothing = {name: np.zeros(length, dtype=np.bool_) for name, length in lengths.items()}
    marked = {tag: {name: tags[name].get(tag, nothing[name]) for name in lengths} for tag in names}
    if names and "empty" not in names:
        marked["empty"] = {name: ~np.logical_or.reduce([marked[tag][name] for tag in names]) for name in lengths}
    return marked


def _mean(values: Float64Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _mean_of_known(values: Float64Array) -> Float64Array:
    """The mean over axis 0 of what is not NaN, NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    mean: Float64Array = np.divide(total, count, out=np.full(values.shape[1], np.nan), where=count > 0)
    return mean
