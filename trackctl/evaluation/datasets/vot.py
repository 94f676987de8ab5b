"""The VOT challenges: polygons, tags of frames and, since VOT2020, anchors."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trackctl.evaluation.annotations import Rows, corners_of, read_flags, require_finite, upright
from trackctl.evaluation.datasets.folders import clip_of, tags_of
from trackctl.evaluation.sequence import Clip, Sequence
from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Float64Array

_TRUTH = "groundtruth.txt"


def read_vot(path: Path) -> list[Sequence]:
    """``list.txt``, ``<sequence>/groundtruth.txt``, its images (in ``color`` since 2018) and ``<tag>.tag`` or ``.label``."""
    return [_sequence(folder, ("color",)) for folder in _folders(path)]


def read_vot_rgbt(path: Path) -> list[Sequence]:
    """As :func:`read_vot`, with ``color`` and ``ir`` images and ``anchor.value``."""
    sequences = []
    for folder in _folders(path):
        visible = _sequence(folder, ("color",))
        infrared = clip_of(folder, len(visible), inside=("ir",)) if (folder / "ir").is_dir() else None
        values = read_flags(folder / "anchor.value", len(visible)) if (folder / "anchor.value").is_file() else None
        anchors = None if values is None else np.sign(values).astype(np.int8)
        sequences.append(
            Sequence(
                name=visible.name,
                truth_file=visible.truth_file,
                truth_ltwh=visible.truth_ltwh,
                corners_xy=visible.corners_xy,
                clip=visible.clip,
                infrared=infrared,
                tags=visible.tags,
                anchors=anchors,
            )
        )
    return sequences


def _folders(path: Path) -> list[Path]:
    if (path / _TRUTH).is_file():
        return [path]
    listed = path / "list.txt"
    if listed.is_file():
        names = [line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()]
        for number, name in enumerate(names, start=1):
            if not (path / name / _TRUTH).is_file():
                raise InputError(
                    f"{listed} line {number}: there is no {path / name / _TRUTH}: the copy of the data set is incomplete"
                )
        return [path / name for name in names]
    found = sorted(file.parent for file in path.glob(f"*/{_TRUTH}"))
    if not found:
        raise InputError(
            f"found no VOT annotation in {path}, expected list.txt or <sequence>/{_TRUTH}: check the kind and the path"
        )
    return found


def _sequence(folder: Path, images: tuple[str, ...]) -> Sequence:
    truth = folder / _TRUTH
    boxes, corners = read_regions(truth)
    frames = len(boxes)
    clip: Clip | None = clip_of(folder, frames, inside=images)
    return Sequence(
        name=folder.name,
        truth_file=truth,
        truth_ltwh=boxes,
        corners_xy=corners,
        clip=clip,
        tags=tags_of(folder, frames, read_flags),
    )


def read_regions(path: Path) -> tuple[Float64Array, Float64Array | None]:
    """The annotation as upright boxes (N, 4) and, where lines have corners, as polygons (N, V, 2).

    NaN on a line says that the target is absent.

    Raises:
        InputError: the file is malformed, or has masks (VOT2020 short-term), which trackctl does not score.
    """
    if path.read_bytes()[:1] == b"m":
        raise InputError(
            f"{path} line 1: got a mask, expected boxes or polygons: the mask challenges need the official vot-toolkit"
        )
    rows = Rows.read(path)
    counts = set(rows.counts.tolist())
    if counts == {4}:
        boxes = rows.table((4,), "x, y, width, height")
        require_finite(path, boxes, nan_ok=True)
        return boxes, None
    if not counts <= {4, 8}:
        line = int(np.flatnonzero(~np.isin(rows.counts, (4, 8)))[0])
        raise InputError(f"{path} line {line + 1}: got {rows.counts[line]} numbers, expected 4 of a box or 8 of four corners")
    corners = ragged_corners(rows)
    require_finite(path, corners.reshape(len(corners), -1), nan_ok=True)
    return upright(corners), corners


def ragged_corners(rows: Rows) -> Float64Array:
    """Four corners (N, 4, 2) from lines of a box or of four corners."""
    starts = np.cumsum(rows.counts) - rows.counts
    corners = np.empty((len(rows.counts), 4, 2))
    for count in (4, 8):
        at = np.flatnonzero(rows.counts == count)
        table = rows.values[starts[at][:, None] + np.arange(count)]
        corners[at] = corners_of(table) if count == 4 else table.reshape(-1, 4, 2)
    return corners
