"""How often is the place that looks most like a target the target's? By the side of the small picture, and its time.

    .venv/bin/python benchmarks/appearance.py [--shared ../shared] [--sides 6 10 14 18] [--away 43] [--out FILE.md]

From every 50th frame of the five thermal sequences the look of the annotated target is taken and sought in the whole frame that
comes so many frames later. Found is a place within 0.6 of the target's square. Times are ratios to the first side's, run in turn.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from time import perf_counter_ns

import numpy as np
from cv2_tracker_nano import load_sequence
from publish import publish
from starts import THERMAL

import trackctl.runtime.appearance
from trackctl.runtime.appearance import Appearance
from trackctl.runtime.contract import Array
from trackctl.runtime.crop import HostCrop, frame_fill
from trackctl.runtime.frame import GRAY8
from trackctl.runtime.geometry import Box, CropSpec
from trackctl.runtime.processor import Processor

APART, REACHED, EVERYWHERE_PX, CROP = 50, 0.6, 1e6, CropSpec()


def look_of(frame: Array, target: Box, side_px: float, cut: HostCrop) -> Appearance:
    patch = cut(frame, GRAY8, target.centre_xy, side_px, frame_fill(frame))
    return Appearance(patch[0, 0], side_px)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--sides", type=int, nargs="+", default=[6, 10, 14, 18])
    parser.add_argument("--away", type=int, default=43)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cut = HostCrop(CROP.template_size, 1)
    found: dict[int, list[bool]] = {side: [] for side in options.sides}
    spent: dict[int, list[int]] = {side: [] for side in options.sides}
    for name in THERMAL:
        shown, truth_ltwh = load_sequence(options.shared / "data/sequences" / name)
        frames = [np.ascontiguousarray(frame[:, :, 0]) for frame in shown]
        for start in range(0, min(len(frames), len(truth_ltwh)) - options.away, APART):
            pair = truth_ltwh[[start, start + options.away]]
            if not np.isfinite(pair).all():
                continue
            before, after = (Box(*box) for box in pair)
            side_px = CROP.template_side_px(before.width, before.height)
            for side in options.sides:
                trackctl.runtime.appearance.SIDE = side
                look = look_of(frames[start], before, side_px, cut)
                started = perf_counter_ns()
                places = look.places(frames[start + options.away], 1, before.centre_xy, EVERYWHERE_PX)
                spent[side].append(perf_counter_ns() - started)
                apart = np.abs(np.subtract(places, after.centre_xy)).max() if places else np.inf
                found[side].append(bool(apart < REACHED * side_px))
    lines = [
        f"{platform.machine()}, {Processor.read().model}; {len(found[options.sides[0]])} targets, {options.away} frames later",
        "",
    ]
    lines += ["| side px | found first | time |", "|---|---|---|"]
    base = np.median(spent[options.sides[0]])
    lines += [f"| {side} | {np.mean(found[side]):.2f} | {np.median(spent[side]) / base:.1f} |" for side in options.sides]
    publish(lines, options.out)


if __name__ == "__main__":
    main()
