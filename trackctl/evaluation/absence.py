"""Clips whose target goes away and comes back, made from annotated ones, and what a tracker says meanwhile.

    black    the sensor shows nothing            frozen   it repeats one frame
    covered  what lies beside the target hides it
    left     a narrower virtual camera turns away until the target is out of view, and turns back

All numbers are [ours].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.confidence import Status
from trackctl.runtime.contract import Array
from trackctl.runtime.geometry import Box, Float64Array, iou

Kind = Literal["black", "frozen", "covered", "left"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# A box counts as on the target from this IoU on: tiny targets leave little room.
ON_TARGET = 0.3
# Side of what covers the target as a multiple of the target's, and its least side, px.
COVER, COVER_PX = 2.0, 16
# Width and height of the virtual camera as shares of the frame's, and the frames that one turn takes.
VIEW, TURN = 0.4, 8
# Share of its area from which on a target is wholly in view; not 1, because areas are rounded.
WHOLE = 1.0 - 1e-9


@dataclass(frozen=True, kw_only=True)
class AbsenceSpec:
    """The course of one clip, frames.

    Attributes:
        before: frames with the target, the first of which starts the tracker.
        away: frames without it.
        after: frames in which it is back; a tracker that follows it again within them has found it.
        every: distance between the starts of two clips of one sequence.
    """

    before: int = 30
    away: int = 40
    after: int = 30
    every: int = 100

    @property
    def frames(self) -> int:
        """Length of a clip."""
        return self.before + self.away + self.after


@dataclass(frozen=True, kw_only=True)
class AbsenceClip:
    """One clip.

    Attributes:
        kind: why the target is away.
        frames: its frames.
        truth_ltwh: (N, 4) boxes; NaN while the target is away, wholly or in part.
        away: (N,) whether the target is away wholly.
    """

    kind: Kind
    frames: Sequence[Array]
    truth_ltwh: Float64Array
    away: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class AbsenceScore:
    """What a tracker said in one clip.

    Attributes:
        kind: of the clip.
        tracking: share of the frames before the absence that are TRACKING.
        false_tracking: frames of the absence that are TRACKING, and how many there are.
        found: whether it was TRACKING on the target again before the clip ended.
    """

    kind: Kind
    tracking: float
    false_tracking: tuple[int, int]
    found: bool


def absence_clips(
    frames: Sequence[Array], truth_ltwh: Float64Array, spec: AbsenceSpec, kinds: Sequence[Kind] = KINDS
) -> Iterator[AbsenceClip]:
    """Clips of each kind, started every so many frames of an annotated sequence where the target is visible throughout.

    Args:
        frames: all of one shape and dtype.
        truth_ltwh: (N, 4), NaN where the target is absent.
        spec: the course of a clip.
        kinds: which to make; ``left`` is left out where the frame has no room to turn away.
    """
    for start in range(0, min(len(frames), len(truth_ltwh)) - spec.frames + 1, spec.every):
        part, truth = frames[start : start + spec.frames], truth_ltwh[start : start + spec.frames]
        if not np.isfinite(truth).all():
            continue
        for kind in kinds:
            clip = _left(part, truth, spec) if kind == "left" else _hidden(part, truth, spec, kind)
            if clip is not None:
                yield clip


def _hidden(frames: Sequence[Array], truth_ltwh: Float64Array, spec: AbsenceSpec, kind: Kind) -> AbsenceClip:
    away = np.zeros(len(frames), dtype=bool)
    away[spec.before : spec.before + spec.away] = True
    shown = list(frames)
    for index in np.flatnonzero(away).tolist():
        if kind == "black":
            shown[index] = np.zeros_like(frames[index])
        elif kind == "frozen":
            shown[index] = frames[spec.before - 1].copy()
        else:
            shown[index] = covered(frames[index], Box(*truth_ltwh[index]))
    truth = np.where(away[:, None], np.nan, truth_ltwh)
    return AbsenceClip(kind=kind, frames=shown, truth_ltwh=truth, away=away)


def covered(pixels: Array, box: Box) -> Array:
    """The frame with the box and its surroundings replaced by what lies beside them."""
    height, width = pixels.shape[:2]
    half_x, half_y = (max(COVER_PX, COVER * side) / 2 for side in (box.width, box.height))
    left, right = (round(min(max(box.centre_xy[0] + sign * half_x, 0), width)) for sign in (-1, 1))
    top, bottom = (round(min(max(box.centre_xy[1] + sign * half_y, 0), height)) for sign in (-1, 1))
    across, down = right - left, bottom - top
    shifts = [(across, 0), (-across, 0), (0, down), (0, -down), (across, down), (-across, -down)]
    inside = [(x, y) for x, y in shifts if left + x >= 0 and right + x <= width and top + y >= 0 and bottom + y <= height]
    hidden: Array = pixels.copy()
    if inside:
        x, y = inside[0]
        hidden[top:bottom, left:right] = pixels[top + y : bottom + y, left + x : right + x]
    else:  # the target fills the frame
        hidden[top:bottom, left:right] = np.rint(cv2.mean(pixels)[: max(1, pixels[0, 0].size)]).astype(pixels.dtype)
    return hidden


def _left(frames: Sequence[Array], truth_ltwh: Float64Array, spec: AbsenceSpec) -> AbsenceClip | None:
    size = np.array(frames[0].shape[1::-1])
    view = (VIEW * size).astype(int)
    room = size - view
    centre = truth_ltwh[:, :2] + truth_ltwh[:, 2:] / 2
    follow = np.clip(centre - view / 2, 0, room)
    aside = _aside(truth_ltwh[spec.before : spec.before + spec.away], view, room)
    if aside is None:
        return None
    axis, past = aside
    since, until = np.arange(spec.frames) - spec.before + 1, spec.before + spec.away - np.arange(spec.frames)
    turn = np.clip(np.minimum(since, until) / TURN, 0, 1)
    beyond = np.zeros(spec.frames)
    beyond[spec.before : spec.before + spec.away] = past
    follow[:, axis] += (beyond - follow[:, axis]) * turn
    corner = np.rint(follow).astype(int)
    shown = [
        np.ascontiguousarray(frame[y : y + view[1], x : x + view[0]])
        for frame, (x, y) in zip(frames, corner.tolist(), strict=True)
    ]
    moved = truth_ltwh - np.hstack((corner, np.zeros_like(corner)))
    overlap = np.minimum(moved[:, :2] + moved[:, 2:], view) - np.maximum(moved[:, :2], 0)
    seen = np.clip(overlap, 0, None).prod(axis=1) / moved[:, 2:].prod(axis=1)
    if (seen[: spec.before] < WHOLE).any() or (seen[spec.before + spec.away :] < WHOLE).any():
        return None
    truth = np.where((seen < WHOLE)[:, None], np.nan, moved)
    return AbsenceClip(kind="left", frames=shown, truth_ltwh=truth, away=seen == 0)


def _aside(truth_ltwh: Float64Array, view: NDArray[np.int_], room: NDArray[np.int_]) -> tuple[int, Float64Array] | None:
    """Axis and corner per frame of a view just past the target, on the first side that has room for all frames."""
    for axis in (0, 1):
        near, far = truth_ltwh[:, axis], truth_ltwh[:, axis] + truth_ltwh[:, axis + 2]
        for past in (far + 2.0, near - 2.0 - view[axis]):
            if (past >= 0).all() and (past <= room[axis]).all():
                return axis, past
    return None


def judge_absence(
    clip: AbsenceClip, spec: AbsenceSpec, follow: Callable[[AbsenceClip], Sequence[tuple[Box, Status]]]
) -> AbsenceScore:
    """What a tracker said in a clip.

    Args:
        clip: as made by :func:`absence_clips`.
        spec: as given there.
        follow: tracks a clip from its first frame and box; box and status of each further frame.
    """
    said = follow(clip)
    statuses = np.array([status is Status.TRACKING for _, status in said])
    overlap = np.array(
        [
            float(iou(box, Box(*truth))) if np.isfinite(truth).all() else 0.0
            for (box, _), truth in zip(said, clip.truth_ltwh[1:], strict=True)
        ]
    )
    away = clip.away[1:]
    back = spec.before + spec.away - 1
    return AbsenceScore(
        kind=clip.kind,
        tracking=float(statuses[: spec.before - 1].mean()),
        false_tracking=(int(statuses[away].sum()), int(away.sum())),
        found=bool((statuses & (overlap >= ON_TARGET))[back:].any()),
    )
