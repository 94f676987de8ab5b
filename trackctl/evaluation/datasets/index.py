"""Data sets that come as one json file: sequence -> image names, boxes, attributes (the form that pysot's users exchange)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from trackctl.evaluation.annotations import corners_of, upright
from trackctl.evaluation.datasets.folders import with_absence
from trackctl.evaluation.sequence import Clip, Flags, Sequence
from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Float64Array

# Keys of a sequence that are no tag of its frames.
_OTHER_KEYS = ("video_dir", "init_rect", "img_names", "gt_rect", "attr", "absent", "width", "height")


# The file and what it says of each sequence.
Index = tuple[Path, dict[str, Any]]


def find_index(path: Path) -> Index | None:
    """The contents of ``path``, or of the only json file in it, when it is such an index.

    Raises:
        InputError: ``path`` is a json file of another form.
    """
    named = path.is_file() and path.suffix.lower() == ".json"
    files = [path] if named else sorted(path.glob("*.json")) if path.is_dir() else []
    if len(files) != 1:
        return None
    try:
        data = json.loads(files[0].read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if named:
            raise InputError(f"cannot read {path}: {error}") from error
        return None
    if isinstance(data, dict) and data and all(isinstance(entry, dict) and "gt_rect" in entry for entry in data.values()):
        return files[0], data
    if named:
        raise InputError(f"{path} is no index of a data set, expected an object: sequence -> img_names, gt_rect")
    return None


def read_index(index: Index, *, one_based: bool, polygons: bool) -> list[Sequence]:
    """The sequences of an index.

    Args:
        index: what :func:`find_index` found; images are looked for beside it.
        one_based: the boxes count pixels from 1.
        polygons: keep the corners (VOT), not only the boxes around them.

    Raises:
        InputError: naming the file and the sequence that is malformed.
    """
    path, entries = index
    return [_checked(path, name, entry, one_based, polygons) for name, entry in entries.items()]


def _checked(path: Path, name: str, entry: dict[str, Any], one_based: bool, polygons: bool) -> Sequence:
    try:
        return _sequence(path, name, entry, one_based, polygons)
    except InputError:
        raise
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(f"{path}: the sequence {name!r} is malformed, expected img_names and gt_rect: {error}") from error


def _sequence(path: Path, name: str, entry: dict[str, Any], one_based: bool, polygons: bool) -> Sequence:
    rects = entry["gt_rect"]
    corners = np.stack([_corners(rect) for rect in rects])
    if one_based:
        corners = corners - 1.0
    boxes = upright(corners)
    for frame in np.flatnonzero(np.asarray(entry.get("absent", [1] * len(rects))) == 0):
        boxes[frame] = np.nan
    frames = len(rects)
    images = tuple(path.parent / image for image in entry.get("img_names", ()))
    if images and len(images) != frames:
        raise InputError(f"{path}: {name!r} has {len(images)} images and {frames} boxes, expected as many")
    tags: dict[str, Flags] = {
        key: np.asarray(value) > 0
        for key, value in entry.items()
        if key not in _OTHER_KEYS and isinstance(value, list) and len(value) == frames
    }
    return Sequence(
        name=name,
        truth_file=path,
        truth_ltwh=with_absence(path, boxes),
        corners_xy=corners if polygons else None,
        frame_hw=(int(entry["height"]), int(entry["width"])) if "width" in entry and "height" in entry else None,
        clip=Clip(paths=images, frames=frames) if images and images[0].exists() else None,
        attributes=tuple(str(attribute) for attribute in entry.get("attr") or ()),
        tags=tags,
    )


def _corners(rect: list[float]) -> Float64Array:
    """Four corners (4, 2) of a box or of four corners; NaN for an empty list."""
    if len(rect) == 4:
        return corners_of(np.array([rect], dtype=np.float64)).reshape(4, 2)
    if len(rect) == 8:
        return np.array(rect, dtype=np.float64).reshape(4, 2)
    return np.full((4, 2), np.nan)
