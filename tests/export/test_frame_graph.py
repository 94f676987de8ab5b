"""Frame graphs: the patch graph behind a crop, for every sensor layout."""

from __future__ import annotations

import cv2
import numpy as np
import onnx
import pytest
from onnxruntime import InferenceSession

from trackctl.export.frame_graph import FrameFormat, export_frame_graph
from trackctl.runtime.contract import BOX, FILL, FRAME, STATE_OUT, TONE
from trackctl.runtime.crop import frame_fill
from trackctl.runtime.engine import Engines, FunctionEngine
from trackctl.runtime.errors import InputError
from trackctl.runtime.frame import BGR8, GRAY8, GRAY16, graph_frame
from trackctl.runtime.geometry import Box, CropSpec, iou
from trackctl.runtime.tracker import Tracker

# Pairs and bands need other patches: test_pair_graphs.py, test_band_frame_graph.py.
LAYOUTS = (GRAY8, BGR8, GRAY16)
HW = (96, 128)
TARGET = Box(50.0, 30.0, 24.0, 18.0)
FLOAT, UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8


def scene(layout: str, shift: int = 0) -> np.ndarray:
    """A soft pattern that moves."""
    rng = np.random.default_rng(4)
    noise = np.stack([cv2.GaussianBlur(rng.uniform(0, 255, (200, 240)).astype(np.float32), (0, 0), 4.0) for _ in range(3)], -1)
    noise = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX)[shift : shift + HW[0], shift : shift + HW[1]]
    if layout == BGR8:
        return np.ascontiguousarray(noise.astype(np.uint8))
    gray = np.ascontiguousarray(noise[..., 0])
    return gray.astype(np.uint8) if layout == GRAY8 else (gray * 40.0 + 3000.0).astype(np.uint16)


@pytest.fixture(scope="module")
def frame_graphs(graphs):
    forms = {layout: FrameFormat(frame_hw=HW, layout=layout) for layout in LAYOUTS}
    return {
        (layout, role): export_frame_graph(graphs["fp32", role], role, CropSpec(), form)
        for layout, form in forms.items()
        for role in ("template", "search")
    }


def ports(values) -> dict[str, tuple[int, tuple[int, ...]]]:
    return {v.name: (v.type.tensor_type.elem_type, tuple(d.dim_value for d in v.type.tensor_type.shape.dim)) for v in values}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_border_is_the_contract(frame_graphs, layout):
    memory = {"z_cls": (FLOAT, (1, 16, 7, 7)), "z_loc": (FLOAT, (1, 16, 7, 7))}
    tone = {TONE: (FLOAT, (1, 2))} if layout == GRAY16 else {}
    frame = {FRAME: (UINT8, {GRAY8: HW, BGR8: (*HW, 3), GRAY16: (*HW, 2)}[layout])}
    fill = {FILL: (FLOAT, (1, 3 if layout == BGR8 else 1))}
    template, search = frame_graphs[layout, "template"].graph, frame_graphs[layout, "search"].graph
    assert ports(template.input) == {**frame, BOX: (FLOAT, (1, 4)), **tone}
    assert ports(template.output) == {STATE_OUT: (FLOAT, (1, 6)), **fill, **memory}
    assert ports(search.input) == {**frame, "state": (FLOAT, (1, 6)), **fill, **tone, **memory}
    assert list(ports(search.output)) == ["next_state", "score", "quality", "cls", "loc"]


def test_the_frame_is_cast_before_anything_else(frame_graphs):
    for graph in frame_graphs.values():
        readers = [node.op_type for node in graph.graph.node if FRAME in node.input]
        assert readers == ["Cast"]


def test_the_core_is_the_patch_graphs_own(graphs, frame_graphs):
    for (_, role), graph in frame_graphs.items():
        patch = graphs["fp32", role].graph
        own = {node.name: node for node in graph.graph.node}
        assert all(own[node.name] == node for node in patch.node)
        weights = {tensor.name: tensor for tensor in graph.graph.initializer}
        assert all(weights[tensor.name] == tensor for tensor in patch.initializer)


