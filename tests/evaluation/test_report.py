"""The page: complete, self-contained, well-formed."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from rendered import make_bundle, make_otb

from trackctl.evaluation.pictures import RESULT_BGR, TRUTH_BGR, _draw
from trackctl.evaluation.report import Report
from trackctl.evaluation.run import evaluate
from trackctl.evaluation.sequence import DataSet
from trackctl.evaluation.svg import Line, line_chart, radar_chart
from trackctl.runtime.geometry import Box

VOID = {"meta", "img"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DataSet, Report]:
    folder = tmp_path_factory.mktemp("report")
    dataset = make_otb(folder / "otb <&>")
    bundles = [make_bundle(folder / name, f"{name}.trk").path for name in ("fp32", "int8")]
    return folder / "out", dataset, evaluate(bundles, dataset, folder / "out", engine="onnxruntime", realtime_fps=1e7)


@pytest.fixture(scope="module")
def page(made: tuple[Path, DataSet, Report]) -> str:
    return (made[0] / "report.html").read_text(encoding="utf-8")


class Balance(HTMLParser):
    """Checks that every element that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.names.append(tag)
        if tag not in VOID and tag not in ("br", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.names.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "path":
            assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_nothing_else(page: str) -> None:
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import|<script|https?://", page)
    for chart in re.findall(r"<svg.*?</svg>", page):
        ElementTree.fromstring(chart)


def test_the_page_has_all_parts(page: str, made: tuple[Path, DataSet, Report]) -> None:
    _, dataset, report = made
    assert page.count("<svg") == 4  # success, precision, normalised precision, radar
    for heading in ("Scores and speed", "Plots", "AUC by attribute", "AUC by sequence", "Worst frames"):
        assert heading in page
    for sequence in dataset.sequences:
        assert sequence.name in page
    for entry in report.entries:
        assert f"{entry.scores.overall['auc']:.3f}" in page and f"{entry.speed.fps:.1f}" in page
    assert page.count("late</th>") == 1 and "90.9%" in page
    assert len(re.findall("data:image/jpeg", page)) == 2 * 4


def test_pictures_are_jpegs(page: str) -> None:
    for data in re.findall(r"data:image/jpeg;base64,([\w+/=]+)", page):
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape == (240, 320, 3)


@pytest.mark.parametrize("pixels", [np.full((300, 400), 128, np.uint8), np.full((300, 400, 3), 128, np.uint8)])
def test_boxes_are_drawn_where_they_are(pixels: np.ndarray) -> None:
    # At the frame's corner, so that the picture shows 0..160 x 0..120 at twice the size.
    jpeg = _draw(pixels, Box(20, 20, 40, 30), Box(80, 60, 40, 20))
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(jpeg), np.uint8), cv2.IMREAD_COLOR).astype(int)
    for ink, left, top in ((TRUTH_BGR, 40, 40), (RESULT_BGR, 160, 120)):
        near = np.flatnonzero((np.abs(picture - np.array(ink)).sum(axis=2) < 90).any(axis=0))
        down = np.flatnonzero((np.abs(picture - np.array(ink)).sum(axis=2) < 90).any(axis=1))
        assert abs(near.min() - left) <= 2 and abs(near.max() - (left + 80)) <= 2
        assert abs(down.min() - top) <= 2


def test_boxes_far_outside_the_frame_are_drawn_too() -> None:
    counts = np.random.default_rng(0).integers(7000, 8000, (80, 96)).astype(np.uint16)
    assert _draw(counts, Box(0, 0, 10, 10), Box(-1e7, 1e7, 3, 3))
    assert _draw(counts, Box(0, 0, 96, 80), Box(90, 70, 1e5, 1e5))


def test_a_curve_goes_through_its_points() -> None:
    chart = line_chart([Line(name="a & b", x=np.array([0.0, 1.0]), y=np.array([1.0, 0.0]))], x_label="x", y_label="<y>")
    curve = next(node for node in ElementTree.fromstring(chart).iter() if node.get("class") == "curve")
    assert curve.get("d") == "M46.0 12.0L408.0 260.0"
    assert next(iter(curve)).text == "a & b"


def test_the_radar_ends_at_the_largest_value() -> None:
    chart = radar_chart(["up", "right", "down", "left"], [("one", [0.5, 0.25, float("nan"), 0.0])])
    area = next(node for node in ElementTree.fromstring(chart).iter() if node.get("class") == "curve area")
    assert area.get("d") == "M190.0 50.0L260.0 190.0L190.0 190.0L190.0 190.0Z"
