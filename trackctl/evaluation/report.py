"""What a run came to: scores, real-time scores and speed of every bundle, from the files of the run alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trackctl.evaluation.anchor import anchor_frames, frames_until_failure, read_anchor_run
from trackctl.evaluation.annotations import Rows, has_area
from trackctl.evaluation.follow import LATE, read_times, starts
from trackctl.evaluation.protocol import OpeProtocol, Protocol, ResetProtocol
from trackctl.evaluation.reset import read_reset_run, settled
from trackctl.evaluation.scoring import Scores, score_results
from trackctl.evaluation.sequence import DataSet, ResultFormat, Sequence
from trackctl.runtime.bundle import Bundle
from trackctl.runtime.geometry import Float64Array

PLAIN, REALTIME = "plain", "realtime"


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How long updates take.

    Attributes:
        updates: how many were measured.
        fps: updates per second of update time.
        p50_ms, p99_ms: median and 99th percentile of one update.
    """

    updates: int
    fps: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, kw_only=True)
class Share:
    """One sequence's part in a score that is a weighted mean over sequences: its value and weight."""

    value: float
    weight: float


Shares = dict[str, dict[str, Share]]  # score -> sequence -> share


@dataclass(frozen=True, kw_only=True)
class RealTime:
    """Scores with a camera that does not wait.

    Attributes:
        fps: of the camera.
        late: share of the frames that came while the tracker was busy.
        scores, shares: as in :class:`Entry`.
    """

    fps: float
    late: float
    scores: Scores
    shares: Shares


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One bundle.

    Attributes:
        name: of its folder.
        system, precision: from its manifest.
        engine: kind of engine that ran it.
        scores: of the plain run.
        shares: what the resampling of sequences needs (bootstrap.py).
        realtime: None when it was not asked for.
        speed: over all sequences.
        update_ms: mean milliseconds of the updates on each sequence, weighted by their number.
    """

    name: str
    system: str
    precision: str
    engine: str
    scores: Scores
    shares: Shares
    realtime: RealTime | None
    speed: Speed
    update_ms: dict[str, Share]

    def to_json(self) -> dict[str, Any]:
        """Plain values; all that depends on the machine's speed is under ``speed`` and ``realtime``."""
        realtime = self.realtime and {
            "fps": self.realtime.fps,
            "late": self.realtime.late,
            "scores": _without_origin(self.realtime.scores),
            "shares": _plain_shares(self.realtime.shares),
        }
        return {
            "name": self.name,
            "system": self.system,
            "precision": self.precision,
            "engine": self.engine,
            "scores": _without_origin(self.scores),
            "shares": _plain_shares(self.shares),
            "realtime": realtime,
            "speed": {**asdict(self.speed), "update_ms": _plain_shares({"": self.update_ms})[""]},
        }


