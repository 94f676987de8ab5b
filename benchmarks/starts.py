"""Accuracy of a shipped model in each precision, over several starts: one closed loop forks on rounding, their mean does not.

    .venv/bin/python benchmarks/starts.py [--shared ../shared] [--model dcfg-edge] [--precision fp32 fp16 int8] [--starts 6]
        [--out FILE.md]

Mean success AUC on the five thermal sequences, gray frames, each tracked to its end from frame 0, 10, 20 ...; OpenVINO, one
thread. int8 is calibrated on another clip.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cv2_tracker_nano import SEQUENCES, load_sequence, success_auc
from opencv_side_by_side import calibration_clip
from publish import publish

from trackctl.export.pipeline import export
from trackctl.runtime.contract import Array
from trackctl.runtime.geometry import Box, Float64Array, boxes_array
from trackctl.runtime.manifest import PRECISIONS
from trackctl.runtime.processor import Processor
from trackctl.runtime.tracker import Tracker

APART = 10
THERMAL = [name for name in SEQUENCES if name.startswith("tir_")]


def auc_from(tracker: Tracker, frames: Sequence[Array], truth_ltwh: Float64Array) -> float:
    """Success AUC of a sequence from its first frame to its end."""
    tracker.init(frames[0], tuple(truth_ltwh[0]))
    boxes = [Box(*truth_ltwh[0]), *(tracker.update(frame).box for frame in frames[1:])]
    return success_auc(boxes_array(boxes), truth_ltwh[: len(boxes)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--model", default="dcfg-edge")
    parser.add_argument("--precision", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--starts", type=int, default=6)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [
        f"{platform.machine()}, {Processor.read().model}; {options.model}, openvino x1, {options.starts} starts",
        "",
        f"| precision | {' | '.join(THERMAL)} | mean |",
        f"|---{'|---' * len(THERMAL)}|---|",
    ]
    for precision in options.precision:
        calibration = calibration_clip(options.shared) if precision == "int8" else None
        means = []
        with tempfile.TemporaryDirectory() as folder:
            bundle = export(options.model, out=Path(folder), precision=precision, frames=(), calibration=calibration).bundle
            with Tracker.open(bundle.path, engine="openvino", threads=1) as tracker:
                for name in THERMAL:
                    shown, truth_ltwh = load_sequence(options.shared / "data/sequences" / name)
                    frames = [np.ascontiguousarray(frame[:, :, 0]) for frame in shown][: len(truth_ltwh)]
                    starts = range(0, APART * options.starts, APART)
                    means.append(np.mean([auc_from(tracker, frames[start:], truth_ltwh[start:]) for start in starts]))
        lines.append(f"| {precision} | {' | '.join(f'{mean:.3f}' for mean in means)} | {np.mean(means):.3f} |")
    publish(lines, options.out)


if __name__ == "__main__":
    main()
