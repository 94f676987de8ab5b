"""One-pass evaluation: success, precision and normalised precision, with the variants that papers use. No input is modified.

Success and precision: Wu, Lim, Yang, Online object tracking: a benchmark, CVPR 2013. Normalised precision: Mueller et al.,
TrackingNet, ECCV 2018, equation 1 (the error in x and y divided by the annotated width and height). Average overlap: Huang et
al., GOT-10k, PAMI 2021. Maximum precision and success rate: Li et al., RGB-T object tracking: benchmark and baseline, Pattern
Recognition 2019.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trackctl.evaluation.annotations import has_area
from trackctl.evaluation.protocol import OpeProtocol
from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Float64Array, iou

# Points of the precision and normalised precision plots; the latter ends at this share of the annotated size.
_ERROR_POINTS = 51
_NORM_ERROR_MAX = 0.5
# Where toolkits that report a single normalised precision read its plot (LaSOT, pysot).
_NORM_ERROR_READ = 0.2


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How results agree with the annotation, frame by frame of those that count.

    Attributes:
        overlap: IoU, -1 where the OTB toolkit counts a frame without target as a miss.
        error_px: distance of the centres, -1 there.
        error_norm: the same with x and y divided by the annotated width and height.
    """

    overlap: Float64Array
    error_px: Float64Array
    error_norm: Float64Array

    def __len__(self) -> int:
        return len(self.overlap)


def agreement(
    truth_ltwh: Float64Array,
    result_ltwh: Float64Array,
    protocol: OpeProtocol,
    *,
    infrared_ltwh: Float64Array | None = None,
    frame_hw: tuple[int, int] | None = None,
) -> Agreement:
    """How the boxes of one sequence agree with its annotation.

    Args:
        truth_ltwh: (N, 4), NaN or without area where the target is absent.
        result_ltwh: (N, 4) finite boxes.
        protocol: the variant.
        infrared_ltwh: (N, 4) the second annotation of an RGB-T pair; used when the protocol has ``both_cameras``.
        frame_hw: size of the frames, used when the protocol has ``clip``.

    Raises:
        InputError: the lengths differ, a result is not finite or the first frame has no target.
    """
    truth, result = np.asarray(truth_ltwh, dtype=np.float64), np.asarray(result_ltwh, dtype=np.float64)
    if truth.shape != result.shape or truth.ndim != 2 or truth.shape[1] != 4 or not len(truth):
        raise InputError(f"got boxes {result.shape} for an annotation {truth.shape}, expected two (N, 4) of the same length")
    if not np.isfinite(result).all():
        raise InputError("got a result that is not finite, expected four numbers per frame")
    present = has_area(truth)
    if not present[0]:
        raise InputError("got an annotation without target in its first frame, expected a box to start from")
    if protocol.repair:
        result = _last_with_area(result)
    if protocol.first_frame == "right":
        result = np.concatenate([truth[:1], result[1:]])
    measured = _measure(truth, result, protocol, frame_hw)
    if protocol.both_cameras and infrared_ltwh is not None:
        other = _measure(np.asarray(infrared_ltwh, dtype=np.float64), result, protocol, frame_hw)
        measured = np.stack([np.fmax(measured[0], other[0]), *np.fmin(measured[1:], other[1:])])
    counted = present.copy() if protocol.absent == "skip" else np.ones_like(present)
    measured = np.where(present, measured, -1.0)
    if protocol.first_frame == "skip":
        counted[0] = False
    overlap, error_px, error_norm = measured[:, counted]
    return Agreement(overlap=overlap, error_px=error_px, error_norm=error_norm)


def _measure(truth: Float64Array, result: Float64Array, protocol: OpeProtocol, frame_hw: tuple[int, int] | None) -> Float64Array:
    """(3, N): IoU, centre error in pixels, centre error by the annotated size; NaN where the annotation is."""
    offset = result[:, :2] + result[:, 2:] / 2 - (truth[:, :2] + truth[:, 2:] / 2)
    size = truth[:, 2:]
    scaled = np.divide(offset, size, out=np.zeros_like(offset), where=size > 0.0)
    if protocol.clip and frame_hw is not None:
        truth, result = _clipped(truth, frame_hw), _clipped(result, frame_hw)
    grown = np.array([0.0, 0.0, 1.0, 1.0]) if protocol.plus_one else 0.0
    return np.stack([iou(truth + grown, result + grown), np.hypot(*offset.T), np.hypot(*scaled.T)])


def _clipped(boxes: Float64Array, frame_hw: tuple[int, int]) -> Float64Array:
    limit = np.array([frame_hw[1], frame_hw[0]], dtype=np.float64)
    low = np.clip(boxes[:, :2], 0.0, limit)
    return np.concatenate([low, np.clip(boxes[:, :2] + boxes[:, 2:], 0.0, limit) - low], axis=1)


def _last_with_area(boxes: Float64Array) -> Float64Array:
    usable = has_area(boxes)
    usable[0] = True
    return boxes[np.maximum.accumulate(np.where(usable, np.arange(len(boxes)), 0))]


