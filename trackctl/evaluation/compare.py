"""Bundles side by side, with error bars, so that "int8 is as good" becomes a statement that can be wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trackctl.evaluation.bootstrap import Interval, Resampling, columns, weighted_means
from trackctl.evaluation.run import SCORES_FILE
from trackctl.runtime.errors import InputError

Verdict = Literal["not worse", "worse", "undecided"]

# Scores that are compared, if the protocol has them.
_SCORES = ("auc", "precision", "accuracy", "robustness")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One bundle.

    Attributes:
        report: where its numbers come from.
        name, system, precision, engine: as in its report.
        scores: score -> number with its interval: ``auc``, ``precision`` (or ``accuracy``, ``robustness``), the same with
            ``real-time`` before it, ``fps``.
        differences: score -> this bundle minus the first, with the interval of the paired difference; empty for the first.
        p50_ms, p99_ms: of one update.
        verdicts: score -> whether it is shown that this bundle is not worse than the first by more than the margin.
    """

    report: str
    name: str
    system: str
    precision: str
    engine: str
    scores: dict[str, Interval]
    differences: dict[str, Interval]
    p50_ms: float
    p99_ms: float
    verdicts: dict[str, Verdict]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Bundles over the same sequences.

    Attributes:
        dataset: kind.
        sequences: how many; with fewer than about ten, intervals are too narrow.
        margin: how much worse still counts as good.
        resampling: how the intervals were found.
        rows: the first is the one the others are compared with.
    """

    dataset: str
    sequences: int
    margin: float
    resampling: Resampling
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, lists and strings; what is undefined becomes null."""
        plain: dict[str, Any] = _nulls(asdict(self))
        return plain

    def statements(self) -> list[str]:
        """What the numbers say about each bundle beside the first, one sentence each."""
        first, found = self.rows[0], []
        for row in self.rows[1:]:
            for score, verdict in row.verdicts.items():
                change = row.differences[score]
                margin = f"{self.margin:g}"
                said = {
                    "not worse": f"not worse than {first.name} by more than {margin}",
                    "worse": f"worse than {first.name} by more than {margin}",
                    "undecided": f"undecided whether worse than {first.name} by more than {margin}",
                }[verdict]
                found.append(
                    f"{row.name}: {score} {said} (difference {change.value:+.4f}, {change.low:+.4f} to {change.high:+.4f})"
                )
        return found


def _nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nulls(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_nulls(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def compare(reports: Sequence[str | Path], *, margin: float = 0.01, resampling: Resampling | None = None) -> Comparison:
    """The bundles of several reports side by side, in the order given.

    Args:
        reports: folders that :func:`trackctl.evaluation.run.evaluate` wrote, or their scores.json. Together two bundles or more.
        margin: loss of a score (0..1; failures per 100 frames for the robustness of the reset protocol) that is accepted.
        resampling: of the sequences.

    Raises:
        InputError: a report is missing or damaged, or the reports are about different sequences or protocols.
    """
    if not (math.isfinite(margin) and margin >= 0.0):
        raise InputError(f"got the margin {margin}, expected 0 or more")
    resampling = resampling or Resampling()
    found = [(Path(path), *_read(Path(path))) for path in reports]
    entries = [(path, entry) for path, _, bundles in found for entry in bundles]
    if len(entries) < 2:
        raise InputError(f"got {len(entries)} bundles, expected two or more to compare: give another report")
    first_path, first = found[0][:2]
    for path, about, bundles in found:
        if differing := [key for key in first if about[key] != first[key]]:
            raise InputError(f"{path} and {first_path} differ in {', '.join(differing)}: only reports of the same kind compare")
        for entry in bundles:
            if set(entry["scores"]["sequences"]) != set(entries[0][1]["scores"]["sequences"]):
                raise InputError(f"{path} and {first_path} are about different sequences: evaluate both on the same data set")
    names = sorted(entries[0][1]["scores"]["sequences"])
    less_is_better = {"robustness"} if first["protocol"]["name"] == "ResetProtocol" else set()
    scores = _intervals([_shares(entry) for _, entry in entries], names, resampling)
    rows = []
    for at, (path, entry) in enumerate(entries):
        own = {score: pair for score, pairs in scores.items() if (pair := pairs[at]) is not None}
        differences = {score: difference for score, (_, difference) in own.items() if at}
        rows.append(
            Row(
                report=str(path),
                **{key: entry[key] for key in ("name", "system", "precision", "engine")},
                scores={score: value for score, (value, _) in own.items()},
                differences=differences,
                p50_ms=entry["speed"]["p50_ms"],
                p99_ms=entry["speed"]["p99_ms"],
                verdicts={
                    score: _verdict(change, margin, score.removeprefix("real-time ") in less_is_better)
                    for score, change in differences.items()
                    if score != "fps"
                },
            )
        )
    return Comparison(dataset=first["dataset"], sequences=len(names), margin=margin, resampling=resampling, rows=tuple(rows))


def _read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What a report is about, and its bundles."""
    file = path / SCORES_FILE if path.is_dir() else path
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        bundles = report["bundles"]
        rates = {entry["realtime"] and entry["realtime"]["fps"] for entry in bundles}
        about = {key: report[key] for key in ("dataset", "frames", "protocol")}
        complete = all(set(entry) >= {"name", "system", "precision", "engine", "scores", "shares", "speed"} for entry in bundles)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read {file} as a report ({error}): give a folder that trackctl eval has written") from error
    if not complete or not bundles:
        raise InputError(f"{file} is no report of bundles: give a folder that trackctl eval has written")
    return {**about, "real-time rate": sorted(rates, key=str)}, bundles


# Score -> sequence -> (value, weight).
_Shares = dict[str, dict[str, tuple[float, float]]]


def _shares(entry: dict[str, Any]) -> _Shares:
    shares: _Shares = {score: entry["shares"][score] for score in _SCORES if score in entry["shares"]}
    if entry["realtime"]:
        found = entry["realtime"]["shares"]
        shares |= {f"real-time {score}": found[score] for score in _SCORES if score in found}
    shares["fps"] = entry["speed"]["update_ms"]
    return shares


def _intervals(
    shares: list[_Shares], names: list[str], resampling: Resampling
) -> dict[str, list[tuple[Interval, Interval] | None]]:
    """Score -> per bundle the interval of its number and of its difference to the first; None where it has no such score."""
    found: dict[str, list[tuple[Interval, Interval] | None]] = {}
    for score in dict.fromkeys(score for entry in shares for score in entry):
        values, weights = columns([entry.get(score, {}) for entry in shares], names)
        draws, whole = resampling.means(values, weights), weighted_means(values, weights)
        if score == "fps":  # the mean is one of milliseconds
            draws, whole = 1e3 / draws, [1e3 / value for value in whole]
        found[score] = [
            (resampling.interval(value, draws[:, at]), resampling.interval(value - whole[0], draws[:, at] - draws[:, 0]))
            if score in entry and np.isfinite(value)
            else None
            for at, (entry, value) in enumerate(zip(shares, whole, strict=True))
        ]
    return found


def _verdict(change: Interval, margin: float, less_is_better: bool) -> Verdict:
    """Non-inferiority: shown when the whole interval of the difference is better than the loss that is accepted."""
    low, high = (-change.high, -change.low) if less_is_better else (change.low, change.high)
    if low > -margin:
        return "not worse"
    return "worse" if high < -margin else "undecided"
