"""The search for inference constants and confidence thresholds on development sequences, with Optuna.

First the constants of Decode and the context of the crop, for the area under the success plot; then, on what the tracker with
these constants reported frame by frame, the thresholds of its status. Sequences on which results are reported must not be tuned
on: a file ``report-only`` beside an annotation, or in a folder above it, forbids it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trackctl.evaluation.follow import give, play
from trackctl.evaluation.sequence import Sequence as Annotated
from trackctl.runtime.confidence import Confidence, ConfidenceSpec, Status
from trackctl.runtime.errors import InputError, MissingDependency
from trackctl.runtime.geometry import iou
from trackctl.runtime.tracker import Tracker
from trackctl.training.engine import torch_engines
from trackctl.training.model import TrackerModel
from trackctl.training.validation import success

REPORT_ONLY = "report-only"

# What is searched, from and to. [ours]
CONSTANTS = {"penalty_k": (0.0, 0.3), "window": (0.05, 0.6), "lr": (0.1, 0.9), "context": (0.4, 0.6)}
# Only what judges a frame without moving the box, so that recorded frames can be judged again.
THRESHOLDS = {"sure_score": (0.3, 0.98), "sure_psr": (1.0, 20.0), "rebound": (0.5, 6.0)}

# A frame is right at this overlap; at most this share of the wrong frames may be called TRACKING.
RIGHT_IOU, FALSE_TRACKING = 0.5, 0.02

Tell = Callable[[int, int, float], None]


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What a search found.

    Attributes:
        constants: ``penalty_k``, ``window``, ``lr`` and ``context``.
        confidence: thresholds of the status.
        auc: with these constants; ``auc_before`` with the model's own.
        tracking: share of the right frames that is called TRACKING.
        false_tracking: share of the wrong frames that is called TRACKING; NaN if there is none.
        sequences: names.
        frames: most frames of each.
        trials: of each of the two searches.
        seed: of the search.
    """

    constants: Mapping[str, float]
    confidence: Mapping[str, float]
    auc: float
    auc_before: float
    tracking: float
    false_tracking: float
    sequences: tuple[str, ...]
    frames: int
    trials: int
    seed: int

    def to_toml(self) -> str:
        """The numbers as TOML: tables ``constants`` and ``confidence``, and what they were found on."""
        plain = {name: value for name, value in asdict(self).items() if name not in ("constants", "confidence")}
        plain["sequences"] = list(self.sequences)
        lines = [f"{name} = {_toml(value)}" for name, value in plain.items()]
        for table in ("constants", "confidence"):
            lines += ["", f"[{table}]", *(f"{name} = {_toml(value)}" for name, value in getattr(self, table).items())]
        return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    return repr(value)


def refuse_report_only(sequences: Sequence[Annotated]) -> None:
    """Return if all sequences may be tuned on.

    Raises:
        InputError: a file ``report-only`` lies beside the annotation of one, or in a folder above it.
    """
    for sequence in sequences:
        for folder in sequence.truth_file.resolve().parents:
            if (folder / REPORT_ONLY).is_file():
                raise InputError(
                    f"got the sequence {sequence.name!r}, which {folder / REPORT_ONLY} keeps for reports: tune on other sequences"
                )


def tune(
    model: TrackerModel, sequences: Sequence[Annotated], *, frames: int, trials: int, seed: int, tell: Tell | None = None
) -> Tuned:
    """The best constants and thresholds found; the model is left with these constants.

    Args:
        model: with trained weights.
        sequences: with their images.
        frames: most frames of each.
        trials: of each search; the first tries what the model and the runtime have now, so the result is not worse there.
        seed: the same seed gives the same result on the same machine.
        tell: told of the trial from 1, the number of trials and the best value so far.

    Raises:
        InputError: a sequence is kept for reports.
        MissingDependency: Optuna is not installed.
    """
    refuse_report_only(sequences)
    spec = model.decode.select.spec
    now = {"penalty_k": spec.penalty_k, "window": spec.window, "lr": spec.lr, "context": model.crop.context}

    def overlap(values: Mapping[str, float]) -> float:
        set_constants(model, values)
        return success(model, sequences, frames)["auc"]

    constants, auc, auc_before = _search(overlap, CONSTANTS, now, trials, seed, tell)
    set_constants(model, constants)
    seen = [observe(model, sequence, frames) for sequence in sequences]
    default = asdict(model.confidence)
    confidence, _, _ = _search(
        lambda values: _honesty(*judged(seen, values, model.confidence)),
        THRESHOLDS,
        {name: default[name] for name in THRESHOLDS},
        20 * trials,
        seed,
    )
    tracking, false_tracking = judged(seen, confidence, model.confidence)
    return Tuned(
        constants=constants,
        confidence=confidence,
        auc=auc,
        auc_before=auc_before,
        tracking=tracking,
        false_tracking=false_tracking,
        sequences=tuple(sequence.name for sequence in sequences),
        frames=frames,
        trials=trials,
        seed=seed,
    )


