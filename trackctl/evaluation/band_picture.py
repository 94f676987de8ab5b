"""Which bands of a hyperspectral target matter, as numbers and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from trackctl.evaluation.svg import COLOURS
from trackctl.runtime.contract import Array
from trackctl.runtime.errors import InputError
from trackctl.runtime.sensor import Sensor

# Outputs of a template graph that ranks bands.
SELECT, WEIGHT, IMPORTANCE = "band_select", "branch_weight", "band_importance"

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 720, 300, 46, 34, 44
_DROPPED = "#bbbbbb"
_STYLE = (
    "<style>text{font:11px sans-serif;fill:#444}.grid{stroke:#ddd;fill:none}"
    "@media (prefers-color-scheme:dark){text{fill:#ccc}.grid{stroke:#444}}</style>"
)


@dataclass(frozen=True, kw_only=True)
class BandReport:
    """What a template says about the bands of its target.

    Attributes:
        importance: (C,) of each band, sums to 1.
        composites: the three bands of each composite, in its order.
        weights: share of each composite in the response, sums to 1.
        wavelengths_nm: centre of each band; empty when unknown.
        positions: position of each band in the sensor.
    """

    importance: tuple[float, ...]
    composites: tuple[tuple[int, ...], ...]
    weights: tuple[float, ...]
    wavelengths_nm: tuple[float, ...]
    positions: tuple[int, ...]

    @classmethod
    def read(cls, outputs: Mapping[str, Array], sensor: Sensor) -> BandReport:
        """The report of a template graph's outputs.

        Raises:
            InputError: the graph does not rank bands, or other ones than the sensor's.
        """
        if missing := [name for name in (SELECT, WEIGHT, IMPORTANCE) if name not in outputs]:
            raise InputError(
                f"got a template without {', '.join(missing)}, expected a tracker that ranks bands, such as bcrnet-edge"
            )
        importance = np.asarray(outputs[IMPORTANCE], dtype=np.float64).reshape(-1)
        select = np.asarray(outputs[SELECT], dtype=np.float64).reshape(-1, importance.size)
        weights = np.asarray(outputs[WEIGHT], dtype=np.float64).reshape(-1)
        if importance.size != sensor.count:
            raise InputError(f"got the importance of {importance.size} bands, expected {sensor.count} as the sensor has")
        chosen = select.argmax(axis=1).reshape(len(weights), -1)
        return cls(
            importance=tuple((importance / max(importance.sum(), 1e-12)).tolist()),
            composites=tuple(tuple(row) for row in chosen.tolist()),
            weights=tuple((weights / max(weights.sum(), 1e-12)).tolist()),
            wavelengths_nm=sensor.band_nm,
            positions=sensor.bands,
        )

    def composite_of(self, band: int) -> int | None:
        """Number of the composite that shows a band; None if it is dropped."""
        return next((index for index, bands in enumerate(self.composites) if band in bands), None)

    def name(self, band: int) -> str:
        """How a band is called: its wavelength, or its number."""
        return f"{self.wavelengths_nm[band]:.0f} nm" if self.wavelengths_nm else f"band {band}"

    def to_json(self) -> dict[str, Any]:
        """JSON values: one entry per band in the sensor's order, then the composites."""
        return {
            "bands": [
                {
                    "band": band,
                    "position": self.positions[band],
                    "wavelength_nm": self.wavelengths_nm[band] if self.wavelengths_nm else None,
                    "importance": value,
                    "composite": self.composite_of(band),
                }
                for band, value in enumerate(self.importance)
            ],
            "composites": [
                {"bands": list(bands), "weight": weight} for bands, weight in zip(self.composites, self.weights, strict=True)
            ],
        }

    def svg(self, title: str) -> str:
        """A bar per band, coloured by its composite; gray bars are dropped. With wavelengths they stand in their order."""
        order = np.argsort(self.wavelengths_nm or range(len(self.importance)), kind="stable").tolist()
        top = max(*self.importance, 1e-9)
        step = (_WIDTH - _LEFT - 12) / len(order)
        foot = _HEIGHT - _BOTTOM
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
            f'aria-label="band importance">{_STYLE}<text x="{_LEFT}" y="14">{escape(title)}</text>'
        ]
        for tick in range(5):
            y = foot - tick / 4 * (foot - _TOP)
            parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - 12}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * top * tick / 4:.1f}%</text>')
        # Labels of many bands would overlap.
        every = max(1, -(-len(order) // 26))
        for place, band in enumerate(order):
            composite = self.composite_of(band)
            colour = _DROPPED if composite is None else COLOURS[composite % (len(COLOURS) - 1)]
            height = self.importance[band] / top * (foot - _TOP)
            x = _LEFT + place * step
            told = "dropped" if composite is None else f"composite {composite + 1}, weight {self.weights[composite]:.3f}"
            parts.append(
                f'<rect x="{x + 0.1 * step:.1f}" y="{foot - height:.1f}" width="{0.8 * step:.1f}" height="{height:.1f}" '
                f'fill="{colour}"><title>{escape(self.name(band))}: {self.importance[band]:.4f}, {told}</title></rect>'
            )
            if place % every == 0:
                label = f"{self.wavelengths_nm[band]:.0f}" if self.wavelengths_nm else str(band)
                parts.append(f'<text x="{x + step / 2:.1f}" y="{foot + 15}" text-anchor="middle">{label}</text>')
        axis = "wavelength, nm" if self.wavelengths_nm else "band"
        parts.append(f'<text x="{(_WIDTH + _LEFT) / 2:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">{axis}</text></svg>')
        return "".join(parts)
