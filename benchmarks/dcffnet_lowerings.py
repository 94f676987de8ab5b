"""The lowerings of DCFFNet's correlations on every engine here, and the whole search graphs against eager PyTorch.

    .venv/bin/python benchmarks/dcffnet_lowerings.py correlations [--runs 5] [--out FILE.md]
    .venv/bin/python benchmarks/dcffnet_lowerings.py builds [--out FILE.md]
    .venv/bin/python benchmarks/dcffnet_lowerings.py graphs [--runs 5] [--threads 1] [--out FILE.md]

What is compared is called in turn, run by run, so that all meet the same machine. With one thread the processor time counts, with
more the wall clock, which other programs disturb more. ``--out`` appends. ``shift`` is every tap of the kernel unrolled, written
node by node here: PyTorch's exporter takes minutes for 400 taps.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Callable, Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path
from time import perf_counter_ns, process_time_ns

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from trackctl.export.graphs import IR_VERSION, OPSET, export_module, export_patch_graph, fold_batch_norm
from trackctl.export.initial import initial_model
from trackctl.export.int8 import quantise
from trackctl.export.pipeline import tensor_specs
from trackctl.export.precision import half_core
from trackctl.runtime.contract import Array
from trackctl.runtime.engine import Engine
from trackctl.runtime.engines.onnxruntime import OnnxRuntimeEngine
from trackctl.runtime.engines.openvino import OpenVinoEngine
from trackctl.runtime.engines.tensorrt import TENSORRT_RTX, build_engine
from trackctl.runtime.processor import Processor
from trackctl.training.correlation import Lowering, depthwise_correlation
from trackctl.training.dcffnet import DCFFNet
from trackctl.training.engine import torch_engines

# Channels, side of the search map, side of the kernel: both fusions and the correlation before the head.
SIZES = ((64, 87, 44), (512, 44, 22), (256, 44, 20))
LOWERINGS: tuple[Lowering, ...] = ("conv", "shift", "matmul", "fourier")
# Engines take minutes to load 7,743 nodes, which is what a kernel of 44 x 44 unrolls to.
LARGEST_UNROLLED = 22
# Kind, threads and precision of the engines that compute one correlation.
ENGINES = (
    ("onnxruntime", 1, "fp32"),
    ("openvino", 1, "fp32"),
    ("openvino", 1, "fp16"),
    ("openvino", 2, "fp32"),
    ("openvino", 2, "fp16"),
)
Call = Callable[[], object]
Times = dict[str, tuple[float, float]]


class Correlation(nn.Module):
    """One correlation as a graph of its own."""

    def __init__(self, lowering: Lowering) -> None:
        super().__init__()
        self.lowering: Lowering = lowering

    def forward(self, search: Tensor, kernel: Tensor) -> Tensor:
        """The response."""
        return depthwise_correlation(search, kernel, self.lowering)


def unrolled(channels: int, side: int, kernel_side: int) -> onnx.ModelProto:
    """The graph that the ``shift`` lowering exports to: two slices, a product and a sum for every tap."""
    cells, nodes, constants = side - kernel_side + 1, [], {}

    def constant(*values: int) -> str:
        name = "_".join(map(str, values))
        constants.setdefault(name, numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    axes, total = constant(2, 3), ""
    for tap in range(kernel_side * kernel_side):
        i, j = divmod(tap, kernel_side)
        last = tap == kernel_side * kernel_side - 1
        nodes.append(helper.make_node("Slice", ["search", constant(i, j), constant(i + cells, j + cells), axes], [f"map{tap}"]))
        nodes.append(helper.make_node("Slice", ["kernel", constant(i, j), constant(i + 1, j + 1), axes], [f"tap{tap}"]))
        nodes.append(helper.make_node("Mul", [f"map{tap}", f"tap{tap}"], [f"product{tap}"]))
        if tap:
            nodes.append(helper.make_node("Add", [total, f"product{tap}"], ["response" if last else f"sum{tap}"]))
        total = f"sum{tap}" if tap else "product0"

    def port(name: str, size: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, channels, size, size))

    graph = helper.make_graph(
        nodes, "shift", [port("search", side), port("kernel", kernel_side)], [port("response", cells)], list(constants.values())
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def lowerings_of(kernel_side: int) -> list[Lowering]:
    """Those that can be measured for a kernel."""
    return [lowering for lowering in LOWERINGS if lowering != "shift" or kernel_side <= LARGEST_UNROLLED]


def correlation_graph(lowering: Lowering, size: tuple[int, int, int], folder: Path) -> Path:
    """The file of one correlation's graph."""
    channels, side, kernel_side = size
    path = folder / f"{lowering}-{side}-{kernel_side}.onnx"
    if lowering == "shift":
        onnx.save(unrolled(*size), path)
    else:
        inputs = {"search": torch.ones(1, channels, side, side), "kernel": torch.ones(1, channels, kernel_side, kernel_side)}
        onnx.save(export_module(Correlation(lowering), inputs, ["response"]), path)
    return path