def thresholds(protocol: OpeProtocol) -> dict[str, Float64Array]:
    """The horizontal axes of the plots: ``success``, ``precision`` (pixels) and ``norm_precision``."""
    return {
        # Whole divisions, so that 0.6 is the number that a reader would write.
        "success": np.arange(protocol.overlaps) / (protocol.overlaps - 1),
        "precision": np.linspace(0.0, protocol.precision_max_px, _ERROR_POINTS),
        "norm_precision": np.arange(_ERROR_POINTS) * _NORM_ERROR_MAX / (_ERROR_POINTS - 1),
    }


def curves(frames: Agreement, protocol: OpeProtocol) -> dict[str, Float64Array]:
    """The plots of one sequence (or of pooled frames): share of frames at every threshold."""
    axes = thresholds(protocol)
    # On a sorted array, the number of values above t is what is right of the place where t would go.
    side: Literal["left", "right"] = "right" if protocol.strict else "left"
    overlap = np.sort(frames.overlap)
    above = len(overlap) - np.searchsorted(overlap, axes["success"], side=side)
    plots = {"success": above / len(overlap)}
    for name, error in (("precision", frames.error_px), ("norm_precision", frames.error_norm)):
        plots[name] = np.searchsorted(np.sort(error), axes[name], side="right") / len(error)
    return plots


def summary(frames: Agreement, plots: Mapping[str, Float64Array], protocol: OpeProtocol) -> dict[str, float]:
    """The numbers of papers.

    ``auc``, ``precision``, ``norm_precision`` (area under its plot), ``norm_precision_at_0.2``, ``ao`` (average overlap),
    ``sr_0.5`` and ``sr_0.75`` (share of frames with more overlap), all in 0..1.

    Args:
        frames: used for ``ao`` and the success rates, whose thresholds need not be points of the plot.
        plots: as :func:`curves` gives them, or means of such.
        protocol: the variant.
    """
    axes = thresholds(protocol)

    def area(name: str) -> float:
        points = plots[name]
        inner = points.sum() - (0.5 * (points[0] + points[-1]) if protocol.area == "trapezoid" else 0.0)
        return float(inner / (len(points) - (1 if protocol.area == "trapezoid" else 0)))

    def read(name: str, at: float) -> float:
        return float(plots[name][int(np.argmin(np.abs(axes[name] - at)))])

    return {
        "auc": area("success"),
        "precision": read("precision", protocol.precision_px),
        "norm_precision": area("norm_precision"),
        "norm_precision_at_0.2": read("norm_precision", _NORM_ERROR_READ),
        "ao": float(frames.overlap.clip(0.0).mean()),
        "sr_0.5": float((frames.overlap > 0.5).mean()),
        "sr_0.75": float((frames.overlap > 0.75).mean()),
    }


@dataclass(frozen=True, kw_only=True)
class OpeScores:
    """Scores of a tracker over several sequences.

    Attributes:
        overall: see :func:`summary`; means over sequences, or over all frames when the protocol pools.
        plots: ``success``, ``precision``, ``norm_precision`` in the same way.
        sequences: the same numbers for each sequence.
        attributes: the same for the sequences with each attribute, with their number as ``sequences``.
    """

    overall: dict[str, float]
    plots: dict[str, Float64Array]
    sequences: dict[str, dict[str, float]]
    attributes: dict[str, dict[str, float]]


def score_ope(frames: Mapping[str, Agreement], attributes: Mapping[str, Iterable[str]], protocol: OpeProtocol) -> OpeScores:
    """The scores of one tracker.

    Args:
        frames: per sequence.
        attributes: of every sequence.
        protocol: the variant.

    Raises:
        InputError: a sequence has no frame that counts.
    """
    for name, part in frames.items():
        if not len(part):
            raise InputError(f"the sequence {name!r} has no frame that counts, expected one with a target after the first")
    plots = {name: curves(part, protocol) for name, part in frames.items()}
    rows = {name: summary(part, plots[name], protocol) for name, part in frames.items()}
    overall_plots, overall = _together(list(frames), frames, plots, rows, protocol)
    marked: dict[str, list[str]] = {}
    for name in frames:
        for attribute in attributes.get(name, ()):
            marked.setdefault(attribute, []).append(name)
    by_attribute = {
        attribute: {**_together(names, frames, plots, rows, protocol)[1], "sequences": float(len(names))}
        for attribute, names in sorted(marked.items())
    }
    return OpeScores(overall=overall, plots=overall_plots, sequences=rows, attributes=by_attribute)


def _together(
    names: list[str],
    frames: Mapping[str, Agreement],
    plots: Mapping[str, Mapping[str, Float64Array]],
    rows: Mapping[str, Mapping[str, float]],
    protocol: OpeProtocol,
) -> tuple[dict[str, Float64Array], dict[str, float]]:
    weights = np.array([len(frames[name]) if protocol.pooled else 1 for name in names], dtype=np.float64)
    weights /= weights.sum()
    # Every number is a share of frames or linear in such shares, so that pooling is a mean weighted by lengths.
    return (
        {axis: np.tensordot(weights, np.stack([plots[name][axis] for name in names]), axes=1) for axis in plots[names[0]]},
        {key: float(weights @ np.array([rows[name][key] for name in names])) for key in rows[names[0]]},
    )
