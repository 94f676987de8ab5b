"""What the Tracker adds to the bare engine call at 640x512, and whether memory grows.

    .venv/bin/python benchmarks/loop_overhead.py BUNDLE [--updates 10000] [--out FILE.md]

The overhead of one frame is update() minus the engine's run inside it; both come from the same call. Memory is the resident set
of the process after 1,000 updates and at the end. Frames are 50 rendered ones, played round; no sweep.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import numpy as np
from publish import publish

from trackctl.runtime.processor import Processor
from trackctl.runtime.sources.synth import Synth, SynthSpec
from trackctl.runtime.tracker import Tracker


def resident_mib() -> float:
    """Resident memory of the process, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    clip = Synth(SynthSpec(frames=50, size=(640, 512)))
    frames = [frame.pixels for frame in clip]
    stages = np.zeros((options.updates, 4))
    early = 0.0
    with Tracker.open(options.bundle, redetection=None) as tracker:
        tracker.init(frames[0], clip.initial_box)
        for index in range(options.updates):
            spent = tracker.update(frames[(index + 1) % len(frames)]).stages_ns
            stages[index] = [spent["update"], spent["engine"], spent["crop"], spent["check"]]
            if index == 999:
                early = resident_mib()
        grown = resident_mib() - early
        overhead = (stages[:, 0] - stages[:, 1]) / 1e6
        lines = [
            f"{platform.machine()}, {Processor.read().model}",
            f"{options.bundle.name}, {tracker.engine_name}, {options.updates} updates",
            "",
            "| | p50 ms | p99 ms |",
            "|---|---|---|",
        ]
        columns = {"update": stages[:, 0] / 1e6, "engine": stages[:, 1] / 1e6, "overhead": overhead}
        columns |= {"of it crop": stages[:, 2] / 1e6, "of it the repeat check": stages[:, 3] / 1e6}
        for name, values in columns.items():
            lines.append(f"| {name} | {np.percentile(values, 50):.3f} | {np.percentile(values, 99):.3f} |")
        lines += ["", f"Resident memory after 1,000 updates {early:.1f} MiB, then {grown:+.2f} MiB."]
    publish(lines, options.out)


if __name__ == "__main__":
    main()