def open_engine(path: Path, kind: str, threads: int, precision: str) -> Engine:
    """An engine of a graph file, of ``onnxruntime`` or ``openvino``."""
    graph = onnx.load(path).graph
    opener = OpenVinoEngine.open if kind == "openvino" else OnnxRuntimeEngine.open
    inputs, outputs = tensor_specs(graph.input), tensor_specs(graph.output)
    return opener(path, expected_inputs=inputs, expected_outputs=outputs, threads=threads, precision=precision)


def take_turns(contenders: Mapping[str, Call], runs: int) -> Times:
    """Median wall and processor milliseconds of each, after one call to warm up."""
    taken: dict[str, list[tuple[int, int]]] = {name: [] for name in contenders}
    for call in contenders.values():
        call()
    for _ in range(runs):
        for name, call in contenders.items():
            wall, busy = perf_counter_ns(), process_time_ns()
            call()
            taken[name].append((perf_counter_ns() - wall, process_time_ns() - busy))
    return {name: tuple(np.median(np.array(pairs) / 1e6, axis=0)) for name, pairs in taken.items()}


def calling(engine: Engine, feeds: Mapping[str, Array]) -> Call:
    return lambda: engine.run(feeds)


def correlations(folder: Path, runs: int) -> list[str]:
    """Table of one correlation at a time."""
    rng = np.random.default_rng(0)
    lines = [f"Milliseconds of one correlation, medians of {runs} runs: processor time with one thread, wall time with two.", ""]
    for size in SIZES:
        channels, side, kernel_side = size
        # Maps behind a ReLU: no value below zero.
        search = np.maximum(rng.standard_normal((1, channels, side, side)), 0).astype(np.float32)
        kernel = np.maximum(rng.standard_normal((1, channels, kernel_side, kernel_side)), 0).astype(np.float32) / kernel_side**2
        tensors = torch.from_numpy(search), torch.from_numpy(kernel)
        wanted = depthwise_correlation(tensors[0].double(), tensors[1].double()).numpy()
        feeds: dict[str, Array] = {"search": search, "kernel": kernel}
        contenders: dict[str, Call] = {}
        errors: dict[str, float] = {}
        columns: list[str] = []
        for lowering in lowerings_of(size[2]):
            contenders[f"{lowering} pytorch x1"] = lambda low=lowering, pair=tensors: depthwise_correlation(*pair, low)
            path = correlation_graph(lowering, size, folder)
            engines = [open_engine(path, *options) for options in ENGINES]
            columns = ["pytorch x1", *(engine.name for engine in engines)]
            for engine in engines:
                contenders[f"{lowering} {engine.name}"] = calling(engine, feeds)
            off = np.abs(engines[2].run(feeds)["response"] - wanted).max() / np.abs(wanted).max()
            errors[f"{lowering} {engines[2].name}"] = float(off)
        with torch.inference_mode():
            times = take_turns(contenders, runs)
        lines += [f"{channels} maps of {side} x {side}, kernels of {kernel_side} x {kernel_side}", ""]
        lines += [f"| lowering | {' | '.join(columns)} | error in bf16 |", "|---" * (len(columns) + 2) + "|"]
        for lowering in lowerings_of(size[2]):
            cells = [f"{times[f'{lowering} {column}'][column.endswith('x1')]:.1f}" for column in columns]
            lines.append(f"| {lowering} | {' | '.join(cells)} | {errors[f'{lowering} {columns[3]}']:.1e} |")
        lines.append("")
    return lines


