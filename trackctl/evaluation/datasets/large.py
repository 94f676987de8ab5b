"""LaSOT, GOT-10k and UAV123."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from trackctl.evaluation.annotations import read_flags
from trackctl.evaluation.datasets.folders import boxes_of, clip_of, loose_truths, marked_attributes, truths
from trackctl.evaluation.sequence import Clip, Flags, Sequence
from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Float64Array

LASOT_ATTRIBUTES = ("IV", "POC", "DEF", "MB", "CM", "ROT", "BC", "VC", "SV", "FOC", "FM", "OV", "LR", "ARC")
UAV123_ATTRIBUTES = ("SV", "ARC", "LR", "FM", "FOC", "POC", "OV", "BC", "IV", "VC", "CM", "SOB")

# UAV123 cuts long recordings into numbered parts; the number of the first image of each part that does not begin at 1
# (configSeqs.m of the data set's toolkit).
_UAV123_FIRST = {
    "bird1_2": 775,
    "bird1_3": 1573,
    "car1_2": 751,
    "car1_3": 1627,
    "car16_2": 415,
    "car6_2": 487,
    "car6_3": 1807,
    "car6_4": 2953,
    "car6_5": 3925,
    "car8_2": 1357,
    "group1_2": 1333,
    "group1_3": 2515,
    "group1_4": 3925,
    "group2_2": 907,
    "group2_3": 1771,
    "group3_2": 1567,
    "group3_3": 2827,
    "group3_4": 4369,
    "person12_2": 601,
    "person14_2": 847,
    "person14_3": 1813,
    "person17_2": 1501,
    "person19_2": 1243,
    "person19_3": 2791,
    "person2_2": 1189,
    "person4_2": 1501,
    "person5_2": 877,
    "person7_2": 1249,
    "person8_2": 1075,
    "truck4_2": 577,
    "uav1_2": 1555,
    "uav1_3": 2473,
}


def read_lasot(path: Path) -> list[Sequence]:
    """``<class>/<sequence>/groundtruth.txt`` and ``img``, absence in ``full_occlusion.txt`` and ``out_of_view.txt``.

    The evaluation toolkit's form is read, too: ``annos/<sequence>.txt``, ``annos/absent`` and ``annos/att``.
    """
    sequences = []
    for truth, own in truths(path, ("groundtruth.txt",), "LaSOT"):
        boxes = boxes_of(truth, one_based=True)
        folder, name = truth.parent, truth.parent.name if own else truth.stem
        labels = (folder / "full_occlusion.txt", folder / "out_of_view.txt") if own else (folder / "absent" / truth.name,)
        for label in labels:
            if label.is_file():
                boxes = _without(boxes, read_flags(label, len(boxes)) > 0.0)
        clip = clip_of(folder, len(boxes), inside=("img",)) if own else None
        attributes = marked_attributes((folder / "att" / truth.name,), LASOT_ATTRIBUTES) if not own else ()
        sequences.append(Sequence(name=name, truth_file=truth, truth_ltwh=boxes, clip=clip, attributes=attributes))
    return sequences


def _without(boxes: Float64Array, absent: Flags) -> Float64Array:
    """The boxes with NaN where the target is absent, save the first: trackers start from it whatever its label says."""
    absent[0] = False
    return np.where(absent[:, None], np.nan, boxes)


def read_got10k(path: Path) -> list[Sequence]:
    """``<sequence>/groundtruth.txt`` beside its images, with ``cover.label`` (0: invisible) and the size in ``meta_info.ini``."""
    sequences = []
    for truth, own in truths(path, ("groundtruth.txt",), "GOT-10k"):
        boxes = boxes_of(truth, one_based=True)
        folder = truth.parent
        clip = clip_of(folder, len(boxes)) if own else None
        if len(boxes) == 1 and own:
            raise InputError(f"{truth} has only the first box: the annotation of the test set is kept by its server, use val")
        if own and (folder / "cover.label").is_file():
            boxes = _without(boxes, read_flags(folder / "cover.label", len(boxes)) <= 0.0)
        name = folder.name if own else truth.stem
        sequences.append(
            Sequence(name=name, truth_file=truth, truth_ltwh=boxes, clip=clip, frame_hw=_resolution(folder) if own else None)
        )
    return sequences


def _resolution(folder: Path) -> tuple[int, int] | None:
    """Height and width from ``meta_info.ini``, whose line is ``resolution: (1920, 1080)``."""
    meta = folder / "meta_info.ini"
    found = re.search(r"resolution: \((\d+), (\d+)\)", meta.read_text(encoding="utf-8")) if meta.is_file() else None
    return (int(found[2]), int(found[1])) if found else None


def read_uav123(path: Path) -> list[Sequence]:
    """``anno/UAV123/<sequence>.txt`` and ``data_seq/UAV123/<recording>``; NaN where the target is out of view."""
    annotations = path / "anno" / "UAV123"
    files = sorted(annotations.glob("*.txt")) if annotations.is_dir() else loose_truths(path)
    if not files:
        raise InputError(f"found no UAV123 annotation in {path}, expected anno/UAV123/<sequence>.txt: check the path")
    sequences = []
    for truth in files:
        boxes = boxes_of(truth, one_based=True, absent_ok=True)
        name = truth.stem
        attributes = marked_attributes((truth.parent / "att" / truth.name,), UAV123_ATTRIBUTES)
        clip = _uav123_clip(path / "data_seq" / "UAV123", name, len(boxes))
        sequences.append(Sequence(name=name, truth_file=truth, truth_ltwh=boxes, clip=clip, attributes=attributes))
    return sequences


def _uav123_clip(images: Path, name: str, frames: int) -> Clip | None:
    whole = images / name
    folder = whole if whole.is_dir() else images / re.sub(r"_\d$", "", name)
    if not folder.is_dir():
        return None
    part = folder != whole
    return Clip(paths=(folder,), frames=frames, first=_UAV123_FIRST.get(name, 1) if part else None, spare_ok=part)