@dataclass(frozen=True, kw_only=True)
class Report:
    """Several bundles on one data set.

    Attributes:
        kind: of the data set.
        frames: annotated frames.
        protocol: how the results were made and scored.
        entries: at least one.
    """

    kind: str
    frames: int
    protocol: Protocol
    entries: tuple[Entry, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, the contents of scores.json."""
        return {
            "dataset": self.kind,
            "frames": self.frames,
            "protocol": {"name": type(self.protocol).__name__, **asdict(self.protocol)},
            "bundles": [entry.to_json() for entry in self.entries],
        }


def _without_origin(scores: Scores) -> dict[str, Any]:
    return {key: value for key, value in scores.to_json().items() if key not in ("dataset", "frames", "protocol")}


def _plain_shares(shares: Shares) -> dict[str, dict[str, list[float]]]:
    return {score: {name: [share.value, share.weight] for name, share in rows.items()} for score, rows in shares.items()}


def times_path(result: Path) -> Path:
    """The file of times beside a result file."""
    return result.with_name(f"{result.stem}_time.txt")


def result_files(folder: Path, sequence: Sequence, protocol: Protocol, written: ResultFormat) -> dict[str, Path]:
    """Where the result of every run over a sequence belongs, by the run's name."""
    place = written.path(folder, sequence.name)
    names = list(starts(sequence, protocol))
    return {name: place if name == sequence.name else place.with_name(f"{name}.txt") for name in names}


def summarise(
    dataset: DataSet,
    protocol: Protocol,
    bundles: Mapping[str, Bundle],
    folders: Mapping[str, Path],
    engines: Mapping[str, str],
    realtime_fps: float | None,
) -> Report:
    """The report of runs that are complete.

    Args:
        dataset: what was run.
        protocol: how.
        bundles: by name.
        folders: of their results.
        engines: the kinds that ran them.
        realtime_fps: None when there was no real-time run.

    Raises:
        InputError: a file is missing or damaged.
    """
    entries = []
    for name, bundle in bundles.items():
        times = _times(folders[name] / PLAIN, dataset, protocol)
        realtime = None
        if realtime_fps is not None:
            folder = folders[name] / REALTIME
            scores = score_results(folder, dataset, protocol=protocol)
            seconds = np.concatenate(list(_times(folder, dataset, protocol).values()))
            seconds = seconds[np.isfinite(seconds)]
            late = float((seconds == LATE).mean()) if seconds.size else 0.0
            realtime = RealTime(fps=realtime_fps, late=late, scores=scores, shares=_shares(folder, scores, dataset, protocol))
        scores = score_results(folders[name] / PLAIN, dataset, protocol=protocol)
        tracked = {key: seconds[np.isfinite(seconds)] for key, seconds in times.items()}
        entries.append(
            Entry(
                name=name,
                system=bundle.manifest.system,
                precision=bundle.manifest.precision,
                engine=engines[name],
                scores=scores,
                shares=_shares(folders[name] / PLAIN, scores, dataset, protocol),
                realtime=realtime,
                speed=_speed(np.concatenate(list(tracked.values()))),
                update_ms={
                    key: Share(value=1e3 * float(seconds.mean()), weight=float(len(seconds)))
                    for key, seconds in tracked.items()
                    if len(seconds)
                },
            )
        )
    frames = sum(len(sequence) for sequence in dataset.sequences)
    return Report(kind=dataset.kind, frames=frames, protocol=protocol, entries=tuple(entries))


def _times(folder: Path, dataset: DataSet, protocol: Protocol) -> dict[str, Float64Array]:
    """Sequence -> seconds of all its runs."""
    return {
        sequence.name: np.concatenate(
            [
                read_times(Rows.read(times_path(path)))
                for path in result_files(folder, sequence, protocol, dataset.results).values()
            ]
        )
        for sequence in dataset.sequences
    }


def _speed(seconds: Float64Array) -> Speed:
    if not seconds.size:
        return Speed(updates=0, fps=0.0, p50_ms=0.0, p99_ms=0.0)
    p50_ms, p99_ms = (1e3 * np.percentile(seconds, (50, 99))).tolist()
    return Speed(updates=len(seconds), fps=float(1.0 / seconds.mean()), p50_ms=p50_ms, p99_ms=p99_ms)


def _shares(folder: Path, scores: Scores, dataset: DataSet, protocol: Protocol) -> Shares:
    """The overall scores that are weighted means over sequences, taken apart."""
    weights = _weights(folder, dataset, protocol)
    shares: Shares = {score: {} for score in weights}
    for score, by_sequence in weights.items():
        for sequence in dataset.sequences:
            row, weight = scores.sequences[sequence.name], by_sequence[sequence.name]
            failures = score == "robustness" and isinstance(protocol, ResetProtocol)
            value = 100.0 * row["failures"] / len(sequence) if failures else row[score]
            if weight > 0.0 and math.isfinite(value):
                shares[score][sequence.name] = Share(value=value, weight=weight)
    return shares


def _weights(folder: Path, dataset: DataSet, protocol: Protocol) -> dict[str, dict[str, float]]:
    """Score -> sequence -> weight."""
    lengths = {sequence.name: float(len(sequence)) for sequence in dataset.sequences}
    if isinstance(protocol, OpeProtocol):
        counted = {
            sequence.name: float(_counted(sequence, protocol)) if protocol.pooled else 1.0 for sequence in dataset.sequences
        }
        return {"auc": counted, "precision": counted, "norm_precision": counted, "ao": counted}
    tracked: dict[str, float] = {}
    for sequence in dataset.sequences:
        files = result_files(folder, sequence, protocol, dataset.results)
        if isinstance(protocol, ResetProtocol):
            overlap = settled(read_reset_run(files[sequence.name], sequence), protocol.burn_in)
            tracked[sequence.name] = float(np.isfinite(overlap).sum())
        else:
            runs = zip(files.values(), anchor_frames(sequence), strict=True)
            tracked[sequence.name] = float(
                sum(frames_until_failure(read_anchor_run(path, sequence, frames), protocol) for path, (_, frames) in runs)
            )
    return {"accuracy": tracked, "robustness": lengths}


def _counted(sequence: Sequence, protocol: OpeProtocol) -> int:
    """How many frames of a sequence count, as :func:`trackctl.evaluation.ope.agreement` has it."""
    counted = has_area(sequence.truth_ltwh) if protocol.absent == "skip" else np.ones(len(sequence), dtype=np.bool_)
    return int(counted[1 if protocol.first_frame == "skip" else 0 :].sum())
