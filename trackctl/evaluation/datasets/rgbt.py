"""RGB-T benchmarks with one annotation per camera: GTOT, RGBT234, LasHeR."""

from __future__ import annotations

from pathlib import Path

from trackctl.evaluation.annotations import read_flags
from trackctl.evaluation.datasets.folders import boxes_of, clip_of, corner_boxes_of, marked_attributes, truths
from trackctl.evaluation.sequence import Sequence
from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Float64Array

LASHER_ATTRIBUTES = (
    *("NO", "PO", "TO", "HO", "MB", "LI", "HI", "AIV", "LR", "DEF"),
    *("BC", "SA", "CM", "TC", "FL", "OV", "FM", "SV", "ARC"),
)


def read_gtot(path: Path) -> list[Sequence]:
    """``<sequence>/groundTruth_v.txt`` and ``groundTruth_i.txt`` (x1 y1 x2 y2), images in ``v`` and ``i``."""
    sequences = []
    for truth, own in truths(path, ("groundTruth_v.txt",), "GTOT"):
        if not own:
            raise InputError(f"found {truth}, expected <sequence>/groundTruth_v.txt and groundTruth_i.txt in {path}")
        infrared = corner_boxes_of(_second(truth, "groundTruth_i.txt"), one_based=True)
        sequences.append(_pair(truth, corner_boxes_of(truth, one_based=True), infrared, ("v", "i"), ()))
    return sequences


def read_rgbt234(path: Path) -> list[Sequence]:
    """``<sequence>/visible.txt`` and ``infrared.txt``, images in ``visible`` and ``infrared``; attributes in ``attr_txt``."""
    marked = _attributes_by_sequence(path / "attr_txt")
    sequences = []
    for truth, own in truths(path, ("visible.txt",), "RGBT234"):
        if not own:
            raise InputError(f"found {truth}, expected <sequence>/visible.txt and infrared.txt in {path}")
        infrared = boxes_of(_second(truth, "infrared.txt"), one_based=True)
        attributes = marked.get(truth.parent.name, ())
        sequences.append(_pair(truth, boxes_of(truth, one_based=True), infrared, ("visible", "infrared"), attributes))
    return sequences


def _attributes_by_sequence(folder: Path) -> dict[str, tuple[str, ...]]:
    """From one file per attribute, ``BC.txt``, with one flag per line of ``SequencesName.txt``; empty without that."""
    listed = folder / "SequencesName.txt"
    if not listed.is_file():
        return {}
    names = listed.read_text(encoding="utf-8").split()
    flags = {file.stem: read_flags(file, len(names)) for file in sorted(folder.glob("*.txt")) if file != listed}
    return {name: tuple(key for key, values in flags.items() if values[at]) for at, name in enumerate(names)}


def read_lasher(path: Path) -> list[Sequence]:
    """``<sequence>/init.txt`` or ``visible.txt`` (the cameras are aligned), images in ``visible`` and ``infrared``."""
    sequences = []
    for truth, own in truths(path, ("init.txt", "visible.txt"), "LasHeR"):
        name = truth.parent.name if own else truth.stem
        attributes = marked_attributes((path / "AttriSeqsTxt" / f"{name}.txt",), LASHER_ATTRIBUTES)
        boxes = boxes_of(truth, one_based=True)
        if own:
            sequences.append(_pair(truth, boxes, None, ("visible", "infrared"), attributes))
        else:
            sequences.append(Sequence(name=name, truth_file=truth, truth_ltwh=boxes, attributes=attributes))
    return sequences


def _second(truth: Path, name: str) -> Path:
    other = truth.with_name(name)
    if not other.is_file():
        raise InputError(f"found {truth} without {name} beside it, expected one annotation per camera")
    return other


def _pair(
    truth: Path, boxes: Float64Array, infrared: Float64Array | None, images: tuple[str, str], attributes: tuple[str, ...]
) -> Sequence:
    folder, frames = truth.parent, len(boxes)
    if infrared is not None and len(infrared) != frames:
        raise InputError(f"{truth} has {frames} lines and the infrared annotation beside it {len(infrared)}, expected as many")
    clips = [clip_of(folder, frames, inside=(name,)) if (folder / name).is_dir() else None for name in images]
    return Sequence(
        name=folder.name,
        truth_file=truth,
        truth_ltwh=boxes,
        infrared_ltwh=infrared,
        clip=clips[0],
        infrared=clips[1],
        attributes=attributes,
    )
