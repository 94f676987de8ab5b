"""One search for several targets gives each what a search of its own would."""

from __future__ import annotations

import numpy as np
import pytest

from trackctl.export.pipeline import Calibration, export_model
from trackctl.runtime.errors import BundleError, InputError
from trackctl.runtime.multi import MultiTracker
from trackctl.runtime.tracker import Tracker

TARGETS = 3


@pytest.fixture(scope="module", params=["fp32", "int8"])
def bundles(request, tiny, footage, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    shared = {"out": out, "precision": request.param, "threads": 1, "force": True}
    if request.param == "int8":
        shared["calibration"] = Calibration(footage=footage, limit=4)
    single = export_model(tiny, "tiny", **shared).bundle
    many = export_model(tiny, "tiny", targets=TARGETS, footage=footage, **shared)
    return single, many


def test_every_target_is_followed_as_if_it_were_alone(bundles, footage):
    single, many = bundles[0].path, bundles[1].bundle.path
    frames = [frame.pixels for frame in footage]
    left, top, width, height = footage.box
    boxes = [(left + 9 * index, top - 5 * index, width, height) for index in range(TARGETS)]
    with MultiTracker.open(many, engine="onnxruntime", threads=1) as together:
        targets = [together.add(frames[0], box) for box in boxes]
        alone = [Tracker.open(single, engine="onnxruntime", threads=1) for _ in boxes]
        for tracker, box in zip(alone, boxes, strict=True):
            tracker.init(frames[0], box)
        for frame in frames[1:6]:
            results = together.update(frame)
            for target, tracker in zip(targets, alone, strict=True):
                expected = tracker.update(frame)
                np.testing.assert_allclose(results[target].box, expected.box, atol=1e-4)
                assert results[target].score == pytest.approx(expected.score, abs=1e-4)
                assert results[target].status is expected.status


def test_the_bundle_is_verified_and_says_what_it_is_for(bundles):
    exported = bundles[1]
    assert exported.bundle.path.name.endswith(f"-x{TARGETS}.trk")
    assert exported.bundle.manifest.targets == TARGETS
    assert bundles[0].manifest.targets == 1
    assert exported.report.cuts["patch"].step_iou > 0.8
    with pytest.raises(BundleError, match=f"was made for {TARGETS} targets at a time: open it with MultiTracker"):
        Tracker.open(exported.bundle.path)


def test_no_targets_and_frame_graphs_for_several_are_refused(tiny, tmp_path):
    from trackctl.export.frame_graph import FrameFormat

    for targets, frames in ((0, ()), (2, (FrameFormat(frame_hw=(256, 320)),))):
        with pytest.raises(InputError, match=f"got {targets} targets and {len(frames)} frame formats"):
            export_model(tiny, "tiny", out=tmp_path, targets=targets, frames=frames)
