"""What a snapshot-mosaic camera costs before the network: reading, comparing, gathering and cropping a frame, on one core.

    .venv/bin/python benchmarks/mosaic_reading.py [--frames 300] [--target 40] [--out FILE.md]

The frames of a raw video (uncompressed, in the page cache) run through the source and the Tracker as in ``trackctl track``; the
network is left out: its place takes a function that returns constants. PNG files of the same frames are decoded beside it.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from publish import publish

from trackctl.runtime.contract import QUALITY_OUT, SCORE, SEARCH_PATCH, STATE_IN, STATE_OUT, TEMPLATE_PATCH, TensorSpec
from trackctl.runtime.engine import FunctionEngine
from trackctl.runtime.geometry import CropSpec
from trackctl.runtime.processor import Processor
from trackctl.runtime.sensor import Sensor
from trackctl.runtime.sources import Source
from trackctl.runtime.sources.bands import RawVideo, Sensed
from trackctl.runtime.sources.images import Images
from trackctl.runtime.tracker import Tracker

SPEC = CropSpec()
# Bands, pattern, dead positions, width and height in whole cells, bits.
CASES = (
    (16, 4, (), 2048, 1088, 8),
    (16, 4, (), 2048, 1088, 10),
    (15, 4, (15,), 2048, 1088, 10),
    (25, 5, (), 2045, 1085, 8),
    (25, 5, (), 2045, 1085, 10),
)


def silent_tracker(bands: int) -> Tracker:
    """A tracker whose network costs nothing and leaves the box where it is."""
    state = TensorSpec("float32", (1, 6))
    patches = [TensorSpec("float32", (1, bands, size, size)) for size in (SPEC.template_size, SPEC.search_size)]
    score, quality = np.ones((1, 1), np.float32), np.full((1, 3), 50.0, np.float32)
    search = FunctionEngine(
        lambda feeds: {STATE_OUT: feeds[STATE_IN], SCORE: score, QUALITY_OUT: quality},
        {SEARCH_PATCH: patches[1], STATE_IN: state},
        {STATE_OUT: state, SCORE: TensorSpec("float32", (1, 1)), QUALITY_OUT: TensorSpec("float32", (1, 3))},
    )
    template = FunctionEngine(lambda feeds: {}, {TEMPLATE_PATCH: patches[0]}, {})
    return Tracker(template, search, crop=SPEC, channels=bands)


def spent(source: Source, tracker: Tracker, box: tuple[float, float, float, float]) -> np.ndarray:
    """Processor time of each frame after the first, (N - 1, 2) ms: reading it and all of ``update``."""
    frames = iter(source)
    tracker.init(next(frames), box)
    rows = []
    while True:
        began = time.process_time_ns()
        frame = next(frames, None)
        read = time.process_time_ns()
        if frame is None:
            return np.array(rows) / 1e6
        tracker.update(frame)
        rows.append((read - began, time.process_time_ns() - read))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--target", type=float, default=40.0, help="side of the target, cube px")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    side = SPEC.search_side_px(options.target, options.target)
    lines = [
        f"{platform.machine()}, {Processor.read().model}, one thread",
        f"{options.frames} frames, a target of {options.target:g} px, a search window of {side:.0f} px of the cube",
        "",
        "| bands | mosaic px | bits | read ms | compare, gather, crop ms | sum p50 ms | sum p95 ms | read a PNG instead ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for bands, pattern, dead, width, height, bits in CASES:
            dtype = np.uint8 if bits == 8 else np.uint16
            smooth = cv2.resize(rng.integers(0, 2**bits - 8, (height // 16, width // 16)).astype(np.float32), (width, height))
            shown = [(smooth + rng.integers(0, 8, (height, width))).astype(dtype) for _ in range(10)]
            path = Path(folder) / "clip.raw"
            with path.open("wb") as file:
                for index in range(options.frames):
                    file.write(shown[index % len(shown)])
            pngs = [Path(folder) / f"{bands}-{bits}-{index}.png" for index in range(len(shown))]
            for png, pixels in zip(pngs, shown, strict=True):
                cv2.imwrite(str(png), pixels)
            sensor = Sensor(positions=pattern**2, pattern=pattern, dead=dead, frame_wh=(width, height), bits=bits)
            corner = (width / pattern - options.target) / 2, (height / pattern - options.target) / 2
            box = (*corner, options.target, options.target)
            raw = spent(RawVideo(path, sensor), silent_tracker(bands), box)
            png = spent(Sensed(Images(pngs), sensor), silent_tracker(bands), box)
            lines.append(
                f"| {bands} | {width} x {height} | {bits} | {np.median(raw[:, 0]):.2f} | {np.median(raw[:, 1]):.2f} | "
                f"{np.median(raw.sum(axis=1)):.2f} | {np.percentile(raw.sum(axis=1), 95):.2f} | {np.median(png[:, 0]):.2f} |"
            )
    lines += ["", "Milliseconds of processor time: what the frame costs, whatever else the machine does."]
    publish(lines, options.out)


if __name__ == "__main__":
    main()
