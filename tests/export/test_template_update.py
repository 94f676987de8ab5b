"""A template that takes back what it gave: in PyTorch, in its graphs and in the Tracker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_tracker import TinyTracker, tiny_tracker
from torch import Tensor

from trackctl.export.frame_graph import FrameFormat
from trackctl.export.pipeline import export_model
from trackctl.export.verify import PATCH_CUT
from trackctl.runtime.contract import PREVIOUS, RATE
from trackctl.runtime.errors import InputError
from trackctl.runtime.sources.synth import Synth, SynthSpec
from trackctl.runtime.tracker import TemplateUpdate, Tracker
from trackctl.training.engine import example_inputs, torch_engines

ALWAYS = TemplateUpdate(every=2, above=0.0, rate=0.5)


class LearningTracker(TinyTracker):
    """Keeps the features that its two kernels are made of."""

    kept_names = ("features",)

    def refresh(self, patch: Tensor, kept: Sequence[Tensor] | None = None, rate: Tensor | None = None) -> tuple[Tensor, ...]:
        features = self.features(patch)
        if kept is not None and rate is not None:
            features = (1.0 - rate) * kept[0] + rate * features
        kernel = features[:, :, 4:11, 4:11] / 49.0
        return kernel, kernel.flip(1), features


def learning_tracker() -> LearningTracker:
    model = LearningTracker()
    model.load_state_dict(tiny_tracker().state_dict())
    return model.eval()


def clip() -> Synth:
    return Synth(SynthSpec(frames=8, size=(160, 128)))


def boxes(tracker: Tracker) -> np.ndarray:
    source, found = clip(), []
    for position, frame in enumerate(source):
        if position == 0:
            tracker.init(frame, source.initial_box)
        else:
            found.append(tracker.update(frame).box)
    return np.array(found)


def believing(tracker: Tracker) -> Tracker:
    """With thresholds that call every frame of an untrained model TRACKING."""
    tracker._confidence_spec = replace(tracker._confidence_spec, sure_score=0.0, lost_score=0.0, sure_psr=-1e9)
    return tracker


def test_the_first_frame_forgets_what_was_kept() -> None:
    model = learning_tracker()
    patch = torch.rand(1, 3, 127, 127) * 255
    template, _ = example_inputs(model)
    kept = torch.rand_like(template[PREVIOUS + "features"])
    first, same = model.refresh(patch), model.refresh(patch, [kept], torch.ones(1, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert list(template) == ["template", RATE, PREVIOUS + "features"]


def test_updates_change_what_is_found_and_the_graphs_follow_the_model(tmp_path) -> None:
    model = learning_tracker()
    crop = model.crop
    with Tracker(*torch_engines(model), crop=crop) as tracker:
        steady = boxes(tracker)
    with believing(Tracker(*torch_engines(model), crop=crop, template_update=ALWAYS)) as tracker:
        renewed = boxes(tracker)
        again = boxes(tracker)
    assert not np.array_equal(steady, renewed)
    np.testing.assert_array_equal(renewed, again)
    bundle = export_model(model, "learning", out=tmp_path, frames=[FrameFormat(frame_hw=(128, 160))]).bundle
    assert set(bundle.graph("template").outputs) == {"z_cls", "z_loc", "features"}
    with believing(Tracker.open(bundle.path, engine="onnxruntime", threads=1, template_update=ALWAYS)) as tracker:
        np.testing.assert_allclose(boxes(tracker), renewed, atol=1e-2)


def test_its_graphs_are_verified_like_any_other(tmp_path) -> None:
    from trackctl.calibration.footage import Footage

    source = clip()
    exported = export_model(
        learning_tracker(),
        "learning",
        out=tmp_path,
        frames=[FrameFormat(frame_hw=(128, 160))],
        footage=Footage(source=source, box=source.initial_box, frames=4),
        threads=1,
    )
    assert exported.report is not None
    assert not exported.report.failures
    assert "features" in exported.report.cuts[PATCH_CUT].tensors


def test_a_template_that_cannot_be_updated_says_so() -> None:
    with pytest.raises(InputError, match=r"cannot be updated: leave it out"):
        Tracker(*torch_engines(tiny_tracker()), crop=tiny_tracker().crop, template_update=ALWAYS)
    with pytest.raises(InputError, match=r"every 0"):
        TemplateUpdate(every=0)
