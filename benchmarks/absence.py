"""Is LOST honest? Clips whose target is covered or out of view, or whose sensor is black or frozen, for a while.

    .venv/bin/python benchmarks/absence.py [--shared ../shared] [--every 100] [--out FILE.md]

The clips are made from the five thermal development sequences (trackctl/evaluation/absence.py). Columns: share of the frames
before the absence that are TRACKING; share of the frames of the absence that are TRACKING all the same; share of the clips in
which the target is TRACKING again within 30 frames of its return, on the target (IoU >= 0.3).

cv2.TrackerNano has no status. Its update() returns whether it found the target, which is taken for TRACKING; the last rows take
its score instead, from 0.9 up.

The thresholds of dcfg-edge were chosen on clips of the training data; rebound and what redetection does, on clips of these
sequences that start every 50 frames.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from cv2_tracker_nano import load_sequence, open_tracker, write_graphs
from publish import publish

from trackctl.evaluation.absence import KINDS, AbsenceClip, AbsenceScore, AbsenceSpec, absence_clips, judge_absence
from trackctl.export.pipeline import export
from trackctl.runtime.confidence import Status
from trackctl.runtime.geometry import Box
from trackctl.runtime.redetect import Redetection
from trackctl.runtime.tracker import Tracker

SEQUENCES = ("tir_airplane", "tir_antiuav5", "tir_antiuav9", "tir_antiuav18", "tir_antiuav40")
SURE_SCORE = 0.9

Follow = Callable[[AbsenceClip], Sequence[tuple[Box, Status]]]


def follow_ours(tracker: Tracker) -> Follow:
    def follow(clip: AbsenceClip) -> list[tuple[Box, Status]]:
        frames = [np.ascontiguousarray(frame[:, :, 0]) for frame in clip.frames]  # as a thermal camera sends them
        tracker.init(frames[0], tuple(clip.truth_ltwh[0]))
        results = [tracker.update(frame) for frame in frames[1:]]
        return [(result.box, result.status) for result in results]

    return follow


def follow_opencv(graphs: Path, by_score: bool) -> Follow:
    def follow(clip: AbsenceClip) -> list[tuple[Box, Status]]:
        tracker = open_tracker(graphs)
        tracker.init(clip.frames[0], tuple(int(value) for value in np.rint(clip.truth_ltwh[0])))
        said = []
        for frame in clip.frames[1:]:
            found, box = tracker.update(frame)
            if by_score:
                found = tracker.getTrackingScore() >= SURE_SCORE
            said.append((Box(*box), Status.TRACKING if found else Status.LOST))
        return said

    return follow


def row(name: str, kind: str, scores: Sequence[AbsenceScore]) -> str:
    false, away = np.sum([score.false_tracking for score in scores], axis=0)
    tracking, found = np.mean([score.tracking for score in scores]), np.mean([score.found for score in scores])
    return f"| {name} | {kind} | {len(scores)} | {tracking:.3f} | {false / away:.4f} | {found:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--every", type=int, default=AbsenceSpec().every)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    spec = AbsenceSpec(every=options.every)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    with tempfile.TemporaryDirectory() as folder:
        write_graphs(options.shared / "data/weights/nanotrack_v2.npz", Path(folder))
        bundle = export("dcfg-edge", out=Path(folder), precision="fp16", frames=()).bundle.path
        trackers: dict[str, Follow] = {
            "dcfg-edge": follow_ours(Tracker.open(bundle, engine="openvino", threads=1)),
            "dcfg-edge, no sweep": follow_ours(Tracker.open(bundle, engine="openvino", threads=1, redetection=None)),
            "cv2.TrackerNano": follow_opencv(Path(folder), by_score=False),
            f"cv2.TrackerNano, score >= {SURE_SCORE}": follow_opencv(Path(folder), by_score=True),
        }
        scores: dict[str, list[AbsenceScore]] = {name: [] for name in trackers}
        for sequence in SEQUENCES:
            frames, truth_ltwh = load_sequence(options.shared / "data/sequences" / sequence)
            for clip in absence_clips(list(frames), truth_ltwh, spec):
                for name, follow in trackers.items():
                    scores[name].append(judge_absence(clip, spec, follow))
    lines = [
        f"{Redetection()}",
        "",
        "| tracker | absence | clips | TRACKING before | false TRACKING | found again |",
        "|---|---|---|---|---|---|",
    ]
    for name, given in scores.items():
        lines += [row(name, kind, [score for score in given if score.kind == kind]) for kind in KINDS]
        lines.append(row(name, "all", given))
    publish(lines, options.out)


if __name__ == "__main__":
    main()
