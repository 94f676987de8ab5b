"""OTB and the thermal benchmarks that took over its layout and toolkit: LSOTB-TIR and PTB-TIR."""

from __future__ import annotations

import re
from pathlib import Path

from trackctl.evaluation.datasets.folders import boxes_of, clip_of, marked_attributes, truths
from trackctl.evaluation.sequence import Sequence

_TRUTH = "groundtruth_rect.txt"
# Sequences with two targets have one annotation each (Jogging, Skating2); Human4 has only that of its second.
_NUMBERED = re.compile(r"groundtruth_rect\.(\d)\.txt")
# The images of David begin before its annotation; those of all others with it. Some go on after it.
_FIRST_IMAGE = {"David": 300}

# In the order of the toolkits' files of zeros and ones.
OTB_ATTRIBUTES = ("IV", "OPR", "SV", "OCC", "DEF", "MB", "FM", "IPR", "OV", "BC", "LR")
LSOTB_ATTRIBUTES = (
    *("deformation", "occlusion", "distractor", "background clutter", "out of view", "scale variation", "fast motion"),
    *("motion blur", "thermal crossover", "intensity variation", "low resolution", "aspect ratio variation"),
    *("vehicle-mounted", "drone-mounted", "surveillance", "hand-held"),
)
PTB_ATTRIBUTES = (
    *("deformation", "occlusion", "scale variation", "background clutter", "low resolution", "fast motion", "motion blur"),
    *("out of view", "intensity variation", "thermal crossover"),
)


def read_otb(path: Path) -> list[Sequence]:
    """``<sequence>/groundtruth_rect.txt`` and ``<sequence>/img``; attributes from ``attrs.txt`` or the toolkit's ``att``."""
    sequences = []
    for truth, own in truths(path, (_TRUTH, "groundtruth_rect.1.txt", "groundtruth_rect.2.txt"), "OTB"):
        for file in _targets(truth) if own and truth.name != _TRUTH else [truth]:
            number = _NUMBERED.fullmatch(file.name)
            name = f"{file.parent.name}-{number[1]}" if number else ""
            sequences.append(_sequence(path, file, own, OTB_ATTRIBUTES, name))
    return sequences


def _targets(truth: Path) -> list[Path]:
    return sorted(file for file in truth.parent.iterdir() if _NUMBERED.fullmatch(file.name) and file.stat().st_size)


def read_lsotb(path: Path) -> list[Sequence]:
    """LSOTB-TIR: the layout of OTB, with its own attributes."""
    return [_sequence(path, file, own, LSOTB_ATTRIBUTES) for file, own in truths(path, (_TRUTH,), "LSOTB-TIR")]


def read_ptb(path: Path) -> list[Sequence]:
    """PTB-TIR: the layout of OTB, with its own attributes."""
    return [_sequence(path, file, own, PTB_ATTRIBUTES) for file, own in truths(path, (_TRUTH,), "PTB-TIR")]


def _sequence(root: Path, truth: Path, own_folder: bool, names: tuple[str, ...], name: str = "") -> Sequence:
    boxes = boxes_of(truth, one_based=True)
    name = name or (truth.parent.name if own_folder else truth.stem)
    clip = None
    if own_folder:
        first = _FIRST_IMAGE.get(name)
        clip = clip_of(truth.parent, len(boxes), inside=("img",), spare_ok=True, first=first)
    listed = truth.parent / "attrs.txt"
    if own_folder and listed.is_file():
        attributes = tuple(part.strip() for part in listed.read_text(encoding="utf-8").split(",") if part.strip())
    else:
        folders = (root / "att", root / "anno" / "att", truth.parent / "att")
        attributes = marked_attributes(tuple(folder / f"{name}.txt" for folder in folders), names)
    return Sequence(name=name, truth_file=truth, truth_ltwh=boxes, clip=clip, attributes=attributes)
