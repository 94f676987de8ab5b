"""What several targets cost: one update of MultiTracker beside one of Tracker, on the same frames, and their boxes.

    .venv/bin/python benchmarks/multi.py SINGLE.trk MANY.trk [--runtime openvino] [--threads 1] [--frames 60] [--out FILE.md]

The two bundles are exports of one model, the second with --targets N. Updates are made in turn and timed both by the wall clock
and by the CPU time of the process, which other programs on the machine disturb less. Every target is also followed by a Tracker
of its own, and the boxes are compared. The targets are one, begun with boxes a pixel apart: all are really there.
"""

from __future__ import annotations

import argparse
import platform
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter_ns, process_time_ns

import numpy as np
from publish import publish

from trackctl.runtime.geometry import Box
from trackctl.runtime.multi import MultiTracker
from trackctl.runtime.processor import Processor
from trackctl.runtime.sources.synth import Synth, SynthSpec
from trackctl.runtime.tracker import Tracker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("single", type=Path)
    parser.add_argument("many", type=Path)
    parser.add_argument("--runtime", default="openvino")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    clip = Synth(SynthSpec(frames=options.frames, size=(640, 512)))
    frames = [frame.pixels for frame in clip]
    setting = {"engine": options.runtime, "threads": options.threads, "redetection": None}
    with ExitStack() as stack:
        many = stack.enter_context(MultiTracker.open(options.many, **setting))
        singles = [stack.enter_context(Tracker.open(options.single, **setting)) for _ in range(many.capacity)]
        left, top, width, height = clip.initial_box
        boxes = [Box(left + index, top + index, width, height) for index in range(many.capacity)]
        targets = [many.add(frames[0], box) for box in boxes]
        for tracker, box in zip(singles, boxes, strict=True):
            tracker.init(frames[0], box)
        wall, spent, apart = [], [], 0.0
        for frame in frames[1:]:
            marks = [(perf_counter_ns(), process_time_ns())]
            alone = [singles[0].update(frame)]
            marks.append((perf_counter_ns(), process_time_ns()))
            together = many.update(frame)
            marks.append((perf_counter_ns(), process_time_ns()))
            alone += [tracker.update(frame) for tracker in singles[1:]]
            marks.append((perf_counter_ns(), process_time_ns()))
            times = np.diff(np.array(marks), axis=0) / 1e6  # (one, all together, the others one by one) x (wall, CPU) ms
            times[2] += times[0]
            wall.append(times[:, 0])
            spent.append(times[:, 1])
            pairs = zip(alone, (together[target] for target in targets), strict=True)
            apart = max(apart, *(float(np.abs(np.subtract(one.box, other.box)).max()) for one, other in pairs))
        lines = [
            f"{platform.machine()}, {Processor.read().model}",
            f"{options.single.name}, {options.many.name}, {many.engine_name}, {len(frames) - 1} updates in turn",
            "",
            f"| p50 ms | one target | {many.capacity} targets | {many.capacity} trackers | targets by one, median of pairs |",
            "|---|---|---|---|---|",
        ]
        for name, times in (("wall clock", np.array(wall)), ("CPU time", np.array(spent))):
            one, together_ms, each = np.median(times, axis=0)
            ratio = np.median(times[:, 1] / times[:, 0])
            lines.append(f"| {name} | {one:.2f} | {together_ms:.2f} | {each:.2f} | {ratio:.2f} |")
        lines += ["", f"Largest difference of a box from that of a tracker of its own: {apart:.2g} px."]
    publish(lines, options.out)


if __name__ == "__main__":
    main()
