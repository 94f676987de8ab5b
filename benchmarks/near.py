"""How small may the near search be? Success, and how often the whole window was searched after all, by margin.

    .venv/bin/python benchmarks/near.py [--shared ../shared] [--model dcfg-edge] [--margins 0 4 5 6 7] [--every 1 2 3]
        [--out FILE.md]

A margin is the number of response cells that the near graph leaves out on each side; 0 is the search graph alone. Success is the
mean AUC over five thermal and two visible sequences, gray, in fp16 on OpenVINO, redetection on. With --every 2 only each second
frame is shown, from each start: a target that moves twice as fast. Searches count the sweep's too.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from cv2_tracker_nano import SEQUENCES, load_sequence
from publish import publish
from starts import auc_from

from trackctl.calibration.record import Tap
from trackctl.export.pipeline import export_model, prepared_model
from trackctl.runtime.bundle import NEAR, SEARCH, TEMPLATE, Bundle
from trackctl.runtime.confidence import ConfidenceSpec
from trackctl.runtime.contract import Array
from trackctl.runtime.engines.openvino import OpenVinoEngine
from trackctl.runtime.geometry import Float64Array
from trackctl.runtime.processor import Processor
from trackctl.runtime.tracker import DEFAULT_REDETECTION, Tracker

Sequence = tuple[list[Array], Float64Array]


def opened(bundle: Bundle, key: str) -> OpenVinoEngine:
    entry = bundle.graph(key)
    return OpenVinoEngine.open(
        bundle.graph_path(key), expected_inputs=entry.inputs, expected_outputs=entry.outputs, threads=1, precision="fp16"
    )


def mean_success(tracker: Tracker, sequence: Sequence, every: int) -> float:
    """Mean success over all starts of a sequence of which each ``every``-th frame is shown."""
    frames, truth = sequence
    found = []
    for start in range(every):
        shown, boxes = frames[start : len(truth) : every], truth[start : len(frames) : every]
        found.append(auc_from(tracker, shown, boxes))
    return float(np.mean(found))


def rows(name: str, weights: Path | None, margin: int, sequences: Mapping[str, Sequence], everys: list[int]) -> list[str]:
    model, _ = prepared_model(name, weights, gray=True)
    model.near_margin = margin
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = export_model(model, name, out=Path(folder), precision="fp16").bundle
        spec = ConfidenceSpec.from_mapping(bundle.manifest.confidence)
        for every in everys:
            searches = {NEAR: 0, SEARCH: 0}

            def counted(key: str, searches: dict[str, int] = searches) -> Tap:
                def count(*_: object) -> None:
                    searches[key] += 1

                return Tap(opened(bundle, key), count)

            tracker = Tracker(
                opened(bundle, TEMPLATE),
                counted(SEARCH),
                counted(NEAR) if margin else None,
                crop=model.crop,
                channels=1,
                confidence=spec,
                redetection=DEFAULT_REDETECTION,
            )
            with tracker:
                aucs = {key: mean_success(tracker, sequence, every) for key, sequence in sequences.items()}
            thermal = np.mean([auc for key, auc in aucs.items() if key.startswith("tir_")])
            each = " ".join(f"{auc:.3f}" for auc in aucs.values())
            size = model.crop.search_size - 2 * margin * model.decode.stride
            means = f"{thermal:.3f} | {np.mean(list(aucs.values())):.3f}"
            lines.append(f"| {margin} ({size} px) | {every} | {each} | {means} | {searches[NEAR]} / {searches[SEARCH]} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--model", default="dcfg-edge", help="nanotrack-v2, or a model whose weights are shipped")
    parser.add_argument("--margins", type=int, nargs="+", default=[0, 4, 5, 6, 7])
    parser.add_argument("--every", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    weights = options.shared / "data/weights/nanotrack_v2.npz" if options.model == "nanotrack-v2" else None
    sequences: dict[str, Sequence] = {}
    for name in SEQUENCES:
        frames, truth = load_sequence(options.shared / "data/sequences" / name)
        sequences[name] = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames], truth
    lines = [
        f"{platform.machine()}, {Processor.read().model}; {options.model} fp16, gray, openvino x1",
        "",
        f"| margin | every | {' '.join(SEQUENCES)} | thermal | all | near / whole searches |",
        "|---|---|---|---|---|---|",
    ]
    for margin in options.margins:
        lines += rows(options.model, weights, margin, sequences, options.every)
    publish(lines, options.out)


if __name__ == "__main__":
    main()
