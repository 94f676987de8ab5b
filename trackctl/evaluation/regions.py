"""Overlap of polygons as the VOT toolkits count it: both are painted on the pixel grid.

The scan conversion follows the definition of the VOT/TraX region library, whose rules are part of the published numbers: corners
are rounded to pixels, both edges of a span and both ends of a column are painted, so that a box of width w covers w + 1 pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trackctl.evaluation.annotations import corners_of
from trackctl.runtime.geometry import Float64Array

# Painted rows held in memory at a time.
_CHUNK_ROWS = 200_000


def reset_overlap(truth_xy: Float64Array, result_xy: Float64Array, frame_hw: tuple[int, int]) -> Float64Array:
    """Overlap of paired polygons in [0, 1] by the rules of the reset challenges (TraX ``compute_polygon_overlap``).

    Args:
        truth_xy: (N, V, 2) corners.
        result_xy: (N, U, 2) corners. A box of width w has corners left and left + w.
        frame_hw: size of the frames; what lies outside does not count.
    """
    # The library stores float32; the rounding below depends on it.
    truth, result = truth_xy.astype(np.float32).astype(np.float64), result_xy.astype(np.float32).astype(np.float64)
    limit_xy = np.array([frame_hw[1] - 1.0, frame_hw[0] - 1.0])
    low, high = _bounds(truth, limit_xy)
    low_result, high_result = _bounds(result, limit_xy)
    # A shared edge or a box without area is no overlap, although its painted border would be.
    touch = (np.minimum(high, high_result) > np.maximum(low, low_result)).all(axis=1)
    overlap = np.zeros(len(truth))
    origin = np.minimum(low, low_result)[touch]
    first, second = (_away_from_zero(corners[touch] - origin[:, None]) for corners in (truth, result))
    overlap[touch] = _painted_overlap(first, second, limit_xy - origin)
    return overlap


def anchor_overlap(truth: Float64Array, result_ltwh: Float64Array, frame_hw: tuple[int, int]) -> Float64Array:
    """Overlap in [0, 1] by the rules of the VOT2020 toolkit: numbers round half to even, a box of width w covers w pixels.

    Args:
        truth: (N, 4) boxes or (N, V, 2) corners.
        result_ltwh: (N, 4) boxes.
        frame_hw: size of the frames.
    """
    limit_xy = np.array([frame_hw[1] - 1.0, frame_hw[0] - 1.0])
    first, second = _rounded_corners(truth), _rounded_corners(result_ltwh)
    low = np.minimum(first.min(axis=1), second.min(axis=1)).clip(0.0)
    high = np.minimum(np.maximum(first.max(axis=1), second.max(axis=1)), limit_xy)
    empty = (second[:, 2] < second[:, 0]).any(axis=1)
    if truth.ndim == 2:
        empty |= (first[:, 2] < first[:, 0]).any(axis=1)
    drawn = (low < high).all(axis=1) & ~empty
    overlap, origin = np.zeros(len(truth)), low[drawn]
    overlap[drawn] = _painted_overlap(first[drawn] - origin[:, None], second[drawn] - origin[:, None], limit_xy - origin)
    return overlap


def _rounded_corners(regions: Float64Array) -> Float64Array:
    """Whole-numbered corners (N, V, 2) of boxes (N, 4), whose right and bottom are the last covered pixels, or of polygons."""
    rounded = np.rint(regions.astype(np.float32).astype(np.float64))
    return corners_of(rounded - [0.0, 0.0, 1.0, 1.0]) if regions.ndim == 2 else rounded


def _bounds(corners: Float64Array, limit_xy: Float64Array) -> tuple[Float64Array, Float64Array]:
    return np.floor(corners.min(axis=1)).clip(0.0), np.minimum(np.ceil(corners.max(axis=1)), limit_xy)


def _away_from_zero(values: Float64Array) -> Float64Array:
    """C's round(): halves go away from zero; numpy's go to even."""
    rounded: Float64Array = np.copysign(np.floor(np.abs(values) + 0.5), values)
    return rounded


def _painted_overlap(first: Float64Array, second: Float64Array, limit_xy: Float64Array) -> Float64Array:
    """Pixels in both over pixels in either.

    Args:
        first: (N, V, 2) whole numbers. The toolkits move the origin of each pair to its top left before they compute crossings in
            floating point, so the caller has to do it, too.
        second: (N, U, 2).
        limit_xy: (N, 2) last column and row that count; the first are 0.
    """
    top = np.minimum(first[..., 1].min(axis=1), second[..., 1].min(axis=1)).clip(0.0).astype(np.int64)
    bottom = np.minimum(np.maximum(first[..., 1].max(axis=1), second[..., 1].max(axis=1)), limit_xy[:, 1]).astype(np.int64)
    rows = np.maximum(bottom - top + 1, 0)
    ends = np.cumsum(rows)
    overlap = np.zeros(len(first))
    start = 0
    while start < len(first):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _CHUNK_ROWS, side="right")))
        part = slice(start, stop)
        frame = np.repeat(np.arange(stop - start), rows[part])
        row = np.arange(len(frame), dtype=np.float64) + (top[part] - ends[part] + rows[part] + before)[frame]
        spans = [_spans(polygons[part], frame, row, limit_xy[part, 0]) for polygons in (first, second)]
        overlap[part] = _ratio(spans[0], spans[1], frame, stop - start)
        start = stop
    return overlap


# First and last painted column, (rows, S) each, of every span of every row; last < first where there is none.
Spans = tuple[Float64Array, Float64Array]


def _spans(polygons: Float64Array, frame: NDArray[np.int64], row: Float64Array, limit_x: Float64Array) -> Spans:
    if polygons.shape[1] == 4 and _is_upright(polygons):
        low, high = polygons.min(axis=1), polygons.max(axis=1)
        inside = (low[frame, 1] <= row) & (row <= high[frame, 1])
        last = np.where(inside, np.minimum(high[:, 0], limit_x)[frame], -1.0)
        return low[:, :1].clip(0.0)[frame], last[:, None]
    return _slanted_spans(polygons[frame], row, limit_x[frame])


def _is_upright(polygons: Float64Array) -> bool:
    """Whether all of the quadrilaterals are boxes."""
    x, y = polygons[..., 0], polygons[..., 1]
    wide = (x[:, 0] == x[:, 3]) & (x[:, 1] == x[:, 2]) & (y[:, 0] == y[:, 1]) & (y[:, 2] == y[:, 3])
    tall = (x[:, 0] == x[:, 1]) & (x[:, 2] == x[:, 3]) & (y[:, 0] == y[:, 3]) & (y[:, 1] == y[:, 2])
    return bool((wide | tall).all())


def _slanted_spans(corners: Float64Array, row: Float64Array, limit_x: Float64Array) -> Spans:
    """The spans of scan lines through polygons (rows, V, 2): where edges cross, sorted, taken in pairs."""
    before = np.roll(corners, 1, axis=1)
    y, rise = corners[..., 1], before[..., 1] - corners[..., 1]
    ahead = row[:, None] - y
    crosses = (np.minimum(rise, 0.0) <= ahead) & (ahead <= np.maximum(rise, 0.0))
    share = np.divide(ahead, rise, out=np.zeros_like(rise), where=rise != 0.0)
    nodes = np.where(crosses, np.trunc(corners[..., 0] + share * (before[..., 0] - corners[..., 0])), np.inf)
    nodes.sort(axis=1)
    count = crosses.sum(axis=1)
    first = np.zeros((len(row), max(corners.shape[1] // 2, 1)))
    last = np.full_like(first, -1.0)
    lines = np.arange(len(row))
    at, found = np.zeros(len(row), dtype=np.int64), np.zeros(len(row), dtype=np.int64)
    previous = np.full(len(row), -1.0)
    for _ in range(corners.shape[1] - 1):
        lines = lines[at[lines] < count[lines] - 1]
        left, right = nodes[lines, at[lines]], nodes[lines, at[lines] + 1]
        # A corner on the scan line gives its crossing twice; the second one counts unless the line ends there.
        double = (left == right) & (at[lines] < count[lines] - 2)
        start, stop = np.maximum(np.maximum(left, 0.0), previous[lines] + 1.0), np.minimum(right, limit_x[lines])
        drawn = ~double & (start <= stop)
        pair = lines[drawn]
        first[pair, found[pair]], last[pair, found[pair]] = start[drawn], stop[drawn]
        previous[pair] = stop[drawn]
        found[pair] += 1
        at[lines] += np.where(double, 1, 2)
    return first, last


def _ratio(a: Spans, b: Spans, frame: NDArray[np.int64], frames: int) -> Float64Array:
    def total(pixels: Float64Array) -> Float64Array:
        return np.bincount(frame, weights=pixels, minlength=frames).astype(np.float64)

    area_a, area_b = (np.maximum(last - first + 1.0, 0.0).sum(axis=1) for first, last in (a, b))
    both = np.minimum(a[1][:, :, None], b[1][:, None, :]) - np.maximum(a[0][:, :, None], b[0][:, None, :]) + 1.0
    # An empty span ends at -1, before every other begins.
    shared = total(np.maximum(both, 0.0).sum(axis=(1, 2)))
    union = total(area_a) + total(area_b) - shared
    return np.divide(shared, union, out=np.zeros(frames), where=union > 0.0)
