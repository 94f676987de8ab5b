"""trackctl bands, with engines that answer at once."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from trackctl.cli import main
from trackctl.evaluation.band_picture import IMPORTANCE, SELECT, WEIGHT
from trackctl.runtime.contract import QUALITY_OUT, SCORE, SEARCH_PATCH, STATE_IN, STATE_OUT, TEMPLATE_PATCH, TensorSpec
from trackctl.runtime.engine import Engines, FunctionEngine
from trackctl.runtime.geometry import CropSpec

BANDS = 9


def ranked(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Ranks the bands by the mean of the template, in three composites."""
    importance = feeds[TEMPLATE_PATCH].mean(axis=(2, 3))
    order = np.argsort(-importance[0])
    select = np.eye(BANDS, dtype=np.float32)[order]
    return {SELECT: select, WEIGHT: importance[:, order].reshape(1, 3, 3).sum(axis=2), IMPORTANCE: importance}


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch) -> str:
    state, crop = TensorSpec("float32", (1, 6)), CropSpec()
    outputs = {
        SELECT: TensorSpec("float32", (BANDS, BANDS)), WEIGHT: TensorSpec("float32", (1, 3)),
        IMPORTANCE: TensorSpec("float32", (1, BANDS)),
    }  # fmt: skip
    found = {STATE_OUT: state, SCORE: TensorSpec("float32", (1, 1)), QUALITY_OUT: TensorSpec("float32", (1, 3))}
    patches = [TensorSpec("float32", (1, BANDS, size, size)) for size in (crop.template_size, crop.search_size)]

    def open_engines(*_: object) -> tuple[Engines, None]:
        template = FunctionEngine(ranked, {TEMPLATE_PATCH: patches[0]}, outputs)
        return Engines(template, FunctionEngine(lambda feeds: {}, {SEARCH_PATCH: patches[1], STATE_IN: state}, found)), None

    manifest = SimpleNamespace(crop=crop, channels=BANDS)
    monkeypatch.setattr("trackctl.runtime.bundle.Bundle.open", lambda path: SimpleNamespace(manifest=manifest))
    monkeypatch.setattr("trackctl.runtime.select.open_engines", open_engines)
    return "bcrnet.trk"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["trackctl", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_bands_are_printed_drawn_and_written(
    bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "out" / "bands.svg"
    source = f"synth:hsi?frames=2&size=96x80&bands={BANDS}"
    assert run(monkeypatch, "bands", bundle, source, "--out", picture, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(picture.with_suffix(".json").read_text())
    assert sum(band["importance"] for band in printed["bands"]) == pytest.approx(1.0)
    assert len({band["importance"] for band in printed["bands"]}) == BANDS
    assert printed["bands"][0]["wavelength_nm"] == 460.0
    assert picture.read_text().count("<rect") == BANDS
    assert run(monkeypatch, "bands", bundle, source, "--out", picture) == 0
    assert "460 nm" in capsys.readouterr().out


def test_a_source_without_bands_is_refused(
    bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "bands", bundle, "synth:?frames=2&size=96x80", "--out", tmp_path / "a.svg") == 2
    assert "which has no bands" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
