"""Pairs of pictures from recordings or cameras, fused one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from trackctl.runtime.errors import InputError, SourceError
from trackctl.runtime.frame import Frame
from trackctl.runtime.fusion import Fuser
from trackctl.runtime.pairing import THERMAL, VISIBLE
from trackctl.runtime.sources import Source
from trackctl.runtime.sources.newest import Newest

Uint8Array = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class FusionSummary:
    """What a run came to.

    Attributes:
        frames: pairs taken.
        missing: how many of them lacked each camera; those show the other one alone.
        fps: pairs per second of wall clock, reading and writing included.
        fuse_ms: median time of one pair, ms.
    """

    frames: int
    missing: Mapping[str, int]
    fps: float
    fuse_ms: float


def fuse_pairs(
    pairs: Source, fuser: Fuser, take: Callable[[Uint8Array], object], *, max_frames: int | None = None
) -> FusionSummary:
    """The summary of fusing the pairs of a source; of live cameras each fusion gets the newest pair.

    Args:
        pairs: frames (H, W, 4), see :class:`trackctl.runtime.sources.pair.PairSource`.
        fuser: fuses a pair.
        take: given every fused picture, (H, W, 3) BGR uint8.
        max_frames: end after this many pairs.

    Raises:
        InputError: ``max_frames`` is below 1.
        SourceError: there was no pair.
        TrackctlError: whatever the source, the fuser or ``take`` raise.
    """
    if max_frames is not None and max_frames < 1:
        raise InputError(f"got max_frames {max_frames}, expected 1 or more")
    times_ns: list[int] = []
    missing: Counter[str] = Counter()
    began_ns = perf_counter_ns()
    with ExitStack() as stack:
        frames = stack.enter_context(Newest(pairs)) if pairs.live else pairs
        for frame in frames:
            started_ns = perf_counter_ns()
            shown = fuse_pair(frame, fuser)
            times_ns.append(perf_counter_ns() - started_ns)
            missing.update(frame.missing)
            take(shown)
            if len(times_ns) == max_frames:
                break
    if not times_ns:
        raise SourceError(f"{pairs.name} gave no pair at all: check the sources")
    seconds = (perf_counter_ns() - began_ns) / 1e9
    return FusionSummary(
        frames=len(times_ns), missing=dict(missing), fps=len(times_ns) / seconds, fuse_ms=float(np.median(times_ns)) / 1e6
    )


def fuse_pair(frame: Frame, fuser: Fuser) -> Uint8Array:
    """The fused picture (H, W, 3) BGR of a pair (H, W, 4); without one of its cameras, the other's picture."""
    pixels: Uint8Array = frame.pixels.view(np.uint8)
    colour, heat = np.ascontiguousarray(pixels[:, :, :3]), np.ascontiguousarray(pixels[:, :, 3])
    if THERMAL in frame.missing:
        return colour
    if VISIBLE in frame.missing:
        return np.repeat(heat[:, :, None], 3, axis=2)
    return fuser.fuse(heat, colour)
