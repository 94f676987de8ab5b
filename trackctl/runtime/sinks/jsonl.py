"""Results as JSON lines, one object per frame and target."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from trackctl.runtime.errors import InputError
from trackctl.runtime.frame import Frame
from trackctl.runtime.sinks import Sink
from trackctl.runtime.tracker import Result


class JsonLinesSink(Sink):
    """One line per frame; a killed process leaves whole lines, because each goes to the system in one write.

    ``{"frame": index, "t_ns": int, "box": [left, top, width, height], "score": 0..1, "status": str, "quality": {name: number},
    "ms": {stage: milliseconds}}``, and ``"missing": ["thermal"]`` where a camera of a pair is. Numbers that are not finite become
    null. Of several targets each has a line of its own, with its number as ``"target"`` after ``"frame"``.

    Args:
        path: the file; what it held is replaced.

    Raises:
        InputError: it cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        try:
            self._file = self._path.open("wb", buffering=0)
        except OSError as error:
            raise self._refused(error) from error

    def write(self, frame: Frame, result: Result) -> None:
        """Append one line."""
        self._append({"frame": frame.index}, frame, result)

    def write_targets(self, frame: Frame, results: Mapping[int, Result]) -> None:
        """Append a line per target."""
        for target, result in results.items():
            self._append({"frame": frame.index, "target": target}, frame, result)

    def _append(self, which: Mapping[str, int], frame: Frame, result: Result) -> None:
        record: dict[str, object] = {
            **which,
            "t_ns": frame.timestamp_ns,
            "box": [_rounded(value, 3) for value in result.box],
            "score": _rounded(result.score, 6),
            "status": result.status.value,
            "quality": {name: _rounded(value, 6) for name, value in result.quality.items()},
            "ms": {stage: _rounded(duration_ns / 1e6, 4) for stage, duration_ns in result.stages_ns.items()},
        }
        if frame.missing:
            record["missing"] = list(frame.missing)
        line = json.dumps(record, separators=(", ", ": "), allow_nan=False).encode() + b"\n"
        try:
            if (written := self._file.write(line)) < len(line):
                # A full disk takes part of a line: take that part back.
                self._file.truncate(self._file.tell() - written)
                raise InputError(f"cannot write {self._path}: the disk is full: free some space and start again")
        except OSError as error:
            raise self._refused(error) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _refused(self, error: OSError) -> InputError:
        return InputError(f"cannot write {self._path}: {error.strerror}: give a path in a folder that exists and can be written")


def _rounded(value: float, digits: int) -> float | None:
    return round(float(value), digits) if math.isfinite(value) else None
