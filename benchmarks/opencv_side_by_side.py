"""The same NanoTrack V2 weights in cv2.TrackerNano and in trackctl, frame by frame in one process: accuracy and time.

    .venv/bin/python benchmarks/opencv_side_by_side.py [--shared ../shared] [--precision fp32 fp16] [--out FILE.md]

Each frame goes to both trackers one after the other, so that both meet the same machine. Both get the BGR frame. The first box is
rounded for OpenCV, which takes whole pixels only.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from pathlib import Path
from time import perf_counter_ns

import cv2
import numpy as np
from cv2_tracker_nano import SEQUENCES, load_sequence, open_tracker, success_auc, write_graphs

from trackctl.export.pipeline import export
from trackctl.runtime.manifest import Precision
from trackctl.runtime.processor import Processor
from trackctl.runtime.tracker import Tracker


def compare(ours: Tracker, theirs: cv2.TrackerNano, sequence: Path) -> tuple[float, float, list[int], list[int]]:
    """Success AUC of ours and of theirs, and the nanoseconds of each update."""
    frames, truth = load_sequence(sequence)
    first = next(frames)
    ours.init(first, tuple(truth[0]))
    rounded = tuple(int(value) for value in np.rint(truth[0]))
    theirs.init(first, rounded)
    our_boxes, their_boxes = [tuple(truth[0])], [rounded]
    our_ns: list[int] = []
    their_ns: list[int] = []
    for frame, _ in zip(frames, truth[1:], strict=False):
        started = perf_counter_ns()
        result = ours.update(frame)
        between = perf_counter_ns()
        _, box = theirs.update(frame)
        their_ns.append(perf_counter_ns() - between)
        our_ns.append(between - started)
        our_boxes.append(tuple(result.box))
        their_boxes.append(box)
    truth = truth[: len(our_boxes)]
    return success_auc(np.array(our_boxes), truth), success_auc(np.array(their_boxes, float), truth), our_ns, their_ns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--precision", nargs="+", default=["fp32", "fp16"], choices=["fp32", "fp16"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    weights = options.shared / "data/weights/nanotrack_v2.npz"
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    lines = [f"{platform.machine()}, {Processor.read().model}, {Processor.read().cores} cores, OpenCV {cv2.__version__}", ""]
    with tempfile.TemporaryDirectory() as folder:
        write_graphs(weights, Path(folder))
        for precision in options.precision:
            lines += _table(precision, weights, Path(folder), options.shared)
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def _table(precision: Precision, weights: Path, folder: Path, shared: Path) -> list[str]:
    bundle = export("nanotrack-v2", out=folder, precision=precision, weights=weights, frames=()).bundle
    with Tracker.open(bundle.path) as ours:
        lines = [
            f"nanotrack-v2 {precision}, {ours.engine_name}",
            "",
            "| sequence | AUC trackctl | AUC OpenCV | update ms trackctl p50 (p99) | OpenCV p50 (p99) | ratio of p50 |",
            "|---|---|---|---|---|---|",
        ]
        rows = []
        for name in SEQUENCES:
            our_auc, their_auc, our_ns, their_ns = compare(ours, open_tracker(folder), shared / "data/sequences" / name)
            rows.append((our_auc, their_auc, np.median(our_ns) / np.median(their_ns)))
            times = [f"{np.percentile(ns, 50) / 1e6:.2f} ({np.percentile(ns, 99) / 1e6:.2f})" for ns in (our_ns, their_ns)]
            lines.append(f"| {name} | {our_auc:.3f} | {their_auc:.3f} | {times[0]} | {times[1]} | {rows[-1][2]:.2f} |")
        mean = np.mean(rows, axis=0)
        lines.append(f"| mean | {mean[0]:.3f} | {mean[1]:.3f} | | | {mean[2]:.2f} |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
