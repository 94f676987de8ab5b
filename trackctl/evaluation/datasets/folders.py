"""Finding sequences and their files in a folder, for the readers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from trackctl.evaluation.annotations import Rows, has_area, read_boxes, upright
from trackctl.evaluation.sequence import VIDEO_SUFFIXES, Clip, Flags
from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Float64Array
from trackctl.runtime.sources.images import list_images

# Where data sets and toolkits put annotations that lie apart from the images.
_TRUTH_FOLDERS = ("groundtruth", "GT", "gt", "anno", "annos", "annotations", "groundtruths")


def find_truths(path: Path, names: tuple[str, ...], depth: int = 3) -> list[Path]:
    """The annotation files called one of ``names`` in ``path`` or up to ``depth`` folders below it, sorted.

    In each folder the first name that is there counts, and folders below such a one are not searched.
    """
    for name in names:
        if (path / name).is_file():
            return [path / name]
    if depth == 0:
        return []
    children = sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    return [truth for child in children for truth in find_truths(child, names, depth - 1)]


def loose_truths(path: Path) -> list[Path]:
    """Annotations without images: the ``<sequence>.txt`` of the folder itself or of its folder of annotations."""
    for folder in (path, *(path / name for name in _TRUTH_FOLDERS)):
        if folder.is_dir() and (files := sorted(file for file in folder.glob("*.txt") if file.is_file())):
            return [file for file in files if file.name != "list.txt"]
    return []


def truths(path: Path, names: tuple[str, ...], kind: str) -> Iterator[tuple[Path, bool]]:
    """Each annotation file and whether it lies in a folder of its own sequence (else it is named after it).

    Raises:
        InputError: there is none.
    """
    found = find_truths(path, names)
    loose = [] if found else loose_truths(path)
    if not found and not loose:
        raise InputError(
            f"found no {kind} annotation in {path}, expected {' or '.join(names)} in one folder per sequence, or <sequence>.txt: "
            "check the kind and the path"
        )
    yield from ((file, True) for file in found)
    yield from ((file, False) for file in loose)


def boxes_of(path: Path, *, one_based: bool = False, absent_ok: bool = False) -> Float64Array:
    """The annotated boxes of a file in trackctl's convention; NaN where they have no area, if the target may be absent.

    Raises:
        InputError: the file is malformed, or the first box is none to start from.
    """
    boxes = read_boxes(path, absent_ok=absent_ok)
    if one_based:
        boxes = boxes - [1.0, 1.0, 0.0, 0.0]
    return with_absence(path, boxes)


def corner_boxes_of(path: Path, *, one_based: bool = False) -> Float64Array:
    """The boxes of a file that has two opposite corners x1, y1, x2, y2 per line, in any order (GTOT)."""
    table = Rows.read(path).table((4,), "two corners x1, y1, x2, y2")
    return with_absence(path, upright(table.reshape(-1, 2, 2)) - ([1.0, 1.0, 0.0, 0.0] if one_based else 0.0))


def with_absence(path: Path, boxes_ltwh: Float64Array) -> Float64Array:
    """The boxes with NaN for those without area.

    Raises:
        InputError: the first one has none.
    """
    absent = ~has_area(boxes_ltwh)
    if absent[0]:
        raise InputError(f"{path} line 1: got {boxes_ltwh[0].tolist()}, expected a box with area for the tracker to start from")
    return np.where(absent[:, None], np.nan, boxes_ltwh)


def clip_of(
    folder: Path, frames: int, *, inside: tuple[str, ...] = (), spare_ok: bool = False, first: int | None = None
) -> Clip | None:
    """The frames of a sequence's folder: the first of its folders ``inside`` that is there, its own images, or its only video."""
    for name in inside:
        if (folder / name).is_dir():
            return Clip(paths=(folder / name,), frames=frames, spare_ok=spare_ok, first=first)
    if list_images(folder):
        return Clip(paths=(folder,), frames=frames, spare_ok=spare_ok, first=first)
    videos = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
    return Clip(paths=(videos[0],), frames=frames) if len(videos) == 1 else None


def marked_attributes(files: tuple[Path, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """The attributes whose number is not 0 in the first of ``files`` that exists; none if there is no such file.

    Raises:
        InputError: the file has another number of attributes.
    """
    for path in files:
        if path.is_file():
            values = Rows.read(path).values
            if len(values) != len(names):
                raise InputError(f"{path} has {len(values)} attributes, expected {len(names)}: {', '.join(names)}")
            return tuple(name for name, value in zip(names, values, strict=True) if value)
    return ()


def tags_of(folder: Path, frames: int, read: Callable[[Path, int], Float64Array]) -> dict[str, Flags]:
    """The tags of frames that VOT keeps in ``<tag>.tag`` (since 2015) or ``<tag>.label`` beside the annotation."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".tag", ".label"))
    return {path.stem: read(path, frames) > 0.0 for path in files}
