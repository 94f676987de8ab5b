"""What a calibration found, as the table of the bundle's report and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from trackctl.calibration.sensitivity import StepDrift
from trackctl.evaluation.svg import colour
from trackctl.export.int8 import Method
from trackctl.export.judge import Judge
from trackctl.export.layers import Layer
from trackctl.export.plan import Candidate, DriftBudget, LayerDrift
from trackctl.export.verify import rounded

_WIDTH, _ROW, _LEFT, _RIGHT, _TOP, _FONT = 900, 20, 300, 110, 64, 12
_INT8, _FLOAT = colour(0), colour(1)


def findings(
    judge: Judge,
    budget: DriftBudget,
    methods: Mapping[Method, StepDrift],
    method: Method,
    layers: Sequence[LayerDrift],
    candidates: Sequence[Candidate],
    chosen: Candidate,
    why: str,
) -> dict[str, Any]:
    """JSON values, rounded to four digits."""
    total = sum(found.layer.multiply_adds for found in layers)
    found: dict[str, Any] = rounded(
        {
            "budget": str(budget),
            "chosen": chosen.name,
            "why": why,
            "method": method,
            "methods": {name: _drift(drift) for name, drift in methods.items()},
            "frames": [
                {"clip": recorded.source, "frame": frame, "reason": reason}
                for recorded in judge.calibration
                for frame, reason in zip(recorded.frames, recorded.reasons, strict=True)
            ],
            "judged_on": {recorded.source: list(recorded.frames) for recorded in judge.judged},
            "layers": [
                {
                    "name": found.layer.name,
                    "share_of_work": found.layer.multiply_adds / total,
                    **_drift(found.drift),
                    "precision": "float" if found.layer in chosen.float_layers else chosen.name.split()[0],
                }
                for found in layers
            ],
            "candidates": [
                {
                    "name": each.name,
                    "engine": each.engine,
                    "float_layers": [layer.name for layer in each.float_layers],
                    **_drift(each.drift),
                    "auc": dict(each.auc),
                    "auc_lost": each.loss,
                    "holds": each.holds,
                    "ms": each.ms,
                    "time_by_fp16": each.against_fp16,
                }
                for each in candidates
            ],
        }
    )
    return found


def _drift(drift: StepDrift) -> dict[str, float]:
    return {"box_drift": drift.boxes, "worst_box_drift": drift.worst, "map_noise": drift.maps}


def sensitivity_chart(layers: Sequence[LayerDrift], float_layers: Sequence[Layer]) -> str:
    """An SVG file of bars, one per layer in the graph's order: its box drift when it alone is in int8.

    A thin line on each bar's row shows the noise of the maps on its own scale. Layers that the plan leaves in float have
    another colour and say so.

    Args:
        layers: at least one.
        float_layers: of the plan.
    """
    height = _TOP + _ROW * len(layers) + 34
    span = _WIDTH - _LEFT - _RIGHT
    most_drift = max(found.drift.boxes for found in layers) or 1.0
    most_noise = max(found.drift.maps for found in layers) or 1.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        f'font-size="{_FONT}" role="img" aria-label="box drift by layer">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        '<text x="16" y="24" font-size="15" font-weight="bold" fill="#222222">Box drift of one step, '
        "one layer in int8 at a time (1 - IoU with float32)</text>",
        f'<rect x="16" y="36" width="12" height="12" fill="{_INT8}"/><text x="34" y="46" fill="#444444">int8 in the plan</text>',
        f'<rect x="150" y="36" width="12" height="12" fill="{_FLOAT}"/><text x="168" y="46" fill="#444444">stays in float</text>',
        '<path d="M284 42h22" stroke="#222222" stroke-width="2"/>'
        f'<text x="312" y="46" fill="#444444">noise of the maps, 0 to {most_noise:.3f}</text>',
    ]
    for row, found in enumerate(layers):
        top = _TOP + row * _ROW
        ink = _FLOAT if found.layer in float_layers else _INT8
        bar, line = span * found.drift.boxes / most_drift, span * found.drift.maps / most_noise
        parts.append(
            f'<text x="{_LEFT - 8}" y="{top + 14}" text-anchor="end" fill="#222222">{escape(found.layer.name)}</text>'
            f'<rect x="{_LEFT}" y="{top + 4}" width="{max(bar, 1.0):.1f}" height="{_ROW - 8}" fill="{ink}"/>'
            f'<path d="M{_LEFT} {top + 17.5}h{max(line, 1.0):.1f}" stroke="#222222" stroke-width="2"/>'
            f'<text x="{_LEFT + max(bar, line) + 8:.1f}" y="{top + 14}" fill="#444444">{found.drift.boxes:.4f}</text>'
        )
    base = _TOP + _ROW * len(layers)
    parts.append(f'<path d="M{_LEFT} {_TOP}V{base}" stroke="#888888"/>')
    parts.append(
        f'<text x="{_LEFT}" y="{base + 20}" fill="#444444">0</text>'
        f'<text x="{_LEFT + span}" y="{base + 20}" text-anchor="end" fill="#444444">{most_drift:.4f}</text></svg>\n'
    )
    return "".join(parts)
