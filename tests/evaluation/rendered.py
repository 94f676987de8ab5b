"""Small rendered data sets and a tiny bundle, for the tests that run trackers."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from trackctl.evaluation.datasets import open_dataset
from trackctl.evaluation.sequence import DataSet
from trackctl.runtime.bundle import Bundle
from trackctl.runtime.sources.synth import Synth, SynthSpec

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runtime"))

from tiny_graphs import tiny_bundle

ATTRIBUTES = ("IV", "SV", "OCC")


def make_bundle(folder: Path, name: str = "tiny.trk") -> Bundle:
    """A bundle of a few hundred weights; its box drifts, always in the same way."""
    folder.mkdir()
    made = tiny_bundle(folder, confidence={})
    return Bundle.open(made.path.rename(folder / name))


def make_otb(folder: Path, sequences: int = 4, frames: int = 12) -> DataSet:
    """Sequences of 96 x 80 px in the layout of OTB, each with one or two attributes."""
    for number in range(sequences):
        clip = Synth(SynthSpec(frames=frames, size=(96, 80), seed=number, target="vehicle"))
        place = folder / f"clip{number:02d}"
        (place / "img").mkdir(parents=True)
        for frame in clip:
            cv2.imwrite(str(place / "img" / f"{frame.index + 1:04d}.png"), frame.pixels)
        np.savetxt(place / "groundtruth_rect.txt", np.add(clip.boxes_ltwh, [1, 1, 0, 0]), fmt="%.3f", delimiter=",")
        marked = sorted({ATTRIBUTES[number % 3], ATTRIBUTES[number % 2]})
        (place / "attrs.txt").write_text(", ".join(marked), encoding="utf-8")
    return open_dataset(f"otb:{folder}")


def make_vot(folder: Path, sequences: int = 2, frames: int = 30) -> DataSet:
    """A bright square that jumps across the frame halfway, in the layout of VOT with rotated polygons."""
    folder.mkdir()
    names = [f"jump{number}" for number in range(sequences)]
    (folder / "list.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    for number, name in enumerate(names):
        place = folder / name
        (place / "color").mkdir(parents=True)
        ground = np.random.default_rng(number).integers(60, 90, (120, 160), dtype=np.uint8)
        polygons = []
        for index in range(frames):
            x, y = (20 + index * 0.2, 30) if index < frames // 2 else (120, 80 + index * 0.2)
            pixels = ground.copy()
            pixels[int(y) : int(y) + 20, int(x) : int(x) + 24] = 230
            cv2.imwrite(str(place / "color" / f"{index + 1:08d}.png"), pixels)
            polygons.append([x, y + 2, x + 22, y, x + 24, y + 18, x + 2, y + 20])
        np.savetxt(place / "groundtruth.txt", polygons, fmt="%.3f", delimiter=",")
    return open_dataset(f"vot2018:{folder}")
