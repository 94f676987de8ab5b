"""HOT (hyperspectral mosaics), Anti-UAV, and any folder or video with a text file of boxes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from trackctl.evaluation.datasets.folders import boxes_of, clip_of, truths, with_absence
from trackctl.evaluation.sequence import VIDEO_SUFFIXES, Clip, Sequence
from trackctl.runtime.errors import InputError
from trackctl.runtime.sensor import KNOWN, Sensor, read_sensor
from trackctl.runtime.sources.bands import SENSOR_FILE

# The mosaic comes before its false-colour rendering, which carries the same annotation.
_HOT_FOLDERS = {"HSI": "vis16", "HSI-VIS": "vis16", "HSI-NIR": "nir25", "HSI-RedNIR": "rednir15"}
_ANTIUAV_LABELS = ("infrared.json", "IR_label.json")


def read_hot(path: Path) -> list[Sequence]:
    """``<sequence>[/HSI]/groundtruth_rect.txt`` beside the mosaics, or annotations alone as ``<sequence>_gt.txt``.

    The folder's name tells the sensor, unless ``sensor.toml`` in it, beside it or in ``path`` describes another; images in a
    folder of another name without description are ordinary pictures.
    """
    sequences = []
    for truth, own in truths(path, ("groundtruth_rect.txt", *(f"{name}/groundtruth_rect.txt" for name in _HOT_FOLDERS)), "HOT"):
        boxes = boxes_of(truth)
        if own:
            folder = truth.parent
            name = folder.parent.name if folder.name in _HOT_FOLDERS else folder.name
            clip = clip_of(folder, len(boxes), inside=("img",))
            if clip is not None:
                clip = replace(clip, sensor=_sensor_of(folder, path))
        else:
            name, clip = truth.stem.removesuffix("_gt"), None
        sequences.append(Sequence(name=name, truth_file=truth, truth_ltwh=boxes, clip=clip))
    return sequences


def _sensor_of(folder: Path, root: Path) -> Sensor | None:
    described = next((place / SENSOR_FILE for place in (folder, folder.parent, root) if (place / SENSOR_FILE).is_file()), None)
    if described is not None:
        return read_sensor(str(described))
    return KNOWN[_HOT_FOLDERS[folder.name]] if folder.name in _HOT_FOLDERS else None


def read_antiuav(path: Path) -> list[Sequence]:
    """``<sequence>/`` with a video or images and ``groundtruth.txt``, ``infrared.json`` or ``IR_label.json``.

    Annotations alone may be called ``new_<sequence>.txt``, as the published ones are.
    """
    sequences = []
    for truth, own in truths(path, ("groundtruth.txt", *_ANTIUAV_LABELS), "Anti-UAV"):
        boxes = _label_boxes(truth) if truth.suffix == ".json" else boxes_of(truth)
        name = truth.parent.name if own else truth.stem.removeprefix("new_")
        clip = None
        if own:
            infrared = truth.with_name("infrared.mp4")
            clip = Clip(paths=(infrared,), frames=len(boxes)) if infrared.is_file() else clip_of(truth.parent, len(boxes))
        sequences.append(Sequence(name=name, truth_file=truth, truth_ltwh=boxes, clip=clip))
    return sequences


def _label_boxes(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The boxes of a label file: ``exist`` per frame, and ``gt_rect``, which is empty or zero where the target is not there."""
    try:
        label = json.loads(path.read_text(encoding="utf-8"))
        rects = [
            rect if shown and len(rect) == 4 else [np.nan] * 4
            for shown, rect in zip(label["exist"], label["gt_rect"], strict=True)
        ]
        boxes = np.array(rects, dtype=np.float64).reshape(-1, 4)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"cannot read {path}: expected json with exist and gt_rect, one entry per frame ({error})") from error
    if not len(boxes):
        raise InputError(f"{path} has no frames")
    return with_absence(path, boxes)


def read_folder(path: Path) -> list[Sequence]:
    """A video or a folder of images with boxes in ``groundtruth*.txt`` or a text file of its own name; or a folder of such."""
    if path.is_file():
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            raise InputError(
                f"got {path}, expected a folder of images or a video ({', '.join(VIDEO_SUFFIXES)}) with a text file of boxes"
            )
        truth = next((file for file in (path.with_suffix(".txt"), path.with_name("groundtruth.txt")) if file.is_file()), None)
        if truth is None:
            raise InputError(f"found no boxes for {path}, expected {path.with_suffix('.txt').name} or groundtruth.txt beside it")
        boxes = boxes_of(truth, absent_ok=True)
        return [Sequence(name=path.stem, truth_file=truth, truth_ltwh=boxes, clip=Clip(paths=(path,), frames=len(boxes)))]
    sequences = []
    for truth, own in truths(path, ("groundtruth.txt", "groundtruth_rect.txt", "boxes.txt"), "folder"):
        boxes = boxes_of(truth, absent_ok=True)
        clip = clip_of(truth.parent, len(boxes), inside=("img",)) if own else _beside(truth, len(boxes))
        name = truth.parent.resolve().name if own else truth.stem
        sequences.append(Sequence(name=name, truth_file=truth, truth_ltwh=boxes, clip=clip))
    return sequences


def _beside(truth: Path, frames: int) -> Clip | None:
    """The folder or video that has the text file's name."""
    for candidate in (truth.with_suffix(""), *(truth.with_suffix(suffix) for suffix in VIDEO_SUFFIXES)):
        if candidate.exists():
            return Clip(paths=(candidate,), frames=frames)
    return None
