"""Frame graphs of a few operations, whose every output depends on every input, for the tests of the GPU engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper
from tiny_graphs import TEMPLATE_OUTPUTS, save_model, tiny_manifest

from trackctl.runtime.bundle import SEARCH, TEMPLATE, Bundle, frame_key, graph_entry, write_bundle
from trackctl.runtime.contract import TensorSpec
from trackctl.runtime.frame import graph_frame_spec

FRAME_HW = (64, 80)
FORM = (FRAME_HW, "gray8")

FRAME_TEMPLATE_INPUTS = {"frame": TensorSpec("uint8", FRAME_HW), "box": TensorSpec("float32", (1, 4))}
FRAME_TEMPLATE_OUTPUTS = {
    "next_state": TensorSpec("float32", (1, 6)),
    "fill": TensorSpec("float32", (1, 1)),
    **TEMPLATE_OUTPUTS,
}
FRAME_SEARCH_INPUTS = {
    "frame": TensorSpec("uint8", FRAME_HW),
    "state": TensorSpec("float32", (1, 6)),
    "fill": TensorSpec("float32", (1, 1)),
    **TEMPLATE_OUTPUTS,
}
FRAME_SEARCH_OUTPUTS = {
    "next_state": TensorSpec("float32", (1, 6)),
    "score": TensorSpec("float32", (1, 1)),
    "quality": TensorSpec("float32", (1, 3)),
    # More than what a GPU engine reads back with every run.
    "cls": TensorSpec("float32", (1, 2, 26, 26)),
    "loc": TensorSpec("float32", (1, 4, 26, 26)),
}


def of_layout(inputs: dict[str, TensorSpec], layout: str) -> dict[str, TensorSpec]:
    """The inputs for frames of another layout; gray16 has a tone."""
    tone = {"tone": TensorSpec("float32", (1, 2))} if layout == "gray16" else {}
    return {**inputs, "frame": graph_frame_spec(layout, FRAME_HW), **tone}


def mean_nodes(layout: str) -> list[onnx.NodeProto]:
    """The mean (1, 1) of all bytes of the frame, which the tone, if there is one, moves."""
    node = helper.make_node
    named = "toneless" if layout == "gray16" else "mean"
    nodes = [
        node("Cast", ["frame"], ["pixels"], to=1),
        node("ReduceMean", ["pixels"], ["scalar"], keepdims=0),
        node("Reshape", ["scalar", "row"], [named]),
    ]
    if layout == "gray16":
        nodes += [node("ReduceMean", ["tone"], ["middle"], axes=[1], keepdims=1), node("Add", ["toneless", "middle"], ["mean"])]
    return nodes


def save_frame_template(path: Path, layout: str = "gray8") -> None:
    """The frame's mean as fill, a pattern of it as kernel, the box's numbers as state."""
    pattern = np.random.default_rng(5).uniform(0.5, 1.5, TEMPLATE_OUTPUTS["kernel"].shape).astype(np.float32)
    size = np.array([[FRAME_HW[1], FRAME_HW[0]]], dtype=np.float32)
    node = helper.make_node
    nodes = [
        *mean_nodes(layout),
        node("Identity", ["mean"], ["fill"]),
        node("Mul", ["mean", "pattern"], ["kernel"]),
        node("Concat", ["box", "size"], ["next_state"], axis=1),
    ]
    constants = {"pattern": pattern, "size": size, "row": np.array([1, 1])}
    save_model(path, nodes, of_layout(FRAME_TEMPLATE_INPUTS, layout), FRAME_TEMPLATE_OUTPUTS, constants)


def save_frame_search(path: Path, layout: str = "gray8") -> None:
    """The box moves with the frame's mean; all numbers are made of frame, state, fill and kernel."""
    constants = {
        "step": np.array([[0.01, 0.02, 0, 0, 0, 0]], dtype=np.float32),
        "ten_thousandth": np.array([[1e-4]], dtype=np.float32),
        "cls_zeros": np.zeros((1, 2, 26, 26), dtype=np.float32),
        "loc_zeros": np.zeros((1, 4, 26, 26), dtype=np.float32),
        "one": np.array([1, 1, 1, 1]),
        "row": np.array([1, 1]),
    }
    node = helper.make_node
    nodes = [
        *mean_nodes(layout),
        node("ReduceMean", ["kernel"], ["learnt"], axes=[2, 3], keepdims=0),
        node("ReduceMean", ["learnt"], ["known"], axes=[1], keepdims=1),
        node("Sub", ["mean", "fill"], ["lighter"]),
        node("Mul", ["lighter", "step"], ["move"]),
        node("Add", ["state", "move"], ["next_state"]),
        node("Mul", ["mean", "known"], ["match"]),
        node("Mul", ["match", "ten_thousandth"], ["scaled"]),
        node("Sigmoid", ["scaled"], ["score"]),
        node("Concat", ["mean", "score", "known"], ["quality"], axis=1),
        node("Reshape", ["score", "one"], ["level"]),
        node("Add", ["cls_zeros", "level"], ["cls"]),
        node("Sub", ["loc_zeros", "level"], ["loc"]),
    ]
    save_model(path, nodes, of_layout(FRAME_SEARCH_INPUTS, layout), FRAME_SEARCH_OUTPUTS, constants)


def frame_bundle(folder: Path, layout: str = "gray8") -> Bundle:
    """A bundle with patch graphs and the frame graphs of one form, at ``folder``/frames.trk."""
    made = folder / "made_frames"
    made.mkdir()
    manifest = tiny_manifest(made, confidence={})
    for role, save, inputs, outputs in (
        (TEMPLATE, save_frame_template, FRAME_TEMPLATE_INPUTS, FRAME_TEMPLATE_OUTPUTS),
        (SEARCH, save_frame_search, FRAME_SEARCH_INPUTS, FRAME_SEARCH_OUTPUTS),
    ):
        key = frame_key(role, FRAME_HW, layout)
        save(made / f"{key}.onnx", layout)
        manifest.graphs[key] = graph_entry(made / f"{key}.onnx", of_layout(inputs, layout), outputs)
    return write_bundle(folder / "frames.trk", manifest, made)


def frames(count: int) -> list[np.ndarray]:
    """Noise frames that grow lighter."""
    rng = np.random.default_rng(2)
    return [rng.integers(20 * index, 60 + 20 * index, FRAME_HW).astype(np.uint8) for index in range(count)]


def frame_memory(seed=0):
    """What the search graph is bound to."""
    rng = np.random.default_rng(seed)
    return {
        "fill": np.array([[30.0]], dtype=np.float32),
        "kernel": rng.uniform(0, 9, FRAME_SEARCH_INPUTS["kernel"].shape).astype(np.float32),
    }


def frame_state(value=20.0):
    """A small box at (value, value)."""
    return np.array([[value, value, 8.0, 6.0, 64.0, 48.0]], dtype=np.float32)


def frame_search_reference(graph, feeds):
    """The outputs of the search graph, by ONNX Runtime on the CPU."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return dict(zip(FRAME_SEARCH_OUTPUTS, session.run(list(FRAME_SEARCH_OUTPUTS), feeds), strict=True))
