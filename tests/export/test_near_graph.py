"""The near graph: the middle of the search, exported, quantised, proven, and opened by the tracker."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from trackctl.calibration.record import Tap
from trackctl.export.near import middle, near_feeds, near_model
from trackctl.export.pipeline import Calibration, export, export_model, prepared_model
from trackctl.runtime.bundle import Bundle
from trackctl.runtime.confidence import ConfidenceSpec
from trackctl.runtime.engine import Engine
from trackctl.runtime.engines.openvino import OpenVinoEngine
from trackctl.runtime.geometry import boxes_array, iou
from trackctl.runtime.multi import MultiTracker
from trackctl.runtime.select import open_engines
from trackctl.runtime.sources.synth import Synth, SynthSpec
from trackctl.runtime.tracker import Tracker
from trackctl.training.dcfg import dcfg_edge
from trackctl.training.engine import example_inputs
from trackctl.training.model import SearchGraph
from trackctl.training.nanotrack import nanotrack_v2

MARGIN = 5  # cells of 8 px: a patch of 175 px


@pytest.fixture(scope="module")
def model(tiny):
    model = copy.deepcopy(tiny)
    model.near_margin = MARGIN
    return model


@pytest.fixture(scope="module")
def patches(footage):
    """A template and a search patch of the footage."""
    frames = iter(footage.source)
    pixels = torch.from_numpy(next(frames).pixels.astype(np.float32))[:255, :255]
    search = torch.nn.functional.pad(pixels, (0, 255 - pixels.shape[1], 0, 255 - pixels.shape[0]))[None, None].repeat(1, 3, 1, 1)
    return search[:, :, 64:191, 64:191], search


@pytest.mark.parametrize("make", [dcfg_edge, nanotrack_v2])
def test_cells_sizes_and_window_are_the_central_ones(make):
    model = make()
    near, margin = near_model(model), model.near_margin
    cells = model.decode.select.cells
    assert near.decode.select.cells == cells - 2 * margin
    assert near.crop.search_size == 255 - 2 * margin * model.decode.stride
    whole = model.decode.select.hann.reshape(-1, cells, cells)
    inner = whole[:, margin:-margin, margin:-margin]
    assert torch.equal(near.decode.select.hann.reshape(inner.shape), inner)
    assert near.near_margin == 0 and model.crop.search_size == 255
    places = near.decode.points if make is nanotrack_v2 else near.decode.boxes[:, :2]
    assert float(places.abs().max()) == (cells // 2 - margin) * model.decode.stride


def test_both_see_the_same_cells_the_same(model, patches):
    """But for the outermost ones, which the padding of a residual convolution reaches."""
    template, search = patches
    near = near_model(model)
    with torch.inference_mode():
        memory = model.template(template)
        whole = model.search(search, memory)
        inner = near.search(torch.from_numpy(middle(search.numpy(), near.crop.search_size)), memory)
    for a, b in zip(whole, inner, strict=True):
        cut = a[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]
        assert b.shape == cut.shape
        torch.testing.assert_close(b[:, :, 2:-2, 2:-2], cut[:, :, 2:-2, 2:-2], rtol=1e-4, atol=1e-5)


def test_both_choose_alike_among_the_central_cells(model):
    near = near_model(model)
    generator = torch.Generator().manual_seed(1)
    cells = model.decode.select.cells
    loc = 20.0 + torch.rand(1, 4, cells, cells, generator=generator)
    state = torch.tensor([[160.0, 128.0, 40.0, 36.0, 320.0, 256.0]])
    for row, column in ((12, 12), (7, 16), (18, 9)):
        cls = torch.randn(1, 2, cells, cells, generator=generator)
        cls[0, 1, row, column] += 30.0
        whole = model.decode(cls, loc, state)
        cut = (slice(None), slice(None), slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
        inner = near.decode(cls[cut], loc[cut], state)
        torch.testing.assert_close(inner[:2], whole[:2])


def test_it_does_less_than_half_of_the_work():
    def operations(model) -> int:
        _, search = example_inputs(model)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            SearchGraph(model)(*search.values())
        return counter.get_total_flops()

    model, _ = prepared_model("dcfg-edge")
    assert operations(near_model(model)) / operations(model) == pytest.approx(0.4425, abs=1e-4)


def test_feeds_are_cut_to_the_middle(graphs, model, feeds):
    from trackctl.export.graphs import export_patch_graph, fold_batch_norm

    graph = export_patch_graph(near_model(fold_batch_norm(model)), "search")
    cut = near_feeds(graph, feeds)
    assert [feed["search"].shape for feed in cut] == [(1, 3, 175, 175)] * len(feeds)
    np.testing.assert_array_equal(cut[0]["search"], feeds[0]["search"][:, :, 40:215, 40:215])
    assert cut[0]["state"] is feeds[0]["state"]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_bundle_holds_it_and_the_proof_covers_it(model, footage, tmp_path, precision):
    calibration = Calibration(footage=footage, limit=4) if precision == "int8" else None
    made = export_model(
        model, "tiny", out=tmp_path, precision=precision, calibration=calibration, footage=footage, threads=1, force=True
    )
    bundle = Bundle.open(made.bundle.path)
    assert sorted(bundle.manifest.graphs) == ["near", "search", "template"]
    assert list(made.report.cuts) == ["patch", "near"]
    near = made.report.cuts["near"]
    assert near.tensors["cls"].mixed < (1e-5 if precision == "fp32" else 1.0)
    assert near.step_iou > (0.9999 if precision == "fp32" else 0.8)
    for kind in ("openvino", "onnxruntime"):
        engines, _ = open_engines(bundle, kind, 1)
        assert engines.near is not None and engines.near.name.startswith(kind)
        engines.close()


@pytest.fixture(scope="module")
def clip():
    return Synth(SynthSpec(frames=40, size=(320, 256)))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return export("dcfg-edge", out=tmp_path_factory.mktemp("out"), frames=()).bundle


def test_the_default_tracker_goes_where_it_goes_without(bundle, clip):
    frames = [frame.pixels for frame in clip]
    searches: list[str] = []

    def opened(key: str) -> Tap:
        entry = bundle.graph(key)
        engine = OpenVinoEngine.open(
            bundle.graph_path(key), expected_inputs=entry.inputs, expected_outputs=entry.outputs, threads=1, precision="fp32"
        )
        return Tap(engine, lambda *_: searches.append(key))

    def follow(*engines: Engine):
        confidence = ConfidenceSpec.from_mapping(bundle.manifest.confidence)
        with Tracker(opened("template"), *engines, crop=bundle.manifest.crop, channels=1, confidence=confidence) as tracker:
            tracker.init(frames[0], clip.initial_box)
            return boxes_array([tracker.update(frame).box for frame in frames[1:]])

    without = follow(opened("search"))
    searches.clear()
    with_near = follow(opened("search"), opened("near"))
    assert searches.count("near") == len(frames) - 1  # TRACKING throughout
    assert searches.count("search") < 0.2 * len(frames)
    assert float(np.mean(iou(with_near, without))) > 0.95
    assert float(np.mean(iou(with_near, clip.boxes_ltwh[1:]))) > 0.5


@pytest.mark.slow
def test_several_targets_are_looked_for_near_first_as_if_each_were_alone(bundle, clip, tmp_path):
    """One of them is a piece of background, which is soon lost and looked for elsewhere; a slot is idle."""
    many = export("dcfg-edge", out=tmp_path, frames=(), targets=3).bundle
    assert sorted(many.manifest.graphs) == ["near", "search", "template"]
    frames = [frame.pixels for frame in clip]
    boxes = [clip.initial_box, (20.0, 20.0, 24.0, 18.0)]
    alone = [Tracker.open(bundle.path, engine="openvino", threads=1) for _ in boxes]
    for tracker, box in zip(alone, boxes, strict=True):
        tracker.init(frames[0], box)
    with MultiTracker.open(many.path, engine="openvino", threads=1) as together:
        targets = [together.add(frames[0], box) for box in boxes]
        said = []
        for frame in frames[1:]:
            results = together.update(frame)
            for target, tracker in zip(targets, alone, strict=True):
                expected = tracker.update(frame)
                np.testing.assert_allclose(results[target].box, expected.box, atol=1e-4)
                assert results[target].status is expected.status
            said.append([results[target].status.value for target in targets])
    assert {"TRACKING"} == {first for first, _ in said}
    assert {second for _, second in said} - {"TRACKING"}