def test_joining_leaves_the_patch_graph_alone(graphs):
    before = graphs["fp16", "search"].SerializeToString(deterministic=True)
    form = FrameFormat(frame_hw=HW)
    twice = [export_frame_graph(graphs["fp16", "search"], "search", CropSpec(), form) for _ in range(2)]
    assert graphs["fp16", "search"].SerializeToString(deterministic=True) == before
    assert twice[0].SerializeToString(deterministic=True) == twice[1].SerializeToString(deterministic=True)


def engine(graph: onnx.ModelProto) -> FunctionEngine:
    from trackctl.export.pipeline import tensor_specs

    session = InferenceSession(graph.SerializeToString())
    names = [port.name for port in session.get_outputs()]

    def run(feeds):
        return dict(zip(names, session.run(None, dict(feeds)), strict=True))

    return FunctionEngine(run, tensor_specs(graph.graph.input), tensor_specs(graph.graph.output))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_cuts_track_alike(graphs, frame_graphs, layout):
    cuts = {
        "patch": Engines(*(engine(graphs["fp32", role]) for role in ("template", "search"))),
        "frame": Engines(*(engine(frame_graphs[layout, role]) for role in ("template", "search"))),
    }
    boxes = {}
    for cut, engines in cuts.items():
        tracker = Tracker(*engines, crop=CropSpec())
        tracker.init(scene(layout), TARGET)
        boxes[cut] = [tracker.update(scene(layout, shift)).box for shift in (2, 4, 6)]
    assert iou(boxes["patch"], boxes["frame"]).min() > 0.97


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_template_graph_measures_the_fill_and_sets_the_state(frame_graphs, layout):
    pixels = scene(layout)
    feeds = {FRAME: graph_frame(pixels), BOX: np.array([TARGET], dtype=np.float32)}
    if layout == GRAY16:
        feeds[TONE] = np.array([[3000.0, 13200.0]], dtype=np.float32)
    outputs = engine(frame_graphs[layout, "template"]).run(feeds)
    assert outputs[FILL].tolist() == [list(frame_fill(pixels))]
    assert outputs[STATE_OUT].tolist() == [[62.0, 39.0, 24.0, 18.0, 128.0, 96.0]]


def test_a_large_bright_frame_keeps_its_mean(graphs):
    """A float32 sum over all pixels at once would be off by more than a level."""
    hw = (1024, 1280)
    form = FrameFormat(frame_hw=hw, layout=GRAY16)
    graph = export_frame_graph(graphs["fp32", "template"], "template", CropSpec(), form)
    pixels = np.random.default_rng(0).integers(60000, 65535, hw, dtype=np.uint16)
    tone = np.array([[60000.0, 65535.0]], dtype=np.float32)
    outputs = engine(graph).run({FRAME: graph_frame(pixels), BOX: np.array([TARGET], dtype=np.float32), TONE: tone})
    assert outputs[FILL].tolist() == [list(frame_fill(pixels))]


@pytest.mark.parametrize(
    ("text", "hw", "layout"),
    [("640x512", (512, 640), GRAY8), ("1920x1080:bgr8", (1080, 1920), BGR8), ("320x256:gray16", (256, 320), GRAY16)],
)
def test_a_frame_format_is_read_and_written(text, hw, layout):
    form = FrameFormat.parse(text)
    assert form == FrameFormat(frame_hw=hw, layout=layout)
    assert FrameFormat.parse(str(form)) == form


@pytest.mark.parametrize(
    "text", ["", "640", "640x", "x512", "640x512x3", "0x512", "-640x512", "6.5x512", "640x512:rgb8", "640:512", "٦x٦"]
)
def test_another_frame_format_is_refused(text):
    with pytest.raises(InputError, match=r"expected WIDTHxHEIGHT.*such as 640x512:gray8"):
        FrameFormat.parse(text)
