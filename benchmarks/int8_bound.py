"""How much faster than eager PyTorch can int8 be on this CPU? The convolutions of a ResNet-50 alone, nothing between them.

    .venv/bin/python benchmarks/int8_bound.py [--threads 2] [--runs 20] [--out FILE.md]

Each row is a chain of equal convolutions with their activations, from the search patch of a stride-8 ResNet-50 (31x31 cells), in
eager float32, and quantised and run as an int8 bundle is. A whole model gains about as much as the largest of them, and what
eager PyTorch spends between its convolutions. The two are called in turn, run by run.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from pathlib import Path
from time import perf_counter_ns

import numpy as np
import torch
from publish import publish
from torch import Tensor, nn

from trackctl.export.graphs import export_module
from trackctl.export.int8 import quantise
from trackctl.export.pipeline import save_graph
from trackctl.runtime.contract import CLS, LOC, SEARCH_PATCH
from trackctl.runtime.engines.openvino import OpenVinoEngine
from trackctl.runtime.processor import Processor

CELLS, PAIRS = 31, 3
# Kernel, dilation, channels: the first three and the projections between the stages do most of the work.
SHAPES = ((3, 1, 128, 128), (3, 2, 256, 256), (3, 4, 512, 512), (3, 4, 1024, 2048), (1, 1, 256, 1024), (1, 1, 512, 2048))


class Chain(nn.Module):
    """So many convolutions to and fro between two widths; before and behind them 1x1 ones that stay in float."""

    def __init__(self, kernel: int, dilation: int, width: int, other: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 1)]
        for inner, outer in [(width, other), (other, width)] * PAIRS:
            layers += [nn.ReLU(), nn.Conv2d(inner, outer, kernel, padding=kernel // 2 * dilation, dilation=dilation)]
        self.layers, self.heads = nn.Sequential(*layers, nn.ReLU()), nn.ModuleList(nn.Conv2d(width, 4, 1) for _ in range(2))
        self.work = 2 * PAIRS * CELLS**2 * width * other * kernel**2

    def forward(self, patch: Tensor) -> tuple[Tensor, ...]:
        """The two heads' maps of a patch (1, 3, CELLS, CELLS)."""
        features = self.layers(patch)
        return tuple(head(features) for head in self.heads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    lines = [f"{platform.machine()}, {Processor.read().model}, {options.threads} threads, {options.runs} runs in turn", ""]
    lines += ["| convolutions | eager float32, G/s | OpenVINO int8, G/s | faster than eager |", "|---|---|---|---|"]
    for kernel, dilation, width, other in SHAPES:
        chain, patch = Chain(kernel, dilation, width, other).eval(), torch.rand(1, 3, CELLS, CELLS)
        feeds = {SEARCH_PATCH: patch.numpy()}
        graph = quantise(export_module(chain, {SEARCH_PATCH: patch}, (CLS, LOC)), [feeds])
        with tempfile.TemporaryDirectory() as folder:
            entry = save_graph(graph, "chain", Path(folder))
            engine = OpenVinoEngine.open(
                Path(folder, "chain.onnx"),
                expected_inputs=entry.inputs,
                expected_outputs=entry.outputs,
                threads=options.threads,
                precision="int8",
            )
            spent: list[list[int]] = [[], []]
            for _ in range(options.runs + 1):
                started = perf_counter_ns()
                with torch.inference_mode():
                    chain(patch)
                between = perf_counter_ns()
                engine.run(feeds)
                for times, value in zip(spent, (between - started, perf_counter_ns() - between), strict=True):
                    times.append(value)
            engine.close()
        eager, int8 = (float(np.median(times[1:])) for times in spent)
        name = f"{kernel}x{kernel}, {width} to {other} and back" + (f", dilation {dilation}" if dilation > 1 else "")
        lines.append(f"| {name} | {chain.work / eager:.0f} | {chain.work / int8:.0f} | {eager / int8:.1f}x |")
    publish(lines, options.out)


if __name__ == "__main__":
    main()
