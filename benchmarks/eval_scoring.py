"""Seconds to score 1,000 sequences of 1,000 frames of result files.

    .venv/bin/python benchmarks/eval_scoring.py [--sequences 1000] [--frames 1000] [--kind otb]

Writes annotations and results (commas, one decimal) to a temporary folder, then times what ``trackctl eval --results`` does:
reading both and scoring. The first run after writing has the files in the system's cache.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

from trackctl.evaluation.datasets import open_dataset
from trackctl.evaluation.scoring import score_results


def write(folder: Path, sequences: int, frames: int) -> None:
    rng = np.random.default_rng(0)
    for kind in ("annos", "results"):
        (folder / kind).mkdir()
    for index in range(sequences):
        walk = np.cumsum(rng.normal(0.0, 3.0, (frames, 2)), axis=0) + 300.0
        truth = np.concatenate([walk, rng.uniform(20.0, 80.0, (frames, 2))], axis=1)
        result = truth + rng.normal(0.0, 6.0, (frames, 4))
        for kind, boxes in (("annos", truth), ("results", result)):
            np.savetxt(folder / kind / f"sequence_{index:04d}.txt", boxes, fmt="%.1f", delimiter=",")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--kind", default="otb")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, options.sequences, options.frames)
        started = perf_counter()
        dataset = open_dataset(f"{options.kind}:{folder / 'annos'}")
        opened = perf_counter()
        scores = score_results(folder / "results", dataset)
        json.dumps(scores.to_json())
        done = perf_counter()
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{options.sequences} x {options.frames} frames: auc {scores.overall['auc']:.4f}")
    print(f"annotations {opened - started:.2f} s, results and scores {done - opened:.2f} s, together {done - started:.2f} s")
    print(f"peak memory {peak_mib:.0f} MiB")


if __name__ == "__main__":
    main()
