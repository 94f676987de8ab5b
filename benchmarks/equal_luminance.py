"""What a tracker gains from spectra: targets that differ from their background in their spectrum alone.

    for r in bcrnet-edge benchmarks/recipes/bcrnet-edge-luminance.toml benchmarks/recipes/bcrnet-edge-pca.toml; do
        .venv/bin/trackctl train $r --out runs/$(basename $r .toml)
    done
    .venv/bin/python benchmarks/equal_luminance.py runs [--clip FOLDER ... --spectra CUBE] [--frames 60] [--out FILE.md]

The three trainings start from the same weights and see the same pairs in the same order, as bands, as their mean in each of 16
channels, or as the first three principal components of the template's frame. They track ``synth:hsi`` sequences with
``luminance=equal`` whose seeds no training uses, and clips lifted with spectra of a real cube. Success AUC, OTB protocol, one
run without restarts per sequence; PyTorch in float32; redetection and template update are off.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from trackctl.evaluation.ope import agreement, score_ope
from trackctl.evaluation.protocol import OpeProtocol
from trackctl.runtime.contract import Array
from trackctl.runtime.false_colour import Luminance, PrincipalComponents
from trackctl.runtime.frame import Frame
from trackctl.runtime.geometry import Box, Float64Array, boxes_array
from trackctl.runtime.sensor import Sensor
from trackctl.runtime.sources.synth_hsi import SynthHsi, SynthHsiSpec
from trackctl.runtime.sources.synth_scene import TARGETS
from trackctl.runtime.tracker import Tracker
from trackctl.training.bcrnet import bcrnet_edge
from trackctl.training.engine import torch_engines
from trackctl.training.from_anchors import take_head
from trackctl.training.model import TrackerModel
from trackctl.training.systems import take_backbone
from trackctl.training.weights import load_weights
from trackctl.training.zoo import SEED, load

# Trainings draw their worlds from other seeds.
FIRST_SEED = 1000
RECIPES = {"bands": "bcrnet-edge", "luminance": "bcrnet-edge-luminance", "pca": "bcrnet-edge-pca"}
STARTED_FROM = "dcfg-edge"

Convert = Callable[[Array], Array]
Pictures = Callable[[Sequence[Frame]], list[Frame]]


def converted(convert: Convert, frames: Sequence[Frame], *, sensor: bool) -> list[Frame]:
    """The frames with other pixels; ``sensor`` keeps what they say about their bands."""
    return [Frame(convert(f.pixels), f.timestamp_ns, f.index, f.sensor if sensor else None) for f in frames]


def _sensor(frames: Sequence[Frame]) -> Sensor:
    assert frames[0].sensor is not None
    return frames[0].sensor


def as_bands(frames: Sequence[Frame]) -> list[Frame]:
    """As they are."""
    return list(frames)


def as_luminance(frames: Sequence[Frame]) -> list[Frame]:
    """Every band is the mean of all."""
    return converted(Luminance(_sensor(frames)), frames, sensor=True)


def as_components(frames: Sequence[Frame]) -> list[Frame]:
    """Three principal components, found in the first frame."""
    return converted(PrincipalComponents(_sensor(frames)), frames, sensor=False)


def as_gray(frames: Sequence[Frame]) -> list[Frame]:
    """Gray pictures, the mean of all bands stretched to 0..255 by the first frame."""
    mean = Luminance(_sensor(frames))
    first = mean(frames[0].pixels)[:, :, 0]
    low, high = float(first.min()), float(max(first.max(), first.min() + 1))

    def gray(pixels: Array) -> Array:
        levels = (mean(pixels)[:, :, 0].astype(np.float32) - low) * (255.0 / (high - low))
        return np.clip(np.rint(levels), 0, 255).astype(np.uint8)

    return converted(gray, frames, sensor=False)


SEEN: dict[str, Pictures] = {"bands": as_bands, "luminance": as_luminance, "pca": as_components}


def network(view: str, weights: Path | None) -> TrackerModel:
    """The network of a view with trained weights, or as its training starts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = bcrnet_edge(bands=3 if view == "pca" else 16).eval()
    if weights is not None:
        load_weights(model, weights)
        return model
    take_backbone(model, STARTED_FROM)
    take_head(model, load(STARTED_FROM))
    return model