def builds(folder: Path) -> list[str]:
    """Table of TensorRT-RTX builds of one correlation."""
    lines = [
        f"TensorRT-RTX {version('tensorrt-rtx-cu13-bindings')}, float32; kernels are compiled later, where the engine runs.",
        "",
    ]
    lines += ["| maps, kernels | lowering | ONNX nodes | ONNX kB | build s | engine kB |", "|---|---|---|---|---|---|"]
    for size in SIZES:
        for lowering in lowerings_of(size[2]):
            path = correlation_graph(lowering, size, folder)
            made = build_engine(TENSORRT_RTX, path, path.with_suffix(".engine"))
            facts = f"{len(onnx.load(path).graph.node)} | {path.stat().st_size / 1e3:.0f} | {made.seconds:.1f}"
            lines.append(f"| {size[0]} x {size[1]}, {size[2]} | {lowering} | {facts} | {made.size_bytes / 1e3:.0f} |")
    return [*lines, ""]


def search_graphs(model: DCFFNet, feeds: Mapping[str, Array]) -> dict[str, onnx.ModelProto]:
    """The search graph by precision; for int8 with the ranges of the very feeds, which is enough to time it."""
    folded = fold_batch_norm(model)
    single = export_patch_graph(folded, "search")
    half = export_patch_graph(half_core(folded), "search")
    return {"fp32": single, "fp16": half, "int8": quantise(single, [feeds])}


def graphs(folder: Path, runs: int, threads: int) -> list[str]:
    """Table of the search graphs of the system in two lowerings and of its baseline."""
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    patch = {size: rng.uniform(0, 255, (1, 3, size, size)).astype(np.float32) for size in (127, 255)}
    state = np.array([[160.0, 128.0, 40.0, 30.0, 320.0, 256.0]], dtype=np.float32)
    contenders: dict[tuple[str, str], Call] = {}
    systems: tuple[tuple[str, Lowering], ...] = (("dcffnet", "fourier"), ("dcffnet", "conv"), ("dcffnet-baseline", "conv"))
    for name, lowering in systems:
        model = initial_model(name)
        assert isinstance(model, DCFFNet)
        model.lowering = lowering
        template, eager = torch_engines(model)
        memory = {key: tensor.copy() for key, tensor in template.run({"template": patch[127]}).items()}
        feeds: dict[str, Array] = {"search": patch[255], "state": state, **memory}
        system = f"{name}, {lowering}"
        contenders[system, "pytorch eager"] = calling(eager, feeds)
        for precision, graph in search_graphs(model, feeds).items():
            path = folder / f"{name}-{lowering}-{precision}.onnx"
            onnx.save(graph, path)
            # ONNX Runtime's float16 and symmetric int8 are slower than its float32.
            for kind in ("openvino", "onnxruntime") if precision == "fp32" else ("openvino",):
                engine = open_engine(path, kind, threads, precision)
                contenders[system, f"{precision} on {engine.name}"] = calling(engine, feeds)
    times = take_turns({" ".join(key): call for key, call in contenders.items()}, runs)
    clock = int(threads == 1)
    lines = [f"{threads} thread{'s' * (threads > 1)}, {('wall', 'processor')[clock]} milliseconds, medians of {runs} runs.", ""]
    lines += ["| search graph | engine | ms | faster than its eager PyTorch | times the baseline |", "|---|---|---|---|---|"]
    for system, engine_name in contenders:
        spent = times[f"{system} {engine_name}"][clock]
        faster = times[f"{system} pytorch eager"][clock] / spent
        over = spent / times[f"dcffnet-baseline, conv {engine_name}"][clock]
        lines.append(f"| {system} | {engine_name} | {spent:.1f} | {faster:.1f} | {over:.2f} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("correlations", "builds", "graphs"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime", "openvino"))
    lines = [f"## {options.part}", "", f"{date.today()}, {platform.machine()}, {Processor.read().model}; {packages}", ""]
    with tempfile.TemporaryDirectory() as folder:
        if options.part == "correlations":
            lines += correlations(Path(folder), options.runs)
        elif options.part == "builds":
            lines += builds(Path(folder))
        else:
            lines += graphs(Path(folder), options.runs, options.threads)
    text = "\n".join(lines)
    print(text)
    if options.out:
        with options.out.open("a") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
