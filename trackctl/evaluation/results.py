"""Result files of one tracker: finding those of every sequence and reading boxes from them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from trackctl.evaluation.annotations import read_boxes
from trackctl.evaluation.sequence import ResultFormat, Sequence
from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Float64Array

# Repetitions are numbered from 001 (GOT-10k, VOT).
_REPETITION = re.compile(r"(.+)_(\d{3})")
# Toolkits write these beside the boxes: time per frame, confidence.
_OTHER_FILES = re.compile(r".*(_time|_times|_confidence|_object_presence_scores)")
_MISSING_SHOWN = 3


def find_results(folder: Path, names: Iterable[str]) -> dict[str, list[Path]]:
    """The result files of every sequence, its repetitions in order.

    A file belongs to a sequence when it is called ``<sequence>.txt`` or ``<sequence>_001.txt``, in whatever subfolder, or when
    the tracker's name precedes that (``ours_<sequence>.txt``). Case does not count, nor whether it has ``-``, ``_`` or ``.``.

    Raises:
        InputError: the folder is missing, a sequence has no result, or several that are no repetitions of each other.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}, expected one that holds <sequence>.txt for every sequence")
    files = sorted(path for path in folder.rglob("*.txt") if not _OTHER_FILES.fullmatch(path.stem) and path.name[0] != ".")
    single: dict[str, list[Path]] = {}
    repeated: dict[str, list[Path]] = {}
    for path in files:
        single.setdefault(_key(path.stem), []).append(path)
        if match := _REPETITION.fullmatch(path.stem):
            repeated.setdefault(_key(match[1]), []).append(path)
    found: dict[str, list[Path]] = {}
    missing = []
    for name in names:
        key = _key(name)
        paths = single.get(key) or repeated.get(key) or _with_prefix(key, single)
        if not paths:
            missing.append(name)
            continue
        if len(paths) > 1 and (len({path.parent for path in paths}) > 1 or len({path.stem for path in paths}) < len(paths)):
            raise InputError(
                f"{folder} has several results for {name!r}: {paths[0]} and {paths[1]}: give the folder of one tracker"
            )
        found[name] = paths
    if missing:
        shown = ", ".join(missing[:_MISSING_SHOWN]) + (", ..." if len(missing) > _MISSING_SHOWN else "")
        count = len(missing) + len(found)
        raise InputError(
            f"{folder} has no result for {len(missing)} of {count} sequences ({shown}), "
            f"expected {missing[0]}.txt or {missing[0]}_001.txt"
        )
    return found


def _key(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


def _with_prefix(key: str, files: dict[str, list[Path]]) -> list[Path]:
    found = [paths for stem, paths in files.items() if stem.endswith(f"_{key}")]
    return found[0] if len(found) == 1 else []


def read_result(path: Path, sequence: Sequence, written: ResultFormat) -> Float64Array:
    """The boxes of a result file in trackctl's convention, (N, 4), one per annotated frame.

    Raises:
        InputError: naming the file and the line that is malformed, not finite, missing or too much.
    """
    boxes = read_boxes(path)
    if len(boxes) != len(sequence):
        line = min(len(boxes), len(sequence)) + 1
        what = "shorter" if len(boxes) < len(sequence) else "longer"
        raise InputError(
            f"{path} line {line}: the result is {what} than the annotation: got {len(boxes)} boxes, "
            f"expected {len(sequence)} as in {sequence.truth_file}"
        )
    return boxes - np.array([1.0, 1.0, 0.0, 0.0]) if written.one_based else boxes
