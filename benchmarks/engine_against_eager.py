"""A bundle's search graph on OpenVINO and ONNX Runtime against the same model in eager PyTorch, one process, same threads.

    .venv/bin/python benchmarks/engine_against_eager.py BUNDLE [--weights FILE] [--threads 2] [--runs 15] [--out FILE.md]

The three are called in turn, run by run, so that all meet the same machine.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from time import perf_counter_ns

import numpy as np
import torch
from publish import publish

from trackctl.export.pipeline import model_of
from trackctl.runtime.bundle import SEARCH, Bundle
from trackctl.runtime.contract import SEARCH_PATCH, STATE_IN
from trackctl.runtime.engine import Engine
from trackctl.runtime.processor import Processor
from trackctl.runtime.select import OPENERS
from trackctl.training.engine import torch_engines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bundle = Bundle.open(options.bundle)
    entry = bundle.graph(SEARCH)
    template, eager = torch_engines(model_of(bundle, options.weights))
    contenders: dict[str, Engine] = {"pytorch eager fp32": eager}
    for opener in OPENERS.values():
        engine = opener(
            bundle.graph_path(SEARCH),
            expected_inputs=entry.inputs,
            expected_outputs=entry.outputs,
            threads=options.threads,
            precision=bundle.manifest.precision,
        )
        contenders[engine.name] = engine
    rng = np.random.default_rng(0)
    size = bundle.manifest.crop.template_size
    memory = dict(template.run({"template": rng.uniform(0, 255, (1, 3, size, size)).astype(np.float32)}))
    feeds = {
        SEARCH_PATCH: rng.uniform(0, 255, entry.inputs[SEARCH_PATCH].shape).astype(np.float32),
        STATE_IN: np.array([[320.0, 256.0, 40.0, 30.0, 640.0, 512.0]], dtype=np.float32),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for engine in contenders.values():
        engine.bind(memory)
        engine.run(feeds)
    for _ in range(options.runs):
        for name, engine in contenders.items():
            started = perf_counter_ns()
            engine.run(feeds)
            times[name].append((perf_counter_ns() - started) / 1e6)
    base = np.median(times["pytorch eager fp32"])
    lines = [
        f"{platform.machine()}, {Processor.read().model}",
        f"{options.bundle.name}, {options.threads} threads, {options.runs} runs in turn",
        "",
        "| search graph | p50 ms | p99 ms | faster than eager |",
        "|---|---|---|---|",
    ]
    for name, values in times.items():
        p50, p99 = np.percentile(values, [50, 99])
        lines.append(f"| {name} | {p50:.2f} | {p99:.2f} | {base / p50:.1f}x |")
    publish(lines, options.out)


if __name__ == "__main__":
    main()
