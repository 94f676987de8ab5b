"""The same NanoTrack V2 weights in cv2.TrackerNano and in trackctl, sequence by sequence in one process: accuracy and time.

    .venv/bin/python benchmarks/opencv_side_by_side.py [--shared ../shared] [--model nanotrack-v2] [--precision fp32 fp16 int8]
        [--thermal] [--out FILE.md]

The two take turns sequence by sequence, so that both meet the same machine and neither wakes the other's threads. Both get
the BGR frame; with --thermal ours gets what a thermal camera sends, gray frames, cuts gray patches, and only the thermal
sequences count. The first box is rounded for OpenCV, which takes whole pixels only. int8 is calibrated on another clip.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from pathlib import Path
from time import perf_counter_ns

import cv2
import numpy as np
from cv2_tracker_nano import SEQUENCES, load_sequence, open_tracker, success_auc, track, write_graphs
from publish import publish

from trackctl.calibration.footage import Footage
from trackctl.export.pipeline import Calibration, export
from trackctl.runtime.geometry import Box, Float64Array, boxes_array
from trackctl.runtime.manifest import PRECISIONS, Precision
from trackctl.runtime.processor import Processor
from trackctl.runtime.sources import open_source
from trackctl.runtime.tracker import Tracker

CALIBRATION = "IR_HELICOPTER_001.mp4"


def follow(tracker: Tracker, sequence: Path, gray: bool) -> tuple[Float64Array, list[int]]:
    """Boxes (N, 4) of our tracker and the nanoseconds of each update after the first frame."""
    frames, truth_ltwh = load_sequence(sequence)
    if gray:
        frames = (np.ascontiguousarray(frame[:, :, 0]) for frame in frames)
    tracker.init(next(frames), tuple(truth_ltwh[0]))
    boxes, spent_ns = [Box(*truth_ltwh[0])], []
    for frame, _ in zip(frames, truth_ltwh[1:], strict=False):
        started = perf_counter_ns()
        result = tracker.update(frame)
        spent_ns.append(perf_counter_ns() - started)
        boxes.append(result.box)
    return boxes_array(boxes), spent_ns


def calibration_clip(shared: Path) -> Calibration:
    """A thermal clip that is not reported on."""
    clip = shared / "data/train/ir_video" / CALIBRATION
    box = np.load(clip.parent / "boxes.npz")[clip.stem][0].astype(float)
    return Calibration(footage=Footage(source=open_source(str(clip)), box=Box(*box)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--model", default="nanotrack-v2", help="nanotrack-v2, or a model whose weights are shipped")
    parser.add_argument("--thermal", action="store_true")
    parser.add_argument("--precision", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    weights = options.shared / "data/weights/nanotrack_v2.npz"
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    lines = [f"{platform.machine()}, {Processor.read().model}, {Processor.read().cores} cores, OpenCV {cv2.__version__}", ""]
    with tempfile.TemporaryDirectory() as folder:
        write_graphs(weights, Path(folder))
        for precision in options.precision:
            lines += _table(options.model, precision, weights, Path(folder), options.shared, options.thermal)
    publish(lines, options.out)


def _table(model: str, precision: Precision, weights: Path, folder: Path, shared: Path, thermal: bool) -> list[str]:
    calibration = calibration_clip(shared) if precision == "int8" else None
    own = weights if model == "nanotrack-v2" else None
    exported = export(
        model, out=folder, precision=precision, weights=own, frames=(), calibration=calibration, gray=thermal, force=True
    )
    with Tracker.open(exported.bundle.path) as ours:
        lines = [
            f"{model} {precision}{', gray' if thermal else ''}, {ours.engine_name}",
            "",
            "| sequence | AUC trackctl | AUC OpenCV | update ms trackctl p50 (p99) | OpenCV p50 (p99) | ratio of p50 |",
            "|---|---|---|---|---|---|",
        ]
        rows = []
        for name in (name for name in SEQUENCES if name.startswith("tir_") or not thermal):
            sequence = shared / "data/sequences" / name
            their_boxes, truth, their_ns = track(open_tracker(folder), sequence)
            our_boxes, our_ns = follow(ours, sequence, thermal)
            ratio = np.median(our_ns) / np.median(their_ns)
            rows.append((success_auc(our_boxes, truth), success_auc(their_boxes, truth), ratio))
            times = [f"{np.percentile(ns, 50) / 1e6:.2f} ({np.percentile(ns, 99) / 1e6:.2f})" for ns in (our_ns, their_ns)]
            lines.append(f"| {name} | {rows[-1][0]:.3f} | {rows[-1][1]:.3f} | {times[0]} | {times[1]} | {ratio:.2f} |")
        mean = np.mean(rows, axis=0)
        lines.append(f"| mean | {mean[0]:.3f} | {mean[1]:.3f} | | | {mean[2]:.2f} |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
