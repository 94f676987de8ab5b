"""A tracker of a few hundred weights as two patch graphs, written with onnx.helper, for the tests of the runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trackctl.runtime.bundle import Bundle, GraphEntry, Manifest, graph_entry, write_bundle
from trackctl.runtime.contract import TensorSpec
from trackctl.runtime.geometry import CropSpec

TEMPLATE_INPUTS = {"template": TensorSpec("float32", (1, 3, 127, 127))}
TEMPLATE_OUTPUTS = {"kernel": TensorSpec("float32", (1, 4, 7, 7))}
SEARCH_INPUTS = {
    "search": TensorSpec("float32", (1, 3, 255, 255)),
    "state": TensorSpec("float32", (1, 6)),
    "kernel": TensorSpec("float32", (1, 4, 7, 7)),
}
SEARCH_OUTPUTS = {
    "next_state": TensorSpec("float32", (1, 6)),
    "score": TensorSpec("float32", (1, 1)),
    "quality": TensorSpec("float32", (1, 3)),
    "cls": TensorSpec("float32", (1, 2, 26, 26)),
    "loc": TensorSpec("float32", (1, 4, 26, 26)),
}
# Far enough from the origin that bfloat16 (8 bits) would round it by up to 8 px.
STATE = np.array([[3071.3, 1801.7, 41.3, 57.9, 4096.0, 3000.0]], dtype=np.float32)

_TYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}


def save_model(path, nodes, inputs, outputs, constants) -> None:
    """A checked ONNX file of opset 17."""

    def ports(tensors):
        return [helper.make_tensor_value_info(name, _TYPES[spec.dtype], spec.shape) for name, spec in tensors.items()]

    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", ports(inputs), ports(outputs), weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _weights(*shape: int, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def save_template(path: Path) -> None:
    constants = {"w": _weights(4, 3, 7, 7, seed=0) / 64}
    nodes = [helper.make_node("Conv", ["template", "w"], ["kernel"], strides=[20, 20])]
    save_model(path, nodes, TEMPLATE_INPUTS, TEMPLATE_OUTPUTS, constants)


def save_search(path: Path) -> None:
    """Convolution, correlation with the memory, heads; then float arithmetic on the state, as Decode does."""
    constants = {
        "w": _weights(4, 3, 7, 7, seed=1) / 64,
        "w_cls": _weights(2, 4, 1, 1, seed=2),
        "w_loc": _weights(4, 4, 1, 1, seed=3),
        "kernel_shape": np.array([4, 1, 7, 7]),
        "two": np.zeros((1, 2), dtype=np.float32),
        "row": np.array([1, 1]),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["search", "w"], ["features"], strides=[8, 8]),
        node("Reshape", ["kernel", "kernel_shape"], ["kernels"]),
        node("Conv", ["features", "kernels"], ["response"], group=4),
        node("Conv", ["response", "w_cls"], ["cls"]),
        node("Conv", ["response", "w_loc"], ["loc"]),
        node("ReduceMean", ["loc"], ["shift"], axes=[2, 3], keepdims=0),
        node("Concat", ["shift", "two"], ["move"], axis=1),
        node("Add", ["state", "move"], ["next_state"]),
        node("ReduceMax", ["cls"], ["peak"], axes=[1, 2, 3], keepdims=1),
        node("Sigmoid", ["peak"], ["likely"]),
        node("Reshape", ["likely", "row"], ["score"]),
        node("Concat", ["score", "two"], ["quality"], axis=1),
    ]
    save_model(path, nodes, SEARCH_INPUTS, SEARCH_OUTPUTS, constants)


def tiny_manifest(folder: Path, **changes: object) -> Manifest:
    """The manifest of the graphs that it writes into ``folder``."""
    save_template(folder / "template.onnx")
    save_search(folder / "search.onnx")
    graphs: dict[str, GraphEntry] = {
        "template": graph_entry(folder / "template.onnx", TEMPLATE_INPUTS, TEMPLATE_OUTPUTS),
        "search": graph_entry(folder / "search.onnx", SEARCH_INPUTS, SEARCH_OUTPUTS),
    }
    values = {
        "system": "tiny",
        "precision": "fp32",
        "channels": 3,
        "crop": CropSpec(),
        "decode": {"penalty_k": 0.05, "ratios": [0.33, 1.0]},
        "memory": ("kernel",),
        "graphs": graphs,
        "confidence": {"lost": 0.2},
        "provenance": {"weights": "random, seeds 0..3"},
    }
    return Manifest(**{**values, **changes})


def tiny_bundle(folder: Path, **changes: object) -> Bundle:
    """A bundle at ``folder``/tiny.trk."""
    made = folder / "made"
    made.mkdir()
    return write_bundle(folder / "tiny.trk", tiny_manifest(made, **changes), made)


def feeds(seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of the search graph."""
    rng = np.random.default_rng(seed)
    return {
        "search": rng.uniform(0, 255, (1, 3, 255, 255)).astype(np.float32),
        "state": STATE.copy(),
        "kernel": rng.standard_normal((1, 4, 7, 7)).astype(np.float32),
    }


def search_reference(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The search graph's outputs in float64 numpy."""
    patch, kernel = inputs["search"][0].astype(np.float64), inputs["kernel"][0].astype(np.float64)
    view = np.lib.stride_tricks.sliding_window_view
    weight = _weights(4, 3, 7, 7, seed=1) / 64
    features = np.einsum("cyxij,ocij->oyx", view(patch, (7, 7), axis=(1, 2))[:, ::8, ::8], weight)  # (4, 32, 32)
    response = np.einsum("cyxij,cij->cyx", view(features, (7, 7), axis=(1, 2)), kernel)  # (4, 26, 26)
    cls = np.einsum("cyx,oc->oyx", response, _weights(2, 4, 1, 1, seed=2)[:, :, 0, 0])
    loc = np.einsum("cyx,oc->oyx", response, _weights(4, 4, 1, 1, seed=3)[:, :, 0, 0])
    next_state = inputs["state"] + np.array([[*loc.mean(axis=(1, 2)), 0.0, 0.0]])
    score = 1 / (1 + np.exp(-cls.max()))
    return {
        "next_state": next_state,
        "score": np.array([[score]]),
        "quality": np.array([[score, 0.0, 0.0]]),
        "cls": cls[None],
        "loc": loc[None],
    }
