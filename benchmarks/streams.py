"""The near graph alone: one target, four in a batch, and four requests side by side, on OpenVINO.

    .venv/bin/python benchmarks/streams.py SINGLE.trk MANY.trk [--threads 2] [--runs 300]

The bundles are fp16 exports of one model, the second with --targets N. What the best schedule of the searches could gain for
MultiTracker, with nothing cut, copied or judged. Runs are made in turn; wall clock.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import openvino

from trackctl.runtime.bundle import NEAR, Bundle


def requests(bundle: Path, threads: int, streams: int, count: int) -> list[Any]:
    """Ready requests of a bundle's near graph, each with inputs of its own."""
    options = {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "bf16"}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(str(Bundle.open(bundle).graph_path(NEAR))), "CPU", options)
    rng = np.random.default_rng(0)
    made = [compiled.create_infer_request() for _ in range(count)]
    for request in made:
        for index, port in enumerate(compiled.inputs):
            request.set_input_tensor(index, openvino.Tensor(rng.uniform(0, 1, tuple(port.shape)).astype(np.float32)))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("single", type=Path)
    parser.add_argument("many", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=300)
    options = parser.parse_args()
    count = Bundle.open(options.many).manifest.targets
    (one,) = requests(options.single, options.threads, 1, 1)
    (batch,) = requests(options.many, options.threads, 1, 1)
    several = requests(options.single, options.threads, options.threads, count)

    def side_by_side() -> None:
        for request in several:
            request.start_async()
        for request in several:
            request.wait()

    ways: dict[str, Callable[[], Any]] = {
        "one target": one.infer,
        f"a batch of {count}": batch.infer,
        f"{count} requests on {options.threads} streams": side_by_side,
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.runs):
        for name, run in ways.items():
            started = perf_counter_ns()
            run()
            spent[name].append((perf_counter_ns() - started) / 1e6)
    for name, times in spent.items():
        median = np.median(times)
        print(f"{name}: {median:.2f} ms, {median / np.median(spent['one target']):.2f} times one target")


if __name__ == "__main__":
    main()