def set_constants(model: TrackerModel, values: Mapping[str, float]) -> None:
    """Give a model other constants of Decode and crop, in place."""
    select = model.decode.select
    select.spec = replace(select.spec, penalty_k=values["penalty_k"], window=values["window"], lr=values["lr"])
    model.crop = select.crop = replace(model.crop, context=values["context"])


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What a tracker reported on one sequence, frame by frame after the first.

    Attributes:
        quality: score, psr, contrast (N, 3).
        right: whether the box was right, (N,); False where the target is absent.
    """

    quality: np.ndarray[Any, np.dtype[np.float64]]
    right: np.ndarray[Any, np.dtype[np.bool_]]


def observe(model: TrackerModel, sequence: Annotated, frames: int) -> Observed:
    """What the model reports on a sequence, at most ``frames`` frames."""
    template, search = torch_engines(model)
    numbers = np.arange(min(frames, len(sequence)))
    quality, boxes = [], []
    with Tracker(template, search, crop=model.crop, channels=model.channels, confidence=model.confidence) as tracker:
        for number, frame in enumerate(play(sequence, numbers)):
            if number == 0:
                give(tracker, sequence, 0, frame)
                continue
            result = tracker.update(frame)
            quality.append((result.score, *(result.quality[name] for name in ("psr", "contrast"))))
            boxes.append(tuple(result.box))
    overlap = iou(sequence.truth_ltwh[1 : len(numbers)], np.array(boxes))
    return Observed(quality=np.array(quality), right=np.nan_to_num(overlap) > RIGHT_IOU)


def judged(seen: Sequence[Observed], thresholds: Mapping[str, float], spec: ConfidenceSpec) -> tuple[float, float]:
    """Shares of the right and of the wrong frames that are called TRACKING by thresholds in place of a spec's; NaN for none."""
    spec = replace(spec, **thresholds)
    called, right = [], []
    for part in seen:
        confidence = Confidence(spec)
        states = [confidence.judge(*row, repeated=False) for row in part.quality.tolist()]
        called.append(np.array([state is Status.TRACKING for state in states]))
        right.append(part.right)
    sure, good = np.concatenate(called), np.concatenate(right)
    return tuple(float(sure[group].mean()) if group.any() else float("nan") for group in (good, ~good))  # type: ignore[return-value]


def _honesty(tracking: float, false_tracking: float) -> float:
    """What the second search maximises: TRACKING on right frames, once it is rare enough on wrong ones."""
    if false_tracking > FALSE_TRACKING:
        return -false_tracking
    return 0.0 if np.isnan(tracking) else tracking


def _search(
    value_of: Callable[[Mapping[str, float]], float],
    ranges: Mapping[str, tuple[float, float]],
    first: Mapping[str, float],
    trials: int,
    seed: int,
    tell: Tell | None = None,
) -> tuple[dict[str, float], float, float]:
    """The best point, its value, and the value of the first point."""
    try:
        import optuna
    except ImportError as error:
        raise MissingDependency("optuna", "tuning", "tune") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    # A point outside the ranges could not be asked for.
    study.enqueue_trial({name: min(max(first[name], low), high) for name, (low, high) in ranges.items()})

    def objective(trial: Any) -> float:
        return value_of({name: trial.suggest_float(name, low, high) for name, (low, high) in ranges.items()})

    def after(study: Any, trial: Any) -> None:
        if tell is not None:
            tell(trial.number + 1, trials, study.best_value)

    study.optimize(objective, n_trials=trials, callbacks=[after])
    return dict(study.best_params), float(study.best_value), float(study.trials[0].value or 0.0)


def write_tuned(tuned: Tuned, path: Path) -> None:
    """Write the result as TOML.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        path.write_text(tuned.to_toml(), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
