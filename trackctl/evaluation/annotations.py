"""Text files of numbers: ground truths, results, labels. Every complaint names the file and the line."""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.errors import InputError
from trackctl.runtime.geometry import Float64Array

# Commas, semicolons, tabs and spaces separate numbers; OTB mixes them even within one file.
_SEPARATORS = bytes.maketrans(b",;\t\r", b"    ")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Rows:
    """The numbers of a text file, line by line.

    Attributes:
        path: the file.
        values: float64, all numbers in reading order.
        counts: how many numbers each line has, (lines,).
    """

    def __init__(self, path: Path, values: Float64Array, counts: NDArray[np.int64]) -> None:
        self.path = path
        self.values = values
        self.counts = counts

    @classmethod
    def read(cls, path: Path) -> Rows:
        """The numbers of ``path``; blank lines at the end do not count.

        Raises:
            InputError: the file cannot be read, is empty, has a blank line inside or something that is no number.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        data = data.removeprefix(_BYTE_ORDER_MARK).translate(_SEPARATORS).rstrip()
        if not data:
            raise InputError(f"{path} is empty, expected one line of numbers per frame")
        lines = [line.split() for line in data.split(b"\n")]
        counts = np.fromiter(map(len, lines), dtype=np.int64, count=len(lines))
        try:
            if b"_" in data:  # float() takes 1_000 for a number
                raise ValueError
            values = np.fromiter(map(float, chain.from_iterable(lines)), dtype=np.float64, count=int(counts.sum()))
        except ValueError:
            raise InputError(_first_bad_token(path, lines)) from None
        if (blank := np.flatnonzero(counts == 0)).size:
            raise InputError(f"{path} line {blank[0] + 1} is blank, expected numbers: remove it or restore its numbers")
        return cls(path, values, counts)

    def table(self, columns: tuple[int, ...], what: str) -> Float64Array:
        """The numbers as (lines, columns), when every line has the same number of them.

        Args:
            columns: the widths that are allowed.
            what: what a line should be, for the message.

        Raises:
            InputError: naming the first line that differs.
        """
        width = int(self.counts[0])
        wrong = np.flatnonzero(self.counts != (width if width in columns else -1))
        if wrong.size:
            expected = " or ".join(str(count) for count in columns)
            raise InputError(
                f"{self.path} line {wrong[0] + 1}: got {self.counts[wrong[0]]} numbers, expected {expected} ({what}), "
                "the same on every line"
            )
        return self.values.reshape(-1, width)


def _first_bad_token(path: Path, lines: list[list[bytes]]) -> str:
    for number, tokens in enumerate(lines, start=1):
        for token in tokens:
            if not _is_number(token):
                return f"{path} line {number}: got {token.decode(errors='replace')!r}, expected a number"
    return f"{path}: cannot be read as numbers"


def _is_number(token: bytes) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return b"_" not in token


def has_area(boxes_ltwh: Float64Array) -> NDArray[np.bool_]:
    """Which boxes (N, 4) are finite and have a positive width and height, (N,)."""
    least = np.array([-np.inf, -np.inf, 0.0, 0.0])
    usable: NDArray[np.bool_] = np.logical_and.reduce((boxes_ltwh > least) & np.isfinite(boxes_ltwh), axis=1)
    return usable


def read_boxes(path: Path, *, absent_ok: bool = False) -> Float64Array:
    """The boxes of a file as (N, 4) left, top, width, height in the file's own convention.

    Lines of 8 numbers are the corners of a quadrilateral and become the upright box around it (OTB's converter of polygons).

    Args:
        path: one box per line, 4 or 8 numbers.
        absent_ok: a box may be NaN, which says that the target is not there.

    Raises:
        InputError: the file is empty, malformed or holds what is no finite number.
    """
    table = Rows.read(path).table((4, 8), "x, y, width, height or four corners")
    require_finite(path, table, nan_ok=absent_ok)
    return table if table.shape[1] == 4 else upright(table.reshape(-1, 4, 2))


def require_finite(path: Path, table: Float64Array, *, nan_ok: bool = False) -> None:
    """Return if all numbers are finite (or NaN, with ``nan_ok``).

    Raises:
        InputError: naming the first line that has another.
    """
    bad = ~np.isfinite(table)
    if nan_ok:
        bad &= ~np.isnan(table)
    if bad.any():
        line = int(np.flatnonzero(bad.any(axis=1))[0])
        raise InputError(
            f"{path} line {line + 1}: got {table[line].tolist()}, expected finite numbers: "
            "a frame without an answer needs the last box or 0,0,0,0"
        )


def upright(corners_xy: Float64Array) -> Float64Array:
    """The upright boxes around polygons: (N, V, 2) corners to (N, 4) left, top, width, height."""
    low, high = corners_xy.min(axis=1), corners_xy.max(axis=1)
    return np.concatenate([low, high - low], axis=1)


def corners_of(boxes_ltwh: Float64Array) -> Float64Array:
    """The corners of boxes, clockwise from the top left: (N, 4) to (N, 4, 2)."""
    left, top = boxes_ltwh[:, 0], boxes_ltwh[:, 1]
    right, bottom = left + boxes_ltwh[:, 2], top + boxes_ltwh[:, 3]
    return np.stack([left, top, right, top, right, bottom, left, bottom], axis=1).reshape(-1, 4, 2)


def read_flags(path: Path, frames: int) -> NDArray[np.float64]:
    """One number per frame, from one line (LaSOT) or one line each (VOT, GOT-10k).

    A tag file of VOT may end before the sequence does: the missing frames are 0, as in the VOT toolkit.

    Raises:
        InputError: there are more numbers than frames, or something is no number.
    """
    values = Rows.read(path).values
    if len(values) > frames:
        raise InputError(f"{path} has {len(values)} values, expected {frames}, one per frame")
    return np.pad(values, (0, frames - len(values)))


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that it is either whole or not there, whatever kills the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)
