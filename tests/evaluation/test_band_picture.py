from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from trackctl.evaluation.band_picture import IMPORTANCE, SELECT, WEIGHT, BandReport
from trackctl.runtime.errors import InputError
from trackctl.runtime.sensor import Sensor

SENSOR = Sensor(positions=8, dead=(0,), wavelengths_nm=(0.5, *(700.0 - 20 * band for band in range(7))))


def outputs() -> dict[str, np.ndarray]:
    select = np.zeros((6, 7), np.float32)
    select[range(6), [4, 1, 0, 6, 2, 3]] = 1.0
    importance = np.array([[3, 4, 1.5, 1, 8, 0.5, 2]], np.float32)
    return {SELECT: select, WEIGHT: np.array([[3.0, 1.0]], np.float32), IMPORTANCE: importance}


def test_the_report_says_which_composite_shows_a_band() -> None:
    report = BandReport.read(outputs(), SENSOR)
    assert report.importance == pytest.approx([0.15, 0.2, 0.075, 0.05, 0.4, 0.025, 0.1])
    assert report.composites == ((4, 1, 0), (6, 2, 3))
    assert report.weights == (0.75, 0.25)
    assert [report.composite_of(band) for band in range(7)] == [0, 0, 1, 1, 0, None, 1]
    read = json.loads(json.dumps(report.to_json()))
    assert read["bands"][4] == {
        "band": 4, "position": 5, "wavelength_nm": 620.0, "importance": pytest.approx(0.4), "composite": 0,
    }  # fmt: skip
    assert read["composites"][1] == {"bands": [6, 2, 3], "weight": 0.25}


def test_the_picture_has_a_bar_per_band_in_the_order_of_wavelengths() -> None:
    report = BandReport.read(outputs(), SENSOR)
    root = ElementTree.fromstring(report.svg("a <b> & c"))
    bars = root.findall("{*}rect")
    titles = [bar.find("{*}title").text for bar in bars]  # type: ignore[union-attr]
    assert [title.split(":")[0] for title in titles] == [f"{nm} nm" for nm in range(580, 701, 20)]
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert max(heights) == heights[titles.index(next(title for title in titles if title.startswith("620")))]
    assert "dropped" in titles[1]
    assert len({bar.attrib["fill"] for bar in bars}) == 3


def test_a_tracker_that_ranks_no_bands_is_refused() -> None:
    with pytest.raises(InputError, match="band_select"):
        BandReport.read({WEIGHT: np.ones(2)}, SENSOR)
    with pytest.raises(InputError, match="importance of 7 bands, expected 8"):
        BandReport.read(outputs(), Sensor(positions=8))
