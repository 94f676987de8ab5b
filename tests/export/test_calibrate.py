"""A calibration from clips to a bundle that says what was found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trackctl.export import calibrate as module
from trackctl.export.calibrate import calibrate
from trackctl.export.judge import Material
from trackctl.export.plan import DriftBudget
from trackctl.runtime.bundle import Bundle
from trackctl.runtime.errors import InputError


@pytest.fixture(scope="module")
def calibrated(tiny, footage, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "prepared_model", lambda *_, **__: (tiny, {"weights": "initial"}))
        return calibrate(
            "tiny",
            Material(clips=[footage], judged=[replace(footage, frames=8)], frames=4, steps=4),
            out=tmp_path_factory.mktemp("out"),
            budget=DriftBudget.parse("step=1"),
            methods=("minmax", "percentile"),
            int8=True,
            engine="onnxruntime",
            threads=1,
        )


def test_the_bundle_holds_what_was_chosen(calibrated):
    assert calibrated.chosen.name == "int8"
    bundle = Bundle.open(calibrated.exported.bundle.path)
    assert bundle.path.name == "tiny-int8.trk"
    assert bundle.manifest.provenance["calibration_budget"] == "step=1"
    assert bundle.manifest.provenance["calibration_method"] == calibrated.method
    assert (bundle.path / "sensitivity.svg").read_text().startswith("<svg")


def test_the_report_says_what_was_found_and_why(calibrated):
    told = calibrated.exported.bundle.report()["calibration"]
    assert told["why"] == calibrated.why
    assert [found["name"] for found in told["layers"]] == ["dense", "residual", "neck", "heads.0.0", "heads.1.0"]
    assert sum(found["share_of_work"] for found in told["layers"]) == pytest.approx(1.0, abs=1e-3)
    assert all(found["precision"] == "int8" for found in told["layers"])
    assert [each["name"] for each in told["candidates"]] == ["fp32", "fp16", "int8"]
    assert len(told["frames"]) == 4
    assert all(frame["reason"] and frame["clip"].startswith("synth:") for frame in told["frames"])
    assert set(told["methods"]) == {"minmax", "percentile"}


def test_a_layer_alone_drifts_and_float32_does_not(calibrated):
    assert all(found.drift.maps > 1e-4 for found in calibrated.layers)
    fp32, _, int8 = calibrated.candidates
    assert fp32.drift.boxes == 0.0
    assert int8.drift.maps >= 0.5 * max(found.drift.maps for found in calibrated.layers)
    best = min(calibrated.methods, key=lambda method: (calibrated.methods[method].boxes, calibrated.methods[method].maps))
    assert calibrated.method == best


def test_what_cannot_be_judged_is_refused(footage, tmp_path):
    unknown = replace(footage, truth_ltwh=None)
    with pytest.raises(InputError, match=r"got the budget auc=0\.01 without an annotated clip"):
        calibrate("tiny", Material(clips=[unknown], judged=[unknown]), out=tmp_path, budget=DriftBudget.parse("auc=0.01"))
    with pytest.raises(InputError, match="expected each name once"):
        Material(clips=[footage], judged=[footage, footage])
    with pytest.raises(InputError, match="got 0 calibration clips"):
        Material(clips=[], judged=[footage])