def last_weights(folder: Path) -> Path:
    """The averaged weights of the last step in a training's folder."""
    return sorted(folder.glob("step-*.safetensors"))[-1]


def sequences(rendered: int, clips: Sequence[Path], spectra: Path | None, frames: int) -> Iterator[tuple[str, str, SynthHsi]]:
    """Kind, name and sequence, one after the other."""
    for number in range(rendered):
        seed, target = FIRST_SEED + number, TARGETS[number % len(TARGETS)]
        spec = SynthHsiSpec(frames=frames, seed=seed, target=target, luminance="equal")
        yield "rendered", f"{target} {seed}", SynthHsi(spec)
    for clip in clips:
        boxes = sorted(clip.glob("groundtruth*.txt"))[0]
        for seed in (FIRST_SEED, FIRST_SEED + 1):
            spec = SynthHsiSpec(frames=frames, seed=seed, luminance="equal", clip=clip, boxes=boxes, spectra=spectra)
            yield "clips", f"{clip.name} {seed}", SynthHsi(spec)


def track(model: TrackerModel, frames: Sequence[Frame], first: Box) -> Float64Array:
    """Boxes (N, 4) of one run."""
    template, search = torch_engines(model)
    with Tracker(template, search, crop=model.crop, channels=model.channels, confidence=model.confidence) as tracker:
        tracker.init(frames[0], first)
        return boxes_array([first, *(tracker.update(frame).box for frame in frames[1:])])


def auc(truth: Float64Array, boxes: Float64Array) -> float:
    """Area under the success plot, 0..1."""
    protocol = OpeProtocol()
    return score_ope({"": agreement(truth, boxes, protocol)}, {}, protocol).overall["auc"]


def table(scores: Mapping[str, Mapping[str, float]], kinds: Mapping[str, str]) -> str:
    """One row per sequence, then the means, as Markdown."""
    lines = ["| sequence | " + " | ".join(scores) + " |", "|---" * (len(scores) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(f"{row[name]:.3f}" for row in scores.values()) + " |" for name in kinds]
    for kind in dict.fromkeys(kinds.values()):
        names = [name for name in kinds if kinds[name] == kind]
        means = (float(np.mean([row[name] for name in names])) for row in scores.values())
        lines.append(f"| **mean of {len(names)} {kind}** | " + " | ".join(f"**{mean:.3f}**" for mean in means) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of the three trainings' folders")
    parser.add_argument("--views", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--rendered", type=int, default=10)
    parser.add_argument("--clip", type=Path, action="append", default=[], help="folder of pictures and groundtruth*.txt")
    parser.add_argument("--spectra", type=Path, help="cube with wavelengths that the clips' spectra are taken from")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--start", action="store_true", help="also what the networks do before they are trained")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    entrants: dict[str, tuple[TrackerModel, Pictures]] = {}
    for view in options.views:
        entrants[view] = network(view, last_weights(options.runs / RECIPES[view])), SEEN[view]
    if options.start:
        entrants |= {f"{view}, untrained": (network(view, None), SEEN[view]) for view in options.views}
    shipped = load(STARTED_FROM)
    entrants[f"{STARTED_FROM} on pca"] = shipped, as_components
    entrants[f"{STARTED_FROM} on luminance"] = shipped, as_gray
    scores: dict[str, dict[str, float]] = {name: {} for name in (*entrants, "box stands still")}
    kinds: dict[str, str] = {}
    began = time.process_time()
    for kind, name, clip in sequences(options.rendered, options.clip, options.spectra, options.frames):
        kinds[name] = kind
        frames, truth = list(clip), clip.boxes_ltwh
        for entrant, (model, pictures) in entrants.items():
            scores[entrant][name] = auc(truth, track(model, pictures(frames), clip.initial_box))
        scores["box stands still"][name] = auc(truth, np.repeat(truth[:1], len(truth), axis=0))
        print(name, {entrant: round(row[name], 3) for entrant, row in scores.items()}, flush=True)
    text = table(scores, kinds)
    print(text)
    print(f"{time.process_time() - began:.0f} s of processor time")
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
