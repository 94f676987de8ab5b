"""Line charts and radar charts as SVG text that takes its ink from the page's style sheet.

Written here because a report needs two kinds of chart, and a plotting library would be a hundred times the size of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from trackctl.runtime.geometry import Float64Array

# Tol's bright palette: told apart by the colour-blind, on white and on dark gray.
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")

_WIDTH, _HEIGHT = 420, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 40
_RADAR, _RADIUS = 380, 140


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve; x and y (K,). NaN ends it. ``series`` numbers its colour."""

    name: str
    x: Float64Array
    y: Float64Array
    series: int = 0
    dashed: bool = False


def colour(series: int) -> str:
    """The colour of a series; after seven they repeat."""
    return COLOURS[series % len(COLOURS)]


def line_chart(lines: Sequence[Line], *, x_label: str, y_label: str, mark_x: float | None = None) -> str:
    """A chart with its vertical axis from 0 to 1.

    Args:
        lines: at least one.
        x_label, y_label: of the axes.
        mark_x: where papers read the curve.
    """
    low, high = min(float(line.x.min()) for line in lines), max(float(line.x.max()) for line in lines)
    span = high - low or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = (x - low) / span, y
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(y_label)} over {escape(x_label)}">']
    for step in range(6):
        y = step / 5
        (x0, y0), (x1, _) = at(low, y), at(high, y)
        parts.append(f'<path class="grid" d="M{x0:.1f} {y0:.1f}H{x1:.1f}"/>')
        parts.append(f'<text x="{x0 - 7:.1f}" y="{y0 + 4:.1f}" text-anchor="end">{y:.1f}</text>')
        x = low + step * span / 5
        x0, y0 = at(x, 0.0)
        parts.append(f'<text x="{x0:.1f}" y="{y0 + 17:.1f}" text-anchor="middle">{x:.3g}</text>')
    if mark_x is not None:
        (x0, y0), (_, y1) = at(mark_x, 0.0), at(mark_x, 1.0)
        parts.append(f'<path class="mark" d="M{x0:.1f} {y0:.1f}V{y1:.1f}"/>')
    for line in lines:
        # A curve of ten thousand points is thinned to what a screen can show.
        every = max(1, len(line.x) // 400)
        points = [(x, y) for x, y in zip(line.x[::every].tolist(), line.y[::every].tolist(), strict=True) if math.isfinite(y)]
        path = "L".join("{:.1f} {:.1f}".format(*at(x, y)) for x, y in points)
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        parts.append(
            f'<path class="curve" stroke="{colour(line.series)}"{dash} d="M{path}"><title>{escape(line.name)}</title></path>'
        )
    parts.append(
        f'<text class="label" x="{(_WIDTH + _LEFT) / 2:.0f}" y="{_HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>'
    )
    middle = (_HEIGHT - _BOTTOM + _TOP) / 2
    parts.append(
        f'<text class="label" x="12" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 12 {middle:.0f})">'
        f"{escape(y_label)}</text></svg>"
    )
    return "".join(parts)


def radar_chart(spokes: Sequence[str], rings: Sequence[tuple[str, Sequence[float]]]) -> str:
    """A chart with one spoke per attribute, from 0 in the middle to the largest value, rounded up to a tenth.

    Args:
        spokes: three or more labels, clockwise from the top.
        rings: a name and one value (0..1) per spoke for each series.
    """
    centre = _RADAR / 2
    top = max((value for _, values in rings for value in values if math.isfinite(value)), default=0.0)
    top = max(math.ceil(top * 10) / 10, 0.1)

    def at(spoke: int, value: float) -> tuple[float, float]:
        angle = 2 * math.pi * spoke / len(spokes)
        radius = _RADIUS * value / top
        return centre + radius * math.sin(angle), centre - radius * math.cos(angle)

    def closed(values: Sequence[float]) -> str:
        corners = (at(spoke, value if math.isfinite(value) else 0.0) for spoke, value in enumerate(values))
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners) + "Z"

    parts = [f'<svg viewBox="0 0 {_RADAR} {_RADAR}" role="img" aria-label="scores by attribute">']
    for step in range(1, 5):
        parts.append(f'<path class="grid" d="{closed([top * step / 4] * len(spokes))}"/>')
        x, y = at(0, top * step / 4)
        parts.append(f'<text x="{x + 4:.1f}" y="{y + 11:.1f}">{top * step / 4:.2g}</text>')
    for spoke, label in enumerate(spokes):
        (x0, y0), (x, y) = at(spoke, top), at(spoke, top * 1.08)
        parts.append(f'<path class="grid" d="M{centre} {centre}L{x0:.1f} {y0:.1f}"/>')
        side = "middle" if abs(x - centre) < 12 else "start" if x > centre else "end"
        parts.append(f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="{side}">{escape(label)}</text>')
    for series, (name, values) in enumerate(rings):
        parts.append(
            f'<path class="curve area" stroke="{colour(series)}" fill="{colour(series)}" d="{closed(values)}">'
            f"<title>{escape(name)}</title></path>"
        )
    return "".join(parts) + "</svg>"
