"""A tracker of grey patches instead of colour ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_tracker import tiny_tracker

from trackctl.calibration.footage import Footage
from trackctl.export.frame_graph import FrameFormat
from trackctl.export.gray import gray_model
from trackctl.export.pipeline import export, model_of
from trackctl.runtime.errors import ExportError
from trackctl.runtime.sources.synth import Synth, SynthSpec
from trackctl.training.zoo import build


@pytest.mark.parametrize("name", ["dcfg-edge", "nanotrack-v1", "nanotrack-v3"])
def test_a_gray_patch_gives_the_maps_of_its_three_copies(name: str) -> None:
    model = build(name)
    gray = gray_model(model)
    patch = torch.rand(1, 1, 127, 127, generator=torch.Generator().manual_seed(0)) * 255
    search = torch.rand(1, 1, 255, 255, generator=torch.Generator().manual_seed(1)) * 255
    with torch.inference_mode():
        expected = model.search(search.expand(-1, 3, -1, -1), model.template(patch.expand(-1, 3, -1, -1)))
        found = gray.search(search, gray.template(patch))
    for map_, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(map_, reference, rtol=1e-3, atol=1e-3 * float(reference.abs().max()))
    assert (model.channels, gray.channels) == (3, 1)


@pytest.mark.slow
def test_the_default_model_is_exported_for_gray_patches_and_proved(tmp_path) -> None:
    source = Synth(SynthSpec(frames=4, size=(160, 128)))
    footage = Footage(source=source, box=source.initial_box, frames=4)
    forms = [FrameFormat(frame_hw=(128, 160), layout=layout) for layout in ("gray8", "bgr8")]
    exported = export("dcfg-edge", out=tmp_path, frames=forms, footage=footage, threads=1)
    assert exported.bundle.manifest.channels == 1
    assert exported.report is not None
    assert not exported.report.failures
    assert model_of(exported.bundle).channels == 1
    assert export("dcfg-edge", out=tmp_path, frames=[], gray=False).bundle.manifest.channels == 3


def test_a_gray_model_cannot_become_gray() -> None:
    with pytest.raises(ExportError, match=r"expected three channels .* without gray"):
        gray_model(gray_model(tiny_tracker()))
