"""The convolutions of a search graph as layers that can be quantised one by one, and an int8 graph with some of them in float."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import onnx

from trackctl.export.graphs import anonymous
from trackctl.export.int8 import quantised_convolutions

# More convolutions than this are taken block by block: one a time would keep the user waiting, and a residual block that is
# half in int8 pays for the change of precision inside it.
MOST_LAYERS = 40
# How deep in the model's tree a block lies: backbone.layer2.0, rpn.cls.1.
BLOCK_DEPTH = 3


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What is quantised or kept in float as one.

    Attributes:
        name: of the module in the model, such as ``backbone.blocks.0.first``.
        convolutions: names of its nodes in the graph.
        multiply_adds: of one frame.
    """

    name: str
    convolutions: tuple[str, ...]
    multiply_adds: int


def layers_of(graph: onnx.ModelProto, *, most: int = MOST_LAYERS) -> list[Layer]:
    """The layers that the quantiser would take, in the graph's order; blocks, if there are more than ``most`` convolutions.

    Args:
        graph: float32 search patch graph with BatchNorm folded.
        most: convolutions that are still taken one by one.
    """
    chosen = set(quantised_convolutions(graph))
    nodes = [node for node in graph.graph.node if node.name in chosen]
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    cells = _cells(graph)
    found: dict[str, list[tuple[str, int]]] = {}
    for node in nodes:
        path = _module(node.input[1])
        name = ".".join(path[:BLOCK_DEPTH] if len(nodes) > most else path)
        work = math.prod(weights[node.input[1]]) * cells[node.output[0]]
        found.setdefault(name, []).append((node.name, work))
    return [
        Layer(name=name, convolutions=tuple(node for node, _ in parts), multiply_adds=sum(work for _, work in parts))
        for name, parts in found.items()
    ]


def with_float(quantised: onnx.ModelProto, graph: onnx.ModelProto, layers: Iterable[Layer]) -> onnx.ModelProto:
    """A copy of the int8 graph that computes some layers in float again.

    Args:
        quantised: from :func:`trackctl.export.int8.quantise`.
        graph: the float graph it was made of.
        layers: what is computed in float.
    """
    names = {name for layer in layers for name in layer.convolutions}
    originals = {node.name: node for node in graph.graph.node if node.name in names}
    mixed = onnx.ModelProto()
    mixed.CopyFrom(quantised)
    for node in mixed.graph.node:
        if node.name in names:
            node.input[:2] = originals[node.name].input[:2]
    _unpair(mixed.graph)
    _prune(mixed.graph)
    held = {tensor.name for tensor in mixed.graph.initializer}
    wanted = {original.input[1] for original in originals.values()} - held
    mixed.graph.initializer.extend(tensor for tensor in graph.graph.initializer if tensor.name in wanted)
    return anonymous(mixed)


def _module(weight: str) -> list[str]:
    """Where a weight lies in the model, less the 0 of a conv-BN pair: ``model.neck.levels.0.0.weight`` -> neck, levels, 0."""
    path = weight.removeprefix("model.").removesuffix(".weight").split(".")
    return path[:-1] if len(path) > 1 and path[-1] == "0" else path


def _cells(graph: onnx.ModelProto) -> dict[str, int]:
    """Number of places, batch included, of each four-dimensional tensor."""
    shapes = onnx.shape_inference.infer_shapes(graph).graph
    sizes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*shapes.value_info, *shapes.input, *shapes.output)
    }
    return {name: size[0] * size[2] * size[3] for name, size in sizes.items() if len(size) == 4}


def _unpair(graph: onnx.GraphProto) -> None:
    """Let what reads a pair that no convolution reads any more, such as a shortcut, read the float tensor before it."""
    sources = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    pairs = {
        node.output[0]: sources[node.input[0]]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in sources
    }
    read = {node.input[0] for node in graph.node if node.op_type == "Conv"}
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in pairs and name not in read:
                node.input[index] = pairs[name]


def _prune(graph: onnx.GraphProto) -> None:
    """Remove the nodes and constants that nothing reads any more."""
    producer = {name: node for node in graph.node for name in node.output}
    wanted: set[str] = set()
    pending = [value.name for value in graph.output]
    while pending:
        name = pending.pop()
        if name in wanted:
            continue
        wanted.add(name)
        if name in producer:
            pending.extend(producer[name].input)
    nodes = [node for node in graph.node if wanted.intersection(node.output)]
    constants = [tensor for tensor in graph.initializer if tensor.name in wanted]
    notes = [value for value in graph.value_info if value.name in wanted]
    pruned = onnx.GraphProto()
    pruned.CopyFrom(graph)
    for name, items in (("node", nodes), ("initializer", constants), ("value_info", notes)):
        pruned.ClearField(name)
        getattr(pruned, name).extend(items)
    graph.CopyFrom(pruned)
