"""How often a target is lost when one camera of a pair fails for a while: both cameras, each alone, and with the fused branch.

    .venv/bin/python benchmarks/rgbt_degraded.py [--pictures FOLDER] [--frames 150] [--seeds 1] [--out FILE.md]

A virtual camera wanders over real registered pairs (``synth:pair?pictures=``). In each clip darkness, fog and a covered lens come
one after the other, each to one camera, so that no moment is without sight. All trackers have the same backbone, neck and head
and get the same frames; redetection and template update are off. A target is lost when its box and the tracker's do not overlap;
the tracker is then started again at the first frame five or more frames later in which both cameras see. AUC is that of one run
without restarts (OTB protocol, mean over clips).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from publish import publish

from trackctl.evaluation.ope import agreement, curves, summary
from trackctl.evaluation.protocol import OpeProtocol
from trackctl.export.pipeline import export_model
from trackctl.runtime.frame import Frame
from trackctl.runtime.geometry import Box, Float64Array, boxes_array, iou
from trackctl.runtime.sources.synth_pair import Span, SynthPair, SynthPairSpec
from trackctl.runtime.tracker import Tracker
from trackctl.training.dfat import DFAT, dfat_edge, dfat_lrr_edge
from trackctl.training.weights import load_weights
from trackctl.training.zoo import weights_path

SKIP_FRAMES = 5
SPANS = ((0.18, 0.36), (0.44, 0.62), (0.72, 0.90))
CAMERAS = ("visible", "thermal")
KINDS = ("dark", "fog", "blank")


@dataclass
class Score:
    """What a tracker came to: losses by what ailed the cameras, and per clip the AUC and the mean overlap between losses."""

    losses: dict[str, int]
    auc: list[float]
    overlap: list[float]


def clips(pictures: Path | None, frames: int, seeds: int) -> Iterator[SynthPair]:
    """Clips whose troubles go through all orders of cameras and kinds."""
    count = 21 if pictures is None else len(list((pictures / "vi").iterdir()))
    for seed in range(seeds):
        for picture in range(count):
            number = seed * count + picture
            spans = {
                KINDS[(number + at) % 3]: Span(
                    CAMERAS[(number // 3 + at) % 2],
                    round(start * frames),
                    round(end * frames),  # type: ignore[arg-type]
                )
                for at, (start, end) in enumerate(SPANS)
            }
            place = {"seed": number} if pictures is None else {"seed": seed, "pictures": pictures, "picture": picture}
            yield SynthPair(SynthPairSpec(frames=frames, **place, **spans))  # type: ignore[arg-type]


def ailment(clip: SynthPair, index: int) -> str:
    """What ails which camera in a frame."""
    for trouble, span in clip.spec.troubles():
        if span.strength(index) > 0.0:
            return f"{span.camera} {trouble}"
    return "nothing"


def follow(tracker: Tracker, clip: SynthPair, held: list[Frame], score: Score) -> None:
    """One run without restarts, and where that loses the target, what a tracker does that is started again."""
    truth = clip.boxes_ltwh
    boxes = run(tracker, truth, held)
    protocol = OpeProtocol()
    seen = agreement(truth, boxes, protocol)
    score.auc.append(summary(seen, curves(seen, protocol), protocol)["auc"] or 0.0)
    overlaps: list[float] = []
    start = 0
    while True:
        overlap = iou(truth[start:], boxes)[1:]
        lost = np.flatnonzero(overlap <= 0.0)
        overlaps += overlap[: lost[0] if len(lost) else None].tolist()
        if not len(lost):
            break
        at = start + 1 + int(lost[0])
        what = ailment(clip, at)
        score.losses[what] = score.losses.get(what, 0) + 1
        well = [index for index in range(at + SKIP_FRAMES, len(held)) if not clip.in_trouble(index)]
        if not well:
            break
        start = well[0]
        boxes = run(tracker, truth[start:], held[start:])
    score.overlap.append(float(np.mean(overlaps)))


def run(tracker: Tracker, truth: Float64Array, held: list[Frame]) -> Float64Array:
    """Boxes (N, 4) of a tracker that is started on the first of these frames."""
    tracker.init(held[0], Box(*truth[0]))
    return boxes_array([Box(*truth[0]), *(tracker.update(frame).box for frame in held[1:])])


def models(plain: Path, fused: Path) -> dict[str, DFAT]:
    """The trackers by name, from the weights without and with the fused branch."""
    made: dict[str, DFAT] = {}
    for name, variant in (("visible alone", "rgb"), ("thermal alone", "ir"), ("both (dfat-edge)", "dfat")):
        made[name] = dfat_edge(variant=variant)
        load_weights(made[name], plain)
    made["both and fused (dfat-lrr-edge)"] = dfat_lrr_edge()
    load_weights(made["both and fused (dfat-lrr-edge)"], fused)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, default=Path("../shared/data/fusion/tno21"))
    parser.add_argument("--rendered", action="store_true", help="the rendered scene rather than pictures")
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--weights", type=Path, help="of dfat-edge, if not those shipped")
    parser.add_argument("--fused-weights", type=Path, help="of dfat-lrr-edge, if not those shipped")
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    plain = weights_path("dfat-edge", options.weights)
    fused = weights_path("dfat-lrr-edge", options.fused_weights)
    pictures = None if options.rendered else options.pictures
    scores: dict[str, Score] = {}
    trackers: dict[str, Tracker] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, model) in enumerate(models(plain, fused).items()):
            bundle = export_model(model, f"tracker{number}", out=Path(folder)).bundle
            trackers[name] = Tracker.open(bundle.path, engine=options.engine, threads=1, redetection=None)
            scores[name] = Score({}, [], [])
        played = 0
        for clip in clips(pictures, options.frames, options.seeds):
            held = list(clip)
            played += 1
            for name, tracker in trackers.items():
                follow(tracker, clip, held, scores[name])
        for tracker in trackers.values():
            tracker.close()
    ailments = sorted({what for score in scores.values() for what in score.losses})
    lines = [
        f"{played} clips of {options.frames} frames over {'the rendered scene' if pictures is None else pictures.name}",
        "",
        "| tracker | losses | " + " | ".join(ailments) + " | overlap between losses | AUC without restarts |",
        "|---" * (len(ailments) + 4) + "|",
    ]
    for name, score in scores.items():
        counts = " | ".join(str(score.losses.get(what, 0)) for what in ailments)
        lines.append(
            f"| {name} | {sum(score.losses.values())} | {counts} | {np.mean(score.overlap):.3f} | {np.mean(score.auc):.3f} |"
        )
    publish(lines, options.out)


if __name__ == "__main__":
    main()
