"""A recording with its target: what a tracker can be calibrated and judged on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePath

from trackctl.runtime.errors import InputError
from trackctl.runtime.frame import Frame
from trackctl.runtime.geometry import Box, Float64Array
from trackctl.runtime.sources import Source


@dataclass(frozen=True, kw_only=True)
class Footage:
    """A recording with its target.

    Attributes:
        source: a recording that can be played again.
        box: the target in the first frame.
        truth_ltwh: (N, 4) boxes of the first N frames, NaN where the target is absent; None if nobody annotated them.
        frames: most frames to play; None for all.

    Raises:
        InputError: the source is live, or endless without a limit.
    """

    source: Source
    box: Box
    truth_ltwh: Float64Array | None = None
    frames: int | None = None

    def __post_init__(self) -> None:
        if self.source.live or (self.frames is None and self.source.count is None):
            raise InputError(f"got the source {self.source.name}, which never ends or plays only once: give a recording")

    @property
    def name(self) -> str:
        """What the recording is called wherever it lies: its file or folder, without the ``img`` of OTB."""
        parts = [part for part in PurePath(self.source.name).parts if part != "img"]
        return parts[-1] if parts else self.source.name

    def __iter__(self) -> Iterator[Frame]:
        """The frames from the first."""
        return islice(iter(self.source), self.frames)
